"""The command that judges labels: evaluate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from csp_index.cli.options import FILE, json_option
from csp_index.cli.output import progress, say_json
from csp_index.evaluation.metrics.table import HEADLINES

if TYPE_CHECKING:
    from csp_index.evaluation.evaluation import Evaluation
    from csp_index.evaluation.metrics.sanity import SanityReport, SanityRow


@click.command()
@click.argument("db", metavar="[DB]", required=False)
@click.option("--layer", help="MODEL/LAYER.")
@click.option("--neurons", default="all", show_default=True, help="all, 0,5,9 or 10-20.")
@click.option("--method", "methods", multiple=True, help="As in label, with options of its own: csp:gamma=0.5; again.")
@click.option("--vocabulary", help="As for `csp-index label`; by default the one used last.")
@click.option("--templates", help="Prompt templates; by default those used last.")
@click.option("--text-embeddings", type=FILE, help="Text embeddings made elsewhere [labels, dimensions], .npy.")
@click.option("--texts", type=FILE, help="Their texts, one a line.")
@click.option("--held-out", type=float, default=0.5, show_default=True, help="Share of images that judge.")
@click.option("--choose-on", help="The images' own split that chooses labels, in place of a drawn one.")
@click.option("--judge-on", help="The images' own split that judges them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split and all that is drawn.")
@click.option("--encoder", help="The encoder that labels, where the index holds several.")
@click.option("--judge", help="The encoder that judges; the labelling one by default.")
@click.option("--logit-scale", type=float, help="The encoder's multiplier of the cosine, where none is known.")
@click.option("--truth", type=FILE, help="Table neuron,label[,kind], or class names of output neurons, one a line.")
@click.option("--concepts", multiple=True, help="Metadata column that tells an image's concepts, or all; again.")
@click.option("--hierarchy", type=FILE, help="Table child,parent, or a WordNet-style data file.")
@click.option("--generator", help="What draws labels: diffusers:ID_OR_DIR or python:package.module:factory.")
@click.option("--generated", type=click.IntRange(1), default=20, show_default=True, help="Images drawn for a label.")
@click.option("--prompt", default="{}", show_default=True, help="What the generator is told, around the label.")
@click.option("--drawings", type=FILE, help="Folder that keeps the drawn images, so that long work can go on.")
@click.option("--controls", type=FILE, help="Control images; by default a sample of the held-out ones.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Share of images that count as activating.")
@click.option("--resamples", type=click.IntRange(0), default=0, show_default=True, help="Relabellings on other images.")
@click.option("--perturb", is_flag=True, help="Relabel on noisy, blurred, compressed and darker copies.")
@click.option("--report", type=FILE, help="Folder for the report: a page, JSON and CSV.")
@click.option("--check-metrics", is_flag=True, help="Put the metrics themselves to the test.")
@click.option("--recompute", is_flag=True, help="Judge anew even if the index holds the values.")
@click.option("--device", help="Where models and products run: auto, cpu, cuda, mps.")
@json_option
def evaluate(db: str | None, as_json: bool, check_metrics: bool, report: str | None, **options: Any) -> None:
    """Judge how faithful labels are: chosen on one part of the images, judged on another.

    Compares methods on the same neurons, each figure with an interval over neurons. --check-metrics needs no DB.

    \b
    csp-index evaluate birds.db --layer resnet50/layer4 --truth labels.csv --report out/
    csp-index evaluate --check-metrics
    """
    from csp_index.evaluation.metrics.sanity import check_metrics as check
    from csp_index.evaluation.report.summary import summarise
    from csp_index.evaluation.report.write import check_folder

    if (db is None) != (options["layer"] is None):
        raise click.UsageError("an evaluation needs both DB and --layer")
    if db is None and not check_metrics:
        raise click.UsageError("an evaluation needs DB and --layer (or --check-metrics alone)")
    if db is None and report is not None:
        raise click.UsageError("a report is of an evaluation: give DB and --layer too")
    if report is not None:
        check_folder(report)
    sanity = check(seed=options["seed"]) if check_metrics else None
    found = None if db is None else _evaluate(db, options)
    rows = [] if found is None else summarise(found).to_pylist()
    if as_json:
        say_json(_as_json(sanity, found, rows))
    else:
        if sanity is not None:
            _say_sanity(sanity)
        if found is not None:
            _say_summary(found, rows)
    if db is not None and found is not None and report is not None:
        place = _write(db, found, report, sanity, options["device"])
        click.echo(f"report: {place}", err=as_json)


def _as_json(sanity: SanityReport | None, found: Evaluation | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if sanity is not None:
        told["check_metrics"] = {"passes": sanity.verdicts(), "rows": [asdict(row) for row in sanity.rows]}
    if found is not None:
        told |= {"settings": found.settings, "skipped": found.skipped, "summary": rows}
    return told


def _evaluate(db: str, options: dict[str, Any]) -> Evaluation:
    from csp_index.evaluation.options import EvaluationOptions, parse_methods
    from csp_index.index import open_index
    from csp_index.labelling.candidates import read_text_arrays
    from csp_index.store.addresses import parse_neurons

    given = dict(options)
    arrays, texts = given.pop("text_embeddings"), given.pop("texts")
    if (arrays is None) != (texts is None):
        raise click.UsageError("--text-embeddings and --texts go together: give both or none")
    vocabulary = given.pop("vocabulary")
    if arrays is not None:
        if vocabulary is not None:
            raise click.UsageError("--vocabulary and --text-embeddings both name the candidates: give one of them")
        vocabulary = read_text_arrays(arrays, texts)
    asked = {name: given.pop(name) for name in ("layer", "neurons", "templates", "encoder", "recompute", "device")}
    for name in ("truth", "hierarchy", "drawings"):
        given[name] = None if given[name] is None else Path(given[name])
    given["methods"] = parse_methods(given["methods"])
    if "all" in given["concepts"] and len(given["concepts"]) > 1:
        raise click.UsageError("--concepts all stands for every column: name it alone")
    given["concepts"] = () if "all" in given["concepts"] else given["concepts"] or None
    with progress() as tell:
        return open_index(db, device=asked["device"]).evaluate(
            parse_neurons(asked["layer"], asked["neurons"]),
            EvaluationOptions(**given),
            vocabulary=vocabulary,
            templates=asked["templates"],
            encoder=asked["encoder"],
            recompute=asked["recompute"],
            progress=tell,
        )


def _write(db: str, found: Evaluation, folder: str, sanity: SanityReport | None, device: str | None) -> Path:
    from csp_index.index import open_index

    return open_index(db, device=device).report(found, folder, sanity=sanity)


def _say_summary(found: Evaluation, rows: list[dict[str, Any]]) -> None:
    """Print methods by headline metrics, kinds of neurons apart; then what was left out."""
    metrics = [metric for metric in HEADLINES if any(row["metric"] == metric for row in rows)]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    split: Any = found.settings["split"]
    methods: Any = found.settings["methods"]
    same = " (the encoder that labelled)" if found.settings["same_encoder"] else ""
    click.echo(
        f"{found.settings['layer']}: labels chosen on {split['choosing']:,} images, judged on {split['judging']:,} "
        f"by {found.settings['judge']}{same}; detection by {found.settings['detection']}"
    )
    cells = {(row["method"], row["metric"], row["kind"]): row for row in rows}
    for kind in kinds:
        table = Table(
            title="all neurons" if kind == "all" else escape(f"kind {kind or 'not said'}"), box=None, pad_edge=False
        )
        table.add_column("method", no_wrap=True)
        for metric in metrics:
            table.add_column(metric, justify="right")
        for method in methods:
            table.add_row(escape(method), *(_cell(cells.get((method, metric, kind))) for metric in metrics))
        Console(width=max(150, Console().width)).print(table)
    for family, why in found.skipped.items():
        click.echo(f"not judged: {family}: {why}")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    return f"{row['mean']:.2f} ({row['low']:.2f}..{row['high']:.2f})"


def _say_sanity(report: SanityReport) -> None:
    """Print which metrics pass their own test, and where the others fail."""
    verdicts = report.verdicts()
    click.echo("A sound metric falls when half of the right labels are missing, and when as many wrong ones are added.")
    for metric, passes in sorted(verdicts.items(), key=lambda item: not item[1]):
        told = "" if passes else "  e.g. " + _failure(report.failures(metric)[0])
        click.echo(f"{'passes' if passes else 'FAILS '}  {metric}{told}")


def _failure(row: SanityRow) -> str:
    drop = "undefined" if row.drop is None else f"falls by {row.drop:.3f} of what separates right from random labels"
    return f"{row.test} labels, concept on {row.frequency:.3g} of the images, {row.neurons} neurons: {drop}"


COMMANDS = (evaluate,)
