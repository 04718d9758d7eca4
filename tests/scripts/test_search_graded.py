"""Round three of the search: the rule, arrays of real pictures, the whole command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "method_search"))

import search_candidates
import search_graded
import search_methods
import search_real


def test_the_rule_refuses_a_candidate_with_bad_cells() -> None:
    cells = [("real", "real-net", str(number)) for number in range(10)]
    grades = {
        "pmi": {cell: [0.9] for cell in cells},
        "wpmi": {cell: [0.5] for cell in cells},
        "filter": {cell: [0.1 if cell == cells[0] else 1.0] for cell in cells},
        "agreement": {cell: [0.8] for cell in cells},
    }
    assert search_graded.choose(grades) == "agreement"
    drawn = {("attributes", "sum"): [1.0], ("categories", "sum"): [0.5], ("real", "real-net"): [0.25]}
    assert search_graded.overall(drawn) == 0.5


def test_real_arrays_become_worlds(tmp_path: Path) -> None:
    rng, overlap = torch.Generator().manual_seed(0), torch.eye(3, 5).numpy()
    np.savez(
        tmp_path / "a.npz",
        vectors=torch.randn(60, 8, generator=rng).numpy(),
        texts=torch.randn(5, 8, generator=rng).numpy(),
        activations=torch.rand(3, 60, generator=rng).numpy(),
        overlap=overlap,
        scale=7.0,
        family="real-net",
        vocabulary="150",
        bias="unbiased",
        what=np.array(["keyword"] * 3),
    )
    graded = search_real.read_pictures(search_real.array_files(tmp_path)[0])
    assert graded.world.truth.tolist() == [0, 1, 2]
    assert graded.cells[0] == ("real", "real-net", "150", "real-net", "unbiased", "keyword")
    with pytest.raises(FileNotFoundError, match=r"no \.npz"):
        search_real.array_files(tmp_path / "none")


@pytest.mark.slow
def test_the_graded_search_chooses_and_judges_once(tmp_path: Path) -> None:
    command = ["--cache", str(tmp_path), "--development", "0", "--fresh", "300", "--graded", "--quick"]
    search_methods.main(command)
    table = (tmp_path / "graded.md").read_text()
    assert all(f"| {name} |" in table for name in search_graded.ALL)
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert {*search_candidates.PUBLISHED, *search_candidates.OWN} < set(judged)
