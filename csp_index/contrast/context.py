"""What an answer about neurons is computed with: the device, search or products, and how missing images are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.records import DerivedKind, ExampleOptions


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Whether to search, whether that is approximate, and why."""

    search: bool
    reason: str
    listed: bool = False  # every activating image has a kept list of neighbours: there is little to compute
    through: str = ""  # the vector index, if that is searched, and how: what else an approximate answer hangs on

    @property
    def approximate(self) -> bool:
        """Whether the nearest may be missed."""
        return bool(self.through)


@dataclass(frozen=True, slots=True)
class DerivedRequest:
    """Images that are to be made: from activating images [M, K] (-1 absent) of the selected neurons.

    An image made for a neuron is a contrastive one if its activation stays below the neuron's threshold [M].
    """

    selection: Selection
    activating: torch.Tensor
    activations: torch.Tensor  # [M, K]
    thresholds: torch.Tensor
    images: int  # N, the indexed images that all this rests on
    options: ExampleOptions
    keep: bool  # the write lock is held, and what is made may be stored
    run_id: str = ""

    def check(self, kind: DerivedKind, made: str, lacking: str) -> None:
        """Refuse, before a model is loaded, what cannot be made: without models, or where nothing may be stored.

        `made` says what images are run, `lacking` which are missing.
        """
        for what, name, library in (
            ("layer", str(self.selection.target.key), self.selection.target.network),
            ("encoder", self.selection.source.name, self.selection.source.identity.get("library")),
        ):
            if library == "arrays":
                raise LabelError(
                    f"contrast {kind} runs {made} images through network and encoder, but {what} {name} came as "
                    "arrays: choose nearest, falcon or random, or index the images with their models"
                )
        if not self.keep:
            raise LabelError(
                f"contrast {kind} lacks {lacking}, and this question may not store any: "
                f"label these neurons with --contrast {kind} first, and with the same options"
            )


# Makes and stores those of the images wanted that are not stored yet; returns the settings hash they are stored under.
Derive = Callable[[DerivedRequest], str]


@dataclass(frozen=True, slots=True)
class ComputeContext:
    """By what means an answer is computed, and who is told why.

    `search` None leaves that to the measured cost; `plan` is what was decided, once it is.
    `derive` makes contrastive images of the kinds that are made; `depends` tells what these hang on beside the options.
    """

    device: str = "cpu"
    search: bool | None = None
    explain: Callable[[str], None] | None = None
    plan: SearchPlan | None = None
    keep: bool = False  # keep what later questions can use; the write lock is held
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)
    depends: Callable[[ExampleOptions], Mapping[str, object]] | None = None
    run_id: str = ""  # of the run under way

    def tell(self, message: str) -> None:
        """Tell whoever asked for an explanation."""
        if self.explain is not None:
            self.explain(message)
