"""Rows on labelling: a whole layer, one neuron warm and cold, start-up, growth with the number of images.

Commands are timed whole, as a user runs them. Steps that run in children: `warm` labels single neurons in a warm
process and counts what it reads; `bare` is the products that no way of labelling a layer can avoid, and the nearest
images by them.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench_data import CLI, LAYER, Bench, Ran, beyond, child, in_turn, median, run, slope
from bench_rows import Row

_NEAREST, _ROWS = 128, 256  # images that bare work finds for each row; rows at a time
_WARMING = 3  # labels of each index that are not timed
_BARS = {"firing-contrast": 30, "linear": 120}  # seconds beyond start-up for a layer; the others are only reported
_OTHERS = (
    *("csp", "csp-difference", "semanticlens", "mean-centred", "clip-dissect", "clip-dissect-mean", "wpmi"),
    *("rank-reorder", "pmi", "contrastive-pmi", "consensus", "linear-1"),
)
_TORCH_SHOWN = """
import sys
sys.argv = ["csp-index", *{arguments!r}]
from csp_index.cli import main
try:
    main()
finally:
    print("torch loaded" if "torch" in sys.modules else "no torch", file=sys.__stdout__)
"""


def label_all(bench: Bench) -> list[Row]:
    """Measure `csp-index label --neurons all` beside bare start-up and the bare products, turn by turn."""
    (main,) = bench.made("main")
    bare_command = [sys.executable, __file__, "bare", str(main.folder), str(main.shape.neurons)]
    runs = bench.beside_start_up({"label": main.label_command(), "bare": bare_command}, main)
    more = beyond(runs["label"], runs["start-up"])
    bare = [json.loads(ran.output) for ran in runs["bare"]]
    cpu = [max(1e-3, ran.cpu - start.cpu) for ran, start in zip(runs["label"], runs["start-up"], strict=True)]
    ratios = {
        "ratio": _ratio(more, [turn["nearest"][0] for turn in bare]),
        "cpu": _ratio(cpu, [turn["nearest"][1] for turn in bare]),
        "products": _ratio(more, [turn["products"][0] for turn in bare]),
    }
    seconds = statistics.median(more)
    peak = statistics.median(ran.peak for ran in runs["label"]) / 1e9
    bench.memo["label-all seconds of main"], bench.memo["label-all peak of main"] = seconds, peak * 1e9
    shape, distinct = main.shape, main.facts()["distinct"]
    what = f"label {shape.neurons:,} neurons x {shape.images:,} images x {shape.width} dims, {shape.texts:,} texts"
    detail = {
        "whole command, s": [ran.seconds for ran in runs["label"]],
        "start-up, s": [ran.seconds for ran in runs["start-up"]],
        "beyond start-up, s": more,
        "beyond start-up, CPU s": cpu,
        "bare products alone, and with the nearest images, s and CPU s": bare,
        "distinct activating images": distinct,
        "peak of start-up alone, GB": statistics.median(ran.peak for ran in runs["start-up"]) / 1e9,
    }
    products = f"the bare products of {distinct:,} distinct rows with all embeddings, and of concept vectors with texts"
    nearest = f"the same against {products}, with the {_NEAREST} nearest images of each row"
    return [
        Row("label-all.time", f"{what}, beyond start-up", seconds, "s", "<= 15 s", seconds <= 15, detail),
        Row("label-all.ratio", nearest, ratios["ratio"], "x", "<= 1.5 x", ratios["ratio"] <= 1.5),
        Row("label-all.cpu", "this ratio in CPU seconds", ratios["cpu"], "x", "", None),
        Row("label-all.products", "the time against the products alone", ratios["products"], "x", "", None),
        Row("label-all.memory", "the same, peak memory", peak, "GB", "<= 1.5 GB", peak <= 1.5),
    ]


def _ratio(taken: Sequence[float], bare: Sequence[float]) -> float:
    """Return the median of what was taken in each turn over the bare work of the same turn."""
    return statistics.median(one / other for one, other in zip(taken, bare, strict=True))


def methods(bench: Bench) -> list[Row]:
    """Measure a whole layer by every method that is no control, from nothing, beyond bare start-up.

    Where the benchmark is quick, by those with a bar alone.
    """
    (main,) = bench.made("main")
    shape, rows = main.shape, []
    bare_command = [sys.executable, __file__, "bare", str(main.folder), str(shape.neurons)]
    for method in _BARS if bench.quick else (*_BARS, *_OTHERS):
        runs = bench.beside_start_up({method: main.label_command("all", "--method", method)}, main)
        bare = json.loads(run(bare_command).output)["nearest"][0]
        more = beyond(runs[method], runs["start-up"])
        seconds, bar = statistics.median(more), _BARS.get(method)
        peak = statistics.median(ran.peak for ran in runs[method]) / 1e9
        what = f"the layer by {method}, beyond start-up: {peak:.2f} GB, {seconds / bare:.1f} x the bare work of csp"
        detail = {"beyond start-up, s": more, "peak, GB": peak, "bare products, s": bare}
        words = "" if bar is None else f"<= {bar} s, <= 2 GB"
        holds = None if bar is None else seconds <= bar and peak <= 2
        rows.append(Row(f"methods.{method}", what, seconds, "s", words, holds, detail))
    return rows


def one_neuron(bench: Bench) -> list[Row]:
    """Measure single neurons in a warm process, and the whole command in a cold one."""
    (main,) = bench.made("main")
    found = warm_times(bench)["main"]
    times = sorted(found["seconds"])
    p50, p95 = 1e3 * statistics.median(times), 1e3 * times[min(len(times) - 1, int(0.95 * len(times)))]
    alone = 1e3 * statistics.median(found["seconds without lists"])
    own = 4 * main.shape.images
    read = found["bytes read"] / own
    table = main.facts()["bytes"][found["table"]]
    runs = bench.beside_start_up({"cold": main.label_command(str(main.shape.neurons // 2))}, main)
    cold, start_up = median(runs["cold"]), median(runs["start-up"])
    bar = 1.5 * start_up + 0.5
    read_detail = {"bytes read of all tables": found["bytes read"], "bytes of the activations' table": table}
    read_detail |= {"one neuron's activations, bytes": own}
    cold_detail = {name: [ran.seconds for ran in ran_] for name, ran_ in runs.items()}
    return [
        Row(
            "one-neuron.p50",
            f"one neuron, warm, {len(times)} neurons of a labelled layer",
            p50,
            "ms",
            "<= 15 ms",
            p50 <= 15,
            found,
        ),
        Row("one-neuron.p95", "the same, 95th percentile", p95, "ms", "<= 30 ms", p95 <= 30),
        Row("one-neuron.alone", "the same where its layer was never labelled", alone, "ms", "", None),
        Row(
            "one-neuron.read",
            f"bytes it reads, of all tables, against its own activations' {own:,} (all neurons have {table:,})",
            read,
            "x",
            "<= 2 x",
            0 < read <= 2,
            read_detail,
        ),
        Row(
            "one-neuron.cold",
            f"one neuron, whole command, against start-up of {start_up:.2f} s",
            cold,
            "s",
            f"<= 1.5 x + 0.5 = {bar:.2f} s",
            cold <= bar,
            cold_detail,
        ),
    ]


def start_up(bench: Bench) -> list[Row]:
    """Measure --help, status and sql, and tell which of them loads torch."""
    (main,) = bench.made("main")
    asked = {"--help": ["--help"], "status": ["status", main.db], "sql": ["sql", main.db, "SELECT 1 AS one"]}
    runs = in_turn({name: [*CLI, *arguments] for name, arguments in asked.items()}, bench.turns)
    shown = {
        name: run([sys.executable, "-c", _TORCH_SHOWN.format(arguments=arguments)]).output
        for name, arguments in asked.items()
    }
    free = [name for name, output in shown.items() if output.strip().endswith("no torch")]
    seconds = {name: median(ran) for name, ran in runs.items()}
    detail = {name: [ran.seconds for ran in ran_] for name, ran_ in runs.items()}
    held = seconds["--help"] <= 0.4
    return [
        Row("start-up.help", "csp-index --help", seconds["--help"], "s", "<= 0.4 s", held, detail),
        Row("start-up.status", "csp-index status", seconds["status"], "s", "", None),
        Row("start-up.sql", "csp-index sql", seconds["sql"], "s", "", None),
        Row(
            "start-up.torch",
            "of --help, status and sql, those that do not import torch",
            len(free),
            "of 3",
            "3 of 3",
            len(free) == 3,
            {"without torch": free},
        ),
    ]


def growth(bench: Bench) -> list[Row]:
    """Measure how times grow with the images where the activating images stay the same."""
    names = growing(bench)
    made = dict(zip(names, bench.made(*names), strict=True))
    warm = warm_times(bench)
    layers = growth_seconds(bench)
    sizes = {name: found.shape.images for name, found in made.items()}
    all_slope = slope([(sizes[name], seconds) for name, seconds in layers.items()])
    one = {name: statistics.median(warm[name]["seconds"]) for name in names}
    one_slope = slope([(sizes[name], seconds) for name, seconds in one.items()])
    span = f"N from {min(sizes.values()):,} to {max(sizes.values()):,}, activating images fixed"
    distinct = {sizes[name]: found.facts()["distinct"] for name, found in made.items()}
    all_detail = {"seconds": {sizes[name]: value for name, value in layers.items()}, "distinct": distinct}
    one_detail = {"seconds": {sizes[name]: value for name, value in one.items()}}
    return [
        Row("growth.label-all", f"label all, {span}", all_slope, "exponent", "<= 1.1", all_slope <= 1.1, all_detail),
        Row("growth.one-neuron", f"one neuron, {span}", one_slope, "exponent", "<= 1", one_slope <= 1, one_detail),
    ]


def growing(bench: Bench) -> list[str]:
    """Return the names of the data of growing size, smallest first."""
    return [name for name in bench.shapes if name.startswith("growth")]


def growth_runs(bench: Bench) -> dict[str, list[Ran]]:
    """Return the runs of label-all at each size, and of bare start-up beside them."""

    def measure() -> dict[str, list[Ran]]:
        names = growing(bench)
        made = bench.made(*names)
        commands = {name: found.label_command() for name, found in zip(names, made, strict=True)}
        return bench.beside_start_up(commands, *made)

    found: dict[str, list[Ran]] = bench.once("growth", measure)
    return found


def growth_seconds(bench: Bench) -> dict[str, float]:
    """Return the median seconds of label-all beyond start-up at each size."""
    runs = growth_runs(bench)
    return {name: statistics.median(beyond(runs[name], runs["start-up"])) for name in growing(bench)}


def growth_peaks(bench: Bench) -> dict[str, float]:
    """Return the median peak memory of label-all at each size, in bytes."""
    runs = growth_runs(bench)
    return {name: statistics.median(ran.peak for ran in runs[name]) for name in growing(bench)}


def warm_times(bench: Bench) -> dict[str, Any]:
    """Return what `warm` measured of the main data and of every size, all in one process."""
    names = ["main", *growing(bench)]

    def measure() -> Any:
        places = {name: str(made.folder) for name, made in zip(names, bench.made(*names), strict=True)}
        return child(__file__, "warm", json.dumps(places), "5" if bench.quick else "120")

    found: dict[str, Any] = bench.once("warm", measure)
    return found


# What follows runs in children.


def warm(places: dict[str, str], count: int) -> dict[str, Any]:
    """Label `count` different neurons one by one in each index; times, and bytes read by one more that is new.

    The main index is asked by itself, those of growing size in turn. Once with the lists of neighbours that labelling
    the whole layer keeps, and once more without them.
    """
    from pathlib import Path

    import numpy as np

    from csp_index import open_index
    from csp_index.labelling.candidates import read_text_arrays
    from csp_index.store.column_tables import ACTIVATIONS

    opened = {}
    for name, place in places.items():
        texts = read_text_arrays(f"{place}/T.npy", f"{place}/T.txt")
        index = open_index(f"{place}/db")
        index.label(LAYER, "csp", vocabulary=texts, recompute=True)
        neurons = int(np.load(Path(place) / "A.npy", mmap_mode="r").shape[1])
        opened[name] = index, texts, np.random.default_rng(0).permutation(neurons).tolist()
    alone = {name: found for name, found in opened.items() if name == "main"}
    others = {name: found for name, found in opened.items() if name != "main"}
    times = _one_by_one(alone, count) | _one_by_one(others, count)
    result: dict[str, Any] = {}
    for name, (index, texts, order) in opened.items():
        table = next(name for name in index.store.table_names() if name.startswith(ACTIVATIONS))
        counter = index.store.dataset(table)  # counts for all tables of the index, from disk and page cache alike
        counter.io_stats_incremental()
        index.label(f"{LAYER}/{order.pop()}", "csp", vocabulary=texts, recompute=True, keep=False)
        read = int(counter.io_stats_incremental().read_bytes)
        result[name] = {"seconds": times[name], "table": table, "bytes read": read}
        for lists in [name for name in index.store.table_names() if name.startswith("neighbours")]:
            index.store.delete(lists, "true")
    without = _one_by_one(alone, count) | _one_by_one(others, count)
    return {name: found | {"seconds without lists": without[name]} for name, found in result.items()}


def _one_by_one(opened: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Return the seconds of single labels, index by index in turn; the first few of each warm it up."""
    times: dict[str, list[float]] = {name: [] for name in opened}
    for turn in range(_WARMING + count):
        for name, (index, texts, order) in opened.items():
            if len(order) < 2:
                continue
            started = time.monotonic()
            index.label(f"{LAYER}/{order.pop()}", "csp", vocabulary=texts, recompute=True, keep=False)
            if turn >= _WARMING:
                times[name].append(time.monotonic() - started)
    return times


def bare(folder: str, neurons: str) -> None:
    """Print the seconds and CPU seconds of the products: distinct activating rows with all embeddings, concept vectors
    with texts; `nearest` with the nearest images of each row, as torch finds them. Idle threads sleep, as in csp_index.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import numpy as np
    import torch

    embeddings, texts = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in "ET")
    rows = embeddings[torch.from_numpy(np.load(f"{folder}/distinct.npy"))]
    vectors = torch.nn.functional.normalize(torch.randn(int(neurons), embeddings.shape[1]), dim=1)
    result = {}
    for name in ("products", "nearest"):
        started, used = time.monotonic(), time.process_time()
        for tile in rows.split(_ROWS):
            cosines = tile @ embeddings.T
            if name == "nearest":
                cosines.topk(min(_NEAREST, len(embeddings)), dim=1)
        vectors @ texts.T
        result[name] = time.monotonic() - started, time.process_time() - used
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "warm":
        print(json.dumps(warm(json.loads(sys.argv[2]), int(sys.argv[3]))))
    elif len(sys.argv) == 4 and sys.argv[1] == "bare":
        bare(*sys.argv[2:])
    else:
        sys.exit(f"usage: {__doc__}")
