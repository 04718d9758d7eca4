"""The command that asks models for candidate labels: candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.options import (
    contrast_options,
    database,
    give_spec,
    json_option,
    neuron_options,
    opened,
    opening_options,
    whole,
)
from csp_index.cli.output import progress, say, say_json
from csp_index.errors import CspIndexError

if TYPE_CHECKING:
    from csp_index.proposers.propose import ProposeSummary


@click.command()
@database
@neuron_options
@click.option("--vlm", help="Vision-language model: openai:BASE_URL, transformers:ID_OR_DIR or python:MODULE:FACTORY.")
@click.option("--vlm-model", "model", help="The model's name at an openai: endpoint.")
@click.option("--captioner", help="Captioner: transformers:ID_OR_DIR or python:MODULE:FACTORY.")
@click.option("--neighbours", is_flag=True, help="Take the labels of similar neurons of other layers and networks.")
@click.option("--prompt", help="The model's prompt: a built-in prompt (concepts) or a text file.")
@click.option("--examples", type=whole("examples"), help="Activating images shown per neuron (9).")
@contrast_options
@click.option("--positive-only", is_flag=True, help="Show no contrastive images.")
@click.option(
    "--layout", "style", type=click.Choice(["two", "one", "composed"]), help="Two grids, one, or both in one."
)
@click.option("--columns", type=whole("columns"), help="Images per row of a grid (3).")
@click.option("--cell", type=whole("cell"), help="Side of an image in a grid, in pixels (224).")
@click.option("--concepts", type=whole("concepts"), help="Candidates requested per neuron (3).")
@click.option("--words", type=whole("words"), help="Words per candidate, at most (4).")
@click.option("--concurrency", type=whole("concurrency"), help="Simultaneous requests to an endpoint.")
@click.option("--timeout", type=float, help="Seconds to wait for the answer to a request.")
@click.option("--new-tokens", type=whole("new-tokens"), help="Tokens per answer, at most.")
@click.option("--again", is_flag=True, help="Ask again even if the index has the answers.")
@click.option(
    "--encoder", callback=give_spec, help="The encoder that finds contrastive images, if the index has several."
)
@opening_options
@json_option
def candidates(db: str, layer: str, neurons: str, as_json: bool, **options: Any) -> None:
    """Ask models what neurons of a layer mean, and store their answers as candidate labels.

    The model sees the images that activate a neuron, and similar images that leave it silent. Stored answers are not
    requested again, so the same command resumes an interrupted run. A neuron that fails is reported, and asked about
    again next time. The key of an openai: endpoint comes from the environment.

    \b
    csp-index candidates birds.db --layer resnet50/layer4 --neurons 0-99 \\
        --vlm openai:http://localhost:8000/v1 --vlm-model Qwen/Qwen3-VL-8B-Instruct
    csp-index candidates birds.db --layer resnet50/layer4 --captioner transformers:blip-dir/ --neighbours
    """
    from csp_index.store.addresses import parse_neurons

    models = {kind: options.pop(kind) for kind in ("vlm", "captioner", "neighbours")}
    requested = [(kind, value) for kind, value in models.items() if value]
    if not requested:
        raise click.UsageError("no source of candidates: give --vlm, --captioner or --neighbours")
    index = opened(db, options)
    selection = parse_neurons(layer, neurons)
    errors: list[CspIndexError] = []
    for kind, value in requested:
        try:
            with progress() as report:
                summaries = index.propose(selection, progress=report, **{kind: value}, **options)
        except CspIndexError as exc:
            errors.append(exc)
            if len(errors) == len(requested):
                raise
            say(f"{kind}: {' '.join(str(exc).split())}", err=True)
            continue
        for summary in summaries:
            if as_json:
                say_json(asdict(summary))
            else:
                say("; ".join(_parts(summary)))


def _parts(summary: ProposeSummary) -> Iterator[str]:
    """Yield the parts of the line that reports a run."""
    reason = f" (first: {summary.reason})" if summary.reason else ""
    counts = f"{summary.answered:,} answered, {summary.unparsed:,} unparsed, {summary.failed:,} failed"
    yield f"{summary.layer} by {summary.kind} {summary.proposer}: {counts}{reason}"
    if summary.known:
        yield f"{summary.known:,} read from the index"
    if summary.dead:
        yield f"{summary.dead:,} dead neurons left out"
    if summary.thumbnails:
        yield f"{summary.thumbnails:,} pictures are thumbnails: their files are missing, changed or outside --images"
    tokens = f"{summary.prompt_tokens:,} + {summary.completion_tokens:,} tokens"
    yield f"{summary.requests:,} requests, {tokens}, {summary.seconds:.1f} s"


COMMANDS = (candidates,)
