"""An S3 server on loopback, and buckets in it."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pyarrow as pa
import pytest
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, ThreadedMotoServer

from csp_index.store import schema
from csp_index.store.connect import open_store

ENCODER = "python:fakes:encoder"
NETWORK = ["--network", "python:fakes:network", "--layers", "concepts", "--name", "net"]
ROWS = pa.table({"key": pa.array([1, 2, 3]), "text": ["a", "b", "c"]})
_NUMBERS = itertools.count(1)  # moto keeps what is in a bucket for as long as the process lives
SECRET = "a-secret-that-must-not-be-told"
LEASE = ".writer.json"
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


@dataclass
class Server:
    """The S3 server: what it was asked, and whether it refuses."""

    url: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path and query, If-None-Match
    refuses: Callable[[str], bool] = lambda method: False


@contextmanager
def serving() -> Iterator[Server]:
    """Run an S3 server that notes what it is asked."""
    made, one_at_a_time = Server(), threading.Lock()
    answer = DomainDispatcherApplication.__call__

    def watched(self: Any, environ: dict[str, Any], start: Any) -> Any:
        method = environ["REQUEST_METHOD"]
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        with one_at_a_time:  # conditional writes are atomic in S3, in moto only then
            made.requests.append((method, asked, environ.get("HTTP_IF_NONE_MATCH", "")))
            if made.refuses(method):
                start("403 Forbidden", [("Content-Type", "application/xml")])
                return [DENIED]
            return answer(self, environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    patch = pytest.MonkeyPatch()
    patch.setattr(DomainDispatcherApplication, "__call__", watched)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    made.url = "http://{}:{}".format(*moto.get_host_and_port())
    yield made
    moto.stop()
    patch.undo()


@dataclass
class Bucket:
    """A fresh bucket."""

    server: Server
    name: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}/deep/db"

    @property
    def objects(self) -> dict[str, Any]:
        """What is in it, as the server holds it."""
        (held,) = [backends["aws"].buckets[self.name] for backends in s3_backends.values()]
        return dict(held.keys.items())

    def snapshot(self) -> dict[str, bytes]:
        return {name: key.value for name, key in self.objects.items()}

    def age(self, seconds: float = 3600) -> None:
        """Let time pass since the lease was renewed."""
        lease = self.objects[f"deep/db/{LEASE}"]
        lease.last_modified -= timedelta(seconds=seconds)

    def lease(self) -> dict[str, Any]:
        found = json.loads(self.objects[f"deep/db/{LEASE}"].value)
        assert isinstance(found, dict)
        return found


def environment(server: Server, folder: Path) -> dict[str, str]:
    """Return the variables by which the server is reached."""
    values = {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    values |= {"EC2_METADATA_DISABLED": "true", "CONFIG_FILE": str(folder / "no"), "DEFAULT_REGION": "us-east-1"}
    values |= {"SHARED_CREDENTIALS_FILE": str(folder / "none")}
    return {f"AWS_{name}": value for name, value in values.items()}


def make_bucket(server: Server) -> Bucket:
    """Make a bucket."""
    made = Bucket(server, f"bucket{next(_NUMBERS)}")
    urlopen(Request(f"{server.url}/{made.name}", method="PUT")).close()
    return made


@contextmanager
def fresh_bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """Make a bucket, and an environment in which it can be reached."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    made = make_bucket(server)
    server.requests.clear()
    yield made
    server.refuses = lambda method: False


def contents(uri: str | Path) -> dict[str, list[Any]]:
    """Every table's rows in a fixed order, without what tells one run from another."""
    store = open_store(uri)
    found = {}
    for name in set(store.table_names()) - {schema.RUNS}:
        rows = store.read(name).to_pylist()
        for row in rows:
            row.pop("run_id", None), row.pop("when", None)
        found[name] = sorted(rows, key=str)
    return found
