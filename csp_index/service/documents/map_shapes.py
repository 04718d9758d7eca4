"""The shapes of documents about activation maps. See `shapes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

Share = Annotated[FiniteFloat, Field(description="Below 0 or above 1 lies a margin that the network saw.")]


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
    """The activation maps of a neuron's top images, highest activation first."""

    neuron: str
    height: int
    width: int
    images: list[ImageMap]
