"""Load the service over real HTTP on loopback: `python scripts/benchmarks/load_service.py [DB]`.

Starts `csp-index serve` on the index, waits until it is ready, and asks with clients that each wait for their answer
before they ask again: the JSON of neurons, live labels of random neurons, the slider of one neuron, a knob moved on
random neurons by every method that is not a control, then a mixture of everything with a look at the server's memory.
Without DB an index of 50,000 images x 2,048 neurons x 512 dimensions and
10,000 labels is made of random arrays and labelled, in a temporary folder (some minutes).
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench_data import CLI, Bench, Shape, run

METHODS = (  # all that are no controls, the costly ones last
    *("csp", "csp-difference", "semanticlens", "mean-centred", "clip-dissect", "clip-dissect-mean", "wpmi"),
    *("rank-reorder", "pmi", "contrastive-pmi", "firing-contrast", "consensus", "linear-1", "linear"),
)
READY = 3.0  # seconds; the bar for the start
FIRST = 1_000  # requests after which memory has to stay
ROUNDS = 10  # of new connections: how many of them each process gets decides how long a request waits
Labels = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what it is counted as, its target, and the JSON it sends."""

    kind: str
    target: str
    body: Labels | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """How a request ended: its status (0: no answer) and its time in milliseconds."""

    ask: Ask
    status: int
    milliseconds: float


class Server:
    """The process that serves an index."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def get(self, target: str) -> Any:
        """Return the JSON at a target."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", target)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{target} answered {answer.status}: {data[:300]!r}")
        return json.loads(data)

    def memory(self) -> float:
        """Return what the process holds in memory, in MB, and the processes that it started."""
        return sum(int(kilobytes) for kilobytes in self._asked("rss=")) * 1024 / 1e6

    def cpu(self) -> float:
        """Return the CPU seconds of the process, and of those that it started (Linux)."""
        ticks = 0
        for pid in self._asked("pid="):
            user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            ticks += int(user) + int(system)
        return ticks / os.sysconf("SC_CLK_TCK")

    def _asked(self, column: str) -> list[str]:
        own = str(self.process.pid)
        return subprocess.run(
            ["ps", "-o", column, "-p", own, "--ppid", own], capture_output=True, text=True
        ).stdout.split()


@contextmanager
def serving(db: str, port: int, options: Sequence[str] = ()) -> Iterator[tuple[Server, float]]:
    """Serve an index; give the server and the seconds from its start to the first answer that it is ready."""
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen([*CLI, "serve", db, "--port", str(port), *options], stdout=log, stderr=log)
        server = Server(process, port)
        try:
            while True:
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"the server ended: {log.read().decode(errors='replace')[-1000:]}")
                try:
                    server.get("/readyz")
                    break
                except OSError:
                    time.sleep(0.02)
            yield server, time.monotonic() - started
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def drive(port: int, asks: Sequence[Ask], clients: int) -> list[Took]:
    """Ask everything once, `clients` at a time, each on a connection of its own."""
    left, took, mutex = iter(asks), list[Took](), threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with mutex:
                ask = next(left, None)
            if ask is None:
                connection.close()
                return
            started = time.perf_counter()
            try:
                status = _once(connection, ask)
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            found = Took(ask, status, 1000 * (time.perf_counter() - started))
            with mutex:
                took.append(found)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def _once(connection: http.client.HTTPConnection, ask: Ask) -> int:
    if ask.body is None:
        connection.request("GET", ask.target)
    else:
        connection.request("POST", ask.target, json.dumps(ask.body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Plans:
    """What is asked of an index, by lot."""

    def __init__(self, server: Server, seed: int = 0) -> None:
        """Look at what there is."""
        self._random = random.Random(seed)
        self._layers = [row for row in server.get("/api/v1/layers")["layers"] if row["ready"]]
        self._images = server.get("/api/v1/index")["images"]
        shown = server.get(f"/api/v1/neurons/{self._address(self.neuron())}")["pairs"]
        self._thumbnail = next((pair["image_id"] for pair in shown if self._pictured(server, pair["image_id"])), None)

    def neuron(self) -> str:
        """Return the address of a neuron."""
        layer = self._random.choice(self._layers)
        return f"{layer['layer']}/{self._random.randrange(layer['neurons'])}"

    def pages(self, count: int) -> list[Ask]:
        """Ask for the JSON of neurons' pages."""
        return [Ask("neuron's JSON", f"/neurons/{self._address(self.neuron())}.json") for _ in range(count)]

    def labels(self, count: int) -> list[Ask]:
        """Label random neurons, each with a gamma of its own."""
        return [self._label("live label", self.neuron()) for _ in range(count)]

    def slider(self, count: int, moves: int = 20) -> list[Ask]:
        """Move gamma on one neuron after the other."""
        neurons = [self.neuron() for _ in range(-(-count // moves))]
        return [self._label("slider", neuron) for neuron in neurons for _ in range(moves)][:count]

    def knob(self, method: str, count: int) -> list[Ask]:
        """Move the threshold, or the number of examples, on random neurons."""
        asks = []
        for neuron in [self.neuron() for _ in range(count)]:
            body: Labels = {"neurons": [neuron], "method": method, "candidates": None}
            if self._random.random() < 0.5:
                body["examples"] = self._random.randrange(20, 31)
            else:
                body["threshold"] = self._random.choice(["mean", "quantile:0.5", "quantile:0.75", "max:0.1", "max:0.2"])
            asks.append(Ask(method, "/api/v1/label", body))
        return asks

    def mixture(self, count: int) -> list[Ask]:
        """Ask for everything there is, the common things more often."""
        weights = {
            self._page: 30, self._html: 10, self._gallery: 10, self._listed: 6, self._live: 20, self._alike: 5,
            self._image: 6, self._compare: 3, self._home: 4, self._map: 2, self._named: 3, self._sql: 1,
        }  # fmt: skip
        made = self._random.choices(list(weights), list(weights.values()), k=count)
        return [make() for make in made]

    def _label(self, kind: str, neuron: str) -> Ask:
        gamma = round(self._random.random(), 2)
        body = {"neurons": [neuron], "method": "csp", "gamma": gamma, "examples": 30, "contrast": "nearest"}
        return Ask(kind, "/api/v1/label", body | {"candidates": None})

    def _page(self) -> Ask:
        return self.pages(1)[0]

    def _live(self) -> Ask:
        return self.labels(1)[0]

    def _html(self) -> Ask:
        return Ask("neuron's page", f"/neurons/{self._address(self.neuron())}")

    def _gallery(self) -> Ask:
        layer = self._random.choice(self._layers)["layer"]
        sort = self._random.choice(["index", "score", "lead", "firing_rate", "label"])
        return Ask("layer's page", f"/layers/{self._address(layer)}?sort={sort}&order=desc")

    def _listed(self) -> Ask:
        layer = self._random.choice(self._layers)["layer"]
        return Ask("neurons", f"/api/v1/neurons?layer={quote(layer)}&sort=score&limit=20")

    def _alike(self) -> Ask:
        return Ask("neurons like one", f"/search.json?neuron={quote(self.neuron())}")

    def _image(self) -> Ask:
        if self._thumbnail is not None and self._random.random() < 0.7:
            return Ask("thumbnail", f"/api/v1/images/{self._thumbnail}/thumbnail")
        return Ask("image", f"/api/v1/images/{self._random.randrange(self._images)}")

    def _compare(self) -> Ask:
        first, second = self.neuron(), self.neuron()
        while second == first:
            second = self.neuron()
        return Ask("compare", f"/compare.json?neurons={quote(f'{first},{second}')}")

    def _home(self) -> Ask:
        return Ask("home", self._random.choice(["/", "/api/v1/index", "/api/v1/layers", "/healthz"]))

    def _map(self) -> Ask:
        layer = self._random.choice(self._layers)["layer"]
        return Ask("map", f"/layers/{self._address(layer)}/map.json")

    def _named(self) -> Ask:
        label = quote(self._random.choice(["text 1", "text 22", "a", "zebra"]))
        layer = self._random.choice(self._layers)["layer"]
        return Ask("labels with a word", f"/layers/{self._address(layer)}.json?q={label}")

    def _sql(self) -> Ask:
        return Ask(
            "SQL", "/api/v1/sql", {"sql": "SELECT method, count(*) AS n FROM labels WHERE rank = 0 GROUP BY method"}
        )

    @staticmethod
    def _address(neuron: str) -> str:
        return "/".join(quote(part, safe="") for part in neuron.split("/"))

    @staticmethod
    def _pictured(server: Server, image_id: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", f"/api/v1/images/{image_id}/thumbnail")
        status = connection.getresponse().status
        connection.close()
        return status == 200


def quantiles(took: Sequence[Took]) -> str:
    """Return the median and the 95th percentile of their times, in words."""
    times = sorted(t.milliseconds for t in took)
    return f"p50 {statistics.median(times):.0f} ms, p95 {times[int(0.95 * (len(times) - 1))]:.0f} ms"


def tell(name: str, took: Sequence[Took], seconds: float) -> None:
    """Print how long requests took, and those that failed."""
    failed = Counter((t.ask.kind, t.status) for t in took if t.status != 200)
    print(
        f"{name}: {len(took):,} requests, {quantiles(took)}, {len(took) / seconds:.0f} a second, "
        f"{sum(failed.values())} errors{f' {dict(failed)}' if failed else ''}",
        flush=True,
    )


def load(
    db: str, port: int, clients: int, requests: int, options: Sequence[str], methods: Sequence[str] = METHODS
) -> None:
    """Print all figures of one index, served with these options, and those of a knob for these methods."""
    with serving(db, port, options) as (server, ready):
        print(f"ready {ready:.1f} s after start (bar {READY:.0f})", flush=True)
        plans = Plans(server)
        drive(port, plans.pages(200) + plans.labels(200), clients)  # what is loaded once is loaded
        share = max(1, requests // 10)
        for name, asks in (
            ("neuron's JSON (bar 60 ms)", plans.pages(share)),
            ("live label of random neurons (bar 100 ms)", plans.labels(share)),
            ("slider over one neuron after the other", plans.slider(share)),
        ):
            started, before = time.monotonic(), server.cpu()
            took = [one for first in range(ROUNDS) for one in drive(port, asks[first::ROUNDS], clients)]
            tell(f"{name}, {clients} clients", took, time.monotonic() - started)
            print(f"  {1000 * (server.cpu() - before) / len(asks):.1f} ms of CPU a request", flush=True)
        for method in methods:
            drive(port, plans.knob(method, 2 * clients), clients)  # each process has what it computes once
            started = time.monotonic()
            took = drive(port, plans.knob(method, max(20 * clients, requests // 100)), clients)
            tell(f"a knob moved, {method} (bar: p95 300 ms), {clients} clients", took, time.monotonic() - started)
        if not requests:
            return
        mixture, started = plans.mixture(requests), time.monotonic()
        first = drive(port, mixture[:FIRST], clients)
        before = server.memory()
        took = first + drive(port, mixture[FIRST:], clients)
        tell(f"mixture, {clients} clients", took, time.monotonic() - started)
        after = server.memory()
        print(f"memory {before:.0f} MB after {FIRST:,} of them, {after:.0f} MB after all: {after / before - 1:+.1%}")
        for kind, found in itertools.groupby(sorted(took, key=lambda t: t.ask.kind), lambda t: t.ask.kind):
            answers = list(found)
            print(f"  {kind}: {len(answers):,}, {quantiles(answers)}")


def made_index(folder: Path) -> str:
    """Return an index `db` of random arrays, its labels beside it.

    Its layer is labelled by the default methods and by those whose scores no knob changes, one neuron by all others:
    what they need of a vocabulary is then in the index.
    """
    (made,) = Bench(folder, {"served": Shape(50_000, 2_048, 512, 10_000)}, 1, False).made("served")
    for method in METHODS:
        whole = method in ("csp", "firing-contrast", "linear-1", "linear")
        prior = ("--prior", "images") if method in ("clip-dissect", "wpmi") else ()
        run(made.label_command("all" if whole else "0", "--method", method, *prior))
    return made.db


def _load(db: str, given: argparse.Namespace) -> None:
    arrays = Path(db).parent / "T.npy", Path(db).parent / "T.txt"  # as the benchmark leaves them
    texts = ["--text-embeddings", str(arrays[0]), "--texts", str(arrays[1])] if arrays[0].exists() else []
    options = [*texts, "--workers", str(given.workers)]
    load(db, given.port, given.clients, given.requests, options, given.methods.split(",") if given.methods else METHODS)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", nargs="?", help="an index; by default one is made")
    parser.add_argument("--port", type=int, default=18765)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="processes of the service")
    parser.add_argument("--requests", type=int, default=10_000, help="of the mixture; a tenth of each single kind")
    parser.add_argument("--methods", help="whose knob is moved, with commas; by default all that are no controls")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.db:
        _load(given.db, given)
        return
    with tempfile.TemporaryDirectory() as folder:
        _load(made_index(Path(folder)), given)


if __name__ == "__main__":
    main()
