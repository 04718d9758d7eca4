"""What encoders and networks share: device, hash and file of the weights, local paths, names.

Knows nothing about any model library. A weight file is safetensors, or a checkpoint that PyTorch reads with
``weights_only=True``: reading one never runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PosixPath
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from csp_index.errors import CspIndexError, ModelError, SettingError, one_line
from csp_index.files.regular_files import check_file, open_file, read_text, user_path
from csp_index.models.specs import split_redrawn

OBJECT = "object"
"""The library in the spec of a model that is an object of the caller: ``object:mine``."""

_BATCH_SIZES = {"cuda": 256, "mps": 64}
_CPU_BATCH_SIZE = 32
_CONFIG_FILES = ("config.json", "open_clip_config.json", "model_index.json")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_USUAL = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_START = 64
_STARTS = (  # of files that are given by mistake
    (b"GGUF", "is a GGUF file, whose weights are quantized"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself (git lfs pull fetches it)"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes"),
    (b"<", "is a web page, as a failed download leaves"),
    (b"{", "is JSON, which holds settings"),
)
_SUFFIXES = {
    ".onnx": "is an ONNX graph, which has no layers of PyTorch",
    ".msgpack": "is a checkpoint of Flax",
    ".tflite": "is a TensorFlow Lite model",
    ".engine": "is a TensorRT engine",
}
_PICKLED = re.compile(r"GLOBAL (\S+)")
# What training scripts save beside the weights: arguments, paths, a best score. Plain values, which run nothing.
_SCALAR = type(np.float64(0)).__reduce__(np.float64(0))[0]
_PLAIN: list[Any] = [Namespace, PosixPath, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
_PLAIN += [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar")]


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where there is one, else Apple's GPU, else the CPU.

    Raises SettingError for a name that torch does not know, and for a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise SettingError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:1, ... or mps") from exc
    there = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not there.get(device.type, False):
        raise SettingError(f"device {name!r} is not available on this machine: use auto or cpu")
    return device


def device_name(name: str) -> str:
    """Return the device that products of embeddings run on: ``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(resolve_device(name))


def batch_size_for(device: torch.device) -> int:
    """Return how many images go through a model at once on a device."""
    return _BATCH_SIZES.get(device.type, _CPU_BATCH_SIZE)


def put(module: nn.Module, device: torch.device) -> None:
    """Put a module on a device in evaluation mode, its convolutions' weights with the channels last in memory.

    Convolutions on a CPU are then up to 1.4 times as fast, and equal but for rounding; `undo_channels_last` is for
    modules whose own code fails with it.
    """
    module.requires_grad_(False).eval().to(device)
    if device.type in ("cpu", "cuda"):
        _lay_out(module, torch.channels_last)


def undo_channels_last(module: nn.Module) -> None:
    """Give a module's weights their default layout again, for code that depends on how maps are laid out in memory."""
    _lay_out(module, torch.contiguous_format)


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and "weight" in part._parameters:  # else it is computed from others
            part.weight.data = part.weight.data.contiguous(memory_format=layout)


def hash_weights(module: nn.Module) -> str:
    """Return the SHA-256 over a module's tensors: name, dtype, shape and bytes of each, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # extra state that a module may add is not a weight
            continue
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\n{flat.dtype}\n{tuple(flat.shape)}\n".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_file(file: str | Path) -> object:
    """Return what a .safetensors file or a .pt, .pth, .bin or .ckpt checkpoint holds; reading it never runs code.

    A folder stands for the one weight file in it, and so do shards with their index. Raises ModelError for a file that
    holds more than tensors and plain values, with the kind of file that it is, if it is known.
    """
    path = user_path(file)
    if not os.path.exists(path):
        raise ModelError(f"the weight file {path} does not exist")
    parts = _shards(path)
    return _read(parts[0]) if len(parts) == 1 else {name: tensor for part in parts for name, tensor in _table(part)}


def _read(path: Path) -> object:
    try:
        check_file(path)
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_plain(path)
    except Exception as exc:  # damaged files and refused pickles raise many kinds
        raise ModelError(f"the weight file {path} {why_unreadable(path, exc)}") from exc


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"the weight file {path} holds no table of tensors, as a shard does")
    yield from content.items()


def _shards(path: Path) -> list[Path]:
    """Return the weight files that a path means: itself, or those of a folder or of an index of shards."""
    index = path if path.name.endswith(".index.json") else None
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in _WEIGHTS)
        usual = next((entry for name in _USUAL for entry in files if entry.name == name), None)
        index = next(iter(sorted(path.glob("*.index.json"))), None)
        if usual is not None or (len(files) == 1 and index is None):
            return [usual or files[0]]
        if index is None:
            some = ", ".join([*(entry.name for entry in files[:4]), *(["..."] if len(files) > 4 else [])])
            distributed = any(path.glob("*.distcp"))
            convert = ": convert it first (python -m torch.distributed.checkpoint.format_utils dcp_to_torch)"
            what = (
                f"{len(files)} weight files ({some}): name one of them" if files else f"none of {', '.join(_WEIGHTS)}"
            )
            raise ModelError(f"{path} is a folder with {f'a distributed checkpoint{convert}' if distributed else what}")
    if index is None:
        return [path]
    try:
        names = {str(name) for name in json.loads(read_text(index))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelError(f"{index} is no index of shards: expected JSON with weight_map") from exc
    missing = sorted(name for name in names if Path(name).name != name or not (index.parent / name).is_file())
    if missing or not names:
        raise ModelError(f"{index} names shards that are not beside it: {', '.join(missing[:3]) or 'none'}")
    return [index.parent / name for name in sorted(names)]


def why_unreadable(path: Path, exc: Exception) -> str:
    """Return why a weight file cannot be read, as the end of a sentence: by its first bytes, or by the error."""
    message = str(exc)
    if "TorchScript" in message:
        return "is a TorchScript archive, whose layers cannot be read: save the state_dict() of the Python module"
    pickled = _PICKLED.search(message)
    if pickled:
        return (
            f"holds the Python object {pickled[1]}, which is never run: save the state_dict() of the module, and give "
            "its class as the network"
        )
    try:
        with open_file(path) as file:
            start = file.read(_START)
    except OSError:
        start = None
    kind = None if start is None else "is empty" if not start else None
    if start:
        kind = next(
            (text for mark, text in _STARTS if start.lstrip().startswith(mark)), _SUFFIXES.get(path.suffix.lower())
        )
    if kind is not None:
        return f"{kind}: expected safetensors, or a checkpoint of PyTorch"
    reason = "" if "weights_only" in message else f": {one_line(exc)}"
    return f"cannot be read as plain tensors (best: .safetensors){reason}"


def load_plain(file: Path | IO[bytes]) -> object:
    """Return what a checkpoint of PyTorch holds: tensors, plain values, and what training scripts save beside them."""
    with torch.serialization.safe_globals(_PLAIN):
        return torch.load(file, map_location="cpu", weights_only=True)


def local_directory(name: str, error: type[CspIndexError]) -> Path | None:
    """Return the directory that ``name`` means, or None if it does not look like a path.

    Raises ``error`` for a name that looks like a path and does not exist, so that a mistyped path never becomes a
    download: one that starts with ``/``, ``.`` or ``~``, or whose first part is a folder here.
    """
    path = user_path(name)
    spelled_out = "/" in name or name.startswith((".", "~"))
    if os.path.isdir(path) and (spelled_out or any((path / config).is_file() for config in _CONFIG_FILES)):
        return path.resolve()
    if os.path.isfile(path) and name.startswith(("/", ".", "~")):
        raise error(f"{name} is a file: expected a directory, or a name; weights go to --weights FILE")
    if name.startswith(("/", ".", "~")):
        raise error(f"the directory {name} does not exist{_neighbours(path)}")
    if "/" in name and os.path.isdir(path.parent):
        raise error(
            f"{name!r} looks like a path, as the folder {str(path.parent)!r} exists here, but it has no {path.name!r}"
            f"{_neighbours(path)}"
        )
    return None


def stable_repr(transform: object) -> str:
    """Return a preprocessing's repr in one line, without memory addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(transform).split()))


def stable_settings(processor: Any) -> str:
    """Return a transformers processor's settings as JSON with sorted keys."""
    return json.dumps(processor.to_dict(), sort_keys=True, default=str)


def lasting(spec: str) -> str:
    """Return a model's spec with its local directory made absolute, so that it means the same from any folder.

    >>> lasting("timm:resnet50.a1_in1k")
    'timm:resnet50.a1_in1k'
    """
    library, colon, name = spec.partition(":")
    path = user_path(name)
    return f"{library}:{path.resolve()}" if colon and "/" in name and os.path.isdir(path) else spec


def lasting_weights(weights: str) -> str:
    """Return what replaces a network's weights with its file's path made absolute.

    >>> lasting_weights("redrawn:1"), lasting_weights("redrawn:1:/net.pt"), lasting_weights("/net.pt")
    ('redrawn:1', 'redrawn:1:/net.pt', '/net.pt')
    """
    redrawing, file = split_redrawn(weights)
    path = str(user_path(file).resolve()) if file else ""
    return path if redrawing is None else f"{redrawing}{':' if path else ''}{path}"


def objects_are_missing(kinds: Mapping[str, str]) -> str:
    """Return the message for models that are objects and missing: `kinds` are ``network`` or ``encoder`` by name."""
    made = {
        "network": "csp_index.Network(module, preprocess=...)",
        "encoder": "csp_index.Encoder(model, preprocess=...)",
    }
    names, one = ", ".join(map(repr, kinds)), len(kinds) == 1
    subject = f"the {next(iter(kinds.values()))} {names} is a Python object" if one else f"{names} are Python objects"
    arguments = ", ".join(f"{name!r}: {made[kind]}" for name, kind in kinds.items())
    return (
        f"{subject} that this needs: give {'it' if one else 'them'} in Python, csp_index.open_index(uri, "
        f"models={{{arguments}}}); labels, SQL and pages work without"
    )


def near_matches(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """Return the known names most like a mistyped one, best first.

    >>> near_matches("vit-b32", ["RN50", "ViT-B-32", "ViT-L-14"])
    ['ViT-B-32']
    """
    folded = {re.sub(r"[^a-z0-9]", "", word.lower()): word for word in known}
    matches = get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), folded, n=count, cutoff=0.6)
    return [folded[word] for word in matches]


def _neighbours(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return ""
    near = near_matches(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_dir()))
    return f" (near: {', '.join(near)})" if near else ""
