"""Properties of what proposers read: answers, prompts, an endpoint's replies and headers, its address, the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, QUICK, check_message, like, refusing, replaced

from csp_index.errors import ProposerError
from csp_index.proposers import chat_messages
from csp_index.proposers.answer_store import Journal, _answers, _candidates
from csp_index.proposers.http_client import _seconds
from csp_index.proposers.openai_endpoint import _base
from csp_index.proposers.phrases import contrast_phrases
from csp_index.proposers.prompts import Prompt, load_prompt, parse_answer, read_answer
from csp_index.proposers.registry import load_proposer

LONG = 300_000  # characters, of a parser that looks at each only a few times
SECONDS = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proposers")


@QUICK
@given(
    like(
        '["red star"',
        "]",
        "{",
        '"concepts": ',
        "- red",
        "\n",
        "1. ",
        "<think>",
        "</think>",
        "```json\n",
        "\n```",
        '"\\ud800"',
    )
)
@example('["\\ud800"]')
@example("- \u2028x\n- y")
def test_any_answer_is_concepts_or_refused(raw: str) -> None:
    with refusing(ProposerError):
        texts = parse_answer(raw, 3, 4)
        assert 1 <= len(texts) <= 3 and len({text.casefold() for text in texts}) == len(texts)
        assert all(text == " ".join(text.split()) and 1 <= len(text.split()) <= 4 for text in texts)
        assert parse_answer(json.dumps(texts), 3, 4) == texts
    texts, remark = read_answer(raw, 3, 4, cut=True)
    assert texts or remark
    if remark:
        check_message(str(ProposerError(remark)))


@pytest.mark.parametrize(
    "raw",
    [
        " " * LONG + "x",
        "<think>" + " " * LONG,
        "<think>" * (LONG // 7),
        "- " + " " * LONG + "\nx",
        "-" * LONG,
        "- a" + " " * LONG + "b\nx",
        "```" + " " * LONG,
        "```\n" + "\n" * LONG,
        "[" * LONG,
        "no " * LONG,
    ],
    ids=lambda raw: ascii(raw[:9]),
)
def test_a_long_answer_takes_no_long_time(raw: str) -> None:
    started = time.process_time()
    read_answer(raw, 3, 4)
    with refusing(ProposerError):
        Prompt("x", "{" + raw, "y")
    chat_messages.server_words(raw.encode())
    chat_messages.server_words(b"<" * LONG)
    assert time.process_time() - started < SECONDS


@QUICK
@given(
    like("Of {examples}", "{contrasts}", "{ words }", "{", "}", "\n---\n", "what?").map(str.encode)
    | st.binary(max_size=20)
)
@example(b" \xef\xbb\xbfwhat?")
def test_any_file_is_a_prompt_or_refused(folder: Path, data: bytes) -> None:
    file = folder / "p.txt"
    file.write_bytes(data)
    with refusing(ProposerError):
        prompt = load_prompt(str(file))
        assert prompt.say(9, 8) and prompt.say(9, 0)
        (folder / "again.txt").write_text(prompt.text, encoding="utf-8", newline="")
        again = load_prompt(str(folder / "again.txt"))
        assert (again.contrastive, again.positive) == (prompt.contrastive, prompt.positive)


@QUICK
@given(like("concepts", "~", "/", "x"))
@example("~nobody-here/p.txt")
@example("\0")
def test_any_name_is_a_prompt_or_refused(name: str) -> None:
    with refusing(ProposerError):
        assert load_prompt(name).text


REPLY: dict[str, Any] = {
    "choices": [{"message": {"content": "red"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    "model": "m",
    "error": {"message": "no", "param": "temperature"},
    "data": [{"id": "m", "root": "r"}],
}
BODY = st.one_of(
    replaced(REPLY),
    replaced(REPLY["choices"][0]).map(lambda choice: {"choices": [choice]}),
    replaced(REPLY["choices"][0]["message"]).map(lambda message: {"choices": [{"message": message}]}),
    replaced(REPLY["error"]).map(lambda error: {"error": error}),
    replaced(REPLY["data"][0]).map(lambda entry: {"data": [entry]}),
    JSON,
)


def _is_a_line(text: str) -> bool:
    """Return whether a table and a terminal's line can hold a text; `say` spells out what would move the cursor."""
    return len(text.encode().splitlines()) <= 1


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError as exc:
        assert not isinstance(exc, UnicodeError) and _is_a_line(str(exc))


@QUICK
@given(
    st.one_of(
        BODY.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=30),
        like("<p>", "{", '"error":', "[").map(str.encode),
    )
)
@example(b'{"error": {"message": "\\ud800\\u001b[2J"}}')
@example(b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_any_reply_is_read_or_refused(data: bytes) -> None:
    with _refusing():
        reply = chat_messages.read_reply(data)
        assert min(reply.prompt_tokens, reply.completion_tokens) >= 0
        (reply.text + reply.served + reply.note).encode()
    words = chat_messages.server_words(data)
    assert len(words) <= 300 and _is_a_line(words)
    assert chat_messages.refused_parameter(400, data) in (None, "max_tokens", "temperature")
    assert all((name + identity).encode() is not None for name, identity in chat_messages.listed_models(data).items())


def test_a_reply_of_any_depth_is_read_or_refused() -> None:
    for depth in range(700, 1000, 3):
        data = b'{"error": ' + b"[" * depth + b"]" * depth + b"}"
        with _refusing():
            chat_messages.read_reply(data)
        assert _is_a_line(chat_messages.server_words(data))


@QUICK
@given(like("Mon, ", "1 Jan ", "2026 ", "99999 ", "00:00:00 ", "GMT", "+9999", "-0000", "120", ".", ":", ",", "(", '"'))
@example("Mon, 1 Jan 2026 00:00:00 +" + "9" * 20)
@example("1 Jan 0001 00:00:00 +2359")
def test_any_retry_after_is_some_seconds(text: str) -> None:
    assert 0 <= _seconds(text) < float("inf")


@QUICK
@given(
    like(
        "http://",
        "https://",
        "localhost",
        ":8000",
        "/v1",
        "/chat/completions",
        "[",
        "]",
        "@",
        "?",
        "#",
        "..",
        "xn--",
        "\u2603",
    )
)
@example("http://\u2603..x/v1")
@example("http://xn--/v1")
@example("http://a\u2100b/v1")
def test_any_address_is_an_endpoint_or_refused(text: str) -> None:
    with refusing(ProposerError):
        base = _base(text)
        assert _base(base) == base and base.startswith(("http://", "https://"))
        import httpx2

        httpx2.Request("GET", base + "/models")  # what is no address to httpx2 would end the run


@QUICK
@given(
    like("openai:", "transformers:", "python:", "x", "/", "~", ":").filter(lambda text: not text.startswith(("t", "p")))
)
def test_any_spec_of_a_model_that_names_no_library_is_refused(spec: str) -> None:
    with refusing(ProposerError):
        load_proposer("vlm", spec)
    with refusing(ProposerError):
        load_proposer("captioner", spec)


ROW = {
    "run_id": "20260101T000000000000-abc",
    "settings_hash": "a",
    "model": "net",
    "layer": "fc",
    "neuron": 3,
    "kind": "vlm",
    "proposer": "p",
    "revision": "",
    "prompt_hash": "h",
    "state": "answered",
    "raw": "x",
    "reason": "",
    "requests": 1,
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "seconds": 0.5,
    "when": "2026-01-01T00:00:00+00:00",
    "texts": ["red"],
    "scores": [None],
}


@QUICK
@given(
    st.one_of(
        replaced(ROW).map(lambda row: json.dumps(row).encode()),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=20),
    )
)
@example(json.dumps(ROW | {"neuron": 2**70}).encode())
@example(json.dumps(ROW | {"neuron": None}).encode())
@example(json.dumps(ROW | {"run_id": None}).encode())
@example(json.dumps(ROW | {"settings_hash": 5}).encode())
@example(json.dumps(ROW | {"texts": "red", "scores": [1, 2, 3]}).encode())
@example(json.dumps(ROW | {"when": "0001-01-01T00:00:00+23:59"}).encode())
@example(json.dumps(ROW | {"texts": ["\ud800"]}).encode())
def test_a_line_of_the_journal_fits_the_tables_or_is_skipped(folder: Path, line: bytes) -> None:
    (folder / "journal").write_bytes(line + b"\n" + json.dumps(ROW).encode() + b"\n" + b'{"cut')
    rows = Journal(folder / "journal").rows()
    assert rows[-1] == ROW and len(rows) <= 2
    assert _answers(rows).num_rows == len(rows) and _candidates(rows).num_rows >= 1
    assert all(isinstance(row["neuron"], int) and row["neuron"] >= 0 for row in rows)
    assert all(isinstance(row[name], str) for row in rows for name in ("run_id", "settings_hash", "model", "layer"))


def test_the_journal_is_read_as_it_is_written(folder: Path) -> None:
    journal = Journal(folder / "written")
    journal.add(ROW)
    journal.add(ROW | {"neuron": 4})
    assert Journal(folder / "written").rows() == [ROW, ROW | {"neuron": 4}]
    journal.close()


@QUICK
@given(st.lists(like("a red star", " on ", "and", ",", "dogs"), max_size=3), st.lists(like("a blue star"), max_size=2))
def test_any_captions_give_phrases_in_order(activating: list[str], contrastive: list[str]) -> None:
    phrases = contrast_phrases(activating, contrastive)
    assert len(phrases) <= 20 and all(text and text == " ".join(text.split()) for text, _ in phrases)
    assert [score for _, score in phrases] == sorted((score for _, score in phrases), reverse=True)
