"""One neuron, and the state of an index, as text for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from csp_index.cli.output import say
from csp_index.labelling.methods import RECOMMENDED
from csp_index.printable import megabytes, printable
from csp_index.records.assurance import likelihood, stability

if TYPE_CHECKING:
    from csp_index.contrast.vector_index import EncoderOptimized, OptimizeSummary, Recall
    from csp_index.query.neuron_view import NeuronView

_GOOD_RECALL = 0.95
_WIDE = 1_000  # columns: what goes into a file or a pipe has one row a line


def say_neuron(view: NeuronView) -> None:
    """Print a neuron's label with its rivals, its statistics and its example pairs."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    label, numbers = view.label, view.statistics
    say(f"{label.neuron}: {label.text or label.state}   ({label.method})")
    if view.class_line:
        say(f"  {view.class_line}")
    if label.note:
        say(f"  {label.note}")
    if label.doubt or label.confidence is not None:
        say(f"  {label.doubt or stability(label.confidence or 0.0)}")
    if said := view.review.line(label.text):
        say(f"  {said}")
    if label.probability is not None:
        say(f"  {likelihood(label.probability)}")
    if len(label.prediction_set) > 1:
        say(f"  among these in 90 % of the resamples: {', '.join(score.text for score in label.prediction_set)}")
    if label.null_rank is not None:
        say(f"  {label.null_rank} ({label.null_rank.null})")
    if label.weighted is not None:
        sums = "".join(f" {'-' if term.weight < 0 else '+'} {abs(term.weight):.3g} {term.text}" for term in label.terms)
        say(f"  predicts {label.weighted.bias:.3g}{sums}, as a share of the maximum, each text by its presence, 0 to 1")
    for score in label.labels[1:]:
        say(f"  {'rival' if label.weighted is None else 'alone'}: {score.text} ({score.score:.3f})")
    say(
        f"  over {numbers['images']:,} images: mean {numbers['mean']:.4g}, std {numbers['std']:.4g}, "
        f"max {numbers['max']:.4g}, {_fires(view)}"
    )
    if quality := view.contrast.summary():
        say(f"  {quality}")
    if not view.pairs:
        return
    mixed = len({pair.kind for pair in view.pairs}) > 1
    columns = ["rank", "image", "activation", "silent neighbour", "activation", "cosine", *(["kind"] if mixed else [])]
    table = Table(*columns, box=None, pad_edge=False)
    for pair in view.pairs:
        excited = [str(pair.rank), f"{pair.image_id} {view.names[pair.image_id]}", f"{pair.activation:.4g}"]
        silent = ["", "", ""]
        if pair.contrast_id is not None:
            silent = [
                f"{pair.contrast_id} {view.names[pair.contrast_id]}",
                f"{pair.contrast_activation:.4g}",
                f"{pair.similarity:.3f}",
            ]
            silent += [pair.kind] if mixed else []
        cells = [*(excited if pair.neighbour == 0 else ["", "", ""]), *silent]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE).print(table)


def _vector_index(index: dict[str, Any] | None) -> str:
    if index is None:
        return "no vector index"
    late = f", {index['unindexed']:,} not in it: run `csp-index optimize`" if index["unindexed"] else ""
    return f"vector index {index['kind']} of {index['rows']:,}{late}"


def say_optimized(summary: OptimizeSummary) -> None:
    """Print what `optimize` did: encoder by encoder, and the tables it changed."""
    for done in summary.encoders:
        say(f"encoder {done.encoder}: {_optimized(done)}")
        if done.recall is not None:
            say(f"  {_recall(done.recall)}")
            if done.recall.recall < _GOOD_RECALL:
                say(
                    f"  recall below {_GOOD_RECALL}: raise CSP_INDEX_SEARCH_PROBES, or CSP_INDEX_SEARCH_REFINE for a "
                    "compressed kind; --kind none drops the index"
                )
    for table in summary.tables:
        if table.fragments != table.fragments_before or table.freed:
            say(
                f"table {table.table}: {table.fragments_before:,} fragments -> {table.fragments:,}, "
                f"{megabytes(table.bytes)}, {megabytes(table.freed)} freed"
            )
    say(f"{len(summary.tables)} tables in order ({summary.seconds:.1f} s)")


def _optimized(done: EncoderOptimized) -> str:
    if done.kind == "none":
        return done.action
    where = f" on {done.trained_on}" if done.trained_on != "cpu" else ""
    return (
        f"vector index {done.kind} {done.action}{where} in {done.seconds:.1f} s: {done.rows:,} images, "
        f"{done.partitions:,} partitions, {megabytes(done.bytes)}"
    )


def _recall(recall: Recall) -> str:
    return (
        f"recall at 1 {recall.recall:.3f} over {recall.questions:,} questions; a neuron's images looked up in "
        f"{recall.query_ms:.0f} ms, {recall.query_without_ms:.0f} ms without the index; its contrastive images in "
        f"{recall.search_ms:.0f} ms by search, {recall.products_ms:.0f} ms by products"
    )


def _fires(view: NeuronView) -> str:
    """Say on how many images a neuron fires; of one that is above 0 on nearly all, where it is above its mean."""
    numbers, above = view.statistics, view.above_mean
    if above is None:
        return f"fires on {numbers['firing_rate']:.1%}"
    if numbers["min"] == numbers["max"]:
        return "the same activation on every image"
    return f"above 0 on {numbers['firing_rate']:.1%}, which says little; above its mean on about {above:.0%}"


def say_status(status: dict[str, Any]) -> None:
    """Print what an index holds and its last runs."""
    failed = f", {status['failures']:,} in `failures`" if status["failures"] else ""
    say(f"{status['index']}: {status['images']:,} images{failed}, {status['labels']:,} labels")
    if status["methods"]:
        preferred = status["preferred"]
        rule = f"by {preferred}, as preferred" if preferred else f"by {RECOMMENDED}, else the newest"
        say(f"labels by {', '.join(status['methods'])}; shown are those {rule}")
    if status["notes"] or status["ratings"]:
        say(f"{status['notes']:,} notes of readers, {status['ratings']:,} ratings of labels on pictures")
    for encoder in status["encoders"]:
        say(
            f"encoder {encoder['encoder']}: {encoder['width']} dimensions, {encoder['images']:,} images, "
            f"{_vector_index(encoder['vector_index'])}"
            + (f", {encoder['derived']:,} images made for neurons" if encoder["derived"] else "")
        )
    for layer in status["layers"]:
        state = "ready" if layer["ready"] else "not finished: run `csp-index index` again"
        say(
            f"layer {layer['layer']}: {layer['neurons']:,} neurons ({layer['dead']} dead), pool {layer['pool']}, "
            f"{layer['images']:,} images, {'stored sparse, ' if layer['storage'] == 'sparse' else ''}{state}"
            + (f", map of {layer['map']['placed']:,} neurons" if layer["map"] else "")
        )
    for row in status["answers"]:
        say(
            f"{row['kind']} {row['proposer']}: {row['answered']:,} answered, {row['unparsed']:,} unparsed, "
            f"{row['failed']:,} failed, {row['candidates']:,} candidates; {row['requests']:,} requests, "
            f"{row['prompt_tokens']:,} + {row['completion_tokens']:,} tokens"
        )
    for run in status["runs"][-5:]:
        message = f": {run['message']}" if run["message"] else ""
        say(f"run {run['run_id']} {run['command']} {run['state']}{message}")
