"""The comparison of the live service with the index: what counts as a difference, and a run of it."""

from __future__ import annotations

import math
import random
import sys

import pytest
from checkout import ROOT
from imported_arrays import build

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import live_equality

from csp_index.labelling.methods import METHODS, controls
from csp_index.records import NeuronKey


def test_numbers_differ_beyond_rounding_and_all_else_at_all():
    label = {"text": "a", "score": 2.0, "pairs": [{"image": 3}, {"image": 4}], "low": None}
    assert not any(by for _, by in live_equality.differences(label | {"threshold": 1.0}, label))
    ((name, by),) = (found for found in live_equality.differences(label | {"score": 2.0001}, label) if found[1])
    assert name == ".score" and by == pytest.approx(5.0, rel=0.01)
    for other in ({"text": "b"}, {"pairs": []}, {"pairs": [{"image": 3}, {"image": 5}]}, {"low": 0.0}):
        assert math.inf in [by for _, by in live_equality.differences(label | other, label)]


def test_every_method_that_is_no_control_is_asked():
    assert set(live_equality.METHODS) == set(METHODS) - set(controls())
    lots = random.Random(0)
    queries = [live_equality.question([NeuronKey("m", "l", 0)], list(live_equality.METHODS), lots) for _ in range(300)]
    assert {query.method for query in queries} == set(live_equality.METHODS)


@pytest.mark.parametrize("arguments", [[], ["--methods", "csp,no-method"]])
def test_wrong_arguments_get_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["live_equality", str(tmp_path / "none.db"), *arguments])
    with pytest.raises(SystemExit) as ended:
        live_equality.main()
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and ("'no-method' is unknown" if arguments else "no index at") in message


@pytest.mark.slow
def test_a_service_answers_as_its_index(tmp_path, monkeypatch, capsys):
    index, _, paths = build(tmp_path)
    paths["text_embeddings"].rename(tmp_path / "T.npy")
    paths["texts"].rename(tmp_path / "T.txt")
    monkeypatch.setattr(sys, "argv", ["live_equality", index.uri, "--questions", "30"])
    with pytest.raises(SystemExit) as ended:
        live_equality.main()
    assert ended.value.code == 0, capsys.readouterr().out
