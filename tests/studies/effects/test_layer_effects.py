"""Effects on the logits: exact where a linear head reads the layer, by ablation elsewhere; stored, resumed, refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import ablated
import fakes
import numpy as np
import pytest
import tiny_models
from other_process import run_python

from csp_index import Index, NetworkSource, NotFoundError, SettingError, SourceError, open_index
from csp_index.errors import ModelError
from csp_index.models.index_models import Models
from csp_index.records import LayerKey
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECTS
from csp_index.studies.effects import make_effects
from csp_index.studies.effects.image_sample import sampled
from csp_index.studies.effects.stored_effects import LayerEffects, read_effects

IMAGES, LAYER = 30, "net/conv"


def build(folder: Path) -> Index:
    photos = fakes.write_images(folder / "photos", IMAGES)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{'a' if number % 2 else 'b'}/img{number:05d}.png", f"kind {number % 3}") for number in range(IMAGES)]
        csv.writer(file).writerows([("path", "kind"), *rows[:-1]])
    index = open_index(folder / "db", device="cpu")
    networks = [NetworkSource("python:ablated:colors", ("conv", "concepts"), name="net")]
    metadata = folder / "metadata.csv"
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=networks, metadata=metadata, shard_size=13)
    return index


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build(tmp_path_factory.mktemp("effects"))


@pytest.fixture
def index(made: Index, tmp_path: Path) -> Index:
    """A copy of the index, with its images where they were."""
    shutil.copytree(made.uri, tmp_path / "db")
    return open_index(tmp_path / "db", device="cpu", image_roots=[Path(made.uri).parent / "photos"])


def runs(index: Index) -> int:
    return len(index.sql("SELECT 1 FROM runs WHERE command = 'effects'"))


def oracle(index: Index, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return weight x (mean activation on the class - elsewhere) [M, C], and the logits [N, C], in a few lines."""
    head = ablated.colors().head
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    values = np.stack([index.activations(f"{LAYER}/{neuron}") for neuron in range(6)]).astype(np.float64)
    logits = values.T @ weight.T + bias
    owner = logits.argmax(1) if classes is None else classes
    effects = np.full((6, len(bias)), np.nan)
    for number in range(len(bias)):
        inside = owner == number
        if inside.any() and not inside.all():
            effects[:, number] = weight[number] * (
                values[:, inside].mean(1) - values[:, (owner >= 0) & ~inside].mean(1)
            )
    return effects, logits


def test_a_linear_head_gives_exact_effects_which_add_up(index: Index) -> None:
    result = index.effects(LAYER, head="head")
    expected, logits = oracle(index)
    assert (result.by, result.head, result.images, len(result)) == ("linear", "head", IMAGES, 6)
    np.testing.assert_allclose(result.effects, expected, rtol=1e-4, atol=1e-5)
    assert result.check is not None and result.check.images == 16
    assert result.check.difference < 1e-5 * result.check.largest and "exact" in result.how
    chosen = logits.argmax(1)
    for one in result.classes:
        inside = chosen == one.index
        assert one.images == inside.sum()
        if one.images:
            apart = logits[inside, one.index].mean() - logits[~inside, one.index].mean()
            assert result.effects[:, one.index].sum() == pytest.approx(apart, abs=1e-4)
            assert one.logit_on - one.logit_elsewhere == pytest.approx(apart, abs=1e-5)
        else:
            assert np.isnan(result.effects[:, one.index]).all()
    with np.errstate(invalid="ignore"):
        assert not ((result.low > result.effects) | (result.high < result.effects)).any()


@pytest.mark.parametrize("by", ["zero", "mean"])
def test_ablation_of_all_images_gives_the_linear_effects(index: Index, by: Any) -> None:
    expected = oracle(index)[0]
    result = index.effects(LAYER, by=by, head="head", sample=IMAGES)
    assert (result.by, result.check, result.images) == (by, None, IMAGES)
    np.testing.assert_allclose(result.effects, expected, rtol=1e-3, atol=1e-4)
    values = np.stack([index.activations(f"{LAYER}/{neuron}") for neuron in range(6)])
    np.testing.assert_allclose(result.values, 0 if by == "zero" else values.mean(1), atol=1e-5)
    linear = index.effects(LAYER, head="head")
    np.testing.assert_allclose(result.high - result.low, linear.high - linear.low, rtol=1e-2, atol=1e-4)


def test_where_no_linear_head_reads_the_layer_neurons_are_set_to_their_means(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModelError, match=r"not linear: no linear module gives the logits of net; choose --by mean or"):
        index.effects(LAYER, by="linear")  # the network's output is behind a ReLU
    assert runs(index) == 0
    result = index.effects(LAYER, sample=12, seed=3)
    assert result.by == "mean" and "not exact, so neurons are set to their means" in caplog.text
    assert result.images == 12 and result.head == ""
    assert index.effects(LAYER, sample=12, seed=3).settings_hash == result.settings_hash and runs(index) == 1
    other = index.effects(LAYER, sample=12, seed=4)
    assert not np.array_equal(other.effects, result.effects)


def test_a_pooling_that_the_head_does_not_use_is_refused_with_the_difference(tmp_path: Path) -> None:
    index = open_index(tmp_path / "db", device="cpu")
    source = NetworkSource("python:ablated:colors", ("conv",), pool="max", name="net")
    photos = fakes.write_images(tmp_path / "photos", 6)
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=[source])
    with pytest.raises(
        ModelError, match=r"differ from the logits by [\d.]+, of which the largest is .*pooled in another"
    ):
        index.effects(LAYER, by="linear", head="head")
    with pytest.raises(ModelError, match=r"head 'concept' is no module of net \(near: concepts"):
        index.effects(LAYER, head="concept")
    with pytest.raises(ModelError, match=r"conv gives \[2, 6, 8, 8\] for two images"):
        index.effects(LAYER, head="conv")


def test_a_few_neurons_are_computed_and_the_others_added(index: Index) -> None:
    few = index.effects([f"{LAYER}/1", f"{LAYER}/4"], by="zero", sample=8)
    assert few.neurons.tolist() == [1, 4] and index.store.count(EFFECTS) == 2
    every = index.effects(LAYER, by="zero", sample=8)
    assert every.neurons.tolist() == list(range(6)) and index.store.count(EFFECTS) == 6
    np.testing.assert_array_equal(every.effects[[1, 4]], few.effects)
    again = index.effects(LAYER, by="zero", sample=8, recompute=True)
    np.testing.assert_allclose(again.effects, every.effects, atol=1e-6)
    assert (index.store.count(EFFECTS), index.store.count(EFFECT_CLASSES), runs(index)) == (6, 4, 3)


def test_an_interrupted_run_goes_on_where_it_stopped(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    from csp_index.studies.effects import ablated_effects

    monkeypatch.setattr(ablated_effects, "_FIRST", 2)
    monkeypatch.setattr(ablated_effects, "_MOST", 2)
    seen: list[int] = []
    write = make_effects._Work._write

    def stop(work: Any, effects: LayerEffects, *rest: str) -> None:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.extend(effects.neurons.tolist())
        write(work, effects, *rest)

    monkeypatch.setattr(make_effects._Work, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        index.effects(LAYER, by="zero", sample=8)
    kept = read_effects(index.store, LayerKey.parse(LAYER))
    assert kept is not None and kept.neurons.tolist() == [0, 1]
    monkeypatch.setattr(make_effects._Work, "_write", write)
    told: list[tuple[int, int]] = []
    result = index.effects(LAYER, by="zero", sample=8, progress=lambda done, todo, what: told.append((done, todo)))
    assert result.neurons.tolist() == list(range(6)) and told[-1] == (4 * 8, 4 * 8)


def test_classes_are_those_of_a_column_where_one_is_named(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"Kind {number}" for number in range(2)] + [""] * 2
    result = index.effects(LAYER, head="head", column="kind", class_names=names)
    numbers = np.array([*range(1, IMAGES, 2), *range(0, IMAGES, 2)])  # in the order of the images' paths
    kinds = np.where((numbers % 3 == 2) | (numbers == IMAGES - 1), -1, numbers % 3)
    np.testing.assert_allclose(result.effects, oracle(index, kinds)[0], rtol=1e-4, atol=1e-5)
    assert "9 images have a value in kind that names no class of the network, and are left out: 'kind 2'" in caplog.text
    assert [one.name for one in result.classes[:3]] == ["Kind 0", "Kind 1", None]
    assert result.images == 20
    with pytest.raises(NotFoundError, match="no image has the metadata column 'sort'"):
        index.effects(LAYER, head="head", column="sort")
    with pytest.raises(SourceError, match=r"no value of the column 'kind' names one of the 4 classes \(0 to 3, ...\)"):
        index.effects(LAYER, head="head", column="kind", recompute=True, by="zero")
    with pytest.raises(SettingError, match="2 class names are given, and head has 4 logits"):
        index.effects(LAYER, head="head", class_names=["a", "b"])


def test_names_given_later_are_kept_without_computing_again(index: Index, tmp_path: Path) -> None:
    index.effects(LAYER, head="head")
    (tmp_path / "names.txt").write_text("".join(f"n{number}\n" for number in range(4)))
    named = index.effects(LAYER, head="head", class_names=tmp_path / "names.txt")
    assert str(named.classes[3]) == "n3" and index.store.count(EFFECT_CLASSES) == 4
    assert str(index.effects(LAYER, head="head").classes[3]) == "n3" and runs(index) == 2
    with pytest.raises(SourceError, match=r"class names .*nothing.txt cannot be read: No such file"):
        index.effects(LAYER, head="head", class_names=tmp_path / "nothing.txt")


def test_images_that_are_gone_are_left_out_and_none_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = build(tmp_path)
    for number in (1, 3):
        (tmp_path / "photos" / "a" / f"img{number:05d}.png").unlink()
    result = index.effects(f"{LAYER}/0", by="zero", sample=IMAGES)
    assert result.images == IMAGES - 2 and "2 of 30 images of the sample cannot be read and are left out" in caplog.text
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(SourceError, match=r"none of the 30 images of the sample can be read any more .* by --images"):
        index.effects(f"{LAYER}/1", by="zero", sample=IMAGES)
    linear = index.effects(LAYER, by="linear", head="head")
    assert linear.check is not None and linear.check.images == 2 and "two made-up pictures" in caplog.text
    np.testing.assert_allclose(linear.effects, oracle(index)[0], rtol=1e-4, atol=1e-5)


def test_what_has_no_network_or_another_one_is_refused(index: Index, tmp_path: Path) -> None:
    np.save(tmp_path / "A.npy", np.ones((IMAGES, 2), np.float32))
    index.import_arrays(tmp_path / "A.npy", "arrays/layer")
    with pytest.raises(ModelError, match="layer arrays/layer came as arrays: no network says what its neurons do"):
        index.effects("arrays/layer")
    with pytest.raises(SettingError, match="2 layers are named: effects are of the neurons of one layer"):
        index.effects(["net/conv/0", "net/concepts/0"])
    for wrong, said in (({"by": "ones"}, "by is 'ones'"), ({"sample": 1}, "sample is 1"), ({"seed": -1}, "seed is -1")):
        with pytest.raises(SettingError, match=said):
            index.effects(LAYER, **wrong)  # type: ignore[arg-type]


def test_code_that_only_the_index_names_is_not_run(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csp_index.models.trust._given", set())
    with pytest.raises(ModelError, match=r"the index names the model python:ablated:colors, which would run the code"):
        index.effects(LAYER, head="head")


def test_the_head_of_a_classifier_is_loaded_where_the_index_has_its_trunk(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "vit", {0: "tench", 1: "goldfish", 2: "shark"})
    index = open_index(tmp_path / "db", device="cpu")
    source = NetworkSource(f"transformers:{folder}", ("layernorm", "layers.0"), name="vit")
    photos = fakes.write_images(tmp_path / "photos", 8)
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=[source])
    result = index.effects("vit/layernorm")
    assert (result.by, result.head) == ("linear", "classifier")
    assert [one.name for one in result.classes] == ["tench", "goldfish", "shark"]
    with pytest.raises(ModelError, match="differ from the logits by"):
        index.effects("vit/layers.0", by="linear")
    assert index.effects("vit/layers.0/0", by="mean", sample=8).images == 8


def test_a_network_that_changed_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(models: Models, *about: Any, **more: Any) -> Any:
        network = load(models, *about, **more)
        network.identity["weights"] = "other"
        return network

    load = Models._load
    monkeypatch.setattr(Models, "_load", other)
    with pytest.raises(ModelError, match="is not the network the index was built with: its weights is other"):
        index.effects(LAYER, head="head")


def test_the_rows_in_sql_and_as_a_table(index: Index) -> None:
    result = index.effects(LAYER, head="head", class_names=[f"n{number}" for number in range(4)])
    rows = index.sql("SELECT * FROM effects WHERE neuron = 2 AND class_name = 'n1'").rows()
    present = [one.index for one in result.classes if one.images]
    assert len(rows) == 1 and rows[0]["address"] == f"{LAYER}/2" and rows[0]["by"] == "linear"
    stored = index.sql("SELECT class_index, effect FROM effects WHERE neuron = 2 AND effect IS NOT NULL").rows()
    assert [row["class_index"] for row in stored] == present
    assert [row["effect"] for row in stored] == pytest.approx(result.effects[2, present].tolist(), rel=1e-5)
    table = result.to_arrow()
    assert table.num_rows == 6 * len(present) and table["class_name"][0].as_py() == str(
        result.classes[result.strongest(0)[0]]
    )
    first = [abs(value) for value in table["effect"].to_pylist()[: len(present)]]
    assert first == sorted(first, reverse=True)
    assert "<table>" in result._repr_html_()


def test_what_is_stored_is_read_without_torch(index: Index) -> None:
    index.effects(LAYER, head="head")
    said = run_python(
        f"""
        import sys
        from csp_index import open_index
        print(len(open_index({index.uri!r}).effects({LAYER!r}, head="head")), "torch" in sys.modules)
        """
    )
    assert said.stdout.split() == ["6", "False"], said.stderr


def test_a_sample_is_the_same_for_a_seed() -> None:
    ids = np.arange(100)
    assert sampled(ids, 10, 0).tolist() == sampled(ids, 10, 0).tolist() != sampled(ids, 10, 1).tolist()
    assert sampled(ids, 200, 0).tolist() == ids.tolist()


def test_the_command(index: Index, run: Any) -> None:
    said = run(
        "effects", index.uri, "--layer", LAYER, "--neurons", "0,5", "--head", "head", "--top", 2, "--device", "cpu"
    )
    assert said.status == 0 and said.err.splitlines()[-1].startswith(
        "exact: the weights of head x activations, over 30"
    )
    lines = said.out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"{LAYER}/0", f"{LAYER}/5"]
    assert all(len(line.split("\t")) == 3 for line in lines)
    said = run("effects", index.uri, "--layer", LAYER, "--neurons", "0", "--head", "head", "--json")
    (row,) = said.rows
    assert row["neuron"] == f"{LAYER}/0" and row["exact"] and len(row["effects"]) == 3
    said = run("effects", index.uri, "--layer", LAYER, "--by", "linear", "--device", "cpu")
    assert said.status == 1 and said.err.count("\n") == 1 and "not linear" in said.err
