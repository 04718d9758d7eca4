"""Readers while others write, as in `readers`, with the index on an S3 server: the one of the tests, on loopback."""

from __future__ import annotations

import sys
from pathlib import Path

from outcome import Outcome
from readers import Place, many_readers, service, two_writers
from subjects import write_arrays

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))


def run(folder: Path, *, quick: bool = False) -> list[Outcome]:
    """Return the outcomes; there are fewer readings than in a directory, for the server answers one request at a time.

    Versions that were replaced less than ten minutes ago stay in an object store, so clean-up that keeps nothing is
    safe for readers there.
    """
    from buckets import environment, make_bucket, serving

    write_arrays(folder / "arrays")
    with serving() as server:
        place = Place(make_bucket(server).uri, folder / "arrays", environment(server, folder), " on an S3 server")
        return [
            many_readers(place, 20 if quick else 60),
            two_writers(place, 5 if quick else 20),
            service(place, 100 if quick else 800),
        ]
