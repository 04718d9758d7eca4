"""What activation maps cost: their share of a pass's CPU seconds, and bytes of a kept map, with a ResNet-50 on noise.

Maps that are noise themselves, of which no content takes more, stand beside those of the network.

    python scripts/benchmarks/measure_maps.py OUT --images 512

Every function that makes maps is timed by the seconds of its own thread, so other processes of the machine do not
count. The weights are random, as the time does not depend on them; an encoder that does nothing stands beside it. The
fewer the images, the more of them are among the top ones while they pass: of 50,000 the share is smaller. Start with
OMP_NUM_THREADS=1: else other threads of torch work too, whose seconds are missing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from csp_index import Encoder, NetworkSource, open_index
from csp_index.indexing import indexer
from csp_index.indexing.map_watch import TopWatch
from csp_index.models.layers.coarse_maps import as_levels
from csp_index.store import column_tables
from csp_index.store.values.activation_maps import Frame, MapPairs, packed

LAYERS = ("layer3", "layer4")
NOISY, KEPT, AMONG = 1024, 30, 50_000  # neurons with maps of noise, maps of each, images that these are of


class Nothing:
    """An encoder that looks at three pixels."""

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return a vector per picture."""
        return pixels[:, :, 0, 0] + 1.5

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Return a vector per text."""
        return torch.ones(len(texts), 3)


def first_pixels(image: Any) -> torch.Tensor:
    """Return the upper left corner of a picture."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32)[:2, :2] / 255).permute(2, 0, 1)


class Clock:
    """Seconds of a core that functions took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, owner: Any, name: str) -> None:
        """Count the seconds of a function of a module or class from now on."""
        real: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            started = time.thread_time()
            try:
                return real(*args, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started

        setattr(owner, name, counted)


def noise(side: int) -> pa.Table:
    """Return rows of maps [side, side] whose places are drawn evenly between 0 and the largest."""
    rng = np.random.default_rng(0)
    count = NOISY * KEPT
    images = np.concatenate([rng.choice(AMONG, KEPT, replace=False) for _ in range(NOISY)])
    maps = torch.from_numpy(rng.random((count, side, side), np.float32) * rng.random((count, 1, 1), np.float32))
    levels, scales = as_levels(maps)
    pairs = MapPairs(np.repeat(np.arange(NOISY), KEPT), images, scales.numpy(), levels.numpy())
    return packed(Frame(side, side, 1.0), pairs, np.arange(NOISY), 0, AMONG)


def bytes_of(folder: Path, table: str) -> int:
    """Return the bytes of the newest file of a table."""
    files = (folder / f"{table}.lance" / "data").iterdir()
    return max(files, key=lambda file: file.stat().st_mtime).stat().st_size


def main() -> None:
    """Print one JSON object."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("--images", type=int, default=512)
    told = options.parse_args()
    coarse = np.random.default_rng(0).integers(0, 256, (told.images, 32, 32, 3), dtype=np.uint8)
    clock = Clock()
    for owner, name in ((TopWatch, "__call__"), (TopWatch, "learn"), (indexer, "write_shard_maps")):
        clock.timed(owner, name)
    clock.timed(indexer, "finish_maps")
    index = open_index(told.out / "maps.db")
    encoder = Encoder(Nothing(), first_pixels, name="nothing")
    network = NetworkSource("torchvision:resnet50/none", LAYERS)
    index.add_images(coarse[:8], name="warm", encoders=[encoder], networks=[network])
    clock.seconds.clear()
    started, wall = time.process_time(), time.perf_counter()
    index.add_images(coarse, name="noise", encoders=[encoder], networks=[network])
    spent, seconds = time.process_time() - started, time.perf_counter() - wall
    maps = sum(clock.seconds.values())
    result: dict[str, Any] = {"images": told.images, "cpu_seconds": spent, "seconds": seconds, "of_maps": clock.seconds}
    result["slower"] = maps / (spent - maps)
    for layer in LAYERS:
        table = column_tables.maps_table(f"resnet50/{layer}")
        pairs = len(index.store.read(table, ["image_ids"])["image_ids"].combine_chunks().flatten())
        result[layer] = {"maps": pairs, "bytes_a_map": bytes_of(told.out / "maps.db", table) / pairs}
    for side in (7, 14):
        table = column_tables.maps_table(f"noise/{side}")
        index.store.append(table, noise(side))
        result[f"noise {side} x {side}"] = {
            "maps": NOISY * KEPT,
            "bytes_a_map": bytes_of(told.out / "maps.db", table) / (NOISY * KEPT),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
