"""The README says what there is: every command, every setting, every method, every module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from csp_index.cli import cli
from csp_index.labelling.scoring import METHODS
from csp_index.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_stands_in_the_readme(name: str) -> None:
    assert f"csp-index {name}" in README


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_setting_stands_in_the_readme(setting) -> None:
    assert f"| `{setting.variable}` | {setting.default} |" in README


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stands_in_the_readme(name: str) -> None:
    assert f"| `{name}` |" in README


def test_the_first_code_block_is_the_two_commands() -> None:
    block = README.split("```")[1].splitlines()[1:]
    assert block == ["pip install . && csp-index demo", "pip install '.[dev]' && pytest"]


def test_commands_in_the_readme_use_options_that_exist() -> None:
    for line in re.findall(r"csp-index ([a-z]+ [^\n`]*(?:\\\n[^\n`]*)*)", README):
        words = line.split()
        if words[0] in cli.commands:
            known = {name for parameter in cli.commands[words[0]].params for name in parameter.opts}
            assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known | {"--help"}
