"""The shapes of documents about activation maps. See `shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

Share = Annotated[FiniteFloat, Field(description="Below 0 or above 1 lies a margin that the network saw.")]


Made = Annotated[
    Literal["activations", "gradients"],
    Field(
        description="activations: the neuron's own, before pooling. gradients: its gradient by the picture, times the "
        "picture; of layers whose neurons have no places."
    ),
]


class PictureMap(TypedDict):
    """Where a neuron fires in a picture that was sent: as ImageMap."""

    height: int
    width: int
    scale: FiniteFloat
    box: tuple[Share, Share, Share, Share]
    map: Annotated[str, Field(description="height x width bytes, base64.")]


class ImageMap(TypedDict):
    """Where a neuron fires in one image: a byte per place, row by row; the value of a place is scale x byte / 255."""

    image_id: int
    name: str
    scale: Annotated[FiniteFloat, Field(ge=0, description="The largest value of the map; 0: it fires nowhere.")]
    peak: Annotated[tuple[int, int] | None, Field(description="Row and column of the largest value.")]
    box: Annotated[
        tuple[Share, Share, Share, Share] | None,
        Field(description="Left, top, right and bottom of the part of the picture that the map covers; null: unknown."),
    ]
    map: Annotated[str, Field(description="height x width bytes, base64.")]


class MapsDocument(TypedDict):
    """The stored maps of a neuron's top images, highest activation first."""

    neuron: str
    made: Made
    height: int
    width: int
    images: list[ImageMap]


class ComputedMap(ImageMap):
    """Where a neuron looks in one image, made now, with what hides the rest of the picture."""

    veil: Annotated[str | None, Field(description="A PNG as a data: address; null: its place is unknown.")]


class ComputedMapsDocument(TypedDict):
    """Maps of a neuron that its network made now; nothing was stored. Images that cannot be opened are left out."""

    neuron: str
    made: Made
    height: int
    width: int
    images: list[ComputedMap]
