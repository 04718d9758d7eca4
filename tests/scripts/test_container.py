"""The recipe of the container: what it copies exists, and what it runs is understood. Building it needs Docker."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

import pytest
from checkout import ROOT

from csp_index.cli import cli

LINES = (ROOT / "scripts" / "container" / "Dockerfile").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def steps(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_exists_and_is_all_that_a_build_needs() -> None:
    copied = {word for step in steps("COPY") for word in step.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    assert copied >= {"pyproject.toml", "csp_index", PROJECT["readme"], *PROJECT["license-files"]}


def test_what_is_installed_exists() -> None:
    (extras,) = re.findall(r"pip install '\.\[([a-z,]+)\]'", "\n".join(LINES))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (version,) = re.findall(r"python:(3\.\d+)-slim", "\n".join(steps("FROM")))
    assert float(version[2:]) >= float(PROJECT["requires-python"].removeprefix(">=3."))


@pytest.mark.parametrize("place", range(2))
def test_commands_are_understood(place: int) -> None:
    started = json.loads(steps("CMD")[0])
    ran = shlex.split(next(step for step in steps("RUN") if step.startswith("csp-index")))
    program, name, *arguments = (ran, started)[place]
    assert program == "csp-index"
    context = cli.commands[name].make_context(name, arguments, resilient_parsing=True)
    assert context.params.get("db", "csp-demo/biased.db") == "csp-demo/biased.db"


def test_nothing_runs_as_root_but_the_installation() -> None:
    user = LINES.index("USER 1000")
    assert all(LINES.index(line) > user for line in LINES if line.startswith(("RUN csp-index", "CMD")))
