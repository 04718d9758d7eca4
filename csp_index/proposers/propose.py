"""Candidate labels for neurons: a proposer sees their images, and its answers are stored.

A question that has a stored answer is not asked again. Pictures are read ahead of the proposer, and answers are stored
in the background, so that the proposer never waits for either.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from csp_index import settings
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.examples import gather_examples
from csp_index.contrast.selection import Selection
from csp_index.errors import CspIndexError, ProposerError, SettingError, one_line
from csp_index.proposers.answer_store import AnswerWriter, Known, Origin, known_answers, renew, superseded, take_over
from csp_index.proposers.grids import Layout
from csp_index.proposers.prompts import prompt_hash
from csp_index.proposers.proposer import Answer, AnswerState, CandidateKind, Proposer, Question
from csp_index.proposers.questions import Questions
from csp_index.proposers.registry import ProposerOptions, check_proposer, load_proposer
from csp_index.proposers.similar_neurons import related_answers, related_revision
from csp_index.records import ExampleOptions, Progress
from csp_index.store.runs import Run, record_run, settings_hash
from csp_index.store.tables import Store

#: The images shown by default: nine activating ones, and nine different, similar ones that leave the neuron silent.
SHOWN = ExampleOptions(examples=9, reuse=False)


@dataclass(frozen=True, slots=True)
class ProposeSummary:
    """The result of asking one proposer about neurons of a layer.

    Of the neurons, `known` have stored answers and `dead` never fire; `asked` is the rest, in state `answered`,
    `unparsed` or `failed`. Counters and `seconds` are of this run. `reason` says why the first one failed or could not
    be parsed.
    """

    layer: str
    kind: str
    proposer: str
    asked: int = 0
    answered: int = 0
    unparsed: int = 0
    failed: int = 0
    known: int = 0
    dead: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    thumbnails: int = 0  # pictures shown as the stored thumbnail, because the file is missing or changed
    seconds: float = 0.0
    reason: str = ""
    run_id: str = ""


@dataclass(slots=True)
class _Tally:
    """Counts of the answers so far."""

    states: dict[AnswerState, int] = field(default_factory=lambda: {"answered": 0, "unparsed": 0, "failed": 0})
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reason: str = ""

    def add(self, answer: Answer) -> None:
        self.states[answer.state] += 1
        self.requests += answer.requests
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        if answer.state != "answered" and not self.reason:
            self.reason = f"{answer.neuron}: {answer.reason}"


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask about neurons: the images shown, the model's options, and the progress callback."""

    examples: ExampleOptions = SHOWN
    options: ProposerOptions = field(default_factory=ProposerOptions)
    contrast: bool = True  # False: activating images only
    again: bool = False
    context: ComputeContext = field(default_factory=ComputeContext)
    progress: Progress | None = None


def propose_all(
    store: Store, selections: Sequence[Selection], models: Mapping[CandidateKind, str | Proposer], asking: Asking
) -> tuple[ProposeSummary, ...]:
    """Ask one model after another, each about all selections; a model is loaded when it is needed.

    The kind `neighbours`, whatever its value, takes the labels of similar neurons without a model. Raises StoreError,
    before a model is loaded, where the index cannot be written.
    """
    store.check_writable()
    summaries: list[ProposeSummary] = []
    for kind, model in models.items():
        proposer = None if kind == "neighbours" else _proposer(kind, model, asking.options)
        summaries += [
            propose(
                store,
                selection,
                proposer or RelatedLabels(store, selection),
                asking.examples,
                contrast=asking.contrast and asking.options.layout.style != "one",
                again=asking.again,
                context=asking.context,
                progress=asking.progress,
            )
            for selection in selections
        ]
    return tuple(summaries)


def _proposer(kind: CandidateKind, model: str | Proposer, options: ProposerOptions) -> Proposer:
    return load_proposer(kind, model, options) if isinstance(model, str) else check_proposer(model, kind, kind)


class RelatedLabels:
    """The labels of similar neurons in other layers and networks, as a Proposer that needs no pictures."""

    kind: CandidateKind = "neighbours"
    name = "labels"

    def __init__(self, store: Store, selection: Selection) -> None:
        """Read which labels exist; other labels would be another question."""
        self._store, self._selection = store, selection
        self.revision = related_revision(store, selection.target)
        self.prompt = "3 labels of each of 5 similar neurons"

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in neuron order."""
        numbers = sorted(question.neuron.neuron for question in questions)
        if numbers:
            selection = replace(self._selection, neurons=np.array(numbers, dtype=np.int64))
            yield from related_answers(self._store, selection, selection.source, neighbours=5, top=3)


def propose(
    store: Store,
    selection: Selection,
    proposer: Proposer,
    options: ExampleOptions = SHOWN,
    *,
    contrast: bool = True,
    again: bool = False,
    context: ComputeContext | None = None,
    progress: Progress | None = None,
) -> ProposeSummary:
    """Ask a proposer about the selected neurons and store its answers; stored answers are not requested again.

    `contrast=False` shows activating images only. `again` asks about all neurons again. A neuron that fails is counted
    in the summary, its answer stored with the reason, and asked about again by the next call. All answers that arrive
    are stored, however the call ends. Errors: ProposerError for a problem of all neurons.
    """
    started = time.monotonic()
    with store.write_lock():
        take_over(store)
        described = describe(store, selection, proposer, options, contrast, context)
        known = known_answers(store, selection.target, settings_hash(described))
        summary = ProposeSummary(str(selection.target.key), proposer.kind, proposer.name)
        alive = _alive(store, selection, options)
        todo = [n for n in alive if again or n not in known.settled]
        summary = replace(summary, known=len(alive) - len(todo), dead=len(selection.neurons) - len(alive))
        outdated = superseded(
            store, selection.target, proposer, settings_hash(described), sorted(set(alive) - set(todo))
        )
        if not todo and not outdated:
            return summary
        part = replace(selection, neurons=np.array(todo, dtype=np.int64))
        models = {
            selection.source.what: selection.source.identity,
            f"{proposer.kind}:{proposer.name}": {"revision": proposer.revision},
        }
        with record_run(store, "candidates", described, models, options.seed) as run:
            renew(store, selection.target, settings_hash(described), outdated, run.run_id)
            if not todo:
                return replace(summary, run_id=run.run_id)
            making = replace(context or ComputeContext(), keep=True, run_id=run.run_id)
            tally = _Tally()
            with (
                _questions(store, part, proposer, options, contrast, making) as questions,
                _writer(store, proposer, run, known) as writer,
                closing(_answers(proposer, questions)) as answers,  # closed first: no question after Ctrl-C
            ):
                for done, answer in enumerate(answers, start=1):
                    tally.add(writer.add(answer))
                    if progress is not None:
                        progress(done, questions.count, "neurons")
            return _summed(summary, questions, tally, time.monotonic() - started, run)


def read_options(options: Mapping[str, Any]) -> tuple[ExampleOptions, ProposerOptions]:
    """Return the options of examples and proposers from their names and values; None means the default.

    The names are the fields of ProposerOptions, of Layout, and of ExampleOptions except `neighbours`. Errors:
    SettingError for an unknown name, with the known ones.
    """
    known = {
        kind: {f.name for f in fields(kind)} - {"layout", "neighbours"}
        for kind in (ExampleOptions, ProposerOptions, Layout)
    }
    unknown = sorted(set(options).difference(*known.values()))
    if unknown:
        every = ", ".join(sorted(set().union(*known.values())))
        raise SettingError(f"option {unknown[0]!r} is unknown (has: {every})")
    values = {name: value for name, value in options.items() if value is not None}
    examples, proposer, layout = ({name: values[name] for name in values.keys() & names} for names in known.values())
    return replace(SHOWN, **examples), replace(ProposerOptions(), layout=Layout(**layout), **proposer)


def describe(
    store: Store,
    selection: Selection,
    proposer: Proposer,
    options: ExampleOptions,
    contrast: bool = True,
    context: ComputeContext | None = None,
) -> dict[str, object]:
    """Return everything that an answer depends on; answers are stored under its hash."""
    described: dict[str, object] = {
        "encoder": selection.source.name,
        "encoder_identity": selection.source.identity,
        "layer": str(selection.target.key),
        "layer_identity": selection.target.identity,
        "images": selection.images(store),
        "kind": proposer.kind,
        "proposer": proposer.name,
        "revision": proposer.revision,
        "prompt": prompt_hash(proposer.prompt),  # which includes the layout and the form of the answer
    }
    if proposer.kind == "neighbours":
        return described
    examples = asdict(options) if contrast else {"examples": options.examples, "floor": options.floor}
    if contrast and context is not None and context.depends is not None:
        described |= context.depends(options)
    side = settings.PICTURE_SIDE.value()
    return described | {"contrast": contrast, "examples": examples, "picture_side": side}


def _writer(store: Store, proposer: Proposer, run: Run, known: Known) -> AnswerWriter:
    hashed = prompt_hash(proposer.prompt)
    origin = Origin(run.run_id, run.settings_hash, proposer.kind, proposer.name, proposer.revision, hashed)
    return AnswerWriter(store, origin, known)


def _alive(store: Store, selection: Selection, options: ExampleOptions) -> list[int]:
    """Return the neurons that fire above the floor on at least one image."""
    highest = selection.statistics(store)["max"].to_numpy()
    alive: list[int] = selection.neurons[highest > max(options.floor, 0.0)].tolist()
    return alive


def _questions(
    store: Store,
    selection: Selection,
    proposer: Proposer,
    options: ExampleOptions,
    contrast: bool,
    context: ComputeContext,
) -> Questions:
    if proposer.kind == "neighbours":
        return Questions.bare(selection)
    return Questions.with_pictures(
        store, selection, gather_examples(store, selection, options, contrast=contrast, context=context)
    )


def _summed(summary: ProposeSummary, questions: Questions, tally: _Tally, seconds: float, run: Run) -> ProposeSummary:
    return replace(
        summary,
        asked=questions.count,
        answered=tally.states["answered"],
        unparsed=tally.states["unparsed"],
        failed=tally.states["failed"],
        requests=tally.requests,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        thumbnails=questions.thumbnails,
        seconds=seconds,
        reason=tally.reason,
        run_id=run.run_id,
    )


def _answers(proposer: Proposer, questions: Questions) -> Generator[Answer, None, None]:
    """Yield one answer per neuron, whatever the proposer does, and refuse an answer to no question."""
    unanswered = set(questions.neurons)
    answers = proposer.ask(questions)
    try:
        for answer in _translated(answers, proposer.name):
            for failure in questions.unaskable():
                unanswered.discard(failure.neuron)
                yield failure
            if answer.neuron not in unanswered:
                raise ProposerError(
                    f"{proposer.name} answered about {answer.neuron} without a question, or twice: "
                    "expected one answer per question"
                )
            unanswered.discard(answer.neuron)
            yield answer
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()
    for failure in questions.unaskable():
        unanswered.discard(failure.neuron)
        yield failure
    for neuron in sorted(unanswered):
        yield Answer(neuron, "failed", reason="the model gave no answer")


def _translated(answers: Iterator[Answer], name: str) -> Iterator[Answer]:
    try:
        yield from answers
    except CspIndexError:
        raise
    except Exception as exc:  # a user's model may raise anything
        raise ProposerError(f"{name} failed: {type(exc).__name__}: {one_line(exc)}") from exc
