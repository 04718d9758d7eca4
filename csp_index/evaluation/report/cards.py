"""The picture cards of a report: labels that an evaluation chose, over the neurons' examples of all images."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from csp_index.evaluation.evaluation import Evaluation, judged_texts
from csp_index.labelling.candidates import CandidateTexts
from csp_index.records import Label, LabelScore


def evaluated_cards(
    evaluation: Evaluation,
    width: int,
    label: Callable[..., Iterable[Label]],
    draw: Callable[[Label, Path], Path],
) -> Callable[[str, str], bytes | None]:
    """Return what draws the card of a neuron and a method as PNG; None where the evaluation chose no label for them.

    `label` labels a neuron with a `vocabulary`, embeddings of `width` values; `draw` writes a label's card.
    """
    texts = judged_texts(evaluation)

    def card(neuron: str, method: str) -> bytes | None:
        text = texts.get((neuron, method))
        if text is None:
            return None
        alone = CandidateTexts((text,), torch.zeros(1, width), key=text)
        made = next(iter(label(neuron, vocabulary=alone)))
        evaluated = replace(made, method=method, labels=(LabelScore(text, math.nan),), uncertain=False)
        with tempfile.TemporaryDirectory() as folder:
            return draw(evaluated, Path(folder) / "card.png").read_bytes()

    return card
