"""A network from its library, ready to run: the module, how an image becomes its input, the facts about its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.borrowing import check_values
from csp_index.models.layers.readers import heads_of, part_called
from csp_index.models.sparse_autoencoders import SparseAutoencoder
from csp_index.models.weights import near_matches

_SEED = 0
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding", "class_embed"})

_REGISTERS = ("register_tokens", "reg_token", "reg_tokens", "registers")  # [1, R, M] or [R, M]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a network besides its name: trained weights, some layers, perhaps only the layers' names."""

    weights: bool = True
    layers: tuple[str, ...] = ()
    names_only: bool = False
    whole: bool = False  # up to the logits, also where the layers are in the trunk


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network from its library: how to prepare an image for it and how to run it.

    ``prefix_tokens`` counts class and register tokens; ``reads_class_token`` is False if the network was trained
    to average instead. ``attached`` holds the sparse autoencoders that read its layers, by the names of their own.
    ``owned`` is False for a module of the caller, which is left as it was; ``traits`` extend the identity that a named
    network has. ``missing`` names weights that the checkpoint lacks, and that are random, ``unused`` those that it has
    besides. ``inside`` starts the names of the parts of a trunk inside the module, as a classifier of transformers has
    one: its layers have their names in the trunk alone, and ``trunk_weights`` is the hash that identifies it.
    ``classes`` has the names that came with the weights for a classifier's outputs.
    """

    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    forward: Callable[[Tensor], object]
    preprocessing: str
    library: str
    prefix_tokens: int = 0
    reads_class_token: bool = False
    attached: Mapping[str, SparseAutoencoder] = field(default_factory=dict)
    owned: bool = True
    traits: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    inside: str = ""
    trunk_weights: str | None = None
    classes: Mapping[int, str] = field(default_factory=dict)

    @property
    def has_class_token(self) -> bool:
        """Whether the first of a layer's tokens is the one to read."""
        return self.prefix_tokens > 0 and self.reads_class_token

    def layers(self) -> dict[str, nn.Module]:
        """Return every layer by its name: the modules, the single heads of attentions, the sparse autoencoders."""
        modules = {name: module for name, module in self.module.named_modules() if name}
        # Hooks reach neither a scripted part nor the modules inside it.
        scripted = {name for name, module in modules.items() if isinstance(module, torch.jit.ScriptModule)}
        inside = tuple(f"{name}." for name in scripted)
        everything = {**modules, **heads_of(self.module)}
        known = {n: module for n, module in everything.items() if n not in scripted and not n.startswith(inside)}
        return {**{self.layer_name(name): module for name, module in known.items()}, **self.attached}

    def module_called(self, layer: str, spec: str, name: str) -> nn.Module:
        """Return the module of a layer; ModelError, with near matches, if the network `name` has no such layer."""
        modules = self.layers()
        if layer in modules:
            return modules[layer]
        if (part := part_called(layer, modules)) is not None:
            return part
        everything = self.module.named_modules(remove_duplicate=False)
        shared: dict[str, nn.Module] = {self.layer_name(known): module for known, module in everything if known}
        if layer in shared and not isinstance(shared[layer], torch.jit.ScriptModule):  # a part that has two names
            return shared[layer]
        top = [child for child, _ in self.module.named_children()]
        near = [known for known in near_matches(layer, modules) if known not in top]
        raise ModelError(
            f"layer {layer!r} is not in {name} (has: {', '.join([*near, *top, '...'])}): csp-index layers {spec} lists "
            "all"
        )

    def extended(self, **changes: Any) -> Loaded:
        """Return the same network with other facts; names of missing weights become those of layers."""
        changed = replace(self, **changes)
        return replace(changed, missing=tuple(map(changed.layer_name, changed.missing)))

    def is_inside(self, layer: str) -> bool:
        """Return whether a layer is a part of the trunk."""
        known = {name for name, _ in self.module.named_modules()}
        return bool(self.inside) and f"{self.inside}{layer.partition('.head-')[0].partition('[')[0]}" in known

    def layer_name(self, name: str) -> str:
        """Return the name as a layer of a part of the module, or of one of its weights."""
        return name.removeprefix(self.inside) if self.inside else name


def loaded_module(
    module: nn.Module,
    preprocess: Callable[[Image.Image], Tensor],
    preprocessing: str,
    library: str,
    forward: Callable[[Tensor], object] | None = None,
) -> Loaded:
    """Return a module with the facts about its tokens that its own attributes give."""
    prefix = _prefix_tokens(module)
    reads = getattr(module, "global_pool", None) not in ("avg", "avgmax", "max")  # timm's word for what the head reads
    return Loaded(module, preprocess, module if forward is None else forward, preprocessing, library, prefix, reads)


def _prefix_tokens(module: nn.Module) -> int:
    """Return the number of class and register tokens: from timm, else from parameters and configuration."""
    known = getattr(module, "num_prefix_tokens", None)
    if isinstance(known, int):
        return known
    shapes = {name.rpartition(".")[2]: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if not _CLASS_TOKENS & set(shapes):
        return 0
    config: Any = getattr(module, "config", None)
    registers = next((shapes[name][-2] for name in _REGISTERS if len(shapes.get(name, ())) > 1), None)
    return 1 + (int(getattr(config, "num_register_tokens", 0) or 0) if registers is None else registers)


@contextmanager
def seeded() -> Iterator[None]:
    """Make random weights the same every time, without a change to the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


def check_kind(module: nn.Module, name: str) -> None:
    """Refuse modules in which hooks read no layers, or whose layers give no floating-point numbers."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"{name} is a TorchScript module, whose layers no hook can read: give the Python class with its weights"
        )
    check_values(module, name)
    parts = {"": module, **dict(module.named_modules())}
    tensors = (tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_quantized)
    quantized = next((n for n, part in parts.items() if ".quantized" in type(part).__module__), None)
    if quantized is not None or next(tensors, None) is not None:
        kind = type(parts[quantized or ""]).__name__
        raise ModelError(
            f"{name} is quantized ({quantized or 'its weights'}: {kind}), and its layers give whole numbers: give the "
            "network in floating point, as it was before quantization"
        )
