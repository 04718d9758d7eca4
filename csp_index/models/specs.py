"""Names of models and of pools, checked before anything heavy is imported.

Knows which libraries there are, and nothing about what they have: that takes torch, which loads for seconds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csp_index.errors import ModelError
from csp_index.files.regular_files import user_path

NETWORK_LIBRARIES = ("torchvision", "timm", "transformers", "open_clip", "python")
ENCODER_LIBRARIES = ("open_clip", "transformers", "python")
POOLS = ("mean", "max", "mean-last", "max-last", "cls", "token-mean", "token-max", "none")
BY_AXES = re.compile(r"(mean|max)@([1-9](?:,[1-9])*)")
CHOICE = "::"  # between a weight file and the part of it to read
MOST_SEED = 2**32 - 1  # of redrawn weights
_REDRAWN = ("redrawn:", "centered:")  # before a seed, and perhaps a weight file after it

_OBJECT = "object"


def network_spec(spec: str) -> str:
    """Return a network's spec with its library, which a local directory may leave out.

    Raises ModelError for one that names no library. What `+sae:` adds is left alone.
    """
    base, mark, rest = spec.partition("+sae:")
    return _with_library(base, NETWORK_LIBRARIES, "network", _NETWORKS) + mark + rest


def encoder_spec(spec: str) -> str:
    """Return an encoder's spec with its library, which a local directory may leave out."""
    return _with_library(spec, ENCODER_LIBRARIES, "encoder", _ENCODERS)


_NETWORKS = (
    "torchvision:resnet50/IMAGENET1K_V2, timm:NAME, transformers:ORG/NAME, open_clip:ARCH/WEIGHTS, "
    "python:package.module:factory, or a local directory"
)
_ENCODERS = (
    "open_clip:ARCH/PRETRAINED, open_clip:/local/directory, transformers:ORG/NAME, python:package.module:factory, or a "
    "local directory"
)


def _with_library(spec: str, libraries: Sequence[str], kind: str, examples: str) -> str:
    library, _, name = spec.partition(":")
    if (library in libraries and name) or library == _OBJECT:
        return spec
    directory = user_path(spec)
    if spec.strip() and os.path.isfile(directory):
        raise ModelError(
            f"{kind} {spec!r} is a file: name the {kind} it is of, and give the file as --weights, or write {examples}"
        )
    if spec.strip() and os.path.isdir(directory):
        named = _library_of(directory)
        if named in libraries:
            return f"{named}:{directory.resolve()}"
        raise ModelError(
            f"{kind} {spec!r} is a directory without the configuration of a model: expected open_clip_config.json or "
            f"config.json in it, or write {examples}"
        )
    if spec.startswith(("/", "~", "./", "../")):
        raise ModelError(f"{kind} {spec!r} is a path to nothing: write {examples}")
    raise ModelError(f"{kind} {spec!r} names no library: write {examples}")


def _library_of(directory: Path) -> str | None:
    """Return the library whose model lies in a directory, by its configuration."""
    if (directory / "open_clip_config.json").is_file():
        return "open_clip"
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    return "timm" if "architecture" in config else "transformers" if "model_type" in config else None


def check_pool(pool: str | None) -> None:
    """Refuse a text that is no pool."""
    if pool is not None and pool not in POOLS and not BY_AXES.fullmatch(pool):
        raise ModelError(f"pool {pool!r} is unknown (has: {', '.join(POOLS)}; or mean@AXIS, max@AXIS)")


def parse_axis(text: str | None) -> tuple[int, ...]:
    """Return the axes in a text such as ``2,3`` or ``-1``, none for None. Raises ModelError for anything else."""
    if text is None:
        return ()
    if not re.fullmatch(r"-?[1-9](,-?[1-9])*", text.replace(" ", "")):
        raise ModelError(
            f"axis {text!r} is no axis: write a number, from 1 in the output of one image or from -1 at its end, or "
            "several with commas"
        )
    return tuple(int(part) for part in text.split(","))


def split_choice(weights: str) -> tuple[str, str]:
    """Return the weight file and the part of it that a user names, as in ``FILE::PART``; the part may be empty.

    >>> split_choice("run.ckpt::teacher.backbone"), split_choice("run.ckpt")
    (('run.ckpt', 'teacher.backbone'), ('run.ckpt', ''))
    """
    file, _, part = weights.partition(CHOICE)
    return file, part


@dataclass(frozen=True, slots=True)
class Redrawing:
    """How weights are redrawn: the seed, and whether tensors of several axes are drawn around 0."""

    seed: int
    centered: bool = False

    @property
    def mark(self) -> str:
        """What the name of a network gets.

        >>> Redrawing(1).mark
        '~redrawn-1'
        """
        return f"~{self}".replace(":", "-")

    def __str__(self) -> str:
        return f"{_REDRAWN[self.centered]}{self.seed}"


def split_redrawn(weights: str) -> tuple[Redrawing | None, str]:
    """Return how weights are to be redrawn, None if they are not, and the weight file; it may be empty.

    Raises ModelError for a seed that is none.

    >>> split_redrawn("redrawn:7:run.ckpt::teacher"), split_redrawn("run.ckpt")
    ((Redrawing(seed=7, centered=False), 'run.ckpt::teacher'), (None, 'run.ckpt'))
    """
    start = next((start for start in _REDRAWN if weights.startswith(start)), None)
    if start is None:
        return None, weights
    seed, colon, file = weights.removeprefix(start).partition(":")
    if not (seed.isascii() and seed.isdigit()) or len(seed) > 10 or int(seed) > MOST_SEED or (colon and not file):
        raise ModelError(
            f"weights {weights!r} cannot be read: write {start}SEED, with a seed from 0 to {MOST_SEED}, or "
            f"{start}SEED:FILE for those of a file"
        )
    return Redrawing(int(seed), start == _REDRAWN[True]), file


def check_weights(weights: str | None) -> None:
    """Refuse a weight file that is not there."""
    redrawing, file = (None, "") if weights is None else split_redrawn(weights)
    weights = (file or None) if redrawing else weights
    if weights is not None and not split_choice(weights)[0].strip():
        raise ModelError("the name of the weight file is empty: write --weights FILE")
    if weights is not None and not os.path.exists(user_path(split_choice(weights)[0])):
        raise ModelError(f"the weight file {split_choice(weights)[0]} does not exist")
