"""The command that evaluates labels: evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    FILE,
    OPENING,
    candidate_texts,
    give_spec,
    json_option,
    neurons_option,
    opened,
    opening_options,
    seed_option,
    templates_option,
    text_arrays,
    vocabulary_option,
    whole,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.evaluation.metrics.table import HEADLINES, NEURON_HEADLINES
from csp_index.printable import printable

if TYPE_CHECKING:
    from csp_index.evaluation.evaluation import Evaluation
    from csp_index.evaluation.metrics.sanity import SanityReport, SanityRow
    from csp_index.evaluation.people import People

_GRADES = {"agreement-exact": "{:.2f}", "agreement-overlap": "{:.2f}", "agreement-level": "{:+.2f}"} | {
    f"agreement-{share}": "{:.0%}" for share in ("narrower", "same", "broader")
}


@click.command()
@click.argument("db", metavar="[DB]", required=False)
@click.option("--layer", help="MODEL/LAYER.")
@neurons_option
@click.option(
    "--method", "methods", multiple=True, help="Labeling method, with options as in csp:gamma=0.5; repeatable."
)
@click.option(
    "--labels",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Labels made elsewhere, judged beside the methods: neuron,label[,weight], or as published; repeatable.",
)
@click.option("--labels-layer", help="What the tables of --labels call the layer, if it is not its own name.")
@vocabulary_option
@templates_option
@text_arrays
@click.option("--held-out", type=float, default=0.5, show_default=True, help="Share of images that judge.")
@click.option("--choose-on", help="The images' own split that chooses labels, instead of a drawn one.")
@click.option("--judge-on", help="The images' own split that judges labels.")
@seed_option("Seed of the split and of all other random draws.")
@click.option("--encoder", callback=give_spec, help="The encoder that labels, if the index has several.")
@click.option("--judge", callback=give_spec, help="The encoder that judges; by default the one that labels.")
@click.option("--logit-scale", type=float, help="The encoder's multiplier of the cosine, if the index has none.")
@click.option("--truth", type=FILE, help="Table neuron,label[,kind], or class names of output neurons, one per line.")
@click.option("--concepts", multiple=True, help="Metadata column with an image's concepts, or all; repeatable.")
@click.option("--hierarchy", type=FILE, help="Table child,parent, or a WordNet-style data file.")
@click.option("--word-items", type=FILE, help="Table word,item: what words are true of, if the metadata do not say it.")
@click.option("--generator", help="Image generator: diffusers:ID_OR_DIR or python:package.module:factory.")
@click.option("--generated", type=whole("generated"), default=20, show_default=True, help="Images drawn per label.")
@click.option("--prompt", default="{}", show_default=True, help="The generator's prompt, with {} for the label.")
@click.option("--drawings", type=FILE, help="Folder that keeps the drawn images, so that long work can resume.")
@click.option("--controls", type=FILE, help="Control images; by default a sample of the held-out images.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Share of images that count as activating.")
@click.option("--resamples", type=whole("resamples"), default=0, show_default=True, help="Relabelings on other images.")
@click.option("--perturb", is_flag=True, help="Relabel on noisy, blurred, compressed and darker copies.")
@click.option(
    "--pairs", type=FILE, help="Table image_a,image_b,word: indexed images, of which the first shows the word."
)
@click.option("--null", metavar="LAYER|auto", help="Layer of a redrawn network: say how far each measure falls to it.")
@click.option("--report", type=FILE, help="Folder for the report: a page, JSON and CSV.")
@click.option("--check-metrics", is_flag=True, help="Test the metrics themselves.")
@click.option("--recompute", is_flag=True, help="Evaluate again even if the index has the values.")
@opening_options
@json_option
def evaluate(db: str | None, as_json: bool, check_metrics: bool, report: str | None, **options: Any) -> None:
    """Evaluate how faithful labels are: chosen on one part of the images, judged on another.

    Compares methods on the same neurons; each figure has an interval over neurons. --check-metrics needs no DB.

    \b
    csp-index evaluate birds.db --layer resnet50/layer4 --truth labels.csv --report out/
    csp-index evaluate --check-metrics
    """
    from csp_index.evaluation.metrics.sanity import check_metrics as check
    from csp_index.evaluation.report.shared_labels import collision_rows
    from csp_index.evaluation.report.summary import summarise
    from csp_index.evaluation.report.write import check_folder

    if (db is None) != (options["layer"] is None):
        raise click.UsageError("an evaluation needs both DB and --layer")
    if db is None and not check_metrics:
        raise click.UsageError("an evaluation needs DB and --layer (or --check-metrics alone)")
    if db is None and report is not None:
        raise click.UsageError("--report needs an evaluation: give DB and --layer too")
    if report is not None:
        check_folder(report)
    sanity = check(seed=options["seed"]) if check_metrics else None
    null = options.pop("null")
    evaluation = None if db is None else _evaluate(db, options)
    if db is not None and evaluation is not None and null is not None:
        evaluation = _against_null(db, evaluation, null, options)
    people = None if db is None or evaluation is None else _people(db, evaluation)
    rows = [] if evaluation is None else summarise(evaluation).to_pylist()
    shared = [] if evaluation is None else collision_rows(evaluation)
    if as_json:
        document = _as_json(sanity, evaluation, rows, shared)
        say_json(document if people is None else document | {"people": people.as_json()})
    else:
        if sanity is not None:
            _say_sanity(sanity)
        if evaluation is not None:
            _say_summary(evaluation, rows, shared)
            if evaluation.null:
                _say_null(evaluation)
            if people is not None:
                _say_people(people)
    if db is not None and evaluation is not None and report is not None:
        page = _write(db, evaluation, report, sanity, options)
        say(f"report: {page}", err=as_json)


def _as_json(
    sanity: SanityReport | None, evaluation: Evaluation | None, rows: list[dict[str, Any]], shared: list[dict[str, Any]]
) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if sanity is not None:
        document["check_metrics"] = {"passes": sanity.verdicts(), "rows": [asdict(row) for row in sanity.rows]}
    if evaluation is not None:
        document |= {"settings": evaluation.settings, "skipped": evaluation.skipped, "summary": rows}
        document["collisions"] = shared
        document["null"] = list(evaluation.null)
    return document


def _against_null(db: str, evaluation: Evaluation, null: str, options: dict[str, Any]) -> Evaluation:
    """Evaluate a null with the same options but the truth, which is of other neurons, and imported labels."""
    from csp_index.evaluation.report.nulls import against_null
    from csp_index.labelling.nulls.null_labels import null_layer
    from csp_index.records import LayerKey
    from csp_index.store import catalog
    from csp_index.store.connect import open_store

    store = open_store(db)
    layer = null_layer(store, catalog.layer(store, LayerKey.parse(options["layer"])), null).key
    same = {**options, "layer": str(layer), "neurons": "all", "truth": None, "labels": ()}
    return against_null(evaluation, _evaluate(db, same))


def _people(db: str, evaluation: Evaluation) -> People:
    from csp_index.evaluation.people import people_of
    from csp_index.store.connect import open_store

    return people_of(open_store(db), evaluation)


def _say_people(people: People) -> None:
    """Print how far people agree, and what they say of the labels of each method; nothing without ratings."""
    from csp_index.evaluation.people import agreement_line, method_line

    if not people.ratings:
        return
    say(f"people: {people.ratings:,} ratings by {people.raters:,} {'person' if people.raters == 1 else 'people'}")
    for row in people.agreement[:2]:
        say(printable(f"  {agreement_line(row)}"))
    for row in people.methods:
        say(printable(f"  {method_line(row)}"))


def _say_null(evaluation: Evaluation) -> None:
    """Print how far the headline metrics fall to the null, and which measures do not."""
    from csp_index.evaluation.report.nulls import fall_line, unmoved_line

    rows: list[Any] = [row for row in evaluation.null if row["metric"] in HEADLINES]
    say(f"against {evaluation.settings['null']}, which has learned nothing:")
    for row in rows:
        say(f"  {fall_line(row)}")
    if line := unmoved_line(evaluation.null):
        say(f"  {line}")


def _evaluate(db: str, options: dict[str, Any]) -> Evaluation:
    from csp_index.evaluation.options import EvaluationOptions, parse_methods
    from csp_index.labelling.elsewhere.given_labels import LabelsFile
    from csp_index.store.addresses import parse_neurons

    settings = dict(options)
    vocabulary = candidate_texts(settings)
    names = ("layer", "neurons", "templates", "encoder", "recompute")
    call = {name: settings.pop(name) for name in names}
    for name in ("truth", "hierarchy", "word_items", "drawings", "pairs"):
        settings[name] = None if settings[name] is None else Path(settings[name])
    settings["methods"] = parse_methods(settings["methods"])
    settings["labels"] = tuple(map(LabelsFile.parse, settings["labels"]))
    if "all" in settings["concepts"] and len(settings["concepts"]) > 1:
        raise click.UsageError("--concepts all means every column: give it alone")
    settings["concepts"] = () if "all" in settings["concepts"] else settings["concepts"] or None
    index = opened(db, settings)
    with progress() as tell:
        return index.evaluate(
            parse_neurons(call["layer"], call["neurons"]),
            EvaluationOptions(**settings),
            vocabulary=vocabulary,
            templates=call["templates"],
            encoder=call["encoder"],
            recompute=call["recompute"],
            progress=tell,
        )


def _write(db: str, evaluation: Evaluation, folder: str, sanity: SanityReport | None, options: dict[str, Any]) -> Path:
    from csp_index.index import open_index

    return open_index(db, **{name: options[name] for name in OPENING}).report(evaluation, folder, sanity=sanity)


def _say_summary(evaluation: Evaluation, rows: list[dict[str, Any]], shared: list[dict[str, Any]]) -> None:
    """Print methods by headline metrics, one table per kind of neurons; then what was left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from csp_index.evaluation.report.wording import given_lines

    metrics = [metric for metric in HEADLINES if any(row["metric"] == metric for row in rows)]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    split: Any = evaluation.settings["split"]
    methods: Any = evaluation.settings["methods"]
    same = " (the encoder that labeled)" if evaluation.settings["same_encoder"] else ""
    say(
        f"{evaluation.settings['layer']}: labels chosen on {split['choosing']:,} images, "
        f"judged on {split['judging']:,} by {evaluation.settings['judge']}{same}; "
        f"detection by {evaluation.settings['detection']}"
    )
    for name, (first, *notes) in given_lines(evaluation.settings).items():
        for line in (first, *(f"{name}: {note}" for note in notes)):
            say(printable(line))
    cells = {(row["method"], row["metric"], row["kind"]): row for row in rows}
    for kind in kinds:
        title = "all neurons" if kind == "all" else printable(f"kind {kind or 'not said'}")
        table = Table(title=Text(title), box=None, pad_edge=False)
        table.add_column("method", no_wrap=True)
        columns = [_column(metric, [cells.get((method, metric, kind)) for method in methods]) for metric in metrics]
        for head, *_ in columns:
            table.add_column(head, no_wrap=True)
        for method, *texts in zip(methods, *(column[1:] for column in columns), strict=True):
            table.add_row(Text(printable(method)), *texts)
        console = Console()
        # A row stays one line, as wide as it is: a folded interval could be read as the next row's.
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
        console.print(table)
    from csp_index.evaluation.report.shared_labels import collision_line

    for row in shared:
        say(printable(f"labels of {row['method']}: {collision_line(row)}"))
    for text in _neuron_lines(rows):
        say(text)
    for line in _graded(methods, cells):
        say(line)
    for family, why in evaluation.skipped.items():
        say(f"not evaluated: {family}: {why}")


def _neuron_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line per kind with the means of the neurons themselves, which no label enters."""
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = {row["metric"]: row for row in rows if row["kind"] == kind and not row["method"]}
        shown = [cells[name] for name in NEURON_HEADLINES if name in cells and cells[name]["mean"] is not None]
        if shown:
            who = "all neurons" if kind == "all" else printable(f"kind {kind or 'not said'}")
            means = ", ".join(f"{r['metric']} {r['mean']:z.2f} ({r['low']:z.2f}..{r['high']:z.2f})" for r in shown)
            lines.append(f"without labels, {who}: {means}")
    return lines


def _graded(methods: Sequence[str], cells: dict[tuple[str, str, str], dict[str, Any]]) -> list[str]:
    """Return a line per method of how its labels agree with the truth by degree; none without graded agreement."""
    lines = []
    for method in methods:
        rows = {metric: cells.get((method, metric, "all")) for metric in _GRADES}
        valued = {metric: row for metric, row in rows.items() if row is not None and row["mean"] is not None}
        if len(valued) < 2:
            continue
        parts = [
            f"{_GRADES[metric].format(row['mean'])} {metric.removeprefix('agreement-')}"
            for metric, row in valued.items()
        ]
        most = max(row["neurons"] for row in valued.values())
        unknown = most - min(row["neurons"] for row in valued.values())
        parts += [f"{unknown:,} of {most:,} neurons not graded (the report says why)"] if unknown else []
        lines.append(f"  {printable(method)}: {', '.join(parts)}")
    return ["agreement with the truth, over all neurons:", *lines] if lines else []


def _column(metric: str, rows: Sequence[dict[str, Any] | None]) -> list[str]:
    """Return a metric's name and its cells at one width: means below each other, then intervals that start alike."""
    valued = [row if row is not None and row["mean"] is not None else None for row in rows]
    intervals = ["" if row is None else f"({row['low']:z.2f}..{row['high']:z.2f})" for row in valued]
    widest = max(map(len, intervals), default=0)
    texts = [
        "-" if row is None else f"{row['mean']:z.2f} {text:<{widest}}"
        for row, text in zip(valued, intervals, strict=True)
    ]
    width = max(map(len, [metric, *texts]))
    return [text.rjust(width) for text in [metric, *texts]]


def _say_sanity(report: SanityReport) -> None:
    """Print which metrics pass their own test, and an example of each failure."""
    verdicts = report.verdicts()
    say("A sound metric falls when half of the right labels are missing, and when as many wrong ones are added.")
    for metric, passes in sorted(verdicts.items(), key=lambda item: not item[1]):
        example = "" if passes else "  e.g. " + _failure(report.failures(metric)[0])
        say(f"{'passes' if passes else 'FAILS '}  {metric}{example}")


def _failure(row: SanityRow) -> str:
    drop = "undefined" if row.drop is None else f"falls by {row.drop:.3f} of the gap between right and random labels"
    return f"{row.test} labels, concept on {row.frequency:.3g} of the images, {row.neurons} neurons: {drop}"


COMMANDS = (evaluate,)
