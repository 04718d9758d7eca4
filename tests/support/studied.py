"""A small index with pictures and a study of every kind, for the walks of all pages.

Of the layers, `cnn/concepts` has all studies, the neurons of `cnn/layers.17` have places in the image, `fresh/concepts`
has learned nothing, and `grown@step1` and `grown@step2` are checkpoints of a training.
"""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from walked import LAYER, PLACED

from csp_index import EvaluationOptions, Index, NetworkSource, open_index
from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS
from csp_index.demo.probing import concepts_shown, probing_scenes
from csp_index.demo.world import ATTRIBUTES, VOCABULARY, render
from csp_index.evaluation.options import parse_methods

IMAGES = 300
_NETWORK = "python:csp_index.demo.network:planted_cnn"
_WORDS = {"vocabulary": list(VOCABULARY), "templates": "none"}


def make_studied(folder: Path) -> Path:
    """Render, index, label and study; return the index."""
    _write_pictures(folder)
    index = open_index(folder / "studied.db")
    cnn = NetworkSource(_NETWORK, (CONCEPT_LAYER, PLACED.partition("/")[2]), weights=str(NETWORK_WEIGHTS), name="cnn")
    fresh = NetworkSource(_NETWORK, (CONCEPT_LAYER,), name="fresh")
    index.add_images(
        folder / "pictures", encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[cnn, fresh], metadata=folder / "table.csv"
    )
    for layer, method in ((LAYER, "consensus"), (LAYER, "csp"), (PLACED, "csp"), (f"fresh/{CONCEPT_LAYER}", "csp")):
        index.label(layer, method, bootstrap=20, **_WORDS)
    _study(index, folder)
    return folder / "studied.db"


def _write_pictures(folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "concepts", "shape", "background"))
        for number, scene in enumerate(islice(probing_scenes("biased", 0), 0, 20 * IMAGES, 20)):
            Image.fromarray(render(scene, (0, 0, number))).save(pictures / f"{number:04d}.png", compress_level=1)
            table.writerow((f"{number:04d}.png", ";".join(concepts_shown(scene)), scene.shape, scene.background))


def _study(index: Index, folder: Path) -> None:
    index.associations(LAYER, "concepts")
    index.associations(LAYER, "shape")
    index.effects(LAYER)
    index.audit("cnn", ATTRIBUTES["shape"], by="shape", layer=LAYER, artefacts=["background"], **_WORDS)
    index.compare(LAYER, f"fresh/{CONCEPT_LAYER}")
    index.facets(LAYER, **_WORDS)
    index.formulas(LAYER, **_WORDS)
    index.make_map(LAYER, cluster_size=2)
    index.evaluate(LAYER, EvaluationOptions(methods=parse_methods(["csp"])), **_WORDS)
    index.hierarchy(LAYER, _hierarchy(folder), **_WORDS)
    index.evolution(_NETWORK, CONCEPT_LAYER, _checkpoints(folder), name="grown", method="csp", **_WORDS)
    index.note(f"{LAYER}/3", "rename", "half moon", by="ann")
    index.note(f"{LAYER}/3", "tag", "shape", by="ann")
    index.note(f"{LAYER}/4", "reject", "fires on the frame", by="ann")


def _hierarchy(folder: Path) -> Path:
    path = folder / "broader.csv"
    rows = [(value, attribute) for attribute, values in ATTRIBUTES.items() for value in values]
    rows += [(attribute, "property") for attribute in ATTRIBUTES]
    path.write_text("child,parent\n" + "".join(f"{child},{parent}\n" for child, parent in rows))
    return path


def _checkpoints(folder: Path) -> list[Path]:
    """Write the network's weights with noise, and as they are; return the files."""
    weights, drawn = load_file(NETWORK_WEIGHTS), torch.Generator().manual_seed(0)
    noisy = {
        name: value + 0.4 * value.std() * torch.randn(value.shape, generator=drawn) if value.dim() > 1 else value
        for name, value in weights.items()
    }
    paths = [folder / f"step{step}.safetensors" for step in (1, 2)]
    for path, values in zip(paths, (noisy, weights), strict=True):
        save_file(values, path)
    return paths
