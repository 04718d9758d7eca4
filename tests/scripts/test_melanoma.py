"""The case study end to end on drawn lesions in the published layout, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from PIL import Image

from csp_index import open_index
from csp_index.errors import ModelError, SourceError

FOLDER = ROOT / "scripts" / "melanoma"


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(FOLDER))
    yield


def study(drawn: Path, out: Path, *more: str) -> int:
    import melanoma
    from drawn_lesions import IMAGES, METADATA, WEIGHTS

    given = ["--layer", "pooled", "--encoder", "python:drawn_models:encoder", "--templates", "none", "--out", str(out)]
    if "--network" not in more:
        given += ["--network", str(drawn / WEIGHTS), "--architecture", "python:drawn_models:network"]
    return melanoma.main([str(drawn / IMAGES), str(drawn / METADATA), *given, "--device", "cpu", *more])


def drawn_set(folder: Path, count: int, *, even: bool = False) -> Path:
    from drawn_lesions import WEIGHTS, write_set
    from drawn_models import write_weights

    write_weights(write_set(folder, count, even=even, dicom=True) / WEIGHTS)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_neuron_that_sees_the_patch_is_the_first_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom")
    from drawn_models import PATCH_NEURON

    drawn = drawn_set(tmp_path / "drawn", 400)
    assert study(drawn, tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "index: 400 images, 400 of them new, 0 unreadable" in told, "DICOM files among them"
    assert "lesion_id is not looked at" in told
    neuron = f"network/pooled/{PATCH_NEURON}"
    findings = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    first = findings[0]
    found = [first[name] for name in ("neuron", "kind", "class_name", "subject", "above")]
    assert found == [neuron, "unexpected-label", "NV", "colored patch", True]
    assert not any(one["above"] for one in findings if one["neuron"] != neuron)
    assert "colored patch" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    own = {row["class"]: row for row in rows_of(tmp_path / "out" / "classes.csv") if row["neuron"] == neuron}
    assert own.keys() == {"MEL", "NV", "BKL", "VASC"}
    assert own["NV"]["within"] == "colored patch", "it sets apart the nevi that fire the neuron from other nevi"
    index = open_index(tmp_path / "out" / "index.db")
    before = index.sql("SELECT count(*) AS n FROM runs").to_arrow().to_pylist()
    assert study(drawn, tmp_path / "out") == 0, "a second run only reads"
    after = open_index(tmp_path / "out" / "index.db").sql("SELECT count(*) AS n FROM runs").to_arrow().to_pylist()
    assert after[0]["n"] - before[0]["n"] <= 1, "the pass over the images, which finds them all"


@pytest.mark.slow
def test_patches_that_leak_no_class_are_no_finding(tmp_path: Path) -> None:
    drawn = drawn_set(tmp_path / "drawn", 400, even=True)
    assert study(drawn, tmp_path / "out") == 0
    findings = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    assert not any(one["above"] for one in findings)


def test_the_set_has_the_published_layout(tmp_path: Path) -> None:
    from drawn_lesions import CODES, LEAKED, METADATA, TRUTH, write_set

    write_set(tmp_path, 40)
    truth, about, drawn = (rows_of(tmp_path / name) for name in (TRUTH, METADATA, "drawn.csv"))
    assert tuple(truth[0]) == ("image", *CODES)
    assert tuple(about[0]) == ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
    assert all(sum(float(row[code]) for code in CODES) == 1 for row in truth)
    assert any(not row["lesion_id"] for row in about), "empty cells"
    assert sorted(path.stem for path in (tmp_path / "images").iterdir()) == [row["image"] for row in truth]
    shares = {
        leaked: np.mean(
            [int(one["patch"]) for one, row in zip(drawn, truth, strict=True) if (row[LEAKED] == "1.0") is leaked]
        )
        for leaked in (True, False)
    }
    assert shares[True] > 0.3 > shares[False]


@pytest.mark.parametrize(
    ("artefact", "word"), [("patch", "colored patch"), ("ruler", "ruler"), ("ink", "ink marking"), ("hair", "hair")]
)
def test_the_planted_encoder_sees_what_is_drawn(artefact: str, word: str) -> None:
    from drawn_lesions import Lesion, draw
    from drawn_models import encoder

    planted = encoder()
    images = [
        Image.fromarray(np.rint(255 * draw(Lesion("NV", frozenset(own)), (3, number))).astype(np.uint8))
        for number in range(8)
        for own in ((), (artefact,))
    ]
    vectors = planted.embed_images(torch.stack([planted.preprocess(image) for image in images]))
    likeness = vectors @ planted.embed_texts([word])[0]
    assert (likeness[1::2] > likeness[::2] + 0.1).all()


def test_words_are_read_and_no_artefact_is_expected() -> None:
    from csp_index.labelling.vocabularies import load_vocabulary
    from csp_index.studies.auditing.expected import ExpectedConcepts

    words, artefacts = (load_vocabulary(FOLDER / name).texts for name in ("lesion_words.txt", "artefact_words.txt"))
    assert not [text for text in artefacts if ExpectedConcepts(words).covers(text)]
    assert {"ruler", "ink marking", "hair", "colored patch", "vignette"} <= set(artefacts)


def options(**values: object) -> object:
    from argparse import Namespace

    return Namespace(**{"layer": "pooled", "architecture": None, "out": Path("out")} | values)


def test_a_weight_file_needs_its_architecture(tmp_path: Path) -> None:
    import melanoma

    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"w\.pt has weights: name the network they are of, as --architecture timm:"):
        melanoma.network_source(options(network=str(tmp_path / "w.pt")), ["MEL"])
    with pytest.raises(ModelError, match=r"no weight file missing\.pt is there"):
        melanoma.network_source(options(network="missing.pt", architecture="timm:resnet18"), ["MEL"])


def test_weights_of_a_timm_network_become_a_directory_with_names(tmp_path: Path) -> None:
    import melanoma
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    given = {"network": str(tmp_path / "w.safetensors"), "architecture": "timm:test_resnet", "out": tmp_path}
    source = melanoma.network_source(options(**given), ["benign", "malignant"])
    from csp_index.models.zoo import load_module

    loaded = load_module(source.spec, None, whole=True)
    assert loaded.classes == {0: "benign", 1: "malignant"}
    with pytest.raises(ModelError, match=r"name others by --classes"):
        melanoma.network_source(options(**given), ["one", "two", "three"])


def test_the_table_of_classes_is_looked_for_beside_the_metadata(tmp_path: Path) -> None:
    import melanoma

    for name in ("ISIC_2019_Training_Metadata.csv", "other.csv"):
        with pytest.raises(SourceError, match=r"no table of classes is beside .*; name it by --truth"):
            melanoma.truth_beside(tmp_path / name)
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text("image,MEL\n")
    found = melanoma.truth_beside(tmp_path / "ISIC_2019_Training_Metadata.csv")
    assert found.name == "ISIC_2019_Training_GroundTruth.csv"
