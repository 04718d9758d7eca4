"""One image on which a model fails is a failure by its name; the others are indexed as without it."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from fragile_networks import FRAGILE
from indexed import ENCODER
from PIL import Image
from torch import Tensor, nn

from csp_index import NetworkSource, open_index
from csp_index.errors import ModelError


def nothing() -> nn.Module:
    return Nothing()


class Nothing(fakes.FakeNetwork):
    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.concepts(self.head(self.conv(pixels).mean((2, 3))) / 0)
        return out


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 11)


def spoil(images: Path) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(images / "a" / "img00004_red.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(images / "b" / "img00002_blue.png")


def test_bad_images_are_failures_by_name_and_the_shards_are_full(images: Path, tmp_path: Path) -> None:
    index = open_index(tmp_path / "sound")
    index.add_images(images, encoders=[ENCODER], networks=[FRAGILE], shard_size=4)
    spoil(images)
    spoiled = open_index(tmp_path / "spoiled")
    summary = spoiled.add_images(images, encoders=[ENCODER], networks=[FRAGILE], shard_size=4)
    assert (summary.added, summary.failed, summary.shards) == (11, 2, 3)
    rows = {Path(r["uri"]).name: r["reason"] for r in spoiled.sql("SELECT * FROM failures").to_arrow().to_pylist()}
    assert set(rows) == {"img00004_red.png", "img00002_blue.png"}
    assert "not finite" in rows["img00004_red.png"] and "no blue, please" in rows["img00002_blue.png"]
    for query in ("SELECT image_id, uri, shard FROM images ORDER BY image_id", "SELECT COUNT(*) AS n FROM neurons"):
        assert spoiled.sql(query).to_arrow() == index.sql(query).to_arrow()
    assert spoiled.add_images(images).added == 0  # and they are tried again, with the same outcome


def test_a_model_that_fails_on_every_image_ends_the_pass(images: Path, tmp_path: Path) -> None:
    broken = NetworkSource(f"python:{__name__}:nothing", ("concepts",), name="net")
    with pytest.raises(ModelError, match="gave values that are not finite, first near"):
        open_index(tmp_path / "db").add_images(images, encoders=[ENCODER], networks=[broken])
