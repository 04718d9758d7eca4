"""Commands that fill an index: index, import, metadata, maps, optimize."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from csp_index.cli.network_options import chosen_models, network_options
from csp_index.cli.options import (
    FILE,
    OPENING,
    SOURCE_OPTIONS,
    complete_files,
    database,
    device_option,
    dtype_option,
    images_option,
    json_option,
    neuron_options,
    opening_options,
    source_options,
    trust_option,
    whole,
)
from csp_index.cli.output import progress, say, say_json, say_summary
from csp_index.errors import SourceError

if TYPE_CHECKING:
    from csp_index.index import Index


@click.command()
@database
@click.argument("source", required=False, shell_complete=complete_files)
@network_options
@source_options
@click.option("--strict", is_flag=True, help="Refuse a source of which a file would be passed over.")
@click.option("--shard-size", type=whole("shard-size"), help="Images per shard (2048); a kill loses two at most.")
@dtype_option
@click.option("--decode-workers", type=whole("decode-workers"), help="Processes that decode, 0: threads (by size).")
@click.option("--draft/--no-draft", default=None, help="Decode large JPEGs reduced, faster (as the index, or no).")
@click.option("--maps/--no-maps", default=None, help="Keep maps of where neurons fire (new layers; as the index).")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", help="ray: on a cluster of machines.")
@click.option("--ray-address", metavar="HOST:PORT", help="Ray cluster to join; by default one on this machine.")
@device_option
@images_option
@trust_option
@json_option
def index(db: str, source: str | None, as_json: bool, device: str | None, trust: bool, **options: Any) -> None:
    """Index the images of SOURCE: embeddings and activations, once.

    SOURCE is a folder of images, also in an object store (s3://BUCKET/FOLDER/), a parquet file, a datasets directory or
    tar shards; files of it that are no images are counted, by reason. The same command resumes an interrupted run and
    adds new images; without SOURCE it completes what the index lacks. Without models it uses those of the index.

    \b
    csp-index index birds.db photos/ --encoder open_clip:ViT-B-32/laion2b_s34b_b79k \\
        --network torchvision:resnet50/IMAGENET1K_V2 --layers layer3,layer4
    """
    encoders, networks = chosen_models(options)
    from csp_index.index import open_index

    opened = open_index(db, device=device, trust=trust, image_roots=options["image_roots"])
    with progress() as report:
        summary = opened.add_images(
            source,
            encoders=encoders,
            networks=networks,
            **{name: options[name] for name in SOURCE_OPTIONS},
            strict=options["strict"],
            shard_size=options["shard_size"],
            dtype=options["dtype"],
            decode_workers=options["decode_workers"],
            draft=options["draft"],
            maps=options["maps"],
            engine=options["engine"],
            ray_address=options["ray_address"],
            progress=report,
        )
    say_summary(summary, as_json, db)
    if not summary.images:
        raise SourceError(why_nothing(opened))


def why_nothing(index: Index) -> str:
    """Return why an index has no image after a pass: the first of the failures, if there is one."""
    first = first_failure(index)
    return f"no image was indexed: {f'the first is {first}' if first else 'the source has none'}"


def first_failure(index: Index) -> str:
    """Return the first image that could not be read or used, with the reason; "" where there is none."""
    rows = index.sql("SELECT uri, reason FROM failures ORDER BY uri LIMIT 1").to_arrow().to_pylist()
    return "".join(f"{row['uri']}: {row['reason']}" for row in rows)


@click.command("import")
@database
@click.option("--activations", required=True, type=FILE, help="Activations [images, neurons], .npy.")
@click.option("--embeddings", type=FILE, help="Image embeddings [images, dimensions], .npy.")
@click.option("--layer", required=True, help="Name of the layer: MODEL/LAYER.")
@click.option("--uris", type=FILE, help="Text file with one image path per line.")
@click.option("--encoder", default="arrays", show_default=True, help="Name of the encoder the embeddings came from.")
@click.option("--logit-scale", type=float, help="The encoder's multiplier of the cosine, often 100 for CLIP.")
@click.option("--shard-size", type=whole("shard-size"), help="Images per shard (2048).")
@dtype_option
@json_option
def import_(db: str, as_json: bool, **options: Any) -> None:
    """Import precomputed arrays; row i is image i.

    \b
    csp-index import arrays.db --embeddings E.npy --activations A.npy --layer resnet50/layer4
    """
    from csp_index.index import open_index

    activations, layer = options.pop("activations"), options.pop("layer")
    with progress() as report:
        summary = open_index(db).import_arrays(activations, layer, progress=report, **options)
    say_summary(summary, as_json, db)


@click.command()
@database
@click.option("--encoder", help="Only this encoder's embeddings are indexed.")
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    help="Kind of vector index: auto, none (drop it), ivf_flat, ivf_sq, ivf_pq, ivf_rq or ivf_hnsw_sq.",
)
@click.option(
    "--keep-hours", type=float, help="Hours to keep replaced versions (1); those in use or with a tag stay anyway."
)
@json_option
def optimize(db: str, encoder: str | None, kind: str, keep_hours: float | None, as_json: bool) -> None:
    """Build the vector index, compact the tables, and report how often search finds the exact contrastive image.

    Without --kind, an existing vector index is extended by new images; otherwise the kind depends on the number of
    images. Readers are not interrupted; run it again after adding many images.

    \b
    csp-index optimize birds.db
    """
    from csp_index.cli.formatting import say_optimized
    from csp_index.index import open_index

    with progress() as report:
        summary = open_index(db).optimize(encoder=encoder, kind=kind, keep_hours=keep_hours, progress=report)
    if as_json:
        say_json(asdict(summary))
    else:
        say_optimized(summary)


@click.command()
@database
@click.argument("table", type=FILE)
@click.option("--key", metavar="COLUMN", help="Column of the table that names the images (the one that fits).")
@click.option("--replace", is_flag=True, help="Put the table's columns in place of those of the same name.")
@json_option
def metadata(db: str, table: str, key: str | None, replace: bool, as_json: bool) -> None:
    """Join TABLE to the metadata of images that are indexed already; nothing is indexed again.

    TABLE is CSV, JSON, JSON lines, parquet, Feather or Excel. A row finds its image by path, by name, or by name
    without ending.

    \b
    csp-index metadata skin.db ISIC_2019_Training_GroundTruth.csv
    """
    from csp_index.index import open_index

    summary = open_index(db).add_metadata(table, key=key, replace=replace)
    if as_json:
        say_json(asdict(summary))
        return
    for line in summary.notes:
        say(line)
    say(f"{summary.joined:,} of {summary.images:,} images have the columns {', '.join(summary.columns)}")


@click.command()
@database
@click.argument("place", metavar="NEW")
@click.option("--without", type=FILE, help="Text file with one image per line, as in `images.uri` (those in failures).")
@json_option
def copy(db: str, place: str, without: str | None, as_json: bool) -> None:
    """Copy the index to NEW without some images: those in its table `failures`, or those in a file.

    For images on which a model fails that you want to add: every image of an index has a value in every layer, and what
    is left out of the copy costs the others nothing. No model runs: embeddings, activations and metadata are copied, an
    unfinished layer as far as it goes. Labels and other results are not, because they depend on all images.

    \b
    csp-index copy birds.db sound.db
    csp-index index sound.db --network torchvision:resnet50/IMAGENET1K_V2 --layers layer4
    """
    from csp_index.indexing.copy_index import copy_index, read_images

    named = None if without is None else read_images(without)
    with progress() as report:
        done = copy_index(db, place, named, report)
    if as_json:
        say_json(asdict(done))
        return
    say(f"{done.place} has {done.images:,} images, without {len(done.left_out):,}, in {done.shards} shards")
    for layer in done.unfinished:
        say(f"layer {layer} is not finished: run the command that adds it again, with {done.place}")


@click.command()
@database
@neuron_options
@click.option("--recompute", is_flag=True, help="Make those again that are stored.")
@opening_options
@json_option
def maps(db: str, layer: str, neurons: str, as_json: bool, **options: Any) -> None:
    """Store where neurons look in their top images, for layers whose neurons have no places in the image.

    The network runs on each neuron's top images (setting map_images), and the gradient times the input says what of a
    picture drives the neuron. Pages, cards and notebooks then veil the rest, and `csp-index label --crop` cuts the
    images. Layers with places have better maps, made while images are indexed (`csp-index index DB --maps`).
    Interrupted, it goes on where it stopped.

    \b
    csp-index maps birds.db --layer resnet50/fc --neurons 0-9
    """
    from csp_index.index import open_index
    from csp_index.labelling.kept.crop_labels import outdated_crops
    from csp_index.records import LayerKey
    from csp_index.store import catalog
    from csp_index.store.addresses import parse_neurons

    index = open_index(db, **{name: options.pop(name) for name in OPENING})
    with progress() as report:
        done = index.make_maps(parse_neurons(layer, neurons), progress=report, **options)
    outdated = outdated_crops(index.store, catalog.layer(index.store, LayerKey.parse(done.layer)))
    if as_json:
        say_json({**done.as_json(), "outdated": list(outdated)})
        return
    say(f"{done.maps:,} maps of {done.neurons:,} neurons of {done.layer} were made, by {done.made}")
    if done.lacking:
        say(f"{done.lacking:,} have none, because their pictures cannot be opened: name their folder by --images")
    for method in outdated:
        say(
            f"labels from crops by {method} were made by other maps: the command that made them "
            f"(csp-index label ... --method {method} --crop, with its other options) makes them anew"
        )


COMMANDS = (copy, index, import_, maps, metadata, optimize)
