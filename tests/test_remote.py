"""Models behind an endpoint, asked for real over HTTP on loopback: `tests/vlm_server.py`."""

from __future__ import annotations

import json
import socket
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from PIL import Image

from csp_index import settings
from csp_index.errors import ProposerError, SettingError
from csp_index.records import NeuronKey
from csp_index.stage1 import connection, endpoint
from csp_index.stage1.grids import Layout
from csp_index.stage1.prompts import PROMPTS
from csp_index.stage1.records import Answer, Question
from csp_index.stage1.remote import RemoteModel, RemoteOptions
from tests.vlm_server import Asked, Say, Server, chat, colour_of, error, serving, wait_for

GOOD = '["red star", "star"]'
SMALL = Layout(cell=32)
QUICK = RemoteOptions(concurrency=4, timeout=5.0, retries=2, backoff=0.001)


@pytest.fixture(autouse=True)
def _no_key_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def question(neuron: int, contrasts: int = 2) -> Question:
    picture = Image.new("RGB", (40, 40), colour_of(neuron))
    return Question(NeuronKey("m", "l", neuron), (picture,) * 3, (Image.new("RGB", (40, 40)),) * contrasts)


def model(server: Server, options: RemoteOptions = QUICK, layout: Layout = SMALL) -> RemoteModel:
    return RemoteModel(server.base, "tiny-vl", PROMPTS["concepts"], layout, options)


def ask(server: Server, neurons: int = 1, options: RemoteOptions = QUICK, layout: Layout = SMALL) -> dict[int, Answer]:
    found = list(model(server, options, layout).ask(question(i) for i in range(neurons)))
    assert len({answer.neuron for answer in found}) == len(found)
    return {answer.neuron.neuron: answer for answer in found}


def changed(**fields: object) -> RemoteOptions:
    return RemoteOptions(**{"concurrency": 4, "timeout": 5.0, "retries": 2, "backoff": 0.001} | fields)


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
    assert 0 < answer.seconds < 5


def test_what_is_sent_is_a_chat_request_with_both_grids_and_the_prompt() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        ask(server)
        (asked,) = server.asked
    assert {name: asked.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "tiny-vl",
        "temperature": 0,
        "max_tokens": settings.number("vlm_tokens"),
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
    together = threading.Barrier(4, timeout=5)

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
        pytest.raises(ProposerError, match="asks to be left alone for 86400 s"),
    ):
        ask(server, 20)


def test_retry_after_that_says_nothing_is_left_out() -> None:
    assert [connection._seconds(text) for text in ("", "soon", "nan", "inf", "-5")] == [0.0] * 5
    assert connection._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


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
        (Say(body=b'{"choices": []}'), "the endpoint's answer holds no choices"),
        (Say(body=b'{"choices": [7]}'), "the endpoint's answer holds no choices"),
        (Say(body=b'{"error": {"message": "no GPU"}}'), "the endpoint's answer holds no choices: no GPU"),
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


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            error(401, "No key."),
            r"does not let us ask 'tiny-vl' \(status 401: No key.\): it wants a key in OPENAI_API_KEY",
        ),
        (error(403, "Not you."), "does not let us ask 'tiny-vl'"),
        (
            error(404, "The model `tiny-vl` does not exist."),
            "has no model 'tiny-vl' .*does not exist.; it serves tiny-vl",
        ),
        (Say(404, b"<h1>Not\n Found</h1>", {"Content-Type": "text/html"}), r"status 404: Not Found; .*ends in /v1"),
        (Say(307, headers={"Location": "https://b.example/v1"}), "sends us to 'https://b.example/v1'"),
    ],
)
def test_what_concerns_all_neurons_ends_the_run_before_they_are_asked(refusal: Say, message: str) -> None:
    with serving(lambda asked: refusal) as server:
        with pytest.raises(ProposerError, match=message) as raised:
            ask(server, 50)
        assert len(server.asked) <= 4
    assert "\n" not in str(raised.value)


def test_a_flagged_neuron_among_answered_ones_is_its_own_failure() -> None:
    with serving(lambda asked: error(403, "flagged") if asked.neuron == 3 else chat(GOOD)) as server:
        found = ask(server, 6, changed(concurrency=1))
    assert [found[i].state for i in range(6)] == ["answered"] * 3 + ["failed"] + ["answered"] * 2


def test_a_key_revoked_on_the_way_ends_the_run_after_what_came_in() -> None:
    found: list[Answer] = []
    with serving(lambda asked: chat(GOOD) if asked.neuron < 5 else error(401, "revoked")) as server:
        answers = model(server, changed(concurrency=1)).ask(map(question, range(50)))
        with pytest.raises(ProposerError, match="revoked"):
            for answer in answers:
                found.append(answer)
        assert len(server.asked) == 6
    assert [answer.neuron.neuron for answer in found] == [0, 1, 2, 3, 4]


def test_an_endpoint_that_is_down_is_one_clear_line() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ProposerError, match=f"nothing answers at {base} .*start the server") as raised:
            RemoteModel(base, "tiny-vl", PROMPTS["concepts"], SMALL, changed(backoff=60))  # and at once
    assert "\n" not in str(raised.value)


def test_an_endpoint_that_dies_ends_the_run_with_what_it_has() -> None:
    found: list[Answer] = []
    with serving(lambda asked: chat(GOOD)) as server:
        answers = model(server).ask(map(question, range(100)))
        found.extend(next(answers) for _ in range(10))
        server.stop()
        with pytest.raises(ProposerError, match=r"gave no answer for \d+ neurons in a row .*run again to go on"):
            for answer in answers:
                found.append(answer)
    failed = [answer for answer in found if answer.state == "failed"]
    assert 5 <= len(failed) <= 9
    assert all(answer.requests >= 1 and "no answer after" in answer.reason for answer in failed)
    assert len(found) < 60


def test_a_gateway_without_its_model_ends_the_run_too() -> None:
    with serving(lambda asked: error(503, "no backend")) as server:
        with pytest.raises(ProposerError, match=r"neurons in a row \(status 503: no backend\)"):
            ask(server, 100, changed(retries=0))
        assert len(server.asked) <= 9


def test_the_key_is_sent_and_stands_nowhere_else(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("MY_KEY", key)

    def behave(asked: Asked) -> Say:
        sent = asked.headers["Authorization"]
        if asked.neuron == 0:
            return chat(json.dumps([sent.removeprefix("Bearer ")]))
        return error((400, 500, 401)[asked.neuron - 1], f"your {sent} is bad")

    seen: list[object] = []
    with caplog.at_level(0), serving(behave) as server:
        asking = model(server, changed(key_variable="MY_KEY", concurrency=1, retries=0))
        with pytest.raises(ProposerError, match="the key in MY_KEY") as raised:
            seen.extend(asking.ask(map(question, [0])))
            seen.extend(asking.ask(map(question, [1])))
            seen.extend(asking.ask(map(question, [2])))
            seen.extend(asking.ask(map(question, [3])))
        assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {key}"}
        assert server.listed[0]["Authorization"] == f"Bearer {key}"
    seen += [vars(asking), repr(asking.address), asking.name, asking.prompt, asking.revision, asking.served]
    seen += ["".join(traceback.format_exception(raised.value)), caplog.text, connection._read_key("MY_KEY")]
    assert len([answer for answer in seen if isinstance(answer, Answer)]) == 3
    assert key not in "".join(map(repr, seen))
    assert seen[0].texts == ("***",) or seen[0].state == "unparsed"  # blotted out


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ümläut\nsecond")
    with (
        serving(lambda asked: chat(GOOD)) as server,
        pytest.raises(ProposerError, match="OPENAI_API_KEY holds characters") as raised,
    ):
        model(server)
    assert "sk-" not in "".join(traceback.format_exception(raised.value))


def test_the_revision_is_what_the_list_of_models_tells() -> None:
    entry = {"id": "tiny-vl", "root": "/weights/7", "owned_by": "vllm", "created": 5, "permission": []}
    models = Say(body=json.dumps({"data": [{"id": "other"}, entry, 3]}).encode())
    with serving(lambda asked: chat(GOOD), models) as server:
        asking = model(server)
        assert asking.revision == "id=tiny-vl root=/weights/7 owned_by=vllm"  # not the date: vLLM gives that of today
        assert asking.name == f"openai:{server.base} tiny-vl"
        list(asking.ask([question(0)]))
    assert asking.served == {"tiny-vl-1 fp_7"}


@pytest.mark.parametrize("models", [Say(404), Say(403), Say(body=b"hello"), Say(500), Say(body=b'{"data": 3}')])
def test_an_endpoint_without_a_list_of_models_is_asked_all_the_same(models: Say) -> None:
    with serving(lambda asked: chat(GOOD), models) as server:
        asking = model(server)
        assert asking.revision == ""
        assert [answer.state for answer in asking.ask([question(0)])] == ["answered"]


@pytest.mark.parametrize(
    ("models", "message"),
    [(error(401, "who are you"), "does not let us ask"), (error(503, "loading"), "now .status 503")],
)
def test_an_endpoint_that_refuses_at_the_start_is_one_clear_line(models: Say, message: str) -> None:
    with serving(lambda asked: chat(GOOD), models) as server:
        with pytest.raises(ProposerError, match=message):
            model(server)
        assert server.asked == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "is no address"),
        ("ftp://a/v1", "is no address"),
        ("http://", "is no address"),
        ("http://a:99999/v1", "is no address"),
        ("http://a b/v1", "is no address"),
        ("http://me:secret@a/v1", "the address of a/v1 comes with a user name"),
        ("me:secret@a:x/v1", "the address of a:x/v1 comes with a user name"),
        ("https://a/v1?key=secret", "the address of https://a/v1 comes with a user name"),
    ],
)
def test_what_is_no_plain_address_is_refused(url: str, message: str) -> None:
    with pytest.raises(ProposerError, match=message) as raised:
        RemoteModel(url, "m", PROMPTS["concepts"], SMALL)
    assert "secret" not in str(raised.value)


def test_the_address_of_the_chat_itself_is_understood() -> None:
    with serving(lambda asked: chat(GOOD)) as server:
        asking = RemoteModel(f"{server.base}/chat/completions/", "tiny-vl", PROMPTS["concepts"], SMALL, QUICK)
        assert asking.address.base == server.base


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RemoteOptions(concurrency=0), "vlm_concurrency is 0"),
        (RemoteOptions(timeout=0), "vlm_timeout is 0"),
        (RemoteOptions(retries=-1), "vlm_retries is -1"),
        (RemoteOptions(new_tokens=0), "vlm_tokens is 0"),
        (RemoteOptions(concepts=0), "asked for 0 concepts"),
    ],
)
def test_options_out_of_range_are_refused(options: RemoteOptions, message: str) -> None:
    with pytest.raises((SettingError, ProposerError), match=message):
        RemoteModel("http://127.0.0.1:9/v1", "m", PROMPTS["concepts"], SMALL, options)


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
    monkeypatch.setattr(connection, "_LARGEST", 10_000)
    with serving(lambda asked: chat("x" * 20_000)) as server:
        answer = ask(server, 1, changed(retries=0))[0]
    assert "more than 10000 bytes" in answer.reason


def test_servers_put_their_words_in_several_places() -> None:
    bodies = [
        b'{"error": {"message": "a\\nb"}}',
        b'{"error": "a b"}',
        b'{"object": "error", "message": "a b"}',
        b'{"detail": "a b"}',
        b"<html><b>a</b> b</html>",
        b"a b",
    ]
    assert {endpoint.server_words(body) for body in bodies} == {"a b"}
    assert endpoint.server_words(b"") == "no words"
    assert len(endpoint.server_words(b"x" * 1000)) == 300
