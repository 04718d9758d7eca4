"""The shapes of documents about neurons and classes of images. See `shapes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from csp_index.service.documents.shapes import ClassSetRow, NeuronRow

Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Auroc = Annotated[
    Fraction | None,
    Field(description="The chance that an image of the class activates the neuron more than another; 0.5 tells none."),
]


class ListedImage(TypedDict):
    """An image and how strongly it activates the neuron."""

    image_id: int
    activation: FiniteFloat


class ToldClass(TypedDict):
    """How well a neuron tells a class; `names_class`: whether its label says the class, or a part of it."""

    class_name: str
    names_class: bool
    auroc: Auroc
    rate_in: Fraction
    rate_out: Fraction | None
    mean_in: FiniteFloat
    mean_out: FiniteFloat | None
    strongest: list[ListedImage]
    weakest: list[ListedImage]
    fires_outside: Annotated[list[ListedImage], Field(description="The strongest images without the class.")]
    silent_inside: Annotated[list[ListedImage], Field(description="Weakest images of the class that do not fire it.")]


class AssociationRow(ToldClass):
    """A neuron and a class."""

    neuron: NeuronRow


class ClassRow(TypedDict):
    """A class, the neuron that tells it best, and whether its label says the class."""

    class_name: str
    images: int
    best: Annotated[str | None, Field(description="null where no AUROC is above 0.5 by more than chance.")]
    label: str | None
    names_class: bool
    auroc: Annotated[Fraction | None, Field(description="The highest of all neurons.")]
    rate_in: Fraction | None
    rate_out: Fraction | None


Names = Annotated[dict[str, str], Field(description="The names of all images of the document, by their ids.")]


class ClassesDocument(TypedDict):
    """The classes of a layer's images by one column; `others` are columns whose classes were compared, too."""

    layer: str
    by: ClassSetRow
    others: list[str]
    classes: list[ClassRow]


class ClassDocument(TypedDict):
    """A class: the neurons that tell it best, those most silent on it, and all whose labels say it."""

    layer: str
    by: ClassSetRow
    class_name: str
    images: int
    others: int
    chance: Annotated[Fraction, Field(description="Neurons closer to AUROC 0.5 say nothing about the class.")]
    neurons: list[AssociationRow]
    silent: list[AssociationRow]
    saying: Annotated[list[NeuronRow], Field(description="Neurons whose label says the class, best AUROC first.")]
    names: Names
    previous: str | None
    next: str | None


class NeuronClassesDocument(TypedDict):
    """All classes of a neuron by one column, those that it tells best first."""

    neuron: str
    by: ClassSetRow
    classes: list[ToldClass]
    names: Names


class NeuronClasses(TypedDict):
    """What a neuron's page shows of classes: those that it tells best, and those that it is most silent on."""

    by: ClassSetRow
    best: list[ToldClass]
    silent: list[ToldClass]
