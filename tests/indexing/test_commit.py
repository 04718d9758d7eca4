"""What an indexing pass did, as a notebook shows it; the commit itself is tested with the passes that use it."""

from __future__ import annotations

import pytest

from csp_index.errors import AddressError
from csp_index.indexing.commit import IndexSummary, layer_table
from csp_index.records import LayerKey


@pytest.mark.parametrize(
    "key", [("net", "conv\n1"), ("net", "."), ("..", "conv"), ("net", "conv.json"), ("n\x00", "c")]
)
def test_a_layer_that_no_page_could_show_is_refused(key: tuple[str, str]) -> None:
    with pytest.raises(AddressError, match=r"layer .*cannot have a page: take a name"):
        layer_table(LayerKey(*key), sparse=False)


def test_other_names_of_layers_are_taken() -> None:
    names = {
        layer_table(LayerKey("net.json", layer), sparse=False) for layer in ("...", "la 'yer&?#", "слой", "a.jsonl")
    }
    assert len(names) == 4


def test_a_notebook_shows_a_summary_as_text() -> None:
    page = IndexSummary("run-1", 41, 40, 1, 2, 3.14159, ("net/<b>", "net/c"), ("python:x",), {".txt": 3})._repr_html_()
    assert "<td>net/&lt;b&gt;, net/c</td>" in page and "<b>" not in page
    for text in ("<th>added</th>", "<td>40</td>", "<td>3.1</td>", "<td>python:x</td>", "<td>3 .txt</td>"):
        assert text in page
    assert page.count("<th>") == page.count("<td>") == 9
    sparse = IndexSummary("r", 1, 1, 0, 1, 1.0, latents={"n/l.sae-x": {"latents": 9, "dead": 2, "dense": 1}})
    assert "<td>n/l.sae-x: 9, 2 dead, 1 dense</td>" in sparse._repr_html_()
