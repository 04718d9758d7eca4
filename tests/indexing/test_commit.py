"""What an indexing pass did, as a notebook shows it; the commit itself is tested with the passes that use it."""

from __future__ import annotations

from csp_index.indexing.commit import IndexSummary


def test_a_notebook_shows_a_summary_as_text() -> None:
    page = IndexSummary("run-1", 41, 40, 1, 2, 3.14159, ("net/<b>", "net/c"), ("python:x",), {".txt": 3})._repr_html_()
    assert "<td>net/&lt;b&gt;, net/c</td>" in page and "<b>" not in page
    for text in ("<th>added</th>", "<td>40</td>", "<td>3.1</td>", "<td>python:x</td>", "<td>3 .txt</td>"):
        assert text in page
    assert page.count("<th>") == page.count("<td>") == 9
    sparse = IndexSummary("r", 1, 1, 0, 1, 1.0, latents={"n/l.sae-x": {"latents": 9, "dead": 2, "dense": 1}})
    assert "<td>n/l.sae-x: 9, 2 dead, 1 dense</td>" in sparse._repr_html_()
