"""What an autoencoder's file and the settings beside it say, whatever library wrote them.

Settings are dictionaries, perhaps nested: SAELens (``cfg.json``, old and new), dictionary_learning (``config.json``
with a ``trainer``), sparsify, saev (a line of JSON before the tensors), VISAEBench, Prisma, OpenAI's (text among the
tensors), and the metadata of safetensors. Knows nothing about tensors and formulas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from csp_index.errors import ModelError
from csp_index.models.autoencoders.tensor_names import K

Kind = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
Norm = Literal["layer", "length"]

_INTO: Final = frozenset(
    {"trainer", "cfg", "config", "sae", "sae_cfg", "header", "activation_state_dict", "activation_fn_kwargs", "params"}
    | {"sae_config", "hyper_parameters", "hparams", "settings", "args", "autoencoder", "ae"}
)
_STRONG: Final = ("architecture", "activation", "activation_fn", "activation_fn_str", "activation_function", "act_fn")
_STRONG_TOO: Final = ("activation_type", "dict_class", "sae_type", "sae_class")
_WEAK: Final = ("cls", "kind", "type", "trainer_class")  # other things are called so, too
_FOREIGN: Final = ("groupmax", "tanh", "identity", "pursuit", "temporal", "crosscoder", "gelu", "softplus", "abs")
_FOREIGN_OF_KNOWN: Final = ("leaky", "relu6", "prelu", "square", "soft", "group", "hierarch", "hard", "noisy")
_NUMBERED: Final = re.compile(r"top_?k[a-z]*[_-](\d+)$", re.IGNORECASE)  # "TopKReLU_64"
_FOREIGN_TOO: Final = ("sigmoid", "prolu", "softmax", "sparsemax", "lista")
_KINDS: Final[tuple[tuple[str, Kind], ...]] = (
    ("batchtopk", "batchtopk"),
    ("matryoshkatopk", "batchtopk"),  # of Bussmann et al., who take the top k of a batch
    ("jump", "jumprelu"),
    ("gated", "gated"),
    ("topk", "topk"),
    ("relu", "relu"),
    ("standard", "relu"),
    ("vanilla", "relu"),
    ("autoencodernew", "relu"),
    ("transcoder", "relu"),
)
_INPUTS: Final = ("d_in", "activation_dim", "d_vit", "input_dim", "act_size")
_LATENTS: Final = ("d_sae", "dict_size", "num_latents", "hidden_dim", "n_latents")
_THRESHOLDS: Final = ("threshold", "running_threshold", "_running_threshold", "jump_threshold")
_FACTORS: Final = ("estimated_norm_scaling_factor", "norm_scaling_factor", "input_scaling_factor", "input_scale")
_OURS: Final = frozenset(
    {*_STRONG[1:], *_STRONG_TOO, *K, *_INPUTS, *_LATENTS, *_THRESHOLDS, *_FACTORS, "exp_factor", "expansion_factor"}
    | {"apply_b_dec_to_input", "normalize_activations"}
)
_NO = ("", "none", "false", "null", "no", "0", "0.0")
_CAPS: Final = ("latent_soft_cap", "soft_cap")
_SIGNED: Final = ("signed", "use_abs", "abs", "allow_negative")
_DEPTH = 5
# Settings about the inputs, and those of similar names that are about training.
_OF_INPUTS = re.compile(
    r"normali[sz]|standardi[sz]|whiten|layer_?norm|unit_?norm|(^|_)(input|act|activation)s?_(norm|scale|cent)"
    r"|(norm|scale|center|centre)_(the_)?(input|act|activation)s?($|_)|^(mean_)?cent(er|re)(ed)?$"
    r"|^(scal(e|ing)|scal(e|ing)_factor|norm_(factor|scale)|(avg|average|mean|data|dataset)_norm|(data|dataset)_(mean|std|scale))$"
)
_OF_TRAINING = re.compile(r"dec|normalize_activations|weight|loss|grad|mse|eps|init|finetuning")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is said; None where nothing is.

    ``subtracts``: whether the decoder's bias is subtracted from the input. ``norm``: what is done to each input first.
    ``factor`` multiplies the input; ``by_decoder``: the preactivations are multiplied by the decoder's norms;
    ``has_bias`` is False where the encoder's bias is not added; latents are squeezed below ``cap`` by a tanh.
    """

    kind: Kind | None
    k: object | None
    threshold: float | None
    subtracts: bool | None
    norm: Norm | None
    factor: float | None
    by_decoder: bool
    inputs: int | None
    latents: int | None
    has_bias: bool
    cap: float | None


def about_autoencoder(said: Mapping[str, Any]) -> bool:
    """Return whether a file of settings is about an autoencoder at all, and not about the network beside it."""
    keys = dict(_entries(said))
    return bool(_OURS & set(keys)) or any(_kind(str(keys.get(name, ""))) for name in ("architecture", *_WEAK))


def says_kind(said: Mapping[str, Any]) -> bool:
    """Return whether settings say what kind of autoencoder they are about, whatever they are called."""
    keys = dict(_entries(said))
    words = (keys.get(name) for name in ("architecture", *_STRONG_TOO, "activation", "activation_fn"))
    return any(isinstance(word, str) and _kind(word) is not None for word in words) and (
        any(name in keys for name in (*K, *_INPUTS, *_LATENTS, *_STRONG_TOO)) or "architecture" in keys
    )


def differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """Return the first word about the kind on which two settings differ, None if they agree."""
    first, second = dict(_entries(one)), dict(_entries(two))
    words = [name for name in (*K, *_STRONG, *_STRONG_TOO, *_THRESHOLDS) if name in first and name in second]
    return next((name for name in words if str(first[name]) != str(second[name])), None)


def understand(
    file: str, inside: Mapping[str, Any], outside: Mapping[str, Any], beside: str | None, given: set[str]
) -> Settings:
    """Return what a file and the settings beside it say. Raises ModelError for what has no settled meaning.

    ``given`` has ``kind`` or ``input`` if the caller says them, so that they need no meaning here.
    """
    within, around = dict(_entries(inside)), dict(_entries(outside))
    said = around | within
    for name in K:
        if "kind" not in given and name in within and name in around and str(within[name]) != str(around[name]):
            raise ModelError(
                f"{file} says {name} is {within[name]}, but {beside} says {around[name]}: add :topk=K with "
                "the right one"
            )
    words = [str(said[name]) for name in (*_STRONG, *_STRONG_TOO, *_WEAK) if isinstance(said.get(name), str)]
    kind = None if "kind" in given else _settled_kind(file, said, words)
    signed = next((name for name in _SIGNED if _is_true(said.get(name))), None)
    if signed is not None and (kind or "topk") in ("topk", "batchtopk"):
        raise ModelError(
            f"{file} says {signed} is {said[signed]}, so that its latents may be negative, which is not known here: "
            "expected latents of 0 and above"
        )
    if kind is None and said.get("header") is not None and "schema" not in said and "d_vit" in said:
        kind = "relu"  # saev, before it knew other kinds
    norm, factor = _norm(file, said, kind, "input" in given)
    k = next((said[name] for name in K if said.get(name) is not None), None)
    numbers = {int(match[1]) for match in map(_NUMBERED.search, words) if match} if "kind" not in given else set()
    if len(numbers) > 1 or (numbers and k is not None and str(k) not in map(str, numbers)):
        raise ModelError(f"{file} says {' and '.join(words)}, and k is {k}: add :topk=K with the right one")
    return Settings(
        kind=kind,
        k=k if k is not None else next(iter(numbers), None),
        threshold=_number(file, said, _THRESHOLDS),
        subtracts=_subtracts(said, kind),
        norm=norm,
        factor=factor,
        by_decoder=_is_true(said.get("rescale_acts_by_decoder_norm")),
        inputs=_count(said, _INPUTS),
        latents=_count(said, _LATENTS),
        has_bias=not ("use_encoder_bias" in said and not _is_true(said["use_encoder_bias"])),
        cap=_cap(file, said),
    )


def _entries(said: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested settings, outer ones first, so that inner ones win."""
    yield from ((str(name), True if isinstance(value, Mapping) else value) for name, value in said.items())
    for name, value in said.items():
        if not isinstance(value, Mapping):
            continue
        # saev: {"cls": "TopK", "params": {"top_k": 32}}, or {"kind": "top-k", "top_k": 32}
        if name in _STRONG and depth < _DEPTH:
            yield str(name), next((value[key] for key in ("cls", "kind", "name", "type") if key in value), None)
            inner = {key: part for key, part in value.items() if key not in ("cls", "kind", "name", "type")}
            yield from _entries(inner, depth + 1)
        elif name in _INTO and depth < _DEPTH:
            yield from _entries(value, depth + 1)


def _kind(text: str) -> Kind | None:
    word = re.sub(r"[^a-z0-9]", "", text.strip("<>'\" ").rpartition(".")[2].lower())
    if word in ("autoencoder", "classautoencoder"):
        return "relu"  # a class of dictionary_learning
    return next((kind for part, kind in _KINDS if part in word), None)


def _settled_kind(file: str, said: Mapping[str, Any], words: list[str]) -> Kind | None:
    strong = [str(said[name]) for name in (*_STRONG, *_STRONG_TOO) if isinstance(said.get(name), str)]
    for text in strong:
        word = re.sub(r"[^a-z0-9]", "", text.lower())
        # "prelu" is in "jumprelu", too.
        own = word.replace("jumprelu", "jump")
        if any(part in own for part in (*_FOREIGN, *_FOREIGN_TOO, *_FOREIGN_OF_KNOWN)) or (
            word not in _NO and _kind(text) is None
        ):
            raise ModelError(
                f"{file} is said to be {text!r}, which is not known here (known: ReLU, TopK, BatchTopK, JumpReLU, "
                "gated): if it is one of them, add :relu, :topk=K or :threshold=T"
            )
    kinds = [kind for kind in map(_kind, words) if kind is not None]
    post = said.get("postact_fn")
    if post is not None and str(post).lower() != "relu":
        raise ModelError(f"{file} says {post!r} comes after its activation, which is not known here: expected ReLU")
    return next((kind for _, kind in _KINDS if kind in kinds), None)


def _subtracts(said: Mapping[str, Any], kind: Kind | None) -> bool | None:
    applied = said.get("apply_b_dec_to_input")
    if applied is not None:
        return _is_true(applied)
    if _is_true(said.get("transcode")) or "transcoder" in str(said.get("architecture", "")).lower():
        return False
    if said.get("header") is not None and "schema" in said:  # saev no longer subtracts it from its second form on
        return _kind(str(said.get("cls", ""))) is not None
    if "dict_class" in said or "trainer_class" in said:
        return kind != "jumprelu"  # dictionary_learning
    return None


def _norm(file: str, said: Mapping[str, Any], kind: Kind | None, is_given: bool) -> tuple[Norm | None, float | None]:
    """Return what is done to each input before the bias is subtracted, and the factor it is multiplied by."""
    if "dict_class" in said:  # dictionary_learning folds its scale into the biases before it saves
        return None, None
    text = str(said.get("normalize_activations") or "none").lower()
    factor = _number(file, said, _FACTORS)
    if said.get("postact_fn") is not None and kind == "topk" and "normalize_activations" not in said:
        return "layer", factor  # OpenAI's TopK autoencoders always normalize their inputs
    if _is_true(said.get("input_unit_norm")):  # of Bussmann et al.: each input minus its mean, over its deviation
        return "layer", factor
    if text == "expected_average_only_in":
        return None, factor if factor is not None else _number(file, said, ("scaling_factor",))  # None is asked for
    odd = [
        name
        for name, value in said.items()
        if _OF_INPUTS.search(name.lower())
        and not _OF_TRAINING.search(name.lower())
        and str(value).lower() not in _NO
        and name not in _FACTORS
        and not ("scal" in name.lower() and str(value) in ("1", "1.0"))
    ]
    if odd and not is_given:
        raise ModelError(
            f"{file} says {odd[0]} is {said[odd[0]]}, and what that does to its inputs is not settled: add :scale=X "
            "for a factor, or save normalize_activations (none, layer_norm, constant_norm_rescale) in its settings"
        )
    norms: dict[str, Norm] = {"layer_norm": "layer", "constant_norm_rescale": "length"}
    if text in _NO or (is_given and text not in norms):
        return None, factor
    if text not in norms:
        raise ModelError(
            f"{file} says normalize_activations is {text!r}, expected none, layer_norm, constant_norm_rescale or "
            "expected_average_only_in: fold it into the weights, or add :scale=X for a factor"
        )
    return norms[text], factor


def needs_factor(inside: Mapping[str, Any], outside: Mapping[str, Any]) -> bool:
    """Return whether inputs are scaled by the average of their norms in training, a number that is kept elsewhere."""
    said = dict(_entries(outside)) | dict(_entries(inside))
    return str(said.get("normalize_activations", "")).lower() == "expected_average_only_in"


def _cap(file: str, said: Mapping[str, Any]) -> float | None:
    cap = _number(file, said, _CAPS)
    return cap if cap is not None and cap > 0 else None


def _number(file: str, said: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = said.get(name)
        if value is None or isinstance(value, bool):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ModelError(f"{file} says {name} is {value!r}, expected a number")
        return number
    return None


def _count(said: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    values = [said[name] for name in names if isinstance(said.get(name), int) and not isinstance(said[name], bool)]
    return next((value for value in values if value > 0), None)


def _is_true(value: object) -> bool:
    return str(value if value is not None else "").lower() not in _NO
