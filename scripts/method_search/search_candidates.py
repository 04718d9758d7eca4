"""The candidates of round three by name: factors, products of them, sums of ranks, second thoughts about leaders."""

from __future__ import annotations

from typing import Final

from search_breadth import (
    FullSight,
    FullVariant,
    all_firing_csp,
    average_precision,
    correlation,
    f_score,
    filter_agreement,
    filtered,
    fused,
    level,
    lift,
    likelihood,
    linear_1,
    mean_cosine,
    near_agreement,
    overlap,
    product,
    published,
    published_csp,
    siblings,
    unit_linear,
)
from search_variants import contrastive_pmi, odds, positive, precision, ranked, softened
from torch import Tensor

#: Parts of products and of rank sums, each computed once for a world.
FACTORS: Final[dict[str, FullVariant]] = {
    "semanticlens": published("semanticlens", 30),
    "mean cosine": mean_cosine,
    "pmi": lambda s: s.fit - s.log_prior,
    "firing pmi": lambda s: s.firing_fit - s.log_prior,
    "contrastive-pmi": lambda s: contrastive_pmi(s, 5, 0.5),
    "firing contrastive-pmi": lambda s: s.firing_fit - 0.5 * s.share_near(5) - 0.5 * s.log_prior,
    "firing contrast": lambda s: s.firing_fit - 0.5 * s.share_near(50) - 0.5 * s.log_prior,
    "odds": lambda s: odds(s, 50),
    "firing odds": lambda s: s.firing_fit - s.share_near(50),
    "root firing odds": lambda s: positive(s.firing_fit - s.share_near(50)).sqrt(),
    "agreement": lambda s: s.agreement(0.5),
    "root agreement": lambda s: positive(s.agreement(0.5)).sqrt(),
    "filter": filter_agreement,
    "root filter": lambda s: positive(filter_agreement(s)).sqrt(),
    "fourth root filter": lambda s: positive(filter_agreement(s)).sqrt().sqrt(),
    "near": near_agreement,
    "presence": lambda s: correlation(s.response, s.presence),
    "own share": lambda s: precision(s, 1.0).sqrt(),
    "consensus": lambda s: ranked(s),
    "root filter x firing contrast x near": lambda s: product(
        factor(s, "root filter"), factor(s, "firing contrast"), factor(s, "near")
    ),
}


def factor(sight: FullSight, name: str) -> Tensor:
    """Return a factor's scores, computed once."""
    return sight.of(name, FACTORS[name])


def of(*names: str) -> FullVariant:
    """Return the product of factors."""
    return lambda s: product(*(factor(s, name) for name in names))


def with_precision(*names: str, ridge: float | None = 3.0) -> FullVariant:
    """Return the product of factors and, for its leaders, the average precision of their filter (None: cosine)."""

    def variant(sight: FullSight) -> Tensor:
        base = of(*names)(sight)
        return base * average_precision(sight, base, ridge)

    return variant


def soft_firing_contrast(contrast: float, near: float) -> FullVariant:
    """Return firing contrast x near x precision, the first two cut softly, at these widths."""

    def variant(sight: FullSight) -> Tensor:
        base = softened(factor(sight, "firing contrast"), contrast) * softened(factor(sight, "near"), near)
        return base * average_precision(sight, base, 3.0)

    return variant


def explained(*names: str, by: str = "filter") -> FullVariant:
    """Return the product of factors and, for its leaders, the entropy that a logistic regression explains."""

    def variant(sight: FullSight) -> Tensor:
        base = of(*names)(sight)
        return base * likelihood(sight, base, filtered(sight, 3.0) if by == "filter" else sight.log_shares)

    return variant


def levelled(name: str, slack: float = 0.0) -> FullVariant:
    """Return a method with a choice of level."""
    return lambda s: level(s, factor(s, name), slack=slack)


def ranks_of(*names: str) -> FullVariant:
    """Return the sum of reciprocal ranks of factors."""
    return lambda s: fused(*(factor(s, name) for name in names))


#: Published methods, and this project's own of rounds one and two, to compare with.
PUBLISHED: Final[dict[str, FullVariant]] = {
    "csp gamma 1": published_csp(1.0),
    "csp gamma .5": published_csp(0.5),
    "semanticlens": FACTORS["semanticlens"],
    "mean-centred": published("mean-centred", 30),
    "clip-dissect": published("clip-dissect", 100),
    "wpmi": published("wpmi", 28),
    "linear-1": linear_1,
}
OWN: Final[dict[str, FullVariant]] = {name: of(name) for name in ("pmi", "contrastive-pmi", "consensus")}
OWN["pmi"], OWN["contrastive-pmi"] = FACTORS["pmi"], FACTORS["contrastive-pmi"]
BROAD: Final[dict[str, FullVariant]] = {
    **{name: FACTORS[name] for name in ("agreement", "filter", "near", "presence", "firing pmi", "firing contrast")},
    "unit linear": unit_linear,
    "overlap": lambda s: overlap(s, s.root),
    "f-score": f_score,
    "lift": lift,
    "firing csp": lambda s: all_firing_csp(s, 1.0),
    "siblings": siblings,
    "semanticlens x agreement": of("semanticlens", "agreement"),
    "mean cosine x agreement": of("mean cosine", "agreement"),
    "pmi x agreement": of("pmi", "agreement"),
    "firing pmi x agreement": of("firing pmi", "agreement"),
    "firing pmi x near": of("firing pmi", "near"),
    "contrastive-pmi x agreement": of("contrastive-pmi", "agreement"),
    "contrastive-pmi x agreement x own share": of("contrastive-pmi", "agreement", "own share"),
    "consensus without linear": with_precision("odds", "root agreement"),
    "odds x agreement x precision": with_precision("odds", "agreement"),
    "firing odds x agreement x precision": with_precision("firing odds", "agreement"),
    "filter x agreement": of("filter", "agreement"),
    "filter x agreement x explained": explained("filter", "agreement"),
    "filter x near": of("filter", "near"),
    "filter x near x explained": explained("filter", "near"),
    "filter x firing odds": of("filter", "firing odds"),
    "filter x firing odds x agreement": of("filter", "firing odds", "agreement"),
    "filter x firing pmi x agreement": of("filter", "firing pmi", "agreement"),
    "filter x firing contrast x agreement": of("filter", "firing contrast", "agreement"),
    "filter x firing contrast x near": of("filter", "firing contrast", "near"),
    "root filter x firing contrast x near": of("root filter", "firing contrast", "near"),
    "fourth root filter x firing contrast x near": of("fourth root filter", "firing contrast", "near"),
    "root filter x firing contrast x near x root agreement": of(
        "root filter", "firing contrast", "near", "root agreement"
    ),
    "root filter x firing contrastive-pmi x near": of("root filter", "firing contrastive-pmi", "near"),
    "root filter x root firing odds x near": of("root filter", "root firing odds", "near"),
    "firing contrast x near": of("firing contrast", "near"),
    "firing contrast x agreement x precision": with_precision("firing contrast", "agreement"),
    "firing contrast x near x precision": with_precision("firing contrast", "near"),
    **{
        f"soft {contrast:g} firing contrast x soft {near:g} near x precision": soft_firing_contrast(contrast, near)
        for contrast, near in ((1, 0.1), (2, 0.05), (2, 0.1), (2, 0.2), (4, 0.1))
    },
    "fourth root filter x firing contrast x near x precision": with_precision(
        "fourth root filter", "firing contrast", "near"
    ),
    "near x precision": with_precision("near"),
    "level of pmi": levelled("pmi"),
    "level of consensus": levelled("consensus"),
    "level of root filter x firing contrast x near": levelled("root filter x firing contrast x near"),
    "ranks of contrastive-pmi, agreement, consensus": ranks_of("contrastive-pmi", "agreement", "consensus"),
    "ranks of filter, agreement, firing pmi": ranks_of("filter", "agreement", "firing pmi"),
    "ranks of filter, near, firing contrast": ranks_of("filter", "near", "firing contrast"),
}
