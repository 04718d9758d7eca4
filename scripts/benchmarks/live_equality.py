"""Compare the live service with the index itself: `python scripts/benchmarks/live_equality.py DB --questions 1000`.

Each question is a random neuron, a method that is no control, and knobs. What `csp-index serve` answers over HTTP is to
be what `index.label(..., keep=False)` returns: the same labels in the same order, the same images, states and notes;
numbers agree within rounding. Labels and sums that the index has are used by both as they are. Prints a row for each
method; exits 1 on any mismatch. Sums that the index lacks are computed for each question in turn: label one neuron by
each method first.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import random
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load_service import METHODS, serving

from csp_index import Label, open_index
from csp_index.errors import CspIndexError
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.methods import METHODS as TABLE
from csp_index.labelling.methods import check_method
from csp_index.records import NeuronKey
from csp_index.service.live.queries import LabelQuery
from csp_index.store import catalog

ROUNDING = 1e-5  # of a number, relative to its size and to 1
THRESHOLDS = ("mean", "quantile:0.5", "quantile:0.75", "max:0.1", "max:0.2")


def question(neurons: list[NeuronKey], methods: list[str], lots: random.Random) -> LabelQuery:
    """Return a random neuron, method, and values of some of its knobs."""
    method = lots.choice(methods)
    knobs: dict[str, Any] = {"examples": lots.randrange(3, 41), "threshold": lots.choice(THRESHOLDS)}
    if TABLE[method].needs_contrast:
        knobs |= {"neighbours": lots.randrange(1, 6), "contrast": lots.choice(["nearest", "random", "nearest+random"])}
    if "gamma" in TABLE[method].knobs:
        knobs["gamma"] = round(lots.random(), 2)
    chosen = {name: value for name, value in knobs.items() if lots.random() < 0.4}
    return LabelQuery((lots.choice(neurons),), method, top=lots.randrange(1, 11), **chosen)


def asked(port: int, query: LabelQuery) -> dict[str, Any]:
    """Return the answer of the service; RuntimeError where it refuses."""
    body = {"neurons": [str(query.neurons[0])], "method": query.method, "candidates": None, "top": query.top}
    body |= {name: value for name, value in query.options.items() if name != "prior"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/api/v1/label", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{body} answered {answer.status}: {data[:300]!r}")
    result: dict[str, Any] = json.loads(data)["results"][0]
    return result


def expected(label: Label) -> dict[str, Any]:
    """Return a label as the service writes it."""
    scores = [
        {name: getattr(score, name) for name in ("text", "score", "low", "high", "share")} for score in label.labels
    ]
    pairs = [{name: getattr(pair, name) for name in pair.__dataclass_fields__} for pair in label.pairs]
    document = label.as_json() | {"labels": scores, "pairs": pairs, "doubt": label.doubt}
    result: dict[str, Any] = json.loads(json.dumps(document))
    return result


def differences(answer: Any, label: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield what differs, by name, and by how much: 0 to 1 within rounding, inf for what is not a number."""
    if isinstance(label, dict) and isinstance(answer, dict):
        for key in label:
            yield from differences(answer.get(key), label[key], f"{name}.{key}")
    elif isinstance(label, list) and isinstance(answer, list) and len(label) == len(answer):
        for place, (left, right) in enumerate(zip(answer, label, strict=True)):
            yield from differences(left, right, f"{name}[{place}]")
    elif isinstance(label, float) and isinstance(answer, float | int):
        yield name, abs(answer - label) / (ROUNDING * max(1.0, abs(label)))
    elif answer != label:
        yield name, math.inf


def main() -> None:
    """Ask, compare, print, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", help="an index of arrays with T.npy and T.txt next to it, or one with a vocabulary")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", help="with commas; by default all that are no controls")
    parser.add_argument("--port", type=int, default=0, help="of the service; by default one that is free")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arrays = Path(given.db).parent / "T.npy", Path(given.db).parent / "T.txt"
    there = arrays[0].exists()
    texts = read_text_arrays(*arrays) if there else None
    options = ["--workers", "1", *(["--text-embeddings", str(arrays[0]), "--texts", str(arrays[1])] if there else [])]
    index, lots = open_index(given.db), random.Random(given.seed)
    methods = given.methods.split(",") if given.methods else list(METHODS)
    try:
        for name in methods:
            check_method(name)
        layers = [info for info in catalog.layers(index.store) if catalog.is_finished(index.store, info)]
    except CspIndexError as exc:
        parser.error(str(exc))
    neurons = [NeuronKey(*_names(info), n) for info in layers for n in range(info.neurons)]
    if not neurons:
        parser.error(f"{given.db} has no finished layer: expected an index with labels to ask for")
    counts, wrong = Counter[str](), Counter[str]()
    largest, cpu = dict.fromkeys(methods, 0.0), defaultdict[str, float](float)
    port = given.port or _free_port()
    with serving(given.db, port, options) as (_, _):
        for _ in range(given.questions):
            query = question(neurons, methods, lots)
            method, address, started = str(query.method), str(query.neurons[0]), time.process_time()
            values = query.options
            (label,) = index.label(
                address, method, vocabulary=texts, top=query.top, keep=False, recompute=True, **values
            )
            cpu[method] += time.process_time() - started
            found = list(differences(asked(port, query), expected(label)))
            counts[method] += 1
            largest[method] = max([largest[method], *(by for _, by in found if by <= 1)])
            if worse := [(name, by) for name, by in found if not by <= 1]:
                wrong[method] += 1
                print(f"MISMATCH {address} {method} top {query.top} {values}: {worse[:3]}", flush=True)
    for method in methods:
        print(
            f"{method}: {counts[method]} questions, {wrong[method]} mismatches, numbers within "
            f"{largest[method] * ROUNDING:.1e}; {1000 * cpu[method] / max(1, counts[method]):.0f} CPU ms in the index"
        )
    print(f"all: {sum(counts.values())} questions, {sum(wrong.values())} mismatches")
    sys.exit(bool(sum(wrong.values())))


def _free_port() -> int:
    """Return a port on which nobody answers: on that of another service, its answers would be compared."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
    return number


def _names(info: catalog.LayerInfo) -> tuple[str, str]:
    return info.key.model, info.key.layer


if __name__ == "__main__":
    main()
