"""Tiny indexes that a state machine starts from, and what labels each must have: by the same commands, undisturbed."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import torch
from checkout import ROOT

from csp_index import CandidateTexts, Index, NetworkSource, open_index
from csp_index.store.connect import open_store
from csp_index.store.history.migration import migrate

OLD = ROOT / "tests" / "data" / "index_of_2d73c0c.tar.gz"
METHODS = ("csp", "semanticlens")
WORDS = ("red", "green", "blue", "striped")

Rows = tuple[tuple[Any, ...], ...]  # of one layer by one method: neuron, state, text, score


@dataclass(frozen=True)
class Request:
    """What is labeled, and how; `images` is how many the index has."""

    layer: str
    method: str
    examples: int
    images: int


@dataclass
class World:
    """One kind of index: `layers` can be added to it, `steps` are the numbers of images that it can have."""

    folder: Path
    width: int = 8
    layers: tuple[str, ...] = ("m/first", "m/second", "m/third")
    steps: tuple[int, ...] = (12,)
    expected: dict[Request, Rows] = field(default_factory=dict)
    made: dict[tuple[int, str], Path] = field(default_factory=dict)

    @property
    def own(self) -> tuple[str, ...]:
        """The layers that the index has at first."""
        return self.layers[:1]

    def start(self, db: Path) -> None:
        """Make the index in its first state; the work is done once."""
        kept = self.folder / "start"
        if not kept.exists():
            self.begin(kept)
        shutil.copytree(kept, db)

    def begin(self, db: Path) -> None:
        """Import the first layer, with its images."""
        rng = np.random.default_rng(0)
        np.save(self.folder / "E.npy", rng.standard_normal((self.steps[0], self.width)).astype(np.float32))
        self.add(open_index(db), self.layers[0], self.steps[0])

    def grow(self, index: Index, images: int) -> None:
        """Bring the index to so many images."""
        raise NotImplementedError

    def add(self, index: Index, layer: str, images: int) -> None:
        """Add a layer, in shards of five images."""
        rng = np.random.default_rng([images, *layer.encode()])
        values = np.maximum(rng.standard_normal((images, 4)), 0).astype(np.float32)
        np.save(self.folder / "A.npy", values)
        embeddings = self.folder / "E.npy"
        given: dict[str, Any] = {"embeddings": embeddings} if embeddings.exists() else {}
        index.import_arrays(self.folder / "A.npy", layer, shard_size=5, **given)

    def label(self, index: Index, request: Request, *, recompute: bool = False) -> Rows:
        """Label a layer; return what comes back."""
        directions = torch.randn(len(WORDS), self.width, generator=torch.Generator().manual_seed(3))
        texts = CandidateTexts(WORDS, torch.nn.functional.normalize(directions, dim=1), key="machine")
        options: dict[str, Any] = {"examples": request.examples, "bootstrap": 0, "recompute": recompute}
        labels = index.label(request.layer, request.method, vocabulary=texts, **options)
        best = [(one, one.labels[0] if one.labels else None) for one in labels]
        return tuple((str(one.neuron), one.state, top and top.text, top and top.score) for one, top in best)

    def rows(self, request: Request) -> Rows:
        """Return the labels of a request: of an index with this layer alone, on which nothing else was done."""
        if request not in self.expected:
            key = (request.images, request.layer)
            if key not in self.made:
                self.made[key] = Path(tempfile.mkdtemp(dir=self.folder)) / "db"
                self.start(self.made[key])
                self.complete(self.made[key], *key)
            self.expected[request] = self.label(self.open(self.made[key]), request)
        return self.expected[request]

    def complete(self, db: Path, images: int, layer: str) -> None:
        """Bring a new index to so many images and a layer."""
        for step in self.steps[1 : self.steps.index(images) + 1]:
            self.grow(self.open(db), step)
        if layer not in self.own:
            self.add(self.open(db), layer, images)

    def open(self, db: Path) -> Index:
        """Open an index; its pictures may be read."""
        return open_index(db, image_roots=[self.folder])


class Pictures(World):
    """Images in a folder, which grows, with the fakes' encoder and network."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, fakes.WIDTH, ("net/concepts", "net/conv"), (6, 11, 16))

    def begin(self, db: Path) -> None:
        self.grow(open_index(db), self.steps[0])

    def grow(self, index: Index, images: int) -> None:
        folder = self.folder / f"images{images}"
        if not folder.exists():
            fakes.write_images(folder, images)
            for step in self.steps[: self.steps.index(images)]:
                for path in (self.folder / f"images{step}").rglob("*.png"):
                    (folder / path.relative_to(self.folder / f"images{step}")).unlink()
        index.add_images(folder, encoders=[ENCODER], networks=self._networks(index), shard_size=5)

    def _networks(self, index: Index) -> list[NetworkSource]:
        there = () if not Path(index.uri).exists() else tuple(one["layer"] for one in index.status()["layers"])
        layers = tuple(layer.partition("/")[2] for layer in self.layers if layer in there or layer in self.own)
        return [NetworkSource(NETWORK, layers, name="net")]

    def add(self, index: Index, layer: str, images: int) -> None:
        index.add_layer(NETWORK, layer.partition("/")[2], name="net")


class OldFormat(World):
    """The index of format 2; arrays are added to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, fakes.WIDTH, ("net/concepts", "planted/words", "m/second", "m/third"), (40,))

    @property
    def own(self) -> tuple[str, ...]:
        return self.layers[:2]

    def start(self, db: Path) -> None:
        with tarfile.open(OLD) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
            archive.extractall(db.parent)
        (db.parent / "index").rename(db)

    def complete(self, db: Path, images: int, layer: str) -> None:
        migrate(open_store(db))
        super().complete(db, images, layer)


ENCODER, NETWORK = "python:fakes:encoder", "python:fakes:network"
