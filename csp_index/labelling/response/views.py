"""What scores see of the neurons' response to the whole dataset: values, each [M, C]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from csp_index.tensors.library import functional, torch

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Saturation:
    """The response y = min(max(a, 0) / h, 1) of M neurons, h [M] half the mean activation of the activating images.

    It counts that a neuron fires, not how strongly.
    """

    half: torch.Tensor

    @classmethod
    def of(cls, activations: torch.Tensor) -> Saturation:
        """Return the response that the activations [M, K] of activating images define (0 where absent)."""
        count = (activations > 0).sum(1)
        return cls(0.5 * activations.clamp(min=0).sum(1) / count.clamp(min=1))

    def of_neurons(self, pick: slice) -> Saturation:
        """Return the response of some neurons."""
        return Saturation(self.half[pick])

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        """Return y [M, n] for activations [M, n]; 0 for a neuron that never fires."""
        half = self.half[:, None]
        return (activations / half.clamp(min=_TINY)).clamp(0, 1).masked_fill(half <= 0, 0.0)

    def fires(self, activations: torch.Tensor) -> torch.Tensor:
        """Return where y is 1 for activations [M, n]."""
        return (activations >= self.half[:, None].clamp(min=_TINY)) & (self.half > 0)[:, None]


@dataclass(frozen=True, slots=True)
class Firing:
    """What the labels' shares P are on the firing images, those with y = 1: means weighted by activation, each [M, C].

    `log` is that of log P, `root` that of sqrt(P), `share` that of P; zeros for a neuron that never fires.
    """

    log: torch.Tensor
    root: torch.Tensor
    share: torch.Tensor

    def of_leaders(self, places: torch.Tensor) -> LeaderFiring:
        """Return the columns `places` [M, L] of each neuron."""
        log, root, share = (part.gather(1, places) for part in (self.log, self.root, self.share))
        return LeaderFiring(places, log, root, share)


@dataclass(frozen=True, slots=True)
class LeaderFiring:
    """The parts of `Firing` for the L leading candidates of each neuron alone: their `places` and values, [M, L]."""

    places: torch.Tensor
    log: torch.Tensor
    root: torch.Tensor
    share: torch.Tensor

    def of_neurons(self, pick: slice | torch.Tensor) -> LeaderFiring:
        """Return the rows of some neurons."""
        return LeaderFiring(self.places[pick], self.log[pick], self.root[pick], self.share[pick])

    def of_candidates(self, selected: torch.Tensor) -> Firing:
        """Return the columns of the candidates `selected` [S], ascending: zeros where one is no leader of a neuron."""
        spot = torch.searchsorted(selected, self.places).clamp(max=len(selected) - 1)
        present = selected[spot] == self.places
        log, root, share = (
            torch.zeros(len(self.places), len(selected)).scatter_add_(1, spot, part.masked_fill(~present, 0.0))
            for part in (self.log, self.root, self.share)
        )
        return Firing(log, root, share)


@dataclass(frozen=True, slots=True)
class Silent:
    """The means of P and of sqrt(P) over a neuron's contrastive images, each [M, C]; `root` None: not needed."""

    share: torch.Tensor
    root: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """The response of M neurons to the whole dataset, for C candidate labels; zeros for a neuron that never fires.

    `linear` [M, C]: dot product of a text, minus the mean text, with the unit vector of a ridge regression of the
    response on the image embeddings. `agreement` [M, C] in [-1, 1]: correlation over the images of the response and
    sqrt(P). `precision` [M, C] in [0, 1], after the second pass: average precision of the response over the images in
    the order of (e(x) - mean).f_t, f_t = (Cov(e) + ridge I)^-1 (T(t) - mean T); 0 for labels that were not among the
    leaders. A method needs either `linear` and `agreement` or `firing`. `silent` comes with either, from the same look
    at the images. `leading` [M, C] are the scores that chose the leaders; with them, `leaders` stands for `firing`.
    """

    linear: torch.Tensor | None = None
    agreement: torch.Tensor | None = None
    precision: torch.Tensor | None = None
    firing: Firing | None = None
    silent: Silent | None = None
    leading: torch.Tensor | None = None
    leaders: LeaderFiring | None = None

    @classmethod
    def joined(cls, parts: Sequence[Response]) -> Response:
        """Return the responses of several groups of neurons as one; none has leaders yet."""

        def join(values: list[torch.Tensor | None]) -> torch.Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if present else None

        linear, agreement = join([part.linear for part in parts]), join([part.agreement for part in parts])
        firing, silent = [p.firing for p in parts if p.firing], [p.silent for p in parts if p.silent]
        return cls(
            linear,
            agreement,
            firing=Firing(*(torch.cat([getattr(f, name) for f in firing]) for name in ("log", "root", "share")))
            if firing
            else None,
            silent=Silent(torch.cat([s.share for s in silent]), join([s.root for s in silent])) if silent else None,
        )

    @property
    def nbytes(self) -> int:
        """How much memory the tensors take."""
        s = self.silent
        parts = [self.linear, self.agreement, self.precision, self.leading]
        for f in (self.firing, self.leaders):
            parts += [] if f is None else [f.log, f.root, f.share]
        parts += [] if s is None else [s.share, s.root]
        return sum(part.nbytes for part in parts if part is not None)

    def of_neurons(self, pick: slice | torch.Tensor) -> Response:
        """Return the rows of some neurons."""
        rows = self._map(lambda part: part[pick])
        return rows if self.leaders is None else replace(rows, leaders=self.leaders.of_neurons(pick))

    def of_candidates(self, selected: torch.Tensor, more: int = 0) -> Response:
        """Return the columns of these candidates, in ascending order, and `more` columns of zeros."""
        columns = self._map(lambda part: functional.pad(part[:, selected], (0, more)))
        return columns if self.leaders is None else replace(columns, firing=self.leaders.of_candidates(selected))

    def repeated(self, times: int) -> Response:
        """Return every neuron's row `times` times, one after another, for other example sets.

        What depends on a neuron's own sets is left out.
        """
        return replace(self, leading=None, silent=None)._map(lambda part: part.repeat_interleave(times, 0))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Response:
        parts = self.linear, self.agreement, self.precision, self.leading
        linear, agreement, precision, leading = (None if part is None else change(part) for part in parts)
        f, s = self.firing, self.silent
        firing = None if f is None else Firing(change(f.log), change(f.root), change(f.share))
        silent = None if s is None else Silent(change(s.share), None if s.root is None else change(s.root))
        return Response(linear, agreement, precision, firing, silent, leading)
