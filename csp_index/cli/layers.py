"""The command that lists the layers of a network: layers."""

from __future__ import annotations

from collections.abc import Sequence

import click

from csp_index.cli.options import json_option
from csp_index.cli.output import say, say_json
from csp_index.models.specs import check_weights, network_spec


@click.command()
@click.argument("network")
@click.option("--weights", metavar="FILE[::PART]", help="Weight file of the network (.safetensors or a checkpoint).")
@click.option("--sae", "saes", multiple=True, help="Sparse autoencoder LAYER=FILE, to see what is understood of it.")
@json_option
def layers(network: str, weights: str | None, saes: Sequence[str], as_json: bool) -> None:
    """List a network's layers: name, kind, output shape for one image, neurons, and what an autoencoder was read as.

    Nothing is downloaded but settings: names and shapes do not depend on the weights. NETWORK is written as for
    `csp-index index --network`; NAME/none stands for random weights. A layer `X.head-3` is one head of an attention.

    \b
    csp-index layers torchvision:resnet50/none
    """
    network = network_spec(network)
    check_weights(weights)
    from csp_index.models.networks import list_layers

    for layer in list_layers("+sae:".join([network, *saes]), weights=weights):
        count = layer.neurons or None
        if as_json:
            row = {"layer": layer.name, "kind": layer.kind, "shape": list(layer.shape), "neurons": count}
            row |= {"understood": layer.understood} if layer.understood else {}
            classes = {"classes": list(layer.classes)} if layer.classes else {}
            say_json(row | ({"note": layer.note} if layer.note else {}) | classes)
        else:
            shape = " x ".join(map(str, layer.shape))
            names = ", ".join(layer.classes[:3]) + (", ..." if len(layer.classes) > 3 else "")
            remarks = "; ".join(part for part in (layer.note, names and f"neurons are {names}") if part)
            cells = [layer.name, layer.kind, shape, "? neurons" if count is None else f"{count} neurons"]
            cells += [layer.understood] if layer.understood else []
            say(*cells, *([f"[{remarks}]"] if remarks else []))


COMMANDS = (layers,)
