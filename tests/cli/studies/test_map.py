"""`csp-index map`: clusters as lines and as JSON, several layers, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import mapped
import numpy as np
import pytest
from click.testing import CliRunner

from csp_index import open_index
from csp_index.cli import cli


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    index = mapped.make_mapped(folder)
    np.save(folder / "dead.npy", np.zeros((mapped.IMAGES, 3), np.float32))
    index.import_arrays(folder / "dead.npy", "net/dead")
    return folder / "db"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped.without_umap(monkeypatch)


def run(db: Path, *given: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["map", str(db), *given])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_clusters_are_printed_and_how_places_were_made_is_said(db: Path) -> None:
    status, out, err = run(db, "--layer", mapped.LAYER, "--cluster-size", "4")
    assert status == 0
    assert out.splitlines() == [f"net/grouped cluster {one}\t9\t{kind}" for one, kind in enumerate(mapped.KINDS)]
    assert "27 of 28 neurons; 3 clusters with 27 of them, 0 in none. Places by UMAP of the concept vectors" in err
    assert "how far apart distant groups lie says little" in err and "1 neurons that never fire" in err


def test_json_is_an_object_per_layer(db: Path) -> None:
    status, out, _ = run(db, "--layer", mapped.LAYER, "--cluster-size", "4", "--seed", "3", "--json")
    found = json.loads(out)
    assert status == 0 and (found["layer"], found["by"], found["seed"], found["unclustered"]) == (
        mapped.LAYER,
        "umap",
        3,
        0,
    )
    assert [one["name"] for one in found["clusters"]] == list(mapped.KINDS)


def test_of_all_layers_those_that_cannot_be_mapped_are_said(db: Path) -> None:
    status, out, err = run(db, "--cluster-size", "4")
    assert status == 0 and "dog" in out and "no neuron of net/dead fires" in err
    assert run(db, "--layer", "net/dead") == (
        1,
        "",
        "no neuron of net/dead fires and has a concept vector: there is nothing to map",
    )


def test_wrong_options_are_wrong_usage(db: Path) -> None:
    for given in (["--neighbors", "1"], ["--cluster-size", "1"], ["--seed", "-1"]):
        assert run(db, *given)[0] == 2


def test_status_names_the_layers_that_have_a_map(db: Path) -> None:
    run(db, "--layer", mapped.LAYER, "--cluster-size", "4")
    said = {row["layer"]: row["map"] for row in open_index(db).status()["layers"]}
    assert said == {mapped.LAYER: {"by": "umap", "placed": 27, "clusters": 3}, "net/dead": None}
    printed = CliRunner().invoke(cli, ["status", str(db)]).stdout
    assert "layer net/grouped: 28 neurons (1 dead), pool none, 240 images, ready, map of 27 neurons" in printed
