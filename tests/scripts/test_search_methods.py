from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "method_search"))

import search_methods
import search_variants
import search_worlds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict:
    search_methods.main(["--cache", str(folder), "--development", "0", "--fresh", "100", "--quick"])
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_the_search_lists_every_variant_and_judges_the_chosen_one(folder: Path, results: dict) -> None:
    assert set(results["development"]) == {*search_variants.KNOWN, *search_variants.CANDIDATES}
    assert set(results["fresh"]) == {*search_variants.KNOWN, *search_methods.ABLATIONS, results["chosen"]}
    rows = results["fresh"]["pmi"]
    assert sum(row["n"] for row in rows) == 2 * 3 * 22 and all(0 <= row["right"] <= row["n"] for row in rows)
    table = (folder / "table.md").read_text()
    assert all(f"| {name} |" in table for name in results["development"])


@pytest.mark.slow
def test_a_share_of_the_carriers_shows_the_look_and_every_part_occurs_apart(folder: Path, results: dict) -> None:
    pool = search_worlds.load_pool(folder, 0, search_worlds.QUICK)
    shown = [
        search_worlds.matches(pool.codes[(pool.group == number) & pool.biased], look).min()
        for number, look in enumerate(pool.design.looks)
    ]
    assert min(shown) == 1
    plain = pool.codes[pool.group == -1]
    for concept in pool.design.concepts:
        if len(concept) > 1:
            share = search_worlds.matches(plain, concept)
            assert ((share > 0) & (share < 1)).any() and len(set(dict(concept))) == len(concept)
    worlds = [search_worlds.make_world(pool, 0, bias, "sum", "analytic", 3) for bias in (0.0, 1.0)]
    assert worlds[0].vectors.shape == worlds[1].vectors.shape and len(worlds[0].truth) == 29
    words = search_worlds.vocabulary(3)
    assert [words[i] for i in worlds[0].truth.tolist()] == list(pool.design.concepts)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_world(folder: Path, results: dict) -> None:
    pool = search_worlds.load_pool(folder, 0, search_worlds.QUICK)
    first, second = (search_worlds.make_world(pool, 0, 0.9, "clip-noisy", "cnn", 2) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors) and torch.equal(first.activations, second.activations)


def toy() -> search_worlds.World:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(60, 8, generator=rng), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8, generator=rng), dim=1)
    activations = torch.rand(3, 60, generator=rng)
    return search_worlds.World(vectors, activations, texts, 7.0, torch.zeros(3).long(), torch.ones(3).long())


def test_the_consensus_is_its_formula_written_out() -> None:
    world, m = toy(), 4
    e, a, t = (x.double().numpy() for x in (world.vectors, world.activations, world.texts))
    logits = 7.0 * e @ t.T
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    rows = []
    for k in range(3):
        top = np.argsort(-a[k])[:30]
        silent = np.flatnonzero(a[k] < a[k].mean())
        near = np.concatenate([silent[np.argsort(-(e[silent] @ e[p]))[:m]] for p in top])
        odds = (a[k][top] / a[k][top].sum()) @ np.log(share[top]) - np.log(share[near].mean(0))
        y = np.minimum(a[k] / (0.5 * a[k][top].mean()), 1)
        centred = e - e.mean(0)
        covariance = centred.T @ centred / 60
        penalty = 0.5 * np.trace(covariance) / 8 * np.eye(8)
        v = np.linalg.solve(covariance + penalty, centred.T @ (y - y.mean()) / 60)
        linear = (t - t.mean(0)) @ (v / np.linalg.norm(v))
        whole = np.array([np.corrcoef(y, np.sqrt(share[:, j]))[0, 1] for j in range(5)])
        rows.append(np.maximum(odds, 1e-9) * np.maximum(linear, 1e-9) * np.sqrt(np.maximum(whole, 1e-9)))
    found = search_variants.consensus(search_variants.Sight(world), m)
    np.testing.assert_allclose(found.numpy(), np.array(rows), rtol=2e-3, atol=1e-12)


def test_the_rule_takes_the_best_worst_tenth_and_then_the_mean() -> None:
    good, bad, fine = [True] * 10, [False] * 10, [True] * 9 + [False]
    cells = [("clip", 2, "cnn", 0.9, arity) for arity in (1, 2)]
    names = list(search_variants.CANDIDATES)[:3]
    found = {
        names[0]: {cells[0]: good, cells[1]: bad},
        names[1]: {cells[0]: fine, cells[1]: fine},
        names[2]: {cells[0]: good, cells[1]: fine},
        "pmi": {cells[0]: good, cells[1]: good},
    }
    assert search_methods.choose(found) == names[2]


def test_development_and_fresh_seeds_stay_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search_methods.main(["--cache", str(folder), "--development", "0-3", "--fresh", "3-5"])
    assert "shares seeds" in capsys.readouterr().err


def test_seeds_are_read_as_ranges() -> None:
    assert search_methods.seeds_of("2-4") == [2, 3, 4] and search_methods.seeds_of("7") == [7]
