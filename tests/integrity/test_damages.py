"""Damages planted into an index: each is found by opening or by `verify --full`, or changes no answer. None is silent.

The answers of nine commands, asked after each damage, are compared with those of the sound index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from damage_outcomes import Sound, make_sound, outcome
from damages import all_damages

from csp_index.store import column_tables

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


@pytest.fixture(scope="module")
def made_sparse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sound]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSP_INDEX_ACTIVATION_STORAGE", "sparse")
        patch.setattr(column_tables, "SPARSE_NEURONS", 2)  # several rows per shard
        yield make_sound(tmp_path_factory.mktemp("sparse"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [one for one in DAMAGES if "activations" in str(one) or one.where == "shards"], ids=str
)
def test_no_damage_to_a_sparse_layer_is_silent(made_sparse, tmp_path, damage):
    assert list(made_sparse[0].glob("planted.db/sparse_*")) and not list(
        made_sparse[0].glob("planted.db/activations_*")
    )
    result = outcome(made_sparse, tmp_path, damage)
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
