"""The command that keeps labels made elsewhere: import-labels."""

from __future__ import annotations

from dataclasses import asdict

import click

from csp_index.cli.options import FILE, database, give_spec, json_option, layer_option
from csp_index.cli.output import say, say_json
from csp_index.printable import printable


@click.command("import-labels")
@database
@click.argument("file", type=FILE)
@layer_option
@click.option("--name", help="The name under which they are a method; by default the file's, without its ending.")
@click.option("--labels-layer", "layer_name", help="What the file calls the layer, if it is not its own name.")
@click.option("--replace", "replaces", is_flag=True, help="Replace other labels that were imported under this name.")
@click.option("--encoder", callback=give_spec, help="The encoder whose name is kept, if the index has several.")
@json_option
def import_labels(
    db: str, file: str, layer: str, name: str | None, replaces: bool, as_json: bool, **options: str | None
) -> None:
    """Keep labels made elsewhere as those of a method of their own name.

    FILE is a table neuron,label[,weight] (CSV, TSV, JSON, parquet), or labels as Linear Explanations, CLIP-Dissect,
    MILAN, Describe-and-Dissect, Network Dissection or MAIA publish them. Neurons count from 0. The labels are shown,
    searched and exported like others; `csp-index evaluate --method NAME` judges them.

    \b
    csp-index import-labels birds.db milan.csv --layer resnet50/layer4 --name milan
    csp-index show birds.db resnet50/layer4/77 --method milan
    """
    from csp_index.index import open_index

    index = open_index(db)
    summary = index.import_labels(
        layer, file, name, replaces=replaces, layer_name=options["layer_name"], encoder=options["encoder"]
    )
    if as_json:
        say_json(asdict(summary))
        return
    for note in summary.notes:
        say(printable(f"{summary.name}: {note}"))
    if summary.unchanged:
        say(printable(f"{summary.name}: these labels of {summary.layer} are in the index already"))
    else:
        neurons = "1 neuron" if summary.neurons == 1 else f"{summary.neurons:,} neurons"
        say(printable(f"{summary.name}: labels of {neurons} of {summary.layer} ({summary.layout})"))


COMMANDS = (import_labels,)
