"""The engine: all of the service that needs torch, behind one object that is there at once.

It loads in the background, so that the service answers whatever needs no torch in the meantime; each method waits until
that is done. Importing this module does not load torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from csp_index.errors import BusyError, CspIndexError, StoreError, one_line
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.live.queries import Concepts as Concepts
from csp_index.service.live.queries import Excited as Excited
from csp_index.service.live.queries import LabelQuery as LabelQuery
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from PIL.Image import Image

    from csp_index.service.live.loaded import Loaded

V = TypeVar("V")


class Engine:
    """Models, vectors and labels over a snapshot; many threads may ask.

    Every method raises StoreError where loading takes longer than the service's time limit, and, where loading failed,
    the reason, each time. NotFoundError: no such layer, neuron or image. ModelError: texts and pictures cannot be
    embedded, because the encoder came as arrays or cannot be loaded.
    """

    def __init__(self, snapshot: Snapshot, config: ServiceSettings) -> None:
        """Refer to the snapshot; nothing is loaded before `start`."""
        self._snapshot, self._config = snapshot, config
        self._lock, self._done = threading.Lock(), threading.Event()
        self._started = False
        self._loaded: Loaded | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to load, in a thread of its own; further calls do nothing."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._load, name="engine", daemon=True).start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until everything is loaded, for the service's time limit unless told otherwise, in seconds."""
        self._inside(timeout)

    @property
    def ready(self) -> bool:
        """Whether everything is loaded, so that no method waits."""
        return self._loaded is not None

    @property
    def failed(self) -> bool:
        """Whether loading failed; every method tells why."""
        return self._failure is not None

    def concepts(self, key: LayerKey) -> Concepts:
        """Return the concept vectors of a layer's neurons.

        CSP's, where a label run left those of the whole layer, else the centred means of the activating images.
        """
        return self._ask(lambda loaded: loaded.concepts(key))

    def embed_text(self, text: str) -> np.ndarray:
        """Return the unit vector [D] of a text, within the templates that the index used last."""
        return self._ask(lambda loaded: loaded.embed_text(text))

    def embed_image(self, image: Image) -> np.ndarray:
        """Return the unit vector [D] of a picture."""
        return self._ask(lambda loaded: loaded.embed_image(image))

    def excited(self, image: Image, top: int) -> list[Excited] | None:
        """Return the neurons of all layers that a picture excites most, or None where no network can be loaded.

        The first are those that the largest share of the indexed images excites less (their `quantile`); where that is
        equal, those whose activation is highest against the highest one of the indexed images.
        """
        return self._ask(lambda loaded: loaded.excited(image, top))

    def activations(self, key: NeuronKey) -> np.ndarray:
        """Return a neuron's activations on all images, [N]; not to be changed."""
        return self._ask(lambda loaded: loaded.activations(key))

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        """Return the unit embeddings [I, D] of images, in their order."""
        return self._ask(lambda loaded: loaded.vectors_of(ids))

    def nearest_images(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the images most similar to a unit vector [D], with their cosines, best first; ties by lower id."""
        return self._ask(lambda loaded: loaded.nearest_images(vector, count))

    def relabel(self, query: LabelQuery) -> list[dict[str, Any]]:
        """Return a result for each neuron of a query, in its order: what `Index.label` answers to the same options.

        Keys: neuron, method, state, labels (text, score, low, high, share), activating, contrastive, pairs, note,
        confidence, uncertain, doubt, rivals, threshold. Errors: LabelError and SettingError for what cannot be asked.
        """
        return self._ask(lambda loaded: loaded.relabel(query))

    def _ask(self, question: Callable[[Loaded], V]) -> V:
        loaded = self._inside()
        from csp_index.concurrency import one_thread  # torch is there by now

        with one_thread():
            return question(loaded)

    def _inside(self, timeout: float | None = None) -> Loaded:
        self.start()
        self._done.wait(self._config.timeout if timeout is None else timeout)
        if self._loaded is not None:
            return self._loaded
        if self._failure is None:
            raise BusyError("the service is still loading what this needs: ask again in a few seconds")
        kind = type(self._failure) if isinstance(self._failure, CspIndexError) else StoreError
        raise kind(f"the service could not load what this needs: {one_line(self._failure)}") from self._failure

    def _load(self) -> None:
        try:
            from csp_index.concurrency import one_thread
            from csp_index.labelling.candidates import read_text_arrays
            from csp_index.service.live.loaded import Loaded

            texts = None if self._config.texts is None else read_text_arrays(*self._config.texts)
            with one_thread():
                self._loaded = Loaded(self._snapshot, self._config.held_bytes, texts)
        except Exception as exc:  # whatever it is, it must reach those who wait
            self._failure = exc
        finally:
            self._done.set()
