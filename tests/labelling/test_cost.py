"""The cost of a request for labels, counted before anything is computed."""

from __future__ import annotations

import pytest

from csp_index.errors import SettingError
from csp_index.labelling.cost import check_cost, label_cost, label_products
from csp_index.labelling.request import LabelRequest
from csp_index.records import ExampleOptions, ScoringOptions


def request(method: str = "csp", bootstrap: int = 100, **examples: object) -> LabelRequest:
    return LabelRequest(method, ExampleOptions(**examples), ScoringOptions(bootstrap=bootstrap, logit_scale=100.0))


@pytest.mark.parametrize(
    ("asked", "neurons", "candidates", "cost"),
    [
        (request(examples=30, neighbours=1), 1, 1000, 60 * (1000 + 5000)),
        (request(examples=30, neighbours=50), 64, 1000, 64 * 30 * 51 * 6000),
        (request(examples=30, neighbours=50, bootstrap=0), 64, 1000, 64 * 30 * 51 * 1000),
        (request(examples=30, neighbours=2, contrast="nearest+random"), 1, 10, 30 * 5 * 5010),
        (request("semanticlens", examples=30, neighbours=50), 2, 1000, 2 * 30 * 6000),
        (request(examples=10, neighbours=2, reuse=False), 3, 5, 3 * (30 * 5005 + 20**3 // 4)),
    ],
)
def test_the_cost_is_that_of_the_images_and_candidates(
    asked: LabelRequest, neurons: int, candidates: int, cost: int
) -> None:
    assert label_cost(asked, neurons, candidates) == cost
    check_cost(asked, neurons, candidates, cost)
    with pytest.raises(SettingError, match="serve_label_cost"):
        check_cost(asked, neurons, candidates, cost - 1)


def test_the_refusal_names_cost_limit_and_what_to_lower() -> None:
    with pytest.raises(SettingError) as caught:
        check_cost(request(examples=95, neighbours=95), 45, 1000, 10**9)
    assert str(caught.value) == (
        "the question costs 2,462,400,000 comparisons (45 neurons, 95 examples, 95 neighbours, 1,000 candidates, "
        "100 resamples): expected at most 1,000,000,000 (serve_label_cost); lower neurons, examples or neighbours"
    )


def test_what_all_methods_do_by_default_is_within_the_limit() -> None:
    for method, neighbours in (("csp", 1), ("consensus", 50), ("firing-contrast", 50)):
        assert label_cost(request(method, examples=30, neighbours=neighbours), 64, 1000) < 10**9
        assert label_cost(request(method, examples=30, neighbours=neighbours), 16, 21_843) < 10**9


@pytest.mark.parametrize(
    ("method", "listed", "products"),
    [
        ("semanticlens", False, 8 * 2 * 1000),  # its own images alone
        ("csp", False, 8 * (500 * 60 + 2 * 1000)),
        ("csp", True, 8 * 2 * 1000),
        ("pmi", False, 8 * (500 * 1000 + 2 * 1000)),
        ("consensus", False, 8 * (500 * (60 + 1000) + 2 * 1000)),
        ("linear", False, 8 * (500 * 1000 + 2 * 1000)),
    ],
)
def test_products_are_of_images_with_candidates_and_with_images(method: str, listed: bool, products: int) -> None:
    asked = request(method, examples=30)
    assert label_products(asked, neurons=2, images=500, candidates=1000, width=8, listed=listed) == products


def test_no_more_images_are_compared_than_there_are() -> None:
    asked = request("csp", examples=30)
    assert label_products(asked, neurons=100, images=500, candidates=10, width=8) == 8 * (500 * 500 + 100 * 10)
