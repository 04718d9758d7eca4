"""The one table of metrics: what each measures, which way is better, its range, and what it needs.

The report, the command line and the manual read it, in its order. A new metric is a row here plus the function that
computes its values. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from csp_index.evaluation.metrics.families import Family

#: An option of an evaluation without which some metrics are left out.
Need = Literal["truth", "concepts", "hierarchy", "generator", "resamples", "perturb", "pairs"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: what it measures, which way is better, the range of its values, and the options it needs.

    Where neither way is better, `higher_is_better` is None, and values near 0 are best. `undefined` says why a neuron
    has no value, where neither its label nor its activation explains it.
    """

    name: str
    family: Family
    summary: str
    higher_is_better: bool | None = True
    low: float | None = None
    high: float | None = None
    needs: tuple[Need, ...] = ()
    undefined: str = "undefined on these images"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What an evaluation leaves out without an option, and the reason that it gives."""

    part: str
    reason: str


#: What is left out without each option, in the order in which an evaluation lists it.
NEEDS: Final[dict[Need, LeftOut]] = {
    "truth": LeftOut("agreement", "no truth is given (--truth labels.csv, or class names of output neurons)"),
    "concepts": LeftOut(
        "detection by metadata", "no metadata columns are named (--concepts): calibrated text probabilities"
    ),
    "hierarchy": LeftOut("hierarchy", "no hierarchy is given (--hierarchy)"),
    "generator": LeftOut("generation", "no image generator is given (--generator)"),
    "resamples": LeftOut("resampled images", "no relabeling is requested (--resamples)"),
    "pairs": LeftOut("intervention", "no pairs of images are given (--pairs)"),
    "perturb": LeftOut("perturbed images", "not requested (--perturb)"),
}

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "last")
_NO_SIDES = "no activating or no silent image on one side of the split"
_FEW_IMAGES = "fewer than two activating judging images"
_NO_PARTNER = "no activating image has a partner"
_NO_TWIN = "no other labeled neuron fires alike"
_NO_IMAGE_SEEN = "the method looks at no image"
_share, _correlation = partial(Metric, low=0.0, high=1.0), partial(Metric, low=-1.0, high=1.0)
_ROWS = (
    _correlation("pearson", "detection", "correlation of activation and concept presence"),
    _correlation("spearman", "detection", "rank correlation of activation and concept presence"),
    _correlation("cosine", "detection", "cosine of activations and concept presence"),
    _share("auroc", "detection", "chance that an image with the concept activates more than one without"),
    _share("auprc", "detection", "average precision of finding the concept by activation"),
    _share("f1", "detection", "harmonic mean of precision and recall of the top-activating images"),
    _share("iou", "detection", "overlap of the top-activating images with those that show the concept"),
    _share("precision", "detection", "share of top-activating images that show the concept"),
    _share("recall", "detection", "share of images with the concept that are top-activating"),
    _share("balanced-accuracy", "detection", "mean recall of images with and without the concept"),
    Metric("wpmi", "detection", "how much likelier the concept is on top-activating images (log)"),
    _correlation("simulation", "simulation", "correlation of activation and the image's cosine with the label"),
    _correlation("simulation-calibrated", "simulation", "the same with a sigmoid fitted on the labels' split"),
    _share(
        "cosy-auc",
        "generation",
        "chance that a generated image activates more than a control image",
        needs=("generator",),
    ),
    Metric(
        "cosy-mad",
        "generation",
        "mean activation on generated over control images, in deviations of the latter",
        needs=("generator",),
    ),
    Metric("dma", "generation", "mean activation on generated images, as a share of the maximum", needs=("generator",)),
    _share(
        "discriminative",
        "contrast",
        "how well the label separates activating from contrastive images (AUROC)",
        undefined="no activating or no contrastive judging image",
    ),
    _share("agreement-exact", "agreement", "the label is an accepted text", needs=("truth",)),
    _share("agreement-top5", "agreement", "an accepted text is among the five best labels", needs=("truth",)),
    _share("agreement-set", "agreement", "an accepted text is in the prediction set", needs=("truth",)),
    Metric(
        "agreement-rank",
        "agreement",
        "rank of the accepted text among all candidates",
        higher_is_better=False,
        low=1.0,
        needs=("truth",),
    ),
    _share("agreement-reciprocal-rank", "agreement", "1 / rank of the accepted text", needs=("truth",)),
    _correlation(
        "agreement-text", "agreement", "cosine of label and accepted text in the text encoder", needs=("truth",)
    ),
    _share(
        "agreement-overlap",
        "agreement",
        "overlap (IoU) of the images that label and truth are true of",
        needs=("truth", "concepts"),
    ),
    Metric(
        "agreement-level",
        "agreement",
        "log2 of the label's images over the truth's: negative if the label is narrower",
        higher_is_better=None,
        needs=("truth", "concepts"),
    ),
    _share(
        "agreement-same",
        "agreement",
        "the label is of the truth's own level, and overlaps it",
        needs=("truth", "concepts"),
    ),
    _share(
        "agreement-narrower",
        "agreement",
        "the label is narrower than the truth, and overlaps it",
        higher_is_better=False,
        needs=("truth", "concepts"),
    ),
    _share(
        "agreement-broader",
        "agreement",
        "the label is broader than the truth, and overlaps it",
        higher_is_better=False,
        needs=("truth", "concepts"),
    ),
    _correlation("clarity", "structure", "mean cosine between the neuron's activating images", undefined=_FEW_IMAGES),
    Metric(
        "polysemanticity",
        "structure",
        "1 - cosine of the two halves of the activating images",
        higher_is_better=False,
        low=0.0,
        high=2.0,
        undefined=_FEW_IMAGES,
    ),
    _correlation(
        "redundancy",
        "structure",
        "cosine with the most similar other neuron of those evaluated",
        higher_is_better=False,
        undefined="no activating judging image, or no other neuron with one",
    ),
    _share("consistency", "structure", "share of near-identical neurons with the equal label", undefined=_NO_TWIN),
    _correlation(
        "consistency-text", "structure", "mean cosine with the labels of near-identical neurons", undefined=_NO_TWIN
    ),
    _share(
        "separability",
        "separability",
        "chance that a held-out activating image is nearer to the activating images, and less near to the silent ones, "
        "than a held-out silent image",
        undefined=_NO_SIDES,
    ),
    *(
        _share(
            f"separability-{number}",
            "separability",
            f"the same for the {ordinal} tenth of the activating images, weakest activations first",
            undefined="fewer than ten activating judging images, or no silent one",
        )
        for number, ordinal in enumerate(_ORDINALS, start=1)
    ),
    _correlation(
        "monosemanticity",
        "separability",
        "mean cosine of two images by the judging encoder, weighted by the neuron's activations on both",
        undefined="fewer than two judging images above its lowest activation",
    ),
    _share("label-images", "specificity", "share of held-out images the label fits", higher_is_better=False),
    Metric("label-neurons", "specificity", "neurons evaluated that carry the label", higher_is_better=False, low=1.0),
    _share(
        "label-discrimination",
        "collision",
        "chance that the label fits an activating image of its neuron better than one of another neuron with the same "
        "label, or else with the nearest one",
        undefined="it has no activating judging image, or no other neuron evaluated has one and a label",
    ),
    _share("label-shared", "collision", "another neuron evaluated carries the label", higher_is_better=False),
    _share(
        "label-bits",
        "collision",
        "information in the label about which neuron it is, as a share of what would single it out",
        undefined="no other neuron evaluated has a label",
    ),
    Metric(
        "lead",
        "specificity",
        "best score less the runner-up's, in standard deviations",
        low=0.0,
        undefined="fewer than two candidates, or all score alike",
    ),
    Metric(
        "relatives-lead",
        "specificity",
        "simulation less that of the best broader or narrower word",
        low=-2.0,
        high=2.0,
        needs=("hierarchy",),
        undefined="the label has no broader or narrower word in the hierarchy",
    ),
    Metric(
        "depth",
        "specificity",
        "steps from the hierarchy's root, which is 1",
        low=1.0,
        needs=("hierarchy",),
        undefined="the label is not in the hierarchy",
    ),
    _share(
        "hierarchy-similarity", "agreement", "Wu-Palmer similarity of label and truth", needs=("truth", "hierarchy")
    ),
    _share(
        "confidence",
        "robustness",
        "share of resamples of the activating images in which the label stays first",
        undefined="resampling changes nothing: the neuron has one image, or the method looks at none",
    ),
    Metric(
        "prediction-set",
        "robustness",
        "labels in the smallest set of which one stays first in 90 % of the resamples",
        higher_is_better=False,
        low=1.0,
        undefined="resampling changes nothing: the neuron has one image, or the method looks at none",
    ),
    _share(
        "stable-resample",
        "robustness",
        "share of random halves of the choosing images that give the same label",
        needs=("resamples",),
        undefined=_NO_IMAGE_SEEN,
    ),
    _share(
        "stable-seed",
        "robustness",
        "share of other splits that give the same label",
        needs=("resamples",),
        undefined=_NO_IMAGE_SEEN,
    ),
    *(
        _share(
            f"stable-{kind}",
            "robustness",
            f"the label stays when all examples {change}",
            needs=("perturb",),
            undefined=_NO_IMAGE_SEEN,
        )
        for kind, change in (
            ("noise", "carry noise"),
            ("blur", "are blurred"),
            ("jpeg", "are compressed"),
            ("dark", "are darker"),
        )
    ),
    _share(
        "sensitivity",
        "robustness",
        "share of slightly noisy, blurred, compressed and darker copies of the activating images that fire the neuron",
        needs=("perturb",),
        undefined="no activating judging image",
    ),
    Metric(
        "pair-gain",
        "intervention",
        "share of the pairs of images that differ in the label in which the neuron rises, less the share of neurons "
        "called otherwise that do",
        low=-1.0,
        high=1.0,
        needs=("pairs",),
        undefined="no pair of images differs in the label",
    ),
    _share(
        "pair-right",
        "intervention",
        "share of the pairs of images that differ in the label in which the neuron rises",
        needs=("pairs",),
        undefined="no pair of images differs in the label",
    ),
    _share("contrast-partnered", "pairs", "share of the activating images that have a partner", undefined=_NO_PARTNER),
    _correlation(
        "contrast-similarity", "pairs", "mean cosine of the pairs, by the encoder that labels", undefined=_NO_PARTNER
    ),
    _share("contrast-near", "pairs", "share of the pairs that reach the similarity floor", undefined=_NO_PARTNER),
    Metric(
        "contrast-drop", "pairs", "share of the activation that is lost from image to partner", undefined=_NO_PARTNER
    ),
    Metric(
        "contrast-duplicates",
        "pairs",
        "partners dropped as the same picture",
        higher_is_better=False,
        low=0.0,
        undefined=_NO_PARTNER,
    ),
    _share(
        "contrast-poor",
        "pairs",
        "the contrast is poor: few partners, little similarity or a small drop",
        higher_is_better=False,
        undefined=_NO_PARTNER,
    ),
)

#: Every metric by name, in the order of a report.
METRICS: Final[dict[str, Metric]] = {metric.name: metric for metric in _ROWS}

#: The metrics that are shown first, and that speak for their family.
HEADLINES: Final = (
    "agreement-exact",
    "agreement-overlap",
    "agreement-level",
    "simulation",
    "auprc",
    "f1",
    "discriminative",
    "stable-resample",
    "cosy-auc",
)

#: The metrics of the neurons themselves that are shown first: no label enters.
NEURON_HEADLINES: Final = (
    "separability",
    "separability-10",
    "separability-1",
    "monosemanticity",
    "clarity",
    "sensitivity",
)


def family_of(metric: str) -> str:
    """Return the family of a metric by name, "" for one from elsewhere."""
    return METRICS[metric].family if metric in METRICS else ""


def named(family: Family) -> tuple[str, ...]:
    """Return the names of a family's metrics, in the order of the table.

    >>> named("simulation")
    ('simulation', 'simulation-calibrated')
    """
    return tuple(name for name, metric in METRICS.items() if metric.family == family)
