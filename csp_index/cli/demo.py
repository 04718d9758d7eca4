"""The command that shows everything at work: demo."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from csp_index.cli.options import json_option, whole
from csp_index.cli.output import say_json
from csp_index.labelling.methods import RECOMMENDED

if TYPE_CHECKING:
    from csp_index.demo.captioning import CaptionerReport, Ranked, Share
    from csp_index.demo.mixed import MixedReport
    from csp_index.demo.run import DemoReport


@click.command()
@click.argument("directory", default="csp-demo", metavar="[DIR]")
@click.option(
    "--seed",
    type=whole("seed"),
    default=0,
    show_default=True,
    help="Of the probing images; a directory holds one seed.",
)
@click.option(
    "--stage1", type=click.Choice(["captioner"]), help="Let a captioner name candidates from pictures, and judge them."
)
@click.option("--mixed", is_flag=True, help="Index OR and AND NOT neurons, too; find their facets and formulas.")
@json_option
def demo(directory: str, seed: int, stage1: Literal["captioner"] | None, mixed: bool, as_json: bool) -> None:
    """Render a small world with planted neurons, index it, label it by every method, and compare with the truth.

    Needs no network. DIR (csp-demo) receives the pictures, two indexes and three cards.

    \b
    csp-index demo
    csp-index demo --stage1 captioner
    csp-index demo --mixed
    """
    from csp_index.demo.run import run_demo

    report = run_demo(directory, lambda line: click.echo(line, err=as_json), seed, stage1, mixed=mixed)
    if as_json:
        probing = {
            name: {method: {kind: asdict(share) for kind, share in kinds.items()} for method, kinds in methods.items()}
            for name, methods in report.probing.items()
        }
        document: dict[str, object] = {"probing": probing}
        if report.captioner is not None:
            document["stage1"] = {"captioner": _captioner_json(report.captioner)}
        if report.mixed is not None:
            document["mixed"] = asdict(report.mixed)
        say_json(document | {"seconds": round(report.seconds, 1)})
        return
    _say_table(report)
    _say_findings(report)
    if report.captioner is not None:
        _say_captioner(report.captioner)
    if report.mixed is not None:
        _say_mixed(report.mixed)
    _say_next(report)


def _say_table(report: DemoReport) -> None:
    from rich.console import Console
    from rich.table import Table

    sets = list(report.probing)
    first = report.probing[sets[0]]["csp"]
    table = Table(title="Share of neurons with the right label: first (among the first five)", box=None, pad_edge=False)
    table.add_column("method")
    for name in sets:
        for kind, share in first.items():
            table.add_column(f"{name}\n{share.n} {kind}s", justify="right")
    for method in report.probing[sets[0]]:
        cells = [share for name in sets for share in report.probing[name][method].values()]
        table.add_row(method, *(f"{cell.top1:.2f} ({cell.top5:.2f})" for cell in cells))
    Console(width=max(100, Console().width)).print(table)


def _say_findings(report: DemoReport) -> None:
    biased = report.probing["biased"]
    csp, plain, prior, joint, default = (
        biased[name] for name in ("csp", "semanticlens", "contrastive-pmi", "consensus", RECOMMENDED)
    )
    click.echo(
        f"\nIn the biased set most carriers of a concept share a look. The mean of the activating images "
        f"(semanticlens) names {plain['single'].top1:.0%} of the single concepts, CSP {csp['single'].top1:.0%}."
        f"\nOn pairs CSP names {csp['pair'].top1:.0%} and semanticlens {plain['pair'].top1:.0%}: the nearest silent "
        f"image often shares one half of a pair, and the projection removes that half."
        f"\n{RECOMMENDED}, the default method, sets all images on which a neuron fires against those that look alike: "
        f"{default['single'].top1:.0%} of singles, {default['pair'].top1:.0%} of pairs. contrastive-pmi, with the "
        f"activating images alone: {prior['single'].top1:.0%} and {prior['pair'].top1:.0%}. consensus: "
        f"{joint['single'].top1:.0%} and {joint['pair'].top1:.0%}, but on real pictures it loses (the manual's page "
        f"methods.md has both)."
    )
    if report.corrections:
        click.echo("\nNeurons where contrast changed the label:")
    for correction in report.corrections:
        click.echo(
            f"  {correction.neuron}: {correction.without_contrast!r} became {correction.truth!r}, as planted; "
            f"card {correction.card}"
        )


def _captioner_json(report: CaptionerReport) -> dict[str, object]:
    """Return the captioner's own ranking, and under `scored` that of stage 2 by method."""
    scored = {
        method: _ranked_json(result.ranked)
        | {"vocabulary": {kind: asdict(share) for kind, share in result.vocabulary.items()}, "kept": result.ratio}
        for method, result in report.scored.items()
    }
    summary = {
        "named": report.named,
        "helps": report.helps,
        "finding": report.finding,
        "seconds": round(report.seconds, 1),
    }
    ties = {"shortest": _ranked_json(report.shortest), "longest": _ranked_json(report.longest)}
    return _ranked_json(report.captioned) | {"ties": ties, "scored": scored} | summary


def _ranked_json(ranked: Ranked) -> dict[str, object]:
    shares = {arm: {kind: asdict(share) for kind, share in kinds.items()} for arm, kinds in ranked.shares.items()}
    return shares | {"gain": {kind: asdict(gain) for kind, gain in ranked.gains.items()}}


def _say_captioner(report: CaptionerReport) -> None:
    from rich.console import Console
    from rich.table import Table

    first = report.captioned.shares["contrastive"]
    title = "Candidates named from pictures, biased set: share of planted concepts that come first"
    table = Table(title=title, box=None, pad_edge=False)
    table.add_column("ranked by")
    for heading in ("contrast", "positive only", "vocabulary"):
        for kind, share in first.items():
            table.add_column(f"{heading}\n{share.n} {kind}s", justify="right")
    rows: dict[str, tuple[Ranked, dict[str, Share]]] = {
        "captioner, ties at random": (report.captioned, {}),
        "captioner, shortest of equals": (report.shortest, {}),
        "captioner, longest of equals": (report.longest, {}),
    }
    rows |= {method: (result.ranked, result.vocabulary) for method, result in report.scored.items()}
    for name, (ranked, vocabulary) in rows.items():
        shares = [share for kinds in (*ranked.shares.values(), vocabulary) for share in kinds.values()]
        table.add_row(name, *(f"{each.top1:.2f}" for each in shares))
    click.echo()
    Console(width=max(110, Console().width)).print(table)
    click.echo(f"\n{report.finding}")


def _say_mixed(report: MixedReport) -> None:
    click.echo(
        f"\nNeurons that one concept does not tell (unbiased set): of {report.of_two} of two concepts joined by OR, "
        f"{report.divided} have these as their two facets; of {report.of_one} of one concept {report.whole} have one "
        f"facet. Of {report.of_mixed} formulas planted, {report.told} are found over the metadata."
    )


def _say_next(report: DemoReport) -> None:
    db = report.directory / "biased.db"
    neuron = report.corrections[0].neuron if report.corrections else "cnn/concepts/0"
    click.echo(
        f"\n{report.seconds:.0f} s. What to type next:\n"
        f"  csp-index show {db} {neuron}\n"
        f"  csp-index serve {db}\n"
        f'  csp-index search {db} "striped"\n'
        f"  csp-index label {db} --layer cnn/concepts --neurons 0-9 --method csp --gamma 0.5\n"
        f"  csp-index evaluate {db} --layer cnn/concepts --truth {report.directory / 'truth.csv'} --report report\n"
        f'  csp-index sql {db} "SELECT address, text, confidence FROM neuron_labels ORDER BY confidence DESC LIMIT 5"\n'
        f"  csp-index status {db}"
    )


COMMANDS = (demo,)
