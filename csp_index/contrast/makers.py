"""The contrastive kinds of derived images, and the function that makes each, which loads what it needs when called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from csp_index.concurrency import unseen
from csp_index.contrast.context import CropRequest, Derive, DerivedRequest, EmbeddedCrops
from csp_index.errors import SettingError
from csp_index.records import DerivedKind, ExampleOptions, Progress
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from csp_index.models.index_models import Models

GetModels = Callable[[], "Models"]
"""Returns the models behind an index, which most questions do not need."""


def makers(store: Store, models: GetModels, progress: Progress | None = None) -> dict[DerivedKind, Derive]:
    """Return the function that makes the images of each derived kind; models load only if an image is missing."""
    tell = store, models, progress or unseen
    return {"perturbation": partial(_perturb, *tell), "synthetic": partial(_synthesise, *tell)}


def crop_maker(store: Store, models: GetModels, progress: Progress) -> Callable[[CropRequest], EmbeddedCrops]:
    """Return the function that embeds crops of images; the encoder is loaded if one is missing."""

    def embed(request: CropRequest) -> EmbeddedCrops:
        from csp_index.contrast.crops.embed import embed_crops

        return embed_crops(store, models, progress, request)

    return embed


def _perturb(store: Store, models: GetModels, progress: Progress, request: DerivedRequest) -> str:
    from csp_index.contrast.edited_images import perturb

    return perturb(store, models(), progress, request)


def _synthesise(store: Store, models: GetModels, progress: Progress, request: DerivedRequest) -> str:
    from csp_index.contrast.generated_variants import synthesise

    return synthesise(store, models(), progress, request)


def dependencies(models: GetModels, options: ExampleOptions) -> dict[str, object]:
    """Return what a label depends on through derived images, besides the options.

    Raises SettingError if synthetic contrast has no generator, and if a generator has nothing to make.
    """
    if options.generator is not None and "synthetic" not in options.kinds:
        raise SettingError(f"generator {options.generator} is for contrast synthetic: ask for that, too")
    results: dict[str, object] = {}
    if "perturbation" in options.kinds:
        from csp_index.contrast.edited_images import editing

        results["perturbation"] = editing()
    if "synthetic" in options.kinds:
        from csp_index.contrast.generated_variants import generator_of

        results["generator"] = generator_of(models(), options).identity
    return results
