"""Label files as they lie about: read as what they are, said what was guessed, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csp_index.errors import LabelError
from csp_index.labelling.vocabularies import load_vocabulary

THREE = ("tench, Tinca tinca", "goldfish", "great white shark")


def written(tmp_path: Path, name: str, content: object) -> Path:
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", list(THREE)),
        ("list.txt", list(THREE)),
        ("imagenet_class_index.json", {str(n): [f"n0144{n:04d}", text] for n, text in enumerate(THREE)}),
        ("unsorted.json", {str(n): THREE[n] for n in (2, 0, 1)}),
        ("label2id.json", {THREE[n]: n for n in (1, 2, 0)}),
        ("synsets.json", {f"n0144{n:04d}": text for n, text in enumerate(THREE)}),
        ("to_synset.json", {text: f"n0144{n:04d}" for n, text in enumerate(THREE)}),
        ("pairs.json", [[f"n0144{n:04d}", text] for n, text in enumerate(THREE)]),
        ("config.json", {"hidden_size": 8, "id2label": {str(n): text for n, text in enumerate(THREE)}}),
        ("coco.json", {"images": [], "categories": [{"id": n, "name": text} for n, text in enumerate(THREE)]}),
        ("lines.jsonl", "\n".join(json.dumps({"id": n, "label": text}) for n, text in enumerate(THREE))),
        ("strings.jsonl", "\n".join(map(json.dumps, THREE))),
        ("clsidx_to_labels.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: 'great white shark'}\n"),
        ("data.yaml", "path: x\nnames:\n  0: tench, Tinca tinca\n  1: goldfish\n  2: great white shark\n"),
        ("list.yml", "- tench, Tinca tinca\n- goldfish\n- great white shark\n"),
        ("synset_words.txt", "".join(f"n0144{n:04d} {text}\n" for n, text in enumerate(THREE))),
        ("numbered.txt", "".join(f"{n}: {text}\n" for n, text in enumerate(THREE))),
        ("from_one.txt", "".join(f"{n + 1} {text}\n" for n, text in enumerate(THREE))),
        ("comments.txt", "# classes of a network\n" + "\n".join(THREE)),
        ("names_with_commas.txt", "\r\n".join(THREE)),
        ("old_mac.txt", "\r".join(THREE)),
        ("blank_at_the_end.txt", "\n".join(THREE) + "\n\n \n"),
        ("items.md", "".join(f"- {text}\n" for text in THREE)),
        ("equals.txt", "".join(f"{n}={text}\n" for n, text in enumerate(THREE))),
        ("some.txt", "".join(f"{n * n + 3}: {text}\n" for n, text in enumerate(THREE))),
        ("numbers_last.txt", "".join(f"{text}\t{n}\n" for n, text in enumerate(THREE))),
        ("twice.txt", "".join(f"{n + 1} {n + 1:03}.{text}\n" for n, text in enumerate(THREE))),
        ("open_images.txt", "".join(f"/m/01{n}k07,{text}\n" for n, text in enumerate(THREE))),
        ("some_quoted.csv", f'"{THREE[0]}"\n{THREE[1]}\n{THREE[2]}\n'),
        ("quoted.csv", "labels\n" + "".join(f'"{text}"\n' for text in THREE)),
        ("synonyms.json", [[THREE[0]], list(THREE[1:])]),
    ],
)
def test_labels_are_read_whatever_the_file(tmp_path, name, content):
    assert load_vocabulary(written(tmp_path, name, content)).texts == THREE


def test_concepts_by_class_are_the_concepts(tmp_path, caplog):
    path = written(tmp_path, "c.json", {"tench": ["fins", "a green body"], "goldfish": ["orange scales", "fins"]})
    assert load_vocabulary(path).texts == ("fins", "a green body", "orange scales")
    assert "the labels are the 4 concepts of its 2 classes" in caplog.text


def test_places_are_read_without_their_folders(tmp_path):
    path = written(tmp_path, "categories_places365.txt", "/a/airfield 0\n/a/alley 1\n/b/bank/indoor 2\n")
    assert load_vocabulary(path).texts == ("airfield", "alley", "bank/indoor")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("numbered.txt", "0: tench\n1: goldfish\n", "numbers before the labels are left out"),
        ("synsets.txt", "n01440764 tench\nn01443537 goldfish\n", "the ids before the labels are left out"),
        ("comments.txt", "# mine\ntench\n", "1 comment lines"),
        ("one.csv", "label\ntench\ngoldfish\n", "'label', is the name of the column"),
        ("one.txt", "tench, Tinca tinca\n", "its only line is taken as one label"),
        ("twice.txt", "crane\ntench\nCrane\n", "labels that repeat others and are merged: 1"),
        (
            "by_class.json",
            '{"crane": ["beak"], "crane": ["hook"]}',
            "names that are there twice, of which the last counts: 1",
        ),
        ("items.txt", "- tench\n- goldfish\n", "the dashes before the labels are left out"),
        ("config.json", {"id2label": {"0": "tench"}}, "those under 'id2label'"),
    ],
)
def test_what_was_guessed_is_said(tmp_path, caplog, name, content, message):
    load_vocabulary(written(tmp_path, name, content))
    assert message in caplog.text and name in caplog.text


@pytest.mark.parametrize(
    "lines",
    ["tench\ngoldfish\n", "7 dwarfs\n101 dalmatians\n", "3d glasses\n", "#hashtag\nred\n", "5:4 crop\n16:9 crop\n"],
)
def test_a_plain_list_is_taken_as_it_stands(tmp_path, caplog, lines):
    assert load_vocabulary(written(tmp_path, "v.txt", lines)).texts == tuple(lines.splitlines())
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"tench": "a green fish", "goldfish": "an orange fish"}),
        ("a.json", {"lr": 0.1, "epochs": 3}),
        ("a.json", 7),
        ("a.json", "null"),
        ("a.json", []),
        ("a.json", {}),
        ("a.json", [1, 2]),
        ("a.json", [{"id": 1}]),
        ("a.json", [["a", 1], ["c"]]),
        ("a.json", {"0": "n01440764", "1": "n01443537"}),
        ("wnids.txt", "n01440764\nn01443537\n"),
        ("mids.txt", "/m/011k07\n/m/011q46kg\n"),
        ("label_map.pbtxt", "item {\n  id: 1\n  name: 'person'\n}\n"),
        ("a.toml", "names = ['cat', 'dog']\n"),
        ("a.txt", "cat, dog, cow\n"),
        ("a.txt", "'cat', 'dog'\n"),
        ("a.xml", "<annotation>\n<name>cat</name>\n"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        ("a.csv", "id;name\n0;cat\n1;dog\n"),
        ("a.json", "{'a': __import__('os').getcwd()}"),
        ("a.json", '["tench", '),
        ("a.json", "[" * 100_000),
        ("a.json", '{"a":' * 100_000),
        ("a.txt", '"tench",\n"goldfish",\n"shark"\n'),
        ("a.txt", "<!DOCTYPE html>\n<html>\n"),
        ("a.txt", "import os\nlabels = 3\n"),
        ("a.txt", "tench\0goldfish\n"),
        ("a.yaml", "a: [1, 2]\nb: !!python/object/apply:os.getcwd []\n"),
        ("a.yaml", "learning_rate: 0.1\n"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path, name, content):
    with pytest.raises(LabelError) as caught:
        load_vocabulary(written(tmp_path, name, content))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_an_empty_label_is_named_by_its_place(tmp_path):
    with pytest.raises(LabelError, match="empty label in line 2"):
        load_vocabulary(written(tmp_path, "v.json", ["tench", " ", "shark"]))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_lists_in_other_encodings(tmp_path, caplog, encoding):
    (tmp_path / "v.txt").write_bytes("café\ntench\n".encode(encoding))
    assert load_vocabulary(tmp_path / "v.txt").texts == ("café", "tench")
    assert ("Windows-1252" in caplog.text) == (encoding == "cp1252")


@pytest.mark.parametrize("data", [b"\x80\x04\x95\x10", b"\x93NUMPY\1\0v\0{", b"\x1f\x8b\x08\0abc", b"a\xff\x00"])
def test_bytes_are_no_labels(tmp_path, data):
    (tmp_path / "v.txt").write_bytes(data)
    with pytest.raises(LabelError, match="cannot be read as text"):
        load_vocabulary(tmp_path / "v.txt")


def test_a_column_of_a_table_with_another_separator(tmp_path):
    path = written(tmp_path, "t.csv", "id;name\n0;tench, Tinca tinca\n1;goldfish\n")
    assert load_vocabulary(f"{path}:name").texts == ("tench, Tinca tinca", "goldfish")
