"""What an autoencoder's tensors and settings mean: one formula, or a refusal that says what is missing.

With x the input after its own normalization, and b_pre the bias that is subtracted from it (or 0)::

    pre = W_enc (x - b_pre) + b_enc
    ReLU:                          z = max(pre, 0)
    TopK:                          the k largest of max(pre, 0) per input
    BatchTopK, JumpReLU:           z = pre where pre > threshold and pre > 0, else 0
    gated:                         z = max(exp(r_mag) W_enc (x - b_pre) + b_mag, 0) where W_enc (x - b_pre) + b_gate > 0

(Bricken et al. 2023; Gao et al., arXiv 2406.04093; Bussmann et al., 2412.06410; Rajamanoharan et al., 2404.16014 and
2407.14435.) A BatchTopK autoencoder never counts to k per image: the k of training holds for a batch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.autoencoders.files import Contents
from csp_index.models.autoencoders.settings import (
    Kind,
    Norm,
    Settings,
    about_autoencoder,
    needs_factor,
    understand,
)
from csp_index.models.autoencoders.tensor_names import (
    DECODER_BIASES,
    DECODERS,
    DEVIATIONS,
    ENCODER_BIASES,
    ENCODERS,
    FACTORS,
    GATE_BIASES,
    GATED,
    INPUT_BIASES,
    LOG_THRESHOLDS,
    MEANS,
    MORE_THRESHOLDS,
    THRESHOLDS,
    K,
    check_names,
    common_names,
    first,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller says about an autoencoder, which overrules what its files say."""

    topk: int | None = None
    threshold: float | None = None
    relu: bool = False
    plain: bool = False
    centered: bool = False
    factor: float | None = None


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding half of an autoencoder: tensors in float32, D inputs, S latents; ``words`` describe it."""

    kind: Kind
    encoder: Tensor  # [D, S]
    bias: Tensor  # [S], of the gate if it is gated
    centre: Tensor  # [D]
    k: int | None
    threshold: Tensor | None  # one, or [S]
    magnitude: tuple[Tensor, Tensor] | None  # exp(r_mag) [S] and b_mag [S]
    norm: Norm | None
    mean: Tensor | None  # [D]
    deviation: Tensor | None  # [D], or one
    factor: float | None
    words: str


def encoding_of(file: str, contents: Contents, wishes: Wishes) -> Encoding:
    """Return what an autoencoder computes. Raises ModelError where its files do not settle that."""
    tensors = common_names(file, contents.tensors)
    outside = contents.outside if about_autoencoder(contents.outside) else {}
    inside = contents.inside | {
        name: tensors[name].item() for name in K if name in tensors and _is_single(tensors[name])
    }
    given = {"kind"} if wishes.topk is not None or wishes.threshold is not None or wishes.relu else set()
    given |= {"input"} if wishes.factor is not None else set()
    said = understand(file, inside, outside, contents.beside, given)
    check_names(file, tensors)
    kind = _kind(file, contents, tensors, said, wishes)
    matrix, bias, centre = _affine(file, tensors, _subtracts(file, contents, tensors, said, kind, wishes))
    if not all(bool(torch.isfinite(part).all()) for part in (matrix, bias, centre)):
        raise ModelError(f"{file} holds weights that are not finite: expected numbers; save it again")
    width, latents = matrix.shape
    for what, expected, size in (("inputs", said.inputs, width), ("latents", said.latents, latents)):
        if outside and expected is not None and expected != size:
            raise ModelError(
                f"{file} has {size} {what}, but {contents.beside} beside it says {expected}: it belongs to another file"
            )
    if said.by_decoder:
        norms = _decoder_norms(file, tensors, latents)
        matrix, bias = matrix * norms, bias * norms
    factor = _factor(file, contents, tensors, said, wishes)
    k = _k(file, said, wishes) if kind == "topk" else None
    if k is not None and not 0 < k <= latents:
        raise ModelError(f"{file} has {latents} features: topk={k} cannot be kept of them")
    threshold = _threshold(file, tensors, said, wishes, latents) if kind in ("batchtopk", "jumprelu") else None
    magnitude = _magnitude(file, tensors, latents) if kind == "gated" else None
    mean, deviation = (_of_input(file, tensors, names, width) for names in (MEANS, DEVIATIONS))
    norm = said.norm
    steps = _steps(mean, deviation, factor, norm, bool(centre.any()))
    origin = f"; settings from {contents.beside}" if outside else ""
    words = f"{_name(kind, k, threshold)}; {width:,} inputs{steps}; {latents:,} latents{origin}"
    return Encoding(kind, matrix, bias, centre, k, threshold, magnitude, norm, mean, deviation, factor, words)


def _is_single(tensor: Tensor) -> bool:
    return tensor.numel() == 1 and not tensor.is_complex()


# what it is


def _kind(file: str, contents: Contents, tensors: dict[str, Tensor], said: Settings, wishes: Wishes) -> Kind:
    """Return the kind that the caller, the settings or the tensors' names tell. Raises ModelError if none does."""
    has_gate = all(first(tensors, names) for names in (GATE_BIASES, *GATED))
    gates = first(tensors, (*THRESHOLDS, *LOG_THRESHOLDS, *MORE_THRESHOLDS))
    wished: Kind | None = "topk" if wishes.topk is not None else "relu" if wishes.relu else None
    wished = "batchtopk" if wishes.threshold is not None else wished
    kind = wished or said.kind
    if has_gate and kind not in (None, "gated"):
        raise ModelError(f"{file} has the tensors of a gated autoencoder, but is said to be {kind}: remove one of them")
    if wished is None and kind == "relu" and gates is not None:
        raise ModelError(
            f"{file} is said to be a ReLU autoencoder, but holds {gates}: add :relu, :topk=K or :threshold=T"
        )
    if wished is None and kind == "relu" and said.k is not None:
        raise ModelError(f"{file} is said to be a ReLU autoencoder, but k is {said.k}: add :relu or :topk=K")
    if kind is not None:
        return kind
    if has_gate:
        return "gated"
    if gates is not None and said.k is not None:
        return _topk_or_threshold(file, tensors, gates, said)
    if gates is not None:
        return "jumprelu"
    if said.k is not None or said.threshold is not None:
        return "topk" if said.k is not None and said.threshold is None else "batchtopk"
    if "bias" in tensors and "encoder.weight" in tensors:
        return "relu"  # only AutoEncoder of dictionary_learning has these names
    where = f"{contents.beside} beside it is about something else" if contents.beside else "no cfg.json beside it"
    raise ModelError(
        f"nothing tells whether {file} is a ReLU or a TopK autoencoder ({where}): add :relu, :topk=K or :threshold=T, "
        "or put its library's cfg.json or config.json beside it"
    )


def _topk_or_threshold(file: str, tensors: dict[str, Tensor], gates: str, said: Settings) -> Kind:
    """Return the kind of a file of dictionary_learning that has both: its TopK keeps a threshold that it never uses."""
    if "group_sizes" in tensors:
        return "batchtopk"
    value = tensors[gates]
    if not _is_single(value) or value.item() <= 0:
        return "topk" if _is_single(value) else "jumprelu"
    _log.warning(
        "%s has k %s and a threshold %.4g, and no settings tell BatchTopK from TopK: read as BatchTopK, by the "
        "threshold; add :topk=%s if it is TopK",
        *(file, said.k, value.item(), said.k),
    )
    return "batchtopk"


def _subtracts(
    file: str, contents: Contents, tensors: dict[str, Tensor], said: Settings, kind: Kind, wishes: Wishes
) -> bool:
    """Return whether the decoder's bias is subtracted from the input."""
    if wishes.plain or wishes.centered:
        return wishes.centered
    if said.subtracts is not None:
        return said.subtracts
    bias = first(tensors, DECODER_BIASES)
    if kind != "jumprelu" or bias is None or "W_enc" not in tensors or not tensors[bias].any():
        return True
    if contents.path.suffix.lower() != ".safetensors":
        return False  # dictionary_learning and Gemma Scope
    raise ModelError(
        f"nothing tells whether {file}, a JumpReLU autoencoder, subtracts {bias} from its input: add :plain (it does "
        "not) or :centered (it does), or put its library's cfg.json beside it"
    )


def _k(file: str, said: Settings, wishes: Wishes) -> int:
    if wishes.topk is not None:
        return wishes.topk
    if said.k is None:
        raise ModelError(f"{file} is a TopK autoencoder and does not say its K: add :topk=K")
    try:
        return int(str(said.k))
    except ValueError as exc:  # what is no whole number, infinity included
        raise ModelError(f"{file} says k is {said.k!r}, expected a number: add :topk=K") from exc


def _threshold(file: str, tensors: dict[str, Tensor], said: Settings, wishes: Wishes, latents: int) -> Tensor:
    """Return the threshold, one number or [S]. Raises ModelError if there is none, or it was never set."""
    name = first(tensors, (*THRESHOLDS, *MORE_THRESHOLDS, *LOG_THRESHOLDS))
    if wishes.threshold is not None:
        result = torch.tensor(wishes.threshold)
    elif name is not None:
        result = tensors[name].float()
        result = result.exp() if name in LOG_THRESHOLDS else result
        result = (
            result.reshape(()) if result.numel() == 1 else result.reshape(-1) if result.numel() == latents else result
        )
    elif said.threshold is not None:
        result = torch.tensor(said.threshold)
    else:
        raise ModelError(
            f"{file} gates its latents by a threshold and does not hold it: add :threshold=T, or :topk=K "
            "to keep K per image"
        )
    if result.shape not in ((), (latents,)):
        raise ModelError(
            f"{file} has thresholds of shape {list(result.shape)} for {latents} latents: expected one each"
        )
    if not bool(torch.isfinite(result).all()):
        raise ModelError(f"{file} has thresholds that are not finite: expected numbers")
    if result.dim() == 0 and result.item() < 0:
        raise ModelError(
            f"the threshold of {file} is {result.item():.4g}, so training ended before it was set: add "
            ":threshold=T, or :topk=K to keep K per image"
        )
    return result


def _magnitude(file: str, tensors: dict[str, Tensor], latents: int) -> tuple[Tensor, Tensor]:
    names = [first(tensors, names) for names in GATED]
    if None in names or any(tensors[str(name)].shape != (latents,) for name in names):
        raise ModelError(
            f"{file} is a gated autoencoder without r_mag and b_mag (or mag_bias) of {latents} latents: expected them"
        )
    gain, bias = (tensors[str(name)].float() for name in names)
    return gain.exp(), bias


# the input


def _factor(file: str, contents: Contents, tensors: dict[str, Tensor], said: Settings, wishes: Wishes) -> float | None:
    name = first(tensors, FACTORS)
    stored = float(tensors[name].item()) if name is not None and _is_single(tensors[name]) else said.factor
    if name is not None and not _is_single(tensors[name]):
        raise ModelError(f"{file} has {name} of shape {list(tensors[name].shape)}: expected one number")
    factor = wishes.factor if wishes.factor is not None else stored
    if factor is None and needs_factor(contents.inside, contents.outside):
        raise ModelError(
            f"{file} was trained on inputs scaled by their average norm (expected_average_only_in), and the factor is "
            "not stored: add :scale=X (sqrt(inputs) / average norm; 1 if it is folded into the weights)"
        )
    return None if factor == 1 else factor


def _of_input(file: str, tensors: dict[str, Tensor], names: tuple[str, ...], width: int) -> Tensor | None:
    name = first(tensors, names)
    if name is None:
        return None
    values = tensors[name].float()
    if values.numel() not in (1, width) or (names is DEVIATIONS and not bool((values > 0).all())):
        raise ModelError(
            f"{file} has {name} of shape {list(values.shape)}: expected {width} numbers, deviations above 0"
        )
    return values.reshape(-1) if values.numel() == width else values.reshape(())


def _decoder_norms(file: str, tensors: dict[str, Tensor], latents: int) -> Tensor:
    name = first(tensors, DECODERS)
    if name is None or tensors[name].dim() != 2 or latents not in tensors[name].shape:
        raise ModelError(
            f"{file} multiplies its latents by the norms of its decoder, and holds no decoder: expected W_dec"
        )
    decoder = tensors[name].float()
    is_rows = decoder.shape[0] == latents and (decoder.shape[1] != latents or name == "W_dec")
    norms: Tensor = torch.linalg.vector_norm(decoder, dim=1 if is_rows else 0)
    return norms


# the matrix


def _affine(file: str, tensors: dict[str, Tensor], subtracts: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the encoder [D, S], its bias [S], and the vector [D] that is subtracted from the input."""
    name = first(tensors, ENCODERS)
    if name is None or tensors[name].dim() != 2 or not tensors[name].numel():
        raise ModelError(f"{file} has no encoder matrix: expected {' or '.join(ENCODERS)} with two axes, filled")
    biases = (*ENCODER_BIASES, *GATE_BIASES)
    flat = first({n: t for n, t in tensors.items() if t.dim() == 0}, (*biases, *INPUT_BIASES, *DECODER_BIASES))
    if flat is not None:
        raise ModelError(f"{file} has a single number as {flat}: expected a bias with one axis")
    matrix = tensors[name].float()
    bias = next((tensors[part].float() for part in biases if part in tensors), None)
    centres = (*INPUT_BIASES, *(DECODER_BIASES if subtracts else ()))
    centre = next((tensors[part].float() for part in centres if part in tensors), None)
    rows, columns = matrix.shape
    # The lengths of the biases show whether the matrix is transposed; if they cannot, its name does.
    if rows != columns and (bias is not None or centre is not None):
        turned = (len(bias) if bias is not None else rows) == rows and (
            len(centre) if centre is not None else columns
        ) == columns
    else:
        turned = name == "encoder.weight"
    matrix = (matrix.T if turned else matrix).contiguous()
    width, features = matrix.shape
    bias = torch.zeros(features) if bias is None else bias
    centre = torch.zeros(width) if centre is None else centre
    if bias.shape != (features,) or centre.shape != (width,):
        raise ModelError(
            f"{file}: an encoder {[rows, columns]} does not go with biases of "
            f"{list(bias.shape)} features and {list(centre.shape)} inputs"
        )
    return matrix, bias, centre


# words


def _name(kind: Kind, k: int | None, threshold: Tensor | None) -> str:
    if threshold is not None:
        low, high = float(threshold.min()), float(threshold.max())
        by = f"threshold {low:.4g}" if threshold.dim() == 0 else f"thresholds {low:.4g} to {high:.4g}"
        return f"{'BatchTopK' if kind == 'batchtopk' else 'JumpReLU'} by {by}"
    return f"TopK with k {k}" if kind == "topk" else {"relu": "ReLU", "gated": "gated"}[kind]


def _steps(
    mean: Tensor | None, deviation: Tensor | None, factor: float | None, norm: Norm | None, centred: bool
) -> str:
    steps = ["minus a stored mean"] if mean is not None else []
    steps += ["over a stored deviation"] if deviation is not None else []
    steps += [f"times {factor:.6g}"] if factor is not None else []
    steps += [{"layer": "layer norm", "length": "scaled to length sqrt(inputs)"}[norm]] if norm is not None else []
    steps += ["minus a bias"] if centred else []
    return f" ({', '.join(steps)})" if steps else ""
