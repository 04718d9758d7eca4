"""The README and the manual say what there is: every command, setting, method and public name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import csp_index
from csp_index.cli import cli
from csp_index.labelling.methods import METHODS
from csp_index.settings import GROUPS, SETTINGS

sys.path.insert(0, str(ROOT / "scripts" / "manual"))

import make_reference

DOCS = ROOT / "csp_index" / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}


def test_no_generated_page_is_stale() -> None:
    stale = [path.name for path in make_reference.stale()]
    assert not stale, f"run `{make_reference.COMMAND}`"


def test_the_check_names_a_stale_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(make_reference, "ROOT", tmp_path)
    monkeypatch.setattr(make_reference, "DOCS", tmp_path)
    assert make_reference.main(["--check"]) == 1
    assert "settings.md is stale" in capsys.readouterr().err
    assert make_reference.main([]) == 0 == make_reference.main(["--check"])
    (tmp_path / "cli.md").write_text("changed by hand")
    assert make_reference.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("cli.md is stale: run `python scripts/")
    assert make_reference.main(["--chekc"]) == 2


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_stands_in_the_manual(name: str) -> None:
    assert f"\n## csp-index {name}\n" in PAGES["cli.md"]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_every_setting_stands_in_the_manual(setting) -> None:
    assert f"\n| `{setting.variable}` | `{setting.default}` |" in PAGES["settings.md"]


def test_every_setting_stands_under_one_heading() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(SETTINGS)


@pytest.mark.parametrize("name", csp_index.__all__)
def test_every_public_name_stands_in_the_manual(name: str) -> None:
    assert name == "__version__" or f"\n### {name}\n" in PAGES["python.md"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_stands_in_the_readme(name: str) -> None:
    assert f"| `{name}` |" in README


def test_the_first_code_block_is_the_two_commands() -> None:
    block = README.split("```")[1].splitlines()[1:]
    assert block == ["pip install . && csp-index demo", "pip install '.[dev]' && pytest"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_use_options_that_exist(page: str) -> None:
    for line in re.findall(r"csp-index ([a-z]+ [^\n`]*(?:\\\n[^\n`]*)*)", PAGES[page]):
        words = line.split()
        if words[0] in cli.commands:
            known = {name for parameter in cli.commands[words[0]].params for name in parameter.opts}
            known |= {name for parameter in cli.commands[words[0]].params for name in parameter.secondary_opts}
            assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known | {"--help"}, line


@pytest.mark.parametrize("page", ["architecture.md", "contributing.md"])
def test_files_that_the_map_of_the_code_names_exist(page: str) -> None:
    named = re.findall(r"`((?:csp_index/|tests/|scripts/)?[\w/]+(?:\.py|/))`", PAGES[page])
    places = [ROOT, *(ROOT / "csp_index" / room for room in ("", "service", "evaluation"))]
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert len(named) > 10
    assert not missing
