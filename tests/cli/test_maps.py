"""`csp-index maps`: maps of chosen neurons are kept, counted, and told as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from made_once import allow_originals, made_once
from spots import spotted

from csp_index import NetworkSource, open_index
from csp_index.cli import cli
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.values.activation_maps import map_blocks, packed


def write(folder: Path) -> None:
    (folder / "photos").mkdir()
    for number, left in enumerate((4, 20)):
        spotted(left, 12).save(folder / "photos" / f"{number}.png")
    network = NetworkSource("python:spots:spot", ("vector",))
    open_index(folder / "db").add_images(folder / "photos", encoders=["python:fakes:encoder"], networks=[network])


def test_maps_of_chosen_neurons_are_kept_and_counted(tmp_path: Path) -> None:
    made_once("maps of a command", write, tmp_path)
    index = allow_originals(open_index(tmp_path / "db"))
    given = ["maps", str(tmp_path / "db"), "--layer", "spot/vector", "--trust", "--device", "cpu"]
    first = CliRunner().invoke(cli, [*given, "--neurons", "0"])
    assert first.exit_code == 0 and first.stdout == "2 maps of 1 neurons of spot/vector were made, by gradients\n"
    assert index.maps("spot/vector/0").frame.made == "gradients"
    again = json.loads(CliRunner().invoke(cli, [*given, "--neurons", "all", "--json"]).stdout)
    counted = {"layer": "spot/vector", "neurons": 2, "maps": 2, "lacking": 0, "made": "gradients"}
    assert again == counted | {"outdated": []}


def test_labels_from_crops_by_other_maps_are_named(tmp_path: Path) -> None:
    made_once("maps of a command", write, tmp_path)
    index = allow_originals(open_index(tmp_path / "db"))
    index.make_maps("spot/vector/0")
    how = {"vocabulary": ["red", "blue"], "templates": "none", "examples": 2}
    index.label("spot/vector/0", "semanticlens", crop=True, **how)
    given = ["maps", str(tmp_path / "db"), "--layer", "spot/vector", "--trust", "--device", "cpu", "--neurons", "all"]
    assert CliRunner().invoke(cli, given).stdout == "2 maps of 2 neurons of spot/vector were made, by gradients\n"
    target = catalog.layer(index.store, LayerKey("spot", "vector"))
    ((numbers, frame, pairs),) = map_blocks(index.store, target)
    turned = replace(pairs, maps=pairs.maps[:, ::-1, ::-1])
    index.store.replace(column_tables.maps_table("spot/vector"), packed(frame, turned, numbers, 0, 2))
    said = CliRunner().invoke(cli, given).stdout.splitlines()
    assert said[-1] == (
        "labels from crops by semanticlens were made by other maps: the command that made them "
        "(csp-index label ... --method semanticlens --crop, with its other options) makes them anew"
    )
    index.label("spot/vector/0", "semanticlens", crop=True, **how)
    assert CliRunner().invoke(cli, given).stdout.count("other maps") == 0
    turned = CliRunner().invoke(cli, [*given, "--recompute", "--json"])
    assert json.loads(turned.stdout)["outdated"] == ["semanticlens"]  # the network does not look across the picture
    index.label("spot/vector/0", "semanticlens", crop=True, **how)
    again = CliRunner().invoke(cli, [*given, "--recompute", "--json"])
    assert json.loads(again.stdout)["outdated"] == []  # made again, they are the same
