"""The README and the manual say what there is: every command, setting, method and public name."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

import csp_index
from csp_index.cli import cli
from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.evaluation.metrics.table import METRICS
from csp_index.labelling.methods import METHODS, RECOMMENDED
from csp_index.service.documents import manual
from csp_index.settings import GROUPS, SETTINGS

sys.path.insert(0, str(ROOT / "scripts" / "manual"))

import make_reference

DOCS = ROOT / "csp_index" / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}


def test_no_generated_page_is_stale() -> None:
    stale = [path.name for path in make_reference.stale()]
    assert not stale, f"run `{make_reference.COMMAND}`"


@pytest.mark.slow
def test_the_check_names_a_stale_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(make_reference, "ROOT", tmp_path)
    monkeypatch.setattr(make_reference, "DOCS", tmp_path)
    (tmp_path / "README.md").write_text("# R\n\n<!-- methods in short: generated -->\n| old |\n<!-- end -->\nend\n")
    assert make_reference.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "settings.md is stale" in said and "README.md is stale" in said
    assert make_reference.main([]) == 0 == make_reference.main(["--check"])
    text = (tmp_path / "README.md").read_text()
    assert (
        text.startswith("# R\n") and "| `csp` |" in text and "old" not in text and text.endswith("<!-- end -->\nend\n")
    )
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


@pytest.mark.parametrize("page", ["README.md", "methods.md"])
def test_every_method_stands_in_the_readme_and_the_manual(page: str) -> None:
    assert [name for name in METHODS if f"\n| `{name}` |" not in PAGES[page]] == []
    assert f"The default is `{RECOMMENDED}`" in PAGES[page]


@pytest.mark.parametrize("name", CONTRAST_KINDS)
def test_every_contrast_kind_stands_in_the_manual(name: str) -> None:
    assert f"\n| `{name}` |" in PAGES["contrast.md"]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_stands_in_the_manual(name: str) -> None:
    assert f"\n| `{name}` |" in PAGES["evaluation.md"]


def test_the_first_page_leads_to_every_other() -> None:
    linked = re.findall(r"\]\(([a-z-]+\.md)\)", PAGES["index.md"])
    assert sorted(linked) == sorted(set(PAGES) - {"README.md", "index.md"})


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    folder = (ROOT if page == "README.md" else DOCS).resolve()
    text = re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (folder / file).resolve() if file else folder / page
        assert target.is_file() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("help_", manual.HELP.values(), ids=manual.HELP.keys())
def test_the_explorer_leads_to_places_that_exist(help_: manual.Help) -> None:
    page, _, anchor = help_.place.partition("#")
    assert not anchor or anchor in _anchors(DOCS / f"{page}.md")


@cache
def _anchors(page: Path) -> set[str]:
    return {heading.anchor for heading in manual.headings(page.read_text(encoding="utf-8"))}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 260


@pytest.mark.parametrize("page", [page for page in PAGES if page not in make_reference.PAGES])
def test_python_in_the_pages_compiles(page: str) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE):
        compile(code, page, "exec")


def test_the_first_code_block_is_the_two_commands() -> None:
    block = README.split("```")[1].splitlines()[1:]
    assert block == ["pip install . && csp-index demo", "pip install '.[dev]' && pytest -n 2 --dist loadfile"]


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


def test_modules_in_the_map_of_the_code_exist() -> None:
    package = ROOT / "csp_index"
    place, above = package, [package]
    missing: list[str] = []
    for line in PAGES["contributing.md"].partition("## Codebase map")[2].split("```")[1].splitlines()[2:]:
        name, names = line[:19].strip(), line[19:]
        if line.split()[:1] and line.split()[0].endswith(".py"):  # a name may be longer than its column
            name, names = line.split()[0], ""
        if name.endswith("/"):
            depth = (len(line) - len(line.lstrip())) // 2  # 1 for a room of the package, 2 for a room in it
            above[depth:] = [above[depth - 1] / name]
            place = above[depth]
        files = [name] if name.endswith(".py") else [f"{module}.py" for module in re.findall(r"\w+", names)]
        missing += [f"{place}/{file}" for file in files if name != "docs/" and not (place / file).exists()]
    assert not missing
    assert place == package / "docs"


def test_the_layers_in_the_manual_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer for layer in contracts[0]["layers"] if layer != "__main__"]
    assert "\n```\n" + "\n".join(layers) + "\n```\n" in PAGES["architecture.md"]


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"]) == (project["name"], project["version"])
    assert citation["license"] == project["license"] and citation["keywords"] == project["keywords"]
    assert {"cff-version", "message", "authors"} <= citation.keys()
