"""A layer with maps, one without, and labels from crops of them, asked for by the live panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from indexed import ENCODER
from PIL import Image

from csp_index import Index, NetworkSource, open_index
from csp_index.records import LayerKey, NeuronKey
from csp_index.service import ServiceSettings
from csp_index.service.live.engine import Engine
from csp_index.service.live.queries import LabelQuery
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, column_tables
from csp_index.store.values.activation_maps import map_blocks, packed

WORDS = ["striped", "red", "moon", "blue", "dotted", "ring"]
OPTIONS = {"vocabulary": WORDS, "templates": "none", "examples": 6}
SIDE = 64
NETWORK = NetworkSource("python:spots:spot", ("maps", "vector"), name="net")


def draw(tmp_path: Path) -> Path:
    """24 pictures of a red or blue square."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        left, top = rng.integers(0, SIDE - 16, 2)
        color = (150 + 4 * number, 0, 0) if number % 2 else (0, 0, 150 + 4 * number)
        picture = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
        picture.paste(Image.new("RGB", (16, 16), color), (int(left), int(top)))
        picture.save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


def make_index(images: Path, tmp_path: Path) -> Index:
    index = open_index(tmp_path / "db")
    index.add_images(images, encoders=[ENCODER], networks=[NETWORK], shard_size=10)
    return index


def uris(index: Index) -> list[str]:
    return [row["uri"] for row in index.sql("SELECT uri FROM images ORDER BY image_id").rows()]


def live(index: Index, **options: Any) -> dict[str, Any]:
    """The label of neuron 0 from crops that the live panel shows."""
    query = LabelQuery((NeuronKey("net", "maps", 0),), "csp", crop=True, examples=6, **options)
    (result,) = Engine(Snapshot(index.uri), ServiceSettings()).models().relabel(query)
    return {**result}


def turn_maps(index: Index, neuron: int | None = None) -> None:
    """Let a neuron, or each, look at the place across the picture."""
    target = catalog.layer(index.store, LayerKey("net", "maps"))
    ((numbers, frame, pairs),) = map_blocks(index.store, target)
    own = pairs.neurons == (pairs.neurons if neuron is None else neuron)
    turned = replace(pairs, maps=np.where(own[:, None, None], pairs.maps[:, ::-1, ::-1], pairs.maps))
    with index.store.write_lock():
        index.store.replace(column_tables.maps_table("net/maps"), packed(frame, turned, numbers, 0, 24))
