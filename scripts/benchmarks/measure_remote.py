"""Candidates from a model behind an endpoint: how fast, and what a kill costs; the step `remote` of measure.py.

The endpoint is a process of this script on loopback that answers after 50 ms, whatever it is shown. 500 neurons of
made-up arrays are asked about at concurrency 8, with the default layout: two grids of nine pictures, 224 px each.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

NEURONS, IMAGES, CONCURRENCY, SECONDS = 500, 2_000, 8, 0.05
IDEAL = NEURONS * SECONDS / CONCURRENCY

Told = dict[str, tuple[int, float, float]]  # question -> how often it came, when first, when last answered


def make_index(folder: Path) -> Path:
    """Make an index of pictures of the demo's world and random activations."""
    from PIL import Image

    from csp_index import open_index
    from csp_index.demo.world import random_scene, render

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    uris = [f"{folder}/images/{number:06d}.png" for number in range(IMAGES)]
    for number, uri in enumerate(uris):
        Image.fromarray(render(random_scene(rng), number)).save(uri, compress_level=1)
    embeddings = rng.standard_normal((IMAGES, 128), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.save(folder / "E.npy", embeddings)
    np.save(folder / "A.npy", np.maximum(rng.standard_normal((IMAGES, NEURONS), dtype=np.float32), 0))
    (folder / "uris.txt").write_text("\n".join(uris))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy", uris=folder / "uris.txt")
    return folder / "db"


class _Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the client to take note of the head
    server: Any

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        length, came = int(self.headers["Content-Length"]), time.monotonic()
        body = self.rfile.read(length)
        if len(body) < length:  # cut short by a kill
            return
        question = hashlib.sha256(body).hexdigest()
        with self.server.mutex:
            count, first, last = self.server.told.get(question, (0, came, came))
            self.server.told[question] = (count + 1, first, last)
        time.sleep(SECONDS)
        choice = {"index": 0, "message": {"role": "assistant", "content": '["red star"]'}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        self._say({"id": "1", "object": "chat.completion", "model": "tiny", "choices": [choice], "usage": usage})
        with self.server.mutex:
            self.server.told[question] = (*self.server.told[question][:2], time.monotonic())

    def _say(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections that are asked for at once; one that is turned away comes back after a second

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that was killed."""


def _serve(pipe: Any) -> None:
    """Serve until told to stop; send what was asked whenever the other side asks for it."""
    server: Any = _Server(("127.0.0.1", 0), _Chat)
    server.daemon_threads, server.told, server.mutex = True, {}, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    while pipe.recv():
        with server.mutex:
            pipe.send(dict(server.told))


class Endpoint:
    """The process that serves: its URL, and what it was asked so far."""

    def __init__(self, pipe: Any) -> None:
        """Wait until it listens."""
        self._pipe = pipe
        self.url = f"http://127.0.0.1:{pipe.recv()}/v1"

    def told(self) -> Told:
        """Return what it was asked so far."""
        self._pipe.send(True)
        found: Told = self._pipe.recv()
        return found


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Run an endpoint in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield Endpoint(here)
    finally:
        here.send(False)
        process.join()


def command(db: Path, url: str) -> list[str]:
    """Return the command that asks about all neurons."""
    cli = [sys.executable, "-c", "from csp_index.cli import main; main()", "candidates", str(db), "--layer", "m/l"]
    cli += ["--images", str(db.parent / "images")]
    return [*cli, "--vlm", f"openai:{url}", "--vlm-model", "tiny", "--concurrency", str(CONCURRENCY), "--json"]


def measure_speed(db: Path) -> None:
    """Print how long asking takes, without start-up and the search for contrastive images."""
    from csp_index import open_index
    from csp_index.contrast.examples import gather_examples
    from csp_index.proposers import propose

    gathering: list[float] = []

    def timed(*given: Any, **more: Any) -> Any:
        started = time.monotonic()
        found = gather_examples(*given, **more)
        gathering.append(time.monotonic() - started)
        return found

    with patch.object(propose, "gather_examples", timed), endpoint() as server:
        (found,) = open_index(db, image_roots=[db.parent / "images"]).propose(
            "m/l", vlm=f"openai:{server.url}", model="tiny", concurrency=CONCURRENCY, again=True
        )
        told = server.told().values()
    asking = found.seconds - sum(gathering)
    window = max(last for _, _, last in told) - min(first for _, first, _ in told)
    print(
        f"{found.answered} neurons at concurrency {CONCURRENCY}, answers after {1000 * SECONDS:.0f} ms: {asking:.2f} s "
        f"(from the first request to the last answer {window:.2f} s), ideal {IDEAL:.2f} s, ratio {asking / IDEAL:.2f}; "
        f"examples gathered in {sum(gathering):.2f} s before"
    )


def measure_kill(db: Path) -> None:
    """Print what is asked twice when a run is killed half-way and started again."""
    with endpoint() as server:
        killed = subprocess.Popen(command(db, server.url), stdout=subprocess.DEVNULL)
        while killed.poll() is None and len(server.told()) < NEURONS // 2:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        time.sleep(4 * SECONDS)  # what was on its way arrives
        before = server.told()
        done = subprocess.run(command(db, server.url), capture_output=True, text=True, check=True)
        summary, told = json.loads(done.stdout), server.told()
    twice = [question for question, (count, _, _) in told.items() if count > 1]
    print(
        f"killed after {len(before)} questions, {summary['known']} of them answered and kept; started again: "
        f"{summary['answered']} answered, {len(told)} neurons in all; {len(twice)} asked twice: under way at the kill "
        f"({CONCURRENCY} at once)"
    )


def measure(root: Path) -> None:
    """Print both figures, the first three times over."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    db = make_index(root / "made")
    for _ in range(3):
        measure_speed(db)
    # The figures above are kept under a name that has the port in it, so the kill starts with nothing answered.
    measure_kill(db)
