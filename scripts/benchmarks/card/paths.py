"""The card against the CPU: the same labels and images, and values within a tolerance that each row states."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_data import LAYER, Made, Shape, make_arrays
from bench_index import Load, make
from bench_rows import Row
from card.run import Run, answer

METHODS = ("csp", "contrastive-pmi", "firing-contrast")
ENCODER, NETWORK = 1e-3, 1e-2  # largest distance of cosines from 1; of activations, relative to the layer's largest
GRADIENT = 5e-2  # length of the difference of gradients, relative to their own: a rounding may switch a unit off
_LATENTS = 64


def paths(run: Run) -> Iterator[Row]:
    """Yield a row for each path."""
    yield from _labels(run)
    yield from _nearest(run)
    yield from _partitions(run)
    yield from _models(run)


def _row(run: Run, name: str, what: str, value: float, unit: str, bar: str, holds: bool, **detail: object) -> Row:
    return Row(f"gpu.paths.{name}", f"{what}, {run.card()} against the CPU", value, unit, bar, holds, detail)


def _equal(run: Run, name: str, what: str, same: float, **detail: object) -> Row:
    return _row(run, name, what, same, "share", "= 1", same == 1, **detail)


def arrays(run: Run, shape: Shape) -> tuple[Made, Any]:
    """Return arrays, imported, and their texts."""
    from csp_index import open_index
    from csp_index.labelling.candidates import read_text_arrays

    made = Made(shape, run.place(f"arrays-{shape.images}"))
    if not Path(made.db).exists():
        make_arrays(made.folder, shape)
        with open_index(made.db) as index:
            index.import_arrays(
                made.folder / "A.npy", LAYER, embeddings=made.folder / "E.npy", encoder="arrays", logit_scale=30.0
            )
    return made, read_text_arrays(made.folder / "T.npy", made.folder / "T.txt")


def _shape(run: Run) -> Shape:
    return Shape(600, 24, 16, 50) if run.quick else Shape(20_000, 192, 256, 1_000)


def _labels(run: Run) -> Iterator[Row]:
    """Compare labels, their scores and their pairs of images, by methods with and without contrast."""
    from csp_index import open_index

    made, texts = arrays(run, _shape(run))
    for method in METHODS:
        labels = {}
        for device in ("cpu", run.device):
            with open_index(made.db, device=device) as index:
                labels[device] = [
                    ([each.text for each in label.labels], [each.score for each in label.labels], label.pairs)
                    for label in index.label(LAYER, method, vocabulary=texts, recompute=True, keep=False)
                ]
            if device == run.device == "cpu":
                break
        slow, fast = labels["cpu"], labels[run.device]
        pairs = zip(slow, fast, strict=True)
        same = np.mean([a[0] == b[0] and [_ids(p) for p in a[2]] == [_ids(p) for p in b[2]] for a, b in pairs])
        apart = max((abs(x - y) for a, b in zip(slow, fast, strict=True) for x, y in zip(a[1], b[1], strict=True)))
        what = f"labels by {method}, with their pairs of images, of {len(slow):,} neurons"
        yield _equal(run, f"label.{method}", what, float(same), **{"largest difference of a score": apart})


def _ids(pair: Any) -> tuple[int, int]:
    return pair.image_id, -1 if pair.contrast_id is None else pair.contrast_id


def _nearest(run: Run) -> Iterator[Row]:
    """Compare contrastive images of few and many neurons, screened in either precision, embeddings held or streamed."""
    from csp_index.contrast import embeddings as vectors
    from csp_index.contrast.context import ComputeContext
    from csp_index.contrast.examples import gather_examples
    from csp_index.contrast.selection import Selection
    from csp_index.records import ExampleOptions
    from csp_index.store import catalog
    from csp_index.store.connect import open_store

    made, _ = arrays(run, _shape(run))
    shape, precise, free = made.shape, vectors._bfloat16_pays, vectors.free_bytes
    asked = {
        "nearest": (range(shape.neurons), ExampleOptions()),
        "few neurons": (range(0, shape.neurons, shape.neurons // 3), ExampleOptions(examples=100, neighbours=5)),
        "no reuse": (range(0, shape.neurons, 7), ExampleOptions(examples=12, reuse=False, near_duplicate=0.99)),
    }
    try:
        for low in (False, True):
            for held in (True, False):
                vectors._bfloat16_pays = partial(answer, low)
                vectors.free_bytes = free if held else lambda device: 0
                os.environ["CSP_INDEX_HELD_BYTES"] = str(2**31 if held else 1)
                same = []
                for numbers, options in asked.values():
                    found = {}
                    for device in dict.fromkeys(("cpu", run.device)):
                        store = open_store(made.db)
                        (target,), source = catalog.layers(store), catalog.encoder(store)
                        selection = Selection(source, target, np.array(numbers))
                        context = ComputeContext(device, search=False)
                        found[device] = gather_examples(store, selection, options, context=context).contrastive
                    same.append(float((found["cpu"] == found[run.device]).double().mean()))
                kind = f"{'bfloat16' if low else 'float32'}, {'on the card' if held else 'streamed'}"
                what = f"contrastive images, screened in {kind}"
                name = f"nearest.{'bfloat16' if low else 'float32'}.{'held' if held else 'streamed'}"
                yield _equal(run, name, what, min(same), shares=dict(zip(asked, same, strict=True)))
    finally:
        vectors._bfloat16_pays, vectors.free_bytes = precise, free
        del os.environ["CSP_INDEX_HELD_BYTES"]


def _partitions(run: Run) -> Iterator[Row]:
    """Compare how well partitions of a vector index fit, trained on the card and on the CPU."""
    from csp_index.contrast.vector_index import train_partitions

    generator = torch.Generator().manual_seed(0)
    count, width, partitions = (2_000, 16, 20) if run.quick else (50_000, 128, 200)
    middle = torch.randn(partitions, width, generator=generator)
    some = (
        torch.randn(count, width, generator=generator)
        + 2 * middle[torch.randint(partitions, (count,), generator=generator)]
    )
    rows = torch.nn.functional.normalize(some, dim=1)
    fits = [
        float((rows @ torch.from_numpy(train_partitions(rows.to(device), partitions)).T).amax(1).mean())
        for device in ("cpu", run.device)
    ]
    apart = abs(fits[0] - fits[1])
    what = f"mean cosine of {count:,} vectors with the nearest of {partitions} trained centers: difference"
    yield _row(run, "partitions", what, apart, "", "<= 0.01", apart <= 0.01, fits=fits)


def _models(run: Run) -> Iterator[Row]:
    """Compare models, and an index and a service that use them."""
    from safetensors.torch import save_file

    from csp_index.models.encoders import load_encoder
    from csp_index.models.networks import load_network

    place = run.place("paths")
    size = Load(12, 96, 128, "resnet18", 64, 1) if run.quick else Load(48, 375, 500, "resnet50", 768, 12)
    images, encoder, weights = make(place, size)
    channels = 512 if run.quick else 2048
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (channels, _LATENTS), "b_enc": (_LATENTS,), "W_dec": (_LATENTS, channels), "b_dec": (channels,)}
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, place / "sae.safetensors", {"architecture": "standard"})
    spec = f"torchvision:{size.network}/none+sae:layer4={place / 'sae.safetensors'}:name=latents:places"
    layers = ["layer1", "layer4", "layer4.sae-latents"]
    devices = ("cpu", run.device)
    encoders = [load_encoder(f"open_clip:{encoder}", device=device) for device in devices]
    networks = [load_network(spec, layers=layers, weights=weights, device=device) for device in devices]
    yield from _outputs(run, images, encoders, networks, layers)
    del encoders, networks
    yield from _indexes(run, place, images, encoder, weights, size.network)


def _outputs(run: Run, images: Path, encoders: list[Any], networks: list[Any], layers: list[str]) -> Iterator[Row]:
    from PIL import Image

    pictures = [Image.open(file).convert("RGB") for file in sorted(images.iterdir())[:12]]
    pixels = torch.stack([encoders[0].preprocess(picture) for picture in pictures])
    words = [f"a picture of {number}" for number in range(20)]
    for name, what, (here, there) in (
        ("encoder.images", "embeddings of images, half precision", [each.embed_images(pixels) for each in encoders]),
        ("encoder.texts", "embeddings of texts, half precision", [each.embed_texts(words) for each in encoders]),
    ):
        apart = float((1 - torch.nn.functional.cosine_similarity(here, there, dim=1)).abs().max())
        what = f"{what}: largest distance of a cosine from 1"
        yield _row(run, name, what, apart, "", f"<= {ENCODER}", apart <= ENCODER)
    pixels = torch.stack([networks[0].preprocess(picture) for picture in pictures])
    neurons = torch.arange(len(pictures))
    found = [network.activations(pixels) for network in networks]
    results = {layer: [each[layer] for each in found] for layer in layers}
    results["maps"] = [network.maps(pixels, "layer4", neurons) for network in networks]
    for name, (slow, fast) in results.items():
        apart = float((slow - fast).abs().max() / slow.abs().max().clamp(min=1e-12))
        what = f"{name} of the network: largest difference, relative to the largest value"
        yield _row(run, f"network.{name}", what, apart, "", f"<= {NETWORK}", apart <= NETWORK)
    slow, fast = (network.gradients(pixels, "layer4", neurons) for network in networks)
    apart = float((slow - fast).norm() / slow.norm().clamp(min=1e-12))
    what = "gradients by the input: length of the difference, relative to their own"
    yield _row(run, "network.gradients", what, apart, "", f"<= {GRADIENT}", apart <= GRADIENT)


def _indexes(run: Run, place: Path, images: Path, encoder: Path, weights: Path, network: str) -> Iterator[Row]:
    """Compare whole passes over images, and what the live models of a service give."""
    from PIL import Image

    from csp_index import NetworkSource, open_index
    from csp_index.service.config import ServiceSettings
    from csp_index.service.live.live_models import LiveModels
    from csp_index.service.live.shared_models import SharedModels
    from csp_index.service.snapshot import Snapshot
    from csp_index.store.column_tables import activations_table, embeddings_table

    spec, source = (
        f"open_clip:{encoder}",
        NetworkSource(f"torchvision:{network}/none", ("layer4",), weights=str(weights)),
    )
    stored, live = [], []
    picture = Image.open(sorted(images.iterdir())[0]).convert("RGB")
    for number, device in enumerate(("cpu", run.device)):
        db = str(place / f"db-{number}")
        with open_index(db, device=device) as index:
            index.add_images(images, encoders=[spec], networks=[source], shard_size=16)
            vectors = np.array(index.store.read(embeddings_table(spec))["embedding"].to_pylist())
            values = [
                np.array(row) for row in index.store.read(activations_table(f"{network}/layer4"))["values"].to_pylist()
            ]
            stored.append((vectors, np.concatenate(values)))
        os.environ["CSP_INDEX_DEVICE"] = device
        models = LiveModels(Snapshot(db), ServiceSettings(), SharedModels(trust=False))
        excited = models.excited(picture, 5) or []
        live.append((models.embed_text("a moon"), models.embed_image(picture), [one.neuron for one in excited]))
    del os.environ["CSP_INDEX_DEVICE"]
    apart = float(np.abs(1 - (stored[0][0] * stored[1][0]).sum(1)).max())
    what = "embeddings that a pass over images stores: largest distance of a cosine from 1"
    yield _row(run, "index.embeddings", what, apart, "", f"<= {ENCODER}", apart <= ENCODER)
    apart = float(np.abs(stored[0][1] - stored[1][1]).max() / max(1e-12, np.abs(stored[0][1]).max()))
    what = "activations that it stores: largest difference, relative to the largest value"
    yield _row(run, "index.activations", what, apart, "", f"<= {NETWORK}", apart <= NETWORK)
    apart = max(abs(1 - float(slow @ fast)) for slow, fast in zip(live[0][:2], live[1][:2], strict=True))
    what = "live embeddings of a text and a picture: largest distance of a cosine from 1"
    yield _row(run, "live.embeddings", what, apart, "", f"<= {ENCODER}", apart <= ENCODER)
    shared = len(set(live[0][2]) & set(live[1][2])) / max(1, len(live[0][2]))
    what = "of five neurons that a picture excites most, those that both name"
    yield _row(run, "live.excited", what, shared, "share", ">= 0.6", shared >= 0.6)
