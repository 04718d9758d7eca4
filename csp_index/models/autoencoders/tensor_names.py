"""The names that libraries give an autoencoder's tensors, and those of overcomplete brought to the usual ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from csp_index.errors import ModelError

ENCODERS: Final = ("W_enc", "encoder.weight", "encoder")
ENCODER_BIASES: Final = ("b_enc", "encoder.bias", "latent_bias")
GATE_BIASES: Final = ("b_gate", "gate_bias")
GATED: Final = (("r_mag",), ("b_mag", "mag_bias"))
INPUT_BIASES: Final = ("b_pre", "pre_bias")
DECODER_BIASES: Final = ("b_dec", "bias", "decoder_bias")
DECODERS: Final = ("W_dec", "decoder.weight", "decoder")
THRESHOLDS: Final = ("threshold", "thresholds", "jump_thresholds", "_running_threshold", "running_threshold")
LOG_THRESHOLDS: Final = ("log_threshold", "log_thresholds")
MORE_THRESHOLDS: Final = ("topk_threshold", "activation.threshold")
K: Final = ("k", "topk", "top_k")
MEANS: Final = ("mean_center", "input_mean", "act_mean", "activation_mean", "mean")
DEVIATIONS: Final = ("input_std", "act_std", "activation_std", "std")
FACTORS: Final = (
    *("input_scale", "input_scaling_factor", "norm_scaling_factor", "estimated_norm_scaling_factor", "scaling_factor"),
)
OUTER: Final = frozenset({*MEANS, *DEVIATIONS, *FACTORS, *THRESHOLDS, *LOG_THRESHOLDS})
"""Names of single numbers that count though they lie beside the table of the weights."""

_OTHER_NAMES: Final = {
    **{"w_enc": "W_enc", "w_dec": "W_dec"},  # Gemma Scope 2
    **{"encoder._weight": "encoder.weight", "encoder._bias": "encoder.bias", "decoder._weight": "decoder.weight"},
    **{"pre_encoder_bias._bias_reference": "b_pre", "tied_bias": "b_pre"},  # the package sparse_autoencoder
    **{"activation_function.threshold": "threshold", "jumprelu.threshold": "threshold"},
    **{"activation.log_threshold": "log_threshold", "jumprelu.log_threshold": "log_threshold"},
    "mean_center": "input_mean",
}
_NOT_SUBTRACTED: Final = ("w_enc", "activation_function.threshold")  # Gemma Scope 2, circuit-tracer
_TIED: Final = ("pre_encoder_bias._bias_reference", "tied_bias")
UNREAD: Final = frozenset(
    {*DECODERS, "decoder.bias", "W_skip", "group_sizes", "stats_last_nonzero", "latents_activation_frequency"}
    | {"latents_mean_square", "feature_sparsity", "act_freq_scores", "n_forward_passes_since_fired", "bandwith"}
    | {"post_decoder_bias._bias_reference", "affine_skip_connection", "num_batches_not_active", "bandwidth"}
)
OVERCOMPLETE: Final = "encoder.final_block."
BATCH_NORM_EPS: Final = 1e-5  # torch's own


def first(tensors: dict[str, Tensor], names: Iterable[str]) -> str | None:
    """Return the first of the names that a tensor has, or None."""
    return next((name for name in names if name in tensors), None)


def is_msae(tensors: Iterable[str]) -> bool:
    """Return whether tensors have the names that MSAE gives them."""
    return {"encoder", "latent_bias", "pre_bias"} <= set(tensors)


def is_tied(tensors: Iterable[str]) -> bool:
    """Return whether tensors have the names of the package sparse_autoencoder, which knows ReLU only."""
    return any(name in _TIED for name in tensors)


def leaves_bias(tensors: Iterable[str]) -> bool:
    """Return whether a library gave tensors their names that leaves the decoder's bias in the input."""
    return any(name in _NOT_SUBTRACTED for name in tensors)


def usual_names(file: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by one name per meaning, without a first axis of length 1. Raises ModelError for integers."""
    stacked = {*ENCODERS, *ENCODER_BIASES, *DECODERS, "b_pre"}
    results: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = _OTHER_NAMES.get(name, name)
        if own in stacked and tensor.dim() > (2 if own in (*ENCODERS, *DECODERS) else 1) and len(tensor) == 1:
            tensor = tensor[0]
        results.setdefault(own, tensor)
    for name in (*ENCODERS, *ENCODER_BIASES, *DECODER_BIASES, *INPUT_BIASES):
        if name in results and not results[name].is_floating_point() and not results[name].is_complex():
            raise ModelError(
                f"{file} holds {name} as whole numbers ({str(results[name].dtype).removeprefix('torch.')}), so it is "
                "quantized: expected floating-point weights"
            )
    factor = results.get("scaling_factor")
    latents = next((results[name].shape for name in ENCODER_BIASES if name in results), None)
    if factor is not None and factor.dim() == 1 and factor.shape == latents:
        del results["scaling_factor"]  # older ones of SAELens multiply the latents by it when they decode
    return results


def common_names(file: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with an encoder of overcomplete (linear, batch norm, ReLU) as one linear layer."""
    strange = next((name for name in sorted(tensors) if tensors[name].is_complex()), None)
    if strange is not None:
        raise ModelError(f"{file} holds complex numbers in {strange}: expected real ones")
    start = (
        OVERCOMPLETE if f"{OVERCOMPLETE}0.weight" in tensors else "encoder." if "encoder.0.weight" in tensors else ""
    )
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("dictionary.")}
    if not start:
        return rest
    weight, bias = rest.pop(f"{start}0.weight"), rest.pop(f"{start}0.bias", None)
    bias = torch.zeros(weight.shape[:1]) if bias is None else bias
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        raise ModelError(f"{file} has no encoder matrix: expected {start}0.weight with two axes and its bias with one")
    weight, bias = weight.double(), bias.double()
    norm = {
        part: rest.pop(f"{start}1.{part}").double()
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{start}1.{part}" in rest
    }
    norm.pop("num_batches_tracked", None)
    if norm:
        mean, variance = norm.get("running_mean"), norm.get("running_var")
        if mean is None or variance is None:
            raise ModelError(
                f"{file} normalizes its latents by {start}1 without running_mean and running_var (a layer norm?), "
                "which is not known here: expected a batch norm or none"
            )
        if any(part.shape != bias.shape for part in norm.values()):
            raise ModelError(f"{file}: the parts of {start}1 have other lengths than its {len(bias)} latents")
        gain = norm.get("weight", torch.ones_like(mean)) / torch.sqrt(variance + BATCH_NORM_EPS)
        weight, bias = weight * gain[:, None], (bias - mean) * gain + norm.get("bias", torch.zeros_like(mean))
    if "thresholds" in rest:  # overcomplete keeps their logarithms
        rest["log_thresholds"] = rest.pop("thresholds")
    return {**rest, "encoder.weight": weight.float(), "encoder.bias": bias.float()}


def check_names(file: str, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors of a name that no known autoencoder has."""
    known = {*ENCODERS, *ENCODER_BIASES, *GATE_BIASES, *GATED[0], *GATED[1], *INPUT_BIASES, *DECODER_BIASES}
    known |= {*THRESHOLDS, *LOG_THRESHOLDS, *MORE_THRESHOLDS, *K, *MEANS, *DEVIATIONS, *FACTORS, *UNREAD}
    odd = [name for name, tensor in tensors.items() if name not in known and tensor.is_floating_point()]
    if odd:
        raise ModelError(
            f"{file} holds {', '.join(odd[:4])}, which no ReLU, TopK, BatchTopK, JumpReLU or gated autoencoder has "
            f"(expected such as {', '.join([*ENCODERS[:2], *ENCODER_BIASES[:1], *DECODER_BIASES[:1]])}, threshold): "
            "rename or fold what is meant by them"
        )
