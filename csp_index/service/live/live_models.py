"""All of the service that needs torch: models, activations, embeddings of images in memory, live labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image

from csp_index.concurrency import go_on
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import Embeddings, all_embeddings
from csp_index.contrast.makers import makers
from csp_index.contrast.neighbour_lists import listed
from csp_index.contrast.places.driving import MapMaker, computed_maps
from csp_index.errors import CspIndexError, LabelError, ModelError, NotFoundError, SourceError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.lru_cache import LRUCache
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import by_network
from csp_index.models.networks import LoadedNetwork
from csp_index.ordering import leaders_of
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.documents.neuron_shapes import LiveLabel
from csp_index.service.live.picture_maps import PictureMaps
from csp_index.service.live.queries import Excited, LabelQuery
from csp_index.service.live.relabel import Relabeller
from csp_index.service.live.shared_models import SharedModels
from csp_index.service.live.text_vectors import TextVectors
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.values.activation_maps import NeuronMaps
from csp_index.store.values.arrays import activations_of
from csp_index.tensors.torch_threads import one_thread

_CPU = torch.device("cpu")
_log = logging.getLogger(__name__)


class LiveModels:
    """What the engine hands out; many threads may use it. Networks and encoders are loaded when first needed.

    Errors: NotFoundError for a layer, neuron or image that does not exist.
    """

    def __init__(
        self, snapshot: Snapshot, config: ServiceSettings, shared: SharedModels, texts: CandidateTexts | None = None
    ) -> None:
        """Cache and compute as much as `config` allows; `texts` stand in for the index's vocabulary.

        What every request needs is read here, so that none waits for it and no two read it at once.
        """
        self._snapshot, self._store, self._source = snapshot, snapshot.store, snapshot.encoder
        self._models, held_bytes = shared.models, config.held_bytes
        self._loading, self._running = shared.loading, shared.running
        self._encoder_or_error: LoadedEncoder | ModelError | None = None
        self._loaded_networks: list[LoadedNetwork] | None = None
        self._activations, self._looks = LRUCache(held_bytes // 16), LRUCache(held_bytes // 64)
        context = ComputeContext(derive=makers(self._store, lambda: self._models))
        self._relabeller = Relabeller(snapshot, context, held_bytes // 8, config.label_cost)
        self._texts = TextVectors(self._store, self._source, self._encoder, texts)
        self._read_ahead()

    @one_thread()
    def embed_text(self, text: str) -> np.ndarray:
        """Return the unit vector [D] of a text, within the templates that the index used last.

        Raises ModelError where the encoder came as arrays or cannot be loaded.
        """
        return _unit(self._texts.embed(text))

    @one_thread()
    def stored_texts(self, texts: Collection[str]) -> dict[str, np.ndarray]:
        """Return the unit vectors [D] of those texts that are at hand without the encoder.

        Raises LabelError where the index names a file of templates, which is not opened.
        """
        return {text: _unit(vector) for text, vector in self._texts.stored(texts).items()}

    @one_thread()
    def sample_texts(self, most: int) -> np.ndarray:
        """Return unit vectors [S, D] of some texts of the vocabulary, always the same ones; none without one."""
        vectors: np.ndarray = torch.nn.functional.normalize(self._texts.sample(most).float(), dim=1).numpy()
        return vectors

    @one_thread()
    def load_encoder(self) -> None:
        """Load the encoder, if there is one that can be loaded, so that the first question does not wait for it."""
        with suppress(ModelError):  # raised again where a question needs it
            self._encoder()

    @one_thread()
    def embed_image(self, image: Image.Image) -> np.ndarray:
        """Return the unit vector [D] of a picture; errors as `embed_text`."""
        encoder = self._encoder()
        pixels = encoder.preprocess(image.convert("RGB"))[None]
        with self._running:
            return _unit(encoder.embed_images(pixels)[0])

    @one_thread()
    def excited(self, image: Image.Image, top: int) -> list[Excited] | None:
        """Return the neurons of all layers that a picture excites most, or None where no network can be loaded.

        The first are those that the largest share of the indexed images excites less (their `quantile`); where that is
        equal, those whose activation is highest relative to the highest one of the indexed images.
        """
        networks, picture = self._networks(), image.convert("RGB")
        neurons: list[tuple[Excited, float]] = []
        heats: dict[LayerKey, PictureMaps] = {}
        for network in networks:
            pixels, watch = network.preprocess(picture)[None], PictureMaps(network, picture.size)
            with self._running:
                values = network.activations(pixels, watch)
            for layer, row in values.items():
                info = self._snapshot.info(key := LayerKey(network.name, layer))
                neurons += self._most_excited(info, row[0].numpy(), top)
                heats[key] = watch
        neurons.sort(key=lambda each: (-each[0].quantile, -each[1]))
        best = [(neuron, NeuronKey.parse(neuron.neuron)) for neuron, _ in neurons[:top]]
        found = [neuron._replace(heat=heats[key.layer_key].of(key.layer, key.neuron)) for neuron, key in best]
        return found if networks else None

    @one_thread()
    def look(self, key: NeuronKey, images: Sequence[int], check: Callable[[], None] = go_on) -> NeuronMaps:
        """Return where a neuron looks in images, made by its network; of images that can be opened.

        `check` is called between batches, and raises to end the work. Errors: ModelError where the network cannot be
        loaded, SourceError where no image can be opened.
        """
        target = self._snapshot.info_of(key)
        with self._loading:
            network = self._models.held_network(target)
        ids = np.array(images, np.int64)

        def make() -> NeuronMaps:
            with self._running:
                maker = MapMaker(network, key.layer)
                made = computed_maps(self._store, maker, np.full(len(ids), key.neuron), ids, check)
            if made is None:
                raise SourceError(
                    f"none of {len(ids)} images of {key} can be opened: put them back where they were indexed"
                )
            return NeuronMaps(made[0], made[1].images, made[1].scales, made[1].maps)

        return self._looks.get((key, tuple(images)), make, lambda maps: 1000 + int(maps.maps.nbytes))

    @one_thread()
    def activations(self, key: NeuronKey) -> np.ndarray:
        """Return a neuron's activations on all images, [N]; read-only."""
        target = self._snapshot.info_of(key)

        def read() -> np.ndarray:
            images = int(catalog.neuron_rows(self._store, target, [key.neuron])["images"][0].as_py())
            values = activations_of(self._store, target, key.neuron, images)
            values.setflags(write=False)
            return values

        return self._activations.get(key, read, lambda values: int(values.nbytes))

    @one_thread()
    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        """Return the unit embeddings [I, D] of images, in their order."""
        for image in ids:
            self._snapshot.check_image(image)
        return self._vectors().of(torch.tensor(list(ids), dtype=torch.int64)).numpy()

    @one_thread()
    def nearest_images(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the images most similar to a unit vector [D], with their cosines, best first, ties by lower id."""
        query, ids, values = torch.from_numpy(vector).float(), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        for first, tile in self._vectors().screen(_CPU, torch.float32):
            cosines = torch.cat([values, tile @ query])
            places = torch.cat([ids, torch.arange(first, first + len(tile))])
            best = leaders_of(cosines[None], count)[0, :count]
            values, ids = cosines[best], places[best]
        return list(zip(ids.tolist(), values.tolist(), strict=True))

    @one_thread()
    def relabel(self, query: LabelQuery, check: Callable[[], None] = go_on) -> list[LiveLabel]:
        """Return a result for each neuron of a query, in its order: what `Index.label` returns for the same options.

        `check` is called between steps, and raises to end the work. Errors: as `Relabeller.answer`.
        """
        layers = {neuron.layer_key: self._snapshot.info_of(neuron) for neuron in query.neurons}
        run_settings = self._settings_of(query.run)
        candidates = str(run_settings.get("candidates", ""))
        if query.candidates is not None:
            texts = self._texts.own(query.candidates)
        else:
            texts = self._texts.of_run(candidates) if run_settings else self._texts.vocabulary()
        results = self._relabeller.answer(query, layers, texts, run_settings, check)
        if query.candidates is None and " + " in candidates:
            for result in results:
                notes = result["note"], "without the candidates that models named"
                result["note"] = "; ".join(note for note in notes if note)
        return results

    def _settings_of(self, run_id: str | None) -> dict[str, Any]:
        """Return the settings of a label run; NotFoundError where there is none of that name."""
        run = None if run_id is None else self._snapshot.run(run_id)
        if run_id is not None and (run is None or run["command"] != "label"):
            raise NotFoundError(f"{run_id} is no label run of the index: its neurons' pages name theirs")
        return read_object(run["settings"], schema.RUNS, "settings") if run else {}

    def _read_ahead(self) -> None:
        vectors = self._vectors()
        for _ in vectors.screen(_CPU, torch.float32):
            break  # where embeddings are held in memory, all are there from now on
        listed(self._store, self._source, vectors.images, torch.zeros(0, dtype=torch.int64))
        for info in self._snapshot.layers()[:1]:
            if catalog.is_finished(self._store, info):
                self.activations(NeuronKey(info.key.model, info.key.layer, 0))
        try:
            self._texts.vocabulary()
        except LabelError:
            return  # raised again where a request needs it

    def _vectors(self) -> Embeddings:
        return all_embeddings(self._store, self._source, catalog.image_count(self._store, self._source.what))

    def _encoder(self) -> LoadedEncoder:
        """Return the encoder the index was built with; raises what kept it from loading, each time."""
        with self._loading:
            if self._encoder_or_error is None:
                try:
                    self._encoder_or_error = self._models.held_encoder(self._source)
                except CspIndexError as exc:
                    self._encoder_or_error = _encoder_error(self._source, exc)
        if isinstance(self._encoder_or_error, ModelError):
            raise self._encoder_or_error.with_traceback(None)
        return self._encoder_or_error

    def _networks(self) -> list[LoadedNetwork]:
        """Return the networks of the index that can be loaded."""
        with self._loading:
            if self._loaded_networks is None:
                self._loaded_networks = []
                layers = [info for info in self._snapshot.layers() if catalog.is_finished(self._store, info)]
                for group in by_network(layers):
                    try:
                        self._loaded_networks += self._models.held_networks(group)
                    except CspIndexError as exc:
                        _log.warning("no picture runs through %s: %s", group[0].key.model, exc)
        return self._loaded_networks

    def _most_excited(self, info: LayerInfo, values: np.ndarray, top: int) -> list[tuple[Excited, float]]:
        """Return the neurons of a layer with activations `values` [M] that are furthest from their usual ones.

        With each comes its activation relative to its highest one.
        """
        rows = catalog.neuron_rows(self._store, info)
        quantiles = np.asarray(rows["quantiles"].combine_chunks().flatten()).reshape(info.neurons, -1)
        shares = np.array([np.interp(v, q, schema.QUANTILES) for v, q in zip(values, quantiles, strict=True)])
        highest = rows["max"].to_numpy()
        strength = np.where((highest > 0) & (values > 0), values / np.where(highest > 0, highest, 1.0), 0.0)
        shares[strength <= 0] = 0.0
        best = np.lexsort((np.arange(info.neurons), -strength, -shares))[:top]
        return [
            (Excited(f"{info.key}/{n}", float(values[n]), float(shares[n])), float(strength[n]))
            for n in best.tolist()
            if strength[n] > 0
        ]


def _encoder_error(source: EncoderInfo, exc: CspIndexError) -> ModelError:
    if source.is_imported:
        return ModelError(
            f"encoder {source.name} came as arrays and reads neither texts nor pictures: search by a neuron or an "
            "image, or index the images with an encoder"
        )
    return ModelError(str(exc))


def _unit(vector: torch.Tensor) -> np.ndarray:
    unit: np.ndarray = torch.nn.functional.normalize(vector.float(), dim=0).numpy()
    return unit
