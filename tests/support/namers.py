"""Proposers that name the color of a picture, or fail at it, and a small index for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import fakes

from csp_index import open_index
from csp_index.proposers.proposer import Answer, Question

LAYER = "m/l"


NEURONS, DEAD = 10, 3


class Namer:
    """Names the colour of the first activating picture; keeps what it was asked."""

    kind = "vlm"
    name = "python:namers:namer"
    revision = "1"
    prompt = "what colour?"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        for question in questions:
            self.asked.append(question)
            yield self.answer(question)

    def answer(self, question: Question) -> Answer:
        red, green, blue = question.activating[0].resize((1, 1)).getpixel((0, 0))
        return Answer(
            question.neuron,
            "answered",
            raw=f"{red} {green} {blue}",
            texts=(f"red {red // 64}", f"green {green // 64}"),
            requests=1,
            prompt_tokens=10,
            completion_tokens=3,
            seconds=0.01,
        )

    @property
    def numbers(self) -> list[int]:
        return [question.neuron.neuron for question in self.asked]


def namer() -> Namer:
    return Namer()


class Fails(Namer):
    """Fails on neuron 2, cannot be read on neuron 4."""

    def answer(self, question: Question) -> Answer:
        if question.neuron.neuron == 2:
            return Answer(question.neuron, "failed", reason="the endpoint answered 500", requests=3)
        if question.neuron.neuron == 4:
            return Answer(question.neuron, "unparsed", raw="Well, I see", reason="prose", requests=1)
        return super().answer(question)


def build(folder: Path, neurons: int = NEURONS) -> Path:
    """Make an index of 60 pictures and random neurons, of which number 3 is dead and number 4 fires on few."""
    fakes.write_images(folder / "images", 60)
    paths = fakes.write_arrays(folder / "made", images=60, neurons=neurons)
    uris = sorted(str(path) for path in (folder / "images").rglob("*.png"))
    (folder / "uris.txt").write_text("\n".join(uris))
    index = open_index(folder / "db")
    index.import_arrays(paths["activations"], LAYER, embeddings=paths["embeddings"], uris=folder / "uris.txt")
    return folder


def no_proposer() -> object:
    return object()
