"""Which models a command runs: their options, checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from csp_index.models.specs import check_pool, check_weights, encoder_spec, network_spec, parse_axis

if TYPE_CHECKING:
    from csp_index.models.index_models import NetworkSource

_OPTIONS = (
    click.option(
        "--encoder",
        "encoders",
        multiple=True,
        help="open_clip:ARCH/WEIGHTS, transformers:ID, python:MODULE:FACTORY, or a local directory.",
    ),
    click.option(
        "--network",
        "networks",
        multiple=True,
        help="torchvision:, timm:, transformers:, open_clip: (its image tower), python:MODULE:FACTORY, or a local "
        "directory; NAME/none has random weights.",
    ),
    click.option(
        "--layers", multiple=True, help="Layers of the preceding --network, with commas; see `csp-index layers`."
    ),
    click.option(
        "--sae",
        "saes",
        multiple=True,
        help="Sparse autoencoder on a layer: LAYER=FILE (or folder, or hf:ORG/NAME), optionally with :topk=K or "
        ":places.",
    ),
    click.option(
        "--pool",
        "pools",
        multiple=True,
        help="mean, max, cls, token-mean, token-max or none; the default depends on the layer's shape.",
    ),
    click.option(
        "--axis",
        "axes",
        multiple=True,
        metavar="A[,A...]",
        help="Axis of the neurons in the output of one image, from 1 (or from -1 at its end), where the layers do not "
        "say it; several make one neuron each.",
    ),
    click.option(
        "--weights",
        multiple=True,
        metavar="FILE[::PART]",
        help="Weight file of the network (.safetensors or a checkpoint); PART chooses among several, such as teacher. "
        "redrawn:SEED[:FILE] draws each weight tensor again (centered: around 0): a network that has learned nothing.",
    ),
    click.option("--name", "names", multiple=True, help="Name of the network in addresses MODEL/LAYER/INDEX."),
    click.option(
        "--allow-random", is_flag=True, help="Take a network that gives other values for the same image each time."
    ),
    click.option("--allow-missing", is_flag=True, help="Take random values for weights that a checkpoint lacks."),
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command choose encoders, networks and how layers are read."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_models(options: dict[str, Any]) -> tuple[list[str], list[NetworkSource]]:
    """Return the encoders and networks of the options. Raises UsageError or ModelError before torch is loaded."""
    encoders = [encoder_spec(spec) for spec in options["encoders"]]
    specs = [network_spec(spec) for spec in options["networks"]]
    layers: Sequence[str] = options["layers"]
    if len(layers) != len(specs) and not options["saes"]:
        raise click.UsageError(
            f"{len(specs)} --network and {len(layers)} --layers: expected one --layers per --network"
        )
    for name in ("pools", "axes", "weights", "names"):
        if len(options[name]) > len(specs):
            option = {"pools": "pool", "axes": "axis", "names": "name"}.get(name, name)
            raise click.UsageError(f"--{option} is given {len(options[name])} times for {len(specs)} --network")
    for pool in options["pools"]:
        check_pool(pool)
    for file in options["weights"]:
        check_weights(file)
    axes = [parse_axis(text) for text in options["axes"]]
    if not specs and not options["saes"]:
        return encoders, []
    specs, layers = _with_autoencoders(specs, layers, options["saes"])
    named = [tuple(part.strip() for part in names.split(",") if part.strip()) for names in layers]
    for spec, names in zip(specs, named, strict=True):
        if not names:
            raise click.UsageError(f"--layers of {spec} names none: `csp-index layers {spec}` lists them")

    from csp_index.models.index_models import NetworkSource  # loads torch

    random, missing = options["allow_random"], options["allow_missing"]
    rows = zip_longest(specs, named, options["pools"], axes, options["weights"], options["names"])
    return encoders, [
        NetworkSource(spec, names, pool, weights, name, axis or (), random, missing)
        for spec, names, pool, axis, weights, name in rows
    ]


def _with_autoencoders(specs: list[str], layers: Sequence[str], saes: Sequence[str]) -> tuple[list[str], Sequence[str]]:
    """Add autoencoders to the network's spec, and their features to its layers."""
    if not saes:
        return specs, layers
    if len(specs) != 1 or len(layers) > 1:
        raise click.UsageError(
            f"--sae is given for {len(specs)} --network: expected one; with several, append +sae:LAYER=FILE to the "
            "network's name and add LAYER.sae-NAME to its layers"
        )
    from csp_index.models.sparse_autoencoders import split_spec

    spec = "+sae:".join([specs[0], *saes])
    added = [source.added for source in split_spec(spec)[1][-len(saes) :]]
    return [spec], [",".join([*layers, *added])]
