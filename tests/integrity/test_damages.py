"""Damages planted into an index: each is found by opening or by `verify --full`, or changes no answer. None is silent.

The answers of nine commands, asked after each damage, are compared with those of the sound index.
"""

from __future__ import annotations

from collections import Counter

import pytest
from damage_outcomes import Sound, make_sound, outcome
from damages import all_damages

DAMAGES = all_damages()
_results: Counter[str] = Counter()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return make_sound(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_no_damage_is_silent(made, tmp_path, damage):
    result = outcome(made, tmp_path, damage)
    _results[result.partition(":")[0]] += 1
    assert not result.startswith("silent"), result


@pytest.mark.slow
def test_the_counts_of_damages(capsys):
    """Print the table of counts; the tests above must have run before."""
    if sum(_results.values()) != len(DAMAGES):
        pytest.skip("only after all damages")
    with capsys.disabled():
        print(f"\n{len(DAMAGES)} damages: " + ", ".join(f"{name} {count}" for name, count in _results.most_common()))
    assert len({str(damage) for damage in DAMAGES}) == len(DAMAGES) >= 119
    assert _results["silent"] == 0
