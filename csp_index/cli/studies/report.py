"""The command that writes an audit down for people who never saw the tool: report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from csp_index.cli.options import FILE, database, json_option, opened, opening_options
from csp_index.cli.output import progress, say, say_json

_FILE = "audit.html"


@click.command()
@database
@click.option("--audit", is_flag=True, help="Report the last audit of the index.")
@click.option("--network", help="The network whose audit is reported, if several have one.")
@click.option("--layer", help="The audit of this layer, if there are several.")
@click.option("--by", help="The audit by this column, or outputs:MODEL/LAYER, if there are several.")
@click.option("--out", type=FILE, default=_FILE, show_default=True, help="The HTML file to write.")
@click.option("--pdf", type=FILE, help="Print the page as this PDF file, too; needs Chromium or Chrome.")
@click.option("--browser", metavar="FILE", help="The browser that prints, if it is not on the PATH.")
@click.option("--heat-maps", is_flag=True, help="Run the network on the findings' pictures, and show where it looks.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--check", type=FILE, help="Say whether the index still says what this report does; writes nothing.")
@opening_options
@json_option
def report(db: str, audit: bool, out: str, check: str | None, as_json: bool, **options: Any) -> int | None:
    """Write an audit as one HTML file without outside assets, for people who never saw csp_index; or check such a file.

    The page says what was indexed, what was found, on which evidence, what reviewers said and what was not looked at.
    It states a digest of all that it shows. With --check the exit status is 1 if the index now says something else, or
    the file was changed.

    \b
    csp-index report birds.db --audit --out birds-audit.html --pdf birds-audit.pdf
    csp-index report birds.db --check birds-audit.html
    """
    if audit == (check is not None):
        raise click.UsageError("say what to do: --audit writes the report of an audit, --check FILE checks one")
    index = opened(db, options)
    if check is not None:
        result = index.check_report(check)
        if as_json:
            say_json(result.as_json())
        else:
            for line in result.lines():
                say(line)
        return 0 if result.good else 1
    named = {name: options.pop(name) for name in ("network", "layer", "by")}
    found = index.stored_audit(**named)
    with progress() as tell:
        page = index.report(found, out, progress=tell, **options)
    _say(page, options["pdf"], as_json)
    return None


def _say(page: Path, pdf: str | None, as_json: bool) -> None:
    """Print the files that were written, and the digest that they state."""
    from csp_index.studies.reporting.seal import stated_seal

    digest = stated_seal(page.read_bytes())[1]
    if as_json:
        say_json({"page": str(page), "pdf": pdf, "digest": digest})
        return
    say(f"report: {page}")
    if pdf is not None:
        say(f"printed: {pdf}")
    say(f"digest: {digest}")


COMMANDS = (report,)
