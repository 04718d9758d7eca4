"""Decode images and preprocess them for every model at once, ahead of the models, in the requested order.

Knows nothing about the store or the models: a preprocessing is a function of a picture. Each image is decoded once, for
all models and its thumbnail. An image that cannot be read, or on which a preprocessing raises, becomes an
:class:`ImageFailure` in its place. Threads of this process do the work, or separate processes; the results are equal.
"""

from __future__ import annotations

import logging
import os
import pickle  # see below  # nosec B403
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice

import torch
from PIL import Image

from csp_index import settings
from csp_index.concurrency import Workers, worker_payload
from csp_index.errors import CspIndexError, ModelError, SettingError, SourceError, one_line
from csp_index.files import code_folders
from csp_index.images.decode import ImageFailure, ImageRef, Payload, fetch, read_image, thumbnail
from csp_index.images.files.containers import ContainerReader
from csp_index.images.memory_images import MemoryImage, read_image_of

Preprocess = Callable[[Image.Image], torch.Tensor]

_log = logging.getLogger(__name__)

_CHUNK = 8  # images a process takes at a time
_AHEAD = 4  # chunks prepared for each process while the models run
_THREADS_AHEAD = 32  # images prepared by threads while the models run
_MANY_CORES, _MANY_IMAGES, _MOST_WORKERS = 6, 4096, 8  # from these sizes on, processes start by default
_GPU_CORES, _GPU_IMAGES, _MOST_GPU_WORKERS = 2, 256, 16  # the same where a GPU runs the models
_MOST_BYTES = 2**20  # of preprocessings that are sent to processes by default


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoded image, ready for every model, without the image itself."""

    ref: ImageRef
    sha256: str
    width: int
    height: int
    thumbnail: bytes
    pixels: tuple[torch.Tensor, ...]


def prepare(
    ref: ImageRef,
    payload: Payload,
    preprocess: Sequence[Preprocess],
    thumbnail_size: int,
    draft: int | None = None,
) -> Prepared | ImageFailure:
    """Return the image decoded and preprocessed, once for each of `preprocess`; or why it cannot be used.

    A function that is there several times is called once: models that share it share its result.
    `payload` is what `decode.fetch` returned, `draft` that of `decode.decode_picture`.
    """
    item = read_image(ref.uri, payload, draft)
    if isinstance(item, ImageFailure):
        return item
    try:
        inputs = {id(one): _input(one, item.image) for one in {id(one): one for one in preprocess}.values()}
        pixels = tuple(inputs[id(one)] for one in preprocess)
    except Exception as exc:  # it is somebody else's code
        message = str(exc) if isinstance(exc, CspIndexError) else f"{type(exc).__name__}: {one_line(exc)}"
        return ImageFailure(ref.uri, f"the preprocessing of a model fails: {message}", by_model=True)
    return Prepared(ref, item.sha256, item.width, item.height, thumbnail(item.image, thumbnail_size), pixels)


def _input(preprocess: Preprocess, image: Image.Image) -> torch.Tensor:
    pixels: object = preprocess(image)
    if not isinstance(pixels, torch.Tensor):
        raise ModelError(f"it returns {type(pixels).__name__}, expected a tensor [C, H, W]")
    return pixels


def stacked(pixels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a batch of one model's inputs as one tensor. Raises ModelError if they differ in shape."""
    shapes = {tuple(one.shape) for one in pixels}
    if len(shapes) > 1:
        sizes = ", ".join(map(str, sorted(shapes)[:2]))
        raise ModelError(f"a model's preprocessing gives inputs of several shapes ({sizes}): expected one shape")
    return torch.stack(list(pixels))


def decoded(
    refs: Iterable[ImageRef], preprocess: Sequence[Preprocess], *, workers: int = 0, draft: int | None = None
) -> Generator[Prepared | ImageFailure, None, None]:
    """Yield every image, decoded and preprocessed, or its failure, in order; threads or processes work ahead.

    With `workers` = 0 threads do all the work, as many as the setting decode_threads says; else they work only until
    the processes are ready. Close the generator to end them all. Containers are read here, one image after another;
    plain files where they are decoded; `draft` is that of `decode.decode_picture`. Raises SettingError if a
    preprocessing cannot be sent to a process, SourceError if a process dies.
    """
    pools = _Pools(preprocess, settings.THUMBNAIL_SIZE.value(), draft, workers)
    chunk, ahead = (_CHUNK, _AHEAD * workers) if workers else (1, _THREADS_AHEAD)
    running: deque[tuple[list[ImageRef], Future[Chunk]]] = deque()
    following = iter(refs)
    reader = ContainerReader()
    try:
        while taken := [_fetched(reader, ref) for ref in islice(following, chunk)]:
            jobs = [(ref.uri, payload) for ref, payload in taken]
            running.append(([ref for ref, _ in taken], pools.submit(jobs)))
            if len(running) > ahead:
                yield from _unpacked(*running.popleft())
        while running:
            yield from _unpacked(*running.popleft())
    except BrokenProcessPool as exc:
        raise SourceError(
            "a process that decodes images was killed, perhaps for want of memory (or of space in /dev/shm): run "
            "again, it goes on where it stopped; with --decode-workers 0 images are decoded without processes"
        ) from exc
    finally:
        pools.close()
        reader.close()


def _fetched(reader: ContainerReader, ref: ImageRef) -> tuple[ImageRef, Payload]:
    """Return an image and what it is decoded from; a picture in memory brings metadata with it."""
    if ref.failure is not None:
        return ref, SourceError(ref.failure)
    payload = fetch(reader, ref.uri) if ref.read is None else read_image_of(ref.read)
    if isinstance(payload, MemoryImage):
        return ImageRef(ref.uri, {**ref.metadata, **payload.metadata}), replace(payload, metadata={})
    return replace(ref, read=None), payload


def workers_for(images: int, preprocess: Sequence[Preprocess], *, gpu: bool = False) -> int:
    """Return how many processes are worth starting to decode this many images; 0 stands for threads.

    Starting a process costs a core some seconds. With few cores that never pays: threads do as much, because pictures
    are decoded and scaled without Python's lock, and models on the CPU need the cores themselves. Where a GPU runs the
    models (`gpu`), all cores but one decode: it waits for pictures, and threads would keep Python's lock from the one
    that feeds it (of 8.8 ms of this process per picture, processes leave 0.1 ms of Python). No processes are started
    if a preprocessing cannot be sent to them, or carries a whole model; where a GPU waits, a warning says so.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    least_cores, least_images = (_GPU_CORES, _GPU_IMAGES) if gpu else (_MANY_CORES, _MANY_IMAGES)
    if cores < least_cores or images < least_images:
        return 0
    obstacle = _obstacle(preprocess)
    if obstacle is None:
        return min(cores - 1, _MOST_GPU_WORKERS) if gpu else min(cores // 2, _MOST_WORKERS)
    if gpu:
        _log.warning("images are decoded by threads, for which the GPU may wait: %s", obstacle)
    return 0


def _obstacle(preprocess: Sequence[Preprocess]) -> str | None:
    """Return why preprocessings are not sent to processes by default, None if they are."""
    try:
        packed = _packed(preprocess)
    except SettingError as exc:
        return str(exc)
    if len(packed) > _MOST_BYTES:
        return f"the preprocessings take {len(packed):,} bytes to send to a process, as where they carry a whole model"
    return "a preprocessing is defined in the script that runs, not in a module" if b"__main__" in packed else None


class _Pools:
    """Threads, and processes that take over from them as soon as all are ready to work."""

    def __init__(self, preprocess: Sequence[Preprocess], size: int, draft: int | None, workers: int) -> None:
        self._in_threads = partial(_prepare_all, preprocess, size, draft)
        self._in_process = partial(_work, size, draft)
        self._threads = ThreadPoolExecutor(settings.DECODE_THREADS.value(), thread_name_prefix="csp-index-decode")
        self._processes = Workers(workers, _packed(preprocess), code_folders.known()) if workers else None
        self._starting: list[Future[None]] = []
        if self._processes is not None:
            self._starting = [self._processes.submit(_get_ready) for _ in range(workers)]

    def submit(self, jobs: Sequence[tuple[str, Payload]]) -> Future[Chunk]:
        if self._processes is None or not all(start.done() for start in self._starting):
            return self._threads.submit(self._in_threads, jobs)
        while self._starting:
            self._starting.pop().result()  # raises the error of a failed start
        return self._processes.submit(self._in_process, jobs)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._processes is not None:
            self._processes.end()


# what travels between processes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighboring images without what the caller knows already; the inputs of the readable ones, stacked by model."""

    images: list[Prepared | ImageFailure]
    pixels: tuple[torch.Tensor, ...] | None  # None if each image has its own


def _packed(preprocess: Sequence[Preprocess]) -> bytes:
    try:
        return pickle.dumps(tuple(preprocess))
    except Exception as exc:  # pickle raises whatever the object's own code raises
        raise SettingError(
            f"the preprocessing of a model cannot be sent to another process ({one_line(exc)}): "
            "use --decode-workers 0, or make it a function of a module"
        ) from exc


@cache
def _worker_preprocess() -> tuple[Preprocess, ...]:
    torch.set_num_threads(1)  # the processes already run in parallel
    try:
        return tuple(pickle.loads(worker_payload()))  # the parent process wrote it a moment ago  # nosec B301
    except Exception as exc:
        raise SettingError(
            f"a process that decodes images cannot load the preprocessing of a model ({one_line(exc)}): "
            "use --decode-workers 0"
        ) from exc


def _get_ready() -> None:
    _worker_preprocess()


def _prepare_all(
    preprocess: Sequence[Preprocess], size: int, draft: int | None, jobs: Sequence[tuple[str, Payload]]
) -> Chunk:
    return Chunk([prepare(ImageRef(uri), payload, preprocess, size, draft) for uri, payload in jobs], None)


def _work(size: int, draft: int | None, jobs: Sequence[tuple[str, Payload]]) -> Chunk:
    images = _prepare_all(_worker_preprocess(), size, draft, jobs).images
    sound = [image for image in images if isinstance(image, Prepared)]
    # One tensor per model, passed in shared memory: each costs a file descriptor as long as it exists.
    pixels = tuple(stacked(column) for column in zip(*(image.pixels for image in sound), strict=True))
    return Chunk([image if isinstance(image, ImageFailure) else replace(image, pixels=()) for image in images], pixels)


def _unpacked(refs: Sequence[ImageRef], future: Future[Chunk]) -> Iterator[Prepared | ImageFailure]:
    chunk = future.result()
    rows = None if chunk.pixels is None else zip(*chunk.pixels, strict=True)
    for ref, image in zip(refs, chunk.images, strict=True):
        if isinstance(image, ImageFailure):
            yield image
        else:
            yield replace(image, ref=ref) if rows is None else replace(image, ref=ref, pixels=next(rows, ()))
