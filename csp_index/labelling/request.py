"""A request for labels: the method, its options, how many candidates to return; made from loose options, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from csp_index.contrast.examples import activating_sets
from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, SettingError
from csp_index.labelling import scoring
from csp_index.labelling.methods import check_method, default_method, methods_with
from csp_index.records import ExampleOptions, ScoringOptions
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """What is asked of neurons: the method, its options, and how many candidates to return."""

    method: str
    examples: ExampleOptions = field(default_factory=ExampleOptions)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    top: int = 5

    def __post_init__(self) -> None:
        scoring.method(self.method)
        if self.top < 1:
            raise LabelError(f"top is {self.top}: expected at least 1")


def make_request(method: str | None, source: EncoderInfo, top: int, options: Mapping[str, Any]) -> LabelRequest:
    """Return the request that loose options amount to, by default by the method that `labelling.methods` recommends.

    Unknown options are refused with the list of those there are.
    """
    if method is not None:
        check_method(method)
    examples = {f.name for f in fields(ExampleOptions)}
    scores = {f.name for f in fields(ScoringOptions)}
    unknown = sorted(set(options) - examples - scores)
    if unknown:
        raise SettingError(f"option {unknown[0]!r} is unknown (has: {', '.join(sorted(examples | scores))})")
    given = {name: value for name, value in options.items() if value is not None}
    formula = ScoringOptions(**{k: given[k] for k in given.keys() & scores})
    if formula.logit_scale is None and source.logit_scale is not None:
        formula = replace(formula, logit_scale=source.logit_scale)
    if method is None:
        method = default_method(formula.logit_scale)
        _check_read(method, given.keys())
    info = scoring.method(method).info
    defaults = {"examples": info.examples, "neighbours": info.neighbours}
    chosen = ExampleOptions(**defaults | {k: given[k] for k in given.keys() & examples})
    if info.contrast is not None:
        chosen = replace(chosen, contrast=info.contrast)
    return LabelRequest(method, chosen, formula, top)


def _check_read(method: str, given: Iterable[str]) -> None:
    """Refuse options that the default method ignores: whoever gives them has another method in mind."""
    for option in given:
        readers = methods_with(option)
        if readers and method not in readers:
            raise SettingError(
                f"{option.replace('_', ' ')} changes {', '.join(readers)}, and not {method}, the default: "
                "name the method, too"
            )


def check_request(store: Store, selection: Selection, request: LabelRequest) -> None:
    """Refuse a request that lacks the encoder's scale, or asks for more examples than are kept; reads one neuron."""
    scoring.method(request.method).background(request.scoring)
    activating_sets(selection.statistics(store).slice(0, 1), request.examples)


def examples_described(options: ExampleOptions) -> dict[str, object]:
    """Return the options that count: those of the synthetic kind only where it is asked for."""
    given = asdict(options)
    if "synthetic" not in options.kinds:
        for name in CONTRAST_KINDS["synthetic"].options:
            del given[name]
    return given
