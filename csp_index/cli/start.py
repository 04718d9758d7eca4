"""The command that takes a folder of pictures to a page in the browser: start."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.index import first_failure, why_nothing
from csp_index.cli.network_options import chosen_models, network_options
from csp_index.cli.options import (
    OPENING,
    SOURCE_OPTIONS,
    complete_files,
    json_option,
    opening_options,
    source_options,
    whole,
)
from csp_index.cli.output import progress, say, say_json, say_labelled, say_summary
from csp_index.cli.serve import serve
from csp_index.errors import SettingError, SourceError
from csp_index.models.specs import encoder_spec, network_spec

if TYPE_CHECKING:
    from csp_index.images.decode import ImageSource
    from csp_index.index import Index
    from csp_index.models.index_models import NetworkSource

_ENCODER = "open_clip:ViT-B-32/laion2b_s34b_b79k"
_NETWORK = "torchvision:resnet50/IMAGENET1K_V2"


@click.command()
@click.argument("source", shell_complete=complete_files)
@click.argument("db", metavar="[DB]", required=False)
@network_options
@source_options
@click.option("--vocabulary", help="Candidate labels, as for `label`; by default what suits the images.")
@click.option("--method", help="Labeling method; by default the recommended one.")
@click.option("--serve/--no-serve", "served", default=True, help="Show the index in the browser at the end (yes).")
@click.option("--port", type=whole("port"), help="Port to listen on, 0 for any that is free (8000).")
@opening_options
@json_option
@click.pass_context
def start(context: click.Context, /, source: str, db: str | None, as_json: bool, **options: Any) -> None:
    """Index the images of SOURCE, label all neurons, and show them in the browser: all steps, each choice printed.

    Chooses what you do not name: the index beside you (SOURCE.db), an encoder, a network and the ends of its last
    stages, the vocabulary (the images' captions or classes, else ImageNet's) and the method. An index that exists is
    extended and keeps its models. The same command goes on where it was interrupted, and makes nothing twice.

    \b
    csp-index start photos/
    csp-index start photos/ birds.db --network timm:vit_base_patch16_224.augreg_in21k --layers blocks.11
    """
    choices, place = _Choices(silent=as_json), db or f"{_stem(source)}.db"
    from csp_index.index import open_index
    from csp_index.labelling.label_summary import candidates_named, summary_of
    from csp_index.store import catalog
    from csp_index.store.connect import claimed

    _check(options)
    images = _opened(source, place, options)  # before anything is loaded or made for it
    choices.add("index", place, "" if db else "after the images; name another behind them")
    port = _port(options["port"], choices) if options["served"] else None
    index = open_index(place, **{name: options[name] for name in OPENING})
    with claimed(place):
        encoders, networks = _models(index, options, choices)
    with progress() as tell:
        summary = index.add_images(images, encoders=encoders, networks=networks, progress=tell)
    if not as_json:
        say_summary(summary, as_json, None)
    if not summary.images:
        raise SourceError(why_nothing(index))
    if summary.failed and not as_json:
        every = shlex.join(["csp-index", "sql", place, "SELECT uri, reason FROM failures"])
        say(f"the first of {summary.failed:,}: {first_failure(index)}; all: {every}", err=True)
    vocabulary, method = _vocabulary(index, options["vocabulary"], choices), options["method"]
    layers = [str(info.key) for info in catalog.layers(index.store)]
    with progress() as tell:
        labels = index.label(layers, method, vocabulary=vocabulary, progress=tell, explain=_say_if_read)
    choices.add("method", labels[0].method, "" if method else "recommended; --method")
    made = summary_of(labels, candidates_named(index.store, labels[0].method, "vocabulary", vocabulary))
    if as_json:
        say_json({"choices": choices.made, "layers": layers, "labels": asdict(made)})
    else:
        say_labelled(made, place, by_default=method is None, served=options["served"])
    if options["served"]:
        context.invoke(serve, db=place, port=port, trust=options["trust"], as_json=as_json)


class _Choices:
    """What was chosen, with why and the option that changes it; printed as it is made."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self.made: dict[str, str] = {}

    def add(self, what: str, value: str, why: str = "") -> None:
        """Note a choice; without a reason the user made it."""
        self.made[what] = value
        if not self._silent:
            say(f"{what:<10} {value}" + (f"  ({why})" if why else ""))


def _check(options: dict[str, Any]) -> None:
    """Refuse names that are none, also of a method and a vocabulary, which are needed only after hours."""
    from csp_index.labelling.methods import check_method

    for spec in options["encoders"]:
        encoder_spec(spec)
    for spec in options["networks"]:
        network_spec(spec)
    vocabulary = options["vocabulary"]
    if options["method"] is not None:
        check_method(options["method"])
    if vocabulary is not None and not vocabulary.startswith("metadata:") and not Path(vocabulary).is_file():
        from csp_index.labelling.vocabularies import load_vocabulary

        load_vocabulary(vocabulary)


def _opened(source: str, place: str, options: dict[str, Any]) -> ImageSource:
    """Return the images of SOURCE. Raises an error where there are none, or no index can be at `place`."""
    from csp_index.images.sources import open_source
    from csp_index.store.connect import check_creatable, is_index

    if Path(source).is_dir() and is_index(source):
        raise SourceError(f"{source} is an index, expected images: csp-index serve {shlex.quote(source)} shows it")
    check_creatable(place)
    return open_source(source, **{name: options[name] for name in SOURCE_OPTIONS})


def _port(named: int | None, choices: _Choices) -> int | None:
    """Return the port to listen on: the one named, which must be free, or any where the usual one is taken."""
    from csp_index.service.config import ServiceSettings
    from csp_index.service.server import bind

    settings = ServiceSettings() if named is None else ServiceSettings(port=named)
    try:
        bind(settings).close()
    except SettingError:
        if named is not None:
            raise
        choices.add("port", "any that is free", f"{settings.port} is taken; --port")
        return 0
    return named


def _models(index: Index, options: dict[str, Any], choices: _Choices) -> tuple[list[str], list[NetworkSource]]:
    """Return the encoders and networks to run: those named, of an index that exists its own, else the defaults."""
    from csp_index.models.hub import is_alone

    encoders, networks, layers = list(options["encoders"]), list(options["networks"]), list(options["layers"])
    held = _held(index.uri)
    if held and not (encoders or networks or options["saes"]):
        choices.add("models", ", ".join(held), "those of the index; --encoder, --network")
        return [], []
    if not (encoders or held):
        encoders = [_ENCODER]
    if not (networks or held or options["saes"]):
        networks = [_NETWORK]
    for encoder in encoders:
        choices.add("encoder", encoder, "" if options["encoders"] else "the default; --encoder")
    for network in networks:
        drawn = network.endswith("/none") and not options["weights"]
        why = "random weights, which have learned nothing" if drawn else ""
        choices.add("network", network, why if options["networks"] else "the default; --network")
    if any(not spec.startswith("python:") for spec in encoders) and is_alone():
        index.load_encoders(encoders)  # one that is not here is an error before a network is built
    if not layers and not options["saes"]:
        layers = [",".join(_last_layers(network)) for network in networks]
    why = "" if options["layers"] else "the ends of the last stages; --layers, `csp-index layers` lists all"
    for named in layers:
        choices.add("layers", named, why)
    return chosen_models(options | {"encoders": encoders, "networks": networks, "layers": layers})


def _held(place: str) -> list[str]:
    """Return the encoders and layers of an index that has both; of another, nothing."""
    from csp_index.store import catalog
    from csp_index.store.connect import is_index, open_store

    store = open_store(place) if is_index(place) else None
    if store is None or not (encoders := catalog.encoders(store)) or not (layers := catalog.layers(store)):
        return []
    return [*(info.name for info in encoders), *(str(info.key) for info in layers)]


def _last_layers(network: str) -> tuple[str, ...]:
    from csp_index.models.layers.stages import last_stages
    from csp_index.models.networks import list_layers

    return last_stages(list_layers(network_spec(network)))


def _vocabulary(index: Index, named: str | None, choices: _Choices) -> str:
    """Return the vocabulary that is named, or the one that suits the images of the index."""
    if named is not None:
        choices.add("vocabulary", named)
        return named
    from csp_index.labelling.texts.suitable import suitable_vocabulary

    suitable = suitable_vocabulary(index.store)
    choices.add("vocabulary", suitable.name, f"{suitable.why}; --vocabulary")
    return suitable.name


def _say_if_read(line: str) -> None:
    """Print that labels of an earlier start were read, but not how the others are made."""
    from csp_index.labelling.labels import READ

    if line.endswith(READ):
        say(line, err=True)


def _stem(source: str) -> str:
    """Return the name of a folder or file of images, without its ending."""
    if "://" in source:
        return source.rstrip("/").rpartition("/")[2].partition(".")[0] or "images"
    path = Path(source).resolve()
    return (path.name if path.is_dir() else path.stem) or "images"


COMMANDS = (start,)
