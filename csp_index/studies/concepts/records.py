"""What an index says of a word, as a result: rows, one sentence, a view with pictures. Knows no store."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import pyarrow as pa

from csp_index.printable import printable
from csp_index.query.picture_html import Tile, tiles_html
from csp_index.query.results import Tabular
from csp_index.records import NeuronKey
from csp_index.studies.concepts.concept import WAYS, ConceptNeuron, FoundNeurons
from csp_index.studies.concepts.known_classes import KnownClass
from csp_index.studies.concepts.metadata_words import MetadataValue
from csp_index.studies.concepts.near_words import AlsoBy, NearWord
from csp_index.studies.concepts.wording import also_line, class_lines, sentence, uncompared_line, ways_of

_HEADINGS: Final = {
    "labeled": "labeled so",
    "parts": "with it in the label",
    "near": "near by concept vector",
    "candidates": "with it as another candidate",
}
_FIELDS: Final = tuple(one.name for one in fields(ConceptNeuron))
_ROWS = pa.schema(
    [
        ("way", pa.string()),
        ("neuron", pa.string()),
        ("label", pa.string()),
        ("says", pa.string()),
        ("by_reader", pa.bool_()),
        ("uncertain", pa.bool_()),
        ("similarity", pa.float64()),
        ("above_layer", pa.float64()),
        ("stands_out", pa.bool_()),
        ("candidate_rank", pa.int32()),
        ("candidate_score", pa.float64()),
        ("auroc", pa.float64()),
        ("auroc_by", pa.string()),
        ("auroc_class", pa.string()),
        ("tells_class", pa.bool_()),
        ("ways", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True, repr=False)
class Concept(Tabular):
    """What the neurons of all layers have to do with a word; as rows, one per way and neuron.

    The view shows each neuron once, where it answers the strongest.

    `also` are other labels near to the word, by meaning or, where its embedding is not at hand, by spelling. `classes`
    are the classes of images that it names, `uncompared` those that no neuron was compared with. `notes` say what could
    not be looked at. `pictures` has the strongest image of each neuron.
    """

    word: str
    found: FoundNeurons
    also: tuple[NearWord, ...]
    also_by: AlsoBy
    classes: tuple[KnownClass, ...]
    notes: tuple[str, ...]
    uncompared: tuple[MetadataValue, ...] = ()
    pictures: Mapping[NeuronKey, bytes] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What holds of the word, in words."""
        return sentence(self.word, self.found)

    def __len__(self) -> int:
        return sum(len(getattr(self.found, way)) for way in WAYS)

    def __repr__(self) -> str:
        return f"Concept({printable(self.sentence)})"

    def lines(self) -> list[str]:
        """Return what else is to be said: other words, classes of images, what could not be looked at."""
        lines = [also_line([(one.text, one.neurons) for one in self.also], self.also_by), *class_lines(self.classes)]
        lines.append(uncompared_line([(one.by, one.class_name, one.images) for one in self.uncompared]))
        return [line for line in (*lines, *self.notes) if line]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `csp-index concept --json` prints."""
        return {
            "word": self.word,
            "sentence": self.sentence,
            **{way: [row_of(one) for one in getattr(self.found, way)] for way in WAYS},
            "groups": [
                {
                    "way": one.way,
                    "total": one.total,
                    "stronger": one.stronger,
                    "neurons": [row_of(neuron) for neuron in one.neurons],
                }
                for one in self.found.groups
            ],
            "layers": [asdict(one) | {"layer": str(one.layer)} for one in self.found.layers],
            "also": [asdict(one) for one in self.also],
            "also_by": self.also_by,
            "classes": [
                {
                    "layer": str(one.layer),
                    "by": one.by,
                    "class_name": one.class_name,
                    "images": one.images,
                    "others": one.others,
                    "chance": one.chance,
                    "telling": int(one.tells.sum()),
                }
                for one in self.classes
            ],
            "uncompared": [asdict(one) for one in self.uncompared],
            "notes": list(self.notes),
        }

    def to_arrow(self) -> pa.Table:
        """Return one row per way and neuron: the columns of `ConceptNeuron`, and `way`."""
        rows = [{"way": way} | row_of(one) for way in WAYS for one in getattr(self.found, way)]
        return pa.Table.from_pylist(rows, schema=_ROWS)

    def _repr_html_(self) -> str:
        parts = [f"<p><b>{html.escape(printable(self.word))}</b> {html.escape(printable(self.sentence))}</p>"]
        parts += [f"<p>{html.escape(printable(line))}</p>" for line in self.lines()]
        for group in self.found.groups:
            parts.append(f"<p>{_HEADINGS[group.way]}</p>{tiles_html([[self._tile(one)] for one in group.neurons])}")
        return "".join(parts)

    def _tile(self, one: ConceptNeuron) -> Tile:
        told = f"{one.neuron}: {one.label or 'no label'}; {ways_of(one)}"
        return Tile(self.pictures.get(one.neuron), told, told)


def row_of(one: ConceptNeuron) -> dict[str, Any]:
    """Return a neuron's answer as values that JSON has; its neuron is an address."""
    return {name: getattr(one, name) for name in _FIELDS} | {"neuron": str(one.neuron), "ways": list(one.ways)}
