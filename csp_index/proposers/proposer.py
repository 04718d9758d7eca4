"""What is asked about a neuron, and what comes back. Knows nothing about models or storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from csp_index.records import NeuronKey

CandidateKind = Literal["vlm", "captioner", "neighbours"]
AnswerState = Literal["answered", "unparsed", "failed"]


@dataclass(frozen=True, slots=True)
class Question:
    """One neuron and its images, RGB: activating ones, most activating first, and contrastive ones (may be none)."""

    neuron: NeuronKey
    activating: tuple[Image.Image, ...]
    contrastive: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said of one neuron.

    `answered`: `texts` are its candidates, best first, with `scores` beside them where the proposer has any.
    `unparsed`: it said something (`raw`) that holds no candidates in the form asked for; `reason` says what is wrong.
    `failed`: nothing came back; `reason` says why, and the neuron may be asked again.
    """

    neuron: NeuronKey
    state: AnswerState
    raw: str = ""
    texts: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    reason: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Proposer(Protocol):
    """A model that names candidates. `name` is its spec, `revision` pins its weights, `prompt` what it is told.

    Answers of proposers with equal `kind`, `name`, `revision` and `prompt` are one and the same question.
    """

    kind: CandidateKind
    name: str
    revision: str
    prompt: str

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer a question, in any order, as they come in; questions are taken as they are needed.

        A failure is an answer in state `failed`; only what concerns all neurons (an unknown model, an endpoint that is
        down) is raised, as ProposerError.
        """
        ...
