"""The one table of contrast kinds: how the contrastive images of a neuron are chosen or made. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csp_index.records import ContrastKind


@dataclass(frozen=True, slots=True)
class ContrastInfo:
    """What a kind of contrastive images is; `options` are the fields of `ExampleOptions` that only this kind reads."""

    summary: str  # one sentence without a period
    source: str = ""  # where it comes from
    options: tuple[str, ...] = ()
    made: bool = False  # by a model, and stored as derived images; the others are images of the index
    control: bool = False

    @property
    def live(self) -> bool:
        """Whether the explorer's panel offers it: made images take a model that the service does not run."""
        return not self.made


CONTRAST_KINDS: Final[dict[ContrastKind, ContrastInfo]] = {
    "nearest": ContrastInfo(
        "of the images with low activation, the one nearest to each activating image by embedding", "arXiv 2604.22477"
    ),
    "falcon": ContrastInfo(
        "images silent for the neuron, ranked by similarity to the mean activating image in the network's own features",
        "arXiv 2307.10504",
    ),
    "perturbation": ContrastInfo(
        "edited copies of each activating image whose region of interest is hidden, kept where the activation falls",
        "this project",
        made=True,
    ),
    "synthetic": ContrastInfo(
        "variants of each activating image that an image generator makes, kept where the activation falls",
        "this project",
        ("generator", "variants", "generator_seed", "caption_column", "variant_prompt"),
        made=True,
    ),
    "random": ContrastInfo(
        "control: random images with low activation, which shows what nearness buys", options=("seed",), control=True
    ),
}
