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
from csp_index.models.autoencoders.beside import settings_in_name
from csp_index.models.autoencoders.files import Contents
from csp_index.models.autoencoders.inputs import decoder_norms, factor_of, of_input, statistics_in, steps_of
from csp_index.models.autoencoders.settings import Kind, Norm, Settings, about_autoencoder, understand
from csp_index.models.autoencoders.tensor_names import (
    DECODER_BIASES,
    DEVIATIONS,
    ENCODER_BIASES,
    ENCODERS,
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
    is_msae,
    is_tied,
    leaves_bias,
    usual_names,
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
    cap: float | None  # below which a tanh keeps the latents
    words: str


def encoding_of(file: str, contents: Contents, wishes: Wishes) -> Encoding:
    """Return what an autoencoder computes. Raises ModelError where its files do not settle that."""
    tensors = common_names(file, usual_names(file, contents.tensors))
    outside = contents.outside if about_autoencoder(contents.outside) else {}
    if is_msae(contents.tensors) and not outside:
        outside = _of_msae(file, contents)
    inside = contents.inside | {
        name: tensors[name].item() for name in K if name in tensors and _is_single(tensors[name])
    }
    if is_msae(contents.tensors) and "scaling_factor" in inside:
        inside["input_scale"] = inside.pop("scaling_factor")
    given = {"kind"} if wishes.topk is not None or wishes.threshold is not None or wishes.relu else set()
    given |= {"input"} if wishes.factor is not None else set()
    said = understand(file, inside, outside, contents.beside, given)
    tensors |= statistics_in(file, outside | inside, tensors)
    check_names(file, tensors)
    kind = _kind(file, contents, tensors, said, wishes)
    if not said.has_bias:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in ENCODER_BIASES}
    matrix, bias, centre = _affine(file, tensors, _subtracts(file, contents, tensors, said, kind, wishes), said.inputs)
    if not all(bool(torch.isfinite(part).all()) for part in (matrix, bias, centre)):
        raise ModelError(f"{file} holds weights that are not finite: expected numbers; save it again")
    width, latents = matrix.shape
    for what, expected, size in (("inputs", said.inputs, width), ("latents", said.latents, latents)):
        if outside and expected is not None and expected != size:
            raise ModelError(
                f"{file} has {size} {what}, but {contents.beside} beside it says {expected}: it belongs to another file"
            )
    if said.by_decoder:
        norms = decoder_norms(file, tensors, latents)
        matrix, bias = matrix * norms, bias * norms
    factor = factor_of(file, contents, tensors, said, wishes.factor)
    k = _k(file, said, wishes) if kind == "topk" else None
    if k is not None and not 0 < k <= latents:
        raise ModelError(f"{file} has {latents} features: topk={k} cannot be kept of them")
    threshold = _threshold(file, tensors, said, wishes, latents) if kind in ("batchtopk", "jumprelu") else None
    magnitude = _magnitude(file, tensors, latents) if kind == "gated" else None
    mean, deviation = (of_input(file, tensors, names, width) for names in (MEANS, DEVIATIONS))
    norm = said.norm
    steps = steps_of(mean, deviation, factor, norm, bool(centre.any()))
    origin = f"; settings from {contents.beside or 'the name'}" if outside else ""
    capped = f" (below {said.cap:g})" if said.cap is not None else ""
    words = f"{_name(kind, k, threshold)}; {width:,} inputs{steps}; {latents:,} latents{capped}{origin}"
    cap = said.cap
    return Encoding(kind, matrix, bias, centre, k, threshold, magnitude, norm, mean, deviation, factor, cap, words)


def _of_msae(file: str, contents: Contents) -> dict[str, object]:
    """Return the settings of an autoencoder of MSAE, which are in the name of its file alone."""
    said = settings_in_name(contents.path.name)
    if said is None:
        raise ModelError(
            f"{file} is an autoencoder of MSAE, whose settings are in the name of its file, and {contents.path.name} "
            "has none: give it its name again (LATENTS_INPUTS_ACTIVATION_K_UW_TIED_NORMALIZE_SOFTCAP_..pt), or put a "
            "cfg.json beside it with activation, k, normalize_activations and latent_soft_cap"
        )
    return said


def _is_single(tensor: Tensor) -> bool:
    return tensor.numel() == 1 and not tensor.is_complex()


# what it is


def _kind(file: str, contents: Contents, tensors: dict[str, Tensor], said: Settings, wishes: Wishes) -> Kind:
    """Return the kind that the caller, the settings or the tensors' names say. Raises ModelError if none does."""
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
    if ("bias" in tensors and "encoder.weight" in tensors) or is_tied(contents.tensors):
        return "relu"  # only AutoEncoder of dictionary_learning, and sparse_autoencoder, have these names
    where = f"{contents.beside} beside it is about something else" if contents.beside else "no cfg.json beside it"
    raise ModelError(
        f"nothing says whether {file} is a ReLU or a TopK autoencoder ({where}): add :relu, :topk=K or :threshold=T, "
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
        "%s has k %s and a threshold %.4g, and no settings say whether it is BatchTopK or TopK: read as BatchTopK, by "
        "the threshold; add :topk=%s if it is TopK",
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
    if leaves_bias(contents.tensors):
        return False
    bias = first(tensors, DECODER_BIASES)
    if kind != "jumprelu" or bias is None or "W_enc" not in tensors or not tensors[bias].any():
        return True
    if contents.path.suffix.lower() != ".safetensors":
        return False  # dictionary_learning and Gemma Scope
    raise ModelError(
        f"nothing says whether {file}, a JumpReLU autoencoder, subtracts {bias} from its input: add :plain (it does "
        "not) or :centered (it does), or put its library's cfg.json beside it"
    )


def _k(file: str, said: Settings, wishes: Wishes) -> int:
    if wishes.topk is not None:
        return wishes.topk
    if said.k is None:
        raise ModelError(f"{file} is a TopK autoencoder and does not say its K: add :topk=K")
    try:
        number = float(str(said.k))
        if number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, OverflowError) as exc:  # what is no whole number, infinity included
        raise ModelError(f"{file} says k is {said.k!r}, expected a whole number: add :topk=K") from exc


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


# the matrix


def _affine(
    file: str, tensors: dict[str, Tensor], subtracts: bool, inputs: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the encoder [D, S], its bias [S], and the vector [D] that is subtracted from the input."""
    name = first(tensors, ENCODERS)
    if name is not None and tensors[name].dim() == 3:
        raise ModelError(
            f"{file} has {len(tensors[name])} encoders in {name} {list(tensors[name].shape)}, as a crosscoder or a "
            "stack of autoencoders has: expected one, with two axes; save one of them by itself"
        )
    if name is None or tensors[name].dim() != 2 or not tensors[name].numel():
        raise ModelError(f"{file} has no encoder matrix: expected {' or '.join(ENCODERS[:2])} with two axes, filled")
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
    elif rows != columns and inputs in (rows, columns):
        turned = columns == inputs
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
