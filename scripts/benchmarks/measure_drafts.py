"""Measure `csp-index index --draft` on large photographs: `python scripts/benchmarks/measure.py drafts`.

16 made JPEGs of 4000 x 3000 with the detail of photographs, a ViT of 12 layers x 384 and resnet18 with random weights,
indexed whole and reduced in turn, in one process: CPU seconds of a pass, and how near the vectors stay.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import numpy as np
from bench_index import Load, make
from PIL import Image

PICTURES, WIDTH, HEIGHT, TURNS = 16, 4000, 3000, 5
_LAYER = "layer4"
_MODELS = Load(1, 96, 128, "resnet18", 384, 12)


def photograph(seed: int) -> Image.Image:
    """Return a picture whose detail falls with its size as in photographs, with the noise of a sensor."""
    rng = np.random.default_rng(seed)
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(2, 12):
        count = 2**octave
        small = rng.standard_normal((max(2, HEIGHT * count // WIDTH), count, 3)).astype(np.float32) * 2.0**-octave
        for channel in range(3):
            band = Image.fromarray(small[..., channel])
            total[..., channel] += np.asarray(band.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    total = (total - total.mean()) * (55 / total.std()) + 4 * rng.standard_normal((HEIGHT, WIDTH, 1)).astype(np.float32)
    return Image.fromarray((total + 120).clip(0, 255).astype(np.uint8))


def measure(folder: Path) -> None:
    """Make the pictures and the models, index them in turn, and print the figures."""
    from csp_index.images.sources import open_source
    from csp_index.indexing.indexer import add_images
    from csp_index.models.encoders import load_encoder
    from csp_index.models.networks import load_network
    from csp_index.store.column_tables import activations_table, embeddings_table
    from csp_index.store.connect import create_store

    _, encoder, _ = make(folder / "models", _MODELS)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(PICTURES):
        photograph(number).save(photos / f"{number:02}.jpg", quality=90)
    size = statistics.median(file.stat().st_size for file in photos.iterdir())
    print(f"{PICTURES} JPEGs of {WIDTH} x {HEIGHT}, {size / 1e6:.1f} MB each (median)")
    models = [load_encoder(f"open_clip:{encoder}")], [load_network("torchvision:resnet18/none", layers=[_LAYER])]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    values: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
    for turn in range(TURNS + 1):
        for draft in (False, True) if turn % 2 else (True, False):
            store, started = create_store(folder / "db"), time.process_time()
            add_images(store, open_source(photos), *models, decode_workers=0, draft=draft)
            if turn:  # the first one warms up
                seconds[draft].append((time.process_time() - started) / PICTURES)
            vectors = np.array(store.read(embeddings_table(models[0][0].spec))["embedding"].to_pylist())
            layer = np.array(store.read(activations_table(f"resnet18/{_LAYER}"))["values"].to_pylist())
            values[draft] = vectors, layer.T
            shutil.rmtree(folder / "db")
    whole, reduced = (statistics.median(seconds[draft]) for draft in (False, True))
    ratio = statistics.median(a / b for a, b in zip(seconds[False], seconds[True], strict=True))
    print(f"CPU seconds per picture: whole {whole:.3f}, reduced {reduced:.3f}; {ratio:.2f} x (median of {TURNS} turns)")
    for what, before, after in zip(("embeddings", "activations"), values[False], values[True], strict=True):
        _compare(what, before, after)


def _compare(what: str, whole: np.ndarray, reduced: np.ndarray) -> None:
    """Print the cosines of the vectors [N, D] with themselves, also without what all pictures share."""
    mean = whole.mean(0)
    plain, centered = _cosines(whole, reduced), _cosines(whole - mean, reduced - mean)
    own = int((centered.argmax(1) == np.arange(len(centered))).sum())
    others = (centered - 2 * np.eye(len(centered))).max()
    print(
        f"{what}: cosine with the whole picture's at least 1 - {1 - plain.diagonal().min():.0e}, without the mean "
        f"{centered.diagonal().min():.4f} (other pictures: at most {others:.2f}); "
        f"{own} of {len(centered)} nearest to their own"
    )


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product: np.ndarray = left @ right.T / np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    return product
