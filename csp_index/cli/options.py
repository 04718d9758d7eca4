"""Options that several commands take in the same words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from csp_index.arrow_alone import load_arrow_alone
from csp_index.contrast.kinds import CONTRAST_KINDS
from csp_index.errors import SettingError
from csp_index.models.trust import give
from csp_index.records import BOUNDS, STUDY_SEEDS, ExampleOptions

if TYPE_CHECKING:
    from csp_index.index import Index
    from csp_index.labelling.texts.candidate_names import TextArrays


def _with_arrow_alone(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Load pyarrow alone when a command that reads an index is about to run; a callback of its argument."""
    if not context.resilient_parsing:
        load_arrow_alone()
    return value


FILE = click.Path(readable=False)  # the code that reads it reports what is wrong
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def _folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a folder."""
    return [CompletionItem(incomplete, type="dir")]


def complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file or a folder of an argument that may also be something else."""
    return [CompletionItem(incomplete, type="file")]


database = click.argument("db", metavar="DB", shell_complete=_folders)
read_database = click.argument("db", metavar="DB", shell_complete=_folders, callback=_with_arrow_alone)
version_option = click.option(
    "--version",
    metavar="N",
    help="Read what the index was at version N, a number or a tag (`csp-index versions`); nothing is written.",
)
trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Let models run code that the index names (python:MODULE:FACTORY); not for an index from a stranger.",
)

images_option = click.option(
    "--images",
    "image_roots",
    multiple=True,
    type=FILE,
    metavar="DIR",
    help="Open original images below DIR, though their addresses come from the index; repeatable.",
)

layer_option = click.option("--layer", required=True, help="MODEL/LAYER.")
neurons_option = click.option("--neurons", default="all", show_default=True, help="all, 0,5,9 or 10-20.")
vocabulary_option = click.option(
    "--vocabulary",
    help="imagenet1k, imagenet21k, a text file, FILE.parquet:COLUMN, FILE.csv:COLUMN or metadata:COLUMN; "
    "by default the last one used.",
)
templates_option = click.option(
    "--templates", help="Prompt templates: none, csp, openai or a text file; by default the last ones used."
)
dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), help="How activations are stored (float32)."
)
device_option = click.option("--device", help="Where models run: auto, cpu, cuda, mps.")
_TEXTS = click.option("--texts", type=FILE, help="Their texts, one per line.")
_ARRAYS = (
    click.option("--text-embeddings", type=FILE, help="Text embeddings made elsewhere [labels, dimensions], .npy."),
    _TEXTS,
)
_SERVED = (
    click.option("--text-embeddings", type=FILE, help="Labels for an index of arrays: embeddings [labels, D], .npy."),
    _TEXTS,
)

OPENING: Final = ("device", "trust", "image_roots")
"""The options of commands that run models, by which they open the index."""
_OPENING = (
    click.option("--device", help="Where models and products run: auto, cpu, cuda, mps."),
    images_option,
    trust_option,
)
_LOGITS = (
    click.option("--class-names", type=FILE, help="Names of the network's outputs, in their order, one per line."),
    click.option(
        "--head", metavar="MODULE", help="The module that gives the logits, if they are not the network's output."
    ),
)

_SOURCE = (
    click.option(
        "--metadata", type=FILE, help="Table about the images: CSV, JSON, parquet, Excel; joined by path or name."
    ),
    click.option(
        "--metadata-key", metavar="COLUMN", help="Column of the table that names the images (the one that fits)."
    ),
    click.option("--class-names", type=FILE, help="Names for folders that are classes: lines of both, or JSON."),
    click.option("--image-column", help="Image column of a parquet file, if it is not detected."),
)
SOURCE_OPTIONS = ("metadata", "metadata_key", "class_names", "image_column")


def neuron_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command choose neurons of a layer: --layer, --neurons."""
    return _with((layer_option, neurons_option), command)


def text_arrays(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take texts made elsewhere, beside --vocabulary: `candidate_texts` reads them."""
    return _with(_ARRAYS, command)


def served_texts(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a service take the texts by which an index of arrays is labeled."""
    return _with(_SERVED, command)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take texts made elsewhere, and templates; beside --vocabulary."""
    return _with((*_ARRAYS, templates_option), command)


def opened(db: str, options: dict[str, Any]) -> Index:
    """Open the index of a command; take the options OPENING out of its options."""
    from csp_index.index import open_index

    return open_index(db, **{name: options.pop(name) for name in OPENING})


def opening_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say where its models run, and what they may open: the options OPENING."""
    return _with(_OPENING, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def logit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say what a network's logits are, and what they are called."""
    return _with(_LOGITS, command)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command say what belongs to a source of images: the options SOURCE_OPTIONS."""
    return _with(_SOURCE, command)


def candidate_texts(options: dict[str, Any]) -> TextArrays | str | None:
    """Take --vocabulary, --text-embeddings and --texts out of the options; return the candidates that they name."""
    vocabulary, arrays, texts = (options.pop(name) for name in ("vocabulary", "text_embeddings", "texts"))
    if (arrays is None) != (texts is None):
        raise click.UsageError("--text-embeddings and --texts go together: give both or none")
    if arrays is None:
        return str(vocabulary) if vocabulary is not None else None
    if vocabulary is not None:
        raise click.UsageError("--vocabulary and --text-embeddings both name the candidates: give one of them")
    from csp_index.labelling.texts.candidate_names import TextArrays

    return TextArrays.read(arrays, texts)


def give_spec(context: click.Context, parameter: click.Parameter, spec: str | None) -> str | None:
    """Let the code of a model that the user names run, as a click callback."""
    give(spec)
    return spec


encoder_option = click.option("--encoder", callback=give_spec, help="The encoder to use, if the index holds several.")


_BOUNDS = {name.replace("_", "-"): bounds for name, bounds in BOUNDS.items()} | {
    "bins": (2, 1000),
    "cell": (1, 4096),
    "classes": (1, 10_000),
    "cluster-size": (2, 100_000),
    "columns": (1, 100),
    "concepts": (1, 1000),
    "concurrency": (1, 1024),
    "decode-workers": (0, 1024),
    "generated": (1, 100_000),
    "map-neighbors": (2, 500),
    "neuron": (0, 2**31 - 1),
    "new-tokens": (1, 1_000_000),
    "port": (0, 65535),
    "rate-pictures": (1, 1000),
    "resamples": (0, 10_000),
    "sample": (2, 10_000),
    "study-seed": STUDY_SEEDS,
    "shard-size": (1, 10_000_000),
    "top": (1, 1_000_000),
    "words": (1, 1000),
    "workers": (1, 64),
}


def whole(option: str) -> click.IntRange:
    """Return the type of an option that takes a whole number: the one place that bounds it."""
    return click.IntRange(*_BOUNDS[option])


def seed_option(says: str) -> Callable[..., Any]:
    """Return the option --seed of a command that draws; `says` what."""
    return click.option("--seed", type=whole("study-seed"), default=0, show_default=True, help=says)


def top_option(usual: int, says: str) -> Callable[..., Any]:
    """Return the option --top of a command that shows the first of many; `says` of what."""
    return click.option("--top", type=whole("top"), default=usual, show_default=True, help=says)


def contrast_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command choose contrastive images, and how those of the kind synthetic are made."""
    return _with(_CONTRAST, command)


def _kinds(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what names no kinds of contrastive images, as a click callback."""
    try:
        return value if value is None else ExampleOptions(contrast=value).contrast
    except SettingError as exc:
        raise click.BadParameter(str(exc)) from exc


_CONTRAST = (
    click.option(
        "--contrast",
        metavar="KIND[+KIND...]",
        callback=_kinds,
        help=f"Contrastive images: {', '.join(CONTRAST_KINDS)}, or several joined by + (nearest).",
    ),
    click.option(
        "--generator", help="synthetic: diffusers:ID_OR_DIR or python:package.module:factory, makes variants."
    ),
    click.option("--variants", type=whole("variants"), help="synthetic: variants made of each activating image (8)."),
    click.option("--generator-seed", type=whole("generator-seed"), help="synthetic: of the variants (0)."),
    click.option("--caption-column", help="synthetic: metadata column that describes an image, for the prompt."),
    click.option("--variant-prompt", help="synthetic: the prompt around the caption ({caption})."),
)
