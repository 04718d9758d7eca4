"""The benchmark at ImageNet's size: figures are kept and resumed, memory is seen; slow: every stage at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "benchmarks"))

import bench_costs
import imagenet_size
from bench_data import Made, Shape
from imagenet_size import BAR, Cost, measure, run

SHAPE = Shape(60, 4, 8, 5)
COST = Cost(1.0, 2.0, 3, 4, 0.5)


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    ran: list[str] = []

    def step(name: str, fails: bool = False) -> Cost:
        ran.append(name)
        if fails:
            raise RuntimeError("ended")
        return COST

    made = Made(SHAPE, tmp_path)
    monkeypatch.setattr(
        imagenet_size, "_steps", lambda made: {"a": lambda: step("a"), "b": lambda: step("b", len(ran) < 2)}
    )
    with pytest.raises(RuntimeError, match="ended"):
        measure(made, None)
    assert measure(made, None) == {"a": COST, "b": COST}
    assert ran == ["a", "b", "b"]
    measure(made, ["a"])
    assert ran == ["a", "b", "b", "a"]
    with pytest.raises(SystemExit, match="no stage c"):
        measure(made, ["c"])
    with pytest.raises(SystemExit, match="figures of another size"):
        measure(replace(made, shape=replace(SHAPE, images=61)), None)


@pytest.mark.slow  # memory is looked at every few milliseconds, and on a busy machine less often
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_of_a_child_counts_and_mapped_files_do_not(tmp_path):
    size = 64 * 2**20
    (tmp_path / "file").write_bytes(bytes(size))
    child = f"data = bytes({size}); data = bytearray(data); import time; time.sleep(2)"
    opened = f"import mmap, subprocess, sys; file = open({str(tmp_path / 'file')!r})"
    mapped = "seen = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); sum(seen[::4096])"
    command = f"{opened}; {mapped}; subprocess.run([sys.executable, '-c', {child!r}])"
    cost, _ = run([sys.executable, "-c", command])
    assert size < cost.own < 3 * size
    assert cost.resident > size
    with pytest.raises(RuntimeError, match="ended with 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_every_stage_at_a_tiny_size(tmp_path: Path) -> None:
    size = ["--images", "600", "--neurons", "24", "--width", "16", "--texts", "40"]
    command = [sys.executable, imagenet_size.__file__, str(tmp_path), *size, "--clean"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    costs = json.loads((tmp_path / "figures.json").read_text())["costs"]
    assert set(costs) == set(imagenet_size._steps(Made(SHAPE, tmp_path)))
    for name, cost in costs.items():
        assert f"| {name} |" in ended.stdout
        assert cost["cpu"] > 0
        assert cost["own"] < BAR
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.json", "figures.json"]
    measured = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("figures", "facts")}
    assert bench_costs.of_imagenet(measured)["embeddings bytes"][1] > 4 * 600 * 16


def test_only_seconds_of_an_idle_machine_are_fitted():
    costs = {"start-up (import)": asdict(Cost(2.0, 2.0, 1, 1, 0.1)), "import": asdict(Cost(9.0, 5.0, 1, 1, 0.5))}
    costs["label all, csp"] = asdict(Cost(99.0, 9.0, 1, 5, 1e6))
    facts = {"distinct": 30, "bytes": {"embeddings_x": 700, "activations_x": 900}}
    fitted = bench_costs.of_imagenet({"figures": {"shape": asdict(SHAPE), "costs": costs}, "facts": facts})
    size = {"N": SHAPE.images, "M": SHAPE.neurons, "D": SHAPE.width, "U": 30}
    assert fitted == {"import s": (size, 7.0), "label-all peak bytes": (size, 5.0), "embeddings bytes": (size, 700.0)}
    assert bench_costs.of_imagenet(None) == {}
