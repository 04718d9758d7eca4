"""The candidates of round three by name: factors, products of them, sums of ranks, second thoughts about leaders."""

from __future__ import annotations

from typing import Final

from search_breadth import (
    FullSight,
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
from search_variants import Variant, contrastive_pmi, odds, positive, precision, ranked
from torch import Tensor

#: Parts of products and of rank sums, each computed once for a world.
FACTORS: Final[dict[str, Variant]] = {
    "semanticlens": published("semanticlens", 30),
    "mean cosine": mean_cosine,
    "pmi": lambda s: s.fit - s.log_prior,
    "firing pmi": lambda s: s.firing_fit - s.log_prior,
    "contrastive-pmi": lambda s: contrastive_pmi(s, 5, 0.5),
    "firing contrastive-pmi": lambda s: s.firing_fit - 0.5 * s.share_near(5) - 0.5 * s.log_prior,
    "odds": lambda s: odds(s, 50),
    "firing odds": lambda s: s.firing_fit - s.share_near(50),
    "root firing odds": lambda s: positive(s.firing_fit - s.share_near(50)).sqrt(),
    "agreement": lambda s: s.agreement(0.5),
    "root agreement": lambda s: positive(s.agreement(0.5)).sqrt(),
    "filter": filter_agreement,
    "filter 1": lambda s: filter_agreement(s, 1.0),
    "filter 10": lambda s: filter_agreement(s, 10.0),
    "near": near_agreement,
    "linear": lambda s: s.linear(1.0),
    "unit linear": unit_linear,
    "presence": lambda s: correlation(s.response, s.presence),
    "own share": lambda s: precision(s, 1.0).sqrt(),
    "consensus": lambda s: ranked(s),
    "semanticlens x agreement": lambda s: product(factor(s, "semanticlens"), factor(s, "agreement")),
    "pmi x agreement": lambda s: product(factor(s, "pmi"), factor(s, "agreement")),
    "contrastive-pmi x agreement": lambda s: product(factor(s, "contrastive-pmi"), factor(s, "agreement")),
    "filter x agreement": lambda s: product(factor(s, "filter"), factor(s, "agreement")),
}


def factor(sight: FullSight, name: str) -> Tensor:
    """Return a factor's scores, computed once."""
    return sight.of(name, FACTORS[name])


def of(*names: str) -> Variant:
    """Return the product of factors."""
    return lambda s: product(*(factor(s, name) for name in names))


def with_precision(*names: str, ridge: float | None = 3.0) -> Variant:
    """Return the product of factors and, for its leaders, the average precision of their filter (None: cosine)."""

    def variant(sight: FullSight) -> Tensor:
        base = of(*names)(sight)
        return base * average_precision(sight, base, ridge)

    return variant


def explained(*names: str, by: str = "filter") -> Variant:
    """Return the product of factors and, for its leaders, the entropy that a logistic regression explains."""

    def variant(sight: FullSight) -> Tensor:
        base = of(*names)(sight)
        return base * likelihood(sight, base, filtered(sight, 3.0) if by == "filter" else sight.log_shares)

    return variant


def likeliest(name: str) -> Variant:
    """Return the explained entropy alone, for the leaders of a method."""
    return lambda s: likelihood(s, factor(s, name), s.log_shares)


def levelled(name: str, slack: float = 0.0) -> Variant:
    """Return a method with a choice of level."""
    return lambda s: level(s, factor(s, name), slack=slack)


def ranks_of(*names: str) -> Variant:
    """Return the sum of reciprocal ranks of factors."""
    return lambda s: fused(*(factor(s, name) for name in names))


#: Published methods, and this project's own of rounds one and two, to compare with.
PUBLISHED: Final[dict[str, Variant]] = {
    "csp gamma 1": published_csp(1.0),
    "csp gamma .5": published_csp(0.5),
    "semanticlens": FACTORS["semanticlens"],
    "mean-centred": published("mean-centred", 30),
    "clip-dissect": published("clip-dissect", 100),
    "wpmi": published("wpmi", 28),
    "linear-1": linear_1,
}
OWN: Final[dict[str, Variant]] = {name: of(name) for name in ("pmi", "contrastive-pmi", "consensus")}
OWN["pmi"], OWN["contrastive-pmi"] = FACTORS["pmi"], FACTORS["contrastive-pmi"]
BROAD: Final[dict[str, Variant]] = {
    **{name: FACTORS[name] for name in ("agreement", "filter", "filter 1", "filter 10", "near", "presence")},
    "unit linear": unit_linear,
    "overlap": lambda s: overlap(s, s.root),
    "f-score": f_score,
    "firing pmi": FACTORS["firing pmi"],
    "lift": lift,
    "firing csp": lambda s: all_firing_csp(s, 1.0),
    "firing contrastive-pmi": FACTORS["firing contrastive-pmi"],
    "siblings": siblings,
    "semanticlens x agreement": of("semanticlens", "agreement"),
    "mean cosine x agreement": of("mean cosine", "agreement"),
    "pmi x agreement": of("pmi", "agreement"),
    "firing pmi x agreement": of("firing pmi", "agreement"),
    "contrastive-pmi x agreement": of("contrastive-pmi", "agreement"),
    "firing contrastive-pmi x agreement": of("firing contrastive-pmi", "agreement"),
    "contrastive-pmi x agreement x own share": of("contrastive-pmi", "agreement", "own share"),
    "consensus without linear": with_precision("odds", "root agreement"),
    "odds x agreement x precision": with_precision("odds", "agreement"),
    "firing odds x agreement": of("firing odds", "agreement"),
    "firing odds x agreement x precision": with_precision("firing odds", "agreement"),
    "filter x agreement": of("filter", "agreement"),
    "filter 1 x agreement": of("filter 1", "agreement"),
    "filter 10 x agreement": of("filter 10", "agreement"),
    "filter x root agreement": of("filter", "root agreement"),
    "filter x agreement x precision": with_precision("filter", "agreement"),
    "filter x agreement x explained": explained("filter", "agreement"),
    "filter x agreement x explained by L": explained("filter", "agreement", by="L"),
    "filter x near": of("filter", "near"),
    "filter x near x explained": explained("filter", "near"),
    "filter x agreement x near": of("filter", "agreement", "near"),
    "filter x firing odds": of("filter", "firing odds"),
    "filter x firing odds x agreement": of("filter", "firing odds", "agreement"),
    "filter x firing odds x agreement x explained": explained("filter", "firing odds", "agreement"),
    "filter x root firing odds x agreement": of("filter", "root firing odds", "agreement"),
    "filter x firing pmi x agreement": of("filter", "firing pmi", "agreement"),
    "filter x pmi x agreement": of("filter", "pmi", "agreement"),
    "filter x firing contrastive-pmi x agreement": of("filter", "firing contrastive-pmi", "agreement"),
    "filter x semanticlens x agreement": of("filter", "semanticlens", "agreement"),
    "filter x contrastive-pmi x agreement": of("filter", "contrastive-pmi", "agreement"),
    "likelihood of contrastive-pmi": likeliest("contrastive-pmi"),
    "level of pmi": levelled("pmi"),
    "level of consensus": levelled("consensus"),
    "level of filter x agreement": levelled("filter x agreement"),
    "ranks of contrastive-pmi, agreement, consensus": ranks_of("contrastive-pmi", "agreement", "consensus"),
    "ranks of consensus, filter x agreement": ranks_of("consensus", "filter x agreement"),
    "ranks of filter, agreement, firing pmi": ranks_of("filter", "agreement", "firing pmi"),
    "ranks of filter, agreement, semanticlens": ranks_of("filter", "agreement", "semanticlens"),
}
