"""Templates of reports and pages: compiled once, whichever environment draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest

from csp_index.evaluation.report import rendering as of_reports
from csp_index.evaluation.report.rendering import CompiledOnce
from csp_index.service.http import rendering as of_pages


@pytest.mark.parametrize(
    ("environment", "name"), [(of_reports.environment, "report.html.jinja"), (of_pages.environment, "login.html")]
)
def test_a_template_is_compiled_once_for_all_environments(
    environment: Callable[[], jinja2.Environment], name: str, monkeypatch: pytest.MonkeyPatch
):
    environment().get_template(name)
    monkeypatch.setattr(jinja2.Environment, "compile", lambda *_: pytest.fail("it is compiled again"))
    first, second = environment().get_template(name), environment().get_template(name)
    assert first is not second and first.environment is not second.environment  # each has filters of its own


def test_a_template_that_changed_is_compiled_anew(tmp_path: Path):
    kept = CompiledOnce()
    for text in ("one", "two"):
        (tmp_path / "page.html").write_text(text)
        fresh = jinja2.Environment(loader=jinja2.FileSystemLoader(tmp_path), bytecode_cache=kept, autoescape=True)
        assert fresh.get_template("page.html").render() == text
