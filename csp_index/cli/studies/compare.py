"""The command that compares two layers: compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import FILE, give_spec, json_option, read_database, seed_option, top_option
from csp_index.cli.output import progress, say, say_json
from csp_index.printable import printable

if TYPE_CHECKING:
    from csp_index.studies.comparison.records import Comparison, OwnConcept, Way

_NAMES = {"concepts": "concept vectors", "activations": "activations"}


@click.command()
@read_database
@click.argument("first")
@click.argument("second")
@click.option("--with", "other", type=FILE, metavar="OTHER_DB", help="The index of the second layer, if another one.")
@click.option("--encoder", callback=give_spec, help="The encoder of the concept vectors, if the index holds several.")
@click.option("--vocabulary", help="Whose coverage by labels is counted, as for `label`; by default the last one used.")
@click.option(
    "--untrained",
    metavar="LAYER",
    help="A layer MODEL/LAYER that has learned nothing, as SECOND with --weights redrawn:1: a third null.",
)
@seed_option("Seed of the nulls.")
@top_option(10, "Pairs to print of each measure.")
@click.option("--recompute", is_flag=True, help="Compare again even if the index holds the comparison.")
@json_option
def compare(db: str, first: str, second: str, top: int, as_json: bool, **options: Any) -> None:
    """Match the neurons of two layers, FIRST and SECOND, each MODEL/LAYER, and say what only one of them holds.

    Neurons are matched one to one, by the cosine of their concept vectors and by the correlation of their activations
    over the images that both layers have. A pair counts if it scores above the 95th percentile of two nulls: values
    moved to other images, and mixtures of four neurons in place of the second layer's; with --untrained also above what
    the first layer's neurons score with a layer that has learned nothing. Layers of two indexes are compared over the
    images that are the same by sha256. What is stored is read.

    \b
    csp-index compare birds.db resnet50/layer4 resnet50-finetuned/layer4
    csp-index compare birds.db resnet50/layer4 vit/blocks.11 --with other.db --json
    """
    from csp_index.index import open_index

    with progress() as report:
        comparison = open_index(db).compare(first, second, progress=report, **options)
    if as_json:
        say_json(comparison.head())
        for row in comparison.matches.drop_columns(["run_id", "settings_hash"]).to_pylist():
            say_json(row)
        return
    _say_head(comparison)
    for way in comparison.ways:
        say(_matched(way))
        pairs = comparison.pairs(way.by)
        for row in pairs.slice(0, top).to_pylist():
            own = f"{comparison.first}/{row['neuron']}", f"{comparison.second}/{row['other_neuron']}"
            texts = (row["label"] or "no label", row["other_label"] or "no label")
            say(f"{row['score']:.3f}", *own, *texts, *([] if row["matched"] else ["[within chance]"]))
    for layer, concepts in ((first, comparison.own_concepts()), (second, comparison.own_concepts(second=True))):
        say(f"only {layer} holds: {_listed(concepts)}")


def _say_head(comparison: Comparison) -> None:
    """Print which images and neurons were compared, and the coverage of a vocabulary."""
    from csp_index.labelling.vocabularies import in_prose

    of_other = f" of {comparison.other}" if comparison.other else ""
    say(
        f"{comparison.first} ({comparison.neurons:,} neurons) and {comparison.second}{of_other} "
        f"({comparison.other_neurons:,} neurons) over {comparison.images:,} images that both have "
        f"({comparison.only_first:,} only the first has, {comparison.only_second:,} only the second)"
    )
    if comparison.note:
        say(comparison.note)
    coverage = comparison.coverage
    if coverage is None:
        say("no vocabulary was used yet: the coverage of one is not counted (--vocabulary)")
        return
    say(
        f"of the {coverage.texts:,} texts of {in_prose(coverage.vocabulary)}, {coverage.held:,} are labels of neurons "
        f"in {comparison.first}, {coverage.other_held:,} in {comparison.second}{of_other}, "
        f"{coverage.both_held:,} in both"
    )


def _matched(way: Way) -> str:
    """Return how many neurons match by one measure, beside the nulls."""
    live = f"of {way.live:,} and {way.other_live:,} neurons that take part"
    if way.null is None:
        return f"nothing to match {live}"
    nulls = [
        f"{name} {level:.3f}"
        for name, level in (
            ("other images", way.null_images),
            ("mixed neurons", way.null_mixed),
            ("untrained", way.null_untrained),
        )
        if level is not None
    ]
    return (
        f"{way.matched:,} pair{'' if way.matched == 1 else 's'} by {_NAMES[way.by]} ({way.share or 0:.1%}) {live}, "
        "above the nulls' 95th percentiles "
        f"({', '.join(nulls)})"
    )


def _listed(concepts: tuple[OwnConcept, ...], most: int = 20) -> str:
    texts = [f"{concept.text} ({len(concept.neurons)})" for concept in concepts[:most]]
    more = f" and {len(concepts) - most:,} more" if len(concepts) > most else ""
    return printable(", ".join(texts) + more) or "no concept"


COMMANDS = (compare,)
