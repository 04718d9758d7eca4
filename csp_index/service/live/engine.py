"""The engine: loads all of the service that needs torch, in the background, and hands it out once it is loaded.

So the service answers whatever needs no torch in the meantime, as what needs only stored vectors. Importing this module
does not load torch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from csp_index.errors import BusyError, CspIndexError, StoreError, one_line
from csp_index.models.trust import may_run
from csp_index.records import LayerKey
from csp_index.service.config import ServiceSettings
from csp_index.service.live.queries import Concepts
from csp_index.service.live.shared_models import SharedModels
from csp_index.service.live.stored_vectors import StoredVectors
from csp_index.service.snapshot import Snapshot
from csp_index.store.catalog import LayerInfo

if TYPE_CHECKING:
    from csp_index.service.live.live_models import LiveModels


_WAIT = 0.8  # of the time limit of a request: who waits is told what for before the service gives up


class Engine:
    """The models, vectors and labels of a snapshot, loaded on first use; many threads may share it."""

    def __init__(self, snapshot: Snapshot, config: ServiceSettings, shared: SharedModels | None = None) -> None:
        """Refer to the snapshot; nothing is loaded before `start`. `shared` are models that other engines use, too."""
        self._snapshot, self._config = snapshot, config
        self._shared = shared or SharedModels(trust=config.trust)
        self._lock, self._done = threading.Lock(), threading.Event()
        self._encoder_done = threading.Event()
        self._encoder_began: float | None = None
        self._started = False
        self._stored = self._reader()
        self._models: LiveModels | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to load, in a separate thread; further calls do nothing."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._load, name="engine", daemon=True).start()

    def models(self, timeout: float | None = None) -> LiveModels:
        """Return what is loaded, once it is; wait for `timeout` seconds, by default most of the service's limit.

        Raises BusyError where loading takes longer, and, where it failed, the reason, each time.
        """
        self.start()
        self._done.wait(_WAIT * self._config.timeout if timeout is None else timeout)
        if self._models is not None:
            return self._models
        if self._failure is None:
            raise BusyError("the service is still loading what this needs: ask again in a few seconds")
        kind = type(self._failure) if isinstance(self._failure, CspIndexError) else StoreError
        raise kind(f"the service could not load what this needs: {one_line(self._failure)}") from self._failure

    def may_run(self, target: LayerInfo) -> bool:
        """Return whether the network of a layer may be loaded here: it is named, and no code of the index alone.

        Whether it can be is known once it is.
        """
        return not target.is_imported and bool(target.network) and may_run(target.network, self._shared.trust)

    def concepts(self, key: LayerKey) -> Concepts:
        """Return the concept vectors that a layer has; waits for no model. NotFoundError for an unknown layer."""
        return self._stored.concepts(key)

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        """Return the unit embeddings [I, D] of images, in their order; waits for no model.

        They come from memory once that is loaded. Raises NotFoundError for an unknown image.
        """
        return (self._models or self._stored).vectors_of(ids)

    def nearest_images(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the images most similar to a unit vector [D], with their cosines, best first; waits for no model."""
        return (self._models or self._stored).nearest_images(vector, count)

    def loading_encoder(self) -> float | None:
        """Return for how many seconds the encoder has been loading, which begins here; None once it is there.

        It waits a moment (the setting serve_patience) for one that is nearly there. An encoder that cannot be loaded,
        or none, counts as there: who asks it gets the reason.
        """
        began = self._begin_encoder()
        return None if self._encoder_done.wait(self._config.patience) else time.monotonic() - began

    def wait_for_encoder(self) -> None:
        """Return once the encoder is there or cannot be loaded. Raises BusyError where that takes too long."""
        began = self._begin_encoder()
        if not self._encoder_done.wait(_WAIT * self._config.timeout):
            seconds = time.monotonic() - began
            raise BusyError(f"the encoder is loading, for {seconds:.0f} s so far: ask again in a few seconds")

    def _begin_encoder(self) -> float:
        """Begin to load the encoder, once; return when that was."""
        with self._lock:
            if self._encoder_began is None:
                self._encoder_began = time.monotonic()
                threading.Thread(target=self._load_encoder, name="encoder", daemon=True).start()
            return self._encoder_began

    def _load_encoder(self) -> None:
        try:
            self.start()
            self.wait()
            if self._models is not None:
                self._models.load_encoder()
        finally:
            self._encoder_done.set()

    def close(self) -> None:
        """Let go of everything; a further question loads it again."""
        with self._lock:
            self._started, self._models, self._failure = False, None, None
            self._done = threading.Event()
            self._stored = self._reader()

    def wait(self) -> None:
        """Return once everything is loaded, or loading has failed; it must have begun."""
        self._done.wait()

    @property
    def ready(self) -> bool:
        """Whether everything is loaded, so that `models` does not wait."""
        return self._models is not None

    @property
    def failed(self) -> bool:
        """Whether loading failed; `models` raises the reason."""
        return self._failure is not None

    def _reader(self) -> StoredVectors:
        return StoredVectors(self._snapshot, self._config.held_bytes // 4)

    def _load(self) -> None:
        try:
            from csp_index.labelling.candidates import read_text_arrays
            from csp_index.service.live.live_models import LiveModels
            from csp_index.tensors.torch_threads import one_thread

            texts = None if self._config.texts is None else read_text_arrays(*self._config.texts)
            with one_thread():
                self._models = LiveModels(self._snapshot, self._config, self._shared, texts)
        except Exception as exc:  # whatever it is, it must reach the threads that wait
            self._failure = exc
        finally:
            self._done.set()
