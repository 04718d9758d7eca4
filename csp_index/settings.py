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
        Setting("shard_size", 2048, "Images a shard, one commit in every table: a kill loses one shard, at most two."),
        Setting("activation_dtype", "float32", "How activations are stored.", ("float32", "float16")),
        Setting("thumbnail_size", 128, "Longer side of the stored thumbnails, in pixels."),
        Setting("top_images", 100, "Highest activating images kept with each neuron."),
        Setting("device", "auto", "Where models run: auto, cpu, cuda, cuda:1, mps."),
        Setting("decode_threads", 2, "Threads that read and decode images while the models run."),
        Setting("decode_workers", "auto", "Processes that decode instead: a number, 0 for none, or auto (by size)."),
        Setting("ray_actors", "auto", "Workers of --engine ray: a number, or auto (one for each CPU or GPU there is)."),
        Setting("tile_bytes", 32 * 2**20, "Memory for one tile of similarities in batch labelling, in bytes."),
        Setting("held_bytes", 320 * 2**20, "Embeddings up to so many bytes are held in memory, larger ones streamed."),
        Setting("index_images", 100_000, "From so many images on, `optimize` builds a vector index by itself."),
        Setting("index_bytes", 8 * 2**30, "Embeddings up to so many bytes are indexed whole, larger ones compressed."),
        Setting("search_probes", 40, "Partitions of a vector index that a search looks into."),
        Setting("search_refine", 1, "Rows looked at again, exactly, for each one asked of a compressed vector index."),
        Setting("keep_hours", 1.0, "Hours for which `optimize` leaves a replaced version to readers that hold it."),
        Setting(
            "lease_seconds", 60, "How long a writer holds an index in an object store unless it renews, in seconds."
        ),
        Setting("lease_renewal", 15, "How often it renews, in seconds; at most half of lease_seconds."),
        Setting("variant_strength", 0.6, "Noise that image-to-image pipelines put over an original, 0 to 1."),
        Setting("variant_steps", "auto", "Their number of steps, or auto (the pipeline's own)."),
        Setting("similarity_floor", 0.5, "Pairs of this cosine or more count as near when contrast is judged."),
        Setting("picture_side", 512, "Longer side of the pictures that stage 1 shows to models, in pixels, at most."),
        Setting("answers_group", 64, "Answers of models that are committed together."),
        Setting("answers_pause", 2.0, "Seconds after which those that came in are committed, however few."),
        Setting("vlm_new_tokens", 64, "New tokens in an answer of a vision-language model, at most."),
        Setting("vlm_batch", 4, "Neurons that a local vision-language model is asked about at once."),
        Setting("caption_new_tokens", 40, "New tokens in a caption, at most."),
        Setting("caption_batch", 16, "Pictures that a captioner describes at once."),
        Setting("caption_floor", 0.1, "Least score of a phrase of the captions that becomes a candidate."),
        Setting("caption_phrases", 20, "Candidates from a neuron's captions, at most."),
        Setting(
            "perturbation_edits",
            "occlude,blur,noise,recolour,inpaint",
            "Edits tried for `--contrast perturbation`; inpaint is left out where OpenCV is not installed.",
        ),
        Setting("vlm_concurrency", 8, "Neurons that an endpoint is asked about at the same time."),
        Setting("vlm_timeout", 120.0, "Longest time that one answer of an endpoint may take, in seconds."),
        Setting("vlm_retries", 4, "How often a request is repeated after a time-out, a broken connection, 429 or 5xx."),
        Setting("vlm_tokens", 1024, "New tokens of an endpoint's answer, at most; thoughts count, too."),
        Setting("vlm_key_variable", "OPENAI_API_KEY", "Environment variable that holds the key of an endpoint."),
        Setting("serve_host", "127.0.0.1", "Address that `serve` listens on."),
        Setting("serve_port", 8000, "Port that `serve` listens on."),
        Setting("serve_workers", 1, "Processes of `serve`: each computes on one core, with models of its own."),
        Setting("serve_threads", "auto", "Threads of each process: a number, or auto (one a core, at most 8)."),
        Setting("serve_waiting", 64, "Requests that `serve` works on or keeps waiting; more are sent away with 503."),
        Setting("serve_timeout", 30.0, "Longest time that one request may take, in seconds."),
        Setting("serve_arrival", 20.0, "Longest time that a request may take to arrive, in seconds."),
        Setting("serve_body_bytes", 2**20, "Largest body of a request, in bytes, but for pictures."),
        Setting("serve_upload_bytes", 10 * 2**20, "Largest picture that can be sent, in bytes."),
        Setting("serve_upload_pixels", 25_000_000, "Largest width x height of a picture that can be sent."),
        Setting("serve_page", 48, "Neurons that a page or an answer shows unless asked for more or fewer."),
        Setting("serve_page_limit", 200, "Neurons that can be asked for at once, at most."),
        Setting("serve_held_bytes", 256 * 2**20, "Memory that `serve` gives to what it keeps ready, in bytes."),
        Setting("sql_memory", "2GB", "Memory limit of one SQL statement."),
        Setting("sql_seconds", 10.0, "Seconds that one SQL statement over HTTP may run, and wait for its turn."),
        Setting("sql_rows", 10_000, "Rows of its answer, at most; further ones are cut off."),
        Setting("sql_bytes", 8 * 2**20, "Bytes of its answer, at most; further rows are cut off."),
        Setting("sql_processes", 2, "SQL statements over HTTP that run at once, each in a process of its own."),
    )
}


GROUPS: dict[str, tuple[str, ...]] = {
    "Indexing": (
        "shard_size",
        "activation_dtype",
        "thumbnail_size",
        "top_images",
        "decode_threads",
        "decode_workers",
        "ray_actors",
    ),
    "Models and memory": ("device", "tile_bytes", "held_bytes"),
    "Contrast": ("similarity_floor", "perturbation_edits", "variant_strength", "variant_steps"),
    "The vector index": ("index_images", "index_bytes", "search_probes", "search_refine", "keep_hours"),
    "Object stores": ("lease_seconds", "lease_renewal"),
    "Candidates from models": (
        "picture_side",
        "answers_group",
        "answers_pause",
        "vlm_new_tokens",
        "vlm_batch",
        "caption_new_tokens",
        "caption_batch",
        "caption_floor",
        "caption_phrases",
    ),
    "Models behind an endpoint": ("vlm_concurrency", "vlm_timeout", "vlm_retries", "vlm_tokens", "vlm_key_variable"),
    "The service": (
        "serve_host",
        "serve_port",
        "serve_workers",
        "serve_threads",
        "serve_waiting",
        "serve_timeout",
        "serve_arrival",
        "serve_body_bytes",
        "serve_upload_bytes",
        "serve_upload_pixels",
        "serve_page",
        "serve_page_limit",
        "serve_held_bytes",
    ),
    "SQL": ("sql_memory", "sql_seconds", "sql_rows", "sql_bytes", "sql_processes"),
}
"""What settings concern: the headings of the manual's page, each setting under one of them."""


def text(name: str, given: str | None = None) -> str:
    """Return a setting that is a word."""
    return str(SETTINGS[name].value(given))


def number(name: str, given: int | None = None) -> int:
    """Return a setting that counts something; it must be at least 1."""
    value = int(SETTINGS[name].value(given))
    if value < 1:
        raise SettingError(f"setting {name} is {value}: expected at least 1 (default {SETTINGS[name].default})")
    return value


def duration(name: str, given: float | None = None) -> float:
    """Return a setting that is a length of time; it must be finite and at least 0."""
    value = float(SETTINGS[name].value(given))
    if not 0 <= value < float("inf"):
        raise SettingError(f"setting {name} is {value}: expected 0 or more (default {SETTINGS[name].default})")
    return value


def count_or_auto(name: str, given: int | None = None) -> int | None:
    """Return a setting that is a number from 0 on, or None where it is `auto`."""
    value = str(SETTINGS[name].value(None if given is None else str(given)))
    if value == "auto":
        return None
    if not value.isdecimal():
        raise SettingError(f"setting {name} is {value!r}: expected auto or a number from 0 on")
    return int(value)
