"""Round three of the search: the rule, arrays of real pictures, the whole command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
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
    rng = np.random.default_rng(0)
    emoji, fired = np.eye(4, dtype=bool), np.zeros((60, 3), dtype=np.float32)
    fired[:20] = 1
    truth = np.zeros((3, 4, 8), dtype=bool)
    truth[0, 0] = truth[1, 1:3] = truth[2, 3, 0] = True  # a word, two of them, and less than half of one
    layers = {}
    for layer in ("net", "planted"):
        layers |= {f"activations_{layer}": fired, f"truth_{layer}": truth, f"kind_{layer}": np.array(["keyword"] * 3)}
    np.savez(
        tmp_path / "seed0-biased.npz",
        embeddings=rng.normal(size=(60, 8)).astype(np.float32),
        text_embeddings=rng.normal(size=(4, 8)).astype(np.float32),
        logit_scale=np.float32(7.0),
        text_emoji=emoji,
        text_background=np.ones((4, 8), dtype=bool),
        in_words=np.array([True, True, False, True]),
        in_keywords=np.ones(4, dtype=bool),
        in_full=np.ones(4, dtype=bool),
        good_net=np.array([True, False, True]),
        **layers,
    )
    words, keywords, full = search_real.read_pictures(search_real.array_files(tmp_path)[0])
    assert words.cells[0] == ("real", "real-net", "words", "real-net", "biased", "keyword")
    assert [cell[1] for cell in words.cells] == ["real-net", "real-planted", "real-planted"]
    assert words.agreement.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]] and words.world.texts.shape == (3, 8)
    assert keywords.agreement[2].tolist() == [0, 1, 1, 0] and len(full.cells) == 3
    with pytest.raises(FileNotFoundError, match="no seed"):
        search_real.array_files(tmp_path / "none")


@pytest.mark.slow
def test_the_graded_search_chooses_and_judges_once(tmp_path: Path) -> None:
    command = ["--cache", str(tmp_path), "--development", "0", "--fresh", "300", "--graded", "--quick"]
    search_methods.main(command)
    table = (tmp_path / "graded.md").read_text()
    assert all(f"| {name} |" in table for name in search_graded.ALL)
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert {*search_candidates.PUBLISHED, *search_candidates.OWN} < set(judged)
