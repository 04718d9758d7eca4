"""Measure figures of the manual: `python scripts/benchmarks/measure.py WHAT`, WHAT being one of the words below.

label   the whole command `csp-index label --neurons all` at 10,000 images x 512 neurons x 512 texts, beside
        `python -c "import torch, lance"`, in turn, medians of 5
memory  peak memory of indexing 5,000 and 20,000 images with the demo's models
parity  top labels, activating ids and contrastive ids of the command at 10,000 images x 512 neurons x 2,000 texts,
        against the formulas written out neuron by neuron
evaluate  the whole command `csp-index evaluate` on 2,048 neurons and 10,000 held-out images (of 20,000), every metric
        that needs no further data, one method and those compared by default
demo    every method on the demo's biased images, seeds 0 to 2: labels chosen on half of them, judged on the other;
        means over neurons (of their means over seeds) with bootstrap intervals; calibration of the confidence
contrast  the demo's biased images, seeds 0 and 1, labelled with each contrastive kind that needs no generator
drafts  photographs of 4000 x 3000 indexed whole and with --draft: CPU seconds of each, and how near the values stay
latents  16,384 latents over 50,000 images with 32 active on each: bytes of the pairs, one latent read, all labeled
associations  2,048 neurons x 100 classes x 50,000 images compared, and 16,384 sparse latents: seconds, memory, AUROCs
meanings  facets and formulas of 2,048 neurons over 50,000 images and 1,000 texts: seconds, memory, how many have two
remote  candidates for 500 neurons from an endpoint that answers in 50 ms, and a run killed half-way
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLI = [sys.executable, "-c", "from csp_index.cli import main; main()"]


def make_arrays(folder: Path, images: int, neurons: int, width: int, texts: int) -> None:
    """Write seeded arrays with clusters of images and rectified activations."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    centres = rng.standard_normal((200, width), dtype=np.float32)
    embeddings = centres[rng.integers(0, 200, images)] + 1.5 * rng.standard_normal((images, width), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    directions = rng.standard_normal((width, neurons), dtype=np.float32)
    noise = 0.3 * rng.standard_normal((images, neurons), dtype=np.float32)
    vectors = rng.standard_normal((texts, width), dtype=np.float32)
    vectors *= rng.uniform(0.8, 1.0, (texts, 1)).astype(np.float32) / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "E.npy", embeddings)
    np.save(folder / "A.npy", np.maximum(embeddings @ directions + noise - 0.5, 0))
    np.save(folder / "T.npy", vectors)
    (folder / "T.txt").write_text("".join(f"text {i}\n" for i in range(texts)))


def import_arrays(folder: Path, *more: str) -> None:
    """Make the index `folder/db` of the arrays."""
    arrays = ["--embeddings", f"{folder}/E.npy", "--activations", f"{folder}/A.npy"]
    run([*CLI, "import", f"{folder}/db", *arrays, "--layer", "m/l", *more])


def label_command(folder: Path, *more: str) -> list[str]:
    """Return the command that labels all neurons of the index."""
    texts = ["--text-embeddings", f"{folder}/T.npy", "--texts", f"{folder}/T.txt", "--no-renormalise-text", "--json"]
    return [*CLI, "label", f"{folder}/db", "--layer", "m/l", "--neurons", "all", *texts, "--method", "csp", *more]


def run(command: list[str]) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_label(root: Path) -> None:
    """Print the medians of the label command and of bare start-up, and their difference."""
    make_arrays(root, 10_000, 512, 512, 512)
    import_arrays(root)
    start_up = [sys.executable, "-c", "import torch, lance"]
    times: dict[str, list[float]] = {"start-up": [], "label": []}
    for turn in range(6):
        for name, command in (("start-up", start_up), ("label", label_command(root, "--recompute"))):
            started = time.monotonic()
            run(command)
            if turn:  # the first turn warms the page cache
                times[name].append(time.monotonic() - started)
    bare, whole = (statistics.median(times[name]) for name in ("start-up", "label"))
    more = [b - a for a, b in zip(times["start-up"], times["label"], strict=True)]
    print(f"import torch, lance: {bare:.2f} s; label 512 neurons of 10,000 images, 512 texts: {whole:.2f} s")
    print(f"difference, turn by turn: median {statistics.median(more):.2f} s (all: {[round(d, 2) for d in more]})")


def measure_memory(root: Path) -> None:
    """Print the peak memory of indexing 5,000 and 20,000 images, each in a process of its own."""
    peaks = {}
    for count in (5_000, 20_000):
        run([sys.executable, __file__, "render", f"{root}/{count}", str(count)])
        found = json.loads(run([sys.executable, __file__, "index", f"{root}/{count}", f"{root}/{count}.db"]))
        peaks[count] = found["peak"]
        print(f"{count:,} images: peak {found['peak'] / 2**20:,.0f} MiB, {found['seconds']:.0f} s")
    print(f"ratio {peaks[20_000] / peaks[5_000]:.3f}")


def render(folder: str, count: str) -> None:
    """Render demo scenes into a folder."""
    from PIL import Image

    from csp_index.demo.world import random_scene
    from csp_index.demo.world import render as draw

    rng = np.random.default_rng(0)
    Path(folder).mkdir(parents=True)
    for number in range(int(count)):
        Image.fromarray(draw(random_scene(rng), number)).save(f"{folder}/{number:06d}.png", compress_level=1)


def index(folder: str, db: str) -> None:
    """Index a folder with the demo's models and print the process's peak memory as JSON."""
    from csp_index import NetworkSource, open_index
    from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS

    network = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    summary = open_index(db).add_images(folder, encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "seconds": summary.seconds}))


def measure_parity(root: Path) -> None:
    """Print how many neurons agree with the written-out formulas, method by method."""
    make_arrays(root, 10_000, 512, 512, 2_000)
    import_arrays(root)
    embeddings, activations, texts = (np.load(root / f"{name}.npy") for name in "EAT")
    for method, more in (
        ("csp gamma 1", ["--method", "csp", "--gamma", "1"]),
        ("csp gamma 0.5", ["--method", "csp", "--gamma", "0.5"]),
        ("semanticlens", ["--method", "semanticlens"]),
        ("clip-dissect-mean", ["--method", "clip-dissect-mean"]),
    ):
        labels = [json.loads(line) for line in run(label_command(root, *more)).splitlines()]
        same = np.zeros(3, dtype=int)
        for neuron, label in enumerate(labels):
            best, p, n = written_out(method, embeddings, activations[:, neuron], texts)
            # Methods without contrast have no contrastive images to compare.
            found = label["contrastive"] if "csp" in method else n.tolist()
            first = label["labels"][0]["text"] if label["labels"] else None
            same += (first == f"text {best}", label["activating"] == p.tolist(), found == n.tolist())
        counts = f"top labels {same[0]}, activating ids {same[1]}, contrastive ids {same[2]}"
        print(f"{method}: {counts} of {len(labels)} neurons equal")


def written_out(method: str, e: np.ndarray, a: np.ndarray, t: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the best text, the activating and the contrastive ids of one neuron, as the formulas say."""
    p = np.argsort(-a, kind="stable")[:30]
    candidates = np.flatnonzero(a < a.mean())
    n = candidates[(e[p] @ e[candidates].T).argmax(1)]
    w = a[p] / a[p].sum()
    if method == "semanticlens":
        v = e[p].mean(0)
    elif method == "clip-dissect-mean":
        shares = np.exp((e @ t.T).astype(np.float64) / 10)  # nearly flat: its mean over the images needs the digits
        shares /= shares.sum(1, keepdims=True)
        return int((np.log(w @ shares[p] + 1e-6) - np.log(shares.mean(0))).argmax()), p, n
    else:
        gamma = float(method.rsplit(" ", 1)[1])
        v = w @ (e[p] - gamma * (e[p] * e[n]).sum(1, keepdims=True) * e[n])
    return int((t @ (v / np.linalg.norm(v))).argmax()), p, n


def measure_evaluate(root: Path) -> None:
    """Print how long judging 2,048 neurons on 10,000 held-out images takes, whole command."""
    make_arrays(root, 20_000, 2_048, 512, 2_000)
    import_arrays(root, "--logit-scale", "30")
    texts = ["--text-embeddings", f"{root}/T.npy", "--texts", f"{root}/T.txt", "--json"]
    asked = [*CLI, "evaluate", f"{root}/db", "--layer", "m/l", *texts]
    (root / "truth.csv").write_text("neuron,label\n" + "".join(f"{k},text {k % 2_000}\n" for k in range(2_048)))
    for name, more in (("csp alone", ["--method", "csp"]), ("by default", ["--seed", "1"])):
        started = time.monotonic()
        found = json.loads(run([*asked, "--truth", f"{root}/truth.csv", *more]))
        seconds = time.monotonic() - started
        metrics = len({row["metric"] for row in found["summary"]})
        held = found["settings"]["split"]["judging"]
        print(f"{name}: 2,048 neurons, {held:,} held-out images, {metrics} metrics: {seconds:.1f} s")


def measure_demo(root: Path) -> None:
    """Print the demo's table of methods with intervals, and how often labels of a given confidence are right."""
    from csp_index import EvaluationOptions
    from csp_index.demo.run import LAYER, make_index, write_truth
    from csp_index.demo.world import VOCABULARY
    from csp_index.evaluation.options import parse_methods
    from csp_index.labelling.methods import METHODS

    write_truth(root / "truth.csv")
    values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for seed in range(3):
        place = root / str(seed)
        place.mkdir()
        options = EvaluationOptions(
            methods=parse_methods([*METHODS, "csp:gamma=0.5"]),
            seed=seed,
            truth=root / "truth.csv",
            concepts=("concepts",),
            generator="python:csp_index.demo.generator:renderer",
        )
        index = make_index(place, "biased", seed, print)
        found = index.evaluate(LAYER, options, vocabulary=list(VOCABULARY), templates="none")
        for row in found.values.to_pylist():
            if row["value"] is not None and row["kind"]:
                key = row["method"], row["metric"], row["kind"]
                values.setdefault(key, {}).setdefault(row["neuron"], []).append(row["value"])
    print_demo(values)
    print_calibration(values)


def print_demo(values: dict[tuple[str, str, str], dict[int, list[float]]]) -> None:
    """Print the means of headline metrics by method and kind, with 95 % intervals over neurons."""
    import torch

    from csp_index.evaluation.metrics.intervals import mean_interval

    metrics = ("agreement-exact", "simulation", "auprc", "discriminative", "cosy-auc")
    columns = [(metric, kind) for metric in metrics for kind in ("single", "pair")]
    print("| method |" + "".join(f" {metric}, {kind} |" for metric, kind in columns))
    print("|---|" + "---|" * len(columns))
    for method in dict.fromkeys(method for method, _, _ in values if method):
        cells = []
        for metric, kind in columns:
            rows = values.get((method, metric, kind), {})
            found = mean_interval(torch.tensor([[statistics.fmean(seeds) for seeds in rows.values()]]))
            cells.append(f"{found.mean.item():.2f} ({found.low.item():.2f}-{found.high.item():.2f})")
        print(f"| `{method}` | {' | '.join(cells)} |")


def print_calibration(values: dict[tuple[str, str, str], dict[int, list[float]]]) -> None:
    """Print bins of confidence with the share of right labels, all methods but the controls together."""
    import torch

    from csp_index.evaluation.metrics.calibration import reliability

    sure: list[float] = []
    right: list[float] = []
    for (method, metric, kind), rows in values.items():
        if metric == "confidence" and not method.startswith("random-"):
            for neuron, seeds in rows.items():
                exact = values[method, "agreement-exact", kind].get(neuron, [])
                if len(exact) == len(seeds):
                    sure += seeds
                    right += exact
    found = reliability(torch.tensor(sure).clamp(0, 1), torch.tensor(right), 5)
    print(f"\n{len(sure)} labels, expected calibration error {found.expected_calibration_error:.3f}")
    for mean, share, low, high, count in zip(found.mean, found.right, found.low, found.high, found.count, strict=True):
        if count:
            print(f"confidence {mean:.2f}: {share:.2f} right ({low:.2f}-{high:.2f}), {count} labels")


def measure_contrast(root: Path) -> None:
    """Print the share of the demo's planted concepts that are found, by contrastive kind, and the CPU time it took."""
    from csp_index.demo.run import LAYER, accuracy, make_index
    from csp_index.demo.world import VOCABULARY

    for seed in range(2):
        place = root / str(seed)
        place.mkdir()
        index = make_index(place, "biased", seed, print)
        for contrast in ("nearest", "falcon", "perturbation", "nearest+perturbation", "random"):
            for method in ("csp", "consensus"):
                started = time.process_time()
                labels = index.label(LAYER, method, vocabulary=list(VOCABULARY), templates="none", contrast=contrast)
                seconds = time.process_time() - started
                found = accuracy(labels)
                told = ", ".join(f"{kind} {found[kind].top1:.2f}" for kind in found)
                paired = [pair.contrast_id is not None for label in labels for pair in label.pairs]
                shown = f"{told}; partners for {np.mean(paired):.2f}; {seconds:.1f} s of CPU"
                print(f"seed {seed} {contrast} {method}: {shown}", flush=True)


def measure_latents(root: Path) -> None:
    """Print the figures of a layer that is stored sparse."""
    from measure_latents import measure

    measure(root)


def measure_associations(root: Path) -> None:
    """Print what it takes to compare neurons with classes of images."""
    from measure_associations import measure

    measure(root)


def measure_meanings(root: Path) -> None:
    """Print what it takes to find the facets and the formulas of a layer."""
    from measure_meanings import measure

    measure(root)


def measure_drafts(root: Path) -> None:
    """Print what it saves to decode large photographs reduced, and how little it changes."""
    from measure_drafts import measure

    measure(root)


def measure_remote(root: Path) -> None:
    """Print the time that asking an endpoint takes, and what is asked twice after a kill."""
    from measure_remote import measure

    measure(root)


if __name__ == "__main__":
    steps = {
        "demo": measure_demo,
        "contrast": measure_contrast,
        "label": measure_label,
        "memory": measure_memory,
        "parity": measure_parity,
        "evaluate": measure_evaluate,
        "drafts": measure_drafts,
        "latents": measure_latents,
        "associations": measure_associations,
        "meanings": measure_meanings,
        "remote": measure_remote,
    }
    if len(sys.argv) == 2 and sys.argv[1] in steps:
        with tempfile.TemporaryDirectory() as folder:
            steps[sys.argv[1]](Path(folder))
    elif sys.argv[1:2] in (["render"], ["index"]) and len(sys.argv) == 4:
        {"render": render, "index": index}[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(f"usage: {__doc__}")
