"""Rows on indexing: the pass over images beside the bare loop over the same models, turn by turn in one process.

The bare loop is what one would write by hand, with the models as their libraries give them: decode, preprocess for
both, run both, keep the results in memory. Models are loaded once, before anything is measured; a pass makes a new
index, and starts its processes, within the time that is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_data import Bench, child
from bench_rows import Row

if TYPE_CHECKING:
    import numpy as np

_BATCH = 32
_LAYER = "layer4"
_SHARDS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through: images [height, width], the network, the encoder's width and layers."""

    images: int
    height: int
    width: int
    network: str
    encoder_width: int
    encoder_layers: int


_QUICK = Load(16, 96, 128, "resnet18", 64, 1)
_FULL = Load(768, 375, 500, "resnet18", 384, 12)  # the encoder is a ViT-S/32
WAYS = ("bare", "threads", "processes")
_BARS: tuple[tuple[str, str, str, Callable[[float], bool]], ...] = (
    ("threads", "against the bare loop, one process", ">= 0.95 x", lambda ratio: ratio >= 0.95),
    ("processes", "against the bare loop, with decode workers", "> 1 x", lambda ratio: ratio > 1),
)


def rows(bench: Bench) -> list[Row]:
    """Measure images a second of the pass, without and with decode workers, against the bare loop."""
    load = _QUICK if bench.quick else _FULL
    place = bench.folder / "index-speed"
    found = child(__file__, "measure", str(place), json.dumps(asdict(load)), str(bench.turns))
    shutil.rmtree(place, ignore_errors=True)
    models = f"ViT of {load.encoder_layers} x {load.encoder_width} and {load.network}"
    what = f"indexing {load.images:,} JPEG of {load.width} x {load.height}, {models}"
    made = []
    for way, told, bar, holds in _BARS:
        ratio = _ratio(found["seconds"], way)
        detail = {"s": found["seconds"], "core s": found["core seconds"], "workers": found["workers"]}
        detail |= {"once begun, x": _ratio(found["steady"], way)}
        made.append(Row(f"index.{way}", f"{what}, {told}", ratio, "x", bar, holds(ratio), detail))
    speed = load.images / statistics.median(found["seconds"]["processes"])
    return [*made, Row("index.speed", f"{what}, with decode workers", speed, "images/s", "", None)]


def _ratio(seconds: dict[str, list[float]], way: str) -> float:
    return statistics.median(bare / own for bare, own in zip(seconds["bare"], seconds[way], strict=True))


# What follows runs in a child.


def measure(place: Path, load: Load, turns: int) -> dict[str, Any]:
    """Return the seconds of every way in every turn: all images, and those after the first batches (steady)."""
    shutil.rmtree(place, ignore_errors=True)
    images, encoder, weights = make(place, load)
    workers = max(1, len(os.sched_getaffinity(0)) // 2 if hasattr(os, "sched_getaffinity") else 1)
    runs = _ways(place, images, encoder, weights, load, workers)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    steady: dict[str, list[float]] = {way: [] for way in WAYS}
    cores: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns):
        results = []
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            times, busy = [time.monotonic()], _busy()
            results.append(runs[way](partial(_note, times)))
            seconds[way].append(time.monotonic() - times[0])
            steady[way].append(times[-1] - times[len(times) // 4])
            cores[way].append(_busy() - busy)
        _compare(results)
    return {"seconds": seconds, "steady": steady, "core seconds": cores, "workers": workers}


def _note(times: list[float]) -> None:
    times.append(time.monotonic())


def _busy() -> float:
    """Return the core seconds this process and its ended children have taken."""
    return sum(os.times()[:4])


Step = Callable[[], None]  # called after each batch


def _ways(
    place: Path, images: Path, encoder: Path, weights: Path, load: Load, workers: int
) -> dict[str, Callable[[Step], np.ndarray]]:
    import numpy as np

    from csp_index.images.sources import open_source
    from csp_index.indexing.indexer import add_images
    from csp_index.models.encoders import load_encoder
    from csp_index.models.networks import load_network
    from csp_index.store.column_tables import activations_table, embeddings_table
    from csp_index.store.connect import create_store

    seen = load_encoder(f"open_clip:{encoder}")
    studied = load_network(f"torchvision:{load.network}/none", layers=[_LAYER], weights=weights)

    def index(step: Step, processes: int) -> np.ndarray:
        db = place / "db"
        store = create_store(db)
        source = open_source(images)
        size = load.images // _SHARDS  # so that a shard is written meanwhile
        add_images(
            store, source, [seen], [studied], shard_size=size, decode_workers=processes, progress=lambda *_: step()
        )
        vectors = np.array(store.read(embeddings_table(seen.spec))["embedding"].to_pylist())
        values = store.read(activations_table(f"{load.network}/{_LAYER}"))["values"].to_pylist()
        shutil.rmtree(db)
        shards = np.array(values).reshape(_SHARDS, -1, load.images // _SHARDS)
        return np.concatenate([vectors, shards.transpose(0, 2, 1).reshape(load.images, -1)], axis=1)

    return {
        "bare": _bare(images, encoder, weights, load),
        "threads": lambda step: index(step, 0),
        "processes": lambda step: index(step, workers),
    }


def _bare(images: Path, encoder: Path, weights: Path, load: Load) -> Callable[[Step], np.ndarray]:
    import open_clip
    import torch
    import torchvision
    from PIL import Image
    from safetensors.torch import load_file

    clip, prepare = open_clip.create_model_from_pretrained(f"local-dir:{encoder}")
    clip.eval()
    network = torchvision.models.get_model(load.network, weights=None).eval()
    network.load_state_dict(load_file(weights))
    transform = torchvision.models.get_model_weights(load.network).DEFAULT.transforms()
    maps: list[torch.Tensor] = []
    network.get_submodule(_LAYER).register_forward_hook(lambda module, inputs, output: maps.append(output.mean((2, 3))))
    files = sorted(images.iterdir())

    def loop(step: Step) -> np.ndarray:
        vectors = []
        maps.clear()
        with torch.inference_mode():
            for start in range(0, len(files), _BATCH):
                pictures = [Image.open(file).convert("RGB") for file in files[start : start + _BATCH]]
                vectors.append(clip.encode_image(torch.stack([prepare(p) for p in pictures]), normalize=True))
                network(torch.stack([transform(p) for p in pictures]))
                step()
        return torch.cat([torch.cat(vectors), torch.cat(maps)], dim=1).numpy()

    return loop


def _compare(results: list[np.ndarray]) -> None:
    import numpy as np

    for found in results[1:]:
        if found.shape != results[0].shape or not np.allclose(found, results[0], atol=1e-3, rtol=1e-3):
            raise SystemExit("the pass and the bare loop differ: what they take cannot be compared")


def make(place: Path, load: Load) -> tuple[Path, Path, Path]:
    """Write seeded JPEG images, an encoder of open_clip's class and weights of the network; return where."""
    import numpy as np
    import open_clip
    import torch
    import torchvision
    from PIL import Image
    from safetensors.torch import save_file

    images, encoder, weights = place / "images", place / "encoder", place / "network.safetensors"
    images.mkdir(parents=True)
    encoder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(load.images):
        blobs = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(blobs.resize((load.width, load.height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + rng.integers(-12, 13, smooth.shape[:2])[..., None]
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(images / f"{number:06}.jpg", quality=90)
    vision = {"image_size": 224, "layers": load.encoder_layers, "width": load.encoder_width, "patch_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    shape: dict[str, Any] = {"embed_dim": 256, "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": shape, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (encoder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(256, vision, text).state_dict(), encoder / "open_clip_model.safetensors")
    save_file(torchvision.models.get_model(load.network, weights=None).state_dict(), weights)
    return images, encoder, weights


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "measure":
        print(json.dumps(measure(Path(sys.argv[2]), Load(**json.loads(sys.argv[3])), int(sys.argv[4]))))
    else:
        sys.exit(f"usage: {__doc__}")
