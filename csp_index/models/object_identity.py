"""What tells an object of the caller from another: its weights, the source of its classes, its preprocessing.

Two objects with equal weights, source and preprocessing give equal values; where they lie in memory does not count.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from csp_index.models.weights import hash_weights, stable_repr, stable_settings

_LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "open_clip": "open_clip_torch",
}
_DEPTH = 3  # attributes of attributes that are searched for weights


def modules_of(value: object) -> list[nn.Module]:
    """Return the modules an object is or has as attributes, each once."""
    return list({id(part): part for _, part in _weighty(value) if isinstance(part, nn.Module)}.values())


def weights_of(value: object) -> str:
    """Return the SHA-256 over a module's tensors; of another object, over those it has as attributes."""
    if isinstance(value, nn.Module):
        return hash_weights(value)
    digest = hashlib.sha256()
    for name, part in _weighty(value):
        if isinstance(part, nn.Module):
            digest.update(f"{name}\n{hash_weights(part)}\n".encode())
        else:
            array = torch.as_tensor(part).detach().cpu().contiguous()
            digest.update(f"{name}\n{array.dtype}\n{tuple(array.shape)}\n".encode())
            digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_of(modules: Sequence[nn.Module]) -> object:
    """Return what changes when weights are trained or replaced, cheaply; None if that cannot be known."""
    tensors = [(name, tensor) for module in modules for name, tensor in module.state_dict(keep_vars=True).items()]
    if not tensors or any(not isinstance(t, Tensor) or t.is_inference() for _, t in tensors):
        return None
    return tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in tensors)


def class_of(value: object) -> str:
    """Return the full name of an object's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def library_of(value: object) -> str:
    """Return the library an object's class comes from, with its version; PyTorch's for the caller's own."""
    package = type(value).__module__.partition(".")[0]
    package = package if package in _LIBRARIES else "torch"
    try:
        return f"{package} {version(_LIBRARIES[package])}"
    except PackageNotFoundError:
        return package


def source_of(value: object) -> str:
    """Return the SHA-256 over the source of an object's class, and of the classes of its parts that are the caller's.

    A library's own parts are known by its version.
    """
    parts = {type(part) for module in modules_of(value) for part in module.modules()}
    own = {kind for kind in parts if kind.__module__.partition(".")[0] not in _LIBRARIES}
    sources = sorted(_class_source(kind) for kind in own | {type(value)})
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()


def preprocessing_repr(preprocess: object) -> str:
    """Return what a preprocessing says of itself; a function's source, and a transformers processor's settings.

    >>> preprocessing_repr(len)
    '<built-in function len>'
    """
    if hasattr(preprocess, "to_dict"):
        return stable_settings(preprocess)
    if isinstance(preprocess, MethodType):
        return f"{preprocess.__qualname__} {_digest(_function_source(preprocess.__func__))}"
    if isinstance(preprocess, FunctionType):
        return f"{preprocess.__qualname__} {_digest(_function_source(preprocess))}"
    return stable_repr(preprocess)


def _weighty(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the modules, tensors and arrays that an object is or has, by the names of its attributes, sorted."""
    if isinstance(value, (nn.Module, Tensor, np.ndarray)):
        yield name, value
    elif depth < _DEPTH and not isinstance(value, (type, FunctionType, MethodType)):
        attributes = getattr(value, "__dict__", None)
        for key, part in sorted(attributes.items()) if isinstance(attributes, dict) else ():
            yield from _weighty(part, f"{name}.{key}", depth + 1)


def _class_source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a notebook: the class has no file, its methods' cells are known
        methods = sorted((name, part) for name, part in vars(kind).items() if isinstance(part, FunctionType))
        return "\n".join([kind.__qualname__, *(f"{name} {_function_source(part)}" for name, part in methods)])


def _function_source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return _code_text(function.__code__)


def _code_text(code: CodeType) -> str:
    """Return a function's instructions and constants: the same in every run of one version of Python."""
    return f"{code.co_code.hex()} {code.co_names} {[_constant_text(part) for part in code.co_consts]}"


def _constant_text(constant: object) -> str:
    if isinstance(constant, CodeType):
        return _code_text(constant)
    return str(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
