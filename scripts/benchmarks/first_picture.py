"""Measure when the first picture of a neuron's page is painted: `python scripts/benchmarks/first_picture.py [DB]`.

Starts `csp-index serve` on the index, waits until its models are there, and opens pages of random neurons in Chromium
(that of CSP_INDEX_BROWSER, else the system's; it needs the package playwright), each page once and in a context of its
own, so that nothing comes from a cache. Prints in milliseconds from the start of navigation: the page's HTML, the first
picture when it is painted, and the first contentful paint (text counts, too). In the same turns a bare page of one
small picture is opened: what the browser takes on this machine, whatever it shows.

Chromium without a window (`chromium-headless-shell`) is taken first: the whole Chromium opens a window for each
context, and loads the parts of that window, its address bar among them, at the same time as the page.

Without DB an index of 50,000 images x 2,048 neurons x 512 dimensions is made of random arrays, with drawn pictures, and
labeled by csp, in a temporary folder.
"""

from __future__ import annotations

import argparse
import base64
import http.server
import io
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from bench_data import Bench, Shape, run
from load_service import Server, serving
from PIL import Image

from csp_index import open_index
from csp_index.store import schema

BAR = 300  # milliseconds; the bar for the first picture
SIZE = (1440, 900)
WARM = 4  # pages that are opened before any counts
_DRAWN = 200  # different pictures
_WATCH = """(() => {
  window.painted = 0;
  new PerformanceObserver((list) => { window.painted ||= list.getEntries()[0].renderTime; })
    .observe({ type: "element", buffered: true });
  const watch = new MutationObserver(() => {
    const first = document.querySelector("main img");
    if (!first) return;
    first.setAttribute("elementtiming", "first");
    watch.disconnect();
  });
  watch.observe(document, { childList: true, subtree: true });
})()"""
_READ = """() => {
  const of = (name) => performance.getEntriesByName(name)[0];
  return {
    "HTML": performance.getEntriesByType("navigation")[0].responseEnd,
    "first picture painted": window.painted,
    "first contentful paint": of("first-contentful-paint")?.startTime ?? 0,
  };
}"""

Times = dict[str, list[float]]


def browser_path() -> str:
    """Return the browser's executable. Raises SystemExit where there is none."""
    installed = map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))
    path = os.environ.get("CSP_INDEX_BROWSER") or next(filter(None, installed), None)
    if path is None or not Path(path).exists():
        raise SystemExit(f"no browser at {path}: install chromium, or name one in CSP_INDEX_BROWSER")
    return path


def picture(generator: np.random.Generator) -> bytes:
    """Return a drawn JPEG of 128 x 85 pixels, some 3 kB, as `csp-index index` keeps them."""
    colors, file = generator.integers(0, 255, (8, 12, 3), np.uint8), io.BytesIO()
    Image.fromarray(colors).resize((128, 85)).save(file, "JPEG", quality=90)
    return file.getvalue()


def add_pictures(db: str) -> None:
    """Give the images of an index of arrays drawn pictures in place of none."""
    store, generator = open_index(db).store, np.random.default_rng(0)
    drawn = [picture(generator) for _ in range(_DRAWN)]
    rows = store.read(schema.IMAGES)
    thumbnails = [drawn[row % _DRAWN] for row in range(len(rows))]
    columns: dict[str, list[Any]] = {"thumbnail": thumbnails, "width": [640], "height": [427]}
    for name, values in columns.items():
        column = pa.array(values if len(values) == len(rows) else values * len(rows), rows.schema.field(name).type)
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    with store.write_lock():
        store.delete(schema.IMAGES, "image_id >= 0")
        store.append(schema.IMAGES, rows)


def made_index(folder: Path) -> str:
    """Return an index of random arrays with pictures, labeled by csp."""
    (made,) = Bench(folder, {"served": Shape(50_000, 2_048, 512, 10_000)}, 1, False).made("served")
    run(made.label_command("all", "--method", "csp"))
    add_pictures(made.db)
    return made.db


@contextmanager
def bare_page() -> Iterator[str]:
    """Serve a page of one small picture, inside its address, and give its address."""
    source = base64.b64encode(picture(np.random.default_rng(0))).decode()
    body = f'<!doctype html><title>bare</title><main><img src="data:image/jpeg;base64,{source}"></main>'.encode()

    class Bare(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # the browser has left
                self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def pages_of(server: Server, count: int) -> list[str]:
    """Return the addresses of the pages of different random neurons."""
    layers = [row for row in server.get("/api/v1/layers")["layers"] if row["ready"]]
    neurons = [f"{row['layer']}/{n}" for row in layers for n in range(row["neurons"])]
    chosen = random.Random(0).sample(neurons, min(count, len(neurons)))
    return ["/neurons/" + "/".join(quote(part, safe="") for part in neuron.split("/")) for neuron in chosen]


def measured(server: Server, count: int) -> tuple[Times, Times]:
    """Return the times of neurons' pages by their name, and those of a bare page opened in turn with them."""
    from playwright.sync_api import sync_playwright

    pages, bare = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with sync_playwright() as playwright, bare_page() as empty:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        for turn, path in enumerate(pages_of(server, count + WARM)):
            for address, times in ((f"http://127.0.0.1:{server.port}{path}", pages), (empty, bare)):
                for name, value in opened(browser, address).items():
                    if turn >= WARM:
                        times[name].append(value)
        browser.close()
    return pages, bare


def opened(browser: Any, address: str) -> dict[str, float]:
    """Open a page in a context of its own; return the times of its parts."""
    context = browser.new_context(viewport={"width": SIZE[0], "height": SIZE[1]})
    page = context.new_page()
    page.add_init_script(_WATCH)
    page.goto(address)
    for _ in range(50):
        times: dict[str, float] = page.evaluate(_READ)
        if times["first picture painted"] and times["first contentful paint"]:
            break
        page.wait_for_timeout(100)
    context.close()
    return times


def tell(title: str, times: Times) -> None:
    """Print the median and the 95th percentile of each time."""
    for name, values in times.items():
        ordered = sorted(values)
        late = ordered[int(0.95 * (len(ordered) - 1))]
        print(f"{title}, {name}: p50 {statistics.median(ordered):.0f} ms, p95 {late:.0f} ms")


def report(db: str, port: int, count: int, options: Sequence[str] = ()) -> None:
    """Print all times of one index."""
    with serving(db, port, options) as (server, _):
        while server.get("/readyz")["engine"] == "loading":
            time.sleep(0.2)
        pages, bare = measured(server, count)
    tell("neuron's page", pages)
    tell("bare page", {"first picture painted": bare["first picture painted"]})
    print(f"bar: the first picture painted within {BAR} ms")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", nargs="?", help="an index with pictures; by default one is made")
    parser.add_argument("--port", type=int, default=18766)
    parser.add_argument("--pages", type=int, default=20, help="pages that count")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    browser_path()
    if given.db:
        if not Path(given.db).exists():
            parser.error(f"no index at {given.db}: name one that `csp-index index` made")
        report(given.db, given.port, given.pages)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(made_index(Path(folder)), given.port, given.pages)


if __name__ == "__main__":
    main()
