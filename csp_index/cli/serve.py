"""The command that shows an index in the browser: serve."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import Any

import click

from csp_index.cli.options import FILE, database, json_option, served_texts, trust_option, version_option, whole
from csp_index.cli.output import say
from csp_index.labelling.review.words import DRAWS


@click.command()
@database
@click.option("--host", help="Address to listen on (127.0.0.1: for this machine alone).")
@click.option("--port", type=whole("port"), help="Port to listen on, 0 for any that is free (8000).")
@click.option("--token-file", type=FILE, help="A file with the token that a client must present.")
@click.option("--public-read", is_flag=True, help="Let everyone who reaches the address read the index.")
@click.option("--sql/--no-sql", default=None, help="Offer SQL over HTTP (default: only on 127.0.0.1).")
@click.option(
    "--originals/--no-originals", default=None, help="Show original pictures (default: on 127.0.0.1 or with a token)."
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another host name of the service; may be repeated.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="A site whose scripts may read it; may be repeated.")
@served_texts
@click.option("--workers", type=whole("workers"), help="Processes that answer, each with its own models (1).")
@click.option("--write", is_flag=True, help="Let readers write notes; beyond 127.0.0.1 it needs --token-file.")
@click.option("--rate", is_flag=True, help="Offer /rate, where people say whether labels are true of pictures.")
@click.option(
    "--draw", type=click.Choice(DRAWS), help="--rate: how these pictures are drawn (importance: by activation)."
)
@click.option("--rate-pictures", type=whole("rate-pictures"), help="--rate: pictures of each label (20).")
@trust_option
@version_option
@json_option
def serve(db: str, as_json: bool, **options: Any) -> None:
    """Show an index in the browser and over HTTP; without --write or --rate the service never writes to it.

    What commands change is shown some seconds later; notes of readers, where they may write, at once. Ctrl-C ends it
    after it has answered the requests under way. It logs each request as a line of JSON on stderr.

    \b
    csp-index serve birds.db
    csp-index serve birds.db --write --rate
    csp-index serve birds.db --host 0.0.0.0 --token-file token.txt --allow-host birds.example.org
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end the service in the same way
    try:
        _serve(db, as_json, options)
    except KeyboardInterrupt:
        say("The service has ended.", err=True)


def _serve(db: str, as_json: bool, options: dict[str, Any]) -> None:
    from csp_index.service.config import SHARED_COUNTERS, ServiceSettings, read_token
    from csp_index.store.connect import is_index, open_store

    os.environ.pop(SHARED_COUNTERS, None)  # the folder belongs to another service
    from csp_index.service.server import bind, log_to_stderr, run

    arrays = options.pop("text_embeddings"), options.pop("texts")
    if None not in arrays:
        options["texts"] = arrays
    elif any(arrays):
        raise click.UsageError("--text-embeddings and --texts go together: give both or none")
    if not options["rate"] and (options["draw"] is not None or options["rate_pictures"] is not None):
        raise click.UsageError("--draw and --rate-pictures say how pictures for --rate are drawn: give it, too")
    token_file = options.pop("token_file")
    if token_file is not None:
        options["token"] = read_token(token_file)
    options["hosts"], options["origins"] = options.pop("allow_host"), options.pop("allow_origin")
    settings = ServiceSettings(**{name: value for name, value in options.items() if value is not None})
    if not is_index(db):
        open_store(db)  # its error says why
    with bind(settings) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        log_to_stderr()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{settings.port}/"
        message = json.dumps({"index": db, "address": address}) if as_json else f"{db} at {address} (Ctrl-C ends it)"
        if settings.workers > 1:
            from csp_index.service import supervisor

            supervisor.run(db, settings, listener, lambda: say(message))
        else:
            from csp_index.service.app import make_app

            run(make_app(db, settings), settings, listener, lambda: say(message))


COMMANDS = (serve,)
