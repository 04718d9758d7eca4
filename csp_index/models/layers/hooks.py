"""Run a network with hooks on its layers, and leave no hook behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from csp_index.models.borrowing import running
from csp_index.models.layers.loaded import Loaded
from csp_index.models.layers.readers import listen

Keep = Callable[[str, Tensor | None], None]


def running_loaded(loaded: Loaded, device: torch.device, *, gradient: bool = False) -> AbstractContextManager[None]:
    """Return the context in which a network's passes run, with or without gradients."""
    parts = [loaded.module, *loaded.attached.values()]
    return running(parts, device, owned=loaded.owned, gradient=gradient)


@contextmanager
def hooks(modules: Mapping[str, nn.Module], keep: Keep) -> Iterator[None]:
    """Call ``keep`` with each layer's first output tensor while the context lasts, and always remove the hooks."""
    handles = [listen(module, partial(keep, layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
