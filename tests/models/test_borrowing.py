"""A caller's module goes to the device of the index and comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from csp_index.models.borrowing import borrowed, device_for


class Moves(nn.Linear):
    """A module on the CPU that only writes down where it is sent."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.moves: list[str] = []

    def to(self, device: Any) -> Moves:
        self.moves.append(str(device))
        return self


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_comes_back_to_its_device_whatever_happens(fails) -> None:
    module = Moves().train()
    try:
        with borrowed([module], torch.device("cuda")):
            assert module.moves == ["cuda"]
            assert not module.training
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert module.moves == ["cuda", "cpu"]
    assert module.training


def test_a_module_that_lies_there_is_not_moved() -> None:
    module = Moves()
    with borrowed([module], torch.device("cpu")), borrowed([module], torch.device("cpu")):
        pass
    assert module.moves == []


def test_uses_may_be_nested() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    module[1].eval()
    with borrowed([module], torch.device("cpu")):
        with borrowed([module], torch.device("cpu")):
            assert not module[0].training
        assert not module[0].training
    assert module.training and module[0].training and not module[1].training


def test_a_module_without_parameters_runs_on_the_cpu() -> None:
    assert device_for([nn.ReLU()], "auto") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_module_on_the_cpu_runs_on_cuda_and_comes_back() -> None:
    module = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    device = device_for([module], "auto")
    with borrowed([module], device):
        assert module(torch.ones(1, 2, device=device)).device.type == "cuda"
    assert {tensor.device.type for tensor in module.parameters()} == {"cpu"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
