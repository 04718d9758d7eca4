"""The commands for versions of an index: list, name and copy them, and bring an old index to the present format."""

from __future__ import annotations

from dataclasses import asdict

import click

from csp_index.cli.options import database, json_option
from csp_index.cli.output import progress, say, say_json


@click.command()
@database
@json_option
def versions(db: str, as_json: bool) -> None:
    """List the versions that can still be read: what each command left, newest first.

    Reading commands take one with --version. Clean-up (csp-index optimize) keeps the last version, those with a tag,
    and those that somebody reads.

    \b
    csp-index versions birds.db
    csp-index status birds.db --version 12
    """
    from csp_index.query.reader import Reader
    from csp_index.query.results import write_result

    rows = Reader(db).versions()
    write_result(rows, "json" if as_json else "table")


@click.command()
@database
@click.argument("name")
@click.option("--of", "version", metavar="N", help="The version to name, by number or another tag (the last one).")
@click.option("--remove", is_flag=True, help="Take the name away; the version stays until clean-up.")
@json_option
def tag(db: str, name: str, version: str | None, remove: bool, as_json: bool) -> None:
    """Give a version a NAME, under which it can be read, and which no clean-up removes.

    \b
    csp-index tag birds.db paper
    csp-index show birds.db resnet50/layer4/77 --version paper
    csp-index tag birds.db paper --remove
    """
    from csp_index.query.reader import Reader

    if remove and version is not None:
        raise click.UsageError("--remove takes a name away, --of gives one: give one of them")
    reader = Reader(db)
    if remove:
        reader.untag(name)
        number = None
    else:
        number = reader.tag(name, version)
    if as_json:
        say_json({"tag": name, "version": number})
    else:
        say(f"tag {name} is removed" if number is None else f"version {number} is named {name}")


@click.command()
@database
@json_option
def migrate(db: str, as_json: bool) -> None:
    """Bring an index of an earlier format to the present one, in place; nothing of it is lost.

    The state before stays a version until clean-up. A migration that is cut off goes on when it is run again. An index
    whose folder of commits is lost gets a first version of its tables as they are: check it by csp-index verify --full.

    \b
    csp-index migrate birds.db
    """
    from csp_index.store.connect import open_to_migrate
    from csp_index.store.history.migration import migrate as to_present_format

    with progress() as report:
        done = to_present_format(open_to_migrate(db), report)
    if as_json:
        say_json({"before": done.before, "now": done.now, "shards": done.shards})
    elif done.adopted:
        say(f"version 1 of {db} has its tables as they are: check it by `csp-index verify {db} --full`")
    elif done.before == done.now:
        say(f"{db} has format {done.now} already")
    else:
        say(f"{db} has format {done.now} now (was {done.before}): {done.shards} shards with their digests")


@click.command()
@database
@click.argument("place", metavar="DIRECTORY")
@click.option("--version", metavar="N", help="The version to copy, by number or tag (the last one).")
@json_option
def backup(db: str, place: str, version: str | None, as_json: bool) -> None:
    """Copy a version of the index to a new DIRECTORY, also while somebody writes.

    Every file is compared with its digest as it is copied; a copy that is cut off is none. To restore, copy back.

    \b
    csp-index backup birds.db /backup/birds-2026-11.db
    csp-index backup /backup/birds-2026-11.db birds.db
    """
    from csp_index.printable import megabytes
    from csp_index.query.reader import Reader

    with progress() as report:
        done = Reader(db).backup(place, version, progress=report)
    if as_json:
        say_json(asdict(done))
    else:
        copied = f"{done.tables} tables, {done.files} files, {megabytes(done.bytes)}"
        say(f"version {done.version} is at {done.place}: {copied}")


COMMANDS = (versions, tag, backup, migrate)
