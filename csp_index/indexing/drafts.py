"""Whether large JPEGs are reduced while they are decoded: one choice for a whole index, kept in its identity.

A choice that is made once holds for every later pass, because one neuron's activations, and one encoder's embeddings,
must come from images that were read in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from csp_index import settings
from csp_index.errors import CspIndexError, ModelError, SettingError, one_line
from csp_index.images.footprint import side_needed
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.networks import LoadedNetwork
from csp_index.store import catalog
from csp_index.store.catalog import Column
from csp_index.store.tables import Store

_TIMES: Final = 2  # as large as what a preprocessing makes of a picture: the rest is scaled with its own filter
_TIMES_LATER: Final = 1.9  # for models that are added later: what a preprocessing needs is measured, and rounded


def settle_draft(store: Store, models: Sequence[LoadedEncoder | LoadedNetwork], requested: bool | None) -> int | None:
    """Return the least short side, in pixels, that JPEGs are decoded at in this pass; None: they are decoded whole.

    The choice of an index is kept; `requested` None asks for no other. Raises SettingError for another, and for models
    that cannot be used with it.
    """
    made = [info for info in catalog.columns(store) if not info.is_imported]
    if not made:
        return _chosen(models) if requested else None
    draft = catalog.draft(made)
    if requested is not None and requested != (draft is not None):
        how = "whole" if draft is None else f"reduced, to a short side of at least {draft} pixels"
        raise SettingError(
            f"the JPEGs of this index were decoded {how}, and all further ones are: leave out "
            f"{'--draft' if requested else '--no-draft'} (draft={requested}), or make another index"
        )
    if draft is not None:
        for model in models:
            if _TIMES_LATER * (side := _side(model)) > draft:
                raise SettingError(
                    f"{model.spec} needs pictures with a short side of {_TIMES * side} pixels, twice what it makes of "
                    f"them, and this index decodes JPEGs reduced to at least {draft}: make another index for it"
                )
    return draft


def with_draft(infos: Sequence[Column], draft: int | None) -> list[Column]:
    """Return the columns with the choice in their identity, if it is one: nothing stands for whole images."""
    if draft is None:
        return list(infos)
    return [replace(info, identity={**info.identity, catalog.DRAFT: str(draft)}) for info in infos]


def _chosen(models: Sequence[LoadedEncoder | LoadedNetwork]) -> int:
    return max([settings.THUMBNAIL_SIZE.value(), *(_TIMES * _side(model) for model in models)])


def _side(model: LoadedEncoder | LoadedNetwork) -> int:
    try:
        side = side_needed(model.preprocess)
    except CspIndexError:
        raise
    except Exception as exc:  # it is somebody else's code
        message = f"{type(exc).__name__}: {one_line(exc)}"
        raise ModelError(f"the preprocessing of {model.spec} fails on a trial picture: {message}") from exc
    if side is None:
        raise SettingError(
            f"{model.spec} cannot be used with --draft (draft=True): its preprocessing does more than scale, crop and "
            "normalize a picture, or cuts from its full resolution; index it without, in another index"
        )
    return side
