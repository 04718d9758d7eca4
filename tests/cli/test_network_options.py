"""Options about models are checked before torch is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import python_path

_PROGRAM = """
import sys
from csp_index.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except Exception as exc:
    print("torch" in sys.modules, exc)
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["index", "db", ".", "--encoder", "ViT-B-32"], "encoder 'ViT-B-32' names no library"),
        (["index", "db", ".", "--network", "timm:x", "--layers", "a", "--pool", "avg"], "pool 'avg' is unknown"),
        (["index", "db", ".", "--network", "timm:x", "--layers", "a", "--axis", "0"], "axis '0' is no axis"),
        (
            ["index", "db", ".", "--network", "timm:x", "--layers", "a", "--weights", "no.pth::ema"],
            "no.pth does not exist",
        ),
        (["index", "db", ".", "--network", "timm:x"], "1 --network and 0 --layers"),
        (["index", "db", ".", "--network", "timm:x", "--layers", " ,"], "--layers of timm:x names none"),
        (["layers", "resnet50"], "network 'resnet50' names no library"),
    ],
)
def test_wrong_options_are_refused_before_torch(options: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, *options]
    out = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": python_path()}, capture_output=True, text=True)
    assert out.stdout.startswith("False ") and message in out.stdout, out.stderr
