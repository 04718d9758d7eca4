"""The pass on Ray: table by table what the local engine writes, whoever is killed; errors in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
import torch
from broken_encoders import MARKER, Failing, mortal
from checkout import ROOT, python_path
from few import few
from indexed import ENCODER, NETWORK, contents
from ray_here import engine_here

from csp_index import CspIndexError, NetworkSource, open_index
from csp_index.images.sources import open_source
from csp_index.indexing import indexer
from csp_index.indexing.model_columns import Part, columns_of
from csp_index.indexing.ray_cluster import connected
from csp_index.indexing.ray_worker import recipe
from csp_index.models.encoders import load_encoder
from csp_index.models.networks import load_network
from csp_index.store import schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.connect import create_store, open_store, open_uncommitted

# models that workers load from here


# a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two machines with one CPU each, which this process has joined."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'csp_index[ray]'")
    from csp_index.indexing.ray_cluster import ray_module

    ray_module()
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(MARKER, str(tmp_path_factory.mktemp("marker") / "killed"))
        size = {"num_cpus": 1, "object_store_memory": 100_000_000}
        machines = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
        machines.add_node(**size)
        with connected(machines.address):
            yield machines.address
        machines.shutdown()


def add(db: Path, source: Path | None, engine: str, **options: Any):
    options = {"encoders": [ENCODER], "networks": [NETWORK], "shard_size": 10} | options
    return open_index(db).add_images(source, engine=engine, **options)


def spoilt(folder: Path, count: int, seed: int = 0) -> Path:
    """Write images with unreadable ones between them: the first, two neighbours, and one at the end of a shard."""
    fakes.write_images(folder, count, seed=seed)
    for name in ("a/img00000", "a/img00010", "a/img00010x", "b/img00007", "b/zzz"):
        (folder / f"{name}.png").write_bytes(b"not a picture")
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_the_tables_equal_those_of_the_local_engine(cluster, tmp_path):
    source = spoilt(tmp_path / "images", 90)
    encoder, vit = tiny_models.save_open_clip(tmp_path / "clip"), tiny_models.save_vit(tmp_path / "vit")
    options = {
        "encoders": [f"open_clip:{encoder}", ENCODER],
        "networks": [NetworkSource(f"transformers:{vit}", ("layers.1", "layernorm"), name="vit"), NETWORK],
        "shard_size": 37,
    }
    shown: list[tuple[int, int]] = []
    summary = add(
        tmp_path / "ray", source, "ray", progress=lambda done, todo, what: shown.append((done, todo)), **options
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: sums of floats hang on how they are split
    local = add(tmp_path / "local", source, "local", **options)
    torch.set_num_threads(threads)
    assert (summary.added, summary.failed, summary.shards) == (local.added, local.failed, local.shards) == (90, 5, 3)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert shown == sorted(shown)
    assert shown[-1] == (95, 95)
    runs = open_index(tmp_path / "ray").sql("SELECT command, state FROM runs").rows()
    assert runs == [{"command": "index --engine ray", "state": "done"}]


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_costs_a_retry_not_the_run(cluster, tmp_path):
    source = spoilt(tmp_path / "images", 60)
    marker = Path(os.environ[MARKER])
    assert not marker.exists()
    add(tmp_path / "ray", source, "ray", encoders=[mortal().spec])
    assert marker.exists()
    add(tmp_path / "local", source, "local", encoders=[mortal().spec])
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.ray
@pytest.mark.slow
def test_new_layers_catch_up_and_new_images_of_a_container_follow(cluster, tmp_path):
    only = NetworkSource("python:fakes:network", ("concepts",), name="net")
    pictures = [path.read_bytes() for path in sorted(fakes.write_images(tmp_path / "images", 33).rglob("*.png"))]
    table = pa.table({"image": [*pictures[:5], b"broken", *pictures[5:]], "number": list(range(34))})
    first, whole = tmp_path / "set" / "0.parquet", tmp_path / "set" / "1.parquet"
    first.parent.mkdir()
    for name, engine in (("ray", "ray"), ("local", "local")):
        whole.unlink(missing_ok=True)
        pq.write_table(table.slice(0, 17), first)
        add(tmp_path / name, first.parent, "local", networks=[only])
        pq.write_table(table.slice(17), whole)
        add(tmp_path / name, first.parent, engine)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len(open_index(tmp_path / "ray").activations("net/conv/0")) == 33


@pytest.mark.ray
@pytest.mark.slow
def test_a_model_that_fails_on_a_worker_is_told_in_one_line_and_nothing_is_marked(cluster, tmp_path):
    source = fakes.write_images(tmp_path / "images", 23)
    with pytest.raises(CspIndexError) as error:
        add(tmp_path / "ray", source, "ray", encoders=[Failing.spec], networks=[])
    assert (
        str(error.value) == f"embeddings:{Failing.spec} fails on 4 images: RuntimeError: out of luck; check the model"
    )
    index = open_index(tmp_path / "ray")
    assert index.store.count(schema.SHARDS) == 0
    assert [run["state"] for run in index.status()["runs"]] == ["failed"]
    assert add(tmp_path / "ray", source, "local").added == 23


@pytest.mark.ray
@pytest.mark.slow
def test_a_stopped_driver_leaves_no_process_behind_and_the_same_command_goes_on(tmp_path):
    pytest.importorskip("ray")
    source = spoilt(tmp_path / "images", 150)
    command = [
        sys.executable,
        "-c",
        "from csp_index.cli import main; main()",
        "index",
        str(tmp_path / "ray"),
        str(source),
    ]
    command += ["--encoder", ENCODER, "--network", NETWORK.spec, "--layers", ",".join(NETWORK.layers), "--name", "net"]
    command += ["--shard-size", "10", "--engine", "ray", "--json"]
    environment = os.environ | {"PYTHONPATH": python_path(), "FAKE_SECONDS": "0.5"}
    marks = now = 0
    for stop in (signal.SIGKILL, signal.SIGINT):
        with open(tmp_path / "log", "w") as log:
            driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            while driver.poll() is None and (now := shards_marked(tmp_path / "ray")) <= marks:
                time.sleep(0.1)
            family = descendants(driver.pid)
            driver.send_signal(stop)
            assert driver.wait(60) == (1 if stop == signal.SIGINT else -stop)
        # Ray's agents look only now and then whether their raylet is there: they may take minutes to end.
        family = {pid: name for pid, name in family.items() if name and "Agent" not in name}
        assert any("raylet" in name for name in family.values())
        ended = time.monotonic() + 60
        while alive := [name for pid, name in family.items() if command_line(pid) == name]:
            assert time.monotonic() < ended, alive
            time.sleep(0.1)
        marks = now
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith("Interrupted: what is finished is kept")
    assert "ray" not in (tmp_path / "log").read_text().lower()
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": python_path()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = r"[\d,]+ of [\d,]+ images.*|Warning: folders taken for classes: .*"
    assert all(re.fullmatch(expected, line) for line in done.stderr.splitlines()), done.stderr
    assert json.loads(done.stdout)["images"] == 150
    add(tmp_path / "local", source, "local")
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def shards_marked(db: Path) -> int:
    """Return how many marks the writer has, of which readers see none before its last commit."""
    try:
        return open_uncommitted(db).count(schema.SHARDS)
    except CspIndexError:  # not there yet
        return 0


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def descendants(pid: int) -> dict[int, str]:
    """The command lines of the processes that a process started, and those that these started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.split()
    parents = dict(zip(map(int, listed[::2]), map(int, listed[1::2]), strict=True))
    found, before = {pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return {child: command_line(child) for child in found - {pid}}


# without a cluster


@pytest.mark.ray
@pytest.mark.parametrize(
    ("address", "told"),
    few(
        [
            ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: Connection refused"),
            ("head", "'head' is not the address of a Ray cluster: expected HOST:PORT"),
            ("ray://head:10001", "is not the address of a Ray cluster"),
            ("127.0.0.1:99999", "is not the address of a Ray cluster"),
        ],
        1,
    ),
)
def test_an_address_without_a_cluster_is_told_and_nothing_is_written(tmp_path, address, told):
    pytest.importorskip("ray")
    with pytest.raises(CspIndexError) as error:
        add(tmp_path / "db", fakes.write_images(tmp_path / "images", 3), "ray", ray_address=address)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "db").exists()


def test_the_engine_is_checked_before_anything_is_written(tmp_path, monkeypatch):
    source = fakes.write_images(tmp_path / "images", 3)
    for options, told in (
        ({"engine": "spark"}, "engine 'spark' is unknown: expected local or ray"),
        ({"engine": "local", "ray_address": "head:6379"}, "given to engine local"),
        ({"engine": "ray", "decode_workers": 2}, "on Ray every worker decodes"),
    ):
        with pytest.raises(CspIndexError, match=told):
            add(tmp_path / "db", source, **options)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CspIndexError, match=r"pip install 'csp_index\[ray\]'"):
        add(tmp_path / "db", source, "ray")
    assert not (tmp_path / "db").exists()


@pytest.mark.slow
def test_ray_loads_only_when_it_is_used():
    code = "import sys, csp_index.indexing.ray_indexer; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_fragments_are_rows_once_they_are_appended_and_in_that_order(tmp_path):
    store = create_store(tmp_path / "db")
    rows = pa.table({"a": [0, 1, 2, 3, 4, 5]})
    store.append("t", rows.slice(0, 1))
    first, second, lost = (open_store(tmp_path / "db").write_fragments("t", rows.slice(n, 2)) for n in (1, 3, 5))
    assert store.read("t")["a"].to_pylist() == [0]
    store.append_fragments("t", [*second, *first])
    store.append("t", rows.slice(5))
    assert store.read("t")["a"].to_pylist() == [0, 3, 4, 1, 2, 5]
    assert lost


def test_a_worker_with_another_model_than_the_driver_says_so(monkeypatch):
    encoder = load_encoder(ENCODER)
    made = recipe(Part(encoder, (EncoderInfo(ENCODER, encoder.width, None, encoder.identity, "table"),)))
    assert made.part().model.identity == encoder.identity
    monkeypatch.setenv("FAKE_SEED", "1")  # as a file that differs from machine to machine
    with pytest.raises(CspIndexError, match=f"{ENCODER} differs on the worker .* its weights is projection 1"):
        made.part()


def test_a_network_is_made_again_with_the_same_layers_pools_and_name(tmp_path):
    vit = tiny_models.save_vit(tmp_path / "vit")
    for pool in (None, "token-max"):
        network = load_network(f"transformers:{vit}", layers=["layers.1", "pooler"][: 1 if pool else 2], pool=pool)
        infos = columns_of([], [network], "float32")
        again = recipe(Part(network, tuple(infos))).part()
        assert columns_of([], [again.model], "float32") == infos


@pytest.mark.parametrize(
    "shard_size", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 3, 10, 11, 100))]
)
def test_shards_are_formed_and_marked_as_in_the_local_engine_in_whatever_order_they_are_written(
    tmp_path, monkeypatch, shard_size
):
    source = spoilt(tmp_path / "images", 43, seed=shard_size)
    encoder, network = load_encoder(ENCODER), load_network(NETWORK.spec, layers=NETWORK.layers, name="net")
    network.batch_size = 7
    for name in ("ray", "local"):
        store = create_store(tmp_path / name)
        with engine_here(name, monkeypatch, shard_size) as (engine, pools):
            options = {"shard_size": shard_size, "engine": engine}
            indexer.add_images(store, open_source(source), [encoder], [], **options)
            fakes.write_images(source, 3, start=43)
            indexer.add_images(store, open_source(source), [encoder], [network], **options)
        assert {pool.most_chunks for pool in pools} <= {4}, "decoded ahead: two for each worker, however many images"
        for number in (43, 44, 45):
            next(source.rglob(f"img{number:05d}.png")).unlink()
    assert open_index(tmp_path / "ray").sql("SELECT count(*) AS n FROM images").rows() == [{"n": 46}]
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
