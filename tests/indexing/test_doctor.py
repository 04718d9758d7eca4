"""doctor in Python: what the command reports, as values, text and HTML; also of objects in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from indexed import ENCODER, NETWORK

import csp_index
from csp_index.errors import SettingError
from csp_index.indexing.doctor.report import DoctorReport, IndexReport, LayerTrial, Listing, StoredLayer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    fakes.write_images(folder / "images", 12)
    (folder / "images" / "notes.txt").write_text("no picture")
    csp_index.open_index(folder / "db").add_images(folder / "images", encoders=[ENCODER], networks=[NETWORK])
    return folder


class Pairs:
    """An iterable that begins anew each time."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((f"p{number}", image) for number, image in enumerate(self._images))


def without_time(report: Any) -> dict[str, Any]:
    values = asdict(report) if isinstance(report, DoctorReport) else report
    timed = {"images_per_second": None}
    expected = values["expected"] and values["expected"] | {"seconds": None}
    return values | {"trial": values["trial"] | timed, "expected": expected}


def untupled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: untupled(one) for name, one in value.items()}
    return [untupled(one) for one in value] if isinstance(value, list | tuple) else value


def test_a_source_is_reported_as_by_the_command(run, world) -> None:
    report = csp_index.doctor(world / "images", encoders=[ENCODER], networks=[NETWORK], sample=5)
    command = ["--encoder", ENCODER, "--network", NETWORK.spec, "--layers", "conv,concepts", "--name", "net"]
    said = run("doctor", world / "images", *command, "--sample", "5", "--json")
    assert untupled(without_time(report)) == without_time(said.rows[0])
    assert type(report) is DoctorReport and report.works and report.trial.tried == 5
    lines = str(report).splitlines()
    assert lines[0].endswith("images: 12 images (12 .png)") and lines[-1] == "everything would work"


def test_an_index_is_reported_by_its_method_and_by_the_function(run, world) -> None:
    index = csp_index.open_index(world / "db")
    reports = [index.doctor(), csp_index.doctor(world / "db")]
    said = run("doctor", world / "db", "--json").rows[0]
    for report in reports:
        assert isinstance(report, IndexReport) and report.works
        assert untupled(without_time(report)) == without_time(said)
    added = index.doctor(encoders=["python:fakes:other_encoder"], sample=3)
    assert added.works and added.trial.tried == 3 and added.expected is not None
    wrong = index.doctor(networks=[csp_index.NetworkSource("python:fakes:network", ("nothing",), name="net")])
    assert not wrong.works and "layer 'nothing'" in wrong.problems[0]


def test_objects_in_memory_are_tried_and_a_stream_is_not_consumed() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    network = csp_index.Network(fakes.network(), ["concepts"], preprocess=fakes.network().preprocess, name="mine")
    report = csp_index.doctor(images, encoders=[ENCODER], networks=[network], name="noise")
    assert report.problems == [] and report.listing.kinds == {"in memory": 9}
    assert [model.name for model in report.trial.models] == [ENCODER, "mine"]
    assert report.trial.models[1].layers[0].neurons == 10
    absent = csp_index.Network(fakes.network(), ["nothing"], preprocess=fakes.network().preprocess, name="mine")
    assert "layer 'nothing'" in csp_index.doctor(images, networks=[absent], name="noise").problems[0]
    stream = iter([("a", images[0]), ("b", images[1])])
    refused = csp_index.doctor(stream, encoders=[ENCODER], name="once")
    assert "can be read only once" in refused.problems[0]
    assert next(stream)[0] == "a"
    twice = csp_index.doctor(Pairs(images), encoders=[ENCODER], name="twice", sample=4)
    assert twice.problems == [] and (twice.listing.images, twice.trial.read) == (9, 4)


def test_arguments_that_do_not_go_together_are_refused(world) -> None:
    with pytest.raises(SettingError, match="sample is 0"):
        csp_index.doctor(world / "images", sample=0)
    with pytest.raises(SettingError, match="metadata is for a source of images"):
        csp_index.doctor(world / "db", metadata="x.csv")


def test_a_notebook_shows_a_report_as_text() -> None:
    report = DoctorReport(Listing("<b>here</b>", 3, {".png": 3}), problems=["a <i>layer</i> \x1b[2J"])
    page = report._repr_html_()
    assert page.startswith("<p><b>1 problem</b></p><ul><li>a &lt;i&gt;layer&lt;/i&gt; \\x1b[2J</li></ul><pre>")
    assert "&lt;b&gt;here&lt;/b&gt;: 3 images (3 .png)" in page and "\x1b" not in page


def test_dead_always_on_and_constant_neurons_are_told_by_their_extremes() -> None:
    least, most = np.array([0.0, -1.0, 0.5, 2.0, -3.0]), np.array([0.0, 1.0, 0.7, 2.0, -3.0])
    for layer in (
        LayerTrial("l", "ReLU", (5,), (1,), "none", 5),
        StoredLayer("m/l", "timm:x", 5, "none", "float32", 9),
    ):
        shares = layer.with_shares(least, most)
        assert (shares.dead, shares.always_on, shares.constant) == (0.4, 0.4, 0.2)
