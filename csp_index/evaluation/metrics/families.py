"""The families of metrics: what each asks of a label, and how to read the answer. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Family = Literal[
    "simulation",
    "detection",
    "generation",
    "agreement",
    "contrast",
    "specificity",
    "collision",
    "robustness",
    "structure",
    "separability",
    "intervention",
    "pairs",
]


@dataclass(frozen=True, slots=True)
class FamilyInfo:
    """A family of metrics: its title, and what it asks of a label and how to read the answer."""

    title: str
    question: str


#: In the order of a report's sections.
FAMILIES: Final[dict[Family, FamilyInfo]] = {
    "agreement": FamilyInfo(
        "Agreement with the truth",
        "Is the label what the neuron is known to stand for? The answer comes from a file of true labels, so it is as "
        "good as that file and covers no other neurons.",
    ),
    "simulation": FamilyInfo(
        "Simulation",
        "How well does the label predict the neuron's activation on each held-out image? The judging encoder says how "
        "well an image fits the label; a faithful label's fit rises and falls with the activation.",
    ),
    "detection": FamilyInfo(
        "Detection",
        "Does the neuron separate images that show the label's concept from those that do not? A label that is too "
        "broad misses on one side, one that is too narrow on the other.",
    ),
    "contrast": FamilyInfo(
        "Contrast",
        "Does the label separate the neuron's activating images from look-alikes that leave it silent? A label that "
        "names only the shared surroundings stays near one half.",
    ),
    "generation": FamilyInfo(
        "Generated images (CoSy)",
        "Does the neuron fire on images made from the label alone? These metrics cannot punish a label that is more "
        "specific than the neuron, so they are always shown together with metrics that do.",
    ),
    "specificity": FamilyInfo(
        "Specificity",
        "How specific is the label: how many images and neurons does it also fit, and how far ahead of its rivals is "
        "it? These metrics separate vague labels from pointed ones, not right from wrong.",
    ),
    "collision": FamilyInfo(
        "Labels that neurons share",
        "Does the label tell its neuron from the others of the layer? A label that many neurons carry explains none of "
        "them alone, and no metric of a single neuron sees it. These metrics depend on the neurons evaluated together; "
        "shared and bits favor any label that nobody else has, right or wrong.",
    ),
    "robustness": FamilyInfo(
        "Robustness",
        "Does the label stay when the images that chose it are drawn again or disturbed? A label that changes with the "
        "sample says more about the sample than about the neuron.",
    ),
    "structure": FamilyInfo(
        "Structure of the labels",
        "Do neurons that behave alike get similar labels? Only labels of neurons with a near-identical twin are "
        "evaluated here.",
    ),
    "separability": FamilyInfo(
        "Separability of the neurons",
        "Do a neuron's images have something in common that the judging encoder sees? No label enters. A neuron near "
        "one half is hard to label by any method; where a neuron is far above and its label fits badly, the label is "
        "at fault.",
    ),
    "intervention": FamilyInfo(
        "Images that differ in one thing",
        "Does the neuron rise from an image without what its label says to one that has it and is otherwise the same, "
        "and do neurons called otherwise not? Only labels in which some pair of images differs are evaluated here.",
    ),
    "pairs": FamilyInfo(
        "The contrast that labels rest on",
        "Do the pairs of activating and contrastive images that chose the labels look alike, and does the activation "
        "fall from one to the other? A label that rests on a poor contrast says less about what the neuron responds "
        "to.",
    ),
}
