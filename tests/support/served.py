"""A small real index with pictures for the tests of the service: some of the demo's images, its models, two methods."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import pytest
from made_once import made_for_all
from PIL import Image

from csp_index import NetworkSource, open_index
from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS
from csp_index.demo.probing import concepts_shown, probing_scenes
from csp_index.demo.world import VOCABULARY, render
from csp_index.store import originals

LAYER = f"cnn/{CONCEPT_LAYER}"
IMAGES = 300


def make_served(folder: Path) -> Path:
    """Render, index, label, and compare with the concepts shown; return the index."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "concepts"))
        for number, scene in enumerate(islice(probing_scenes("biased", 0), 0, None, 20)):
            if number == IMAGES:
                break
            Image.fromarray(render(scene, (0, 0, number))).save(pictures / f"{number:04d}.png", compress_level=1)
            table.writerow((f"{number:04d}.png", ";".join(concepts_shown(scene))))
    index = open_index(folder / "served.db")
    network = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    index.add_images(
        pictures, encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network], metadata=folder / "metadata.csv"
    )
    for method in ("csp", "consensus"):
        index.label(LAYER, method, vocabulary=list(VOCABULARY), templates="none")
    index.associations(LAYER, "concepts")
    return folder / "served.db"


def served_for_all(folders: pytest.TempPathFactory) -> Path:
    """Return the index of `make_served`, made once for all processes of the tests; this one may open its pictures."""
    folder = made_for_all("served", make_served, folders)
    with originals.coming_from(open_index(folder / "served.db").store, [str(folder / "pictures")]):
        return folder / "served.db"
