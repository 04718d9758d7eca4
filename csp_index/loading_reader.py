"""A reader with the models and datasets behind its index, loaded when a question first needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pyarrow as pa

from csp_index import keywords, settings
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.makers import crop_maker, dependencies, makers
from csp_index.errors import SourceError, StudyError
from csp_index.labelling.texts.candidate_names import TextSpace, chosen_templates
from csp_index.query.notebook import shown_progress
from csp_index.query.reader import Reader
from csp_index.query.results import SqlResult
from csp_index.records import NeuronKey, Progress
from csp_index.store import catalog, originals
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.values.activation_maps import NeuronMaps, most_maps
from csp_index.tensors.library import need_torch

if TYPE_CHECKING:
    import torch

    from csp_index.contrast.places.make_maps import MapsMade
    from csp_index.images.sources import HeldDatasets
    from csp_index.models import objects
    from csp_index.models.encoders import LoadedEncoder
    from csp_index.models.index_models import GivenModel, Models
    from csp_index.query.exports.rows import Exported
    from csp_index.query.exports.write import Target
    from csp_index.studies.layer_maps.records import LayerMap


class LoadingReader(Reader):
    """An index that is read, with what answers need that the tables do not have. Loads torch with the first model."""

    def __init__(self, uri: str | Path, **options: Unpack[keywords.OpenKeywords]) -> None:
        """Refer to the database at `uri`; it is opened, or created by the first method that adds, when needed."""
        super().__init__(uri, options.get("version"))
        self.device, self._trust = settings.DEVICE.value(options.get("device")), options.get("trust", False)
        originals.allow(uri, options.get("image_roots", ()))
        if options.get("models") is not None:
            self._models = self._make_models(options.get("models"))

    def close(self) -> None:
        """Let go of models, of given objects and of what was read; the index may be used again, objects given again."""
        super().close()
        for name in {"_models", "_datasets"} & vars(self).keys():
            vars(self)[name].clear()

    @cached_property
    def _models(self) -> Models:
        """The models behind the index; what is only read needs none, and does not load torch."""
        return self._make_models()

    def _make_models(self, given: Mapping[str, GivenModel] | None = None) -> Models:
        from csp_index.models.index_models import Models

        return Models(self.device, given, trust=self._trust)

    @cached_property
    def _datasets(self) -> HeldDatasets:
        """The datasets that the caller passed."""
        from csp_index.images.sources import HeldDatasets

        return HeldDatasets()

    def load_encoders(self, encoders: Sequence[str | objects.Encoder]) -> None:
        """Load encoders that `add_images` is to use, so that one that cannot be loaded is an error before it."""
        for encoder in encoders:
            self._models.encoder(encoder)

    def compute_maps(self, neuron: str, images: Sequence[int] | None = None) -> NeuronMaps:
        """Return where in images (ids; by default its top ones) a neuron looks, made by its network now.

        As `maps` has them: of a layer without places, whose maps are not stored unless `make_maps` did so, by the
        gradient times the input. Raises ModelError, SourceError where the network or all images are not at hand.
        """
        need_torch("a network")
        from csp_index.contrast.places.driving import MapMaker, computed_maps

        key = NeuronKey.parse(neuron)
        target = catalog.layer(self.store, key.layer_key)
        catalog.check_neurons(target, [key.neuron])
        if images is None:
            rows = catalog.neuron_rows(self.store, target, [key.neuron])
            images = rows["top_images"][0].as_py()[: most_maps()]
        maker, ids = MapMaker(self._models.held_network(target), key.layer), np.array(images, np.int64)
        made = computed_maps(self.store, maker, np.full(len(ids), key.neuron), ids)
        if made is None:
            raise SourceError(f"none of {len(ids)} images of {key} can be opened: name their folder by image_roots")
        frame, pairs = made
        return NeuronMaps(frame, pairs.images, pairs.scales, pairs.maps)

    def make_maps(
        self, neurons: str | Iterable[str], *, recompute: bool = False, progress: Progress | None = None
    ) -> MapsMade:
        """Store where neurons of a layer look in their top images, made by its network as `compute_maps` does.

        For layers without places, which have none: from then on pages, cards, `maps` and `crop` use them. Those that
        are stored stay, unless `recompute`. Raises ModelError, SourceError as `compute_maps`, and StudyError for
        neurons of several layers.
        """
        need_torch("a network")
        from csp_index.contrast.places.make_maps import make_maps

        layers = self.resolve(neurons)
        if len(layers) != 1:
            raise StudyError(f"{len(layers)} layers are named: maps are made of one layer at a time")
        ((target, numbers),) = layers
        report = progress or shown_progress()
        return make_maps(self.store, self._models, target, numbers.tolist(), recompute=recompute, progress=report)

    def map(self, layer: str, *, encoder: str | None = None) -> LayerMap:
        """Return the map of a layer's neurons that `make_map` stored, else the main directions of their vectors.

        Where in images a neuron looks is said by `maps`.
        """
        from csp_index.studies.layer_maps.make import layer_map

        return layer_map(self.store, layer, encoder)

    def make_map(self, layer: str, **options: Unpack[keywords.MapKeywords]) -> LayerMap:
        """Return a layer's map by UMAP with named clusters, made and stored unless it is there (extra `map`).

        `options`: `seed`, `neighbors`, `min_dist`, `cluster_size`, `encoder`, `recompute`; see `csp-index map`.
        """
        from csp_index.studies.layer_maps.make import make_map

        options = {"progress": shown_progress()} | options
        return make_map(self.store, layer, **options)

    def export(self, target: Target, folder: str | Path, layer: str | None = None) -> Exported:
        """Write the index into a new folder as fiftyone, datasets, embedding-atlas or neuronpedia read it.

        Only one `layer`, or all. Pictures are thumbnails; for fiftyone originals where they may be opened. Errors:
        QueryError for a folder that exists.
        """
        from csp_index.labelling.concept_vectors import layer_vectors
        from csp_index.query.exports.write import export_index, subject_of

        def vectors(target: LayerInfo) -> np.ndarray:
            return layer_vectors(self.store, catalog.encoder(self.store), target).vectors

        return export_index(subject_of(self.store, self.sql, vectors, layer), target, folder)

    def _read_own_datasets_first(self) -> None:
        if "_datasets" in vars(self):
            self._datasets.read_first()

    def _context(self, progress: Progress | None = None) -> ComputeContext:
        self._read_own_datasets_first()
        report = progress or shown_progress()
        made = makers(self.store, self._get_models, report)
        depends = partial(dependencies, self._get_models)
        crops = crop_maker(self.store, self._get_models, report)
        return ComputeContext(self.device, derive=made, depends=depends, crops=crops, progress=report)

    def _get_models(self) -> Models:
        return self._models

    def _text_space(self, source: EncoderInfo, templates: str | None, keep: bool) -> TextSpace:
        return TextSpace(
            self.store, source, chosen_templates(self.store, templates), partial(self._encoder, source), keep
        )

    def _encoder(self, source: EncoderInfo) -> LoadedEncoder:
        need_torch("an encoder")
        return self._models.held_encoder(source)


def network_layers(
    network: str | torch.nn.Module | objects.Network,
    *,
    device: str | None = None,
    **options: Unpack[keywords.LayersKeywords],
) -> SqlResult:
    """Return a network's layers that can be indexed: layer, kind, shape of one image's output, neurons.

    Of a module, `options` are `preprocess` as in Network, or `input_shape`, by default (3, 224, 224).
    """
    from csp_index.models import objects

    rows = objects.list_layers(network, settings.DEVICE.value(device), **options)
    return SqlResult(pa.Table.from_pylist(rows))
