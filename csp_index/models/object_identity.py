"""The identity of an object of the caller: its weights, its source and its preprocessing.

The source covers the code of the caller's classes and, for each module in order, its class, its `extra_repr()` and its
plain attributes (numbers, texts, enums, functions, and lists, tuples, sets and dicts of these). A function counts with
its code, its defaults and the values it closes over. Nothing depends on the process or on addresses in memory. Not
covered: global variables that a function reads, and attributes of a module that are other objects or unregistered
tensors.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Iterator
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
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
_NO_SETTINGS = frozenset(vars(nn.Module())) | {  # hooks, modes, origin of weights: no output depends on them
    "default_cfg",
    "grad_checkpointing",
    "gradient_checkpointing",
    "name_or_path",
    "pretrained_cfg",
    "warnings_issued",
    "_is_hf_initialized",
}
_PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, torch.dtype)
_CODE = (FunctionType, MethodType, BuiltinFunctionType, partial, type)
_DEPTH = 3  # attributes of attributes that are searched for weights


def modules_of(value: object) -> list[nn.Module]:
    """Return the modules that an object is or has as attributes, each once."""
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


def source_of(value: object, without: Collection[str] = ()) -> str:
    """Return the SHA-256 over the source of the caller's classes in an object, and over its settings.

    A library's own code is identified by its version. `without` names settings that do not count.
    """
    parts = {type(part) for module in modules_of(value) for part in module.modules()}
    own = {kind for kind in parts if not _of_library(kind)}
    sources = sorted(_class_source(kind) for kind in own | {type(value)})
    settings = [f"{name} {text}" for name, text in settings_of(value).items() if name not in without]
    return hashlib.sha256("\n".join(sources + settings).encode()).hexdigest()


def settings_of(value: object) -> dict[str, str]:
    """Return the class, `extra_repr()` and plain attributes of an object and of the modules in it, by their paths."""
    settings = {} if isinstance(value, nn.Module) else _own_settings("", value)
    for name, part in _weighty(value):
        for path, module in part.named_modules(prefix=name) if isinstance(part, nn.Module) else ():
            settings |= _own_settings(path, module)
    return settings


def preprocessing_repr(preprocess: object) -> str:
    """Return a preprocessing's representation; of a function, its digest; of a transformers processor, its settings.

    >>> preprocessing_repr(len)
    '<built-in function len>'
    """
    if hasattr(preprocess, "to_dict"):
        return stable_settings(preprocess)
    if isinstance(preprocess, FunctionType | MethodType):
        return f"{preprocess.__qualname__} {_digest(_text(preprocess))}"
    if isinstance(preprocess, partial):
        return f"{stable_repr(preprocess)} {_digest(_text(preprocess))}"
    return stable_repr(preprocess)


def _own_settings(path: str, value: object) -> dict[str, str]:
    settings = {f"{path}()": _class_name(type(value))}
    if isinstance(value, nn.Module):
        settings[f"{path}.extra_repr()"] = stable_repr(value.extra_repr())
    attributes = getattr(value, "__dict__", {})
    for name in sorted(attributes.keys() - _NO_SETTINGS):
        if _is_plain(attributes[name]):
            settings[f"{path}.{name}"] = _text(attributes[name])
    return settings


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, (Enum, *_PLAIN, *_CODE))


def _text(value: Any, above: tuple[int, ...] = ()) -> str:
    """Return a value as text, equal in every process: functions with what they close over, objects by attributes."""
    if id(value) in above:  # a function that calls itself closes over itself
        return "itself"
    inner = (*above, id(value))
    if isinstance(value, Enum):
        return f"{_class_name(type(value))}.{value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, dict):
        return f"{{{sorted((_text(key, inner), _text(part, inner)) for key, part in value.items())}}}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} {sorted(_text(part, inner) for part in value)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {[_text(part, inner) for part in value]}"
    if isinstance(value, _CODE):
        return _code_of(value, inner)
    if isinstance(value, nn.Module | Tensor | np.ndarray):
        return f"{_class_name(type(value))} {weights_of(value)} {settings_of(value)}"
    if hasattr(value, "to_dict"):
        return stable_settings(value)
    return f"{stable_repr(value)} {_own_settings('', value)}"


def _code_of(value: Any, above: tuple[int, ...]) -> str:
    """Return a function, method, partial or class as text: the name of a class or builtin, the source of others."""
    if isinstance(value, type):
        return _class_name(value)
    if isinstance(value, partial):
        return f"partial {[_text(part, above) for part in (value.func, value.args, value.keywords)]}"
    if isinstance(value, MethodType):
        owner = value.__self__
        state = _class_name(type(owner)) if isinstance(owner, nn.Module) else _text(owner, above)
        return f"{_text(value.__func__, above)} {state}"
    if isinstance(value, BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    bound = [value.__defaults__, value.__kwdefaults__, *map(_cell_value, value.__closure__ or ())]
    return f"{_function_source(value)} {[_text(part, above) for part in bound]}"


def _cell_value(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return "empty"


def _class_name(kind: type) -> str:
    """Return a class's name; of the caller's own without its module, which is __main__ in a script or notebook."""
    return f"{kind.__module__}.{kind.__qualname__}" if _of_library(kind) else kind.__qualname__


def _of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


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
    except (OSError, TypeError):  # typed into a notebook: the class has no file, but its methods have cells
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
