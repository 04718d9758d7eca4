"""Commands that query an index: show, search, sql, export, prefer, status."""

from __future__ import annotations

from typing import Any

import click

from csp_index.cli.options import (
    FILE,
    encoder_option,
    images_option,
    json_option,
    read_database,
    templates_option,
    top_option,
    trust_option,
    version_option,
    vocabulary_option,
)
from csp_index.cli.output import say, say_json
from csp_index.labelling.methods import RECOMMENDED


@click.command()
@read_database
@click.argument("neuron")
@click.option("--method", help="The label by this method; by default the one shown everywhere.")
@vocabulary_option
@templates_option
@encoder_option
@click.option("--card", type=FILE, help="Draw the neuron's picture card into this PNG file.")
@images_option
@trust_option
@version_option
@json_option
def show(db: str, neuron: str, card: str | None, as_json: bool, **options: Any) -> None:
    """Show one neuron: its label, rivals, statistics and example pairs.

    \b
    csp-index show birds.db resnet50/layer4/77 --card 77.png
    """
    from csp_index.cli.formatting import say_neuron
    from csp_index.index import open_index

    opened = open_index(db, **{name: options.pop(name) for name in ("trust", "image_roots", "version")})
    view = opened.view(neuron, **options)
    if card:
        opened.card(view.label, card)
    if as_json:
        say_json(view.as_json() | ({"card": card} if card else {}))
        return
    say_neuron(view)
    if card:
        say(f"card: {card}")


@click.command()
@read_database
@click.argument("text", required=False)
@click.option("--image", type=FILE, help="Search by a picture file instead of a text.")
@click.option("--layer", help="Only this MODEL/LAYER.")
@top_option(10, "Neurons to print.")
@templates_option
@encoder_option
@trust_option
@version_option
@json_option
def search(db: str, text: str | None, trust: bool, version: str | None, as_json: bool, **options: Any) -> None:
    """Find the neurons whose meaning is nearest to TEXT, or to a picture.

    \b
    csp-index search birds.db "striped"
    csp-index search birds.db --image zebra.jpg --layer resnet50/layer4
    """
    from csp_index.index import open_index
    from csp_index.query.results import write_result

    if (text is None) == (options["image"] is None):
        raise click.UsageError("give a TEXT or --image, one of them")
    neurons = open_index(db, trust=trust, version=version).search(text, **options)
    write_result(neurons, "json" if as_json else "table")


@click.command()
@read_database
@click.argument("statement")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="A table for reading, or every row and value for machines.",
)
@click.option("--out", type=FILE, help="Write to this file instead of the terminal.")
@version_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(db: str, statement: str, kind: Any, out: str | None, version: str | None, as_json: bool) -> None:
    """Run one read-only SELECT over the index.

    Views: images, neurons, neuron_labels (one row per neuron: the label shown), labels, label_terms, examples,
    derived, answers, candidates, evaluations, splits, associations, association_classes, notes, pinned, ratings,
    class_names, label_nulls, label_probabilities, vocabularies, texts, runs, failures, layers, encoders, shards,
    embeddings, audits, findings, and the table macro activations('MODEL/LAYER/INDEX').

    \b
    csp-index sql birds.db "SELECT address, text FROM neuron_labels WHERE text LIKE '%striped%'"
    csp-index sql birds.db "SELECT * FROM activations('resnet50/layer4/77') ORDER BY activation DESC LIMIT 5"
    """
    from csp_index.query.reader import Reader
    from csp_index.query.results import write_result

    write_result(Reader(db, version).sql(statement), "json" if as_json else kind, out)


@click.command()
@read_database
@click.option("--layer", help="Only this MODEL/LAYER.")
@click.option("--method", help="The newest labels by this method, or `all`; by default the labels shown everywhere.")
@top_option(1, "Candidates per neuron.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "json", "parquet"]),
    default="csv",
    show_default=True,
    help="How the rows are written.",
)
@click.option("--out", type=FILE, help="Write to this file instead of the terminal; with --to the new folder.")
@click.option(
    "--to",
    "target",
    type=click.Choice(["fiftyone", "datasets", "embedding-atlas", "neuronpedia"]),
    help="Write a folder that this tool reads, with pictures where it shows some.",
)
@images_option
@version_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def export(db: str, kind: Any, out: str | None, as_json: bool, target: Any, **options: Any) -> None:
    """Export the label of every neuron: the one shown everywhere, one by a method, or by all methods.

    With --to, images, neurons and labels in the layout of another tool.

    \b
    csp-index export birds.db --layer resnet50/layer4 --format parquet --out labels.parquet
    csp-index export birds.db --to datasets --out birds-dataset
    """
    if target is not None:
        _export_to(db, target, out, as_json, options)
        return
    from csp_index.query.reader import Reader
    from csp_index.query.results import write_result

    write_result(
        Reader(db, options["version"]).labels(options["layer"], method=options["method"], top=options["top"]),
        "json" if as_json else kind,
        out,
    )


def _export_to(db: str, target: Any, out: str | None, as_json: bool, options: dict[str, Any]) -> None:
    """Write an index for another tool, and say how that opens it."""
    from dataclasses import asdict

    from csp_index.loading_reader import LoadingReader

    if out is None:
        raise click.UsageError("--to writes a folder: name it by --out")
    if options["method"] is not None or options["top"] != 1:
        raise click.UsageError("--to writes the labels shown everywhere: leave out --method and --top")
    opened = LoadingReader(db, version=options["version"], image_roots=options["image_roots"])
    written = opened.export(target, out, options["layer"])
    if as_json:
        say_json(asdict(written))
        return
    say(f"{written.images:,} images and {written.neurons:,} neurons are in {out}")
    say(f"open it: {written.opening}")


_NEURON = ["model", "layer", "neuron"]


@click.command()
@read_database
@click.argument("method")
@json_option
def prefer(db: str, method: str, as_json: bool) -> None:
    """Make METHOD the one whose labels are shown; `none` takes the preference back.

    Without a preference the labels by the recommended method are shown, or else the newest ones. Labels by a control
    (random-label, random-contrast) are shown only where the control is named.

    \b
    csp-index prefer birds.db semanticlens
    csp-index prefer birds.db none
    """
    from csp_index.labelling.label_rule import prefer as set_preferred
    from csp_index.store import schema
    from csp_index.store.catalog import sql_text
    from csp_index.store.connect import open_store

    store = open_store(db)
    set_preferred(store, None if method == "none" else method)
    rows = store.read(schema.LABELS, _NEURON, f"method = {sql_text(method)} AND state = 'labelled'")
    count = rows.group_by(_NEURON).aggregate([]).num_rows
    if as_json:
        say_json({"preferred": None if method == "none" else method, "neurons": count})
    elif method == "none":
        say(f"no method is preferred: labels by {RECOMMENDED} are shown, else the newest")
    elif count:
        say(f"labels by {method} are shown from now on: {count:,} {'neuron has' if count == 1 else 'neurons have'} one")
    else:
        say(f"labels by {method} are shown from now on, and there are none yet: csp-index label DB --layer ...")


@click.command()
@read_database
@version_option
@json_option
def status(db: str, version: str | None, as_json: bool) -> None:
    """Show what the index holds: images, failures, encoders, layers, labels, runs.

    \b
    csp-index status birds.db
    """
    from csp_index.cli.formatting import say_status
    from csp_index.query.reader import Reader

    description = Reader(db, version).status()
    if as_json:
        say_json(description)
    else:
        say_status(description)


COMMANDS = (show, search, sql, export, prefer, status)
