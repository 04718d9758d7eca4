"""Sparse autoencoders: their features as a layer of the network they were trained on.

They come at the end of a network's spec, any number of them::

    torchvision:resnet50/IMAGENET1K_V2+sae:layer4=/path/topk.safetensors:topk=32

adds the layer ``layer4.sae-topk`` to the network, with one neuron per feature. Options follow the file, each after a
colon:

==============  ====================================================================================================
``topk=K``      only the K largest features of an input stay (default: the file's own ``k``, else all of them)
``places``      the autoencoder reads each position or token of the layer, and its features are pooled; without it the
                layer is pooled first, in its usual way, and the autoencoder reads the result
``pool=POOL``   another pool than the usual one for that first pooling
``plain``       the decoder's bias is not subtracted from the input
``name=NAME``   the layer is called LAYER.sae-NAME; without it NAME is the file's, without its ending
==============  ====================================================================================================

z = ReLU(W_enc (x - b_pre) + b_enc). The tensors have the names that most libraries give them: ``W_enc`` [D, S] or
``encoder.weight`` [S, D]; ``b_enc``, ``encoder.bias`` or ``latent_bias`` [S]; ``b_pre`` or ``pre_bias`` [D], or
else ``b_dec`` or ``bias`` (Bricken et al. 2023; Gao et al., arXiv 2406.04093). Knows nothing about
where a network comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.pooling import choose_pool, first_tensor, pooled
from csp_index.models.weights import hash_weights, lasting, near_matches, read_weights
from csp_index.regular_files import user_path

__all__ = ["SparseAutoencoder", "SparseSource", "attach", "settled", "split_spec"]

_MARK = "+sae:"
_OPTION = re.compile(r":(topk=[0-9]{1,9}|places|plain|pool=[a-z-]+|name=[^/:\s]+)$")
_ENCODERS = ("W_enc", "encoder.weight")
_ENCODER_BIASES = ("b_enc", "encoder.bias", "latent_bias")
_INPUT_BIASES = ("b_pre", "pre_bias")
_DECODER_BIASES = ("b_dec", "bias")
_UNREAD = ("W_dec", "decoder.weight", "decoder.bias")  # only decoding needs these
_TOPK = ("k", "topk", "top_k")


@dataclass(frozen=True, slots=True)
class SparseSource:
    """Which autoencoder reads which layer, and how; see the module's table."""

    layer: str
    file: str
    topk: int | None = None
    places: bool = False
    plain: bool = False
    pool: str | None = None
    name: str | None = None

    @property
    def added(self) -> str:
        """The name of the layer that its features make."""
        return f"{self.layer}.sae-{self.name or re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(self.file).stem)}"

    def __str__(self) -> str:
        marks = [f"topk={self.topk}"] if self.topk is not None else []
        marks += [word for word in ("places", "plain") if getattr(self, word)]
        marks += [f"{word}={value}" for word in ("pool", "name") if (value := getattr(self, word)) is not None]
        return ":".join([f"{self.layer}={self.file}", *marks])


def split_spec(spec: str) -> tuple[str, tuple[SparseSource, ...]]:
    """Return a network's own spec, and the autoencoders that the full spec adds.

    >>> base, (one,) = split_spec("timm:resnet50.a1_in1k+sae:layer4=sae.safetensors:topk=32")
    >>> base, one.added, one.topk
    ('timm:resnet50.a1_in1k', 'layer4.sae-sae', 32)
    """
    base, *added = spec.split(_MARK)
    return base, tuple(_parse(part) for part in added)


def settled(spec: str) -> str:
    """Return a network's spec with its local paths made absolute, so that it means the same from any folder."""
    base, added = split_spec(spec)
    files = [{**asdict(source), "file": str(user_path(source.file).resolve())} for source in added]
    return _MARK.join([lasting(base), *(str(SparseSource(**parts)) for parts in files)])


def attach(
    module: nn.Module, sources: Sequence[SparseSource], *, prefix_tokens: int, has_class_token: bool
) -> dict[str, SparseAutoencoder]:
    """Return the autoencoders by the names of their layers; each runs whenever its layer of ``module`` does.

    They are not part of the module: a child put into an ``nn.Sequential`` would change what it computes.
    """
    known = dict(module.named_modules())
    results: dict[str, SparseAutoencoder] = {}
    for source in sources:
        if not source.layer or source.layer not in known:
            near = ", ".join(near_matches(source.layer, [name for name in known if name])) or "none"
            raise ModelError(f"there is no layer {source.layer!r} for {source.file} to read (near: {near})")
        if source.added in known or source.added in results:
            raise ModelError(f"two layers would be called {source.added}: add :name=NAME to one of the files")
        read = SparseAutoencoder(source, prefix_tokens=prefix_tokens, has_class_token=has_class_token)
        known[source.layer].register_forward_hook(read.listen)
        results[source.added] = read
    return results


class SparseAutoencoder(nn.Module):
    """The encoding half of a sparse autoencoder: a layer's output to features [B, S], or [B, S, H, W], [B, L, S]."""

    encoder: Tensor  # [D, S]
    bias: Tensor  # [S]
    centre: Tensor  # [D]

    def __init__(self, source: SparseSource, *, prefix_tokens: int = 0, has_class_token: bool = False) -> None:
        """Read the weights. Raises ModelError if the file holds no autoencoder of a known kind."""
        super().__init__()
        self.source = source
        self._prefix_tokens, self._has_class_token = prefix_tokens, has_class_token
        tensors = read_weights(source.file)
        metadata = _metadata(source.file)
        self.topk = _topk(source, tensors, metadata)
        encoder, bias, centre = _encoder(source, tensors, metadata)
        self.register_buffer("encoder", encoder)
        self.register_buffer("bias", bias)
        self.register_buffer("centre", centre)
        if self.topk is not None and not 0 < self.topk <= encoder.shape[1]:
            raise ModelError(f"{source.file} has {encoder.shape[1]} features: topk={self.topk} cannot be kept of them")
        settings = {"topk": self.topk, "places": source.places, "pool": source.pool, "layer": source.layer}
        #: What the features depend on besides the network: the hash of the weights, and the options.
        self.identity = json.dumps({"weights": hash_weights(self), **settings}, sort_keys=True)

    def listen(self, module: nn.Module, inputs: object, output: object) -> None:
        """Read the layer's output; a forward hook."""
        tensor = first_tensor(output)
        if tensor is not None:
            self(tensor)

    def forward(self, output: Tensor) -> Tensor:
        """Return the features of a layer's output, [B, ...]."""
        usual = choose_pool(
            tuple(output.shape[1:]), None if self.source.places else self.source.pool, self._has_class_token
        )
        if not self.source.places:
            return self.encode(pooled(output, usual, self._prefix_tokens, gradient=torch.is_grad_enabled()))
        if usual in ("mean", "max"):  # the channels come first
            return self.encode(output.float().movedim(1, -1)).movedim(-1, 1)
        return self.encode(output.float())

    def encode(self, values: Tensor) -> Tensor:
        """Return the features [..., S] of inputs [..., D], none of them negative."""
        width = self.encoder.shape[0]
        if values.shape[-1] != width:
            raise ModelError(
                f"{self.source.file} reads {width} values, but layer {self.source.layer!r} gives {values.shape[-1]}: "
                "it was trained on another layer"
            )
        result = torch.relu((values - self.centre) @ self.encoder + self.bias)
        if self.topk is None or self.topk == result.shape[-1]:
            return result
        largest = result.topk(self.topk, dim=-1)
        return torch.zeros_like(result).scatter_(-1, largest.indices, largest.values)


def _parse(text: str) -> SparseSource:
    options: dict[str, str] = {}
    rest = text
    while result := _OPTION.search(rest):
        word, _, value = result[1].partition("=")
        options[word] = value
        rest = rest[: result.start()]
    layer, equals, file = rest.partition("=")
    if not equals or not layer or not file or "\0" in file:
        raise ModelError(
            f"{text!r} adds no sparse autoencoder: write LAYER=FILE, after it perhaps :topk=K, :places, :plain, "
            ":pool=POOL or :name=NAME"
        )
    topk = int(options["topk"]) if "topk" in options else None
    return SparseSource(
        layer, file, topk, "places" in options, "plain" in options, options.get("pool"), options.get("name")
    )


def _metadata(file: str) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    path = user_path(file)
    if path.suffix.lower() != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as tensors:
        return dict(tensors.metadata() or {})


def _topk(source: SparseSource, tensors: dict[str, Tensor], metadata: dict[str, str]) -> int | None:
    if source.topk is not None:
        return source.topk
    messages: list[object] = [metadata[name] for name in _TOPK if name in metadata]
    messages += [tensors[name].item() for name in _TOPK if name in tensors and tensors[name].numel() == 1]
    if messages:
        try:
            return int(str(messages[0]))
        except ValueError as exc:  # what is no whole number, infinity included
            raise ModelError(f"{source.file} says k is {messages[0]!r}, expected a number: add :topk=K") from exc
    kind = " ".join(metadata.get(name, "") for name in ("architecture", "activation", "activation_fn", "type")).lower()
    if "topk" in kind.replace("_", ""):
        raise ModelError(f"{source.file} is a TopK autoencoder and does not say its K: add :topk=K")
    return None


def _is_flat(tensors: dict[str, Tensor], name: str) -> bool:
    return name in tensors and tensors[name].dim() == 0


def _encoder(
    source: SparseSource, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the encoder [D, S], its bias [S], and the vector [D] that is subtracted from the input."""
    known = {*_ENCODERS, *_ENCODER_BIASES, *_INPUT_BIASES, *_DECODER_BIASES, *_UNREAD, *_TOPK}
    strange = next((name for name in (*known, *tensors) if name in tensors and tensors[name].is_complex()), None)
    if strange is not None:
        raise ModelError(f"{source.file} holds complex numbers in {strange}: expected real ones")
    odd = [name for name, tensor in tensors.items() if name not in known and tensor.is_floating_point()]
    if odd:
        raise ModelError(
            f"{source.file} holds {', '.join(odd[:4])}, which no TopK or ReLU autoencoder has "
            f"(known: {', '.join(sorted(known - set(_TOPK)))}): rename or fold what is meant by them"
        )
    name = next((name for name in _ENCODERS if name in tensors), None)
    if name is None or tensors[name].dim() != 2 or not tensors[name].numel():
        raise ModelError(
            f"{source.file} has no encoder matrix: expected {' or '.join(_ENCODERS)} with two axes, filled"
        )
    flat = next(
        (part for part in (*_ENCODER_BIASES, *_INPUT_BIASES, *_DECODER_BIASES) if _is_flat(tensors, part)), None
    )
    if flat is not None:
        raise ModelError(f"{source.file} has a single number as {flat}: expected a bias with one axis")
    matrix = tensors[name].float()
    bias = next((tensors[part].float() for part in _ENCODER_BIASES if part in tensors), None)
    biases: tuple[str, ...] = _INPUT_BIASES
    if not source.plain and metadata.get("apply_b_dec_to_input", "true").lower() != "false":
        biases += _DECODER_BIASES
    centre = next((tensors[part].float() for part in biases if part in tensors), None)
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
            f"{source.file}: an encoder {[rows, columns]} does not go with biases of "
            f"{list(bias.shape)} features and {list(centre.shape)} inputs"
        )
    return matrix, bias, centre
