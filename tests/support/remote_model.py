"""A remote model asked about made neurons, quickly."""

from __future__ import annotations

from PIL import Image
from vlm_server import Server, colour_of

from csp_index.proposers.grids import Layout
from csp_index.proposers.openai_endpoint import RemoteModel, RemoteOptions
from csp_index.proposers.prompts import PROMPTS
from csp_index.proposers.proposer import Answer, Question
from csp_index.records import NeuronKey

GOOD = '["red star", "star"]'
SMALL = Layout(cell=32)
QUICK = RemoteOptions(concurrency=4, timeout=60.0, retries=2, backoff=0.001)


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
