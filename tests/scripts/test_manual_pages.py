"""The generated pages on a made-up command line and a made-up module: signatures as written, nothing of the machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "manual"))

import command_page
import markdown_text
import method_tables
import python_page

MODULE = '''
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack, overload

__all__ = ["Failure", "Kind", "Model", "Options", "draw"]

Kind = Literal["near",
               "far"]  # how far


_WIDTH = 3


@dataclass(frozen=True)
class Options:
    """What can be chosen | or not."""

    kind: Kind | None = None  # near or far; `a|b`
    names: tuple[str, ...] = field(default_factory=tuple)
    size: float = (
        0.5  # of *one*
    )
    rest: int = _WIDTH


class Knobs(TypedDict, total=False):
    size: float


class AllKnobs(Knobs, total=False):
    kind: Kind | None


class Base:
    def turn(self, **knobs: Unpack[AllKnobs]) -> None:
        """Turn them."""

    def run(self, *, times: int = 2) -> int:
        """Run, and again.

        >>> Base().run()
        2

        After that it <stops>.
        """
        return times

    def hidden(self) -> None:
        """Overridden below."""


class Model(Base):
    """A model."""

    @overload
    def hidden(self) -> None: ...
    @overload
    def hidden(self, loud: bool) -> None: ...
    def hidden(self, loud: bool = False) -> None:
        """Hide."""

    def __init__(self, path: str, *, width: int = _WIDTH) -> None:
        """Not shown."""

    @property
    def name(self) -> str:
        """Its name."""

    @classmethod
    def made(cls, path: str, /, *parts: str, **options: Any) -> Model:
        """Make one."""

    def _own(self) -> None: ...


class Failure(Exception):
    """It failed."""


def draw(image: bytes, *, width: int = 400, height: int = 300, ink: str = "red", title: str = "", dots: int = 4) -> str:
    """Draw."""
'''


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    file = tmp_path / "made_for_pages.py"
    file.write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, module)
    spec.loader.exec_module(module)
    yield module
    python_page._Source.of.cache_clear()


def test_names_are_shown_as_they_were_written(made: ModuleType) -> None:
    service = ModuleType("service")
    service.__all__ = []
    page = python_page.python_page(made, service)
    assert '```python\nKind = Literal["near", "far"]\n```' in page
    assert "| `kind` | `Kind \\| None` | `None` | near or far; `a\\|b` |" in page
    assert "| `names` | `tuple[str, ...]` | `()` |  |\n| `size` | `float` | `0.5` | of \\*one\\* |" in page
    assert "| `rest` | `int` |  |  |" in page
    assert "```python\nModel(path: str, *, width: int = _WIDTH)\n```\n\nA model." in page and "Not shown" not in page
    assert "Model.made(path: str, /, *parts: str, **options: Any) -> Model" in page
    assert "Unpack[AllKnobs]) -> None\n```\n\nTurn them.\n\n`knobs`: `size: float`, `kind: Kind | None`." in page
    assert "```python\nModel.name: str\n```\n\nIts name." in page
    assert page.count("#### Model.hidden") == 1 and "Model.hidden(loud: bool = False) -> None" in page
    assert "Overridden below" not in page and "_own" not in page
    assert "```pycon\n>>> Base().run()\n2\n```\n\nAfter that it \\<stops\\>." in page
    assert "draw(\n    image: bytes,\n    *,\n    width: int = 400," in page and "    dots: int = 4,\n) -> str" in page
    assert "### Failure\n\n`from made_for_pages import Failure`\n\nIt failed." in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## More"]
    assert str(made.__file__) not in page


@click.group()
def program() -> None:
    """A program."""


@program.group()
def inner() -> None:
    """Commands within."""


@inner.command()
@click.argument("db", metavar="DB")
@click.option("--count", type=click.IntRange(1, 9), default=3, help="How many <at a time>.")
@click.option("--kind", "-k", type=click.Choice(["a", "b"]), multiple=True, required=True, help="Which.")
@click.option("--loud/--quiet", default=None, help="Or not.")
@click.option("--secret", hidden=True)
def draw(**_: object) -> None:
    """Draw one *or*
    two.

    More of it.

    \b
    program inner draw DB \\
        --kind a
    """


def test_a_command_has_its_usage_examples_and_options() -> None:
    page = command_page.command_page(program, "program")
    assert "| [`program inner draw`](#program-inner-draw) | Draw one \\*or\\* two. |" in page
    section = page[page.index("## program inner draw") :]
    assert section.split("\n\n")[1:] == [
        "Draw one \\*or\\*\ntwo.",
        "More of it.",
        "```text\nprogram inner draw [OPTIONS] DB\n```",
        "```sh\nprogram inner draw DB \\\n    --kind a\n```",
        "- `--count INTEGER` (1 to 9, default `3`): How many \\<at a time\\>.\n"
        "- `--kind, -k a|b` (required, can be repeated): Which.\n"
        "- `--loud / --quiet`: Or not.",
    ]


def test_the_width_of_the_terminal_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    page = command_page.command_page(program, "program")
    monkeypatch.setenv("COLUMNS", "30")
    assert command_page.command_page(program, "program") == page


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b `a*b` _c_ *d*", "a_b `a*b` \\_c\\_ \\*d\\*"),
        ("back\\slash", "back\\\\slash"),
        ("``a`b`` <c>", "``a`b`` \\<c\\>"),
    ],
)
def test_prose_shows_what_was_written(text: str, escaped: str) -> None:
    assert markdown_text.escape(text) == escaped


def test_a_table_has_no_empty_column_and_escapes_bars() -> None:
    made = markdown_text.table(["field", "default", "meaning"], [["`a|b`", "", "x"], ["`b`", "", ""]])
    assert made == "| field | meaning |\n| --- | --- |\n| `a\\|b` | x |\n| `b` |  |"


def test_the_tables_say_what_methods_and_kinds_take() -> None:
    rows = method_tables.method_table().splitlines()
    assert "| 100 | none | `--prior`, `--prior-weight` | arXiv 2204.10965 |" in "".join(rows)
    assert sum("(the default)" in row for row in rows) == 1
    assert next(row for row in rows if "`random-contrast`" in row).split(" | ")[3] == "1, random"
    assert "`--generator`, `--variants`" in method_tables.contrast_table()
    assert "| random |" in method_tables.short_method_table()
