"""`csp-index candidates`: what it says, real models, a real server, and a process that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fakes
import pytest
import tiny_vlms
from namers import LAYER, Fails, Namer, build
from vlm_server import Asked, Say, chat, serving

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import NotFoundError
from csp_index.proposers.answer_store import JOURNAL
from csp_index.store import originals


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("proposing"))


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made / "db", tmp_path / "db")
    originals.allow(tmp_path / "db", made / "images")
    return open_index(tmp_path / "db")


def test_the_command_tells_what_came_of_it(index, run):
    said = run("candidates", index.uri, "--layer", LAYER, "--neurons", "0-5", "--vlm", "python:namers:namer")
    assert said.status == 0, said.err
    (line,) = said.out.splitlines()
    assert line.startswith(
        "m/l by vlm python:namers:namer: 5 answered, 0 unparsed, 0 failed; 1 dead neurons left out; "
        "5 requests, 50 + 15 tokens"
    )
    said = run("candidates", index.uri, "--layer", LAYER, "--vlm", "python:namers:namer", "--json")
    (row,) = said.rows
    assert (row["answered"], row["known"], row["dead"]) == (4, 5, 1)
    said = run("status", index.uri)
    assert (
        "vlm python:namers:namer: 9 answered, 0 unparsed, 0 failed, 18 candidates; 9 requests, 90 + 27 tokens"
        in said.out
    )
    (found,) = run("status", index.uri, "--json").rows[0]["answers"]
    assert (found["answered"], found["requests"], found["prompt_tokens"]) == (9, 9, 90)


def test_one_model_that_cannot_be_asked_does_not_stop_the_other(index, run):
    both = ["--vlm", "python:namers:namer", "--captioner", "python:namers:namer"]
    said = run("candidates", index.uri, "--layer", LAYER, *both)
    assert said.status == 0
    assert said.err.startswith("captioner: ") and "9 answered" in said.out
    said = run("candidates", index.uri, "--layer", LAYER, "--captioner", "python:namers:namer")
    assert said.status == 1


def test_what_was_named_before_the_index_grew_is_told(tmp_path, run):
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="m")
    pictures = fakes.write_images(tmp_path / "images", 30)
    index.add_images(pictures, encoders=["python:fakes:encoder"], networks=[network])
    (tmp_path / "words.txt").write_text("red\ngreen\n")
    asked = ["--layer", "m/concepts", "--candidates", "vlm", "--templates", "none", "--method", "csp"]
    counted = "labeled 2 of 10 neurons by csp from vlm, 2 of them doubtful, 5 dead, 3 no candidates"
    labeled = f"{counted}; next: csp-index serve {index.uri}\n"
    for neurons in ("m/concepts/0", "m/concepts/1"):
        index.propose(neurons, vlm=Namer())
    assert run("label", index.uri, *asked).err == labeled
    index.add_images(fakes.write_images(tmp_path / "images", 20, start=30))
    index.propose("m/concepts/1", vlm=Namer())
    told = (
        "Warning: candidates of 1 neurons of m/concepts were named when the index held fewer than its 50 images: "
        "`csp-index candidates` asks again\n"
    )
    assert run("label", index.uri, *asked).err == told + labeled
    assert run("label", index.uri, *asked, "--vocabulary", tmp_path / "words.txt", "--check").err == told
    index.propose("m/concepts/0", vlm=Namer())
    assert run("label", index.uri, *asked).err == labeled


def test_bad_input_is_one_line(index, run):
    for arguments, status, told in (
        (["--layer", LAYER], 2, "no source of candidates"),
        (["--layer", "net/none", "--vlm", "python:namers:namer"], 1, "layer net/none is not in the index"),
        (["--layer", LAYER, "--vlm", "nothing"], 1, "names no model"),
        (["--layer", LAYER, "--vlm", "python:namers:namer", "--contrast", "far"], 2, "contrast is 'far'"),
        (["--layer", LAYER, "--neurons", "99", "--vlm", "python:namers:namer"], 1, "does not exist"),
    ):
        said = run("candidates", index.uri, *arguments)
        assert said.status == status and told in said.err
        assert status == 2 or len(said.err.splitlines()) == 1
    with pytest.raises(NotFoundError):
        index.propose("net/none", vlm=Namer())


def test_the_index_stays_an_index_with_a_journal_in_it(index, run):
    index.propose(LAYER, vlm=Fails())
    (Path(index.uri) / JOURNAL).write_text("torn")
    for command in (["status"], ["optimize"], ["export"], ["sql"]):
        more = ["SELECT count(*) FROM candidates"] if command == ["sql"] else []
        assert run(*command, index.uri, *more).status == 0
    assert len(open_index(index.uri).propose(LAYER, vlm=Namer())) == 1
    assert not (Path(index.uri) / JOURNAL).exists()


# real models, a real server, and a process that is killed


def test_a_real_captioner_and_a_real_vision_language_model_are_asked(index, run, tmp_path):
    """Random weights: what they say means nothing, but it comes by the path that a hub name takes."""
    both = ["--captioner", f"transformers:{tiny_vlms.save_captioner(tmp_path / 'captioner')}"]
    both += ["--vlm", f"transformers:{tiny_vlms.save_vlm(tmp_path / 'vlm', 'smolvlm')}", "--cell", "16"]
    said = run("candidates", index.uri, "--layer", LAYER, "--neurons", "0-2", "--new-tokens", "4", "--json", *both)
    assert said.status == 0, said.err
    assert {row["kind"]: row["asked"] for row in said.rows} == {"vlm": 3, "captioner": 3}
    assert all(row["failed"] == 0 for row in said.rows)
    rows = index.sql("SELECT kind, revision, raw FROM answers").rows()
    assert len(rows) == 6 and all(len(row["revision"]) >= 40 for row in rows)
    assert all(json.loads(row["raw"])["activating"] for row in rows if row["kind"] == "captioner")


@pytest.mark.slow
def test_a_killed_run_goes_on_without_asking_again(tmp_path):
    """SIGKILL half-way, before anything is committed: only what was under way then is asked a second time."""
    neurons, at_once, seconds = 40, 4, 0.15
    index = open_index(build(tmp_path, neurons) / "db")
    alive = neurons - 1

    def behave(asked: Asked) -> Say:
        answer = chat('["red star", "star"]')
        answer.slow = seconds
        return answer

    def questions() -> Counter[str]:
        return Counter(json.dumps(asked.body) for asked in server.asked)

    with serving(behave) as server:
        command = [sys.executable, "-c", "from csp_index.cli import main; main()", "candidates", str(tmp_path / "db")]
        command += ["--layer", LAYER, "--vlm", f"openai:{server.base}", "--vlm-model", "tiny-vl", "--json"]
        command += ["--concurrency", str(at_once), "--examples", "2", "--cell", "32"]
        command += ["--images", str(tmp_path / "images")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CSP_INDEX_ANSWERS_PAUSE": "1000"}
        journal = tmp_path / "db" / JOURNAL
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 15):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        answered = journal.read_bytes().count(b"\n")
        assert 15 <= answered < alive
        assert index.status()["answers"] == []
        time.sleep(2 * seconds)  # what the killed process asked last arrives
        before = questions()
        assert answered <= len(before) <= answered + at_once
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        summary = json.loads(done.stdout)
        assert (summary["known"], summary["answered"], summary["dead"]) == (answered, alive - answered, 1)
        asked = questions()
        assert len(asked) == alive and max(asked.values()) <= 2
        assert asked.total() - alive == len(before) - answered
    (found,) = index.status()["answers"]
    assert (found["answered"], found["candidates"]) == (alive, 2 * alive)
    assert index.sql("SELECT count(DISTINCT neuron) AS n FROM answers").rows() == [{"n": alive}]
