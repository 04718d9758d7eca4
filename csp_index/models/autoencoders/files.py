"""Where an autoencoder's weights lie, and what their file and the files beside it hold.

A name is a file, a folder with one autoencoder, or ``hf:ORG/NAME`` with perhaps a folder or a file in that repository
of the Hugging Face hub. Weights are safetensors, arrays (.npz), or a checkpoint that PyTorch reads with
``weights_only=True``, perhaps after a line of JSON; reading one never runs code. Knows nothing about formulas.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from csp_index.errors import ModelError, one_line
from csp_index.files.regular_files import check_file, open_file, user_path
from csp_index.models.autoencoders.beside import names_of_settings, settings_beside
from csp_index.models.autoencoders.tensor_names import OUTER
from csp_index.models.hub import kept_files_if_alone, why_not_downloaded
from csp_index.models.weights import load_plain, why_unreadable

_HUB = re.compile(r"hf(?:-hub)?:([^/]+/[^/]+)(?:/(.+))?")
_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz"})
_USUAL: Final = (
    "sae_weights.safetensors",  # SAELens
    "sae.safetensors",  # sparsify
    "ae.pt",  # dictionary_learning
    "sae.pt",  # saev, VISAEBench
    "ae.safetensors",
    "model.safetensors",
    "model.pt",
    "weights.pt",  # Prisma
    "params.npz",  # Gemma Scope
    "params.safetensors",  # Gemma Scope 2
)
_NESTS: Final = ("state_dict", "model_state_dict", "sae_state_dict", "model", "autoencoder", "sae", "ae", "params")
_OUTER: Final = frozenset({"module", "_orig_mod", "sae", "ae", "autoencoder", "model"})
_OPTION = re.compile(r":[a-z_]+(=[^/:]*)?$")
_OPTIONS: Final = "topk=K, threshold=T, scale=X, relu, plain, centered, places, pool=POOL, name=NAME"
_LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of an autoencoder by name, and what is said about them: in the file, and by ``beside``, if any."""

    path: Path
    tensors: dict[str, Tensor]
    inside: dict[str, Any]
    outside: dict[str, Any]
    beside: str | None = None


def is_on_hub(name: str) -> bool:
    """Return whether a name means a repository of the Hugging Face hub."""
    return _HUB.fullmatch(name) is not None


def title(name: str) -> str:
    """Return the last part of a name, without the ending of a file.

    >>> title("/a/topk.safetensors"), title("hf:org/name/layers.5"), title("sae_4.5x")
    ('topk', 'layers.5', 'sae_4.5x')
    """
    path = Path(name)
    return (path.name if re.fullmatch(r"\.[0-9][^.]*", path.suffix) else path.stem) or "autoencoder"


def read_files(name: str) -> Contents:
    """Return what the file or folder that ``name`` means holds. Raises ModelError, which says what was expected."""
    path = _locate(name)
    tensors, inside = _read(path)
    beside, outside = settings_beside(path)
    return Contents(path, tensors, inside, outside, beside)


# finding


def _locate(name: str) -> Path:
    path = _downloaded(name) if is_on_hub(name) else user_path(name)
    try:
        if path.is_dir():
            return _weights_in(path)
        there = path.exists()
    except (OSError, ValueError):  # a NUL, or a name that is too long
        there = False
    if not there:
        option = _OPTION.search(name)
        more = f" ({option[0]} is no option: {_OPTIONS})" if option else ""
        raise ModelError(f"the weight file {path} does not exist{more}")
    return path


def _weights_in(folder: Path) -> Path:
    files = {entry.name: entry for entry in sorted(folder.iterdir()) if entry.suffix.lower() in _SUFFIXES}
    usual = next((files[name] for name in _USUAL if name in files), None)
    if usual is not None:
        return usual
    if len(files) == 1:
        return next(iter(files.values()))
    if files:
        raise ModelError(f"the folder {folder} has {len(files)} weight files ({_some(files)}): name one of them")
    inner = sorted({str(file.parent.relative_to(folder)) for name in _USUAL for file in folder.glob(f"*/{name}")})
    inner = inner or sorted({str(f.parent.relative_to(folder)) for name in _USUAL for f in folder.glob(f"*/*/{name}")})
    if len(inner) == 1:
        return _weights_in(folder / inner[0])
    if inner:
        raise ModelError(f"the folder {folder} has {len(inner)} autoencoders in its folders: name one ({_some(inner)})")
    raise ModelError(f"the folder {folder} holds no autoencoder: expected a file such as {', '.join(_USUAL[:4])}")


def _downloaded(name: str) -> Path:
    """Return the local path of a file or folder on the hub, from the cache if there is no network."""
    from huggingface_hub import snapshot_download

    repository, inner = _HUB.sub(r"\1", name), (_HUB.sub(r"\2", name)).strip("/")
    if any(part in ("..", ".") for part in inner.split("/")):
        raise ModelError(f"{name} names no file or folder of a repository: write hf:ORG/NAME/FOLDER")
    is_file = Path(inner).suffix.lower() in _SUFFIXES
    folder = Path(inner).parent if is_file else Path(inner)
    weights = [inner] if is_file else [(folder / usual).as_posix() for usual in _USUAL]
    texts = [(folder / file).as_posix() for file in names_of_settings(Path(inner).stem if is_file else None)]
    patterns = [re.sub(r"([\[*?])", r"[\1]", file) for file in (*weights, *texts)]
    try:
        with kept_files_if_alone(repository):
            root = Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as exc:  # the hub, the network, the cache
        raise ModelError(
            f"the autoencoder {name} cannot be fetched ({why_not_downloaded(exc) or one_line(exc)}): download it and "
            "name its folder, or try again with a network"
        ) from exc
    if not (root / inner).exists():
        raise ModelError(
            f"the repository {repository} has no {inner or 'autoencoder'} with a weight file of a usual name "
            f"({', '.join(_USUAL[:4])}): name the file, hf:{repository}/FOLDER/FILE"
        )
    return root / inner


def _some(names: Mapping[str, object] | list[str]) -> str:
    first = list(names)[:4]
    return ", ".join([*first, *(["..."] if len(names) > len(first) else [])])


# reading


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        check_file(path)
        ending = path.suffix.lower()
        if ending == ".safetensors":
            return _read_safetensors(path)
        content, said = (_read_arrays(path), {}) if ending == ".npz" else _read_checkpoint(path)
    except Exception as exc:  # damaged files and refused pickles raise many kinds
        raise ModelError(f"the weight file {path} {why_unreadable(path, exc)}") from exc
    return _unpacked(path, content, said)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as opened:
        said: dict[str, Any] = {name: _parsed(text) for name, text in (opened.metadata() or {}).items()}
    return _bare(load_file(path)), said


def _parsed(text: str) -> object:
    """Return settings that metadata hold as a text of JSON, and any other text as it is."""
    try:
        return json.loads(text) if text.lstrip().startswith("{") else text
    except (ValueError, RecursionError):
        return text


def _read_arrays(path: Path) -> object:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}


def _read_checkpoint(path: Path) -> tuple[object, dict[str, Any]]:
    """Return a checkpoint, and the line of JSON before it."""
    with open_file(path) as file:
        if file.read(1) != b"{":
            return load_plain(path), {}
        file.seek(0)
        said = json.loads(file.readline(_LINE_BYTES))
        return load_plain(io.BytesIO(file.read())), {"header": said}


def _unpacked(path: Path, content: object, said: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the settings of nested dictionaries; what holds anything else is refused."""
    said, around = dict(said), dict[str, Tensor]()
    for _ in _NESTS:
        inner = next((n for n in _NESTS if isinstance(content, Mapping) and isinstance(content.get(n), Mapping)), None)
        if inner is None or not isinstance(content, Mapping):
            break
        said |= {str(name): value for name, value in content.items() if name != inner and _is_plain(value)}
        around |= {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        content = content[inner]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"the weight file {path} holds no table of tensors: save the module's state_dict()")
    said |= {str(name): value for name, value in content.items() if _is_plain(value)}
    tensors = _bare({str(name): value for name, value in content.items() if isinstance(value, Tensor)})
    # Statistics of the inputs may lie beside the weights' table; single numbers of another name are training's.
    around = {name: value for name, value in around.items() if value.dim() or name in OUTER}
    return {**around, **tensors}, said


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool | int | float | Mapping)


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the name of a wrapper that all of their names start with."""
    while tensors:
        starts = {name.partition(".")[0] for name in tensors}
        if len(starts) != 1 or not starts <= _OUTER or not all("." in name for name in tensors):
            return tensors
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    return tensors
