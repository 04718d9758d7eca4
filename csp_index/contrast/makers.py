"""The contrastive kinds of derived images, and the function that makes each."""

from __future__ import annotations

from functools import partial

from csp_index.contrast.context import Derive
from csp_index.contrast.edited_images import editing, perturb
from csp_index.contrast.generated_variants import generator_of, synthesise
from csp_index.errors import SettingError
from csp_index.models.index_models import Models
from csp_index.records import DerivedKind, ExampleOptions, Progress
from csp_index.store.tables import Store


def makers(store: Store, models: Models, progress: Progress | None = None) -> dict[DerivedKind, Derive]:
    """Return the function that makes the images of each derived kind; models load only if an image is missing."""
    tell = store, models, progress or _unseen
    return {"perturbation": partial(perturb, *tell), "synthetic": partial(synthesise, *tell)}


def dependencies(models: Models, options: ExampleOptions) -> dict[str, object]:
    """Return what a label depends on through derived images, besides the options.

    Raises SettingError if synthetic contrast has no generator, and if a generator has nothing to make.
    """
    if options.generator is not None and "synthetic" not in options.kinds:
        raise SettingError(f"generator {options.generator} is for contrast synthetic: ask for that, too")
    results: dict[str, object] = {}
    if "perturbation" in options.kinds:
        results["perturbation"] = editing()
    if "synthetic" in options.kinds:
        results["generator"] = generator_of(models, options).identity
    return results


def _unseen(done: int, todo: int, what: str) -> None:
    """Ignore progress."""
