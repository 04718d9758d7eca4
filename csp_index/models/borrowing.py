"""Run modules of the caller and leave them as they were.

While in use they are in evaluation mode, on the device of the index, and make no graph for gradients; afterwards each
part has its training flag back, and the module is on its old device. Knows nothing about what the modules are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from csp_index.errors import ModelError
from csp_index.models.weights import resolve_device


@contextmanager
def borrowed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Put modules in evaluation mode and on a device while the context lasts; uses may be nested.

    A module that is spread over several devices stays there.
    """
    modes = {part: part.training for module in modules for part in module.modules()}
    homes = [(module, places.pop()) for module in modules if len(places := _devices(module)) == 1]
    try:
        for module in modules:
            if any(part.training for part in module.modules()):
                module.eval()
        for module, home in homes:
            if home != device:
                module.to(device)
        yield
    finally:
        for module, home in homes:
            if home != device:
                module.to(home)
        for module in modules:
            if module.training != modes[module]:
                module.train(modes[module])  # by its own method, which may do more than set flags
        for part, training in modes.items():
            part.training = training


@contextmanager
def running(
    modules: Sequence[nn.Module], device: torch.device, *, owned: bool = True, gradient: bool = False
) -> Iterator[None]:
    """Run modules in a context, with or without gradients; those not `owned` are the caller's and are borrowed."""
    if owned:
        with torch.enable_grad() if gradient else torch.inference_mode():
            yield
        return
    # Not inference mode: tensors that a module stores there cannot be used in training afterwards.
    with borrowed(modules, device), torch.enable_grad() if gradient else torch.no_grad():
        yield


def device_for(modules: Sequence[nn.Module], requested: str) -> torch.device:
    """Return the device that modules of the caller run on: that of the index, or their own if it is of the same kind.

    Modules without parameters run on the CPU. Raises ModelError for parameters without values: lazy ones, and those on
    the device `meta`.
    """
    device = resolve_device(requested)
    if not any(_devices(module) for module in modules):
        return torch.device("cpu")
    for module in modules:
        check_values(module, type(module).__name__)
        homes = _devices(module)
        if len(homes) > 1 or (
            len(homes) == 1 and device.index is None and {home.type for home in homes} == {device.type}
        ):
            return min(homes, key=str)
    return device


def check_values(module: nn.Module, name: str) -> None:
    """Raise ModelError for parameters without values: lazy ones, and those on the device `meta`."""
    for part, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{name} has lazy parameters ({part}): run it once on a batch, then pass it")
        if tensor.is_meta:
            raise ModelError(f"{name} has parameters on the device 'meta' ({part}): load its weights first")


def _devices(module: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*module.parameters(), *module.buffers())}
