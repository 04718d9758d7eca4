"""Models behind an endpoint, asked for real over HTTP on loopback: `tests/vlm_server.py`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from remote_model import GOOD, ask, changed, model, question
from vlm_server import Asked, Say, chat, error, serving, wait_for

from csp_index import settings
from csp_index.errors import ProposerError
from csp_index.proposers import chat_messages, http_client
from csp_index.proposers.grids import Layout
from csp_index.proposers.prompts import PROMPTS
from csp_index.proposers.proposer import Answer, Question
from csp_index.records import NeuronKey


@pytest.fixture(autouse=True)
def _no_key_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_an_answer_comes_with_its_candidates_and_its_cost() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        answer = ask(server)[0]
    assert answer == Answer(
        NeuronKey("m", "l", 0),
        "answered",
        GOOD,
        ("red star", "star"),
        requests=1,
        prompt_tokens=100,
        completion_tokens=7,
        seconds=answer.seconds,
    )
    assert 0 < answer.seconds < 60


def test_what_is_sent_is_a_chat_request_with_both_grids_and_the_prompt() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        ask(server)
        (asked,) = server.asked
    assert {name: asked.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "tiny-vl",
        "temperature": 0,
        "max_tokens": settings.VLM_TOKENS.value(),
    }
    assert [part["type"] for part in asked.parts] == ["image_url", "image_url", "text"]
    assert [picture.size for picture in asked.pictures] == [(100, 32), (66, 32)]
    assert [picture.format for picture in asked.pictures] == ["JPEG", "JPEG"]
    assert asked.text == PROMPTS["concepts"].say(3, 2, 3, 4)
    assert asked.headers["Content-Type"] == "application/json"
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize(("style", "shown", "contrasts"), [("one", 1, 0), ("composed", 1, 2), ("two", 2, 2)])
def test_layouts_decide_what_is_shown_and_said(style, shown: int, contrasts: int) -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        ask(server, options=changed(encoding="png"), layout=Layout(style, cell=32))
        (asked,) = server.asked
    assert len(asked.pictures) == shown
    assert asked.pictures[0].format == "PNG"
    assert asked.text == PROMPTS["concepts"].say(3, contrasts, 3, 4)


def test_every_neuron_is_asked_once_and_answered_under_its_own_name() -> None:
    with serving(lambda asked: chat(json.dumps([f"thing {asked.neuron}"]))) as server:
        found = ask(server, 60)
        assert sorted(asked.neuron for asked in server.asked) == list(range(60))
    assert {i: answer.texts for i, answer in found.items()} == {i: (f"thing {i}",) for i in range(60)}


def test_no_more_are_asked_at_once_than_allowed_and_connections_are_kept() -> None:
    together = threading.Barrier(4, timeout=60)

    def behave(asked: Asked) -> Say:
        together.wait()  # four are here at once, or this breaks
        return chat(GOOD)

    with serving(behave) as server:
        ask(server, 40)
        assert server.most == 4
        assert len(server.connections) == 4


def test_questions_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def questions() -> Iterator[Question]:
        for i in range(100):
            taken.append(i)
            yield question(i)

    with serving(lambda asked: chat(GOOD)) as server:
        answers = model(server).ask(questions())
        next(answers)
        wait_for(lambda: len(taken) >= 8)
        assert len(taken) <= 1 + 3 * 4 + 2 * 4 + 1  # what fits while nobody takes the answers
        answers.close()
        assert len(taken) < 100


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    with serving(lambda asked: chat(GOOD) if asked.number else error(status, "busy")) as server:
        found = ask(server, 6)
        assert len(server.asked) == 12
    assert {(answer.state, answer.requests) for answer in found.values()} == {("answered", 2)}


def test_what_does_not_pass_is_a_recorded_failure_and_the_run_goes_on() -> None:
    with serving(lambda asked: error(500, "out of\n memory") if asked.neuron == 1 else chat(GOOD)) as server:
        found = ask(server, 4)
    assert [found[i].state for i in range(4)] == ["answered", "failed", "answered", "answered"]
    assert (found[1].reason, found[1].requests) == ("status 500: out of memory", 3)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all(form: str) -> None:
    times: list[float] = []
    until: list[float] = []

    def behave(asked: Asked) -> Say:
        now = datetime.now(UTC)
        times.append(now.timestamp())
        if until:
            return chat(GOOD)
        date = (now + timedelta(seconds=2)).replace(microsecond=0)  # a header's dates have whole seconds
        until.append(now.timestamp() + 0.3 if form == "seconds" else date.timestamp())
        wanted = "0.3" if form == "seconds" else format_datetime(date, usegmt=True)
        return error(429, "slow down", headers={"Retry-After": wanted})

    with serving(behave) as server:
        found = ask(server, 3, changed(concurrency=1))
    assert {answer.state for answer in found.values()} == {"answered"}
    assert min(times[1:]) >= until[0] - 0.05  # two clocks
    assert found[0].requests == 2


def test_an_endpoint_that_wants_a_long_pause_ends_the_run() -> None:
    with (
        serving(lambda asked: error(429, "tomorrow", headers={"Retry-After": "86400"})) as server,
        pytest.raises(ProposerError, match="asks for a pause of 86400 s"),
    ):
        ask(server, 20)


def test_retry_after_that_says_nothing_is_left_out() -> None:
    assert [http_client._seconds(text) for text in ("", "soon", "nan", "inf", "-5")] == [0.0] * 5
    assert http_client._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_a_slow_answer_times_out_and_is_tried_again() -> None:
    with serving(lambda asked: chat(GOOD) if asked.number else Say(slow=30)) as server:
        answer = ask(server, 1, changed(timeout=0.5, retries=9))[0]
    assert answer.state == "answered"
    assert answer.requests >= 2  # more of them on a machine that is slow itself


def test_a_time_out_is_recorded_with_its_length() -> None:
    with serving(lambda asked: Say(slow=5)) as server:
        answer = ask(server, 1, changed(timeout=0.1, retries=1))[0]
    assert (answer.state, answer.reason) == ("failed", "no answer after 2 requests: no answer within 0.1 s")


def test_a_cut_stream_is_tried_again() -> None:
    def behave(asked: Asked) -> Say:
        whole = chat(GOOD)
        whole.cut = asked.number == 0
        return whole

    with serving(behave) as server:
        answer = ask(server)[0]
    assert (answer.state, answer.texts, answer.requests) == ("answered", ("red star", "star"), 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Say(body=b"<html>busy</html>"), "the endpoint answered with something that is not JSON: <html>busy</html>"),
        (Say(body=b"[1, 2]"), "the endpoint answered with something that is not JSON"),
        (Say(body=b'{"choices": []}'), "the endpoint's answer has no choices"),
        (Say(body=b'{"choices": [7]}'), "the endpoint's answer has no choices"),
        (Say(body=b'{"error": {"message": "no GPU"}}'), "the endpoint's answer has no choices: no GPU"),
        (Say(body=b"[" * 100_000), "the endpoint answered with something that is not JSON"),
    ],
)
def test_nonsense_is_a_recorded_failure(said: Say, reason: str) -> None:
    with serving(lambda asked: said) as server:
        answer = ask(server)[0]
    assert (answer.state, answer.requests) == ("failed", 1)
    assert answer.reason.startswith(reason)
    assert len(answer.reason) < 400


@pytest.mark.parametrize(
    ("content", "more", "reason"),
    [
        ("The images all show stars.", {}, "the answer is prose"),
        ("I'm sorry, I can't help with that.", {}, "the answer is prose"),
        ("", {}, "the answer is empty"),
        (None, {}, "the answer is empty"),
        (None, {"choice": {"message": {"content": None, "refusal": "I must not."}}}, "the answer is prose"),
        ('["red st', {"choice": {"finish_reason": "length"}}, "the answer is not valid JSON"),
    ],
)
def test_an_answer_in_another_form_is_kept_and_not_guessed_at(content, more: dict, reason: str) -> None:
    with serving(lambda asked: chat(content, **more)) as server:
        answer = ask(server)[0]
    assert (answer.state, answer.texts) == ("unparsed", ())
    assert answer.reason.startswith(reason)
    assert answer.raw == (content or ("I must not." if more else ""))
    assert ("it was cut off" in answer.reason) == ('["red st' in answer.raw)
    assert answer.completion_tokens == 7


def test_odd_but_honest_answers_are_read() -> None:
    said = [
        chat([{"type": "text", "text": GOOD}]),  # in parts
        chat(f"<think>Two sets.</think>\n{GOOD}", usage=None),
        chat(GOOD, usage={"prompt_tokens": -3, "completion_tokens": "many"}),
        chat('["r\\ud800d"]'),  # half a character
    ]
    with serving(lambda asked: said[asked.neuron]) as server:
        found = ask(server, 4)
    assert [found[i].state for i in range(4)] == ["answered", "answered", "answered", "unparsed"]
    assert found[1].raw.startswith("<think>")
    assert [found[i].prompt_tokens for i in range(3)] == [100, 0, 0]
    assert found[3].raw.encode()


def test_a_grid_the_model_does_not_take_is_a_failure_of_that_neuron() -> None:
    words = "This model's maximum context length is 2048 tokens.\nYou sent 9000."

    with serving(lambda asked: error(400, words) if asked.neuron == 2 else chat(GOOD)) as server:
        found = ask(server, 5)
        assert len(server.asked) == 5  # nothing was tried again
    assert found[2].reason == "status 400: This model's maximum context length is 2048 tokens. You sent 9000."
    assert sum(answer.state == "answered" for answer in found.values()) == 4


@pytest.mark.parametrize(
    "words",
    ["At most 1 image(s) may be provided in one request.", "vision model only supports a single image per message"],
)
def test_a_model_for_single_pictures_is_met_with_advice(words: str) -> None:
    def behave(asked: Asked) -> Say:
        return chat(GOOD) if len(asked.pictures) == 1 else error(400, words)

    with serving(behave) as server:
        assert "use --layout composed" in ask(server)[0].reason
        assert ask(server, layout=Layout("composed", cell=32))[0].state == "answered"


def test_a_model_that_reads_no_pictures_is_a_failure_without_that_advice() -> None:
    with serving(lambda asked: error(400, "tiny is not a multimodal model: no image input")) as server:
        assert ask(server)[0].reason == "status 400: tiny is not a multimodal model: no image input"


def test_a_parameter_the_model_refuses_is_left_out_for_all() -> None:
    def behave(asked: Asked) -> Say:
        for name in ("max_tokens", "temperature"):
            if name in asked.body:
                return error(400, f"Unsupported: {name}", param=name)
        assert asked.body["max_completion_tokens"] == 50
        return chat(GOOD)

    with serving(behave) as server:
        found = ask(server, 20, changed(concurrency=1, new_tokens=50))
        assert len(server.asked) == 22
    assert {answer.state for answer in found.values()} == {"answered"}


def test_what_the_model_is_told_and_shown_makes_the_prompt() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        prompts = {
            model(server).prompt,
            model(server, changed(words=5)).prompt,
            model(server, changed(new_tokens=9)).prompt,
            model(server, layout=Layout("composed", cell=32)).prompt,
            model(server, layout=Layout(cell=33)).prompt,
        }
        assert len(prompts) == 5
        assert model(server, changed(concurrency=1, timeout=2.0)).prompt in prompts


def test_errors_of_the_questions_come_out_after_the_answers_before_them() -> None:
    def questions() -> Iterator[Question]:
        yield from map(question, range(6))
        raise RuntimeError("the folder is gone")

    found = []
    with serving(lambda asked: chat(GOOD)) as server, pytest.raises(RuntimeError, match="the folder is gone"):
        for answer in model(server).ask(questions()):
            found.append(answer.neuron.neuron)
    assert sorted(found) == list(range(6))


def test_pictures_that_cannot_be_drawn_are_a_failure_of_their_neuron() -> None:
    broken = Question(NeuronKey("m", "l", 1), ())
    with serving(lambda asked: chat(GOOD)) as server:
        found = {a.neuron.neuron: a for a in model(server).ask([question(0), broken, question(2)])}
        assert len(server.asked) == 2
    assert (found[1].state, found[1].requests) == ("failed", 0)
    assert "no activating image" in found[1].reason


def test_whoever_stops_taking_answers_leaves_nothing_running() -> None:
    with serving(lambda asked: chat(GOOD) if asked.neuron < 2 else Say(slow=30)) as server:
        answers = model(server, changed(timeout=30.0)).ask(map(question, range(50)))
        assert next(answers).state == "answered"
        wait_for(lambda: len(server.asked) >= 5)
        answers.close()  # does not wait for the slow ones
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("csp-index")]


def test_no_questions_are_no_answers() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        assert list(model(server).ask([])) == []
        assert server.asked == []


def test_an_endless_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_LARGEST", 10_000)
    with serving(lambda asked: chat("x" * 20_000 if asked.neuron else GOOD)) as server:
        found = ask(server, 9)  # more of them in a row than an endpoint may lose that is given up
    assert [found[i].state for i in range(9)] == ["answered", *["failed"] * 8]
    assert {(found[i].reason, found[i].requests) for i in range(1, 9)} == {
        ("the endpoint's answer has more than 10000 bytes", 1)  # which asking again would not mend
    }


@pytest.mark.parametrize("why", ["length", "content_filter"])
def test_of_a_list_of_lines_that_was_cut_the_whole_lines_count(why: str) -> None:
    with serving(lambda asked: chat("- red star\n- blue pat", choice={"finish_reason": why})) as server:
        answer = ask(server)[0]
    assert (answer.state, answer.texts, answer.raw) == ("answered", ("red star",), "- red star\n- blue pat")
    assert answer.reason.startswith("the last line of the answer is left out (")


def test_servers_put_their_words_in_several_places() -> None:
    bodies = [
        b'{"error": {"message": "a\\nb"}}',
        b'{"error": "a b"}',
        b'{"object": "error", "message": "a b"}',
        b'{"detail": "a b"}',
        b"<html><b>a</b> b</html>",
        b"a b",
    ]
    assert {chat_messages.server_words(body) for body in bodies} == {"a b"}
    assert chat_messages.server_words(b"") == "no message"
    assert len(chat_messages.server_words(b"x" * 1000)) == 300
