"""What `doctor` reports, for people: lines of text, and HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from csp_index.images.passed_over import PassedOver
from csp_index.printable import megabytes, printable

if TYPE_CHECKING:
    from csp_index.indexing.doctor.report import (
        Degenerate,
        DoctorReport,
        Expected,
        IndexReport,
        Input,
        LayerTrial,
        Listing,
        ModelTrial,
    )

_SHOWN = 12  # kinds of files, or columns of metadata


def source_lines(report: DoctorReport) -> Iterator[str]:
    """Yield what was understood of images and models, and what a pass would take."""
    yield from _listing(report.listing)
    trial = report.trial
    if trial.tried:
        yield f"tried {trial.tried} images: {trial.read} read"
    for model in trial.models:
        yield from _model(model, trial.read)
    if report.expected is not None:
        yield _expected(report.expected, trial.images_per_second)
    elif trial.images_per_second:
        yield f"speed: {trial.images_per_second:,.1f} images/s"


def verdict_lines(report: DoctorReport) -> Iterator[str]:
    """Yield the notes and problems, and at the end whether everything would work."""
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        yield f"problem: {problem}"
    yield _verdict(report)


def as_html(report: DoctorReport) -> str:
    """Return a report as a notebook shows it: the verdict and the problems, then everything as text."""
    problems = "".join(f"<li>{_escaped(line)}</li>" for line in report.problems)
    head = f"<p><b>{_verdict(report)}</b></p>" + (f"<ul>{problems}</ul>" if problems else "")
    return f"{head}<pre>{chr(10).join(map(_escaped, report.lines()))}</pre>"


def _escaped(line: str) -> str:
    return html.escape(printable(line))


def _verdict(report: DoctorReport) -> str:
    count = len(report.problems)
    return f"{count} problem{'' if count == 1 else 's'}" if count else "everything would work"


def index_lines(report: IndexReport) -> Iterator[str]:
    """Yield what an index holds."""
    size = "a size that is not counted in a bucket" if report.bytes is None else megabytes(report.bytes)
    yield f"index of {size}, {report.failures:,} images in `failures`"
    for encoder in report.encoders:
        yield f"encoder {encoder.encoder}: {encoder.width:,} dimensions, {encoder.images:,} images"
    for layer in report.layers:
        text = f"layer {layer.layer}: {layer.neurons:,} neurons, pool {layer.pool}, {layer.dtype}, "
        yield f"{text}{layer.images:,} images{'' if layer.dead is None else f'; {_degenerate(layer)}'}"


def _listing(listing: Listing) -> Iterator[str]:
    yield f"{listing.source}: {listing.images:,} images{f' ({_counts(listing.kinds)})' if listing.kinds else ''}"
    if listing.passed_over:
        yield str(PassedOver(listing.passed_over))
    for line in listing.metadata:
        yield f"metadata: {line}"
    if listing.columns:
        columns = [f"{name} ({count:,})" for name, count in list(listing.columns.items())[:_SHOWN]]
        yield f"columns of metadata: {', '.join(columns)}{_more(len(listing.columns))}"


def _model(model: ModelTrial, images: int) -> Iterator[str]:
    if model.kind == "encoder":
        scale = "unknown" if model.logit_scale is None else f"{model.logit_scale:.4g}"
        yield f"encoder {model.spec}: {model.width:,} dimensions, logit scale {scale}, on {model.device}"
    else:
        yield f"network {model.name}: {model.spec}, on {model.device}"
    yield f"  preprocessing: {model.preprocessing or 'unknown'}"
    if model.input is not None:
        yield f"  input: {_input(model.input)}"
    if model.repeats is not None:
        yield f"  two passes {'agree' if model.repeats else 'differ'}"
    for layer in model.layers:
        yield f"  {_layer(layer, images)}"


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
    return f"{text}; on {images} images {_degenerate(layer)}"


def _degenerate(layer: Degenerate) -> str:
    return f"{layer.dead:.1%} dead, {layer.always_on:.1%} always on, {layer.constant:.1%} constant"


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


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in list(counts.items())[:_SHOWN]) + _more(len(counts))


def _more(count: int) -> str:
    return f", and {count - _SHOWN} more" if count > _SHOWN else ""
