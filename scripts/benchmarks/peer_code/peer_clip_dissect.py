"""Time the published code of CLIP-Dissect (arXiv 2204.10965, github.com/Trustworthy-ML-Lab/CLIP-dissect) on arrays.

Runs in the interpreter that has the checkout's packages, in a process of its own, and knows nothing of csp_index:

    PYTHON peer_clip_dissect.py CHECKOUT                       checks that what is called here is there
    PYTHON peer_clip_dissect.py CHECKOUT ARRAYS WORK JSON      times it, and prints JSON

Arrays stand in for the models: they are saved where the code looks for features of images, of texts and of the layer.
From there on all is theirs: loading, similarities of images and texts, softWPMI of a whole layer, the best text.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from peer_names import Names, names_of

NEEDED = {"utils": ["get_save_names", "get_similarity_from_activations"], "similarity": ["soft_wpmi"]}


def measure(names: Names, arrays: Path, work: Path, device: str) -> dict[str, object]:
    """Return seconds and CPU seconds of the whole layer, and the first label of each neuron."""
    import numpy as np
    import torch

    words = (arrays / "T.txt").read_text().splitlines()
    work.mkdir(parents=True, exist_ok=True)
    files = names.get_save_names(
        clip_name="made",
        target_name="made",
        target_layer="l",
        d_probe="made",
        concept_set="words.txt",
        pool_mode="avg",
        save_dir=str(work),
    )
    layer, images, texts = files
    for name, file in {"A": layer, "E": images, "T": texts}.items():
        if not Path(file).exists():
            torch.save(torch.from_numpy(np.load(arrays / f"{name}.npy").astype(np.float32)), file)
    started, used = time.monotonic(), time.process_time()
    similarities = names.get_similarity_from_activations(
        *files, names.soft_wpmi, return_target_feats=False, device=device
    )
    _, places = torch.max(similarities, dim=1)
    labels = {neuron: words[place] for neuron, place in enumerate(places.tolist())}
    run = [len(labels), time.monotonic() - started, time.process_time() - used]
    return {"runs": [run], "labels": labels}


if __name__ == "__main__":
    checkout = Path(sys.argv[1])
    named = names_of("CLIP-Dissect", checkout, [checkout], NEEDED)
    if len(sys.argv) == 5:
        print(json.dumps(measure(named, Path(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))))
