"""Time the code of the CSP authors (arXiv 2604.22477, github.com/oussamabouanani/neurolens) on arrays.

Runs in the interpreter that has the checkout's packages, in a process of its own, and knows nothing of csp_index:

    PYTHON peer_csp.py CHECKOUT                       checks that what is called here is there
    PYTHON peer_csp.py CHECKOUT ARRAYS WORK JSON      times it, and prints JSON

Arrays stand in for the models: a target model and an image-text model of their classes return rows of them, and their
own functions store these rows, find the activating and contrastive images, and score the texts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from peer_names import Names, names_of

NEEDED = {
    "neurolens": ["load_config"],
    "neurolens.utils.path_utils": ["PathConfigs"],
    "neurolens.target_model": ["TargetModel", "load_activations"],
    "neurolens.target_model.neuron_data": ["precompute_neuron_data", "load_batched_neuron_data"],
    "neurolens.img_text_model": ["ImageTextModel", "load_img_embds", "load_text_embds_avg_templates"],
    "neurolens.dataset.image": ["ImageDataset"],
    "neurolens.dataset.text": ["TextDataset"],
    "neurolens.score_function": ["ContrastiveProjectionScoreFunction"],
}
_TOP = 5


def models_of(names: Names, arrays: Path) -> tuple[Any, Any, Any, Any]:
    """Return their models and data sets over arrays: target model, image-text model, images, texts."""
    import numpy as np
    import torch

    embeddings, activations = (np.load(arrays / f"{name}.npy", mmap_mode="r") for name in "EA")
    texts = (arrays / "T.txt").read_text().splitlines()
    vectors = torch.nn.functional.normalize(torch.from_numpy(np.load(arrays / "T.npy")), dim=1)
    row_of = {text: row for row, text in enumerate(texts)}

    class Images(names.ImageDataset):  # an image is its number
        def __len__(self) -> int:
            return len(embeddings)

        def __getitem__(self, number: int) -> int:
            return number

        def get_mean(self) -> tuple[float, float, float]:
            return 0.0, 0.0, 0.0

        def get_std(self) -> tuple[float, float, float]:
            return 1.0, 1.0, 1.0

    class Target(names.TargetModel):
        def get_total_neuron_count(self) -> int:
            return int(activations.shape[1])

        def get_activations(self, images: Any) -> torch.Tensor:
            return torch.from_numpy(activations[images].astype(np.float32))

        def get_img_processor(self) -> Any:
            raise NotImplementedError

        def _get_activations(self, img_features: Any) -> Any:
            raise NotImplementedError

    class Encoder(names.ImageTextModel):
        def get_embd_dim(self) -> int:
            return int(embeddings.shape[1])

        def get_img_embds(self, images: Any) -> torch.Tensor:
            return torch.from_numpy(embeddings[images])

        def get_text_embds(self, text: list[str]) -> torch.Tensor:
            return vectors[[row_of[one] for one in text]]

    return Target("made", "cpu"), Encoder("made", "cpu"), Images("made"), names.TextDataset("made", texts)


def measure(names: Names, arrays: Path, work: Path, sizes: list[int], kept: int, scored: int) -> dict[str, object]:
    """Return seconds and CPU seconds for layers of `sizes` neurons, and the first label of each neuron of the last.

    The first `scored` of the `kept` activating images of a neuron decide. What is timed begins where activations and
    embeddings are stored in their format.
    """
    target, encoder, images, texts = models_of(names, arrays)
    every = target.get_total_neuron_count()
    runs, labels = [], {}
    for size in sizes:
        neurons = [place * every // size for place in range(size)]
        config = names.load_config(
            {
                "io": {"root_data_dir_path": str(work)},
                "dataset": {"templates": ["{}"]},
                "neuron_data": {
                    "topk_neurons": size,
                    "required_sample_count": kept,
                    "mean_top_count": kept,
                    "ignore_overly_active_neurons": False,
                },
                "evaluation": {"topk_text": min(_TOP, len(texts)), "sample_count": scored},
            }
        )
        paths = names.PathConfigs(config)
        common = {"config": config, "path_configs": paths}
        layer = {**common, "target_model": target, "img_text_model": encoder, "img_dataset": images}
        names.load_activations(**common, target_model=target, img_dataset=images, sample_indices=(0, 1))
        names.load_img_embds(**common, img_text_model=encoder, img_dataset=images, img_indices=(0, 1))
        names.load_text_embds_avg_templates(**common, img_text_model=encoder, text_dataset=texts)
        started, used = time.monotonic(), time.process_time()
        names.precompute_neuron_data(**layer, device="cpu", input_neurons=neurons)
        found = names.load_batched_neuron_data(**layer, device="cpu")
        score = names.ContrastiveProjectionScoreFunction(
            config=config, path_configs=paths, img_text_model=encoder, text_dataset=texts, gamma=1.0
        )
        _, places = score.compute_text_scores(found)
        runs.append([size, time.monotonic() - started, time.process_time() - used])
        first = [texts.texts[row[0]] for row in places.tolist()]
        labels = {int(neuron): first[place] for place, neuron in enumerate(found.neuron_indices)}
    return {"runs": runs, "labels": labels}


if __name__ == "__main__":
    checkout = Path(sys.argv[1])
    named = names_of("the CSP authors' code", checkout, [checkout / "src", checkout], NEEDED)
    if len(sys.argv) == 5:
        print(json.dumps(measure(named, Path(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))))
