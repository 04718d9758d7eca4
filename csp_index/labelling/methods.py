"""The one table of labeling methods: what each is, what it needs, and which of them is recommended.

Free of torch: help texts, pages, the manual and checks of a name read it. `labelling.scoring` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from csp_index.errors import LabelError
from csp_index.models.plugins import METHOD_GROUP, offered
from csp_index.records import ContrastKind

CROP: Final = "crop"
"""The option that is none of examples or scores: see `MethodInfo.takes_crops`."""
RECOMMENDED: Final = "firing-contrast"
"""The default method. No method is best on all data; this one was chosen on drawn worlds and real pictures together.

Judged once on fresh seeds of both: agreement with the truth by overlap, mean / mean of the worst tenth of the cells.

                    drawn, rounds 1-2   drawn, categories   real pictures (trained outputs, planted neurons)
    firing-contrast .96 / .78           .89 / .49           .85 / .28 (.95, .75)
    consensus       .96 / .76           .83 / .41           .75 / .16 (.94, .56)
    contrastive-pmi .85 / .36           .76 / .24           .80 / .31 (.92, .67)
    pmi             .72 / .43           .60 / .08           .81 / .36 (.89, .73)
    csp gamma .5    .59 / .06           .56 / .17           .79 / .22 (.91, .67)
    csp gamma 1     .61 / .10           .70 / .19           .72 / .16 (.90, .55)

On real pictures its worst tenth is below those of pmi and contrastive-pmi, and it takes several times as long as csp.
The page methods.md of the manual has the tables and their limits, scripts/method_search the search.
"""

WITHOUT_SCALE: Final = "csp"
"""The default where the encoder's logit scale is unknown, which RECOMMENDED needs: the paper's method."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What a labeling method is and needs.

    `options` are the fields of `ScoringOptions` that change its scores. A `control` shows what chance would give: its
    labels are shown only to those who ask for the method by name.
    """

    summary: str  # one sentence without a period
    source: str = ""  # where the formula comes from
    options: tuple[str, ...] = ()
    examples: int = 30  # activating images per neuron by default
    neighbours: int = 1  # contrastive images per activating image by default
    needs_contrast: bool = False
    contrast: ContrastKind | None = None  # the kind of contrastive images that defines the method
    needs_mean: bool = False  # the mean embedding of the dataset
    needs_response: bool = False  # the neurons' response to the whole dataset
    needs_leaders: bool = False  # in it, how well the filters of the leading labels find the firing images
    needs_firing: bool = False  # in it, what the labels' shares are on the firing images, and no view of all images
    needs_correlation: bool = False  # the neurons' correlation with each label's presence over the whole dataset
    is_sum: bool = False  # its label is a weighted sum of several texts
    over_run: bool = False  # with `prior="neurons"` a label depends on the other neurons of the run
    ignores_images: bool = False
    control: bool = False

    @property
    def takes_crops(self) -> bool:
        """Whether regions can stand in for activating images: it looks at these, and at no other firing ones."""
        return not (self.needs_response or self.needs_correlation or self.ignores_images)

    @property
    def knobs(self) -> tuple[str, ...]:
        """What the explorer's panel lets a reader move, besides the number of examples."""
        contrast = ("contrast",) if self.needs_contrast and self.contrast is None else ()
        own = (*(name for name in self.options if name == "gamma"), *contrast, *("threshold",) * self.needs_contrast)
        return (*own, *(CROP,) * self.takes_crops)


METHODS: Final[dict[str, MethodInfo]] = {
    "csp": MethodInfo(
        "activating images projected off their contrastive partners",
        "arXiv 2604.22477",
        ("gamma",),
        needs_contrast=True,
    ),
    "csp-difference": MethodInfo(
        "mean of the activating images minus mean of the contrastive images",
        "the two-mean form of arXiv 2604.22477",
        needs_contrast=True,
    ),
    "semanticlens": MethodInfo("mean of the activating images", "arXiv 2501.05398", ("subtract_empty",)),
    "mean-centred": MethodInfo(
        "weighted mean of the activating images minus the dataset's mean, a cheap baseline", needs_mean=True
    ),
    "clip-dissect": MethodInfo(
        "softWPMI over the 100 most activating images",
        "arXiv 2204.10965",
        ("prior", "prior_weight"),
        examples=100,
        over_run=True,
    ),
    "clip-dissect-mean": MethodInfo(
        "activation-weighted mean of softmax(P/10) against the dataset's share",
        "the code of arXiv 2604.22477",
        ("prior_weight",),
    ),
    "wpmi": MethodInfo(
        "weighted pointwise mutual information over the 28 most activating images",
        "arXiv 2204.10965",
        ("prior", "prior_weight"),
        examples=28,
        over_run=True,
    ),
    "rank-reorder": MethodInfo(
        "how well a label's similarity puts the top images in order", "arXiv 2204.10965", examples=100
    ),
    "pmi": MethodInfo(
        "softWPMI at the encoder's own logit scale, its prior over the dataset",
        "arXiv 2204.10965, at another scale",
        ("logit_scale",),
    ),
    "contrastive-pmi": MethodInfo(
        "pmi with half its prior over the contrastive images",
        "this project",
        ("logit_scale", "alpha"),
        needs_contrast=True,
        neighbours=5,
    ),
    "consensus": MethodInfo(
        "product of four scores that err in different ways: contrast, a linear model, agreement, precision",
        "this project",
        ("logit_scale",),
        needs_contrast=True,
        needs_response=True,
        needs_leaders=True,
        neighbours=50,
    ),
    "firing-contrast": MethodInfo(
        "all images on which a neuron fires, against those that look alike and leave it silent",
        "this project",
        ("logit_scale",),
        needs_contrast=True,
        needs_response=True,
        needs_leaders=True,
        needs_firing=True,
        neighbours=50,
    ),
    "linear": MethodInfo(
        "weighted sum of the presence of up to ten texts that predicts the activation",
        "arXiv 2405.06855, without known concepts",
        needs_correlation=True,
        is_sum=True,
    ),
    "linear-1": MethodInfo(
        "the text whose presence correlates best with the activation over all images",
        "arXiv 2405.06855, without known concepts",
        needs_correlation=True,
    ),
    "random-contrast": MethodInfo(
        "control: csp with random silent images as partners",
        options=("gamma",),
        needs_contrast=True,
        contrast="random",
        control=True,
    ),
    "random-label": MethodInfo("control: a random label, the floor", ignores_images=True, control=True),
}


def default_method(logit_scale: float | None) -> str:
    """Return the method that labels where none is named: the recommended one if its needs are met."""
    return WITHOUT_SCALE if logit_scale is None else RECOMMENDED


def method_names() -> list[str]:
    """Return the names of all methods: those of the table, then those that installed packages offer."""
    return [*METHODS, *(name for name in offered(METHOD_GROUP) if name not in METHODS)]


def check_method(name: str) -> str:
    """Return the name of a method; LabelError lists those there are. Loads no package."""
    if not isinstance(name, str) or (name not in METHODS and name not in offered(METHOD_GROUP)):
        raise LabelError(f"method {name!r} is unknown (has: {', '.join(method_names())})")
    return name


def controls() -> list[str]:
    """Return the methods whose labels nobody is shown unless they ask for them by name."""
    return [name for name, info in METHODS.items() if info.control]


def methods_with(option: str) -> tuple[str, ...]:
    """Return the methods whose scores an option changes.

    >>> methods_with("gamma")
    ('csp', 'random-contrast')
    """
    return tuple(name for name, info in METHODS.items() if option in info.options)


def defaults_of(field: str, methods: Iterable[str] = METHODS) -> str:
    """Return an option's default for help texts: the common value, then the methods that differ.

    >>> defaults_of("neighbours")
    '1; contrastive-pmi 5, consensus 50, firing-contrast 50'
    """
    values = {name: getattr(METHODS[name], field) for name in methods}
    common = max(set(values.values()), key=list(values.values()).count)
    others = [f"{name} {value}" for name, value in values.items() if value != common]
    return f"{common}; {', '.join(others)}" if others else str(common)
