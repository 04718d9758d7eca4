"""An evaluation end to end: chosen on one half, judged on the other, kept, read again; bad input told in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fakes import write_images

from csp_index import EvaluationOptions, open_index
from csp_index.errors import CspIndexError, EvaluationError
from csp_index.evaluation.evaluation import VALUES
from csp_index.evaluation.metrics.table import METRICS, NEEDS
from csp_index.evaluation.options import parse_methods
from csp_index.evaluation.report.shared_labels import collision_rows
from csp_index.labelling.candidates import CandidateTexts
from csp_index.store import schema

WIDTH, IMAGES = 16, 240
TEXTS = tuple(f"concept {i}" for i in range(WIDTH))
LAYER = "net/planted"


def write_world(folder):
    """Images show 2 of 16 concepts each; neurons 0-7 detect one, 8 is a twin of 0, 9 constant, 10 dead."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    shown = np.zeros((IMAGES, WIDTH), dtype=bool)
    for row in shown:
        row[rng.choice(WIDTH, 2, replace=False)] = True
    embeddings = shown + 0.05 * rng.standard_normal(shown.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    activations = np.zeros((IMAGES, 11))
    activations[:, :8] = shown[:, :8] * rng.uniform(0.6, 1.0, (IMAGES, 8))
    activations[:, 8] = 2 * activations[:, 0]
    activations[:, 9] = 1.0
    np.save(folder / "E.npy", embeddings.astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    rows = [f"{LAYER}/{k},{TEXTS[k]},{'even' if k % 2 == 0 else 'odd'}" for k in range(8)]
    (folder / "truth.csv").write_text("\n".join(["neuron,label,kind", *rows]) + "\n")
    return embeddings.astype(np.float32), activations.astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    arrays = write_world(folder)
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", LAYER, embeddings=folder / "E.npy", shard_size=50, logit_scale=30.0)
    return index, folder, arrays


CANDIDATES = CandidateTexts(TEXTS, torch.eye(WIDTH), key="concepts")


def run(index, folder, *methods, **options):
    options = {"truth": folder / "truth.csv"} | options
    chosen = EvaluationOptions(methods=parse_methods(methods or ("semanticlens", "random-label")), **options)
    return index.evaluate(LAYER, chosen, vocabulary=CANDIDATES)


def values(evaluation, method, metric):
    rows = [r for r in evaluation.values.to_pylist() if r["method"] == method and r["metric"] == metric]
    return {row["neuron"]: row for row in rows}


def test_values_equal_those_computed_by_hand(world):
    index, folder, (embeddings, activations) = world
    found = run(index, folder)
    split = index.store.read(schema.SPLITS).to_pylist()[0]
    judging = np.array(split["judging"])
    assert len(judging) == IMAGES // 2
    assert not set(judging) & set(split["choosing"])
    rows = values(found, "random-label", "simulation")
    for neuron in (0, 3, 8):
        place = TEXTS.index(rows[neuron]["text"])
        expected = np.corrcoef(activations[judging, neuron], embeddings[judging, place])[0, 1]
        assert rows[neuron]["value"] == pytest.approx(expected, abs=1e-6)
    exact = values(found, "semanticlens", "agreement-exact")
    assert [exact[k]["value"] for k in range(8)] == [1.0] * 8
    assert values(found, "semanticlens", "simulation")[2]["value"] > 0.9
    assert values(found, "semanticlens", "agreement-rank")[5]["value"] == 1.0


def test_what_cannot_be_computed_says_why_and_is_never_nan(world):
    index, folder, _ = world
    found = run(index, folder)
    table = found.values
    assert table.schema.names == VALUES.names
    assert np.isfinite(table["value"].drop_null().to_numpy()).all()
    for row in table.to_pylist():
        assert (row["value"] is None) == bool(row["note"]), row
    computed = {name for name, m in METRICS.items() if set(m.needs) <= {"truth"} and m.family != "pairs"}
    assert set(table["metric"].to_pylist()) == computed
    assert list(found.skipped) == [NEEDS[need].part for need in NEEDS if need != "truth"]
    assert "constant on the judging images" in values(found, "semanticlens", "simulation")[9]["note"]
    assert "never fires" in values(found, "semanticlens", "simulation")[10]["note"]
    assert "no truth" in values(found, "semanticlens", "agreement-exact")[8]["note"]
    assert values(found, "semanticlens", "consistency")[0]["value"] == 1.0  # neuron 8 is its twin
    assert values(found, "semanticlens", "consistency")[1]["value"] is None


def test_labels_that_neurons_share_are_counted(world):
    index, folder, _ = world
    found = run(index, folder)
    rows = {row["method"]: row for row in collision_rows(found)}
    texts = [row["text"] for row in values(found, "semanticlens", "label-shared").values() if row["text"]]
    row = rows["semanticlens"]
    assert (row["labels"], row["distinct"]) == (len(texts), len(set(texts)))
    assert row["distinct"] < row["labels"]  # neuron 8 is a twin of neuron 0
    for metric, name in (("label-shared", "shared"), ("label-bits", "bits")):
        known = [r["value"] for r in values(found, "semanticlens", metric).values() if r["value"] is not None]
        assert np.mean(known) == pytest.approx(row[name])
    told_apart = values(found, "semanticlens", "label-discrimination")
    assert told_apart[0]["value"] == told_apart[8]["value"] == 0.5  # the same images
    assert told_apart[1]["value"] > 0.9 and told_apart[10]["value"] is None


def test_kinds_come_from_the_truth_and_neuron_metrics_have_no_method(world):
    index, folder, _ = world
    found = run(index, folder)
    assert {r["kind"] for r in values(found, "semanticlens", "simulation").values()} == {"even", "odd", ""}
    assert values(found, "", "clarity")[0]["value"] > 0.3
    assert values(found, "", "redundancy")[0]["value"] == pytest.approx(1.0, abs=1e-5)  # its twin shares its images


def test_an_evaluation_is_kept_and_a_further_method_computes_that_method_alone(world):
    index, folder, _ = world
    first = run(index, folder, "semanticlens", seed=7)
    runs = index.store.count(schema.RUNS)
    again = run(index, folder, "semanticlens", seed=7)
    assert index.store.count(schema.RUNS) == runs
    assert again.values.equals(first.values)
    more = run(index, folder, "semanticlens", "csp:gamma=0.5", seed=7)
    assert json.loads(index.store.read(schema.RUNS)["settings"].to_pylist()[-1])["methods"] == ["csp:gamma=0.5"]
    assert values(more, "semanticlens", "f1") == values(first, "semanticlens", "f1")
    assert values(more, "csp:gamma=0.5", "f1")[0]["value"] is not None
    other = run(index, folder, "semanticlens", seed=8)
    assert other.settings["split"] != first.settings["split"]
    assert index.store.count(schema.LABELS) == 0  # labels chosen on half of the images are nobody's newest labels


def test_methods_in_one_evaluation_or_several_give_the_same(world):
    index, folder, _ = world
    one = run(index, folder, "csp", "pmi", seed=9)
    apart = run(index, folder, "pmi", seed=9, alpha=0.051)
    for metric in ("simulation", "agreement-exact", "discriminative", "lead"):
        for neuron, row in values(one, "pmi", metric).items():
            assert row["value"] == pytest.approx(values(apart, "pmi", metric)[neuron]["value"]), metric


def test_relabelling_counts_how_often_a_label_stays(world):
    index, folder, _ = world
    found = run(index, folder, resamples=2, seed=4)
    steady = values(found, "semanticlens", "stable-resample")
    assert np.mean([steady[k]["value"] for k in range(8)]) > 0.9
    assert {row["value"] for row in steady.values()} <= {0.0, 0.5, 1.0, None}
    assert values(found, "semanticlens", "stable-seed")[0]["value"] == 1.0
    assert "never fires" in steady[10]["note"]
    assert "resampled images" not in found.skipped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0.01}, "2 images are held out for judging: expected at least 10"),
        ({"held_out": 1.0}, "held-out share is 1.0: expected a number between 0 and 1"),
        ({"choose_on": "train", "judge_on": "test"}, "no image has the split 'train'"),
        ({"choose_on": "train"}, "name the split that chooses and the one that judges"),
        ({"judge": "other"}, "encoder 'other' is not in the index"),
        ({"concepts": ("colour",)}, "no image has the metadata column 'colour'"),
        ({"generator": "python:fakes:painter"}, "imported as arrays"),
        ({"perturb": True}, "imported as arrays"),
        ({"seed": -1}, "seed is -1: expected a whole number"),
        ({"seed": 10**20}, "expected a whole number"),
        ({"controls": "folder"}, "go with an image generator"),
    ],
)
def test_bad_settings_are_told_in_one_line_and_nothing_is_written(world, options, message):
    index, folder, _ = world
    before = index.store.versions()
    with pytest.raises(CspIndexError, match=message) as told:
        run(index, folder, **options)
    assert "\n" not in str(told.value)
    assert index.store.versions() == before


def test_a_truth_file_with_unknown_neurons_is_refused(world, tmp_path):
    index, folder, _ = world
    (tmp_path / "truth.csv").write_text(f"neuron,label\n{LAYER}/0,a\n{LAYER}/99,b\n")
    with pytest.raises(EvaluationError, match="unknown neurons"):
        run(index, folder, truth=tmp_path / "truth.csv")


@pytest.mark.parametrize("methods", [("nonsense",), ("csp:gamma=2",), ("csp:gamma",), ("csp", "csp")])
def test_a_method_that_is_no_method_is_told_before_anything_is_written(world, methods):
    index, folder, _ = world
    before = index.store.versions()
    with pytest.raises(CspIndexError):
        run(index, folder, *methods)
    assert index.store.versions() == before


def test_labels_are_judged_on_images_that_did_not_choose_them(tmp_path):
    """On noise, labels chosen and judged on the same images look better than they are; here they score nothing."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((200, WIDTH)).astype(np.float32)
    np.save(tmp_path / "E.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    np.save(tmp_path / "A.npy", np.abs(rng.standard_normal((200, 60))).astype(np.float32))
    index = open_index(tmp_path / "db")
    index.import_arrays(tmp_path / "A.npy", LAYER, embeddings=tmp_path / "E.npy", logit_scale=30.0)
    options = EvaluationOptions(methods=parse_methods(["mean-centred"]), seed=1)
    found = values(index.evaluate(LAYER, options, vocabulary=CANDIDATES), "mean-centred", "simulation")
    mean = np.mean([row["value"] for row in found.values()])
    assert abs(mean) < 0.03  # on the images that chose them it is about 0.1


def test_detection_by_metadata_and_generated_images(tmp_path):
    images = write_images(tmp_path / "images", 60)
    names = sorted(p.relative_to(images).as_posix() for p in images.rglob("*.png"))
    shown = ["red;round" if i % 3 == 0 else "red" for i in range(len(names))]
    (tmp_path / "m.csv").write_text("path,seen\n" + "".join(f"{n},{s}\n" for n, s in zip(names, shown, strict=True)))
    index = open_index(tmp_path / "db")
    from csp_index import NetworkSource

    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(images, encoders=["python:fakes:encoder"], networks=[network], metadata=tmp_path / "m.csv")
    options = EvaluationOptions(
        methods=parse_methods(["semanticlens"]), concepts=("seen",), generator="python:fakes:painter", generated=4
    )
    words = ["red", "round", "unheard of"]
    found = index.evaluate("net/concepts", options, vocabulary=words, templates="none")
    f1 = values(found, "semanticlens", "f1")
    for row in f1.values():
        if row["text"] == "unheard of":
            assert row["note"] == "the label is not a value of the metadata"
    auc = values(found, "semanticlens", "cosy-auc")
    assert all(row["value"] is None or 0 <= row["value"] <= 1 for row in auc.values())
    assert any(row["value"] is not None for row in auc.values())


def small_index(folder, activations, **options):
    """An index of 60 random images with the given activations [60, M], and 16 candidates."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((len(activations), WIDTH)).astype(np.float32)
    np.save(folder / "E.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    np.save(folder / "A.npy", activations.astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", LAYER, embeddings=folder / "E.npy", **options)
    return index


@pytest.mark.parametrize("activations", [np.zeros((60, 3)), -np.random.default_rng(1).random((60, 2))])
def test_a_layer_without_any_label_has_nulls_with_a_note(tmp_path, activations):
    index = small_index(tmp_path, activations)
    options = EvaluationOptions(methods=parse_methods(["csp", "semanticlens"]), resamples=1)
    found = index.evaluate(LAYER, options, vocabulary=CANDIDATES).values.to_pylist()
    assert found
    assert all(row["value"] is None and row["note"] for row in found if row["method"])


def test_a_constant_neuron_enters_no_mean_of_detection(tmp_path):
    activations = np.concatenate([np.ones((60, 1)), np.random.default_rng(2).random((60, 1))], 1)
    index = small_index(tmp_path, activations)
    options = EvaluationOptions(methods=parse_methods(["random-label"]))
    found = index.evaluate(LAYER, options, vocabulary=CANDIDATES)
    for metric in ("auprc", "auroc", "f1", "balanced-accuracy", "simulation"):
        assert "constant" in values(found, "random-label", metric)[0]["note"]


def test_a_label_found_only_on_images_that_were_left_out_is_not_kept(tmp_path):
    """A neuron that falls dead in a resample does not keep its label, wherever that stands in the vocabulary."""
    rng = np.random.default_rng(4)
    activations = np.zeros((60, 40))
    for neuron in range(40):
        activations[rng.integers(0, 60), neuron] = 1.0  # one image: half of the halves leave it out
    index = small_index(tmp_path, activations)
    shares = []
    for order in (range(WIDTH), reversed(range(WIDTH))):
        rows = list(order)
        texts = CandidateTexts(tuple(TEXTS[i] for i in rows), torch.eye(WIDTH)[rows], key=f"from {rows[0]}")
        options = EvaluationOptions(methods=parse_methods(["semanticlens"]), resamples=2)
        found = values(index.evaluate(LAYER, options, vocabulary=texts), "semanticlens", "stable-resample")
        shares.append([row["value"] for row in found.values()])
    assert shares[0] == shares[1]
    assert {0.0, 1.0} <= set(shares[0])


def test_a_method_that_looks_at_no_image_is_not_called_steady(world):
    index, folder, _ = world
    found = run(index, folder, resamples=1, seed=11)
    steady = values(found, "random-label", "stable-resample")
    assert {steady[k]["note"] for k in range(9)} == {"the method looks at no image"}


def test_an_interrupted_evaluation_keeps_the_methods_it_finished(world, monkeypatch):
    index, folder, _ = world
    from csp_index.evaluation import steps

    evaluate_contrast = steps.evaluate_contrast
    methods: list[str] = []

    def interrupted(context, images, label_texts, examples, method, labels):
        methods.append(method)
        if method == "pmi" and methods.count("pmi") == 1:
            raise KeyboardInterrupt
        evaluate_contrast(context, images, label_texts, examples, method, labels)

    monkeypatch.setattr(steps, "evaluate_contrast", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(index, folder, "csp", "pmi", seed=12)
    found = run(index, folder, "csp", "pmi", seed=12)
    assert methods == ["csp", "pmi", "pmi"]
    assert len(found.settings["runs"]) == 2
    whole = run(index, folder, "csp", "pmi", seed=12, alpha=0.0501)
    for method in ("csp", "pmi"):
        for neuron, row in values(found, method, "simulation").items():
            assert row["value"] == values(whole, method, "simulation")[neuron]["value"]


def test_recomputed_values_replace_the_old_ones(world):
    index = world[0]
    options = EvaluationOptions(methods=parse_methods(["csp"]), seed=13)
    before = index.evaluate(LAYER, options, vocabulary=CANDIDATES)
    rows = index.store.count(schema.EVALUATIONS)
    after = index.evaluate(LAYER, options, vocabulary=CANDIDATES, recompute=True)
    assert index.store.count(schema.EVALUATIONS) == rows
    assert after.run_id > before.run_id
    assert after.values.equals(before.values)


def test_without_a_logit_scale_the_message_names_the_option(tmp_path):
    index = small_index(tmp_path, np.random.default_rng(3).random((60, 2)))
    before = index.store.versions()
    with pytest.raises(CspIndexError, match="logit-scale"):
        index.evaluate(LAYER, vocabulary=CANDIDATES)
    assert index.store.versions() == before
    found = index.evaluate(LAYER, EvaluationOptions(logit_scale=20.0), vocabulary=CANDIDATES)
    assert values(found, "pmi", "simulation")[0]["value"] is not None


def test_other_control_images_give_other_values(tmp_path):
    from csp_index import NetworkSource

    images = write_images(tmp_path / "images", 40)
    controls = write_images(tmp_path / "controls", 6, seed=5)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(images, encoders=["python:fakes:encoder"], networks=[network])
    options = EvaluationOptions(
        methods=parse_methods(["semanticlens"]), generator="python:fakes:painter", controls=str(controls)
    )
    first = index.evaluate("net/concepts", options, vocabulary=["red", "blue"], templates="none")
    write_images(controls, 6, seed=6)
    second = index.evaluate("net/concepts", options, vocabulary=["red", "blue"], templates="none")
    assert values(first, "semanticlens", "cosy-mad") != values(second, "semanticlens", "cosy-mad")
    assert values(first, "semanticlens", "simulation") == values(second, "semanticlens", "simulation")


def test_an_index_that_grew_is_judged_anew(tmp_path):
    index = small_index(tmp_path, np.random.default_rng(3).random((60, 2)))
    options = EvaluationOptions(methods=parse_methods(["csp"]))
    first = index.evaluate(LAYER, options, vocabulary=CANDIDATES)
    (tmp_path / "more").mkdir()
    grown = small_index(tmp_path / "more", np.random.default_rng(3).random((90, 2)))
    second = grown.evaluate(LAYER, options, vocabulary=CANDIDATES)
    assert first.settings["split_key"] != second.settings["split_key"]


def test_two_encoders_one_labels_and_the_other_judges(tmp_path, monkeypatch):
    from csp_index import NetworkSource

    images = write_images(tmp_path / "images", 60)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(images, encoders=["python:fakes:encoder", "python:fakes:other_encoder"], networks=[network])
    asked = {"vocabulary": ["red", "blue", "green"], "templates": "none", "encoder": "python:fakes:encoder"}
    methods = parse_methods(["semanticlens"])
    own = index.evaluate("net/concepts", EvaluationOptions(methods=methods), **asked)
    judge = EvaluationOptions(methods=methods, judge="python:fakes:other_encoder")
    other = index.evaluate("net/concepts", judge, **asked)
    assert own.settings["same_encoder"] and not other.settings["same_encoder"]
    texts = {n: row["text"] for n, row in values(own, "semanticlens", "simulation").items()}
    assert texts == {n: row["text"] for n, row in values(other, "semanticlens", "simulation").items()}
    assert values(own, "semanticlens", "simulation") != values(other, "semanticlens", "simulation")
