"""The run on a card: parts are skipped, stopped and reported; slow: every path is reached, on a CPU."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import gpu
from bench_data import Shape
from card import layer as gpu_layer
from card.run import Run


def test_a_part_is_skipped_where_little_time_is_left(tmp_path):
    rows = [row for some in gpu.parts(Run("cpu", True, str(tmp_path)), list(gpu.PARTS), 20.0) for row in some]
    assert [row.name for row in rows] == [f"gpu.{name}.skipped" for name in gpu.PARTS]
    assert rows[0].detail["why"] == "skipped: 20 of 20 s are left, 45 are needed"


@pytest.mark.parametrize(
    ("end", "limit", "why"),
    [
        ("raise RuntimeError('out of memory')", 60, "failed: RuntimeError: out of memory"),
        pytest.param("time.sleep(60)", 3, "stopped after its limit of 3 s", marks=pytest.mark.slow),
    ],
)
def test_what_a_part_printed_stays_where_it_fails_or_takes_too_long(tmp_path, monkeypatch, end, limit, why):
    printed = json.dumps(gpu.as_json([gpu.Row("gpu.x", "a", 1.0, "s", "", None)])[0])
    (tmp_path / "part.py").write_text(f"import time\nprint('text')\nprint({printed!r}, flush=True)\n{end}")
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "part.py"))
    first, last = gpu._ran(Run("cuda", True, str(tmp_path)), "live", gpu.PARTS["live"], limit)
    assert (first.name, first.value) == ("gpu.x", 1.0)
    assert (last.name, last.holds, last.detail["why"]) == ("gpu.live.failed", False, why)


def test_a_machine_without_a_card_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "no nvidia-smi is here: a CPU can only be tried, by --device cpu" in capsys.readouterr().err


def test_the_made_layer_is_labeled_by_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_layer, "QUICK", Shape(400, 6, 8, 12))
    monkeypatch.setattr(gpu_layer, "_ROWS", 150)
    made = gpu_layer.make_layer(gpu_layer.QUICK, torch.device("cpu"))
    top = made.activations.sort(dim=1, descending=True, stable=True)
    assert torch.equal(made.values, top.values[:, :30])
    torch.testing.assert_close(made.thresholds, made.activations.mean(1))
    torch.testing.assert_close(made.embeddings.norm(dim=1), torch.ones(400))
    rows = {row.name: row for row in gpu_layer.layer(Run("cpu", True, str(tmp_path), seconds=100))}
    assert {"gpu.lists.float32", "gpu.lists.bfloat16.memory", "gpu.nearest", "gpu.label-all"} <= set(rows)
    assert all(row.value > 0 and row.holds is None for row in rows.values())


@pytest.mark.slow
def test_a_cpu_reaches_every_path(tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--quick", "--budget", "600", "--json", str(tmp_path / "rows.json")]) == 0
    found = json.loads((tmp_path / "rows.json").read_text())
    names = {row["name"]: row for row in found["rows"]}
    assert not [name for name in names if name.endswith((".skipped", ".failed"))]
    assert {name.split(".")[1] for name in names} >= {"paths", "label-all", "lists", "index", "live"}
    assert all(row["holds"] for name, row in names.items() if name.startswith("gpu.paths"))
    assert "show only that every path is reached, and nothing about a card" in capsys.readouterr().out
