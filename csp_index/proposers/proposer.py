"""Questions about neurons, answers, and the protocol of proposers. Knows nothing about models or storage."""

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
    """One neuron and its RGB images: activating ones, most activating first, and possibly contrastive ones."""

    neuron: NeuronKey
    activating: tuple[Image.Image, ...]
    contrastive: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer about one neuron.

    `answered`: `texts` are its candidates, best first, with their `scores` if the proposer has any.
    `unparsed`: the model's text (`raw`) has no candidates in the requested form; `reason` says what is wrong.
    `failed`: there is no answer; `reason` says why, and the neuron may be asked about again.
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
    """A model that names candidates. `name` is its spec, `revision` identifies its weights, `prompt` its full prompt.

    Proposers with equal `kind`, `name`, `revision` and `prompt` are interchangeable: their answers are shared.
    """

    kind: CandidateKind
    name: str
    revision: str
    prompt: str

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in any order, as they arrive; questions are taken when they are needed.

        A failure is an answer in state `failed`; only a problem of all neurons (an unknown model, an endpoint that is
        down) raises ProposerError.
        """
        ...
