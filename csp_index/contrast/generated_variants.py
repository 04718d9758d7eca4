"""Contrast by generation: variants of activating images, run through network and encoder, stored as derived images.

A variant is a contrastive image of every neuron that it leaves silent. The variants of an image are made once for all
neurons that it excites, and stored with the activation of each of these; so they serve any threshold, and an
interrupted run resumes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index.contrast.context import DerivedRequest
from csp_index.contrast.edits import stored
from csp_index.errors import GeneratorError, ModelError, SettingError
from csp_index.images.decode import ImageFailure, decode, same_file
from csp_index.images.loader import stacked
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.generators.variant_generators import CAPTION, Original, Variant, VariantGenerator, make_variants
from csp_index.models.index_models import Models
from csp_index.models.networks import LoadedNetwork
from csp_index.records import DerivedKind, ExampleOptions, Progress
from csp_index.store import column_tables, schema
from csp_index.store.catalog import sql_text
from csp_index.store.image_metadata import check_columns, metadata_state, parse_metadata
from csp_index.store.originals import read_originals
from csp_index.store.runs import settings_hash
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store
from csp_index.store.values.derived_images import DerivedImage, append_derived, find_derived, read_derived

KIND: Final[DerivedKind] = "synthetic"
_ROWS, _SECONDS = 2048, 60.0  # a commit follows after this number of derived images, or of seconds
_LISTED = 10_000  # images whose rows are read at once
_REUSED = 64  # images whose variants are read at once

_log = logging.getLogger(__name__)


def synthesise(store: Store, models: Models, tell: Progress, request: DerivedRequest) -> str:
    """Make and store the requested variants that are missing; return the hash they are stored under.

    Interrupted, it keeps what is done. Images of which no variant can be made are left out, and their number is logged
    with the first reason. Raises GeneratorError if none can be made of any, NotFoundError if no image has the
    caption column, LabelError if network or encoder are not at hand, or nothing may be stored.
    """
    generator = generator_of(models, request.options)
    hashed = settings_hash(_describe(store, generator, request))
    missing = _missing(store, request, hashed)
    if not missing:
        return hashed
    request.check(KIND, "generated", f"variants of {len(missing)} images")
    selection = request.selection
    if request.options.caption_column is not None:
        check_columns(store, [request.options.caption_column])
    network, encoder = models.held_network(selection.target), models.held_encoder(selection.source)
    known = _known(store, request, hashed, missing)
    maker = _VariantMaker(store, generator, network, encoder, request, hashed, missing, known)
    try:
        maker.run(tell)
    finally:
        maker.keep()
    maker.account()
    return hashed


def generator_of(models: Models, options: ExampleOptions) -> VariantGenerator:
    """Return the generator that the options name. Raises SettingError if they name none."""
    if options.generator is None:
        raise SettingError(
            "contrast synthetic needs an image generator: name one, diffusers:ID_OR_DIR or "
            "python:package.module:factory (--generator)"
        )
    return models.variants(options.generator, options.caption_column is not None)


def _describe(store: Store, generator: VariantGenerator, request: DerivedRequest) -> dict[str, object]:
    """Return all that variants, their embeddings and activations depend on, besides the original."""
    options, selection = request.options, request.selection
    description: dict[str, object] = {
        "kind": KIND,
        "generator": generator.identity,
        "variants": options.variants,
        "seed": options.generator_seed,
        "encoder": selection.source.identity,
        "layer": selection.target.identity,
        "pooling": selection.target.pool,
    }
    if options.caption_column:
        description |= {"caption_column": options.caption_column, "prompt": options.variant_prompt}
        description |= metadata_state(store)
    return description


Places = list[tuple[int, int]]  # an activating image: the neuron's row in the selection, and the image's rank


def _missing(store: Store, request: DerivedRequest, hashed: str) -> dict[int, Places]:
    """Return the activating images without variants, by first neuron, and the neurons and ranks of each."""
    selection = request.selection
    rows = find_derived(store, selection.source, selection.target, selection.neurons.tolist(), KIND, hashed)
    columns = (rows[name].to_pylist() for name in ("neuron", "origin"))
    there = set(zip(*columns, strict=True))
    results: dict[int, Places] = {}
    for row, rank in (request.activating >= 0).nonzero().tolist():
        image = int(request.activating[row, rank])
        if (int(selection.neurons[row]), image) not in there:
            results.setdefault(image, []).append((row, rank))
    return results


def _known(store: Store, request: DerivedRequest, hashed: str, images: Iterable[int]) -> dict[int, list[int]]:
    """Return the ids of variants of these images that are stored for another neuron of the layer, by image."""
    selection = request.selection
    table = column_tables.derived_table(selection.source.name)
    if not store.has(table):
        return {}
    where = f"settings_hash = {sql_text(hashed)} AND origin IN ({','.join(map(str, images))})"
    results: dict[int, tuple[int, list[int]]] = {}
    for row in store.read(table, ["image_id", "origin", "neuron"], where).sort_by("image_id").to_pylist():
        neuron, ids = results.setdefault(row["origin"], (row["neuron"], []))
        if row["neuron"] == neuron:
            ids.append(row["image_id"])
    return {image: ids for image, (_, ids) in results.items()}


@dataclass(frozen=True, slots=True)
class _Made:
    """A variant as it is stored, and how it was made."""

    encoded: bytes
    picture: Image.Image
    recipe: Mapping[str, object]


@dataclass(slots=True)
class _VariantMaker:
    """Makes one set of variants: the models, and the variants not stored yet."""

    store: Store
    generator: VariantGenerator
    network: LoadedNetwork
    encoder: LoadedEncoder
    request: DerivedRequest
    hashed: str
    missing: Mapping[int, Places]
    known: Mapping[int, list[int]]  # of these images variants are stored, for other neurons
    rows: list[DerivedImage] = field(default_factory=list)
    made: int = 0  # variants
    lost: int = 0  # images without one
    reason: str = ""  # of the first of them
    committed: float = field(default_factory=time.monotonic)  # when

    def run(self, tell: Progress) -> None:
        """Make the variants of all images; a batch of the encoder is processed at a time."""
        batch: list[tuple[int, list[_Made]]] = []
        for done, (image, result) in enumerate(chain(self._stored(), self._fresh())):
            tell(done, len(self.missing), "images varied")
            if isinstance(result, str):
                self.lost, self.reason = self.lost + 1, self.reason or result
                continue
            batch.append((image, result))
            if sum(len(variants) for _, variants in batch) >= self.encoder.batch_size:
                self._judge(batch)
                batch = []
            if len(self.rows) >= _ROWS or (self.rows and time.monotonic() - self.committed >= _SECONDS):
                self.keep()
        self._judge(batch)
        tell(len(self.missing), len(self.missing), "images varied")

    def keep(self) -> None:
        """Store the new variants; those of one image are stored together."""
        rows, self.rows = self.rows, []
        append_derived(self.store, self.request.selection.source, rows)
        self.committed = time.monotonic()

    def account(self) -> None:
        """Log how many images have no variant. Raises GeneratorError if no image has any."""
        if not self.lost:
            return
        message = f"made no variant of {self.lost} of {len(self.missing)} images, first reason: {self.reason}"
        selection = self.request.selection
        neurons = selection.neurons.tolist()
        if (
            not self.made
            and not find_derived(self.store, selection.source, selection.target, neurons, KIND, self.hashed).num_rows
        ):
            raise GeneratorError(f"the generator {self.generator.name} {message}")
        _log.warning("the generator %s %s", self.generator.name, message)

    def _stored(self) -> Iterator[tuple[int, list[_Made]]]:
        """Yield the variants that are stored for other neurons of the layer."""
        images = iter(self.known.items())
        while some := list(islice(images, _REUSED)):
            ids = [made for _, cached in some for made in cached]
            table = read_derived(self.store, self.request.selection.source, ids, ["picture", "recipe"])
            rows = iter(table.to_pylist())
            for image, cached in some:
                result = list(islice(rows, len(cached)))
                recipes = [read_object(row["recipe"], "derived", "recipe") for row in result]
                pictures = [row["picture"] for row in result]
                yield image, [_Made(p, decode(p), recipe) for p, recipe in zip(pictures, recipes, strict=True)]

    def _fresh(self) -> Iterator[tuple[int, list[_Made] | str]]:
        """Yield new variants of the other images, or why there are none."""
        options = self.request.options
        for image, original in self._originals():
            if isinstance(original, str):
                yield image, original
                continue
            result = make_variants(self.generator, original, options.variants, options.generator_seed)
            if isinstance(result, str):
                yield image, result
            else:
                yield image, [self._made(variant, turn) for turn, variant in enumerate(result)]

    def _made(self, variant: Variant, turn: int) -> _Made:
        identity = self.generator.identity
        messages = {"prompt": variant.prompt, "seed": self.request.options.generator_seed, "variant": turn}
        encoded, picture = stored(variant.picture.convert("RGB"))
        return _Made(encoded, picture, {**messages, "model": identity["spec"], "weights": identity["weights"]})

    def _originals(self) -> Iterator[tuple[int, Original | str]]:
        """Yield every image without known variants, or the reason why it cannot be read."""
        ids = [image for image in self.missing if image not in self.known]
        for start in range(0, len(ids), _LISTED):
            some = ids[start : start + _LISTED]
            where = f"image_id IN ({','.join(map(str, some))})"
            table = self.store.read(schema.IMAGES, ["image_id", "uri", "sha256", "metadata"], where)
            messages = {row["image_id"]: row for row in table.to_pylist()}
            read = read_originals(self.store, (messages[image]["uri"] for image in some))
            for image, result in zip(some, read, strict=True):
                item = same_file(result, messages[image]["sha256"])
                if isinstance(item, ImageFailure):
                    yield image, f"{item.uri} cannot be read any more: {item.reason}"
                    continue
                metadata = parse_metadata(messages[image]["metadata"], image)
                column = self.request.options.caption_column
                if column and column not in metadata:
                    known = ", ".join(metadata) or "none"
                    yield image, f"image {image} has no metadata column {column!r} (has: {known})"
                    continue
                yield image, Original(item.image, image, metadata, _prompt(metadata, self.request.options))

    def _judge(self, batch: Sequence[tuple[int, list[_Made]]]) -> None:
        """Run variants through network and encoder; make a row of each for every neuron that its image excites."""
        if not batch:
            return
        layer = self.request.selection.target.key.layer
        pictures = [variant.picture for _, variants in batch for variant in variants]
        values = _in_batches(pictures, self.network, lambda pixels: self.network.activations(pixels)[layer])
        embeddings = _in_batches(pictures, self.encoder, self.encoder.embed_images)
        if not bool(values.isfinite().all() and embeddings.isfinite().all()):
            raise ModelError(
                f"{self.request.selection.target.key} or its encoder gave values that are not finite on variants: "
                "check the models"
            )
        seen = zip(values.numpy(), embeddings.numpy(), strict=True)
        rows = [
            row for image, variants in batch for variant in variants for row in self._rows(image, variant, *next(seen))
        ]
        self.rows += rows  # in one step: no image is left with only some of its variants
        self.made += len(pictures)

    def _rows(
        self, image: int, variant: _Made, activations: np.ndarray, embedding: np.ndarray
    ) -> Iterator[DerivedImage]:
        """Yield the rows of one variant, one per neuron that its image excites, given the layer's activations."""
        selection, run_id = self.request.selection, self.request.run_id
        for row, rank in self.missing[image]:
            key = selection.key(int(selection.neurons[row]))
            made = (variant.encoded, variant.recipe, run_id)
            yield DerivedImage(KIND, image, key, rank, self.hashed, float(activations[key.neuron]), embedding, *made)


def _in_batches(
    pictures: Sequence[Image.Image], model: LoadedEncoder | LoadedNetwork, run: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the output of a model's `run` for pictures, one row each."""
    results = []
    for start in range(0, len(pictures), model.batch_size):
        some = pictures[start : start + model.batch_size]
        results.append(run(stacked([model.preprocess(picture) for picture in some])))
    return torch.cat(results)


def _prompt(metadata: Mapping[str, object], options: ExampleOptions) -> str:
    """Return the prompt of an image, with its caption; "" for an image without a caption."""
    caption = metadata.get(options.caption_column or "")
    return "" if caption in (None, "") else options.variant_prompt.replace(CAPTION, str(caption))
