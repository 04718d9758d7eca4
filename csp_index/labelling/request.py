"""A request for labels: the method, its options, and how many candidates to return; built from loose options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.errors import LabelError, SettingError
from csp_index.labelling.methods import CROP, METHODS, MethodInfo, check_method, default_method, methods_with
from csp_index.records import ExampleOptions, ScoringOptions
from csp_index.store.catalog import EncoderInfo

if TYPE_CHECKING:
    from csp_index.labelling.scoring import ScoringMethod

KEPT = 20  # candidates stored with each neuron, or more where more are requested


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """How neurons are labelled: the method, its options, and how many candidates to return.

    With `crop` the region that drives a neuron stands in for each activating image, and the part there for partners.
    """

    method: str
    examples: ExampleOptions = field(default_factory=ExampleOptions)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    top: int = 5
    crop: bool = False

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.top < 1:
            raise SettingError(f"top is {self.top}: expected at least 1")
        if not isinstance(self.crop, bool):
            raise SettingError(f"crop is {self.crop!r}: expected true or false")
        if self.crop and not self.info.takes_crops:
            raise LabelError(
                f"crop changes the activating images, which {self.method} does not look at alone: name another method "
                "(csp, contrastive-pmi, semanticlens, ...), or leave out crop"
            )

    @property
    def formula(self) -> ScoringMethod:
        """The formula of the method."""
        from csp_index.labelling import scoring  # torch: labels that are read need no formula

        return scoring.method(self.method)

    @property
    def info(self) -> MethodInfo:
        """What the method is and needs. Of a method of another package its formula says it, which loads torch."""
        return METHODS.get(self.method) or self.formula.info

    @property
    def dataset_scale(self) -> float | None:
        """The scale at which the method needs the labels' share of the whole dataset; None where it needs none.

        Raises LabelError where that is the encoder's scale, and none is known.
        """
        return self.formula.background(self.scoring)


def make_request(
    method: str | None, source: EncoderInfo, top: int, options: Mapping[str, Any], preferred: str | None = None
) -> LabelRequest:
    """Return the request that loose options amount to, by default by the index's preferred or the recommended method.

    Unknown options are refused with the list of those there are.
    """
    if method is not None:
        check_method(method)
    examples = {f.name for f in fields(ExampleOptions)}
    scores = {f.name for f in fields(ScoringOptions)}
    known = examples | scores | {CROP}
    if unknown := sorted(set(options) - known):
        raise SettingError(f"option {unknown[0]!r} is unknown (has: {', '.join(sorted(known))})")
    values = {name: value for name, value in options.items() if value is not None}
    formula = ScoringOptions(**{k: values[k] for k in values.keys() & scores})
    if formula.logit_scale is None and source.logit_scale is not None:
        formula = replace(formula, logit_scale=source.logit_scale)
    if method is None:
        method = _checked(preferred) if preferred else default_method(formula.logit_scale)
        _check_read(method, values.keys())
    info = LabelRequest(method).info
    defaults = {"examples": info.examples, "neighbours": info.neighbours}
    sets = ExampleOptions(**defaults | {k: values[k] for k in values.keys() & examples})
    if info.contrast is not None:
        sets = replace(sets, contrast=info.contrast)
    return LabelRequest(method, sets, formula, top, values.get(CROP, False))


def _checked(preferred: str) -> str:
    """Return the index's preferred method if there is such a method."""
    try:
        return check_method(preferred)
    except LabelError as exc:
        raise LabelError(
            f"the index prefers the method {preferred!r}, which no installed package offers: install it, name another "
            "method, or take the preference back by `csp-index prefer DB none`"
        ) from exc


def _check_read(method: str, options: Iterable[str]) -> None:
    """Refuse options that the default method ignores: a caller who sets them has another method in mind."""
    for option in options:
        readers = methods_with(option)
        if readers and method not in readers:
            raise SettingError(
                f"{option.replace('_', ' ')} changes {', '.join(readers)}, and not {method}, which labels by default: "
                "name the method, too"
            )


def examples_described(options: ExampleOptions) -> dict[str, object]:
    """Return the options that count: those of the synthetic kind only where it is requested."""
    values = asdict(options)
    if "synthetic" not in options.kinds:
        for name in CONTRAST_KINDS["synthetic"].options:
            del values[name]
    return values
