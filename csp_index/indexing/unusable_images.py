"""Images of the index that a new layer or encoder cannot have: gone, changed, or refused by a model.

Every image of an index has a row in every column, so such a column cannot be finished, and no number may stand for what
is missing. All of these images are collected in one pass, so that the user learns of each of them at once.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from csp_index.errors import CspIndexError, ModelError, SourceError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared

CHANGED: Final = "it changed since it was indexed"
_SHA256 = "sha256"  # of an indexed image, in the metadata of its reference

_log = logging.getLogger(__name__)


def indexed_ref(uri: str, sha256: str | None) -> ImageRef:
    """Return the reference of an indexed image, with the hash that its bytes must have; None: any."""
    return ImageRef(uri, {_SHA256: sha256})


def is_changed(image: Prepared) -> bool:
    """Return whether an image of `indexed_ref` has other bytes than those that were indexed."""
    return image.ref.metadata.get(_SHA256) not in (None, "", image.sha256)


@dataclass(slots=True)
class UnusableImages:
    """The unusable images of a pass over indexed ones, by kind."""

    unreadable: list[ImageFailure] = field(default_factory=list)
    changed: list[ImageFailure] = field(default_factory=list)
    refused: list[ImageFailure] = field(default_factory=list)  # by a model

    def all(self) -> list[ImageFailure]:
        """Return all of them."""
        return [*self.unreadable, *self.changed, *self.refused]

    def add(self, prepared: Sequence[Prepared], failures: Sequence[ImageFailure]) -> None:
        """Add the failures of a shard, and those of its images whose bytes are not those that were indexed.

        The first one of all is a warning: what follows is read only to find the others.
        """
        before = bool(self.all())
        for failure in failures:
            (self.refused if failure.by_model else self.unreadable).append(failure)
        for image in prepared:
            if is_changed(image):
                self.changed.append(ImageFailure(image.ref.uri, CHANGED))
        if self.all() and not before:
            _log.warning(
                "%s; nothing more is stored, the other images are tried only to find all that fail: Ctrl-C ends it",
                _line(self.all()[0]),
            )

    def error(self, columns: Sequence[str], stored: int, shards: int, uri: str) -> CspIndexError:
        """Return the error that ends the pass: `stored` of the shards are complete, and the index is at `uri`."""
        kinds = {"{:,} cannot be read any more": self.unreadable, "{:,} changed since they were indexed": self.changed}
        kinds["a model fails on {:,}"] = self.refused
        counts = [what.format(len(images)) for what, images in kinds.items() if images]
        kind = SourceError if self.unreadable or self.changed else ModelError
        database = shlex.quote(uri)
        restore = "restore them and run the same command again, or " if kind is SourceError else ""
        return kind(
            f"{', '.join(columns)} cannot be finished: of the indexed images {', '.join(counts)}, first "
            f"{_line(self.all()[0])}; {stored} of {shards} shards are stored, and `csp-index sql {database} "
            f"'SELECT * FROM failures'` lists the images: {restore}leave them out by `csp-index copy {database} "
            "NEW.db` and run the same command with NEW.db"
        )


def _line(failure: ImageFailure) -> str:
    return f"{failure.uri}: {failure.reason}"
