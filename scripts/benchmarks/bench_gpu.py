"""The row on a GPU: labelling a layer over as many images as ImageNet-1k has; without a GPU it says so."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from typing import Any

from bench_data import LAYER, Bench, Shape, beyond, child
from bench_rows import Row

_SHAPE = Shape(1_281_167, 2_048, 512, 10_000)


def gpu(bench: Bench) -> list[Row]:
    """Measure labelling on the card: the whole command, and again in a process that has everything in memory."""
    what = f"on a GPU: label {_SHAPE.neurons:,} neurons x {_SHAPE.images:,} images x {_SHAPE.width} dims"
    if bench.quick or shutil.which("nvidia-smi") is None:
        return [Row("gpu.label-all", what, None, "s", "< 2 s in memory", None, {"why": "no GPU"})]
    bench.shapes = {**bench.shapes, "gpu": _SHAPE}
    (made,) = bench.made("gpu")
    runs = bench.beside_start_up({"label": made.label_command("all", "--device", "cuda")})
    whole = statistics.median(beyond(runs["label"], runs["start-up"]))
    found = child(__file__, "warm", str(made.folder), str(bench.turns))
    seconds = statistics.median(found["products"])
    share = found["operations"] / seconds / found["peak"]
    return [
        Row("gpu.label-all", f"{what}, beyond start-up", whole, "s", "", None, found),
        Row("gpu.products", "the same, nearest images from embeddings in memory", seconds, "s", "< 2 s", seconds < 2),
        Row("gpu.share", f"the same, share of the {found['card']}'s float32 matrix peak", share, "share", "", None),
    ]


# What follows runs in a child.


def warm(folder: str, turns: int) -> dict[str, Any]:
    """Return the seconds of the products with their arg-max on the card, and of whole labelling in a warm process."""
    import numpy as np
    import torch

    from csp_index import open_index
    from csp_index.labelling.candidates import read_text_arrays

    embeddings = torch.from_numpy(np.load(f"{folder}/E.npy")).cuda()
    rows = embeddings[torch.from_numpy(np.load(f"{folder}/distinct.npy")).cuda()]
    index, texts = open_index(f"{folder}/db", device="cuda"), read_text_arrays(f"{folder}/T.npy", f"{folder}/T.txt")
    products, labels = [], []
    for _ in range(turns + 1):
        started = time.monotonic()
        best = torch.full((len(rows),), -torch.inf, device="cuda")
        for tile in embeddings.split(16_384):
            torch.maximum(best, (rows @ tile.T).amax(1), out=best)
        torch.cuda.synchronize()
        products.append(time.monotonic() - started)
        started = time.monotonic()
        index.label(LAYER, "csp", vocabulary=texts, recompute=True, keep=False)
        labels.append(time.monotonic() - started)
    square = torch.randn(8192, 8192, device="cuda")
    square @ square
    torch.cuda.synchronize()
    started = time.monotonic()
    for _ in range(5):
        square @ square
    torch.cuda.synchronize()
    peak = 5 * 2 * 8192**3 / (time.monotonic() - started)
    operations = 2.0 * len(rows) * embeddings.shape[0] * embeddings.shape[1]
    found = {"products": products[1:], "label, warm process, s": labels[1:], "operations": operations}
    return found | {"peak": peak, "card": torch.cuda.get_device_name()}


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "warm":
        print(json.dumps(warm(sys.argv[2], int(sys.argv[3]))))
    else:
        sys.exit(f"usage: {__doc__}")
