"""The tutorial is true: its files and commands, in order, in an empty folder, print what the page shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from page_script import Command, File, Reader, differences, steps_of
from PIL import Image

DOCS = ROOT / "csp_index" / "docs"
PAGE = """\
The script `hello.py` greets.

```python
print("hello")
print("world", flush=True)
```

```console
$ python hello.py
hello
world
$ python hello.py \\
    "two
words"
...
world
```

```sh
python -c ""
```
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    for name in ("folder", "programs"):
        (tmp_path / name).mkdir()
    return Reader(tmp_path / "folder", tmp_path / "programs")


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print(reader: Reader) -> None:
    complaints = reader.follow((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    assert not complaints, "\n\n".join(complaints)
    shown, drawn = (
        np.asarray(Image.open(path).convert("L"), dtype=float)
        for path in (DOCS / "tutorial-card.png", reader.folder / "warning.png")
    )
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).mean() < 1, "the page's card is another: copy warning.png to tutorial-card.png"


def test_the_tutorial_is_read_whole() -> None:
    page = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    steps = steps_of(page)
    files = [step.name for step in steps if isinstance(step, File)]
    assert files == ["signs.py", "mynet.py", "train.py", "words.py", "truth.csv", "read.py", "notebook.py"]
    assert sum(isinstance(step, Command) for step in steps) == page.count("\n$ ") + page.count("\n```sh\n")


def test_a_page_becomes_files_and_commands() -> None:
    assert steps_of(PAGE) == [
        File("hello.py", 'print("hello")\nprint("world", flush=True)\n'),
        Command("python hello.py", "hello\nworld\n", 9),
        Command('python hello.py \\\n    "two\nwords"', "...\nworld\n", 12),
        Command('python -c ""', "", 20),
    ]


def test_a_true_page_is_followed_without_complaint(reader: Reader) -> None:
    assert reader.follow(PAGE) == []


@pytest.mark.parametrize(
    ("true", "untrue", "line"),
    [
        ("hello\nworld\n$", "hello\nword\n$", "-word"),
        ("hello\nworld\n$", "hello\n$", "+world"),
        ("...\nworld\n", "...\nmoon\n", "-moon"),
        ("hello.py\nhello", "goodbye.py\nhello", "+exit status 2"),
        ('python -c ""', "python -c 'print(1)'", "+1"),
    ],
    ids=["word", "line", "after the ellipsis", "command", "output of a silent command"],
)
def test_an_untrue_page_is_found_out(reader: Reader, true: str, untrue: str, line: str) -> None:
    assert PAGE.count(true) == 1
    (complaint,) = reader.follow(PAGE.replace(true, untrue))
    assert line in complaint.splitlines()


def test_seconds_runs_folders_and_progress_may_differ(tmp_path: Path) -> None:
    shown = "run 20261128T041856959136-5b3f91 label done\n900 images (6.7 s)\nreport: .../r.html\n"
    real = (
        "512 of 900 images, 90.1/s, 4 s left\nrun 20270101T000000000000-0000ff label done\n900 images (71.0 s)\n"
        f"report: {tmp_path}/r.html\n"
    )
    assert differences(shown, real, tmp_path) == []
    for part in ("done", "900", "r.html"):
        assert differences(shown, real.replace(part, "other"), tmp_path)


def test_in_a_table_the_last_of_six_digits_may_differ(tmp_path: Path) -> None:
    shown = "│ signs/kinds/1 │ -0.0600449 │ blue 1.234567 │\n"
    assert differences(shown, shown.replace("-0.0600449", " -0.060045"), tmp_path) == []
    assert differences(shown, shown.replace("-0.0600449", "-0.0600549"), tmp_path)
    assert differences(shown, shown.replace("1.234567", "1.234568"), tmp_path)
