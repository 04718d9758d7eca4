"""Candidates of single neurons: read from rows as `csp-index candidates` writes them, mixed, masked, checked."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import fakes
import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from csp_index import Index, open_index
from csp_index.cli import cli
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, SettingError
from csp_index.labelling.candidates import CandidateTexts, Ownership
from csp_index.labelling.methods import METHODS
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import make_request
from csp_index.labelling.texts.candidate_mix import mixed_candidates, read_proposals, stored_kinds
from csp_index.labelling.texts.candidate_names import Mix, TextSpace
from csp_index.ordering import leaders_of
from csp_index.records import LayerKey
from csp_index.store import catalog, schema

LAYER = "net/concepts"
DEAD = fakes.NEURONS - 1
ALONE = ("csp", "csp-difference", "semanticlens", "mean-centred")  # a label's score does not depend on the others
WORDS = ["red", "green", "blue", "dark", "striped"]
_RUNS = itertools.count(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proposed")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 40), encoders=["python:fakes:encoder"])
    embeddings = np.stack(
        index.sql("SELECT embedding FROM embeddings ORDER BY image_id").to_arrow()["embedding"].to_pylist()
    )
    index.import_arrays(fakes.write_activations(folder / "A.npy", embeddings), LAYER)
    return folder / "db"


@pytest.fixture(scope="module")
def scratch(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to which every example of a property adds."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("scratch") / "db"))


@pytest.fixture
def built(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made, tmp_path / "db")
    return open_index(tmp_path / "db")


def say(index: Index, said: dict[int, list[str]], kind: str = "vlm", proposer: str = "a", hashed: str = "") -> str:
    """Write answers as the store holds them; neurons with no texts gave an answer that was not understood."""
    run = f"20260101-{next(_RUNS):04d}"
    hashed = hashed or run
    head = {"run_id": run, "settings_hash": hashed, "model": "net", "layer": "concepts", "kind": kind}
    head |= {"proposer": proposer}
    answers = [head | {"neuron": n, "state": "answered" if texts else "unparsed"} for n, texts in said.items()]
    rows = [head | {"neuron": n, "rank": i, "text": t} for n, texts in said.items() for i, t in enumerate(texts)]
    with index.store.write_lock():
        for table, content in ((schema.CANDIDATES, rows), (schema.ANSWERS, answers)):
            found = pa.Table.from_pylist(content, schema=schema.table_schema(table))
            if found.num_rows:
                index.store.append(table, found)
    return hashed


def target(index: Index):
    return catalog.layer(index.store, LayerKey.parse(LAYER))


def same(label, other) -> None:
    """The two labels say the same, but for rounding."""
    assert [s.text for s in label.labels] == [s.text for s in other.labels]
    for one, two in zip(label.labels, other.labels, strict=True):
        values, others = ((s.score, s.low, s.high, s.share) for s in (one, two))
        assert [value is None for value in values] == [value is None for value in others]
        known = [(a, b) for a, b in zip(values, others, strict=True) if a is not None]
        assert [a for a, _ in known] == pytest.approx([b for _, b in known], abs=2e-5, rel=1e-5)
    assert (label.state, label.uncertain) == (other.state, other.uncertain)


texts = st.lists(st.sampled_from([f"word {i}" for i in range(30)]), max_size=25, unique=True)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(said=st.fixed_dictionaries({n: texts for n in range(4)}), method=st.sampled_from(ALONE))
def test_own_candidates_score_as_if_they_were_the_vocabulary_of_the_neuron_alone(scratch, said, method):
    index = open_index(scratch)
    said[0] = said[0] or ["word 1"]
    say(index, said)
    found = index.label(LAYER, method, candidates="vlm", templates="none", top=9, keep=False)
    for neuron, own in said.items():
        if own:
            alone = index.label(f"{LAYER}/{neuron}", method, vocabulary=own, templates="none", top=9, keep=False)
            same(found[neuron], alone[0])
        else:
            assert (found[neuron].state, found[neuron].labels) == ("no-candidates", ())


@pytest.mark.parametrize("method", METHODS)
def test_a_label_does_not_depend_on_who_is_labelled_beside_it(built, method):
    say(built, {n: [f"word {n + i}" for i in range(1 + n % 4)] for n in range(6)})
    options = {"candidates": "vocabulary,vlm", "vocabulary": WORDS, "templates": "none", "keep": False, "top": 9}
    if method in ("clip-dissect", "wpmi"):
        options["prior"] = "images"
    whole = built.label(LAYER, method, **options)
    for neuron in (0, 7):
        (alone,) = built.label(f"{LAYER}/{neuron}", method, **options)
        same(whole[neuron], alone)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stored_is_finite_and_the_neurons_own(built, method):
    said = {n: [f"word {n + i}" for i in range(n)] for n in range(8)}
    say(built, said)
    built.label(LAYER, method, candidates="vlm", templates="none")
    rows = built.sql("SELECT * FROM labels ORDER BY neuron, rank").rows()
    for row in rows:
        if row["rank"] < 0:
            assert row["score"] is None and row["confidence"] is None
            assert row["state"] == ("dead" if row["neuron"] == DEAD else "no-candidates")
            continue
        texts = said[row["neuron"]]
        assert row["text"] in texts or (method == "linear" and any(text in row["text"] for text in texts))
        assert np.isfinite(row["score"])
        for name in ("score_low", "score_high", "confidence"):
            assert row[name] is None or np.isfinite(row[name])
    counts = {n: sum(row["neuron"] == n and row["rank"] >= 0 for row in rows) for n in range(8)}
    assert counts == {n: n for n in range(8)}
    for neuron in range(1, 8):
        shares = [row["confidence"] for row in rows if row["neuron"] == neuron]
        assert None in shares or sum(shares) == pytest.approx(1.0, abs=1e-4)


def test_only_own_candidates_lead_where_few_are_looked_at_closely(built):
    say(built, {0: ["round", "flat"], 1: [f"word {i}" for i in range(60)]})
    space = TextSpace(built.store, catalog.encoder(built.store), "none", fakes.encoder, keep=False)
    candidates, _ = mixed_candidates(space, target(built), Mix(("vlm",)), None)
    asked = Selection(space.source, target(built), np.array([0, 1]))
    found = Pipeline(built.store).scores(asked, make_request("consensus", space.source, 5, {}), candidates())
    looked_at = found.evidence.response.precision > 0
    assert looked_at[0, :2].all()
    assert looked_at[1, 2:].sum() == 24


def test_a_mix_scores_the_vocabulary_and_the_own_candidates(built):
    say(built, {0: ["round", "RED"], 1: ["square"]})
    asked = {"method": "csp", "templates": "none", "keep": False, "top": 9}
    found = built.label(f"{LAYER}/0", candidates=["vlm", "vocabulary"], vocabulary=WORDS, **asked)
    alone = built.label(f"{LAYER}/0", vocabulary=[*WORDS, "round"], **asked)
    same(found[0], alone[0])
    assert "red" in [score.text for score in found[0].labels]  # the vocabulary's spelling of what both have


def test_neurons_without_candidates(built):
    say(built, {0: ["round"], 1: []})
    found = built.label(LAYER, candidates="vlm", templates="none")
    assert [label.state for label in found[:3]] == ["labelled", "no-candidates", "no-candidates"]
    assert "run `csp-index candidates`" in found[1].note
    assert found[DEAD].state == "dead"
    assert built.label(LAYER, candidates="vlm", templates="none") == found  # read from the index
    assert len(found[0].labels) == 1 and found[0].confidence is None and found[0].uncertain
    mixed = built.label(LAYER, candidates="vocabulary,vlm", vocabulary=WORDS, templates="none", top=9)
    assert [len(label.labels) for label in mixed[:2]] == [6, 5]


def test_an_only_candidate_is_no_certain_one(built):
    say(built, {0: ["red"], 1: ["red", "blue"]})
    neurons = ["net/concepts/0", "net/concepts/1"]
    only, two = built.label(neurons, "contrastive-pmi", candidates="vlm", templates="none")
    assert (only.text, only.uncertain, only.confidence) == ("red", True, None)
    assert two.confidence is not None


def test_candidates_can_be_pooled(built):
    say(built, {0: ["round"], 1: ["square", "flat"]})
    found = built.label(LAYER, candidates="vlm", pool_candidates=True, templates="none")
    assert all({s.text for s in label.labels} == {"round", "square", "flat"} for label in found[:DEAD])
    apart = built.label(LAYER, candidates="vlm", templates="none")
    assert [len(label.labels) for label in apart[:2]] == [1, 2]


def test_labels_of_other_answers_are_not_mixed(built):
    say(built, {0: ["round"], 1: ["square"]})
    first = built.label(f"{LAYER}/0", "csp", candidates="vlm", templates="none")[0]
    assert built.label(f"{LAYER}/0", "csp", candidates="vlm", templates="none")[0].run_id == first.run_id
    say(built, {2: ["flat"]}, proposer="another")
    later = built.label(f"{LAYER}/0", "csp", candidates="vlm", templates="none")[0]
    assert later.run_id != first.run_id and later.labels == first.labels
    say(built, {0: ["oblong"], 1: ["square"]})  # the same model, asked in another way
    assert built.label(f"{LAYER}/0", "csp", candidates="vlm", templates="none")[0].text == "oblong"


def test_the_last_answer_of_each_proposer_about_a_neuron_counts(built):
    old = say(built, {0: ["old"], 1: ["old too"]})
    say(built, {0: ["new"], 3: []})
    say(built, {0: ["other"], 1: ["second"]}, proposer="b")
    say(built, {0: ["a caption"]}, kind="captioner")
    found = read_proposals(built.store, target(built), ["vlm"])
    assert found.texts == ("new", "other", "old too", "second")
    assert found.neurons.tolist() == [0, 0, 1, 1] and found.places.tolist() == [0, 1, 2, 3]
    assert read_proposals(built.store, target(built), ["vlm"], ["b"]).texts == ("other", "second")
    say(built, {5: ["late"]}, hashed=old)
    assert read_proposals(built.store, target(built), ["vlm"], ["a"]).texts == ("new", "old too", "late")
    assert stored_kinds(built.store, target(built)) == ("vlm", "captioner")


def test_candidates_whose_answer_was_not_written_do_not_exist(built):
    say(built, {0: ["whole"]})
    row = {"run_id": "99", "settings_hash": "x", "model": "net", "layer": "concepts", "neuron": 1, "kind": "vlm"}
    row |= {"proposer": "a", "rank": 0, "text": "half"}
    with built.store.write_lock():
        table = pa.Table.from_pylist([row], schema=schema.table_schema(schema.CANDIDATES))
        built.store.append(schema.CANDIDATES, table)
    assert read_proposals(built.store, target(built), ["vlm"]).texts == ("whole",)


def test_texts_of_several_spellings_are_one(built):
    say(built, {0: ["Red  Star", "red star", " "], 1: ["RED STAR", "cafe\u0301"], 2: ["café"]})
    found = read_proposals(built.store, target(built), ["vlm"])
    assert found.texts == ("Red Star", "café")
    assert list(zip(found.neurons.tolist(), found.places.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1), (2, 1)]


def test_the_encoder_reads_each_text_once(built, monkeypatch):
    read: list[str] = []
    plain = fakes.FakeEncoder.embed_texts
    monkeypatch.setattr(
        fakes.FakeEncoder, "embed_texts", lambda self, t, p=("{}",): read.extend(t) or plain(self, t, p)
    )
    say(built, {0: ["round", "flat"], 1: ["round"]})
    built.label(LAYER, candidates="vlm", templates="none")
    assert sorted(read) == ["", "flat", "round"]
    built.label(LAYER, "semanticlens", candidates="vlm", templates="none")
    open_index(built.uri).label(f"{LAYER}/0", "pmi", candidates="vlm", templates="none")
    assert len(read) == 3
    say(built, {2: ["flat", "oblong"]}, kind="captioner")
    built.label(LAYER, candidates="vlm,captioner", templates="none")
    assert read[3:] == ["oblong"]
    kept = built.sql("SELECT DISTINCT vocabulary, text FROM texts").rows()
    assert sorted(row["text"] for row in kept) == ["flat", "oblong", "round"]
    assert all(row["vocabulary"].startswith("proposed@") for row in kept)
    say(built, {0: ["round"], 1: ["square"]})
    before = built.store.versions()
    built.label(LAYER, candidates="vlm", templates="none", keep=False)
    assert read[4:] == ["square"] and built.store.versions() == before


def test_nothing_is_embedded_where_the_vocabulary_has_all_texts(built, monkeypatch):
    built.label(f"{LAYER}/0", vocabulary=WORDS, templates="none")
    say(built, {0: ["Red", "blue"]})
    monkeypatch.setattr(fakes.FakeEncoder, "embed_texts", lambda *given: pytest.fail("a text was embedded"))
    found = built.label(f"{LAYER}/0", "semanticlens", candidates="vocabulary,vlm", subtract_empty=True, top=9)
    assert sorted(score.text for score in found[0].labels) == sorted(WORDS)


def test_the_last_vocabulary_stays_the_last(built):
    built.label(f"{LAYER}/0", vocabulary=WORDS, templates="none")
    say(built, {0: ["round"]})
    built.label(f"{LAYER}/0", candidates="vlm")
    found = built.label(f"{LAYER}/0", candidates="vocabulary,vlm", top=9)[0]
    assert {score.text for score in found.labels} == {*WORDS, "round"}


def test_what_cannot_be_mixed_is_told(built):
    with pytest.raises(SettingError, match="candidates name 'vml': expected one or several of vocabulary, vlm"):
        built.label(LAYER, candidates="vocabulary,vml")
    with pytest.raises(SettingError, match="candidates name ''"):
        built.label(LAYER, candidates="")
    with pytest.raises(SettingError, match="pooling applies to candidates of models"):
        built.label(LAYER, pool_candidates=True)
    with pytest.raises(
        LabelError, match=r"net/concepts has no candidates of kind vlm: run `csp-index candidates .*/db"
    ):
        built.label(LAYER, candidates="vocabulary,vlm", vocabulary=WORDS)
    say(built, {0: [], 1: []})
    with pytest.raises(LabelError, match="kind vlm; 2 answers hold none"):
        built.label(LAYER, candidates="vlm")
    say(built, {0: ["round"]})
    with pytest.raises(SettingError, match="add vocabulary to them"):
        built.label(LAYER, candidates="vlm", vocabulary=WORDS)
    arrays = CandidateTexts(("a",), torch.eye(1, fakes.WIDTH), "made elsewhere")
    with pytest.raises(LabelError, match="do not mix with candidates of models"):
        built.label(LAYER, candidates="vocabulary,vlm", vocabulary=arrays)
    assert built.store.count(schema.LABELS) == 0


def test_a_mix_is_named_in_any_order():
    assert Mix.parse("neighbours, vlm,vocabulary").kinds == ("vocabulary", "vlm", "neighbours")
    assert Mix.parse(["captioner"], pooled=True) == Mix(("captioner",), True)


def test_ownership_bars_what_is_others():
    own = Ownership(1, torch.tensor([2, 2, 5, 9, 5]), torch.tensor([1, 0, 2, 3, 1]))
    neurons = torch.tensor([2, 4, 5])
    found = own.mask(torch.zeros(3, 4), neurons)
    assert (found == 0).tolist() == [[True, True, False, False], [True, False, False, False], [True, True, True, False]]
    assert own.available(neurons).tolist() == [2, 1, 3]
    assert own.named(neurons).tolist() == [2, 0, 2]
    assert leaders_of(found, 2).tolist()[2] == [0, 1]


@pytest.fixture
def checked(built):
    said = {0: ["round", "red", "nonsense"], 1: ["square"], 3: []}
    say(built, said)
    say(built, {1: ["square", "flat"]}, kind="captioner")
    return built


def test_candidates_are_checked_against_the_best_of_the_vocabulary(checked):
    asked = {"vocabulary": WORDS, "templates": "none"}
    checks = checked.check_candidates(LAYER, **asked)
    assert checked.store.count(schema.LABELS) == 0
    labels = checked.label(LAYER, candidates="vocabulary,vlm,captioner", top=99, **asked)
    for found, label in zip(checks.neurons, labels, strict=True):
        assert (found.neuron, found.state) == (label.neuron, label.state)
        if label.state == "dead":
            assert (found.best, found.candidates) == (None, ())
            continue
        scores = {score.text: score.score for score in label.labels}
        best = max(scores[word] for word in WORDS)
        assert (found.best.text, found.best.score) == (max(WORDS, key=scores.__getitem__), pytest.approx(best))
        for candidate in found.candidates:
            assert candidate.score == pytest.approx(scores[candidate.text])
            assert candidate.below == (scores[candidate.text] < best)
        ranked = [candidate.score for candidate in found.candidates]
        assert ranked == sorted(ranked, reverse=True)
    assert {c.text: c.kinds for c in checks.neurons[1].candidates} == {
        "square": ("vlm", "captioner"),
        "flat": ("captioner",),
    }
    assert {c.text for c in checks.neurons[0].candidates} == {"round", "red", "nonsense"}
    total = checks.total()
    assert (total["neurons"], total["candidates"]) == (2, 5)
    assert total["below"] == sum(found.below for found in checks.neurons) > 0
    assert {kind: sums["candidates"] for kind, sums in total["kinds"].items()} == {"vlm": 4, "captioner": 2}


def test_a_candidate_that_is_the_vocabularys_best_is_not_below_it(built):
    best = built.label(f"{LAYER}/0", vocabulary=WORDS, templates="none")[0].text
    say(built, {0: [best.upper()]})
    (found,) = built.check_candidates(f"{LAYER}/0").neurons
    assert found.below == 0 and found.candidates[0].text == best


def test_checks_are_told_on_the_command_line(checked):
    words = Path(checked.uri).parent / "words.txt"
    words.write_text("\n".join(WORDS))
    base = ["label", checked.uri, "--layer", LAYER, "--vocabulary", str(words), "--templates", "none", "--check"]
    told = CliRunner().invoke(cli, base, catch_exceptions=False).output.splitlines()
    assert len(told) == fakes.NEURONS + 1
    assert told[2].endswith("(no candidates of models)") and told[DEAD].endswith("(dead)")
    assert told[-1].startswith("total: ") and "of 5 candidates of 2 neurons" in told[-1]
    lines = (
        CliRunner().invoke(cli, [*base, "--json", "--candidates", "vlm"], catch_exceptions=False).output.splitlines()
    )
    objects = [json.loads(line) for line in lines]
    assert set(objects[0]) == {"neuron", "method", "state", "vocabulary", "candidates", "below"}
    assert objects[-1]["total"]["kinds"].keys() == {"vlm"}
    assert sum(found["below"] for found in objects[:-1]) == objects[-1]["total"]["below"]
    assert CliRunner().invoke(cli, [*base, "--pool-candidates"]).exit_code == 2


def test_a_mix_is_labelled_on_the_command_line(checked):
    options = ["--candidates", "vlm", "--templates", "none", "--json", "--neurons", "0-2"]
    lines = CliRunner().invoke(cli, ["label", checked.uri, "--layer", LAYER, *options], catch_exceptions=False).output
    found = [json.loads(line) for line in lines.splitlines()]
    assert [len(label["labels"]) for label in found] == [3, 1, 0]
    assert found[2]["state"] == "no-candidates"


def test_there_must_be_something_to_check(built):
    with pytest.raises(LabelError, match="no candidates of kind vlm"):
        built.check_candidates(LAYER, vocabulary=WORDS)
    say(built, {0: ["round"]}, kind="neighbours")
    with pytest.raises(SettingError, match="candidates to check are those of models"):
        built.check_candidates(LAYER, "vocabulary", vocabulary=WORDS)
    assert built.check_candidates(LAYER, "neighbours", vocabulary=WORDS, templates="none").candidates == 1
