"""The time until the first picture of a page: measured on a small index, and what is said where nothing can be."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from browsing import browser_path
from checkout import ROOT, python_path
from imported_arrays import build
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import first_picture

from csp_index.store import schema


def test_images_of_arrays_get_drawn_pictures(tmp_path: Path) -> None:
    index, _, _ = build(tmp_path)
    before = index.store.read(schema.IMAGES)
    first_picture.add_pictures(index.uri)
    rows = type(index)(index.uri).store.read(schema.IMAGES)
    assert rows["image_id"].to_pylist() == before["image_id"].to_pylist()
    assert set(rows["width"].to_pylist()) == {640}
    with Image.open(io.BytesIO(rows["thumbnail"][1].as_py())) as picture:
        assert picture.size == (128, 85)
    assert first_picture.picture(np.random.default_rng(0)) == rows["thumbnail"][0].as_py()


def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CSP_INDEX_BROWSER", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"no browser at .*none: install chromium"):
        first_picture.browser_path()
    monkeypatch.setenv("CSP_INDEX_BROWSER", sys.executable)
    monkeypatch.setattr(sys, "argv", ["first_picture", str(tmp_path / "none.db")])
    with pytest.raises(SystemExit):
        first_picture.main()
    assert "no index at" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.browser
def test_the_times_of_a_small_index(
    served_db: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    browser_path()
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.setattr(sys, "argv", ["first_picture", str(served_db), "--pages", "3"])
    first_picture.main()
    lines = capsys.readouterr().out.splitlines()
    found = {line.partition(":")[0]: int(re.findall(r"p50 (\d+) ms", line)[0]) for line in lines[:-1]}
    assert list(found) == [
        *(f"neuron's page, {name}" for name in ("HTML", "first picture painted")),
        "neuron's page, first contentful paint",
        "bare page, first picture painted",
    ]
    assert found["neuron's page, HTML"] <= found["neuron's page, first picture painted"]
    assert all(value > 0 for value in found.values())
