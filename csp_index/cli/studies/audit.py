"""The command that looks for what a network should not rely on: audit."""

from __future__ import annotations

from typing import Any

import click

from csp_index.cli.options import (
    FILE,
    database,
    encoder_option,
    json_option,
    logit_options,
    opened,
    opening_options,
    templates_option,
    vocabulary_option,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.printable import printable


@click.command()
@database
@click.option("--network", required=True, help="The network, by its name in the index.")
@click.option("--expected", required=True, type=FILE, help="Concepts that it should rely on, one per line.")
@click.option("--by", help="Metadata column with the classes, or outputs:MODEL/LAYER; by default its own outputs.")
@click.option("--layer", help="The layer, if several are indexed: best that below the outputs.")
@click.option(
    "--artefact", "artefacts", multiple=True, metavar="COLUMN", help="Column that must not matter (all others)."
)
@click.option("--method", help="Method of the labels with contrast, as for `csp-index label`.")
@vocabulary_option
@templates_option
@encoder_option
@logit_options
@click.option("--threshold", type=float, help="Score from which on a finding counts, 0 to 1 (0.25).")
@click.option("--all", "every", is_flag=True, help="Print findings below the threshold, too.")
@click.option("--recompute", is_flag=True, help="Audit again even if the index holds the result.")
@opening_options
@json_option
def audit(db: str, network: str, expected: str, every: bool, as_json: bool, **options: Any) -> None:
    """Look for what a network relies on and should not: findings, the most doubtful with the largest effect first.

    A finding is a neuron that follows a metadata column more than its class, a label that is not among the expected
    concepts, or one that contrast changes. Its score is the neuron's effect on the class times the doubt, each 0 to 1.
    Labels and effects that the index lacks are made first.

    \b
    csp-index audit birds.db --network resnet50 --expected concepts.txt --by species
    csp-index audit birds.db --network resnet50 --expected concepts.txt --by species --artefact camera --all
    """
    index = opened(db, options)
    with progress() as tell:
        result = index.audit(network, expected, progress=tell, **options)
    shown = result.findings if every else result.above
    for finding in shown:
        if as_json:
            say_json(finding.as_json())
        else:
            cells = f"{finding.score:.2f}", finding.kind, str(finding.neuron), finding.class_name, finding.subject
            say(*cells, finding.finding)
            say(f"  {finding.statement}")
            say(f"  {finding.refutation}")
    for note in result.notes:
        say(printable(note), err=True)
    below = len(result.findings) - len(result.above)
    say(
        f"{result.layer} by {result.by}: {len(result.above):,} findings above {result.threshold:g}, {below:,} below; "
        f"{result.neurons:,} neurons, {result.classes:,} classes, columns {', '.join(result.columns) or 'none'}",
        err=True,
    )


COMMANDS = (audit,)
