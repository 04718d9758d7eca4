"""The demo, whole: the bars it was designed to meet, on the shipped models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from csp_index import CspIndexError
from csp_index.cli import cli
from csp_index.demo.run import run_demo


@pytest.mark.slow
def test_the_demo_meets_its_bars(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["demo", str(tmp_path / "demo"), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["seconds"] > 0
    biased, unbiased = found["probing"]["biased"], found["probing"]["unbiased"]
    assert biased["csp"]["single"]["top1"] >= 0.80
    assert biased["csp"]["single"]["top1"] - biased["semanticlens"]["single"]["top1"] >= 0.50
    assert biased["contrastive-pmi"]["single"]["top1"] >= 0.75
    assert biased["contrastive-pmi"]["pair"]["top1"] >= 0.80
    assert min(kind["top1"] for kind in unbiased["semanticlens"].values()) >= 0.90
    assert min(kind["n"] for kind in biased["csp"].values()) >= 15
    assert len(list((tmp_path / "demo").glob("card-*.png"))) == 3
    assert "stage1" not in found
    asked = ["demo", str(tmp_path / "demo"), "--json", "--stage1", "captioner"]
    again = json.loads(CliRunner().invoke(cli, asked, catch_exceptions=False).stdout.splitlines()[-1])
    assert again["probing"] == found["probing"]
    captioner = again["stage1"]["captioner"]
    assert captioner["helps"] is True
    assert captioner["gain"]["all"]["low"] > 0
    for method in ("csp", "consensus"):
        assert captioner["scored"][method]["kept"] >= 0.8
        for kind, share in captioner["scored"][method]["vocabulary"].items():
            assert share["top1"] == pytest.approx(biased[method][kind]["top1"])
    once_more = json.loads(CliRunner().invoke(cli, asked, catch_exceptions=False).stdout.splitlines()[-1])
    assert once_more["stage1"]["captioner"] | {"seconds": 0} == captioner | {"seconds": 0}


def test_the_demo_keeps_out_of_other_directories(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CspIndexError, match="not the demo's"):
        run_demo(tmp_path, print)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "mine.txt").unlink()
    (tmp_path / ".demo-seed").write_text("3\n")
    with pytest.raises(CspIndexError, match="demo of seed 3"):
        run_demo(tmp_path, print)
