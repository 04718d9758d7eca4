"""The live panel: what the kernel answers, in a real kernel, and in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import ROOT
from planted import serve_planted

from csp_index import Index, open_index
from csp_index.errors import QueryError
from csp_index.query import live_panel
from csp_index.records import ExamplePair, Label, NeuronKey

pytest.importorskip("anywidget", reason="the extra `notebook` is not installed")

CELLS = (
    "from csp_index import open_index\nindex = open_index({db!r})\npanel = index.panel('planted/words/0')\npanel",
    "panel.question = panel.question | {{'method': 'csp', 'examples': 5, 'number': 7}}\n"
    "print(panel.answer['number'], panel.answer['labels'][0]['text'], len(panel.answer['pairs']))",
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(serve_planted(tmp_path_factory)[0].store.uri)


def notebook_of(db: str, folder: Path) -> Path:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    cells = [nbformat.v4.new_code_cell(cell.format(db=db)) for cell in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "panel.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def environment() -> dict[str, str]:
    """What a kernel needs to find this checkout and the tests' fakes."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}", "OMP_NUM_THREADS": "1"}


def test_an_answer_is_what_label_returns(index: Index) -> None:
    panel = index.panel("planted/words/0")
    expected = index.label("planted/words/0", panel.question["method"], keep=False)[0]
    assert panel.answer["labels"][0]["text"] == expected.text == "striped"
    panel.question = panel.question | {"method": "csp", "examples": 3, "number": 1}
    expected = index.label("planted/words/0", "csp", examples=3, keep=False)[0]
    assert panel.answer["number"] == 1 and len(panel.answer["pairs"]) == 3
    assert panel.answer["labels"][0] == expected.as_json()["labels"][0]
    assert panel.answer["pairs"][0]["picture"].startswith("/9j/")


def test_the_first_image_is_shown_as_a_partner_too() -> None:
    pair = ExamplePair(rank=0, image_id=3, activation=1.0, contrast_id=0, contrast_activation=0.0, similarity=0.5)
    label = Label(NeuronKey("m", "l", 0), "csp", "labelled", pairs=(pair,))
    panel = live_panel.LivePanel("m/l/0", "csp", lambda **_: [label], lambda ids: {image: b"jpg" for image in ids})
    assert panel.answer["pairs"][0]["partner"] == panel.answer["pairs"][0]["picture"] == "anBn"


def test_crops_are_offered_where_the_neuron_has_maps(index: Index) -> None:
    asked: list[dict[str, object]] = []
    label = Label(NeuronKey("m", "l", 0), "csp", "labelled")

    def relabel(**words: object) -> list[Label]:
        asked.append(words)
        return [label]

    panel = live_panel.LivePanel("m/l/0", "csp", relabel, lambda ids: {}, mapped=True)
    assert "csp" in panel.widget.choices["crop"] and "consensus" not in panel.widget.choices["crop"]
    panel.question = panel.question | {"crop": True}
    assert [words.get("crop") for words in asked] == [None, True]
    panel.question = panel.question | {"crop": "yes"}
    assert panel.answer["error"] == "crop is 'yes': expected True or False"
    assert index.panel("planted/words/0").widget.choices["crop"] == []  # its layer has no maps


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "magic"}, "magic"),
        ({"gamma": "much"}, "gamma is 'much': expected float"),
        ({"examples": 0}, "examples"),
        ({"candidates": ["x" * 201]}, "at most 200"),
        ({"candidates": "red"}, "no list of texts"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(index: Index, wrong: dict[str, object], said: str) -> None:
    panel = index.panel("planted/words/0")
    panel.question = panel.question | wrong
    assert said in panel.answer["error"] and "\n" not in panel.answer["error"]
    panel.question = panel.question | {"method": "csp", "gamma": 0.5, "examples": 4, "candidates": [], "number": 2}
    assert "error" not in panel.answer


def test_nothing_is_written(index: Index) -> None:
    before = index.versions().to_arrow()
    panel = index.panel("planted/words/1")
    panel.question = panel.question | {"method": "csp", "examples": 2}
    assert index.versions().to_arrow().equals(before)


def test_without_anywidget_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    live_panel._widget_class.cache_clear()
    with pytest.raises(QueryError, match=r"pip install 'csp_index\[notebook\]'"):
        index.panel("planted/words/0")


@pytest.mark.slow
def test_it_works_in_a_kernel(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    book = nbformat.read(notebook_of(index.uri, tmp_path), as_version=4)
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
    assert "application/vnd.jupyter.widget-view+json" in book.cells[0].outputs[-1]["data"]
    said = [one["text"] for one in book.cells[1].outputs if one.get("name") == "stdout"]
    assert said == ["7 striped 5\n"]


@pytest.mark.slow
@pytest.mark.browser
def test_it_works_in_a_browser(index: Index, tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    from browsing import browser_path
    from playwright.sync_api import sync_playwright

    path, executable = notebook_of(index.uri, tmp_path), browser_path()
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=t"]
    log = (tmp_path / "jupyter.log").open("w")
    settings = {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    lab = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path}"],
        env=environment() | settings,
        stdout=log,
        stderr=log,
    )
    try:
        address = _address(tmp_path / "jupyter.log", lab)
        with sync_playwright() as player:
            page = player.chromium.launch(executable_path=executable, args=["--no-sandbox"]).new_page()
            page.goto(f"{address}/lab/tree/{path.name}?token=t", timeout=300_000)
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=300_000)
            panel, prompt = page.locator(".csp-panel"), page.locator(".jp-Notebook .jp-InputPrompt").first
            for _ in range(30):  # JupyterLab drops keys until its notebook is whole
                page.locator(".jp-Notebook .jp-Cell").first.click(timeout=300_000)
                page.keyboard.press("Shift+Enter")
                page.wait_for_timeout(2_000)
                if prompt.inner_text() != "[ ]:":
                    break
            panel.locator("ol li").first.wait_for(timeout=300_000)
            assert panel.locator("ol li").first.inner_text().startswith("striped")
            panel.locator("select[name=method]").select_option("csp")
            panel.locator("input[name=examples]").fill("3")
            page.wait_for_function("document.querySelectorAll('.csp-panel ul li').length === 3", timeout=120_000)
            assert panel.locator("ul img").first.evaluate("img => img.complete && img.naturalWidth > 0")
            panel.locator("input[name=threshold]").fill("nonsense")
            panel.get_by_text("nonsense").wait_for(timeout=120_000)
    finally:
        lab.terminate()
        lab.wait(60)
        log.close()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return where JupyterLab listens, from what it said."""
    for _ in range(600):
        said = [word for word in log.read_text().split() if word.startswith("http://127.0.0.1:")]
        if said:
            return said[0].partition("/lab")[0]
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-500:]}")
