"""Published tables of labels: the first lines of each project's own files, and others that people write."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from csp_index.errors import LabelError
from csp_index.labelling.elsewhere.layouts import read_label_table

#: The first lines of the projects' own files, cut to three slots of Linear Explanations' ten.
LINEAR = """layer,unit,val correlation,weight0,concept0,weight1,concept1,weight2,concept2,bias,sim correlation
layer1,0,0.0555160149440831,0.053063475,fishpond,0.0,0,0.0,0,0.3501156568527221,0.08754115551710129
layer1,1,0.1291204641142764,0.06309302,swamp,0.061775032,formal garden,0.054039188,"arena, performance",0.44,0.1278
layer1,15,0.0891297940927223,0.07532376,bamboo forest,-0.044901814,alcove,0.0,0,0.3591414093971252,0.135079592
"""
CLIP_DISSECT = "layer,unit,description,similarity\nconv1,0,red,0.25616455\nlayer1,0,purple,0.4395752\n"
BASELINE = 'unit,description,sim correlation\n0,green color,-0.010446\n1,"polka, dotted",0.024156\n'
MILAN = 'layer,unit,description\nlayer4,1677,Items that are curved\nlayer4,1748,"Long, thin objects"\n'
PEOPLE = "layer,unit,summary\nlayer3,226,a person wearing a facemask\nlayer3,226,areas with repetitive patterns\n"
DND = "Neuron ID,Label 1,Label 2,Label 3\n84,repetitive black and white stripes, , \n6,black and white patterns,,\n"
DISSECTED = (
    "unit,category,label,score,color-label,color-truth,color-activation,color-intersect,color-iou\n"
    "1,color,purple-c,0.092690783,purple-c,10857154,3743342,1238531,0.092690783\n"
    "29,scene,ball_pit-s,0.049422464,red-c,21004512,3759330,450016,0.018508646\n"
)


def read(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return read_label_table(folder / name)


def test_linear_explanations_have_weights_a_bias_and_slots_that_are_not_used(tmp_path):
    table = read(tmp_path, LINEAR)
    assert (table.layout, table.weighted, table.first) == ("Linear Explanations", True, 0)
    first, second, third = table.rows
    assert (first.layer, first.neuron, first.bias) == ("layer1", 0, 0.3501156568527221)
    assert first.texts == (("fishpond", 0.053063475), ("0", 0.0), ("0", 0.0))
    assert second.texts[2] == ("arena, performance", 0.054039188)
    assert third.texts[1] == ("alcove", -0.044901814)


@pytest.mark.parametrize(
    ("text", "layout", "rows"),
    [
        (CLIP_DISSECT, "CLIP-Dissect", [("conv1", 0, ["red"], 0.25616455), ("layer1", 0, ["purple"], 0.4395752)]),
        (BASELINE, "table", [(None, 0, ["green color"], None), (None, 1, ["polka, dotted"], None)]),
        (
            MILAN,
            "MILAN",
            [("layer4", 1677, ["Items that are curved"], None), ("layer4", 1748, ["Long, thin objects"], None)],
        ),
        (
            PEOPLE,
            "MILAN",
            [
                ("layer3", 226, ["a person wearing a facemask"], None),
                ("layer3", 226, ["areas with repetitive patterns"], None),
            ],
        ),
        (
            DND,
            "Describe-and-Dissect",
            [
                (None, 84, ["repetitive black and white stripes", "", ""], None),
                (None, 6, ["black and white patterns", "", ""], None),
            ],
        ),
    ],
)
def test_tables_without_weights(tmp_path, text, layout, rows):
    table = read(tmp_path, text)
    assert (table.layout, table.weighted, table.first) == (layout, False, 0)
    assert [(row.layer, row.neuron, [text for text, _ in row.texts], row.score) for row in table.rows] == rows


def test_network_dissection_counts_from_1_and_marks_categories(tmp_path):
    table = read(tmp_path, DISSECTED)
    assert (table.layout, table.first) == ("Network Dissection", 1)
    assert [row.texts[0][0] for row in table.rows] == ["purple color", "ball pit"]


def test_a_table_of_ones_own_as_csv_tsv_json_lines_and_parquet(tmp_path):
    columns = {"neuron": [3, 5], "label": ["a b", "c"], "weight": [0.5, None]}
    expected = [(3, (("a b", 0.5),)), (5, (("c", None),))]
    (tmp_path / "a.csv").write_text("neuron,label,weight\n3,a  b,0.5\n5,c,\n")
    (tmp_path / "b.tsv").write_text("Neuron\tLabel\tWeight\n3\ta b\t0.5\n5\tc\t\n")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "e.parquet")
    for name in ("a.csv", "b.tsv", "c.json", "d.jsonl", "e.parquet"):
        table = read_label_table(tmp_path / name)
        assert table.weighted, name
        assert [(row.neuron, row.texts) for row in table.rows] == expected, name


def test_plain_json_from_neurons_to_texts_and_as_a_list(tmp_path):
    named = read(tmp_path, '{"m/l/4": "red", "7": ["a", "b"]}', "a.json")
    assert [(row.neuron, [text for text, _ in row.texts]) for row in named.rows] == [
        ("m/l/4", ["red"]),
        ("7", ["a", "b"]),
    ]
    listed = read(tmp_path, '["red", null, ["a"]]', "b.json")
    assert [(row.neuron, [text for text, _ in row.texts]) for row in listed.rows] == [
        (0, ["red"]),
        (1, [""]),
        (2, ["a"]),
    ]


def test_maia_writes_a_folder_per_unit(tmp_path):
    def unit(place, **files):
        folder = tmp_path / "claude" / "resnet152" / place
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content)

    said = [
        {"role": "user", "content": [{"type": "text", "text": "write [LABEL 1]: <label 1>"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "[DESCRIPTION]: it fires\n[LABEL 1]: dogs\n[LABEL 2]: cars"}],
        },
    ]
    unit("layer4/122", label_txt='"bow ties"\nmore', description_txt="neckwear of men")
    unit("layer4/9", history_json=json.dumps(said), description_txt="it fires")
    unit("layer3/7", description_txt="grass surrounding animals")
    unit("layer3/8", history_json="[]")
    table = read_label_table(tmp_path)
    assert table.layout == "MAIA"
    rows = {(row.layer, row.neuron): [text for text, _ in row.texts] for row in table.rows}
    assert rows == {
        ("layer4", "122"): ["bow ties"],
        ("layer4", "9"): ["dogs", "cars"],
        ("layer3", "7"): ["grass surrounding animals"],
        ("layer3", "8"): [""],
    }
    (tmp_path / "claude" / "resnet152" / "layer3" / "8" / "history.json").write_text("{")
    with pytest.raises(LabelError, match="cannot be read"):
        read_label_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,dog\n1,cat\n", r"no column that says which neuron a row is about \(has: 0, dog\): expected neuron,label"),
        ("neuron,activation\n0,1\n", r"no column that says the label \(has: neuron, activation\)"),
        ("", "the labels file .* cannot be read"),
    ],
)
def test_a_table_of_another_kind_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(LabelError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(LabelError, match="has no labels: expected folders LAYER/UNIT"):
        read_label_table(tmp_path)
