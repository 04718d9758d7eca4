"""Progress in a notebook, by a kernel that only remembers what it was to show."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from csp_index.query import notebook
from csp_index.query.notebook import NotebookBar, shown_progress


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """What a fake kernel shows, each update of the bar a line."""
    lines: list[str] = []
    display = ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda bar, display_id: (lines.append(bar), SimpleNamespace(update=lines.append))[1]
    package = ModuleType("IPython")
    package.get_ipython = lambda: SimpleNamespace(kernel=object())
    package.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return lines


def test_a_script_and_a_terminal_show_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))  # there, but nobody runs it
    shown_progress()(1, 2, "images")
    shell = ModuleType("IPython")
    shell.get_ipython = lambda: SimpleNamespace()  # IPython in a terminal has no kernel
    monkeypatch.setitem(sys.modules, "IPython", shell)
    shown_progress()(1, 2, "images")
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_one_bar_that_fills(shown, monkeypatch) -> None:
    clock = iter([0.0, 0.01, 1.0, 1.01, 1.02])
    monkeypatch.setattr(notebook.time, "monotonic", lambda: next(clock))
    report = shown_progress()
    assert isinstance(report, NotebookBar)
    assert shown == []
    for done in (10, 20, 2000, 2900, 3000):
        report(done, 3000, "images")
    assert [line.partition("</progress> ")[2] for line in shown] == [
        "10 of 3,000 images",
        "2,000 of 3,000 images",
        "3,000 of 3,000 images",  # the last is shown however soon it comes
    ]
    assert 'value="3000" max="3000"' in shown[-1]
