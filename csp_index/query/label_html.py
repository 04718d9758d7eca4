"""A label as a notebook shows it: the text, what speaks for and against it, and its pairs of images."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from csp_index.printable import printable
from csp_index.query.picture_html import Tile, tiles_html
from csp_index.query.stored_pictures import no_veils
from csp_index.records import ExamplePair, Label, NeuronKey
from csp_index.records.assurance import likelihood

Veil = Callable[[NeuronKey, Iterable[int]], Mapping[int, bytes]]
"""Returns pictures of images, by id, veiled where a neuron does not fire."""

_PAIRS = 8  # that a notebook shows
_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class LabelDrawer:
    """Shows labels of an index with their pictures; `read` returns the pictures of image ids, `veil` veiled ones."""

    read: Callable[[Iterable[int]], Mapping[int, bytes]]
    veil: Veil = no_veils

    def __call__(self, label: Label) -> str:
        """Return the label as HTML."""
        return label_html(label, label.pairs, self.read, veil=self.veil)


def label_html(
    label: Label,
    pairs: Sequence[ExamplePair],
    read: Callable[[Iterable[int]], Mapping[int, bytes]],
    names: Mapping[int, str] | None = None,
    remarks: Iterable[str] = (),
    veil: Veil = no_veils,
) -> str:
    """Return a label as HTML: its text, address and method; `remarks` and doubts; candidates; its first pairs.

    Below a line that opens them are the activating images again, veiled where the neuron does not look.
    """
    rank = "" if label.null_rank is None else str(label.null_rank)
    likely = "" if label.probability is None else likelihood(label.probability)
    said = "; ".join(part for part in (label.note, label.doubt, likely, rank, *remarks) if part)
    head = f"<b>{_told(label.text or label.state)}</b> {_told(f'{label.neuron}, {label.method}')}"
    scores = ", ".join(
        score.text if score.number is None else f"{score.text} {score.score:.3f}"
        for score in label.labels[:_CANDIDATES]
    )
    lines = (head, _told(said), _told(scores if len(label.labels) > 1 else ""))
    said = "".join(f"<p>{line}</p>" for line in lines if line)
    return said + pairs_html(pairs, read, names or {}) + _veiled_html(label, pairs, veil, names or {})


def _told(text: str) -> str:
    return html.escape(printable(text))


def _veiled_html(label: Label, pairs: Sequence[ExamplePair], veil: Veil, names: Mapping[int, str]) -> str:
    """Return the first activating images with veils, folded away; nothing where none has a map."""
    shown = {pair.rank: pair for pair in sorted(pairs, key=lambda pair: pair.rank)[::-1]}
    firsts = [shown[rank] for rank in sorted(shown)[:_PAIRS]]
    pictures = veil(label.neuron, [pair.image_id for pair in firsts]) if firsts else {}
    tiles = [
        [Tile(pictures[pair.image_id], f"fires {pair.activation:.3g}", names.get(pair.image_id, ""))]
        for pair in firsts
        if pair.image_id in pictures
    ]
    return f"<details><summary>where it looks</summary>{tiles_html(tiles)}</details>" if tiles else ""


def pairs_html(
    pairs: Sequence[ExamplePair], read: Callable[[Iterable[int]], Mapping[int, bytes]], names: Mapping[int, str]
) -> str:
    """Return the first activating images, the strongest first, each above its first partner."""
    firsts: dict[int, ExamplePair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.rank, pair.neighbour)):
        firsts.setdefault(pair.rank, pair)
    shown = list(firsts.values())[:_PAIRS]
    ids = [image for pair in shown for image in (pair.image_id, pair.contrast_id) if image is not None]
    pictures = read(ids) if ids else {}
    return tiles_html([list(_column(pair, pictures, names)) for pair in shown])


def _column(pair: ExamplePair, pictures: Mapping[int, bytes], names: Mapping[int, str]) -> Iterable[Tile]:
    def titled(image: int) -> str:
        return names.get(image, f"image {image}")

    yield Tile(pictures.get(pair.image_id), f"fires {pair.activation:.3g}", titled(pair.image_id))
    if pair.contrast_id is not None:
        value = "" if pair.contrast_activation is None else f" {pair.contrast_activation:.3g}"
        yield Tile(pictures.get(pair.contrast_id), f"silent{value}", titled(pair.contrast_id))
