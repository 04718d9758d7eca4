"""The picture card of a neuron, drawn from its document as `csp-index show` draws it. Knows nothing about the store."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Final

from csp_index.query.card_drawing import CardData, CardPair, draw_card
from csp_index.service.documents.neuron_shapes import NeuronDocument

_SHOWN: Final = 10  # pairs


def card_of(page: NeuronDocument, picture: Callable[[int], bytes]) -> bytes:
    """Return the card as PNG; `picture` returns the encoded thumbnail of an image, b"" where there is none."""
    pairs = [pair for pair in page["pairs"] if not pair["neighbour"]][:_SHOWN]
    card = CardData(
        title=page["neuron"],
        method=page["method"] or "",
        labels=[(label["text"], nan if label["score"] is None else label["score"]) for label in page["labels"]],
        state=page["state"],
        note=" · ".join(part for part in (page["note"], page["doubt"]) if part),
        pairs=[
            CardPair(
                picture(pair["image_id"]),
                None if pair["contrast_id"] is None else picture(pair["contrast_id"]),
                pair["activation"],
                pair["contrast_activation"],
                pair["similarity"],
            )
            for pair in pairs
        ],
        histogram=page["histogram"]["counts"],
        edges=page["histogram"]["edges"],
        threshold=page["threshold"],
        threshold_name=page["threshold_name"],
    )
    with tempfile.TemporaryDirectory() as folder:
        return draw_card(card, Path(folder) / "card.png").read_bytes()
