"""A proposer behind an OpenAI-compatible chat endpoint: vLLM, Ollama, llama.cpp, hosted services.

Several questions are in progress at a time; the pictures of the next ones are drawn and encoded meanwhile. Knows
nothing about storage.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

from csp_index import settings
from csp_index.errors import ProposerError, SettingError, one_line
from csp_index.proposers import chat_messages
from csp_index.proposers.grids import Layout, full_prompt, pictures
from csp_index.proposers.http_client import Address, Connection, Endless, Refused, Spent, Unanswered, is_address
from csp_index.proposers.prompts import Prompt, read_answer
from csp_index.proposers.proposer import Answer, CandidateKind, Question

_CHAT: Final = "/chat/completions"
_DRAWING: Final = min(4, os.cpu_count() or 1)  # threads that draw and encode pictures
_SEVERAL: Final = re.compile(
    r"\b(1|one|single|multiple|several|many)\b[^.]*\bimages?\b|\bimages?\b[^.]*\b(1|one|single)\b", re.IGNORECASE
)
_KEY: Final = frozenset({401, 402})  # the key, or its account, is refused
_FIRST: Final = frozenset({301, 302, 303, 307, 308, 403, 404})  # before any answer: the address or model is wrong
_GONE: Final = frozenset({429, 502, 503, 504})  # too many requests, or a gateway without its server


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Options of requests to an endpoint; None means the setting of the same name (`vlm_...`).

    A request is for `concepts` of at most `words` words, in at most `new_tokens` tokens. `key_variable` names the
    environment variable of the key; if it is unset, no key is sent. `backoff` is the wait before the first retry, in
    seconds.
    """

    concepts: int = 3
    words: int = 4
    new_tokens: int | None = None
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None
    key_variable: str | None = None
    encoding: chat_messages.Encoding = "jpeg"
    backoff: float = 1.0

    def address(self, base: str) -> Address:
        """Return the endpoint at `base` with these options."""
        timeout = settings.VLM_TIMEOUT.value(self.timeout)
        if timeout == 0:
            raise SettingError("setting vlm_timeout is 0: expected the seconds that an answer may take")
        retries = settings.VLM_RETRIES.value(self.retries)
        concurrency = settings.VLM_CONCURRENCY.value(self.concurrency)
        variable = settings.VLM_KEY_VARIABLE.value(self.key_variable)
        return Address(base, variable, concurrency, timeout, retries, self.backoff)


class RemoteModel:
    """A vision-language model at an endpoint as a proposer; see `Proposer`.

    `revision` is the model's entry in the endpoint's list of models, "" without such a list: replaced weights under the
    same name are not detected. `served` collects the models and fingerprints that the answers name.
    """

    kind: CandidateKind = "vlm"

    def __init__(
        self, base_url: str, model: str, prompt: Prompt, layout: Layout, options: RemoteOptions | None = None
    ) -> None:
        """Read the endpoint's list of models. Errors: ProposerError if nothing answers or the key is refused."""
        chosen_options = options or RemoteOptions()
        self.model = model
        self.layout = layout
        self.concepts = chosen_options.concepts
        self.words = chosen_options.words
        self.new_tokens = settings.VLM_TOKENS.value(chosen_options.new_tokens)
        if min(self.concepts, self.words) < 1:
            raise ProposerError(
                f"{self.concepts} concepts of {self.words} words are requested: expected at least 1 of each"
            )
        self.address = chosen_options.address(_base(base_url))
        self.encoding = chosen_options.encoding
        self.name = f"openai:{self.address.base} {model}"
        self.prompt = full_prompt(prompt, layout, self.concepts, self.words, self.new_tokens)
        self.served: set[str] = set()
        self._prompt = prompt
        self.models = _elsewhere(self._listed())
        self.revision = self.models.get(model, self.models.get(f"{model}:latest", ""))

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, as they arrive. Errors: ProposerError for a problem of all neurons.

        It may also be raised after some answers: the endpoint has died, or refuses us. Another thread takes questions,
        at most 2 * `vlm_concurrency` + 1 ahead of the answers.
        """
        asking = _Asking(self, questions)
        try:
            yield from asking.answers()
        finally:
            asking.close()

    def draw(self, question: Question) -> bytes | str:
        """Return the messages of a question, or the reason why its pictures cannot be drawn."""
        try:
            grids = pictures(question, self.layout)
            text = self._prompt.say(
                len(question.activating), self.layout.contrasts(question), self.concepts, self.words
            )
            return chat_messages.messages(text, grids, self.encoding)
        except Exception as exc:  # pictures come from anywhere, and one of them must not end the run
            return f"its pictures cannot be drawn: {one_line(exc)}"

    async def _listed(self) -> dict[str, str]:
        base = self.address.base
        quick = replace(self.address, timeout=min(self.address.timeout, 30.0), retries=min(self.address.retries, 2))
        async with Connection(quick, known=False) as connection:
            try:
                return chat_messages.listed_models(await connection.call("/models", None, Spent()))
            except Endless:
                return {}
            except Unanswered as exc:
                raise ProposerError(
                    f"nothing answers at {base} ({exc}): start the server, or check the address"
                ) from None
            except Refused as exc:
                # Not every endpoint lists its models, and not every key may read the list.
                if exc.status == 401:
                    raise _turned_away(self, exc, connection.keyed) from None
                if exc.status in _GONE:
                    words = chat_messages.server_words(exc.data)
                    raise ProposerError(f"{base} is unavailable (status {exc.status}: {words}): try again") from None
                return {}


class _Asking:
    """One run of questions: an event loop in its own thread, and a queue of answers."""

    def __init__(self, model: RemoteModel, questions: Iterable[Question]) -> None:
        self._model = model
        self._questions = iter(questions)
        self._out: SimpleQueue[Answer | BaseException | None] = SimpleQueue()
        self._ended: BaseException | None = None  # a problem of all neurons
        self._answered = False
        self._lost = 0  # consecutive neurons without a response of the endpoint
        self._without: frozenset[chat_messages.Parameter] = frozenset()
        self._room = asyncio.Semaphore(2 * model.address.concurrency)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._all())
        self._thread = Thread(target=self._run, name="csp-index-ask", daemon=True)
        self._thread.start()

    def answers(self) -> Iterator[Answer]:
        """Yield answers as they arrive; at the end, raise the error that ended the run."""
        while (item := self._out.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._loop.call_soon_threadsafe(self._room.release)
            yield item

    def close(self) -> None:
        """Cancel what is in progress, and wait until everything has ended."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            try:
                self._loop.run_until_complete(self._task)
            finally:
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        except asyncio.CancelledError:
            pass
        except BaseException as exc:
            end = exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc
        self._out.put(end)

    async def _all(self) -> None:
        concurrency = self._model.address.concurrency
        drawn: asyncio.Queue[tuple[Question, asyncio.Future[bytes | str]] | None] = asyncio.Queue(concurrency)
        reading = ThreadPoolExecutor(1, thread_name_prefix="csp-index-questions")
        drawing = ThreadPoolExecutor(_DRAWING, thread_name_prefix="csp-index-draw")
        try:
            async with Connection(self._model.address) as connection, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(connection, drawn, reading, drawing))
                for _ in range(concurrency):
                    tasks.create_task(self._work(connection, drawn))
        finally:
            reading.shutdown(cancel_futures=True)
            drawing.shutdown(cancel_futures=True)
        if self._ended is not None:
            raise self._ended

    async def _feed(
        self,
        connection: Connection,
        drawn: asyncio.Queue[tuple[Question, asyncio.Future[bytes | str]] | None],
        reading: Executor,
        drawing: Executor,
    ) -> None:
        """Put the questions into the queue, each with a future of its messages; then one end mark per worker."""
        try:
            while not connection.stopped:
                question = await self._loop.run_in_executor(reading, next, self._questions, None)
                if question is None:
                    break
                await drawn.put((question, self._loop.run_in_executor(drawing, self._model.draw, question)))
        except Exception as exc:  # from the caller's iterator; the questions before it are still asked
            self._ended = self._ended or exc
        for _ in range(self._model.address.concurrency):
            await drawn.put(None)

    async def _work(
        self,
        connection: Connection,
        drawn: asyncio.Queue[tuple[Question, asyncio.Future[bytes | str]] | None],
    ) -> None:
        while (entry := await drawn.get()) is not None:
            question, future = entry
            chat = await future
            if connection.stopped:
                continue
            await self._room.acquire()  # no request is paid for whose answer nobody takes
            if isinstance(chat, str):
                self._out.put(Answer(question.neuron, "failed", reason=chat))
                continue
            answer = await self._answer(connection, question, chat)
            if answer is not None:
                self._out.put(answer)

    async def _answer(self, connection: Connection, question: Question, chat: bytes) -> Answer | None:
        """Return the answer, None if no request was sent."""
        started, spent = time.monotonic(), Spent()

        def failed(reason: str) -> Answer:
            seconds = time.monotonic() - started
            return Answer(question.neuron, "failed", reason=reason, requests=spent.requests, seconds=seconds)

        try:
            data = await self._call(connection, chat, spent)
        except ProposerError as exc:
            self._end(connection, exc)
            return None
        except Endless as exc:
            self._lost = 0
            return failed(str(exc))
        except Unanswered as exc:
            if not spent.requests:  # the run ended before the first request
                return None
            self._lose(connection, str(exc))
            return failed(f"no answer after {spent.requests} requests: {exc}")
        except Refused as exc:
            if exc.status in _KEY or (exc.status in _FIRST and not self._answered):
                self._end(connection, _turned_away(self._model, exc, connection.keyed))
                return None
            reason = self._why(exc, question)
            if exc.status in _GONE:
                self._lose(connection, reason)
            else:
                self._lost = 0
            return failed(reason)
        self._lost, self._answered = 0, True
        try:
            reply = chat_messages.read_reply(data)
        except ValueError as exc:
            return failed(str(exc))
        return self._read(question, reply, spent, time.monotonic() - started)

    async def _call(self, connection: Connection, chat: bytes, spent: Spent) -> bytes:
        model = self._model
        while True:
            without = self._without
            try:
                return await connection.call(
                    _CHAT, chat_messages.request(model.model, model.new_tokens, chat, without), spent
                )
            except Refused as exc:
                refused = chat_messages.refused_parameter(exc.status, exc.data)
                if refused is None or refused in without:
                    raise
                self._without |= {refused}  # for all later neurons as well

    def _read(self, question: Question, reply: chat_messages.Reply, spent: Spent, seconds: float) -> Answer:
        model = self._model
        if reply.served:
            model.served.add(reply.served)
        texts, odd = read_answer(reply.text, model.concepts, model.words, reply.cut, reply.note)
        return Answer(
            question.neuron,
            "answered" if texts else "unparsed",
            reply.text,
            texts,
            reason=odd,
            requests=spent.requests,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            seconds=seconds,
        )

    def _why(self, exc: Refused, question: Question) -> str:
        words = chat_messages.server_words(exc.data)
        several = self._model.layout.style == "two" and self._model.layout.contrasts(question)
        if several and _SEVERAL.search(words):
            return f"status {exc.status}: {words} (if the model takes one picture per message, use --layout composed)"
        return f"status {exc.status}: {words}"

    def _lose(self, connection: Connection, reason: str) -> None:
        self._lost += 1
        most = max(5, self._model.address.concurrency)
        if self._lost >= most and self._ended is None:
            base = self._model.address.base
            self._end(
                connection,
                ProposerError(
                    f"{base} gave no answer for {self._lost} neurons in a row ({reason}): earlier answers are stored; "
                    "run again to resume"
                ),
            )

    def _end(self, connection: Connection, exc: BaseException) -> None:
        self._ended = self._ended or exc
        connection.stop()


def _turned_away(model: RemoteModel, exc: Refused, keyed: bool) -> ProposerError:
    base, variable = model.address.base, model.address.key_variable
    status = f"status {exc.status}: {chat_messages.server_words(exc.data)}"
    if exc.status in (401, 402, 403):
        name = variable or "the variable of vlm_key_variable"
        advice = f"check the key in {name}" if keyed else f"set a key in {name}"
        return ProposerError(f"{base} refuses access to {model.model!r} ({status}): {advice}")
    if exc.status == 404:
        served = f"; it serves {', '.join(sorted(model.models)[:10])}" if model.models else ""
        return ProposerError(
            f"{base} has no model {model.model!r} ({status}{served}): check the name, and the address, which usually "
            "ends in /v1"
        )
    return ProposerError(f"{base} redirects to {chat_messages.excerpt(exc.elsewhere)!r} ({status}): give that address")


def _base(url: str) -> str:
    """Return an endpoint's address without a path after /v1. Errors: ProposerError unless it is a plain address."""
    text = url.strip().rstrip("/").removesuffix(_CHAT)
    if "@" in text or "?" in text or "#" in text:
        address = text.rpartition("@")[2].partition("?")[0].partition("#")[0]
        raise ProposerError(
            f"the address of {address} has a user name, a password or a query: leave it out; a key belongs in the "
            "environment"
        )
    try:
        parts = urlsplit(text)
        usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and is_address(text)
        )
    except ValueError:
        usable = False
    if not usable or any(letter.isspace() or not letter.isprintable() for letter in text):
        raise ProposerError(f"{text!r} is not an endpoint's address: write for example http://localhost:8000/v1")
    return text


def _elsewhere(call: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str]:
    """Return a coroutine's result; it runs in a thread, because this one may have a running loop (in a notebook)."""
    with ThreadPoolExecutor(1, thread_name_prefix="csp-index-models") as pool:
        return pool.submit(asyncio.run, call).result()
