"""What the models of a pass give for one batch, without the images on which one of them fails.

One bad image must not stop the others: an image on which a model or its preprocessing raises an error, or gives values
that are not finite, becomes a failure by its name. A model that fails on every image of the first batch is broken, and
ends the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from csp_index.errors import CspIndexError, ModelError
from csp_index.images.decode import ImageFailure
from csp_index.indexing.model_columns import Maps, Part, PartOutput, Values


@dataclass(frozen=True, slots=True)
class Outputs:
    """The rows of a batch that all models could take, the values [n, W] and maps of these by column, and the failures.

    The rows of the maps count the images that all models could take.
    """

    rows: list[int]
    values: Values
    failures: list[ImageFailure]
    maps: Maps = field(default_factory=dict)


def check_preprocessing(images: int, failures: Sequence[ImageFailure], *, proven: bool) -> None:
    """Refuse a model whose preprocessing fails on every image: none of a batch is usable, and none was before.

    Raises ModelError.
    """
    failing = [failure for failure in failures if failure.by_model]
    if failing and not images and not proven:
        raise ModelError(f"{failing[0].reason}, on all images tried, first {failing[0].uri}; check the model")


def outputs_of(parts: Sequence[Part], uris: Sequence[str], pixels: Sequence[torch.Tensor], *, proven: bool) -> Outputs:
    """Return what the parts give for a batch, whose images have the names `uris`.

    `proven` says that the models took an image before. Raises ModelError where they take no image of the batch, and
    took none before.
    """
    if not uris:
        return Outputs([], {}, [])
    computed: list[PartOutput | None] = []
    reasons: dict[int, str] = {}
    for part, batch in zip(parts, pixels, strict=True):
        try:
            output = part.compute(batch)
        except ModelError:
            computed.append(None)
            alone = _failing_alone(part, batch)
            if not alone or (len(alone) == len(uris) and not proven):
                raise
            reasons |= {row: reason for row, reason in alone.items() if row not in reasons}
            continue
        computed.append(output)
        for what, bad in _not_finite(output.values).items():
            if len(bad) == len(uris) and not proven:
                raise ModelError(f"{what} gave values that are not finite, first near {uris[0]}: check the model")
            for row in bad:
                reasons.setdefault(row, f"{what} gave values that are not finite")
    kept = [row for row in range(len(uris)) if row not in reasons]
    failures = [ImageFailure(uris[row], reason, by_model=True) for row, reason in sorted(reasons.items())]
    if not kept:
        return Outputs([], {}, failures)
    values, maps = Values(), Maps()
    for part, batch, whole in zip(parts, pixels, computed, strict=True):
        if whole is None:
            own = part.compute(batch[torch.tensor(kept, device=batch.device)])
        else:
            own = whole if len(kept) == len(uris) else whole.of(kept)
        part.learn(own.values)
        values |= own.values
        maps |= own.maps
    return Outputs(kept, values, failures, maps)


def _not_finite(results: Values) -> dict[str, list[int]]:
    """Return the rows with values that are not finite, by column; columns without such rows are left out."""
    rows = {what: (~torch.isfinite(out)).flatten(1).any(1).nonzero().flatten() for what, out in results.items()}
    return {what: some.tolist() for what, some in rows.items() if len(some)}


def _failing_alone(part: Part, batch: torch.Tensor) -> dict[int, str]:
    """Return why a part fails on single images of a batch, by their rows."""
    reasons = {}
    for row in range(len(batch)):
        try:
            wrong = _not_finite(part.compute(batch[row : row + 1]).values)
        except CspIndexError as exc:
            reasons[row] = str(exc)
        else:
            reasons |= {row: f"{min(wrong)} gave values that are not finite"} if wrong else {}
    return reasons
