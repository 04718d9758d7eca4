"""Which columns hold measured numbers."""

from __future__ import annotations

import pytest

from csp_index.studies.classes.number_bins import as_numbers, no_number


@pytest.mark.parametrize("name", ["1_02", "٣", "1e400", "nan", "", "three"])
def test_what_only_looks_like_a_number_is_a_name(name: str) -> None:
    assert as_numbers(["1", name]) is None and no_number(["1", name]) == name


def test_numbers_are_read() -> None:
    numbers = as_numbers(["1", "-2.5", "3e2"])
    assert numbers is not None and numbers.tolist() == [1, -2.5, 300]
