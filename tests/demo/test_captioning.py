"""The demo's captioner: what it writes, what its phrases say, and how the demo judges them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from csp_index.cli import cli
from csp_index.demo import captioning, run
from csp_index.demo.captioning import ARMS, SCORED_BY, Arm, CaptionerReport, Gain, Said, concept_said
from csp_index.demo.network import CAPTIONER_FOLDER, PLANTED
from csp_index.demo.run import DemoReport
from csp_index.demo.world import ATTRIBUTES, VOCABULARY, Scene, random_scene, render
from csp_index.labelling.methods import RECOMMENDED
from csp_index.models.plugins import load_plugins
from csp_index.proposers.captioner import Captioner
from csp_index.proposers.phrases import phrases

KNOWN = [neuron.concept for neuron in PLANTED if neuron.concept]
SINGLES, PAIRS = 15, 20


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(2024)
    return [random_scene(rng) for _ in range(64)]


@pytest.fixture(scope="module")
def captions(scenes: list[Scene]) -> list[str]:
    load_plugins()
    captioner = Captioner(f"transformers:{CAPTIONER_FOLDER}", device="cpu")
    return captioner.captions([Image.fromarray(render(scene, (2024, place))) for place, scene in enumerate(scenes)])


# --- the model that is shipped ---


def test_the_captioner_is_small_and_says_what_it_was_measured_at() -> None:
    assert sum(path.stat().st_size for path in CAPTIONER_FOLDER.iterdir()) <= 6e6
    report = json.loads((CAPTIONER_FOLDER / "report.json").read_text())
    assert set(report["captions"]) == {*ATTRIBUTES, "all"}
    assert min(report["captions"].values()) >= 0.9


def test_it_loads_as_any_captioner_of_transformers(tmp_path: Path) -> None:
    import transformers

    load_plugins()
    moved = tmp_path / "somewhere else"
    moved.mkdir()
    for path in CAPTIONER_FOLDER.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    model = transformers.AutoModelForImageTextToText.from_pretrained(moved, local_files_only=True)
    assert type(model) is transformers.VisionEncoderDecoderModel
    processor = transformers.AutoProcessor.from_pretrained(moved, local_files_only=True)
    assert processor.tokenizer.decode(processor.tokenizer("a red star")["input_ids"][1:-1]) == "a red star"


def test_captions_say_the_attributes_of_fresh_scenes(scenes: list[Scene], captions: list[str]) -> None:
    for name in ATTRIBUTES:
        said = [scene.value(name) in text.split() for scene, text in zip(scenes, captions, strict=True)]
        assert np.mean(said) >= 0.9, name


def test_the_phrases_of_captions_are_labels_of_the_demo(scenes: list[Scene], captions: list[str]) -> None:
    for scene, text in zip(scenes, captions, strict=True):
        found = set(phrases(text))
        whole = f"a {scene.size} {scene.texture} {scene.colour} {scene.shape} on a {scene.pattern} {scene.background}"
        if text == f"{whole} background":
            wanted = {scene.shape, scene.colour, f"{scene.colour} {scene.shape}", f"{scene.texture} {scene.colour}"}
            assert wanted | {f"{scene.background} background"} <= found


# --- what a text says ---


def test_every_label_of_the_demo_says_itself() -> None:
    assert [concept_said(text) for text in VOCABULARY] == list(VOCABULARY)


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("Star on  gray background", "star on gray background"),
        ("green solid", "solid green"),
        ("star on gray", "star on gray background"),
        ("large star", "large star"),
        ("background", None),
        ("", None),
        ("star circle", None),
        ("red stars", None),
    ],
)
def test_a_text_says_its_values_and_nothing_else(text: str, concept: str | None) -> None:
    assert concept_said(text) == concept


# --- the judgement ---


def one(text: str) -> Said:
    return Said((text,), (text,))


RIGHT = [one(concept) for concept in KNOWN]
NOTHING = [Said() for _ in KNOWN]


def judged(contrastive: list[Said], positive: list[Said]) -> captioning.Ranked:
    return captioning._ranked({"contrastive": contrastive, "positive_only": positive})


def test_shares_and_gains_are_counted_by_kind_of_concept() -> None:
    late = [Said(("wooden", concept), ("wooden",)) for concept in KNOWN]
    found = judged(RIGHT, [*RIGHT[:SINGLES], *late[SINGLES:]])
    assert {kind: share.n for kind, share in found.shares["contrastive"].items()} == {"single": SINGLES, "pair": PAIRS}
    assert found.shares["contrastive"]["pair"].top1 == found.shares["contrastive"]["pair"].low == 1.0
    pairs = found.shares["positive_only"]["pair"]
    assert (pairs.top1, pairs.high, pairs.top5, pairs.exact) == (0.0, 0.0, 1.0, 0.0)
    assert (found.gains["single"].top1, found.gains["pair"].top1) == (0.0, 1.0)
    gain = found.gains["all"]
    assert gain.top1 == pytest.approx(PAIRS / 35)
    assert 0 < gain.low < gain.top1 < gain.high < 1


def test_another_order_of_words_is_right_but_not_exact() -> None:
    turned = [one(" ".join(reversed(concept.split()))) for concept in KNOWN]
    shares = judged(turned, turned).shares["contrastive"]
    assert shares["pair"].top1 == 1.0
    assert shares["pair"].exact == 0.0


def test_ties_are_decided_by_lot_or_by_length() -> None:
    texts = [("thing", concept, f"very wooden {concept}") for concept in KNOWN]
    tied = [Said(each, each) for each in texts]
    assert judged(tied, NOTHING).gains["all"].top1 == pytest.approx(1 / 3)
    for by, first in ((captioning.shortest, 0), (captioning.longest, 2)):
        assert [captioning._settled(each, by).first for each in tied] == [(each[first],) for each in texts]


def test_a_neuron_without_candidates_is_a_miss() -> None:
    assert judged(NOTHING, RIGHT).gains["all"] == Gain(-1.0, -1.0, -1.0, 35)


def test_labels_are_set_beside_those_of_the_vocabulary() -> None:
    some = [*RIGHT[:SINGLES], *NOTHING[SINGLES:]]
    both: dict[Arm, list[Said]] = {"contrastive": some, "positive_only": some}
    assert captioning._scored(both, RIGHT).ratio == pytest.approx(SINGLES / 35)
    assert captioning._scored(both, NOTHING).ratio == 0.0


@pytest.fixture
def report() -> CaptionerReport:
    won, drawn = judged(RIGHT, NOTHING), judged(RIGHT, RIGHT)
    late = [Said(("wooden", *each.texts), ("wooden",)) for each in RIGHT]
    named: dict[Arm, float] = {"contrastive": captioning._named(late), "positive_only": captioning._named(NOTHING)}
    scored = captioning._scored({"contrastive": RIGHT, "positive_only": RIGHT}, RIGHT)
    return CaptionerReport(won, won, drawn, named, dict.fromkeys(SCORED_BY, scored), 1.25)


def test_the_report_says_whether_contrast_helped(report: CaptionerReport) -> None:
    assert report.helps
    assert report.finding.startswith("Contrast helps: the captioner's first phrase is right more often by +1.00")
    assert "with the longest +0.00 (+0.00 to +0.00)." in report.finding
    assert "100% of the neurons with contrast and 0% of the neurons without." in report.finding
    assert "Once csp has scored the candidates, which has a contrast of its own, it is +0.00" in report.finding
    same = replace(report, captioned=report.longest)
    assert not same.helps
    assert same.finding.startswith("Contrast does not help beyond the noise")


def test_the_command_tells_it(report: CaptionerReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def run_demo(directory: str, tell: object, seed: int, stage: str | None, *, mixed: bool) -> DemoReport:
        asked.append(stage)
        assert not mixed
        shares = {"single": run.Accuracy(1.0, 1.0, 15), "pair": run.Accuracy(0.5, 1.0, 20)}
        methods = dict.fromkeys(("csp", "semanticlens", "contrastive-pmi", "consensus", RECOMMENDED), shares)
        return DemoReport({"biased": methods}, (), tmp_path, 2.0, report if stage else None)

    monkeypatch.setattr(run, "run_demo", run_demo)
    told = CliRunner().invoke(cli, ["demo", str(tmp_path), "--stage1", "captioner", "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)["stage1"]["captioner"]
    for ranking in (found, *found["ties"].values(), *found["scored"].values()):
        assert all(set(ranking[arm]) == {"single", "pair"} for arm in ARMS)
    assert found["contrastive"]["single"]["top1"] == 1.0
    assert found["positive_only"]["pair"] == {"top1": 0.0, "low": 0.0, "high": 0.0, "top5": 0.0, "exact": 0.0, "n": 20}
    assert found["helps"] is True
    assert found["named"] == {"contrastive": 1.0, "positive_only": 0.0}
    assert found["ties"]["longest"]["gain"]["all"]["top1"] == 0.0
    assert found["scored"]["csp"]["kept"] == 1.0
    text = CliRunner().invoke(cli, ["demo", str(tmp_path), "--stage1", "captioner"], catch_exceptions=False).stdout
    assert report.finding in text
    plain = CliRunner().invoke(cli, ["demo", str(tmp_path), "--json"], catch_exceptions=False)
    assert set(json.loads(plain.stdout)) == {"probing", "seconds"}
    assert asked == ["captioner", "captioner", None]
