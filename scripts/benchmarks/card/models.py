"""Models on a card: images per second of each step of indexing alone and of all together; live answers."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_data import LAYER, Shape
from bench_index import Load, make
from bench_rows import Row
from card.paths import arrays
from card.run import Run

_QUICK, _FULL = Load(8, 96, 128, "resnet18", 64, 1), Load(256, 375, 500, "resnet50", 768, 12)
_IMAGES = 6_144  # files: each of those made many times
_CUTS = 4  # shards of the pass
_ANSWERS = 40


def models(run: Run) -> Iterator[Row]:
    """Yield the rows of indexing: decoding alone, each model alone, both, the whole pass, and what bounds it."""
    from csp_index import NetworkSource, open_index
    from csp_index.images.loader import decoded, workers_for
    from csp_index.images.sources import open_source
    from csp_index.models.encoders import load_encoder
    from csp_index.models.networks import load_network

    load, place = _QUICK if run.quick else _FULL, run.place("models")
    images, spec, network, weights = _made(place, load)
    count = _copies(images, 24 if run.quick else _IMAGES)
    encoder = load_encoder(spec, device=run.device)
    studied = load_network(network, layers=["layer4"], weights=weights, device=run.device)
    kind = f"ViT of {load.encoder_layers} x {load.encoder_width} and {load.network}"
    what = f"{count:,} JPEG of {load.width} x {load.height}"
    speeds: dict[str, float] = {}
    preprocess = [encoder.preprocess, studied.preprocess]
    workers = workers_for(count, preprocess, gpu=run.device != "cpu")

    def decode() -> None:
        for _ in decoded(open_source(images).refs(), preprocess, workers=workers):
            pass

    started = time.monotonic()
    decode()
    speeds["decode"] = count / (time.monotonic() - started)
    told = f"decode {what} and preprocess them for both models, alone, {workers or 'threads, no'} processes"
    yield Row("gpu.index.decode", told, speeds["decode"], "images/s", "", None, {"processes": workers})
    pixels = _pixels(images, encoder, studied, encoder.batch_size, studied.batch_size, run.device)
    runs: dict[str, Callable[[], Any]] = {
        "encoder": lambda: encoder.embed_images(pixels[0]),
        "network": lambda: studied.activations(pixels[1]),
    }
    for name, work in runs.items():
        size = len(pixels[name == "network"])
        speeds[name] = size / statistics.median(run.timed(work, 1 if run.quick else 5))
        yield Row(
            f"gpu.index.{name}",
            f"the {name} alone, batches of {size} on the device",
            speeds[name],
            "images/s",
            "",
            None,
        )
    both = 1 / (1 / speeds["encoder"] + 1 / speeds["network"])
    yield Row("gpu.index.models", f"{kind}: both in turn", both, "images/s", "", None)
    db = place / "db"
    started = time.monotonic()
    with open_index(db, device=run.device) as index:
        source = NetworkSource(network, ("layer4",), weights=str(weights))
        index.add_images(images, encoders=[spec], networks=[source], shard_size=-(-count // _CUTS))
    whole = count / (time.monotonic() - started)
    shutil.rmtree(db)
    bound = "decoding" if speeds["decode"] < both else "the models"
    yield Row("gpu.index.pass", f"indexing {what}, {kind}, models loaded and all written", whole, "images/s", "", None)
    told = f"the pass against what bounds it, {bound}"
    yield Row("gpu.index.share", told, whole / min(speeds["decode"], both), "x", "", None, {"bound": bound, **speeds})


def _made(place: Path, load: Load) -> tuple[Path, str, str, Path]:
    images, encoder, weights = make(place, load)
    return images, f"open_clip:{encoder}", f"torchvision:{load.network}/none", weights


def _copies(images: Path, count: int) -> int:
    """Give the files in a folder further names until there are `count`; return how many there are."""
    files = sorted(images.iterdir())
    for number in range(len(files), count):
        os.link(files[number % len(files)], images / f"{number:06}.jpg")
    return max(count, len(files))


def _pixels(images: Path, encoder: Any, network: Any, first: int, second: int, device: str) -> list[torch.Tensor]:
    """Return a batch of inputs for each model, on the device."""
    from PIL import Image

    files = sorted(images.iterdir())[:16]
    pictures = [Image.open(file).convert("RGB") for file in files]
    batches = []
    for model, size in ((encoder, first), (network, second)):
        some = torch.stack([model.preprocess(picture) for picture in pictures])
        batches.append(some.repeat(-(-size // len(some)), 1, 1, 1)[:size].to(device))
    return batches


def live(run: Run) -> Iterator[Row]:
    """Yield the rows of single answers: one neuron on the card and on the CPU, a text, a picture, its neurons."""
    yield from _neurons(run)
    yield from _pictures(run)


def _neurons(run: Run) -> Iterator[Row]:
    from csp_index import open_index

    made, texts = arrays(run, Shape(600, 24, 16, 50) if run.quick else Shape(50_000, 128, 512, 10_000))
    count = 4 if run.quick else _ANSWERS
    what = f"{made.shape.images:,} images x {made.shape.width} dims, {made.shape.texts:,} texts"
    for device in dict.fromkeys((run.device, "cpu")):
        with open_index(made.db, device=device) as index:
            numbers = iter(np.random.default_rng(0).permutation(made.shape.neurons).tolist())

            def answer(index: Any = index, numbers: Iterator[int] = numbers) -> None:
                neuron = f"{LAYER}/{next(numbers)}"
                index.label(neuron, "csp", vocabulary=texts, recompute=True, keep=False, search=False)

            times = run.timed(answer, count)
        yield _latency(
            f"neuron.{torch.device(device).type}", f"one neuron by csp, no lists, products by {device}: {what}", times
        )


def _pictures(run: Run) -> Iterator[Row]:
    from PIL import Image

    from csp_index import NetworkSource, open_index
    from csp_index.service.config import ServiceSettings
    from csp_index.service.live.live_models import LiveModels
    from csp_index.service.live.shared_models import SharedModels
    from csp_index.service.snapshot import Snapshot

    load, place = _QUICK if run.quick else Load(32, 375, 500, "resnet50", 768, 12), run.place("live")
    images, spec, network, weights = _made(place, load)
    with open_index(place / "db", device=run.device) as index:
        source = NetworkSource(network, ("layer4",), weights=str(weights))
        index.add_images(images, encoders=[spec], networks=[source])
    os.environ["CSP_INDEX_DEVICE"] = run.device
    found = LiveModels(Snapshot(str(place / "db")), ServiceSettings(), SharedModels(trust=False))
    picture = Image.open(sorted(images.iterdir())[0]).convert("RGB")
    words = iter(f"a picture of {number}" for number in range(10_000))
    answers: dict[str, tuple[str, Callable[[], Any]]] = {
        "text": ("embed a new text", lambda: found.embed_text(next(words))),
        "picture": ("embed a picture", lambda: found.embed_image(picture)),
        "excited": ("the neurons that a picture excites most", lambda: found.excited(picture, 10)),
    }
    for name, (what, work) in answers.items():
        yield _latency(name, f"{what}, {run.card()}", run.timed(work, 3 if run.quick else _ANSWERS))
    del os.environ["CSP_INDEX_DEVICE"]


def _latency(name: str, what: str, seconds: list[float]) -> Row:
    times = sorted(1e3 * one for one in seconds)
    last = times[min(len(times) - 1, int(0.95 * len(times)))]
    return Row(
        f"gpu.live.{name}",
        f"{what}; 95 % within {last:.3g} ms",
        statistics.median(times),
        "ms",
        "",
        None,
        {"ms": times},
    )
