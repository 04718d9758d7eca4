"""Which layers of a network to look at first: the last of its stages. Loads no torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from csp_index.errors import ModelError

if TYPE_CHECKING:
    from csp_index.models.networks import LayerOutput

COUNT = 2


def last_stages(outputs: Iterable[LayerOutput], count: int = COUNT) -> tuple[str, ...]:
    """Return the names of at most `count` layers, in their order: the ends of a network's last stages.

    `outputs` are its layers in the order of the network. Stages are the blocks that hold most of them and whose names
    differ in a number (layer1 to layer4, blocks.0 to blocks.11, inception3a to inception5b). Where the size of their
    maps changes, the last block of each size counts; in a transformer, whose blocks are all alike, the last one. A
    network without such blocks gives its last layers with maps, one without maps the last before its output.
    Errors: ModelError if there is no layer.
    """
    layers = list(outputs)
    if not layers:
        raise ModelError("the network has no layer that can be indexed: name one with --layers")
    stages = {layer.name: size for layer in layers if (size := _places(layer)) > 1}
    within: Counter[str] = Counter()  # how many layers each layer has inside
    for layer in layers:
        within.update(_above(layer.name))
    families: dict[str, list[str]] = {}
    for name in stages:
        if within[name] and (family := _family(name)) is not None:
            families.setdefault(family, []).append(name)
    if shared := [members for members in families.values() if len(members) > 1]:
        blocks = max(shared, key=lambda members: sum(within[name] for name in members))
        stages = {name: stages[name] for name in blocks}
    if not stages:
        return (layers[max(len(layers) - 2, 0)].name,)
    ends = {size: name for name, size in stages.items()}.values()  # the last of each size
    return tuple(name for name in stages if name in set(ends))[-count:]


def _places(layer: LayerOutput) -> int:
    """Return at how many places of an image a layer's neurons have a value."""
    return math.prod(layer.shape) // max(layer.neurons, 1)


def _above(name: str) -> Iterator[str]:
    """Yield the names of the modules that a layer is inside of."""
    while name := name.rpartition(".")[0]:
        yield name


def _family(name: str) -> str | None:
    """Return a name without the number at its end, which a letter may follow, or None if it has none."""
    match = re.fullmatch(r"(.*?)\d+[a-z]?", name)
    return match[1] if match else None
