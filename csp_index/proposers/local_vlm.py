"""A proposer that runs a vision-language model in this process. Knows nothing about how a model is loaded and run.

Questions go to the model in batches. A batch that fails is halved until the failing neuron is alone: its answer is
`failed`, and the run continues. After a lack of memory the batches stay small.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from csp_index import settings
from csp_index.errors import ProposerError, one_line
from csp_index.proposers.grids import Layout, full_prompt, pictures
from csp_index.proposers.prompts import Prompt, read_answer
from csp_index.proposers.proposer import Answer, CandidateKind, Question
from csp_index.proposers.transformers_vlm import ChatModel, Message, Reply


class LocalModel:
    """A vision-language model of transformers as a proposer; see `Proposer`.

    `layout` is the one in use: `composed` instead of `two` for a model that takes one picture per message. `batch` is
    the number of neurons in a batch. In float32 an answer does not depend on the batch.
    """

    kind: CandidateKind = "vlm"

    def __init__(
        self,
        spec: str,
        prompt: Prompt,
        layout: Layout,
        *,
        device: str = "auto",
        concepts: int = 3,
        words: int = 4,
        new_tokens: int | None = None,
        batch: int | None = None,
    ) -> None:
        """Load the model `transformers:ID_OR_DIRECTORY`; None means the setting `vlm_new_tokens` or `vlm_batch`.

        Errors: ProposerError for a model that cannot be used.
        """
        if min(concepts, words) < 1:
            raise ProposerError(f"{concepts} concepts of {words} words are requested: expected at least 1 each")
        self._new_tokens = settings.VLM_NEW_TOKENS.value(new_tokens)
        self.batch = settings.VLM_BATCH.value(batch)
        self._model = ChatModel(spec, device=device)
        composed = layout.style == "two" and not self._model.several
        self.layout = replace(layout, style="composed") if composed else layout
        self.name = self._model.name
        self.revision = self._model.revision
        self.prompt = full_prompt(prompt, self.layout, concepts, words, self._new_tokens)
        self._prompt = prompt
        self._concepts = concepts
        self._words = words

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in order; questions are taken a batch at a time."""
        remaining = iter(questions)
        while batch := list(islice(remaining, self.batch)):
            yield from self._answers(batch)

    def _answers(self, batch: Sequence[Question]) -> Iterator[Answer]:
        started = time.perf_counter()
        replies = self._try(batch)
        if not isinstance(replies, str):
            seconds = (time.perf_counter() - started) / len(batch)
            for question, reply in zip(batch, replies, strict=True):
                yield self._read(question, reply, seconds)
        elif len(batch) == 1:
            seconds = time.perf_counter() - started
            yield Answer(batch[0].neuron, "failed", reason=replies, seconds=seconds)
        else:
            half = len(batch) // 2
            yield from self._answers(batch[:half])
            yield from self._answers(batch[half:])

    def _try(self, batch: Sequence[Question]) -> list[Reply] | str:
        """Return the replies to a batch, or the reason for its failure in one line."""
        try:
            return self._model.say([self._message(question) for question in batch], self._new_tokens)
        except Exception as exc:  # processors and models raise whatever their parts raise
            reason, out_of_memory = one_line(exc), _memory_short(exc)
        # The exception is gone by now, and with it the memory that its frames referenced.
        if out_of_memory:
            self.batch = max(1, min(self.batch, len(batch) // 2))
            reason = f"out of memory on {self._model.device} even alone: show fewer images or smaller cells ({reason})"
            _free()
        return reason

    def _message(self, question: Question) -> Message:
        counts = len(question.activating), self.layout.contrasts(question)
        return Message(pictures(question, self.layout), self._prompt.say(*counts, self._concepts, self._words))

    def _read(self, question: Question, reply: Reply, seconds: float) -> Answer:
        note = f"stopped after {self._new_tokens} new tokens" if reply.cut else ""
        texts, odd = read_answer(reply.text, self._concepts, self._words, reply.cut, note)
        return Answer(
            question.neuron,
            "answered" if texts else "unparsed",
            raw=reply.text,
            texts=texts,
            reason=odd,
            requests=1,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=seconds,
        )


def _memory_short(exc: Exception) -> bool:
    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    message = str(exc).lower()  # the CPU's and Apple's allocators raise plain errors
    return "out of memory" in message or "can't allocate memory" in message or "not enough memory" in message


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
