"""Checkpoints as training writes them: prefixes, nesting, parts that fit, and what is refused."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models import checkpoints
from csp_index.models.checkpoints import load_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = Net()


def state(seed: int = 1, kind: type[nn.Module] = Net) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return kind().state_dict()


def put_first(prefix: str, table: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in table.items()}


def loaded(content: Any, tmp_path: Path, *, part: str = "", kind: type[nn.Module] = Net, **options: bool) -> nn.Module:
    torch.save(content, tmp_path / "run.ckpt")
    module = kind()
    load_weights(module, f"{tmp_path / 'run.ckpt'}{'::' if part else ''}{part}", **options)
    return module


def same(module: nn.Module, table: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, table[name]) for name, tensor in module.state_dict().items())


@pytest.fixture(autouse=True)
def nothing_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_announced", set())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone."])
@pytest.mark.parametrize("nest", [(), ("net",), ("state_dict",), ("model_ema",), ("train", "model")])
def test_names_and_nesting_are_found_by_what_fits(prefix: str, nest: tuple[str, ...], tmp_path: Path) -> None:
    content: Any = put_first(prefix, state())
    for key in reversed(nest):
        content = {key: content, "epoch": 3, "args": Namespace(lr=0.1), "best": np.float64(0.5)}
    assert same(loaded(content, tmp_path), state())


def test_a_wrapper_in_the_middle_of_a_name_is_left_out(tmp_path: Path) -> None:
    table = {name.replace("body.", "body._orig_mod."): tensor for name, tensor in state().items()}
    assert same(loaded(table, tmp_path), state())


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    own = state(2, Wrapper)
    assert same(loaded(own, tmp_path, kind=Wrapper), own)
    assert same(loaded(put_first("module.", own), tmp_path, kind=Wrapper), own)


def test_what_was_chosen_and_left_out_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"state_dict": put_first("model.", state()) | {"criterion.weight": torch.ones(3)}, "epoch": 1}
    with caplog.at_level(logging.WARNING):
        loaded(content, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "under state_dict" in line and "'model.' taken off" in line and "1 tensors not used, first criterion" in line


def test_averaged_weights_are_named_and_can_be_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = {"state_dict": state(1), "state_dict_ema": state(2)}
    with caplog.at_level(logging.WARNING):
        assert same(loaded(content, tmp_path), state(1))
    assert "::state_dict_ema" in caplog.text
    assert same(loaded(content, tmp_path, part="state_dict_ema"), state(2))


def test_two_parts_that_fit_are_asked_for(tmp_path: Path) -> None:
    content = {"teacher": put_first("backbone.", state(1)), "student": put_first("backbone.", state(2))}
    with pytest.raises(ModelError, match=r"several parts .* fit Net \((teacher|student).*choose one, --weights"):
        loaded(content, tmp_path)
    assert same(loaded(content, tmp_path, part="teacher"), state(1))
    assert same(loaded(content, tmp_path, part="student.backbone"), state(2))


def test_a_name_of_the_file_is_shown_beside_one_that_is_missing(tmp_path: Path) -> None:
    table = {name.replace("body.0", "body.stem"): tensor for name, tensor in state().items()}
    with pytest.raises(ModelError, match=r"do not fit Net: body.0.weight is missing \(the file has body.stem.weight\)"):
        loaded(table, tmp_path)


def test_a_deeper_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"body.2.weight is unknown"):
        loaded(state() | {"body.2.weight": torch.ones(4, 4)}, tmp_path)


def test_counters_and_foreign_heads_do_no_harm(tmp_path: Path) -> None:
    table = {name: tensor for name, tensor in state().items() if "num_batches" not in name}
    table |= {"body.0.total_ops": torch.zeros(1), "projector.weight": torch.ones(2, 2)}
    expected = state() | {"body.1.num_batches_tracked": torch.tensor(0)}
    assert same(loaded(table, tmp_path), expected)


def test_missing_weights_are_returned_by_name(tmp_path: Path) -> None:
    table = {name: tensor for name, tensor in state().items() if not name.startswith("head")}
    torch.save(table, tmp_path / "body.pth")
    assert load_weights(Net(), tmp_path / "body.pth") == ("head.weight", "head.bias")


def test_another_number_of_classes_is_refused_or_allowed(tmp_path: Path) -> None:
    table = state() | {"head.weight": torch.ones(7, 4), "head.bias": torch.ones(7)}
    with pytest.raises(ModelError, match=r"head.weight has shape \(7, 4\), not \(2, 4\)"):
        loaded(table, tmp_path)
    torch.save(table, tmp_path / "seven.pth")
    assert load_weights(Net(), tmp_path / "seven.pth", allow_missing=True) == ("head.weight", "head.bias")


def test_half_precision_weights_become_those_of_the_network(tmp_path: Path) -> None:
    module = loaded({name: tensor.half() for name, tensor in state().items()}, tmp_path)
    assert module.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.allclose(module.head.weight, state()["head.weight"], atol=1e-3)  # type: ignore[union-attr,arg-type]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "scripted.pt")
    with pytest.raises(ModelError, match=r"is a TorchScript archive.*save the state_dict\(\)") as error:
        load_weights(Net(), tmp_path / "scripted.pt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t * 50).to(torch.int8), "holds body.0.weight as int8, so its weights are quantized"),
        (lambda t: t.to(torch.complex64), "holds body.0.weight as complex64"),
        (lambda t: t * torch.nan, "holds numbers in body.0.weight that are not finite"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    table = {name: change(tensor) if tensor.is_floating_point() else tensor for name, tensor in state().items()}
    with pytest.raises(ModelError) as caught:
        loaded({"state_dict": table}, tmp_path)
    assert message in str(caught.value)


def test_parts_that_differ_are_each_named_once_and_a_head_may_be_left_out(tmp_path: Path) -> None:
    both = put_first("module.encoder_q.", state(1)) | put_first("module.encoder_k.", state(2))
    with pytest.raises(
        ModelError, match=r"fit Net \(state_dict\.encoder_q, state_dict\.encoder_k\) with other weights"
    ):
        loaded({"state_dict": both}, tmp_path)
    other = {**state(), "head.weight": torch.ones(9, 4), "head.bias": torch.ones(9)}
    with pytest.raises(ModelError, match=r"to leave these out, add --allow-missing"):
        loaded(other, tmp_path)
