"""One table of settings: the source of defaults, help texts and environment variables.

A setting comes, in this order, from the call or the command line, from the environment variable `CSP_INDEX_<NAME>`, or
from the default in the table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from csp_index.errors import SettingError

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name, its default (which fixes its type) and what it means."""

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that overrides the default."""
        return f"CSP_INDEX_{self.name.upper()}"

    def value(self, given: Value | None = None) -> Value:
        """Return the value in force: `given`, the environment's, or the default."""
        raw = given if given is not None else os.environ.get(self.variable)
        if raw is None:
            return self.default
        try:
            value = type(self.default)(raw)
        except ValueError:
            raise SettingError(
                f"setting {self.name} is {raw!r}: expected {type(self.default).__name__} (default {self.default!r})"
            ) from None
        if self.choices and value not in self.choices:
            raise SettingError(f"setting {self.name} is {value!r}: expected one of {', '.join(self.choices)}")
        return value


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting("shard_size", 2048, "Images a shard: what a kill loses at most, and one commit in every table."),
        Setting("activation_dtype", "float32", "How activations are stored.", ("float32", "float16")),
        Setting("thumbnail_size", 128, "Longer side of the stored thumbnails, in pixels."),
        Setting("top_images", 100, "Highest activating images kept with each neuron."),
        Setting("device", "auto", "Where models run: auto, cpu, cuda, cuda:1, mps."),
        Setting("decode_threads", 2, "Threads that read and decode images while the models run."),
        Setting("tile_bytes", 256 * 2**20, "Memory for one tile of similarities in batch labelling, in bytes."),
        Setting("search_neurons", 4, "Up to so many neurons are labelled by vector search, more by matrix products."),
        Setting("sql_memory", "2GB", "Memory limit of one SQL statement."),
    )
}


def text(name: str, given: str | None = None) -> str:
    """Return a setting that is a word."""
    return str(SETTINGS[name].value(given))


def number(name: str, given: int | None = None) -> int:
    """Return a setting that counts something; it must be at least 1."""
    value = int(SETTINGS[name].value(given))
    if value < 1:
        raise SettingError(f"setting {name} is {value}: expected at least 1 (default {SETTINGS[name].default})")
    return value
