"""Which images are in which classes, and what neurons have to do with these: the values of `class_ranks`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_RADIX = 2**16  # classes: NumPy sorts numbers of 16 bits by radix, in a third of the time of larger ones


@dataclass(frozen=True)
class Members:
    """Which of n images are in which of C classes: P memberships, grouped by class.

    `images` [P] are places 0 .. n - 1, rising within each class; the memberships of class c are `offsets[c]` to
    `offsets[c + 1]`. Every class has an image. An image may be in several classes, or in none.
    """

    images: np.ndarray
    offsets: np.ndarray  # [C + 1]
    count: int  # n

    @property
    def sizes(self) -> np.ndarray:
        """The number of images of each class [C]."""
        return np.diff(self.offsets)

    @property
    def starts(self) -> np.ndarray:
        """The first membership of each class [C]."""
        starts: np.ndarray = self.offsets[:-1]
        return starts

    @cached_property
    def owners(self) -> np.ndarray:
        """The class of each membership [P]."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def within(self) -> np.ndarray:
        """The place of each membership in its class [P]."""
        within: np.ndarray = np.arange(len(self.images)) - self.starts[self.owners]
        return within

    @cached_property
    def single(self) -> np.ndarray | None:
        """The class of each image [n], C for none; None if an image is in several or there are too many classes."""
        classes = len(self.sizes)
        if classes >= _RADIX or len(np.unique(self.images)) < len(self.images):
            return None
        single = np.full(self.count, classes, np.uint16)
        single[self.images] = self.owners
        return single

    @cached_property
    def numbers(self) -> np.ndarray:
        """The place of each image in its class [n], where images are in one class at most; 0 for none."""
        numbers = np.zeros(self.count, np.int64)
        numbers[self.images] = self.within
        return numbers


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What M neurons have to do with C classes.

    `auroc` is the chance that an image of the class activates the neuron more than an image outside, in [0, 1]: 0.5
    tells nothing, 1 that all images of the class are stronger, 0 that all are weaker; ties count one half. It is NaN,
    as are `rate_out` and `mean_out`, for a class without an image outside. Images are places, -1 where there are fewer
    than K: of the class the strongest and the weakest, outside it the strongest that fire.
    """

    auroc: np.ndarray  # [M, C] float64, as the next four
    rate_in: np.ndarray
    rate_out: np.ndarray
    mean_in: np.ndarray
    mean_out: np.ndarray
    strongest: np.ndarray  # [M, C, K] int64, as the next two
    weakest: np.ndarray
    outside: np.ndarray
