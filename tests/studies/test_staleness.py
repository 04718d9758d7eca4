"""What is said of stored results that the index has outgrown: images, metadata, values; nothing while it has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from classed import make_classed

from csp_index.records import LayerKey
from csp_index.studies import staleness
from csp_index.studies.classes.associations import find_class_set
from csp_index.studies.meanings.formulas import read_formulas

IMAGES, LAYER = 60, "net/layer"


def test_metadata_joined_since_may_have_changed_the_columns(tmp_path: Path) -> None:
    index, _ = make_classed(tmp_path, IMAGES, [{"kind": "ab"[image % 2]} for image in range(IMAGES)])
    index.associations(LAYER, "kind")
    index.formulas(f"{LAYER}/0", by=["kind"])

    def said() -> list[str]:
        key = LayerKey.parse(LAYER)
        formulas = read_formulas(index.store, key)
        assert formulas is not None
        return [one.about(index.store) for one in (formulas, find_class_set(index.store, key))]

    assert said() == ["", ""]
    rows = [{"path": f"{image:05d}.png", "kind": "ba"[image % 2]} for image in range(IMAGES)]
    (tmp_path / "kinds.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    index.add_metadata(tmp_path / "kinds.jsonl", replace=True)
    other = "made when the values of 'kind' may have been others: run `csp-index {}` again"
    assert said() == [other.format("formulas"), other.format("associations")]


def test_a_run_may_say_anything(tmp_path: Path, monkeypatch: Any) -> None:
    index, _ = make_classed(tmp_path, IMAGES, [{"kind": "ab"[image % 2]} for image in range(IMAGES)])
    for settings, expected in (
        ({}, ""),
        ({"columns": 3, "digests": []}, ""),
        ({"columns": [7, {"by": ["kind"]}]}, "made when the values of \"['kind']\" may have been others"),
        ({"by": "outputs:no/layer"}, "made when the values of 'outputs:no/layer' may have been others"),
        ({"digests": {"gone": "x"}}, "made of other activations or embeddings than the index has now"),
    ):
        monkeypatch.setattr(staleness, "_settings", lambda *_, settings=settings: settings)
        told = staleness.outgrown(index.store, LayerKey.parse(LAYER), IMAGES, "run", "facets")
        assert told == (expected and f"{expected}: run `csp-index facets` again")
