"""A stored `python:` spec is a name: it runs only if the user gives it too, or trusts the index."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest

from csp_index import NetworkSource, open_index
from csp_index.errors import ModelError
from csp_index.models import trust
from csp_index.models.plugins import call_factory

CODE = """
from pathlib import Path
Path("ran").write_text("the code of the index ran")
from fakes import encoder, network
"""
SPECS = ("python:evil:encoder", "python:evil:network")


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that somebody sent: an index `db`, its images, and the module its models come from."""
    sys.modules.pop("evil", None)
    (tmp_path / "evil.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    index = open_index("db")
    network = NetworkSource(SPECS[1], ("concepts",), name="net")
    index.add_images(fakes.write_images(tmp_path / "images", 23), encoders=[SPECS[0]], networks=[network])
    index.label("net/concepts", vocabulary=["red", "blue", "striped"], templates="none")
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one in which the user gave nothing."""
    monkeypatch.setattr(trust, "_given", set())
    monkeypatch.setattr(trust, "_announced", set())
    sys.modules.pop("evil", None)


COMMANDS = (
    ["search", "db", "purple"],
    ["search", "db", "--image", "images/b/img00000.png"],
    ["label", "db", "--layer", "net/concepts", "--neurons", "0", "--vocabulary", "words.txt"],
    ["label", "db", "--layer", "net/concepts", "--neurons", "0", "--contrast", "perturbation"],
    ["show", "db", "net/concepts/0", "--vocabulary", "words.txt"],
    ["evaluate", "db", "--layer", "net/concepts", "--neurons", "0", "--vocabulary", "words.txt"],
    ["index", "db", "more"],
    ["index", "db"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_runs_what_an_index_names(stranger: Path, run: Callable[..., Any], command: list[str]) -> None:
    (stranger / "words.txt").write_text("purple\n")
    shutil.copytree("images", "more")
    said = run(*command)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "which would run the code evil:" in said.err
    assert "--trust" in said.err
    assert not Path("ran").exists()


def test_trust_runs_it_and_says_so(stranger: Path, run: Callable[..., Any]) -> None:
    said = run("search", "db", "purple", "--trust")
    assert said.status == 0
    assert said.err == "Warning: running the code evil:encoder, which the index names (--trust)\n"
    assert Path("ran").exists()


def test_a_spec_that_the_user_gives_is_an_order(stranger: Path, run: Callable[..., Any]) -> None:
    assert run("search", "db", "purple", "--encoder", SPECS[0]).status == 0
    assert Path("ran").exists()


def test_python_trusts_by_an_argument(stranger: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError, match="trust=True"):
        open_index("db").search("purple")
    assert not Path("ran").exists()
    with caplog.at_level(logging.WARNING):
        assert open_index("db", trust=True).search("purple")
        assert open_index("db", trust=True).search("orange")
    assert [record.message for record in caplog.records].count(
        "running the code evil:encoder, which the index names (--trust)"
    ) == 1


def test_adding_a_layer_by_the_stored_name_orders_it(stranger: Path) -> None:
    index = open_index("db", trust=False)
    index.add_layer(SPECS[1], "conv", name="net")
    assert Path("ran").exists()
    with pytest.raises(ModelError, match="evil:encoder"):
        index.search("purple")


def test_another_spec_of_the_same_module_is_refused(stranger: Path, run: Callable[..., Any]) -> None:
    said = run("search", "db", "purple", "--encoder", "python:evil:other")
    assert said.status == 1
    assert not Path("ran").exists()


def test_labels_already_stored_need_no_trust(stranger: Path, run: Callable[..., Any]) -> None:
    for command in (["show", "db", "net/concepts/0"], ["label", "db", "--layer", "net/concepts"], ["status", "db"]):
        assert run(*command).status == 0
    assert not Path("ran").exists()


def test_the_folder_is_not_searched_for_a_shipped_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])

    class Watching:
        def find_spec(self, name: str, *_: object) -> None:
            seen.append(str(tmp_path) in sys.path)

    monkeypatch.setattr(sys, "meta_path", [Watching(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "csp_index.demo.generator", raising=False)
    call_factory("csp_index.demo.generator:renderer", ModelError)
    assert seen and not any(seen)
    with pytest.raises(ModelError):
        call_factory("no_such_module_here:make", ModelError)
    assert seen[-1]


def test_every_shipped_factory_exists() -> None:
    for spec in trust.SHIPPED:
        trust.check_stored(spec, trust=False)
        assert call_factory(spec.removeprefix("python:"), ModelError)
