"""Weights of a checkpoint into a network: which table of the file fits, and which names the file puts in front.

A training run saves more than a state dict: the weights lie below keys such as ``state_dict``, ``model`` or ``net``,
and wrappers put ``module.``, ``_orig_mod.`` or a name of their own in front. Both are found by what makes the names and
shapes fit the module, never by the words alone: a network may have a part called ``module``. Where two parts of a file
fit, as a teacher and a student do, the user chooses: ``FILE::teacher``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.specs import CHOICE, split_choice
from csp_index.models.weights import near_matches, read_file

_log = logging.getLogger(__name__)
_announced: set[str] = set()

_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_FIRST = ("", "state_dict", "model_state_dict", "model", "module", "net")  # the usual places, most usual first
_UNREAD = re.compile(  # what no output depends on: counters, indices that the code computes, what profilers add
    r"(^|\.)(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask|position_ids|total_ops"
    r"|total_params|mask_token|_extra_state)$"
)
_LEAVE_OUT = "--allow-missing (allow_missing=True)"
_DEPTH, _SHOWN, _PREFIXES = 4, 3, 8

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Fit:
    """One reading of a file: the tensors of a table whose names start with a prefix, by the names in the module."""

    place: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...]  # names of the table without the prefix
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misshapen: tuple[str, ...]
    matched: int

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen)

    @property
    def name(self) -> str:
        return ".".join([*self.place, self.prefix.rstrip(".")]).strip(".") or "the whole file"

    def rank(self) -> tuple[object, ...]:
        usual = [_FIRST.index(word) if word in _FIRST else len(_FIRST) for word in self.place]
        average = any("ema" in word.lower() for word in (*self.place, self.prefix))
        bad = len(self.unknown) + len(self.misshapen)
        return not self.complete, -self.matched, bad, average, len(self.place), usual, len(self.prefix)


def load_weights(module: nn.Module, weights: str | Path, *, allow_missing: bool = False) -> tuple[str, ...]:
    """Load a file's tensors into a module; return the names of the module's that the file lacks.

    Missing names are not an error here: which layers depend on them is not known yet. Raises ModelError where nothing
    in the file fits, where several parts do, and for tensors of other shapes, unless ``allow_missing``.
    """
    file, part = split_choice(str(weights))
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items() if isinstance(t, Tensor)}
    fits = sorted(_fits(read_file(file), expected, part), key=_Fit.rank)
    if not fits:
        raise ModelError(
            f"the weight file {file} holds no table of tensors{f' in {part!r}' if part else ''}: save the module's "
            "state_dict()"
        )
    best = fits[0]
    kind = type(module).__name__
    if not best.complete and not _headless(best, expected) and not allow_missing:
        raise ModelError(
            f"the weights in {file} do not fit {kind}: {_problems(best, expected)}"
            + (f"; to leave these out, add {_LEAVE_OUT}" if best.matched * 2 >= len(expected) else "")
        )
    if not best.matched:
        raise ModelError(f"the weights in {file} do not fit {kind}: {_problems(best, expected)}")
    rivals = [fit for fit in fits[1:] if fit.complete == best.complete and fit.matched == best.matched]
    rivals = _distinct([fit for fit in rivals if _differ(fit.tensors, best.tensors)])
    average = [fit for fit in rivals if fit.rank()[3] and not best.rank()[3]]
    if len(average) < len(rivals) and best.name != "the whole file":
        names = ", ".join(fit.name for fit in [best, *rivals][: _SHOWN + 1])
        raise ModelError(
            f"several parts of {file} fit {kind} ({names}) with other weights: choose one, --weights "
            f"{file}{CHOICE}{best.name}"
        )
    _check_numbers(file, best, module)
    _announce(file, best, average)
    tensors = {name: tensor for name, tensor in best.tensors.items() if name not in best.misshapen}
    module.load_state_dict(tensors, strict=False)
    return (*best.missing, *best.misshapen)


def _headless(fit: _Fit, expected: Shapes) -> bool:
    """Whether a file has the network's weights but for some parts: at least half, none of another shape."""
    return not fit.unknown and not fit.misshapen and fit.matched * 2 >= len(expected)


def _fits(content: object, expected: Shapes, part: str) -> Iterator[_Fit]:
    for place, table in _tables(content):
        for dropped in _ways(table, expected):
            names = {_without(name, dropped): name for name in table}
            if len(names) < len(table):  # two names would become one
                continue
            for prefix in _prefixes(names, expected):
                tensors = {name: table[full] for name, full in names.items() if name.startswith(prefix)}
                fit = _fit(place, prefix, tensors, [n for n in names if not n.startswith(prefix)], expected)
                if not part or part in (fit.name, fit.prefix.rstrip("."), ".".join(place)):
                    yield fit


def _tables(content: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tables of tensors in what a file holds, from outside to inside, and where they are."""
    if not isinstance(content, Mapping) or len(place) > _DEPTH:
        return
    table = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if table:
        yield place, table
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            yield from _tables(value, (*place, name))


def _ways(names: Iterable[str], expected: Shapes) -> list[frozenset[str]]:
    """Return which parts of names to leave out, as wrappers add them in the middle: at first none."""
    words = {word for name in names for word in name.split(".")} & _WRAPPERS
    own = {word for name in expected for word in name.split(".")}
    ways = [frozenset[str](), frozenset(words - own), frozenset(words)]
    return list(dict.fromkeys(ways))


def _without(name: str, dropped: frozenset[str]) -> str:
    return ".".join(word for word in name.split(".") if word not in dropped) if dropped else name


def _prefixes(names: Iterable[str], expected: Shapes) -> list[str]:
    """Return what stands in front of the names that the module knows, the most frequent first."""
    counts: Counter[str] = Counter()
    for name in names:
        words = name.split(".")
        for start in range(len(words)):
            if ".".join(words[start:]) in expected:
                counts[".".join(words[:start]) + "." if start else ""] += 1
    return [prefix for prefix, _ in counts.most_common(_PREFIXES)] or [""]


def _fit(
    place: tuple[str, ...], prefix: str, tensors: Mapping[str, Tensor], others: Iterable[str], expected: Shapes
) -> _Fit:
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    known = {name: own[name] for name in expected if name in own}
    missing = tuple(name for name in expected if name not in known and not _UNREAD.search(name))
    misshapen = tuple(name for name, tensor in known.items() if tuple(tensor.shape) != expected[name])
    parts = {name.partition(".")[0] for name in expected}
    left = [name for name in own if name not in expected and not _UNREAD.search(name)]
    # A part that the module does not have at all, such as another head, changes nothing in it.
    unknown = tuple(name for name in left if "." not in name or name.partition(".")[0] in parts)
    unused = (*others, *(name for name in own if name not in expected and name not in unknown))
    return _Fit(place, prefix, known, tuple(unused), missing, unknown, misshapen, len(known) - len(misshapen))


def _problems(fit: _Fit, expected: Shapes) -> str:
    """Return what does not fit, with a name of the file beside one that is missing."""
    spare = [*fit.unknown, *fit.others]
    problems: list[str] = []
    for name in fit.missing:
        beside = near_matches(name, spare, 1) or [other for other in spare if other.endswith(name.rpartition(".")[2])]
        problems.append(f"{name} is missing" + (f" (the file has {beside[0]})" if beside and not problems else ""))
    problems += [f"{name} is unknown" for name in fit.unknown]
    problems += [f"{n} has shape {tuple(fit.tensors[n].shape)}, not {expected[n]}" for n in fit.misshapen]
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _check_numbers(file: str, fit: _Fit, module: nn.Module) -> None:
    """Refuse weights that are no floating-point numbers, as quantized ones are, and weights that are not finite."""
    learned = {name for name, _ in module.named_parameters()}
    for name, tensor in fit.tensors.items():
        if name not in learned or name in fit.misshapen:
            continue
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{file} holds {name} as {kind}, so its weights are quantized or of another kind: expected weights in "
                "floating point"
            )
        if not bool(tensor.float().isfinite().all()):
            raise ModelError(f"{file} holds numbers in {name} that are not finite: training diverged, or it is damaged")


def _distinct(fits: list[_Fit]) -> list[_Fit]:
    """Return the fits without those that read the same weights by another name."""
    results: list[_Fit] = []
    for fit in fits:
        if all(_differ(fit.tensors, other.tensors) for other in results):
            results.append(fit)
    return results


def _differ(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return any(name not in two or not tensor.equal(two[name]) for name, tensor in one.items())


def _announce(file: str, fit: _Fit, average: list[_Fit]) -> None:
    """Say in one line what was chosen, taken off and left out."""
    remarks = []
    if fit.prefix:
        remarks.append(f"{fit.prefix!r} taken off the names")
    if fit.others:
        remarks.append(f"{len(fit.others)} tensors not used, first {fit.others[0]}")
    if fit.misshapen:
        remarks.append(f"{len(fit.misshapen)} of another shape not used, first {fit.misshapen[0]}")
    if fit.missing:
        remarks.append(f"{len(fit.missing)} missing, first {fit.missing[0]}")
    if average:
        remarks.append(f"averaged weights are there too: {file}{CHOICE}{average[0].name}")
    place = f" under {'.'.join(fit.place)}" if fit.place else ""
    message = f"weights of {file}{place}: {'; '.join(remarks)}"
    if remarks and message not in _announced:
        _announced.add(message)
        _log.warning("%s", message)
