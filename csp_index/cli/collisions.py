"""The command that says how labels collide, of files alone: collisions."""

from __future__ import annotations

from pathlib import Path

import click

from csp_index.cli.options import FILE, json_option
from csp_index.cli.output import say, say_json
from csp_index.printable import printable


@click.command()
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option("--labels-layer", "layer", help="Only the rows of this layer, as the files call it.")
@click.option("--each-row", is_flag=True, help="Count every row with a text as a neuron, also several of one neuron.")
@click.option("--together", is_flag=True, help="Count all files as one layer.")
@json_option
def collisions(files: tuple[str, ...], layer: str | None, each_row: bool, together: bool, as_json: bool) -> None:
    """Count how many neurons share their labels, in files of labels. Needs no index.

    FILE is any that `csp-index evaluate --labels` reads. reuse is the number of neurons per distinct label, shared the
    share of neurons whose label another one carries, bits the entropy of the labels as a share of what would single
    out each neuron. Labels are compared without regard to case.

    \b
    csp-index collisions netdissect.csv clip_dissect.csv
    csp-index collisions linear_explanation.csv --json
    """
    from csp_index.evaluation.label_file_collisions import file_collisions
    from csp_index.evaluation.report.shared_labels import collision_line

    rows = file_collisions([Path(file) for file in files], layer=layer, each_row=each_row, together=together)
    if as_json:
        say_json(rows)
        return
    for row in rows:
        left_out = f"; rows without a label, left out: {row['left_out']:,}" if row["left_out"] else ""
        say(printable(f"{row['file']}, {row['of']}: {collision_line(row)}{left_out}"))


COMMANDS = (collisions,)
