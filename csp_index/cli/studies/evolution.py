"""The command that follows a network through its training: evolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    FILE,
    database,
    encoder_option,
    json_option,
    opened,
    opening_options,
    templates_option,
    top_option,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.models.specs import check_pool, network_spec, parse_axis

if TYPE_CHECKING:
    from csp_index.studies.evolution.records import Evolution


@click.command()
@database
@click.argument("more", nargs=-1, metavar="[CHECKPOINT]...", type=FILE)
@click.option(
    "--network", required=True, help="The network, as for `csp-index index`; its weights are the checkpoints'."
)
@click.option("--layers", required=True, help="Its layers, with commas; see `csp-index layers`.")
@click.option(
    "--checkpoints",
    "files",
    multiple=True,
    required=True,
    type=FILE,
    metavar="FILE...",
    help="Weight files, in the order of training: after the first one the others follow, FILE or FILE::PART each.",
)
@click.option("--name", help="Name of the network in addresses NAME@CHECKPOINT/LAYER/INDEX.")
@click.option("--pool", help="How layers are pooled, as for `csp-index index`.")
@click.option("--axis", metavar="A[,A...]", help="Axis of the neurons, where the layers do not say it.")
@click.option("--method", help="Labeling method, as for `csp-index label`.")
@click.option("--vocabulary", help="Candidate labels, as for `csp-index label`; by default the last one used.")
@templates_option
@encoder_option
@top_option(10, "Neurons to print: those that moved most.")
@click.option("--recompute", is_flag=True, help="Follow the neurons again even if the index holds their paths.")
@opening_options
@json_option
def evolution(
    db: str, more: tuple[str, ...], files: tuple[str, ...], network: str, layers: str, as_json: bool, **options: Any
) -> None:
    """Follow the neurons of a network through the checkpoints of its training.

    All checkpoints are indexed in one pass over the images of DB, as networks NAME@CHECKPOINT, and labeled. Then, for
    each neuron: its label at every checkpoint and when the last one settled, how far its concept vector moved, birth
    and death (its firing rate from and to 0). What is stored is read.

    \b
    csp-index evolution birds.db --network timm:resnet18/none --layers layer4 \\
        --checkpoints step1.safetensors step2.safetensors step3.safetensors
    """
    if more and len(files) > 1:
        raise click.UsageError(
            "--checkpoints is given several times and with several files: write it once, or each alone"
        )
    names = tuple(part.strip() for part in layers.split(",") if part.strip())
    if not names:
        raise click.UsageError(f"--layers names none: `csp-index layers {network}` lists them")
    check_pool(options["pool"])
    top = options.pop("top")
    options |= {"axis": parse_axis(options["axis"]), "checkpoints": (*files, *more)}
    index = opened(db, options)
    with progress() as report:
        found = index.evolution(network_spec(network), names, progress=report, **options)
    for one in found:
        _say(one, top, as_json)


def _drift(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _say(evolution: Evolution, top: int, as_json: bool) -> None:
    """Print one layer: the checkpoints, then the neurons that moved most."""
    neurons = evolution.neurons().sort_by([("drift", "descending"), ("neuron", "ascending")])
    if as_json:
        head = {"network": evolution.network, "layer": evolution.layer, "checkpoints": evolution.steps()}
        say_json(head)
        for row in neurons.sort_by("neuron").to_pylist():
            say_json({"network": evolution.network, "layer": evolution.layer} | row)
        return
    say(
        f"{evolution.network}/{evolution.layer}: {neurons.num_rows:,} neurons at {len(evolution.checkpoints)} "
        "checkpoints"
    )
    for step in evolution.steps():
        cosine = "" if step["cosine"] is None else f", concept vectors {step['cosine']:.3f} like before"
        say(
            step["checkpoint"],
            f"{step['alive']:,} alive ({step['born']:,} born, {step['died']:,} died), {step['labels']:,} labels, "
            f"{step['changed']:,} changed, {step['settled']:,} settled{cosine}",
        )
    for row in neurons.slice(0, top).to_pylist():
        path = " > ".join(dict.fromkeys(text or "no label" for text in row["labels"]))
        happened = [f"{name} at {row[name]}" for name in ("born", "died") if row[name]]
        say(
            f"neuron {row['neuron']}",
            path,
            "; ".join([f"settled at {row['settled']}, drift {_drift(row['drift'])}", *happened]),
        )


COMMANDS = (evolution,)
