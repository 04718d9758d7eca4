"""The command doctor: what indexing would do, tried on a handful of images before hours are spent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.formatting import megabytes
from csp_index.cli.network_options import chosen_models, network_options
from csp_index.cli.options import SOURCE_OPTIONS, images_option, json_option, source_options, trust_option, whole
from csp_index.cli.output import say, say_json
from csp_index.images.passed_over import PassedOver

if TYPE_CHECKING:
    from csp_index.indexing.doctor.index import IndexReport
    from csp_index.indexing.doctor.source import Expected, Listing, Report
    from csp_index.indexing.doctor.trial_pass import Input, LayerTrial, ModelTrial

_SHOWN = 12  # kinds of files, or columns of metadata


@click.command()
@click.argument("place", metavar="DB_OR_SOURCE")
@network_options
@source_options
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="How activations are stored (float32).")
@click.option("--sample", type=whole("sample"), default=8, show_default=True, help="How many images are tried.")
@click.option("--device", help="Where models run: auto, cpu, cuda, mps.")
@images_option
@trust_option
@json_option
def doctor(place: str, as_json: bool, device: str | None, trust: bool, **options: Any) -> int:
    """Try a few images through everything, and say what was understood; nothing is written.

    Of a source of images: its files, what metadata joined, each model's input, layers, axes and pools, whether two
    passes agree, dead neurons, and the time and bytes that indexing would take. Of an index: what it holds, and whether
    it can be extended, by new images or by the models you name. Exit 0 if everything would work, else 1, with one line
    per problem.

    \b
    csp-index doctor photos/ --encoder open_clip:ViT-B-32/laion2b_s34b_b79k \\
        --network torchvision:resnet50/IMAGENET1K_V2 --layers layer3,layer4
    csp-index doctor birds.db
    """
    encoders, networks = chosen_models(options)
    from csp_index import originals, settings
    from csp_index.indexing.doctor.index import IndexReport, examine_index
    from csp_index.indexing.doctor.source import examine_source
    from csp_index.models.index_models import Models
    from csp_index.store.connect import is_index

    models = Models(settings.DEVICE.value(device), None, trust=trust)
    source = {name: options[name] for name in SOURCE_OPTIONS}
    shared = {"dtype": options["dtype"], "sample": options["sample"]}
    if is_index(place):
        wrong = [name.replace("_", "-") for name, value in source.items() if value is not None]
        if wrong:
            raise click.UsageError(f"--{wrong[0]} is for a source of images, and {place} is an index")
        originals.allow(place, options["image_roots"])
        report: Report = examine_index(place, encoders, networks, models, **shared)
    else:
        report = examine_source(place, encoders, networks, models, **source, **shared)
    if as_json:
        say_json(asdict(report))
        return 1 if report.problems else 0
    if isinstance(report, IndexReport):
        _say_index(report)
    _say(report)
    return 1 if report.problems else 0


def _say(report: Report) -> None:
    _say_listing(report.listing)
    trial = report.trial
    if trial.tried:
        say(f"tried {trial.tried} images: {trial.read} read")
    for model in trial.models:
        _say_model(model, trial.read)
    if report.expected is not None:
        say(_expected(report.expected, trial.images_per_second))
    elif trial.images_per_second:
        say(f"speed: {trial.images_per_second:,.1f} images/s")
    for note in report.notes:
        say(f"note: {note}")
    for problem in report.problems:
        say(f"problem: {problem}")
    count = len(report.problems)
    say(f"{count} problem{'' if count == 1 else 's'}" if count else "everything would work")


def _say_listing(listing: Listing) -> None:
    say(f"{listing.source}: {listing.images:,} images{f' ({_counts(listing.kinds)})' if listing.kinds else ''}")
    if listing.passed_over:
        say(str(PassedOver(listing.passed_over)))
    for line in listing.metadata:
        say(f"metadata: {line}")
    if listing.columns:
        columns = [f"{name} ({count:,})" for name, count in list(listing.columns.items())[:_SHOWN]]
        say(f"columns of metadata: {', '.join(columns)}{_more(len(listing.columns))}")


def _say_model(model: ModelTrial, images: int) -> None:
    if model.kind == "encoder":
        scale = "unknown" if model.logit_scale is None else f"{model.logit_scale:.4g}"
        say(f"encoder {model.spec}: {model.width:,} dimensions, logit scale {scale}, on {model.device}")
    else:
        say(f"network {model.name}: {model.spec}, on {model.device}")
    say(f"  preprocessing: {model.preprocessing or 'unknown'}")
    if model.input is not None:
        say(f"  input: {_input(model.input)}")
    if model.repeats is not None:
        say(f"  two passes {'agree' if model.repeats else 'differ'}")
    for layer in model.layers:
        say(f"  {_layer(layer, images)}")


def _input(values: Input) -> str:
    shape = " x ".join(map(str, values.shape))
    mean = f"mean {values.mean:.3g}, standard deviation {values.std:.3g}"
    return f"{shape}, values {values.least:.3g} to {values.most:.3g} ({mean})"


def _layer(layer: LayerTrial, images: int) -> str:
    axes = ", ".join(map(str, layer.axes))
    shape = " x ".join(map(str, layer.shape))
    text = f"layer {layer.layer}: {layer.kind}, {shape}, neurons at axis {axes}, pool {layer.pool}, "
    text += f"{layer.neurons:,} neurons{f' ({layer.understood})' if layer.understood else ''}"
    if layer.dead is None:
        return text
    return f"{text}; on {images} images {_degenerate(layer.dead, layer.always_on, layer.constant)}"


def _degenerate(dead: float | None, always_on: float | None, constant: float | None) -> str:
    return f"{dead:.1%} dead, {always_on:.1%} always on, {constant:.1%} constant"


def _expected(expected: Expected, speed: float | None) -> str:
    sizes = {"embeddings": expected.embeddings, "activations": expected.activations, "thumbnails": expected.thumbnails}
    listed = ", ".join(f"{name} {megabytes(round(size))}" for name, size in sizes.items())
    total = megabytes(round(sum(sizes.values())))
    took = (
        f"about {_duration(expected.seconds)} at {speed:,.1f} images/s"
        if expected.seconds and speed
        else "time unknown"
    )
    return f"expected for {expected.images:,} images: {took}; {total} ({listed})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _say_index(report: IndexReport) -> None:
    size = "a size that is not counted in a bucket" if report.bytes is None else megabytes(report.bytes)
    say(f"index of {size}, {report.failures:,} images in `failures`")
    for encoder in report.encoders:
        say(f"encoder {encoder.encoder}: {encoder.width:,} dimensions, {encoder.images:,} images")
    for layer in report.layers:
        text = f"layer {layer.layer}: {layer.neurons:,} neurons, pool {layer.pool}, {layer.dtype}, "
        text += f"{layer.images:,} images"
        if layer.dead is not None:
            text += f"; {_degenerate(layer.dead, layer.always_on, layer.constant)}"
        say(text)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in list(counts.items())[:_SHOWN]) + _more(len(counts))


def _more(count: int) -> str:
    return f", and {count - _SHOWN} more" if count > _SHOWN else ""


COMMANDS = (doctor,)
