"""A split of the images: labels are chosen on one part and evaluated on the other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from csp_index.errors import EvaluationError
from csp_index.ordering import seeded_sample
from csp_index.store import catalog, schema
from csp_index.store.tables import Store

_THINNED = 1 << 41  # makes thinning differ from the draw of splits with the same seed
_FEWEST = 10  # held-out images, below which no metric is meaningful


@dataclass(frozen=True, slots=True)
class Split:
    """Which images choose labels and which judge them: two disjoint masks [N], and their origin.

    `key` is a hash of both sets: equal keys mean equal images.
    """

    choosing: torch.Tensor
    judging: torch.Tensor
    origin: str
    seed: int

    @property
    def key(self) -> str:
        """A hash of the two sets of images."""
        sides = torch.stack([self.choosing, self.judging]).numpy()
        return hashlib.sha256(np.packbits(sides).tobytes() + str(sides.shape[1]).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, object]:
        """Return what a report shows of the split."""
        counts = {"choosing": int(self.choosing.sum()), "judging": int(self.judging.sum())}
        return {"key": self.key, "origin": self.origin, "seed": self.seed, **counts}


def draw_split(images: int, *, held_out: float = 0.5, seed: int = 0) -> Split:
    """Hold out a share of images 0 .. N - 1, chosen by a seeded hash of their ids.

    >>> split = draw_split(100, held_out=0.3)
    >>> int(split.choosing.sum()), int(split.judging.sum())
    (70, 30)
    """
    if not 0.0 < held_out < 1.0:
        raise EvaluationError(f"the held-out share is {held_out}: expected a number between 0 and 1, for example 0.5")
    count = round(images * held_out)
    judging = torch.zeros(images, dtype=torch.bool)
    judging[seeded_sample(torch.arange(images), count, seed)] = True
    return _checked(Split(~judging, judging, f"a share of {held_out} held out", seed))


def read_split(store: Store, images: int, choosing: str, judging: str) -> Split:
    """Return the split between two named parts of the images' own `split` column (of the metadata)."""
    if choosing == judging:
        raise EvaluationError(f"labels would be chosen and judged on the same split {choosing!r}: name two splits")
    names = store.read(schema.IMAGES, ["image_id", "split"]).sort_by("image_id")["split"].to_numpy(zero_copy_only=False)
    split_of = names[:images]
    for name in (choosing, judging):
        if name not in split_of:
            known = ", ".join(sorted({str(n) for n in split_of if n}))
            known = known or "none: the images were indexed without a split column"
            raise EvaluationError(f"no image has the split {name!r} (has: {known})")
    masks = [torch.from_numpy((split_of == name).astype(bool)) for name in (choosing, judging)]
    return _checked(Split(masks[0], masks[1], f"the images' own splits {choosing} and {judging}", 0))


def without(split: Split, left_out: torch.Tensor) -> Split:
    """Return the split without the images of a mask [N], which then neither choose nor judge."""
    origin = f"{split.origin}, without {int(left_out.sum()):,} images of pairs"
    return _checked(Split(split.choosing & ~left_out, split.judging & ~left_out, origin, split.seed))


def keep_split(store: Store, split: Split) -> None:
    """Store a split unless it is stored; the caller holds the write lock."""
    if store.count(schema.SPLITS, f"split = {catalog.sql_text(split.key)}"):
        return
    row = {
        "split": split.key,
        "origin": split.origin,
        "seed": split.seed,
        "images": len(split.judging),
        "choosing": split.choosing.nonzero()[:, 0].tolist(),
        "judging": split.judging.nonzero()[:, 0].tolist(),
    }
    store.append(schema.SPLITS, pa.Table.from_pylist([row], schema=schema.table_schema(schema.SPLITS)))


def thinned(mask: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the mask with at most `count` of its images, chosen by a seeded hash of their ids."""
    ids = mask.nonzero()[:, 0]
    if len(ids) <= count:
        return mask
    sample = torch.zeros_like(mask)
    sample[ids[seeded_sample(ids, count, _THINNED + seed)]] = True
    return sample


def _checked(split: Split) -> Split:
    judging, choosing = int(split.judging.sum()), int(split.choosing.sum())
    if judging < _FEWEST:
        raise EvaluationError(
            f"{judging} images are held out for judging: expected at least {_FEWEST}; hold out a larger share, "
            "or index more images"
        )
    if choosing < 1:
        raise EvaluationError("no image is left to choose labels: hold out a smaller share")
    return split
