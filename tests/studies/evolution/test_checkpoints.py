"""Checkpoints get the names of their files, one each."""

from __future__ import annotations

from pathlib import Path

import pytest

from csp_index.errors import ModelError, SettingError
from csp_index.studies.evolution.checkpoints import named_checkpoints


def touched(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder / name) for name in names]


def test_names_are_those_of_the_files_in_the_order_given(tmp_path: Path) -> None:
    files = touched(tmp_path, "step 10.safetensors", "step2.pt")
    found = named_checkpoints([files[0], f"{files[1]}::teacher"])
    assert [one.name for one in found] == ["step-10", "step2"]
    assert found[1].network_name("net") == "net@step2" and found[1].file.endswith("::teacher")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "0 checkpoints are given: an evolution needs at least two"),
        (("a.pt",), "1 checkpoint is given: an evolution needs at least two"),
        (("one/a.pt", "two/a.pt"), r"checkpoints .*one/a.pt and .*two/a.pt are both called a: give each file a name"),
        (("a.pt", "a.pt"), "are both called a"),
    ],
)
def test_what_is_no_evolution_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        named_checkpoints(touched(tmp_path, *names))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the weight file .*b.pt does not exist"):
        named_checkpoints([*touched(tmp_path, "a.pt"), str(tmp_path / "b.pt")])
