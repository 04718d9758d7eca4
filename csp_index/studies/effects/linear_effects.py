"""Effects of a layer that feeds a linear head: weight x activation per class, from the stored activations, exact.

The logit of a class is the sum over neurons of weight x activation, and the bias. So is the mean logit on images of the
class minus that elsewhere, in which the bias cancels: the effects of all neurons add up to it. That holds only where
nothing lies between layer and head but the pooling that the index used; `check_sum` tries it with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.layers.opened import Logits, OpenLayer
from csp_index.models.layers.replay import Replays
from csp_index.records import Progress
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.studies.class_sums import ClassSums
from csp_index.studies.effects.stored_effects import LayerEffects, SumCheck, by_name, classes_of

CHECKED = 16  # images of the sum check
_EXACT = 1e-4  # of the largest logit: the difference that rounding makes, in a network of single precision
_COARSE = 100  # times as much in half precision
_STORED = 1e-2  # of the largest logit, by which stored activations may differ: float16 has three digits


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A head's weights [C, M] and bias [C], float64, and what the network gave for the images of the sum check."""

    name: str
    weight: Tensor
    bias: Tensor
    ids: np.ndarray  # of the images of the check; empty where these were made-up pictures
    logits: Tensor  # [B, C]
    check: SumCheck


def linear_head(opened: OpenLayer, logits: Logits, ids: np.ndarray, pixels: Tensor) -> LinearHead | str:
    """Return the linear head that reads a layer, or why there is none: the sum check is over images [B, ...].

    `ids` are those of the images in the index, empty for pictures that are not in it.
    """
    name = logits.head or opened.network
    if logits.linear is None:
        kind = "" if logits.module is None else f" ({type(logits.module).__name__})"
        return f"no linear module gives the logits of {name}{kind}"
    weight, bias = logits.weights()
    neurons = opened.pooled(torch.zeros(1, *opened.shape)).shape[1]
    if weight.shape[1] != neurons:
        return (
            f"{name} reads {weight.shape[1]:,} values and {opened.layer} has {neurons:,} neurons: what lies between "
            "flattens, joins or changes them"
        )
    found = Replays(opened, logits).of(pixels)
    given = opened.pooled(found.tensor).double().cpu() @ weight.T + bias
    actual = found.logits.double().cpu()
    check = _compared(given, actual)
    coarse = _COARSE if found.tensor.dtype in (torch.half, torch.bfloat16) else 1
    if not check.difference <= _EXACT * coarse * check.largest:
        return (
            f"weights of {name} x activations of {opened.layer} differ from the logits by {check.difference:.3g}, of "
            f"which the largest is {check.largest:.3g}: the head reads them pooled in another way than "
            f"{opened.pool!r}, or after a function that is not linear"
        )
    return LinearHead(name, weight, bias, ids, actual, check)


def _compared(given: Tensor, actual: Tensor) -> SumCheck:
    return SumCheck(len(actual), float((given - actual).abs().max()), float(actual.abs().max()))


def linear_effects(
    store: Store,
    target: LayerInfo,
    head: LinearHead,
    neurons: np.ndarray,
    given: np.ndarray | None,
    names: tuple[str | None, ...],
    tell: Progress,
) -> LayerEffects:
    """Return the effects of neurons [m] over all images; `given` is each image's class [N], -1 unknown.

    By default it is the class that the network gives: the largest logit. Raises ModelError if the stored activations do
    not give the logits of the images of the sum check.
    """
    classes = len(head.bias)
    sums, logits = ClassSums(len(neurons), classes), ClassSums(1, classes)
    stored: list[Tensor] = []
    done, images = 0, int(catalog.neuron_rows(store, target)["images"][0].as_py())
    for first, tile in _tiles(store, target, images):
        values = head.weight.float() @ tile + head.bias.float()[:, None]  # [C, n]
        size = values.shape[1]
        inside = head.ids[(head.ids >= first) & (head.ids < first + size)] - first
        stored.append(values[:, torch.from_numpy(inside)].T)
        known = values.argmax(0).numpy() if given is None else given[first : first + size]
        has = np.flatnonzero(known >= 0)
        sums.count(known[has])
        logits.count(known[has])
        sums.add_same(tile.numpy()[neurons][:, has], known[has])
        logits.add(values.T.numpy()[None, has], known[has])
        done += size
        tell(done, images, "images")
    check = _stored_check(head, torch.cat(stored), target)
    found, means = sums.contrast(), logits.contrast()
    weight = head.weight.numpy().T[neurons]  # [m, C]
    effects, half = weight * found.effect, np.abs(weight) * found.half
    parts = (effects, effects - half, effects + half, weight * found.on_class, weight * found.elsewhere)
    return LayerEffects(
        layer=target.key,
        by="linear",
        head=head.name,
        images=int(sums.counts.sum()),
        check=check,
        classes=classes_of(names, logits.counts, means),
        neurons=neurons,
        values=np.full(len(neurons), np.nan),
        settings_hash="",
        **by_name(parts),
    )


def _tiles(store: Store, target: LayerInfo, images: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first image and the activations [M, n] of each shard."""
    first = 0
    for tile in streams.activation_tiles(store, target, catalog.covered(store, target.what, images)):
        yield first, tile
        first += tile.shape[1]


def _stored_check(head: LinearHead, given: Tensor, target: LayerInfo) -> SumCheck:
    """Return how far logits from stored activations are off; of made-up pictures, none of which is stored, the old."""
    if not len(head.ids):
        return head.check
    check = _compared(given.double(), head.logits)
    if not check.difference <= _STORED * check.largest:
        raise ModelError(
            f"the stored activations of {target.key} give logits that differ from the network's by "
            f"{check.difference:.3g}, where the largest is {check.largest:.3g}: they are not of these images, run "
            "`csp-index verify`"
        )
    return check
