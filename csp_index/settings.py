"""One table of settings: the source of defaults, help texts and environment variables.

The value of a setting comes from the call or the command line, else from the environment variable `CSP_INDEX_<NAME>`,
else from the default. Code reads a setting as `settings.SHARD_SIZE.value()`, so that mypy knows its type and an unknown
name is an error on import.
"""

from __future__ import annotations

import math
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

    def value(self, override: Value | None = None) -> Value | None:
        """Return the value in force: `override`, the environment's, or the default. SettingError for a bad one."""
        return self._read(override)

    def _read(self, override: Value | None) -> Value:
        raw = override if override is not None else os.environ.get(self.variable)
        if raw is None:
            return self.default
        try:
            value = type(self.default)(raw)
        except (ValueError, OverflowError):
            raise self._error(repr(raw), f"{type(self.default).__name__} (default {self.default!r})") from None
        if self.choices and value not in self.choices:
            raise self._error(repr(value), f"one of {', '.join(self.choices)}")
        return value

    def _error(self, value: str, expected: str) -> SettingError:
        return SettingError(f"setting {self.name} is {value}: expected {expected}")


class Text(Setting):
    """A word."""

    __slots__ = ()

    def value(self, override: Value | None = None) -> str:
        """Return the word in force."""
        return str(self._read(override))


@dataclass(frozen=True, slots=True)
class Count(Setting):
    """A number of things: `least` to `most`."""

    least: int = 1
    most: int = 2**63 - 1

    def value(self, override: Value | None = None) -> int:
        """Return the number in force."""
        value = int(self._read(override))
        if value < self.least:
            raise self._error(str(value), f"at least {self.least} (default {self.default})")
        if value > self.most:
            raise self._error(str(value), f"at most {self.most} (default {self.default})")
        return value


class Amount(Setting):
    """A length of time or another amount: finite, 0 or more."""

    __slots__ = ()

    def value(self, override: Value | None = None) -> float:
        """Return the amount in force."""
        value = float(self._read(override))
        if not 0 <= value < math.inf:
            raise self._error(str(value), f"0 or more (default {self.default})")
        return value


class Real(Setting):
    """Any finite number."""

    __slots__ = ()

    def value(self, override: Value | None = None) -> float:
        """Return the number in force."""
        value = float(self._read(override))
        if not math.isfinite(value):
            raise self._error(str(value), f"a finite number (default {self.default})")
        return value


@dataclass(frozen=True, slots=True)
class CountOrAuto(Setting):
    """A number of things from 0 to `most`, or `auto`."""

    most: int = 1024

    def value(self, override: Value | None = None) -> int | None:
        """Return the number in force, or None for `auto`."""
        value = str(self._read(None if override is None else str(override)))
        if value == "auto":
            return None
        if not value.isdecimal() or len(value) > 20 or int(value) > self.most:
            raise self._error(repr(value), f"auto or a number from 0 to {self.most}")
        return int(value)


SHARD_SIZE = Count("shard_size", 2048, "Images per shard. A shard is one commit per table; a crash loses at most two.")
ACTIVATION_DTYPE = Text("activation_dtype", "float32", "How activations are stored.", ("float32", "float16"))
ACTIVATION_STORAGE = Text(
    "activation_storage",
    "auto",
    "How a new layer is stored: dense, sparse (zeros are left out), or auto (sparse: latents of sparse autoencoders, "
    "and arrays with at most one value in five that is not 0).",
    ("auto", "dense", "sparse"),
)
THUMBNAIL_SIZE = Count(
    "thumbnail_size",
    128,
    "Longer side of the stored thumbnails, in pixels: 128 saves room, 512 is sharp on any screen.",
    most=65_500,
)
TOP_IMAGES = Count("top_images", 100, "Highest activating images stored with each neuron.")
MAP_IMAGES = Count("map_images", 30, "Of these, images whose activation map is stored where the layer has places.")
DEVICE = Text("device", "auto", "Where models run: auto, cpu, cuda, cuda:1, mps.")
DECODE_THREADS = Count("decode_threads", 2, "Threads that read and decode images while the models run.", most=1_024)
DECODE_WORKERS = CountOrAuto(
    "decode_workers",
    "auto",
    "Processes that decode instead of threads: a number, 0 for none, or auto (by the size of the task).",
)
IMAGE_ROOTS = Text(
    "image_roots",
    "",
    "Places whose images may be opened because an index names them, as for --images; parted as in PATH, URLs whole.",
)
STATE = Text("state", "", "Folder where csp_index remembers, per user, the images' places; by default the platform's.")
MAX_IMAGE_BYTES = Count(
    "max_image_bytes",
    256 * 2**20,
    "Largest file, member of a tar shard or cell of a table that is read as an image, in bytes.",
)
MAX_PIXELS = Count(
    "max_pixels",
    89_478_485,
    "Largest width x height of an image that is decoded; a larger number than this one raises Pillow's limit, too.",
)
MAX_SIDE_RATIO = Count(
    "max_side_ratio",
    100,
    "Largest ratio of an image's long side to its short one: a model that enlarges the short side enlarges both.",
)
MAX_TEXT_BYTES = Count(
    "max_text_bytes", 2**30, "Largest file of labels, URIs, templates, metadata or other texts that is read, in bytes."
)
MAX_METADATA_BYTES = Count(
    "max_metadata_bytes",
    2**20,
    "Largest cell of a table, or .json, .cls or .txt member of a tar shard, that is stored as metadata, in bytes.",
)
RAY_ACTORS = CountOrAuto("ray_actors", "auto", "Workers of --engine ray: a number, or auto (one for each CPU or GPU).")
TILE_BYTES = Count("tile_bytes", 32 * 2**20, "Memory for one tile of similarities in batch labelling, in bytes.")
HELD_BYTES = Count(
    "held_bytes", 320 * 2**20, "Embeddings of up to this many bytes stay in memory; larger ones are streamed."
)
INDEX_IMAGES = Count(
    "index_images", 100_000, "Number of images from which `optimize` builds a vector index by default."
)
INDEX_BYTES = Count(
    "index_bytes", 8 * 2**30, "Embeddings of up to this many bytes are indexed whole, larger ones compressed."
)
SEARCH_PROBES = Count("search_probes", 40, "Partitions of a vector index that a search visits.")
SEARCH_REFINE = Count(
    "search_refine", 1, "Rows compared again, exactly, for each row requested from a compressed vector index."
)
KEEP_HOURS = Amount(
    "keep_hours", 1.0, "Hours for which `optimize` keeps a replaced version, so that readers can finish with it."
)
LEASE_SECONDS = Count(
    "lease_seconds",
    60,
    "Seconds after which a writer loses its lease on an index in an object store unless it renews the lease.",
)
LEASE_RENEWAL = Count("lease_renewal", 15, "Seconds between renewals of the lease; at most half of lease_seconds.")
VARIANT_STRENGTH = Amount("variant_strength", 0.6, "Noise that image-to-image pipelines add to an original, 0 to 1.")
VARIANT_STEPS = CountOrAuto(
    "variant_steps", "auto", "Steps of image-to-image pipelines, or auto (the pipeline's own number)."
)
SIMILARITY_FLOOR = Real(
    "similarity_floor", 0.5, "Pairs with at least this cosine count as near when contrast is judged."
)
PICTURE_SIDE = Count("picture_side", 512, "Longer side of the pictures that models are shown, in pixels, at most.")
ANSWERS_GROUP = Count("answers_group", 64, "Answers of models that are committed together.")
ANSWERS_PAUSE = Amount("answers_pause", 2.0, "Seconds after which new answers are committed even if they are few.")
VLM_NEW_TOKENS = Count("vlm_new_tokens", 64, "New tokens in an answer of a vision-language model, at most.")
VLM_BATCH = Count("vlm_batch", 4, "Neurons per batch of a local vision-language model.", most=100_000)
CAPTION_NEW_TOKENS = Count("caption_new_tokens", 40, "New tokens in a caption, at most.")
CAPTION_BATCH = Count("caption_batch", 16, "Pictures that a captioner describes at once.", most=100_000)
CAPTION_FLOOR = Real("caption_floor", 0.1, "Minimum score of a caption phrase that becomes a candidate.")
CAPTION_PHRASES = Count("caption_phrases", 20, "Candidates from a neuron's captions, at most.")
PERTURBATION_EDITS = Text(
    "perturbation_edits",
    "occlude,blur,noise,recolour,inpaint",
    "Edits tried for `--contrast perturbation`; inpaint is left out if OpenCV is not installed.",
)
VLM_CONCURRENCY = Count("vlm_concurrency", 8, "Neurons that an endpoint is asked about at the same time.", most=1_024)
VLM_TIMEOUT = Amount("vlm_timeout", 120.0, "Seconds allowed for one answer of an endpoint.")
VLM_RETRIES = Count(
    "vlm_retries", 4, "Times a request is repeated after a time-out, a broken connection, 429 or 5xx.", least=0
)
VLM_TOKENS = Count("vlm_tokens", 1024, "New tokens in an endpoint's answer, at most, including its reasoning.")
VLM_KEY_VARIABLE = Text("vlm_key_variable", "OPENAI_API_KEY", "Environment variable that holds the key of an endpoint.")
SERVE_HOST = Text("serve_host", "127.0.0.1", "Address that `serve` listens on.")
SERVE_PORT = Count("serve_port", 8000, "Port that `serve` listens on.", most=65_535)
SERVE_WORKERS = Count(
    "serve_workers", 1, "Processes of `serve`: each computes on one core, with its own models.", most=64
)
SERVE_THREADS = CountOrAuto(
    "serve_threads", "auto", "Threads of each process: a number, or auto (one per core, at most 8)."
)
SERVE_WAITING = Count(
    "serve_waiting", 64, "Requests that `serve` works on or keeps waiting; further ones are refused with 503."
)
SERVE_TIMEOUT = Amount("serve_timeout", 30.0, "Seconds allowed for one request.")
SERVE_PATIENCE = Amount(
    "serve_patience", 1.0, "Seconds that a page waits for models which are being loaded before it shows what it can."
)
SERVE_FOLLOW = Amount(
    "serve_follow",
    2.0,
    "Seconds after which `serve` looks for a new version of the index, to show it; 0: it stays at its first one.",
)
SERVE_GRACE = Amount(
    "serve_grace",
    5.0,
    "Seconds that requests in progress have to finish once the service is told to end; the rest is stopped.",
)
SERVE_LABEL_COST = Count(
    "serve_label_cost",
    1_000_000_000,
    "Cost of one live question, at most: neurons x images of each x (candidates + 50 x resamples).",
)
SERVE_CONNECTIONS = Count(
    "serve_connections",
    512,
    "Open connections of `serve`, at most (and half of the open files allowed): beyond that, idle ones are closed.",
)
SERVE_ARRIVAL = Amount("serve_arrival", 20.0, "Seconds allowed for receiving a request.")
SERVE_BODY_BYTES = Count(
    "serve_body_bytes", 2**20, "Largest body of a request, in bytes; pictures have their own limit."
)
SERVE_UPLOAD_BYTES = Count("serve_upload_bytes", 10 * 2**20, "Largest picture that can be uploaded, in bytes.")
SERVE_UPLOAD_PIXELS = Count(
    "serve_upload_pixels", 25_000_000, "Largest width x height of a picture that can be uploaded."
)
SERVE_ORIGINAL_SIDE = Count(
    "serve_original_side", 2048, "Longer side of an original picture that `serve` shows, in pixels, at most."
)
SERVE_PAGE = Count("serve_page", 48, "Neurons that a page or an answer shows by default.")
SERVE_PAGE_LIMIT = Count("serve_page_limit", 600, "Neurons that one request can ask for, at most.")
SERVE_HELD_BYTES = Count("serve_held_bytes", 256 * 2**20, "Memory for the caches of `serve`, in bytes.")
AGENT_CHARACTERS = Count(
    "agent_characters",
    20_000,
    "Characters of one answer to a language model, at most; it says what was left out.",
    least=2_000,
)
READER = Text("reader", "", "Name under which `note` writes, where --by does not say it.")
REVIEW_WAIT = Amount("review_wait", 10.0, "Seconds that a note or a rating waits for another writer to end.")
REPORT_BYTES = Count("report_bytes", 8 * 2**20, "Bytes that pictures take in the report of an audit, at most.")
BROWSER = Text("browser", "", "Chromium, or a browser made of it, that prints reports; by default one on the PATH.")
PRINT_SECONDS = Amount("print_seconds", 120.0, "Seconds that a browser may take to print a report.")
SQL_MEMORY = Text("sql_memory", "2GB", "Memory limit of one SQL statement.")
SQL_SECONDS = Amount(
    "sql_seconds", 10.0, "Seconds that one SQL statement over HTTP may run, and may wait before it starts."
)
SQL_ROWS = Count("sql_rows", 10_000, "Rows of its result, at most; further rows are cut off.")
SQL_BYTES = Count("sql_bytes", 8 * 2**20, "Bytes of its result, at most; further rows are cut off.")
SQL_PROCESSES = Count(
    "sql_processes", 2, "SQL statements over HTTP that run at once, each in its own process.", most=1_024
)

SETTINGS: dict[str, Setting] = {
    setting.name: setting for setting in list(globals().values()) if isinstance(setting, Setting)
}
"""The table: every setting above by its name."""

GROUPS: dict[str, tuple[str, ...]] = {
    "Indexing": (
        "shard_size",
        "activation_dtype",
        "activation_storage",
        "thumbnail_size",
        "top_images",
        "map_images",
        "decode_threads",
        "decode_workers",
        "max_image_bytes",
        "max_pixels",
        "max_side_ratio",
        "max_text_bytes",
        "max_metadata_bytes",
        "ray_actors",
        "image_roots",
        "state",
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
        "serve_patience",
        "serve_follow",
        "serve_grace",
        "serve_label_cost",
        "serve_arrival",
        "serve_connections",
        "serve_body_bytes",
        "serve_upload_bytes",
        "serve_upload_pixels",
        "serve_original_side",
        "serve_page",
        "serve_page_limit",
        "serve_held_bytes",
        "agent_characters",
    ),
    "Review": ("reader", "review_wait"),
    "Reports": ("report_bytes", "browser", "print_seconds"),
    "SQL": ("sql_memory", "sql_seconds", "sql_rows", "sql_bytes", "sql_processes"),
}
"""The headings of the manual's page of settings, each setting under one of them."""
