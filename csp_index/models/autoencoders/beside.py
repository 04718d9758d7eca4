"""The settings that lie beside an autoencoder's weights, or in the name of their file.

Settings are JSON or YAML: of the weight file's own name, of a usual name, or of any other name if they say what kind of
autoencoder it is. Knows nothing about tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from csp_index.errors import ModelError, one_line
from csp_index.files.regular_files import read_text
from csp_index.models.autoencoders.settings import about_autoencoder, differing, says_kind

_STEMS: Final = ("cfg", "config", "sae_cfg", "sae_config", "hyperparams", "hparams", "runner_cfg")
_OWN: Final = ("", "_cfg", "_config", ".config")  # after the name of the weight file without its ending
_ENDINGS: Final = (".json", ".yaml", ".yml")
_SCALER: Final = "activation_scaler.json"  # SAELens writes it where the scale is not folded into the weights yet
_ABOVE: Final = frozenset({"checkpoints", "checkpoint", "ckpts", "weights"})  # folders inside that of the settings
_RESULTS: Final = re.compile(r"eval|result|metric|stat|log|wandb|sparsity|tokenizer|preprocessor|index", re.IGNORECASE)
_MOST = 16  # files of other names that are read

# What MSAE puts into the name of a file: latents, inputs, activation, k or a weight, how parts are weighted, tied,
# normalized, soft cap.
_NAMED: Final = re.compile(
    r"(?P<latents>\d+)_(?P<inputs>\d+)_(?P<activation>[A-Za-z]+)(?:_(?P<number>[\d.]+))?(?:_[UR]W)?"
    r"_(?P<tied>True|False)_(?P<normalize>True|False)_(?P<cap>\d+(?:\.\d+)?)(?:_.*)?"
)


def names_of_settings(stem: str | None) -> list[str]:
    """Return the usual names of settings, those of a weight file ``stem`` first."""
    own = [f"{stem}{word}{ending}" for word in _OWN for ending in _ENDINGS] if stem else []
    return [*own, *(f"{word}{ending}" for word in _STEMS for ending in _ENDINGS), _SCALER]


def settings_beside(path: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the content of the settings of a weight file; a checkpoint's may lie one folder up.

    Those about an autoencoder come first. Raises ModelError for settings that cannot be read, and for two files of
    usual names that contradict each other.
    """
    other: tuple[str | None, dict[str, Any]] = None, {}
    for folder in (path.parent, *([path.parent.parent] if path.parent.name in _ABOVE else [])):
        own = [folder / f"{path.stem}{word}{ending}" for word in _OWN for ending in _ENDINGS]
        usual = [folder / f"{word}{ending}" for word in _STEMS for ending in _ENDINGS]
        read = [(place.name, _read(place)) for place in own if place.is_file()]
        about = [(name, said) for name, said in read if about_autoencoder(said)]
        if not about:
            usual = [*usual, *(folder / ".hydra" / f"config{ending}" for ending in _ENDINGS)]
            read += [(place.name, _read(place)) for place in usual if place.is_file()]
            about = [(name, said) for name, said in read if about_autoencoder(said)] or list(_others(folder, path))
        if about:
            _check(path, about)
            name, said = about[0]
            return name, _scaled(folder, said)
        if read and other[0] is None:
            other = read[0]
    return other


def settings_in_name(name: str) -> dict[str, Any] | None:
    """Return the settings that MSAE puts into the name of a file, None if it has none.

    >>> settings_in_name("4096_512_TopKReLU_64_UW_False_True_30.0_cc3m.pt")["latent_soft_cap"]
    30.0
    """
    parts = _NAMED.match(name.rpartition(".pt")[0] or name)
    if parts is None:
        return None
    kind = parts["activation"]
    result = {"d_sae": int(parts["latents"]), "d_in": int(parts["inputs"]), "activation": kind}
    result |= {"k": int(parts["number"])} if "TopK" in kind and (parts["number"] or "").isdecimal() else {}
    norm = "layer_norm" if parts["normalize"] == "True" else "none"
    return {**result, "normalize_activations": norm, "latent_soft_cap": float(parts["cap"])}


def _others(folder: Path, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the settings of other names that say the kind of an autoencoder."""
    files = [entry for entry in sorted(folder.iterdir()) if entry.suffix.lower() in _ENDINGS and entry.is_file()]
    for entry in files[:_MOST]:
        if _RESULTS.search(entry.stem) or entry.name == path.name:
            continue
        try:
            said = _read(entry)
        except ModelError:  # whatever it is, nobody said that it is about the autoencoder
            continue
        if says_kind(said):
            yield entry.name, said


def _check(path: Path, about: list[tuple[str, dict[str, Any]]]) -> None:
    first, said = about[0]
    for name, more in about[1:]:
        word = differing(said, more)
        if word is not None:
            raise ModelError(
                f"{first} and {name} beside {path.name} contradict each other about {word}: keep the one that belongs "
                "to it"
            )


def _scaled(folder: Path, said: dict[str, Any]) -> dict[str, Any]:
    scaler = _read(folder / _SCALER) if (folder / _SCALER).is_file() else {}
    factor = scaler.get("scaling_factor")
    return {"estimated_norm_scaling_factor": factor, **said} if isinstance(factor, int | float) else said


def _read(path: Path) -> dict[str, Any]:
    import yaml

    kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
    try:
        text = read_text(path)
        content = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as exc:
        raise ModelError(f"the settings {path} cannot be read as {kind}: {one_line(exc)}") from exc
    return content if isinstance(content, dict) else {}
