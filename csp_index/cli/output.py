"""Output that several commands share: progress, summaries, labels as lines, JSON."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from csp_index.labelling.methods import RECOMMENDED, WITHOUT_SCALE
from csp_index.printable import printable, printable_json

if TYPE_CHECKING:
    from csp_index.indexing.commit import IndexSummary
    from csp_index.labelling.label_summary import LabelSummary
    from csp_index.labelling.texts.candidate_check import CandidateChecks
    from csp_index.records import Label
    from csp_index.records import Progress as Report

_EVERY = 10.0  # seconds between plain lines
_INFORMING = ("csp_index.images", "csp_index.models.redrawn")


def say(*cells: str, err: bool = False) -> None:
    """Print one line, its cells parted by tabs; what an index puts into it cannot move the cursor or end the line."""
    click.echo("\t".join(map(printable, cells)), err=err)


class _Plain(logging.Handler):
    """Print a log record as one line on stderr; one that only informs has no prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.capitalize()}: " if record.levelno > logging.INFO else ""
        try:
            say(f"{prefix}{' '.join(record.getMessage().split())}", err=True)
        except Exception:  # as in every handler: a warning that cannot be printed must not end the run
            self.handleError(record)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print the warnings of all libraries in one line each: `Warning: ...`, and what `_INFORMING` inform about."""
    handler, informing = _Plain(logging.INFO), [logging.getLogger(name) for name in _INFORMING]
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith(_INFORMING))
    handler.addFilter(_is_not_printed_yet)
    before = [logger.level for logger in informing]
    for logger in informing:
        logger.setLevel(logging.INFO)
    # At the root: open_clip calls logging.info, which gives a root without handlers one that prints `WARNING:name:...`.
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, level in zip(informing, before, strict=True):
            logger.setLevel(level)


def _is_not_printed_yet(record: logging.LogRecord) -> bool:
    """Return whether the library that a record is from has no handler of its own, as the hub's has."""
    library = record.name.partition(".")[0]
    return library in ("root", "csp_index") or not logging.getLogger(library).handlers


class _Pace:
    """How fast one kind of work goes; each kind starts its own clock."""

    def __init__(self) -> None:
        self._what, self._started, self._first = "", 0.0, 0

    def speed(self, done: int, what: str) -> float:
        """Return items a second since this kind of work began."""
        if what != self._what:
            self._what, self._started, self._first = what, time.monotonic(), done
        return (done - self._first) / max(time.monotonic() - self._started, 1e-6)


class _Bar:
    """A bar on a terminal, drawn from the first report on: work that reports none does not wait for rich to load."""

    def __init__(self, closing: ExitStack) -> None:
        self._closing, self._pace = closing, _Pace()
        self._update: Callable[..., None] | None = None

    def __call__(self, done: int, todo: int, what: str) -> None:
        if self._update is None:
            self._update = self._drawn()
        pace, what = self._pace.speed(done, what), printable(what)
        speed = f"{pace:,.0f} {what}/s" if pace else ""
        self._update(completed=done, total=todo, description=what, speed=speed)

    def _drawn(self) -> Callable[..., None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
        )
        bar = self._closing.enter_context(Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)))
        return partial(bar.update, bar.add_task("", total=None, speed=""))


@contextmanager
def progress() -> Iterator[Report]:
    """Give a progress report: a bar on a terminal, a line now and then elsewhere; both on stderr."""
    if sys.stderr.isatty():
        with ExitStack() as closing:
            yield _Bar(closing)
        return
    last, pace = time.monotonic(), _Pace()

    def tell(done: int, todo: int, what: str) -> None:
        nonlocal last
        speed = pace.speed(done, what)
        if todo and time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            left = f", {speed:,.1f}/s, {(todo - done) / speed:,.0f} s left" if speed else ""
            say(f"{done:,} of {todo:,} {what}{left}", err=True)

    yield tell


def say_summary(summary: IndexSummary, as_json: bool, db: str | None) -> None:
    """Print what an indexing pass did; where the index is named, also by which command each layer is labeled."""
    if as_json:
        say_json(asdict(summary))
        return
    failed = f", {summary.failed:,} could not be read or used (see the table `failures`)" if summary.failed else ""
    added = f"{summary.added:,} image{'' if summary.added == 1 else 's'} added{failed}"
    say(f"{added}; the index holds {summary.images:,} ({summary.seconds:.1f} s)")
    for layer in summary.layers if summary.images and db is not None else ():
        say(f"layer {layer} is ready: {shlex.join(['csp-index', 'label', str(db), '--layer', layer])}")
    for layer, count in summary.latents.items():
        dead = f"{count['dead']:,} of {count['latents']:,} latents are dead (fire on no image)"
        say(f"layer {layer}: {dead}, {count['dense']:,} are dense (on more than half of the images)", err=True)


def say_labels(labels: Iterable[Label], as_json: bool) -> None:
    """Print labels, one per line: JSON for machines, plain text for people."""
    for label in labels:
        if as_json:
            say_json(label.as_json())
            continue
        scores = "  ".join(f"{score.text} ({score.score:.3f})" for score in label.labels) or f"({label.state})"
        rank = "" if label.null_rank is None else str(label.null_rank)
        remarks = "; ".join(part for part in (label.note, label.doubt, rank) if part)
        say(str(label.neuron), scores, *([f"[{remarks}]"] if remarks else []))


def say_labelled(summary: LabelSummary, db: str, *, by_default: bool, served: bool = False) -> None:
    """Print on stderr what labels amount to: how many, by which method, and why if nobody named it; what is next.

    Where they are `served` at once, the command that shows them is for another day.
    """
    why = ""
    if by_default and summary.method == WITHOUT_SCALE:
        why = f"{RECOMMENDED} needs the encoder's logit scale, which is unknown: --logit-scale"
    elif by_default:
        why = "the default, --method names another"
    say(f"{summary.told(why)}; {'later' if served else 'next'}: csp-index serve {shlex.quote(db)}", err=True)


def say_checks(checks: CandidateChecks, as_json: bool) -> None:
    """Print how candidates of models compare with the vocabulary's best, neuron by neuron, and in total at the end."""
    for check in checks.neurons:
        if as_json:
            say_json(check.as_json())
        elif check.best is None or not check.candidates:
            say(str(check.neuron), f"({check.state if check.best is None else 'no candidates of models'})")
        else:
            named = ", ".join(f"{c.text} ({c.score:.3f}{', below' if c.below else ''})" for c in check.candidates)
            best = f"{check.best.text} ({check.best.score:.3f})"
            say(str(check.neuron), f"{check.below} of {len(check.candidates)} below {best}", named)
    total = checks.total()
    if as_json:
        say_json({"total": total})
        return
    kinds = "; ".join(f"{kind} {sums['below']:,} of {sums['candidates']:,}" for kind, sums in total["kinds"].items())
    say(
        f"total: {checks.below:,} of {checks.candidates:,} candidates of {total['neurons']:,} neurons score below the "
        f"vocabulary's best ({kinds or 'none'}); of {checks.all_below:,} neurons all do"
    )


def say_json(value: Any) -> None:
    """Print one JSON value."""
    click.echo(printable_json(value))
