"""How an answer about neurons is computed: device, vector search or products, and how missing images are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from csp_index.concurrency import go_on, unseen
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.records import DerivedKind, ExampleOptions, Progress
from csp_index.store.catalog import EncoderInfo

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Whether to search, whether that is approximate, and why."""

    search: bool
    reason: str
    listed: bool = False  # every activating image has a stored list of neighbours: there is little to compute
    through: str = ""  # the vector index, if one is searched, and how: an approximate answer depends on it

    @property
    def approximate(self) -> bool:
        """Whether the search may miss the nearest images."""
        return bool(self.through)


@dataclass(frozen=True, slots=True)
class DerivedRequest:
    """A request for derived images of activating images [M, K] (-1 absent) of the selected neurons.

    An image made for a neuron is contrastive if its activation stays below the neuron's threshold [M].
    """

    selection: Selection
    activating: torch.Tensor
    activations: torch.Tensor  # [M, K]
    thresholds: torch.Tensor
    images: int  # N, the number of indexed images behind thresholds and activating sets
    options: ExampleOptions
    keep: bool  # the caller has the write lock, and new images may be stored
    run_id: str = ""

    def check(self, kind: DerivedKind, made: str, lacking: str) -> None:
        """Raise LabelError, before a model is loaded, if the models are unknown or nothing may be stored.

        `made` describes the images in the message, `lacking` those that are missing.
        """
        target, source = self.selection.target, self.selection.source
        for what, name, info in (("layer", str(target.key), target), ("encoder", source.name, source)):
            if info.is_imported:
                raise LabelError(
                    f"contrast {kind} runs {made} images through network and encoder, but {what} {name} came as "
                    "arrays: choose nearest, falcon or random, or index the images with their models"
                )
        if not self.keep:
            raise LabelError(
                f"contrast {kind} lacks {lacking}, and this question may not store any: "
                f"label these neurons with --contrast {kind} first, and with the same options"
            )


Step = Literal["images of neurons", "all images", "confidence", "stored rows"]
STEPS: tuple[Step, ...] = get_args(Step)
"""The steps of labeling a layer, each of which may take long."""

# Makes and stores the requested images that are not stored yet; returns the settings hash they are stored under.
Derive = Callable[[DerivedRequest], str]


@dataclass(frozen=True, slots=True)
class CropRequest:
    """A request for the embeddings of crops [P, 5] (image id, then left, top, right, bottom in pixels)."""

    source: EncoderInfo
    crops: np.ndarray
    keep: bool  # the caller has the write lock, and embeddings are to be stored
    run_id: str = ""

    def check(self) -> None:
        """Raise LabelError, before a model is loaded, where the encoder is unknown."""
        if self.source.is_imported:
            raise LabelError(
                f"crops are embedded by the index's encoder, but {self.source.name} came as arrays: leave out crop, or "
                "index the images with their encoder"
            )


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedCrops:
    """The embeddings of crops, `vectors` [P, D], NaN for those of images that are `lost`: why, by image id."""

    vectors: np.ndarray
    lost: dict[int, str]


@dataclass(frozen=True, slots=True)
class ComputeContext:
    """The device, search plan and image makers of an answer, and where to report the reasons.

    `search` None leaves that to the measured cost; `plan` is what was decided, once it is.
    `check` is called between steps and tiles, and raises an error to end the work.
    `progress` is told which step of labeling begins.
    `derive` makes the contrastive images of derived kinds; `depends` returns what these depend on besides the options.
    `crops` embeds crops of images; None where nothing can.
    """

    device: str = "cpu"
    search: bool | None = None
    explain: Callable[[str], None] | None = None
    plan: SearchPlan | None = None
    keep: bool = False  # store what later questions can use; the caller has the write lock
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)
    depends: Callable[[ExampleOptions], Mapping[str, object]] | None = None
    crops: Callable[[CropRequest], EmbeddedCrops] | None = None
    run_id: str = ""  # of the run under way
    check: Callable[[], None] = go_on
    progress: Progress = unseen

    def step(self, step: Step | None) -> None:
        """Report the step of labeling that begins, or with None that all are done."""
        done = len(STEPS) if step is None else STEPS.index(step)
        self.progress(done, len(STEPS), "steps of labeling" + (f", now {step}" if step else ""))

    def tell(self, message: str) -> None:
        """Pass a message to `explain`, if set."""
        if self.explain is not None:
            self.explain(message)
