"""The comparison with the published code of others, on tiny stand-ins with the same interfaces, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
sys.path.insert(0, str(ROOT / "scripts" / "benchmarks" / "peer_code"))

import bench_data
import bench_machine
import peer_clip_dissect
import peer_csp
import peer_names
import peers
from bench_data import Shape
from bench_machine import Load, load

DISSECT = {
    "similarity.py": """
        import torch

        def soft_wpmi(clip_feats, target_feats, top_k=100, device="cuda"):
            shares = torch.softmax(10 * clip_feats, 1)[target_feats.topk(top_k, dim=0).indices]  # [K, M, C]
            inclusion = 0.998 - torch.arange(top_k) / top_k * (0.998 - 0.97)
            sums = torch.log(1 + inclusion[:, None, None] * (shares - 1) + 1e-7).sum(0)
            print("a line of its own")
            return sums - torch.logsumexp(sums, 0) + torch.log(torch.tensor(float(len(sums))))
    """,
    "utils.py": """
        import torch

        def get_save_names(clip_name, target_name, target_layer, d_probe, concept_set, pool_mode, save_dir):
            return tuple(f"{save_dir}/{name}.pt" for name in ("layer", "images", "texts"))

        def get_similarity_from_activations(target, clip, text, similarity_fn, return_target_feats=True, device="cuda"):
            images, texts = (torch.nn.functional.normalize(torch.load(file), dim=1) for file in (clip, text))
            return similarity_fn(images @ texts.T, torch.load(target), device=device)
    """,
}
NEUROLENS = {
    "__init__.py": """
        from types import SimpleNamespace

        def load_config(config):
            return SimpleNamespace(**config)
    """,
    "utils/path_utils.py": """
        class PathConfigs:
            def __init__(self, config):
                self.config = config
    """,
    "target_model/__init__.py": """
        from abc import ABC, abstractmethod

        class TargetModel(ABC):
            def __init__(self, identifier, device):
                self.identifier, self.device = identifier, device

            @abstractmethod
            def get_total_neuron_count(self): ...

            @abstractmethod
            def get_img_processor(self): ...

            @abstractmethod
            def _get_activations(self, img_features): ...

        def load_activations(*, config, path_configs, target_model, img_dataset, sample_indices=None):
            return target_model.get_activations([img_dataset[place] for place in range(len(img_dataset))])
    """,
    "img_text_model/__init__.py": """
        from abc import ABC, abstractmethod

        class ImageTextModel(ABC):
            def __init__(self, identifier, device):
                self.identifier, self.device = identifier, device

            @abstractmethod
            def get_embd_dim(self): ...

            @abstractmethod
            def get_img_embds(self, images): ...

            @abstractmethod
            def get_text_embds(self, text): ...

        def load_img_embds(*, config, path_configs, img_text_model, img_dataset, img_indices=None):
            return img_text_model.get_img_embds([img_dataset[place] for place in range(len(img_dataset))])

        def load_text_embds_avg_templates(*, config, path_configs, img_text_model, text_dataset):
            return img_text_model.get_text_embds(text_dataset.texts)
    """,
    "target_model/neuron_data.py": """
        from types import SimpleNamespace

        import torch

        from neurolens.img_text_model import load_img_embds
        from neurolens.target_model import load_activations

        FOUND = {}

        def precompute_neuron_data(
            *, config, path_configs, target_model, img_text_model, img_dataset, device, input_neurons
        ):
            common = dict(config=config, path_configs=path_configs, img_dataset=img_dataset)
            activations = load_activations(**common, target_model=target_model)
            embeddings = load_img_embds(**common, img_text_model=img_text_model)
            kept = config.neuron_data["required_sample_count"]
            for neuron in input_neurons:
                own = activations[:, neuron]
                top = own.topk(kept)
                cosines = (embeddings[top.indices] @ embeddings.T).masked_fill(own >= own.mean(), -torch.inf)
                FOUND[neuron] = embeddings[top.indices], embeddings[cosines.argmax(1)], cosines.amax(1), top.values

        def load_batched_neuron_data(*, config, path_configs, target_model, img_text_model, img_dataset, device):
            neurons = sorted(FOUND)
            scored = config.evaluation["sample_count"]
            parts = [torch.stack(part)[:, :scored] for part in zip(*(FOUND[neuron] for neuron in neurons))]
            return SimpleNamespace(neuron_indices=neurons, parts=parts)
    """,
    "dataset/image.py": """
        from abc import ABC, abstractmethod

        class ImageDataset(ABC):
            def __init__(self, identifier):
                self.identifier = identifier

            @abstractmethod
            def __len__(self): ...
    """,
    "dataset/text.py": """
        class TextDataset:
            def __init__(self, identifier, texts):
                self.identifier, self.texts = identifier, sorted(texts)

            def __len__(self):
                return len(self.texts)
    """,
    "score_function.py": """
        import torch

        from neurolens.img_text_model import load_text_embds_avg_templates

        class ContrastiveProjectionScoreFunction:
            def __init__(self, config, path_configs, img_text_model, text_dataset, gamma):
                self.config, self.gamma = config, gamma
                self.texts = load_text_embds_avg_templates(
                    config=config, path_configs=path_configs, img_text_model=img_text_model, text_dataset=text_dataset
                )

            def compute_text_scores(self, neuron_data):
                left, right, cosines, weights = neuron_data.parts
                rest = left - self.gamma * cosines[..., None] * right
                vectors = torch.nn.functional.normalize((weights[..., None] * rest).sum(1), dim=1)
                return torch.topk(vectors @ self.texts.T, k=self.config.evaluation["topk_text"], dim=1)
    """,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return folder


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrays")
    bench_data.make_arrays(folder, Shape(1000, 8, 8, 9))
    return folder


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return what looks up the names in a checkout; what it imports goes when the test ends."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield lambda *args: peer_names.names_of("A peer", *args)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("neurolens", "similarity", "utils"):
            del sys.modules[name]


def test_the_csp_authors_code_is_called_on_arrays(tmp_path, arrays, named):
    checkout = write(tmp_path, {f"src/neurolens/{name}": text for name, text in NEUROLENS.items()})
    names = named(checkout, [checkout / "src", checkout], peer_csp.NEEDED)
    found = peer_csp.measure(names, arrays, tmp_path / "work", sizes=[2, 4], kept=7, scored=5)
    assert [run[0] for run in found["runs"]] == [2, 4]
    assert all(seconds > 0 for _, seconds, _ in found["runs"])
    assert list(found["labels"]) == [0, 2, 4, 6]
    embeddings, activations, texts = (np.load(arrays / f"{name}.npy").astype(np.float64) for name in "EAT")
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    for neuron, text in found["labels"].items():
        own = activations[:, neuron]
        top, silent = np.argsort(-own, kind="stable")[:5], np.flatnonzero(own < own.mean())
        cosines = embeddings[top] @ embeddings[silent].T
        rest = embeddings[top] - cosines.max(1, keepdims=True) * embeddings[silent[cosines.argmax(1)]]
        assert text == f"text {(texts @ (own[top] @ rest)).argmax()}"


def test_clip_dissect_is_called_on_arrays(tmp_path, arrays, named):
    checkout = write(tmp_path, DISSECT)
    names = named(checkout, [checkout], peer_clip_dissect.NEEDED)
    found = peer_clip_dissect.measure(names, arrays, tmp_path / "work", device="cpu")
    assert found["runs"][0][0] == len(found["labels"]) == 8
    embeddings, activations, texts = (np.load(arrays / f"{name}.npy").astype(np.float64) for name in "EAT")
    cosines = embeddings @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    shares = np.exp(10 * cosines) / np.exp(10 * cosines).sum(1, keepdims=True)
    inclusion = (0.998 - np.arange(100) / 100 * (0.998 - 0.97))[:, None]
    tops = [np.argsort(-own, kind="stable")[:100] for own in activations.T]
    sums = np.array([np.log(1 + inclusion * (shares[top] - 1) + 1e-7).sum(0) for top in tops])
    prior = np.log(np.exp(sums - sums.max(0)).mean(0)) + sums.max(0)
    first = [int(text.removeprefix("text ")) for text in found["labels"].values()]
    scores = sums - prior
    assert (scores[np.arange(8), first] > scores.max(1) - 1e-3).all()  # several are 0 but for rounding: no other fits
    assert len(set(first)) > 1


def test_what_a_checkout_lacks_is_said_in_one_line(tmp_path, named):
    with pytest.raises(SystemExit, match=r"no checkout that is known here: expected src/neurolens"):
        peers.peer(tmp_path, sys.executable)
    checkout = write(tmp_path / "a", {"similarity.py": "", "utils.py": "def get_save_names(): ..."})
    with pytest.raises(SystemExit, match=r"CLIP-Dissect at .*: utils has no get_similarity_from_activations") as ended:
        peers.peer(checkout, sys.executable)
    assert "\n" not in str(ended.value)
    with pytest.raises(SystemExit, match="no-python cannot be run"):
        peers.peer(checkout, str(tmp_path / "no-python"))
    (checkout / "utils.py").write_text("import a_package_that_is_not_there")
    with pytest.raises(SystemExit, match=r"importing utils fails in .* \(No module named 'a_package.*by --python"):
        named(checkout, [checkout], peer_clip_dissect.NEEDED)
    checkout = write(tmp_path / "b", {"src/neurolens/__init__.py": NEUROLENS["__init__.py"]})
    with pytest.raises(SystemExit, match=r"the checkout has no module neurolens\.utils, which is called here"):
        named(checkout, [checkout / "src"], peer_csp.NEEDED)
    with pytest.raises(SystemExit, match=r"module json came from .*, not from the checkout"):
        named(tmp_path, [tmp_path], {"json": ["loads"]})


def test_the_load_is_said(monkeypatch):
    monkeypatch.setattr(bench_machine, "_LOOKED", 0.01)
    assert Load(0.1, 2, 0.01).idle
    assert not Load(0.1, 2, 0.5).idle and not Load(1.0, 2, 0.0).idle and not Load(0.0, 2, None).idle
    assert "BUSY" in str(Load(0.1, 2, 0.5))
    assert load().average >= 0


@pytest.mark.slow
def test_the_peers_label_as_ours_do(tmp_path, capsys):
    csp = write(tmp_path / "csp", {f"src/neurolens/{name}": text for name, text in NEUROLENS.items()})
    dissect = write(tmp_path / "dissect", DISSECT)
    command = [
        str(csp),
        str(dissect),
        "--size",
        "small",
        "--turns",
        "1",
        "--neurons",
        "8",
        "--json",
        str(tmp_path / "j"),
    ]
    assert peers.main(command) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "j").read_text())["rows"]}
    expected = {
        "csp.against-csp",
        "csp.against-csp.cpu",
        "clip-dissect.against-clip-dissect",
        "clip-dissect.against-csp",
    }
    assert {f"peers.{name}" for name in expected} <= set(rows)
    assert rows["peers.csp.same"]["value"] == 1
    assert rows["peers.clip-dissect.same"]["value"] > 0.9  # two labels may be equal but for rounding
    assert "| peers.csp.against-csp |" in capsys.readouterr().out
