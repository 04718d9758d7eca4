"""Commands that query an index: label, show, search, sql, export, prefer, status."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import click

from csp_index.cli.options import (
    FILE,
    candidate_texts,
    contrast_options,
    give_spec,
    images_option,
    json_option,
    read_database,
    trust_option,
    version_option,
    whole,
)
from csp_index.cli.output import progress, say, say_checks, say_json, say_labels
from csp_index.labelling.methods import METHODS, RECOMMENDED, WITHOUT_SCALE, defaults_of

_METHODS = click.option(
    "--method",
    help=f"Labeling method: the preferred one, else {RECOMMENDED} ({WITHOUT_SCALE} if the logit scale is unknown).",
)
_VOCABULARY = click.option(
    "--vocabulary",
    help="imagenet1k, imagenet21k, a text file, FILE.parquet:COLUMN, FILE.csv:COLUMN or metadata:COLUMN; "
    "by default the last one used.",
)
_TEMPLATES = click.option(
    "--templates", help="Prompt templates: none, csp, openai or a text file; by default the last ones used."
)
_ENCODER = click.option("--encoder", callback=give_spec, help="The encoder to use, if the index holds several.")


def _method_list() -> str:
    """Return the methods with what each is, as help shows them."""
    width = max(map(len, METHODS))
    return "\b\nMethods:\n" + "\n".join(f"  {name:{width}}  {info.summary}" for name, info in METHODS.items())


def _say_method(method: str, by_default: bool) -> None:
    """Say on stderr which method made labels, and why if nobody named it."""
    why = ""
    if by_default and method == WITHOUT_SCALE:
        why = f", for {RECOMMENDED} needs the encoder's logit scale, which is unknown (--logit-scale)"
    elif by_default:
        why = ", the default (--method names another)"
    say(f"labeled by {method}{why}", err=True)


_DEVICE = click.option("--device", help="Where the encoder and the products run: auto, cpu, cuda, mps.")


@click.command(epilog=_method_list())
@read_database
@click.option("--layer", required=True, help="MODEL/LAYER.")
@click.option("--neurons", default="all", show_default=True, help="all, 0,5,9 or 10-20.")
@_METHODS
@_VOCABULARY
@_TEMPLATES
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
@click.option("--text-embeddings", type=FILE, help="Text embeddings made elsewhere [labels, dimensions], .npy.")
@click.option("--texts", type=FILE, help="Their texts, one per line.")
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
@click.option("--top", type=whole("top"), default=5, show_default=True, help="Candidates per neuron.")
@_ENCODER
@_DEVICE
@images_option
@trust_option
@click.option("--recompute", is_flag=True, help="Compute the labels again even if the index holds them.")
@click.option("--explain", is_flag=True, help="Explain on stderr how contrastive images are found, and why so.")
@version_option
@json_option
def label(db: str, layer: str, neurons: str, as_json: bool, **options: Any) -> None:
    """Label neurons of a layer, and store the labels.

    A label whose lead over its rivals is within the noise of the activating images is called uncertain.

    \b
    csp-index label birds.db --layer resnet50/layer4 --neurons 0,5,9 --vocabulary imagenet21k
    csp-index label arrays.db --layer m/l --text-embeddings T.npy --texts T.txt --json
    csp-index label birds.db --layer resnet50/layer4 --candidates vocabulary,vlm
    csp-index label birds.db --layer resnet50/layer4 --candidates vlm --check
    """
    from csp_index.index import open_index
    from csp_index.store.addresses import parse_neurons

    opening = {name: options.pop(name) for name in ("device", "trust", "image_roots", "version")}
    options["explain"] = partial(say, err=True) if options["explain"] else None
    options["vocabulary"] = candidate_texts(options)
    index, addresses = open_index(db, **opening), parse_neurons(layer, neurons)
    if options.pop("check"):
        say_checks(index.check_candidates(addresses, **_checking(options)), as_json)
        return
    made = {"perturbation", "synthetic"} & set((options["contrast"] or "").split("+"))
    with progress() if made else nullcontext() as tell:  # only images that have to be made take their time
        labels = index.label(addresses, progress=tell, **options)
    say_labels(labels, as_json)
    if not as_json:
        _say_method(labels[0].method, options["method"] is None)


def _checking(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `label` that a check takes; by default it checks all kinds that may be invented."""
    unfit = ("pool_candidates", "recompute", "explain", "null")
    refused = [name for name in unfit if options[name]]
    if refused:
        raise click.UsageError(f"--{refused[0].replace('_', '-')} does not go with --check, which makes no labels")
    selected = {name: value for name, value in options.items() if name not in unfit}
    selected.pop("top")
    if selected["candidates"] == "vocabulary":
        selected["candidates"] = None
    return selected


@click.command()
@read_database
@click.argument("neuron")
@click.option("--method", help="The label by this method; by default the one shown everywhere.")
@_VOCABULARY
@_TEMPLATES
@_ENCODER
@click.option("--card", type=FILE, help="Draw the neuron's picture card into this PNG file.")
@images_option
@trust_option
@version_option
@json_option
def show(db: str, neuron: str, card: str | None, as_json: bool, **options: Any) -> None:
    """Show one neuron: its label, rivals, statistics and example pairs.

    \b
    csp-index show birds.db resnet50/layer4/77 --card 77.png
    """
    from csp_index.cli.formatting import say_neuron
    from csp_index.index import open_index

    opened = open_index(db, **{name: options.pop(name) for name in ("trust", "image_roots", "version")})
    view = opened.view(neuron, **options)
    if card:
        opened.card(view.label, card)
    if as_json:
        say_json(view.as_json() | ({"card": card} if card else {}))
        return
    say_neuron(view)
    if card:
        say(f"card: {card}")


@click.command()
@read_database
@click.argument("text", required=False)
@click.option("--image", type=FILE, help="Search by a picture file instead of a text.")
@click.option("--layer", help="Only this MODEL/LAYER.")
@click.option("--top", type=whole("top"), default=10, show_default=True, help="Neurons to print.")
@_TEMPLATES
@_ENCODER
@trust_option
@version_option
@json_option
def search(db: str, text: str | None, trust: bool, version: str | None, as_json: bool, **options: Any) -> None:
    """Find the neurons whose meaning is nearest to TEXT, or to a picture.

    \b
    csp-index search birds.db "striped"
    csp-index search birds.db --image zebra.jpg --layer resnet50/layer4
    """
    from csp_index.index import open_index
    from csp_index.query.results import write_result

    if (text is None) == (options["image"] is None):
        raise click.UsageError("give a TEXT or --image, one of them")
    neurons = open_index(db, trust=trust, version=version).search(text, **options)
    write_result(neurons, "json" if as_json else "table")


@click.command()
@read_database
@click.argument("statement")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="A table for reading, or every row and value for machines.",
)
@click.option("--out", type=FILE, help="Write to this file instead of the terminal.")
@version_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def sql(db: str, statement: str, kind: Any, out: str | None, version: str | None, as_json: bool) -> None:
    """Run one read-only SELECT over the index.

    Views: images, neurons, neuron_labels (one row per neuron: the label shown), labels, label_terms, examples,
    derived, answers, candidates, evaluations, splits, associations, association_classes, notes, pinned, ratings,
    class_names, label_nulls, label_probabilities, vocabularies, texts, runs, failures, layers, encoders, shards,
    embeddings, audits, findings, and the table macro activations('MODEL/LAYER/INDEX').

    \b
    csp-index sql birds.db "SELECT address, text FROM neuron_labels WHERE text LIKE '%striped%'"
    csp-index sql birds.db "SELECT * FROM activations('resnet50/layer4/77') ORDER BY activation DESC LIMIT 5"
    """
    from csp_index.query.reader import Reader
    from csp_index.query.results import write_result

    write_result(Reader(db, version).sql(statement), "json" if as_json else kind, out)


@click.command()
@read_database
@click.option("--layer", help="Only this MODEL/LAYER.")
@click.option("--method", help="The newest labels by this method, or `all`; by default the labels shown everywhere.")
@click.option("--top", type=whole("top"), default=1, show_default=True, help="Candidates per neuron.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "json", "parquet"]),
    default="csv",
    show_default=True,
    help="How the rows are written.",
)
@click.option("--out", type=FILE, help="Write to this file instead of the terminal.")
@version_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def export(db: str, kind: Any, out: str | None, as_json: bool, **options: Any) -> None:
    """Export the label of every neuron: the one shown everywhere, one by a method, or by all methods.

    \b
    csp-index export birds.db --layer resnet50/layer4 --format parquet --out labels.parquet
    """
    from csp_index.query.reader import Reader
    from csp_index.query.results import write_result

    write_result(
        Reader(db, options["version"]).labels(options["layer"], method=options["method"], top=options["top"]),
        "json" if as_json else kind,
        out,
    )


_NEURON = ["model", "layer", "neuron"]


@click.command()
@read_database
@click.argument("method")
@json_option
def prefer(db: str, method: str, as_json: bool) -> None:
    """Make METHOD the one whose labels are shown; `none` takes the preference back.

    Without a preference the labels by the recommended method are shown, or else the newest ones. Labels by a control
    (random-label, random-contrast) are shown only where the control is named.

    \b
    csp-index prefer birds.db semanticlens
    csp-index prefer birds.db none
    """
    from csp_index.labelling.label_rule import prefer as set_preferred
    from csp_index.store import schema
    from csp_index.store.catalog import sql_text
    from csp_index.store.connect import open_store

    store = open_store(db)
    set_preferred(store, None if method == "none" else method)
    rows = store.read(schema.LABELS, _NEURON, f"method = {sql_text(method)} AND state = 'labelled'")
    count = rows.group_by(_NEURON).aggregate([]).num_rows
    if as_json:
        say_json({"preferred": None if method == "none" else method, "neurons": count})
    elif method == "none":
        say(f"no method is preferred: labels by {RECOMMENDED} are shown, else the newest")
    elif count:
        say(f"labels by {method} are shown from now on: {count:,} {'neuron has' if count == 1 else 'neurons have'} one")
    else:
        say(f"labels by {method} are shown from now on, and there are none yet: csp-index label DB --layer ...")


@click.command()
@read_database
@version_option
@json_option
def status(db: str, version: str | None, as_json: bool) -> None:
    """Show what the index holds: images, failures, encoders, layers, labels, runs.

    \b
    csp-index status birds.db
    """
    from csp_index.cli.formatting import say_status
    from csp_index.query.reader import Reader

    description = Reader(db, version).status()
    if as_json:
        say_json(description)
    else:
        say_status(description)


COMMANDS = (label, show, search, sql, export, prefer, status)
