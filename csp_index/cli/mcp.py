"""The command that offers an index to language models: mcp."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from csp_index.cli.options import read_database, served_texts, trust_option, version_option


@click.command()
@read_database
@click.option("--sql/--no-sql", default=True, show_default=True, help="Offer SQL.")
@served_texts
@trust_option
@version_option
def mcp(db: str, sql: bool, text_embeddings: str | None, texts: str | None, trust: bool, version: str | None) -> None:
    """Offer an index as tools to a language model, by the Model Context Protocol on standard input and output.

    A program that runs models starts this command; people start it to try it. The tools list layers and neurons,
    search, label with candidates of one's own, show cards and images, and run SQL. They write nothing. Needs
    pip install 'csp_index[mcp]'. `csp-index serve` offers the same tools at /mcp.

    \b
    csp-index mcp birds.db
    csp-index mcp s3://bucket/birds.db --no-sql
    """
    from csp_index.service.agents.doors import load_protocol, run_stdio
    from csp_index.service.app import make_service
    from csp_index.service.config import ServiceSettings

    load_protocol()
    if (text_embeddings is None) != (texts is None):
        raise click.UsageError("--text-embeddings and --texts go together: give both or none")
    own = None if text_embeddings is None or texts is None else (Path(text_embeddings), Path(texts))
    service = make_service(db, ServiceSettings(host="127.0.0.1", sql=sql, texts=own, trust=trust, version=version))
    # Ctrl-C ends it at once: nothing has to be finished, and a thread that waits for input cannot be told to stop.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_stdio(service)


COMMANDS = (mcp,)
