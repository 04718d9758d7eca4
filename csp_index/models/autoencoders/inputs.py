"""What is done to an autoencoder's inputs before its encoder reads them, and what multiplies its latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.autoencoders.files import Contents
from csp_index.models.autoencoders.settings import Norm, Settings, needs_factor
from csp_index.models.autoencoders.tensor_names import DECODERS, DEVIATIONS, FACTORS, MEANS, first


def statistics_in(file: str, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means and deviations of inputs that settings hold, and the tensors do not.

    The shortest names, `mean` and `std`, are left out: in settings they are those of the images.
    """
    results: dict[str, Tensor] = {}
    for names in (MEANS, DEVIATIONS):
        if first(dict(tensors), names) is not None:
            continue
        for name in names[:-1]:
            value = said.get(name)
            if value is None or isinstance(value, bool):
                continue
            try:
                results[name] = torch.tensor(value, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError) as exc:
                raise ModelError(f"{file} says {name} is {str(value)[:40]!r}, expected numbers") from exc
            break
    return results


def factor_of(
    file: str, contents: Contents, tensors: dict[str, Tensor], said: Settings, wished: float | None
) -> float | None:
    """Return the factor that multiplies the inputs, None for 1. Raises ModelError if it was not stored."""
    name = first(tensors, FACTORS)
    is_single = name is not None and tensors[name].numel() == 1 and not tensors[name].is_complex()
    stored = float(tensors[name].item()) if name is not None and is_single else said.factor
    if name is not None and not is_single:
        raise ModelError(f"{file} has {name} of shape {list(tensors[name].shape)}: expected one number")
    factor = wished if wished is not None else stored
    if factor is None and needs_factor(contents.inside, contents.outside):
        raise ModelError(
            f"{file} was trained on inputs scaled by their average norm (expected_average_only_in), and the factor is "
            "not stored: add :scale=X (sqrt(inputs) / average norm; 1 if it is folded into the weights)"
        )
    return None if factor == 1 else factor


def of_input(file: str, tensors: dict[str, Tensor], names: tuple[str, ...], width: int) -> Tensor | None:
    """Return stored means or deviations of the inputs, one number or [D]; None if there are none."""
    name = first(tensors, names)
    if name is None:
        return None
    values = tensors[name].float()
    if values.numel() not in (1, width) or (names is DEVIATIONS and not bool((values > 0).all())):
        raise ModelError(
            f"{file} has {name} of shape {list(values.shape)}: expected {width} numbers, deviations above 0"
        )
    return values.reshape(-1) if values.numel() == width else values.reshape(())


def decoder_norms(file: str, tensors: dict[str, Tensor], latents: int) -> Tensor:
    """Return the norm of each latent's decoder vector, [S]."""
    name = first(tensors, DECODERS)
    if name is None or tensors[name].dim() != 2 or latents not in tensors[name].shape:
        raise ModelError(
            f"{file} multiplies its latents by the norms of its decoder, and holds no decoder: expected W_dec"
        )
    decoder = tensors[name].float()
    is_rows = decoder.shape[0] == latents and (decoder.shape[1] != latents or name == "W_dec")
    norms: Tensor = torch.linalg.vector_norm(decoder, dim=1 if is_rows else 0)
    return norms


def steps_of(
    mean: Tensor | None, deviation: Tensor | None, factor: float | None, norm: Norm | None, centred: bool
) -> str:
    """Return in words what is done to the inputs."""
    steps = ["minus a stored mean"] if mean is not None else []
    steps += ["over a stored deviation"] if deviation is not None else []
    steps += [f"times {factor:.6g}"] if factor is not None else []
    steps += [{"layer": "layer norm", "length": "scaled to length sqrt(inputs)"}[norm]] if norm is not None else []
    steps += ["minus a bias"] if centred else []
    return f" ({', '.join(steps)})" if steps else ""
