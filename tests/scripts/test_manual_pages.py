"""The generated pages on a made-up command line with all kinds of options."""

from __future__ import annotations

import sys

import click
import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "manual"))

import command_page
import markdown_text


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
