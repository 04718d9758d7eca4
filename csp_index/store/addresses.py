"""Neuron addresses as people write them, turned into layers of the index and neuron numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from csp_index.errors import AddressError, NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

_DIGITS = 24  # of a number or a range, with white space
_SHOWN = 60  # characters of a text that an error repeats
_MOST = 10_000_000  # neurons; a slip of the hand must not fill the memory


def resolve(store: Store, neurons: str | Iterable[str]) -> list[tuple[LayerInfo, np.ndarray]]:
    """Return the layers and neuron numbers that addresses `m/l` or `m/l/7` name, layer by layer, sorted.

    Raises AddressError for a text of another form or another object, and NotFoundError for a layer or a neuron that is
    not there.
    """
    requested: dict[LayerKey, set[int] | None] = {}
    for address in neurons if isinstance(neurons, Iterable) and not isinstance(neurons, str) else [neurons]:
        if not isinstance(address, str):
            raise AddressError(
                f"an object {type(address).__name__} is no address: write MODEL/LAYER or MODEL/LAYER/INDEX as a text"
            )
        if address.count("/") == 1:
            requested[LayerKey.parse(address)] = None
            continue
        key = NeuronKey.parse(address)
        numbers_so_far = requested.setdefault(key.layer_key, set())
        if numbers_so_far is not None:
            numbers_so_far.add(key.neuron)
    targets = []
    for layer_key, numbers in requested.items():
        target = catalog.layer(store, layer_key)
        selected = range(target.neurons) if numbers is None else sorted(numbers)
        catalog.check_neurons(target, selected)
        targets.append((target, np.array(selected, dtype=np.int64)))
    if not targets:
        raise AddressError("no neuron is named: write MODEL/LAYER for a layer or MODEL/LAYER/INDEX for a neuron")
    return targets


def named_layers(store: Store, layers: str) -> list[str]:
    """Return the layers MODEL/LAYER that a text names: one, several with commas between them, or all of the index.

    Raises AddressError for a text of another form, NotFoundError where the index has no layer.
    """
    known = [str(info.key) for info in catalog.layers(store)]
    if layers.strip() == "all":
        if not known:
            raise NotFoundError("the index has no layer: add one with csp-index index --network ... --layers ...")
        return known
    named = [layers] if layers in known else [part.strip() for part in layers.split(",")]  # a name may have commas
    for layer in named:
        LayerKey.parse(layer)
    return list(dict.fromkeys(named))


def parse_neurons(layer: str, neurons: str) -> list[str]:
    """Return the addresses that `--layer` and `--neurons` (`all`, `0,5,9` or `10-20`) name; AddressError for others.

    >>> parse_neurons("net/fc", "0,5-7")
    ['net/fc/0', 'net/fc/5', 'net/fc/6', 'net/fc/7']
    """
    LayerKey.parse(layer)
    if neurons.strip() == "all":
        return [layer]
    ranges = number_ranges(neurons)
    return [f"{layer}/{number}" for numbers in ranges for number in numbers]


def number_ranges(neurons: str) -> list[range]:
    """Return the numbers that `0,5-7` names, as ranges in the order they are written; AddressError for another form.

    >>> number_ranges("0,5-7")
    [range(0, 1), range(5, 8)]
    """
    ranges: list[range] = []
    count = 0
    for part in neurons.split(","):
        first, dash, last = part.strip().partition("-")
        is_range = part.isascii() and first.isdigit() and (last.isdigit() if dash else True)
        if not is_range or len(part) > _DIGITS or (dash and int(last) < int(first)):
            raise AddressError(f"neurons {_short(neurons)} are not understood: write all, 0,5,9 or 10-20")
        numbers = range(int(first), int(last or first) + 1)
        count += int(last or first) - int(first) + 1
        if count > _MOST:
            raise AddressError(
                f"neurons {_short(neurons)} are too many: expected at most {_MOST:,}; write all for a whole layer"
            )
        ranges.append(numbers)
    return ranges


def as_ranges(numbers: Iterable[int]) -> str:
    """Return numbers as `number_ranges` reads them, sorted, each once, neighbors as one range.

    >>> as_ranges([7, 5, 6, 0, 5])
    '0,5-7'
    """
    unique = np.unique(np.fromiter(numbers, np.int64))
    runs = np.split(unique, np.flatnonzero(np.diff(unique) > 1) + 1) if len(unique) else []
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
