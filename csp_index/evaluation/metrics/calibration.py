"""Probabilities from cosines, and how reliable a stated probability is.

Three tools, all pure tensors. `fit_sigmoid` turns the cosine of image and label into a predicted activation (calibrated
simulation). `TextCalibration` turns the cosines of a text with many images into the probability that each image shows
the text's concept, without any ground truth. `reliability` compares probabilities with what was right. Fit on the
images that choose labels, and apply to the held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch

from csp_index.errors import EvaluationError

_BLOCK: Final = 2**20  # values of a block of rows
_RIDGE: Final = 1e-3  # of a sigmoid's slope: keeps it finite where activating and silent images separate perfectly
_NEWTON_STEPS: Final = 30
_PLACES: Final = 256  # entries of a text's table of probabilities
_WIDTH: Final = 0.15  # of the density's kernel, in standard deviations of a text's cosines
_DEPTH: Final = 0.7  # a valley is lower than this share of the lower one of its two hills
_CLEAR: Final = 2.0  # standard errors between a valley and its lower hill; less is a gap in a thin tail
_LEAST_IMAGES: Final = 8  # beyond a valley; fewer are outliers
_EM_STEPS, _EM_SHARE, _EM_FLOOR = 60, 0.05, 1e-3

# --- from the cosine with a label to an activation ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """Predicted activation of M neurons, as a share of the maximum: sigmoid(slope z + bias), z the standardized cosine.

    All [M] float32. `fitted` is False where there is nothing to fit (a constant row, a neuron that never fires, a
    value that is not finite): the prediction is then 0.5 everywhere.
    """

    slope: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    fitted: torch.Tensor

    def apply(self, similarity: torch.Tensor) -> torch.Tensor:
        """Return predicted activations [M, N] in (0, 1) for the cosines [M, N] of images with each neuron's label."""
        if similarity.ndim != 2 or len(similarity) != len(self.slope):
            raise EvaluationError(f"cosines have shape {tuple(similarity.shape)}: expected [{len(self.slope)}, N]")
        z = (similarity - self.mean[:, None]) / self.deviation[:, None]
        return torch.sigmoid(self.slope[:, None] * z + self.bias[:, None])


def fit_sigmoid(similarity: torch.Tensor, activations: torch.Tensor) -> Sigmoid:
    """Fit each neuron's activation [M, N] from the cosine of image and label [M, N].

    Activations are clamped at 0 and divided by the neuron's maximum on these images, then used as shares in a logistic
    regression on the standardized cosine, solved by Newton's method with a small ridge on the slope. A label that
    correlates negatively with its neuron gets a negative slope; the correlation of prediction and activation on other
    images then shows whether that generalizes.
    """
    if similarity.ndim != 2 or similarity.shape != activations.shape:
        raise EvaluationError(
            f"shapes {tuple(similarity.shape)} and {tuple(activations.shape)} do not match: expected [M, N] twice"
        )
    parts = [_sigmoid_block(similarity[rows], activations[rows]) for rows in _blocks(similarity)]
    columns = list(zip(*parts, strict=True)) if parts else [[torch.zeros(0)]] * 5
    slope, bias, mean, deviation, fitted = (torch.cat(tuple(column)) for column in columns)
    return Sigmoid(slope, bias, mean, deviation, fitted.bool())


def _sigmoid_block(similarity: torch.Tensor, activations: torch.Tensor) -> tuple[torch.Tensor, ...]:
    finite = (similarity.isfinite() & activations.isfinite()).all(1)
    cosines = similarity.float().masked_fill(~finite[:, None], 0.0)
    positive = activations.float().masked_fill(~finite[:, None], 0.0).clamp(min=0)
    size = max(1, similarity.shape[1])
    highest = positive.amax(1) if similarity.shape[1] else positive.sum(1)
    mean = cosines.sum(1) / size
    deviation = (cosines - mean[:, None]).square().sum(1).div(size).sqrt()
    fitted = (deviation > 1e-7 * mean.abs().clamp(min=1e-3)) & (highest > 0) & ((positive != highest[:, None]).any(1))
    deviation = deviation.where(fitted, torch.ones_like(deviation))
    z = ((cosines - mean[:, None]) / deviation[:, None]) * fitted[:, None]
    target = positive / highest.where(fitted, torch.ones_like(highest))[:, None]
    slope, bias = _newton(z, target)
    return slope * fitted, bias.masked_fill(~fitted, 0.0), mean, deviation, fitted


def _newton(z: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slope and bias [M] that minimize the cross entropy of `target` and sigmoid(slope z + bias)."""
    size = max(1, z.shape[1])
    bias = (target.sum(1) / size).clamp(1e-6, 1 - 1e-6).logit()
    slope = torch.zeros_like(bias)
    for _ in range(_NEWTON_STEPS):
        share = torch.sigmoid(slope[:, None] * z + bias[:, None])
        error, weight = target - share, share * (1 - share)
        weighted = weight * z
        at_bias, at_slope = error.sum(1) / size, (error * z).sum(1) / size - _RIDGE * slope
        a, b, c = weight.sum(1) / size + 1e-9, weighted.sum(1) / size, (weighted * z).sum(1) / size + _RIDGE
        determinant = (a * c - b * b).clamp(min=1e-12)
        # far from the solution the curvature is nearly 0, and the full step would overshoot
        by_bias = ((c * at_bias - b * at_slope) / determinant).clamp(-1, 1)
        by_slope = ((a * at_slope - b * at_bias) / determinant).clamp(-1, 1)
        bias, slope = bias + by_bias, slope + by_slope
        if not bias.numel() or torch.maximum(by_bias.abs(), by_slope.abs()).max() < 1e-4:
            break
    return slope, bias


# --- from cosines with a text to the probability that a concept is present ------------------------------------------


@dataclass(frozen=True, slots=True)
class TextCalibration:
    """P(concept present | cosine) of T texts, from the shape of each text's cosines alone; no ground truth.

    The images that show a concept form a separate hill at the upper end of its cosines; for a concept of two parts,
    images that show one part form another hill below it. The density of the cosines (Gaussian kernel) is cut in its
    highest valley, and the probability is the share of the density that comes from images above the cut, made monotone
    in the cosine. A text without a valley (`separated` is False, the usual case for an encoder trained elsewhere) gets
    the upper one of a mixture of two normals, which is a guess. A concept on fewer than 8 images forms no hill; the
    valley below, of the images that show half of it, is then used instead.

    Measured on the demo world (its own encoder, three splits into halves; fitted on one, judged on the other), expected
    calibration error / mean AUPRC:

    | images, texts | valley | mixture of two | sigmoid(scale (cos - mean over texts)) |
    |---|---|---|---|
    | unbiased, 31 single concepts | .0000 / 1.00 | .0012 / 1.00 | .57 / 1.00 |
    | unbiased, 384 pairs | .0000 / 1.00 | .12 / .97 | .39 / 1.00 |
    | biased, 31 single concepts | .0000 / 1.00 | .0036 / 1.00 | .58 / 1.00 |
    | biased, 254 pairs shown | .047 / .88 | .23 / .46 | .50 / 1.00 |
    | biased, the 88 % of these pairs on 8 images or more | .0000 / 1.00 | | |
    | biased, 31 single concepts, noise of .45 times the embeddings' length | .0008 / 1.00 | .0060 / 1.00 | .56 / 1.00 |
    | biased, 254 pairs shown, the same noise | .084 / .80 | .22 / .47 | .51 / 1.00 |

    The cosine itself ranks perfectly in this world; only the probability differs. Mixtures of three and four normals
    chosen by BIC lay in between (.03 for pairs), and mistook images that show half of a pair for it. The kernel's width
    and the criteria for a valley were chosen on these images and on draws from a single hill: of 200 draws each from a
    normal, a gamma (3) and a Student (5) distribution, 0, 2.5 and 1.5 % show a spurious valley.
    """

    mean: torch.Tensor  # [T] of the cosines
    deviation: torch.Tensor  # [T] of the cosines
    low: torch.Tensor  # [T] where the table starts, in deviations from the mean
    high: torch.Tensor  # [T] where it ends
    table: torch.Tensor  # [T, 256] probability at evenly spaced cosines; NaN for a text whose cosines are constant
    separated: torch.Tensor  # [T] bool

    @classmethod
    def fit(cls, cosines: torch.Tensor) -> TextCalibration:
        """Fit on the cosines [T, N] of texts and images; constant and non-finite rows get NaN probabilities."""
        if cosines.ndim != 2 or not cosines.shape[1]:
            raise EvaluationError(f"cosines have shape {tuple(cosines.shape)}: expected [T, N] with some images")
        parts = [_fit_texts(cosines[rows].double()) for rows in _blocks(cosines, 2**6)]
        if not parts:
            none = torch.zeros(0)
            return cls(none, none, none, none, torch.zeros(0, _PLACES), none.bool())
        mean, deviation, low, high, table, separated = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(mean, deviation, low, high, table.float(), separated)

    def apply(self, cosines: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return probabilities [T, N] float32 for cosines [T, N]; `rows` [T] are the texts that the rows belong to."""
        pick = torch.arange(len(self.mean)) if rows is None else rows
        if cosines.ndim != 2 or len(cosines) != len(pick):
            raise EvaluationError(f"cosines have shape {tuple(cosines.shape)}: expected [{len(pick)}, N]")
        mean, deviation, low, high = (x[pick, None] for x in (self.mean, self.deviation, self.low, self.high))
        position = ((cosines.double() - mean) / deviation - low) / (high - low) * (_PLACES - 1)
        position = position.nan_to_num(0.0).clamp(0, _PLACES - 1)
        left = position.long().clamp(max=_PLACES - 2)
        share = (position - left).float()
        table = self.table[pick]
        probabilities = torch.lerp(table.gather(1, left), table.gather(1, left + 1), share)
        return probabilities.masked_fill(~cosines.isfinite(), torch.nan)


def _fit_texts(cosines: torch.Tensor) -> tuple[torch.Tensor, ...]:
    mean = cosines.mean(1, keepdim=True)
    deviation = (cosines - mean).square().mean(1, keepdim=True).sqrt()
    usable = cosines.isfinite().all(1) & (cosines.amax(1) - cosines.amin(1) > 1e-7)
    mean, deviation = mean.where(usable[:, None], 0.0), deviation.where(usable[:, None], 1.0)
    z = ((cosines - mean) / deviation).where(usable[:, None], 0.0)
    low, high = z.amin(1, keepdim=True) - 5 * _WIDTH, z.amax(1, keepdim=True) + 5 * _WIDTH
    at = ((z - low) / (high - low) * (_PLACES - 1)).round().long()
    images = torch.zeros(len(z), _PLACES, dtype=torch.float64).scatter_add_(1, at, torch.ones_like(z))
    table, separated = _by_valley(images, (high - low) / (_PLACES - 1))
    unseparated = usable & ~separated
    if unseparated.any():
        grid = low + (high - low) * torch.linspace(0, 1, _PLACES, dtype=torch.float64)
        table[unseparated] = _by_mixture(images[unseparated], grid[unseparated])
    table[~usable] = torch.nan
    return mean[:, 0], deviation[:, 0], low[:, 0], high[:, 0], table, separated & usable


def _by_valley(images: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the table [T, 256] of each text cut in its highest valley, and whether it has a valley [T].

    `images` [T, 256] counts the images at each entry; entries are `step` [T, 1] deviations apart.
    """
    entries = torch.arange(_PLACES)
    distance = (entries[:, None] - entries).square()
    kernel = torch.exp(-0.5 * distance * (step[:, :, None] / _WIDTH).square())
    density = (images[:, None] @ kernel)[:, 0]
    hills = torch.minimum(density.cummax(1).values, density.flip(1).cummax(1).values.flip(1))
    beyond = images.flip(1).cumsum(1).flip(1)
    # the density is a sum of kernels of height 1: at a density of f images its variance is about f times sqrt(1/2)
    clear = hills - density > _CLEAR * ((hills + density) * 0.5**0.5).sqrt()
    valley = (density < _DEPTH * hills) & clear & (beyond >= _LEAST_IMAGES)
    last = torch.where(valley, entries, -1).amax(1, keepdim=True)
    first = torch.where(~valley & (entries < last), entries, -1).amax(1, keepdim=True) + 1
    cut = torch.where((entries >= first) & (entries <= last), density, torch.inf).argmin(1, keepdim=True)
    upper = ((images * (entries >= cut))[:, None] @ kernel)[:, 0]
    tiny = torch.finfo(torch.float64).tiny
    return (upper / density.clamp(min=tiny)).clamp(0, 1).cummax(1).values, valley.any(1)


def _by_mixture(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Return the table [T, 256] of the upper of two normals, fitted to the counts by expectation maximization."""
    total = images.sum(1, keepdim=True)
    highest = images * (images.flip(1).cumsum(1).flip(1) - images < _EM_SHARE * total)
    upper = (highest * grid).sum(1, keepdim=True) / highest.sum(1, keepdim=True)
    means = torch.stack((-upper * _EM_SHARE / (1 - _EM_SHARE), upper))
    variances = torch.full_like(means, 0.5)
    shares = torch.stack((torch.full_like(upper, 1 - _EM_SHARE), torch.full_like(upper, _EM_SHARE)))
    for _ in range(_EM_STEPS):
        weight = images * _component(grid, means, variances, shares).softmax(0)
        size = weight.sum(2, keepdim=True).clamp(min=1e-9)
        shares = (size / total).clamp(_EM_FLOOR, 1 - _EM_FLOOR)
        means = (weight * grid).sum(2, keepdim=True) / size
        variances = ((weight * (grid - means).square()).sum(2, keepdim=True) / size).clamp(min=_EM_FLOOR)
    order = means.argsort(0)
    means, variances, shares = (x.gather(0, order) for x in (means, variances, shares))
    posterior = _component(grid, means, variances, shares).softmax(0)[1]
    at_lower = _component(means[0], means, variances, shares).softmax(0)[1]
    # a wider upper component would exceed the lower one again far below it
    return torch.where(grid < means[0], torch.minimum(posterior, at_lower), posterior).cummax(1).values


def _component(x: torch.Tensor, means: torch.Tensor, variances: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return the log of share times normal density, up to a constant, for x [T, n] and two components [2, T, 1]."""
    return shares.log() - 0.5 * variances.log() - 0.5 * (x - means).square() / variances


def _blocks(x: torch.Tensor, most: int | None = None) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, x.shape[1]))
    size = size if most is None else min(size, most)
    for start in range(0, len(x), size):
        yield slice(start, start + size)


# --- probabilities against what was right ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reliability:
    """The table of a calibration plot, a row per bin of equal width: float64 [bins], `edges` [bins + 1], `count` int64.

    `mean` is the mean stated probability, `right` the share that was right, `low` and `high` its 95 % Wilson interval;
    all NaN in an empty bin.
    """

    edges: torch.Tensor
    mean: torch.Tensor
    right: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    count: torch.Tensor

    @property
    def expected_calibration_error(self) -> float:
        """The mean over items of their bin's |mean - right|, in [0, 1], 0 is best; NaN without items."""
        used = self.count > 0
        gaps = (self.mean - self.right).abs()[used] * self.count[used]
        return (gaps.sum() / self.count.sum()).item() if used.any() else float("nan")


def reliability(probability: torch.Tensor, right: torch.Tensor, bins: int = 10) -> Reliability:
    """Return how often items with a stated probability were right, in bins of equal width over [0, 1].

    `probability` and `right` (boolean, or 0 and 1) have the same shape; entries with a NaN probability are left out.

    >>> table = reliability(torch.tensor([0.9, 0.95, 0.1]), torch.tensor([True, True, False]), bins=2)
    >>> table.count.tolist(), table.right.tolist()
    ([1, 2], [0.0, 1.0])
    """
    if probability.shape != right.shape or bins < 1:
        raise EvaluationError(
            f"{bins} bins, shapes {tuple(probability.shape)} and {tuple(right.shape)}: expected bins >= 1, one shape"
        )
    p, hit = probability.flatten().double(), right.flatten().double()
    p, hit = p[~p.isnan()], hit[~p.isnan()]
    if ((p < 0) | (p > 1)).any():
        raise EvaluationError(f"probabilities run from {p.min().item()} to {p.max().item()}: expected 0 to 1")
    bin_of = (p * bins).long().clamp(max=bins - 1)
    count = torch.bincount(bin_of, minlength=bins)
    n = count.double().masked_fill(count == 0, torch.nan)
    share = torch.bincount(bin_of, hit, minlength=bins) / n
    z = 1.959963984540054
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)).sqrt()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    mean = torch.bincount(bin_of, p, minlength=bins) / n
    return Reliability(edges, mean, share, (center - half).clamp(min=0), (center + half).clamp(max=1), count)


def expected_calibration_error(probability: torch.Tensor, right: torch.Tensor, bins: int = 10) -> float:
    """Return `reliability(...).expected_calibration_error`; NaN where no entry is left."""
    return reliability(probability, right, bins).expected_calibration_error
