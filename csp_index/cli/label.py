"""The command that labels neurons: label."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from csp_index.cli.options import (
    candidate_texts,
    contrast_options,
    encoder_option,
    images_option,
    json_option,
    neurons_option,
    read_database,
    templates_option,
    text_arrays,
    top_option,
    trust_option,
    version_option,
    vocabulary_option,
    whole,
)
from csp_index.cli.output import progress, say, say_checks, say_labelled, say_labels
from csp_index.labelling.methods import METHODS, RECOMMENDED, WITHOUT_SCALE, defaults_of

_METHODS = click.option(
    "--method",
    help=f"Labeling method: the preferred one, else {RECOMMENDED} ({WITHOUT_SCALE} if the logit scale is unknown).",
)


def _method_list() -> str:
    """Return the methods with what each is, as help shows them."""
    width = max(map(len, METHODS))
    return "\b\nMethods:\n" + "\n".join(f"  {name:{width}}  {info.summary}" for name, info in METHODS.items())


_DEVICE = click.option("--device", help="Where the encoder and the products run: auto, cpu, cuda, mps.")


@click.command(epilog=_method_list())
@read_database
@click.option("--layer", "layers", required=True, help="MODEL/LAYER, several with commas, or all.")
@neurons_option
@_METHODS
@vocabulary_option
@templates_option
@click.option(
    "--candidates",
    default="vocabulary",
    show_default=True,
    help="Any of vocabulary, vlm, captioner, neighbours, with commas; `csp-index candidates` stores the last three.",
)
@click.option("--pool-candidates", is_flag=True, help="Make the candidates of each neuron candidates of all.")
@click.option("--null", metavar="LAYER|auto", help="Layer of a redrawn network: say where labels stand among its own.")
@click.option(
    "--check", is_flag=True, help="Make no labels; report which candidates of models score below the vocabulary's best."
)
@text_arrays
@click.option("--gamma", type=float, help="csp: share of the contrastive direction that is removed, 0 to 1 (1).")
@click.option("--alpha", type=float, help="contrastive-pmi: the contrastive set's share of the prior, 0 to 1 (0.5).")
@click.option("--examples", type=whole("examples"), help=f"Activating images per neuron ({defaults_of('examples')}).")
@contrast_options
@click.option(
    "--neighbours",
    type=whole("neighbours"),
    help=f"Contrastive images per activating image ({defaults_of('neighbours')}).",
)
@click.option("--threshold", help="Low activation: mean, quantile:Q or max:F (mean).")
@click.option(
    "--crop",
    is_flag=True,
    default=None,
    help="The region that drives a neuron stands in for each activating image; needs stored maps.",
)
@click.option("--floor", type=float, help="An image activates a neuron only above this, 0 or more (0).")
@click.option("--reuse/--no-reuse", default=None, help="One contrastive image may serve several activating ones (yes).")
@click.option("--min-similarity", type=float, help="Drop pairs below this cosine.")
@click.option(
    "--near-duplicate", type=float, help="Images above this cosine are the same picture and no contrast; try 0.99."
)
@click.option(
    "--renormalise-text/--no-renormalise-text", default=None, help="Unit length for the mean over templates (yes)."
)
@click.option("--subtract-empty/--no-subtract-empty", default=None, help="semanticlens: subtract the empty template.")
@click.option(
    "--prior", type=click.Choice(["neurons", "images"]), help="clip-dissect, wpmi: the prior runs over (neurons)."
)
@click.option("--prior-weight", type=float, help="clip-dissect, wpmi: lambda (1; wpmi 0.6).")
@click.option("--logit-scale", type=float, help="The encoder's multiplier of the cosine, where none is known.")
@click.option(
    "--bootstrap", type=whole("bootstrap"), help="Resamples that say how stable a label is, 0 for none (100)."
)
@click.option("--seed", type=whole("seed"), help="Seed of random contrast, random labels and resamples (0).")
@top_option(5, "Candidates per neuron.")
@encoder_option
@_DEVICE
@images_option
@trust_option
@click.option("--recompute", is_flag=True, help="Compute the labels again even if the index holds them.")
@click.option("--explain", is_flag=True, help="Explain on stderr how contrastive images are found, and why so.")
@version_option
@json_option
def label(db: str, layers: str, neurons: str, as_json: bool, **options: Any) -> None:
    """Label neurons of a layer, and store the labels.

    A label whose lead over its rivals is within the noise of the activating images is called uncertain.

    \b
    csp-index label birds.db --layer resnet50/layer4 --neurons 0,5,9 --vocabulary imagenet21k
    csp-index label arrays.db --layer m/l --text-embeddings T.npy --texts T.txt --json
    csp-index label birds.db --layer resnet50/layer4 --candidates vocabulary,vlm
    csp-index label birds.db --layer resnet50/layer4 --candidates vlm --check
    csp-index label birds.db --layer all
    """
    from csp_index.index import open_index
    from csp_index.labelling.label_summary import candidates_named, summary_of
    from csp_index.store.addresses import named_layers, parse_neurons

    opening = {name: options.pop(name) for name in ("device", "trust", "image_roots", "version")}
    options["explain"] = partial(say, err=True) if options["explain"] else None
    options["vocabulary"] = candidate_texts(options)
    index = open_index(db, **opening)
    addresses = [one for layer in named_layers(index.store, layers) for one in parse_neurons(layer, neurons)]
    if options.pop("check"):
        say_checks(index.check_candidates(addresses, **_checking(options)), as_json)
        return
    with progress() as tell:
        labels = index.label(addresses, progress=tell, **options)
    say_labels(labels, as_json)
    if not as_json:
        texts = candidates_named(index.store, labels[0].method, options["candidates"], options["vocabulary"])
        say_labelled(summary_of(labels, texts), db, by_default=options["method"] is None)


def _checking(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `label` that a check takes; by default it checks all kinds that may be invented."""
    unfit = ("pool_candidates", "recompute", "explain", "null", "crop")
    refused = [name for name in unfit if options[name]]
    if refused:
        raise click.UsageError(f"--{refused[0].replace('_', '-')} does not go with --check, which makes no labels")
    selected = {name: value for name, value in options.items() if name not in unfit}
    selected.pop("top")
    if selected["candidates"] == "vocabulary":
        selected["candidates"] = None
    return selected


COMMANDS = (label,)
