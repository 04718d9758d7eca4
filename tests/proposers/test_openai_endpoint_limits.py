"""What ends the run of a remote model, or keeps it from starting: keys, addresses, endpoints that are gone."""

from __future__ import annotations

import json
import socket
import traceback

import pytest
from remote_model import GOOD, QUICK, SMALL, ask, changed, model, question
from vlm_server import Asked, Say, chat, error, serving

from csp_index.errors import ProposerError, SettingError
from csp_index.proposers import http_client
from csp_index.proposers.openai_endpoint import RemoteModel, RemoteOptions
from csp_index.proposers.prompts import PROMPTS
from csp_index.proposers.proposer import Answer


@pytest.fixture(autouse=True)
def _no_key_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            error(401, "No key."),
            r"refuses access to 'tiny-vl' \(status 401: No key.\): set a key in OPENAI_API_KEY",
        ),
        (error(403, "Not you."), "refuses access to 'tiny-vl'"),
        (
            error(404, "The model `tiny-vl` does not exist."),
            "has no model 'tiny-vl' .*does not exist.; it serves tiny-vl",
        ),
        (Say(404, b"<h1>Not\n Found</h1>", {"Content-Type": "text/html"}), r"status 404: Not Found; .*ends in /v1"),
        (Say(307, headers={"Location": "https://b.example/v1"}), "redirects to 'https://b.example/v1'"),
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
        with pytest.raises(ProposerError, match=r"gave no answer for \d+ neurons in a row .*run again to resume"):
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
    seen += ["".join(traceback.format_exception(raised.value)), caplog.text, http_client._read_key("MY_KEY")]
    assert len([answer for answer in seen if isinstance(answer, Answer)]) == 3
    assert key not in "".join(map(repr, seen))
    assert seen[0].texts == ("***",) or seen[0].state == "unparsed"  # blotted out


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ümläut\nsecond")
    with (
        serving(lambda asked: chat(GOOD)) as server,
        pytest.raises(ProposerError, match="OPENAI_API_KEY has characters") as raised,
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
    [(error(401, "who are you"), "refuses access to"), (error(503, "loading"), "unavailable .status 503")],
)
def test_an_endpoint_that_refuses_at_the_start_is_one_clear_line(models: Say, message: str) -> None:
    with serving(lambda asked: chat(GOOD), models) as server:
        with pytest.raises(ProposerError, match=message):
            model(server)
        assert server.asked == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "is not an endpoint's address"),
        ("ftp://a/v1", "is not an endpoint's address"),
        ("http://", "is not an endpoint's address"),
        ("http://a:99999/v1", "is not an endpoint's address"),
        ("http://a b/v1", "is not an endpoint's address"),
        ("http://me:secret@a/v1", "the address of a/v1 has a user name"),
        ("me:secret@a:x/v1", "the address of a:x/v1 has a user name"),
        ("https://a/v1?key=secret", "the address of https://a/v1 has a user name"),
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
        (RemoteOptions(concepts=0), "0 concepts of 4 words are requested"),
    ],
)
def test_options_out_of_range_are_refused(options: RemoteOptions, message: str) -> None:
    with pytest.raises((SettingError, ProposerError), match=message):
        RemoteModel("http://127.0.0.1:9/v1", "m", PROMPTS["concepts"], SMALL, options)
