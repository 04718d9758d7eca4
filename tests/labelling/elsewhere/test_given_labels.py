"""Labels made elsewhere for one layer: what fits, what is said of the rest, and what is refused."""

from __future__ import annotations

import pytest

from csp_index.errors import LabelError
from csp_index.labelling.elsewhere.given_labels import LabelsFile, check_name, read_given
from csp_index.labelling.methods import METHODS
from csp_index.records import LayerKey

LAYER = LayerKey("resnet50", "layer4")


def given(folder, text, neurons=4, name="mine.csv", **options):
    (folder / name).write_text(text)
    return read_given(LabelsFile.parse(folder / name), LAYER, neurons, **options)


def test_the_rows_of_the_layer_are_taken_and_everything_else_is_said_with_a_count(tmp_path):
    found = given(
        tmp_path,
        "layer,unit,description\nlayer4,0,dog\nlayer3,0,cat\nlayer3,1,x\nconv1,0,y\nlayer4,1,\nlayer4,9,z\nlayer4,0,dog\n"
        "resnet50/layer4,2,bird\nlayer4,first,z\n",
    )
    assert {neuron: own[0][0] for neuron, own in found.texts.items()} == {0: "dog", 2: "bird"}
    assert found.layout == "MILAN" and found.file == "mine.csv" and len(found.sha256) == 64
    assert found.notes == (
        "rows of other layers: 3 (layer3, conv1)",
        "rows whose neuron cannot be read: 1 ('first')",
        "rows without a text: 1 (neuron 1)",
        "units that the layer does not have: 1 (9)",
        "texts that a neuron has twice, of which the first counts: 1 (neuron 0: dog)",
        "neurons of the layer without a label: 2 of 4",
    )


@pytest.mark.parametrize(
    "written",
    [
        "2",
        "2.0",
        "unit 2",
        "Neuron #2",
        "unit_2",
        "layer4 unit 2",
        "layer4/2",
        "resnet50/layer4/2",
        "layer4:2",
        "layer4.2",
    ],
)
def test_a_neuron_may_be_written_in_many_ways(tmp_path, written):
    assert list(given(tmp_path, f"neuron,label\n{written},dog\n").texts) == [2]


def test_the_layer_in_an_id_counts(tmp_path):
    found = given(tmp_path, "neuron,label\nlayer3 unit 1,cat\nlayer4 unit 2,dog\n")
    assert list(found.texts) == [2] and "rows of other layers: 1 (layer3)" in found.notes
    vgg = LayerKey("vgg16", "features.43")
    (tmp_path / "le.csv").write_text("layer,unit,label\nfeatures[43],0,dog\n")
    assert list(read_given(LabelsFile.parse(tmp_path / "le.csv"), vgg, 4).texts) == [0]


def test_what_a_file_calls_the_layer_can_be_said(tmp_path):
    text = "layer,unit,description\nblock4,0,dog\nblock3,1,cat\n"
    with pytest.raises(LabelError, match=r"rows of other layers: 2 \(block4, block3\).*--labels-layer"):
        given(tmp_path, text)
    assert list(given(tmp_path, text, layer_name="block4").texts) == [0]


def test_weights_make_a_sum_and_slots_that_are_not_used_are_none(tmp_path):
    found = given(
        tmp_path,
        "unit,weight0,concept0,weight1,concept1,weight2,concept2,bias\n"
        "0,0.2,grass,0.6,dog,0.0,0,0.35\n1,-0.1,sky,0,0,0,0,0.1\n2,nan,a,abc,b,0.5,c,\n3,0,real,0.1,d,0.2,d,\n",
    )
    assert found.weighted and found.bias == {0: 0.35, 1: 0.1}
    assert found.label(0).text == "0.6 dog + 0.2 grass" and found.label(0).bias == 0.35
    assert found.texts[1] == (("sky", -0.1),) and found.label(1).is_sum
    assert found.label(2).text == "c" and found.label(3).text == "d"
    assert found.notes[:3] == (
        "texts whose weight is no finite number, left out: 2 (neuron 2: None, neuron 2: 'abc')",
        "texts of weight 0, which add nothing: 1 (neuron 3: real)",
        "texts that a neuron has twice, of which the first counts: 1 (neuron 3: d)",
    )


def test_a_bias_that_is_no_number_is_said(tmp_path):
    found = given(tmp_path, "unit,weight0,concept0,bias\n0,0.2,grass,abc\n1,0.1,sky,0.5\n2,0.1,sky,\n")
    assert found.bias == {1: 0.5}
    assert "biases that are no finite numbers, taken as 0: 1 (neuron 0: 'abc')" in found.notes


def test_rows_of_one_neuron_with_weights_are_one_sum_and_without_them_alternatives(tmp_path):
    weighted = given(tmp_path, "neuron,label,weight\n0,grass,0.2\n0,dog,0.6\n1,cat,3\n")
    assert weighted.label(0).text == "0.6 dog + 0.2 grass" and weighted.label(1).text == "cat"
    plain = given(tmp_path, "neuron,label\n0,grass\n0,dog\n1,cat\n")
    assert plain.label(0).text == "grass" and [text for text, _ in plain.texts[0]] == ["grass", "dog"]
    assert "neurons with several texts, of which the first is the label: 1" in plain.notes
    scored = given(tmp_path, "unit,description,similarity\n0,grass,0.1\n0,dog,0.4\n")
    assert scored.label(0).text == "dog" and scored.texts[0] == (("dog", 0.4), ("grass", 0.1))
    assert plain.label(3) is None


def test_units_count_from_0_and_a_table_from_1_is_refused_unless_its_project_counts_so(tmp_path):
    with pytest.raises(LabelError, match="numbers its neurons from 1 to 4, and resnet50/layer4 has the neurons 0 to 3"):
        given(tmp_path, "neuron,label\n" + "".join(f"{k},x{k}\n" for k in range(1, 5)))
    rows = "".join(f"{k},object,x{k},0.1,0.1\n" for k in range(1, 5))
    found = given(tmp_path, "unit,category,label,score,object-iou\n" + rows)
    assert {neuron: own[0][0] for neuron, own in found.texts.items()} == {0: "x1", 1: "x2", 2: "x3", 3: "x4"}
    assert "its units count from 1, as Network Dissection does: they are read as 0 on" in found.notes


def test_a_file_that_says_nothing_of_the_layer_is_refused(tmp_path):
    for text, message in (
        (
            "neuron,label\n9,dog\n",
            r"no label for a neuron of resnet50/layer4, which has the neurons 0 to 3: units that",
        ),
        ("neuron,label\n1,\n", "rows without a text: 1"),
        ("neuron,label\n", "it has no rows|cannot be read"),
    ):
        with pytest.raises(LabelError, match=message) as caught:
            given(tmp_path, text)
        assert "\n" not in str(caught.value)
    with pytest.raises(LabelError, match="does not exist"):
        read_given(LabelsFile.parse(tmp_path / "absent.csv"), LAYER, 4)


def test_names_are_those_of_files_or_given_and_never_those_of_methods(tmp_path):
    assert LabelsFile.parse("a/m_base resnet.csv").name == "m_base-resnet"
    assert LabelsFile.parse("le=x/y.csv") == LabelsFile("le", LabelsFile.parse("x/y.csv").path)
    odd = tmp_path / "a=b.csv"
    odd.write_text("neuron,label\n0,x\n")
    assert LabelsFile.parse(odd) == LabelsFile("a-b", odd)
    for name in (*METHODS, "all", "None", "CSP"):
        with pytest.raises(LabelError, match="is a word of csp-index"):
            check_name(name, "x.csv")
    for name in ("", "a:b", "a b", "x" * 61):
        with pytest.raises(LabelError, match="expected at most 60 letters"):
            check_name(name, "x.csv")


def test_files_that_say_the_same_of_a_layer_have_one_digest(tmp_path):
    first = given(tmp_path, "neuron,label\n0,dog\n1,cat\n")
    same = given(tmp_path, "unit,description\n1,cat\n0,dog\n7,far\n", name="other.csv")
    assert first.digest == same.digest and first.sha256 != same.sha256
    assert first.digest != given(tmp_path, "neuron,label\n0,dog\n1,cats\n").digest
