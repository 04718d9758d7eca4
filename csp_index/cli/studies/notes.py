"""Commands of readers: note, and the notes' list, export and import."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from csp_index.cli.options import database, json_option, read_database
from csp_index.cli.output import say, say_json


@click.command()
@database
@click.argument("subject")
@click.option("--accept", is_flag=True, help="The label, or the finding, is right. Only --rename fixes a label.")
@click.option("--reject", is_flag=True, help="It is wrong.")
@click.option("--rename", metavar="TEXT", help="Call the neuron TEXT, wherever its label is shown.")
@click.option("--unname", is_flag=True, help="Take the name back: the label of a method is shown again.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--untag", "untags", multiple=True, metavar="TAG", help="Remove a tag; may be repeated.")
@click.option("--comment", help="What else there is to say, in one line; with --accept or --reject the reason.")
@click.option("--by", metavar="NAME", help="Who says so; by default the setting CSP_INDEX_READER.")
@json_option
def note(db: str, subject: str, as_json: bool, **options: Any) -> None:
    """Write down what a reader says of a neuron's label, or of a finding.

    SUBJECT is MODEL/LAYER/INDEX or finding:ID. Notes are only added: who changes their mind writes another one, and the
    last one counts. They keep the label that was shown, and outlive it. --accept is a verdict on that label, and does
    not keep it: another method or vocabulary may show another one. --rename, also with the same words, does.

    \b
    csp-index note birds.db resnet50/layer4/77 --rename "striped fur" --by ann
    csp-index note birds.db resnet50/layer4/78 --reject --comment "fires on the watermark" --tag artefact --by ann
    """
    from csp_index.store.connect import open_store
    from csp_index.studies.reviewing.notes import reader_named, write_notes

    reader = reader_named(options.pop("by"))
    drafts = _drafts(subject, reader, options)
    for written in write_notes(open_store(db), drafts):
        if as_json:
            say_json(written.as_json())
        else:
            say(_line(written))


def _drafts(subject: str, reader: str, options: dict[str, Any]) -> list[Any]:
    """Return the notes that options name; a comment is the reason of a verdict, where there is one."""
    from csp_index.studies.reviewing.notes import Draft

    if options["accept"] and options["reject"]:
        raise click.UsageError("--accept and --reject contradict each other: give one of them")
    if options["rename"] is not None and options["unname"]:
        raise click.UsageError("--rename and --unname contradict each other: give one of them")
    verdict = next((name for name in ("accept", "reject") if options[name]), None)
    said: list[tuple[str, str]] = []
    if verdict is not None:
        said.append((verdict, options["comment"] or ""))
    if options["rename"] is not None:
        said.append(("rename", options["rename"]))
    if options["unname"]:
        said.append(("unname", ""))
    said += [("tag", tag) for tag in options["tags"]]
    said += [("untag", tag) for tag in options["untags"]]
    if options["comment"] is not None and verdict is None:
        said.append(("comment", options["comment"]))
    if not said:
        raise click.UsageError("say something: --accept, --reject, --rename, --unname, --tag, --untag or --comment")
    return [Draft(subject, action, reader, text) for action, text in said]


def _line(written: Any) -> str:
    """Return a note in words."""
    from csp_index.labelling.review.words import done

    text = f": {written.text}" if written.text else ""
    about = f"   (label: {written.label}, {written.method})" if written.label is not None else ""
    when = f"{written.when:%Y-%m-%d %H:%M}"
    return f"{when} {written.reader} {done(written.action)} {written.subject}{text}{about}"


@click.command()
@click.argument("what", type=click.Choice(["list", "export", "import"]))
@read_database
@click.argument("place", required=False)
@json_option
def notes(what: str, db: str, place: str | None, as_json: bool) -> None:
    """List what readers said, export it to a CSV file, or import such a file.

    PLACE is the file; of `list` it is MODEL/LAYER/INDEX or finding:ID, by default all are listed. The file has ratings
    (`serve --rate`), too, below the notes. In it, a cell that a spreadsheet would run as a formula has an apostrophe in
    front, which `import` takes off. `import` adds notes from this index or another one, and leaves those that the index
    has as they are: what does not agree is said.

    \b
    csp-index notes list birds.db resnet50/layer4/77
    csp-index notes export birds.db notes.csv
    csp-index notes import birds-indexed-again.db notes.csv
    """
    if place is None and what != "list":
        raise click.UsageError(f"name the file: csp-index notes {what} DB FILE")
    {"list": _list, "export": _export, "import": _import}[what](db, place or "", as_json)


def _list(db: str, subject: str, as_json: bool) -> None:
    from csp_index.labelling.review.notes import read_notes, subject_of
    from csp_index.query.reader import Reader

    for one in read_notes(Reader(db).store, subject_of(subject) if subject else None):
        if as_json:
            say_json(one.as_json())
        else:
            say(_line(one))


def _export(db: str, file: str, as_json: bool) -> None:
    from csp_index.query.reader import Reader
    from csp_index.studies.reviewing.note_files import export_notes

    count, ratings = export_notes(Reader(db).store, file)
    if as_json:
        say_json({"file": file, "notes": count, "ratings": ratings})
    else:
        rated = f", {ratings:,} {'rating' if ratings == 1 else 'ratings'}" if ratings else ""
        say(f"{file}: {count:,} {'note' if count == 1 else 'notes'}{rated}")


def _import(db: str, file: str, as_json: bool) -> None:
    from csp_index.store.connect import open_store
    from csp_index.studies.reviewing.note_files import import_notes

    summary = import_notes(open_store(db), file)
    if as_json:
        say_json(asdict(summary))
        return
    for line in summary.lines():
        say(line)


COMMANDS = (note, notes)
