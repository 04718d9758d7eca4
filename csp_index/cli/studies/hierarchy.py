"""The command that groups a layer's labels by broader words: hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    FILE,
    candidate_texts,
    encoder_option,
    json_option,
    opened,
    opening_options,
    read_database,
    seed_option,
    templates_option,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.printable import printable

if TYPE_CHECKING:
    from csp_index.studies.hierarchies.records import LayerHierarchy

_LEFT_OUT = ("run_id", "settings_hash")


@click.command()
@read_database
@click.option("--layer", required=True, metavar="MODEL/LAYER", help="The layer whose labels are grouped.")
@click.option(
    "--hierarchy", "file", type=FILE, required=True, help="Table child,parent, or WordNet's data.noun (or its folder)."
)
@click.option("--vocabulary", help="The narrower words, as for `label`; by default the vocabulary used last.")
@click.option("--text-embeddings", type=FILE, help="Embeddings of words made elsewhere: .npy [C, D]; with --texts.")
@click.option("--texts", type=FILE, help="Their words, one per line.")
@templates_option
@encoder_option
@seed_option("Seed of the split of the images.")
@click.option(
    "--keep", type=float, default=0.9, show_default=True, help="Share of the label's correlation that is kept, 0 to 1."
)
@click.option("--recompute", is_flag=True, help="Group again even if the index holds the result.")
@opening_options
@json_option
def hierarchy(db: str, layer: str, file: str, as_json: bool, **options: Any) -> None:
    """Group the labels of a layer by broader words, at the level that the neurons' activations bear.

    A neuron's label is replaced by a broader word of the hierarchy as long as that explains its activations on images
    that were held out as well: the correlation is not surely lower, and keeps a share of the label's. Labels that the
    hierarchy lacks stand outside, and are counted.

    \b
    csp-index hierarchy birds.db --layer resnet50/layer4 --hierarchy taxonomy.csv
    csp-index hierarchy birds.db --layer resnet50/layer4 --hierarchy ~/wordnet/dict/data.noun --json
    """
    from csp_index.store.study_tables import HIERARCHY_STATES

    words = candidate_texts(options)
    index = opened(db, options)
    with progress() as report:
        found = index.hierarchy(layer, file, vocabulary=words, progress=report, **options)
    if as_json:
        for row in found.levels.drop_columns(list(_LEFT_OUT)).to_pylist():
            say_json(row)
    else:
        for line in _lines(found):
            say(printable(line))
    for note in found.notes:
        say(printable(note), err=True)
    counted = ", ".join(f"{found.count(state):,} {state}" for state in HIERARCHY_STATES if found.count(state))
    say(f"{found.layer}: {len(found):,} neurons, {counted}; judged on {found.judging:,} images", err=True)


def _lines(found: LayerHierarchy) -> list[str]:
    """Return a line per group, indented by its depth: the word, its neurons, and the labels of those at the word."""
    lines = []
    for depth, group in found.tree():
        above = f" (below {', '.join(reversed(group.through))})" if group.through else ""
        own = "; ".join(
            f"{row['neuron']}" + ("" if row["label"] == group.word.title else f" {row['label']}")
            for row in found.neurons_at(group.word.word)
        )
        lines.append(f"{'  ' * depth}{group.word.title}{above}: {group.neurons:,}{f' ({own})' if own else ''}")
    return lines


COMMANDS = (hierarchy,)
