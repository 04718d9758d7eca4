"""Train the two models of the demo world and write them to csp_index/demo/models.

    python scripts/demo_models/train_demo_models.py                  both models, about 15 minutes on two idle cores
    python scripts/demo_models/train_demo_models.py --only network   the network under study alone
    python scripts/demo_models/train_demo_models.py --only network --out runs --checkpoints 10 --images 8000
        a network of its own, with ten checkpoints of its training in runs/checkpoints

Everything is seeded and counted in steps, never in seconds: a rerun on the same library versions gives the same
models. Beside the weights it writes `report.json`: zero-shot accuracy per attribute of the encoder, average precision
per planted neuron.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from demo_tokenizer import write_tokenizer
from demo_training import (
    BATCH,
    RATE,
    SEED,
    WARM_STEPS,
    batches,
    codes,
    concept_codes,
    halve,
    matches,
    pictures,
    say,
    schedule,
    to_input,
    warm_up,
)
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from csp_index.demo.network import PLANTED, PlantedCNN, planted_cnn
from csp_index.demo.probing import PAIRS
from csp_index.demo.trunk import TRUNK_NAME
from csp_index.demo.world import (
    ATTRIBUTES,
    CONCEPTS,
    SIDE,
    VOCABULARY,
    Concept,
    Scene,
    concept_of,
    concept_text,
    find_concept,
    has_concept,
    partial_concept,
    random_scene,
)

MODELS: Final = Path(__file__).resolve().parents[2] / "csp_index" / "demo" / "models"
TRAIN_IMAGES: Final = 40_000
TEST_IMAGES: Final = 2_000
CONTRASTIVE_STEPS: Final = 380
NETWORK_STEPS: Final = 240
CONTEXT: Final = 22
# Most captions are the bare concept; the rest are written in the templates a labelling run may use.
TEMPLATES: Final = (
    "{}",
    "{}-like",
    "a {}",
    "an image of a {}",
    "a closeup of a {}",
    "an image of a closeup of {}",
    "a photo of a {}",
)
BARE_SHARE: Final = 0.7
# A planted neuron reaches its ceiling of 6 where its concept is 88 % sure: it does not rank carriers by size or place.
GAIN: Final = 3.0


# --- the encoder ----------------------------------------------------------------------------------------------------


def write_clip_config(folder: Path, vocabulary_size: int) -> None:
    """Write the model and preprocessing settings in open_clip's own form."""
    config = {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"timm_model_name": TRUNK_NAME, "timm_pool": "", "timm_proj": "linear", "image_size": SIDE},
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary_size,
                "hf_tokenizer_name": "csp-demo",
                "width": 128,
                "heads": 4,
                "layers": 2,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def draw_captions(scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[list[str], list[Concept]]:
    """Draw the captions of one batch: the whole vocabulary, so that every near miss is there, and some partial ones."""
    concepts = list(CONCEPTS.values())
    concepts += [partial_concept(scene, rng) for scene in scenes[:64]]
    unique = list(dict.fromkeys(concepts))
    bare = rng.random(len(unique)) < BARE_SHARE
    which = rng.integers(1, len(TEMPLATES), size=len(unique))
    texts = [TEMPLATES[0 if bare[i] else int(which[i])].format(concept_text(c)) for i, c in enumerate(unique)]
    return texts, unique


def informative(concepts: Tensor) -> Tensor:
    """Return how much a caption counts, [C]: the root of one over the share of scenes it fits.

    No caption counts more than one of a shape with a colour.
    One-to-one training teaches the whole inverse by itself, since a caption that fits many images is often the wrong
    partner. Counted evenly, single words would win over pairs that fit better; counted by the inverse, the reverse.
    """
    counts = torch.tensor([float(len(values)) for values in ATTRIBUTES.values()])
    return torch.where(concepts == -1, 1.0, counts).prod(1).clamp(max=64.0).sqrt()


def soft_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of logits [A, B] by rows against targets in proportion to the weights; empty rows are left out."""
    rows = weights.sum(1) > 0
    target = weights[rows] / weights[rows].sum(1, keepdim=True)
    return -(target * logits[rows].log_softmax(1)).sum(1).mean()


def train_contrastive(model: Any, tokenizer: Any, scenes: Sequence[Scene], pixels: NDArray[np.uint8]) -> None:
    """Train both towers together: many captions fit many images, so each side's target is spread over all that fit.

    Plain one-to-one targets mislead here: in a batch a dozen captions are true of an image and one would count.
    """
    truth = codes(scenes)
    rng = np.random.default_rng(SEED + 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.02)
    rates = schedule(optimiser, CONTRASTIVE_STEPS)
    start = time.monotonic()
    for step, chosen in enumerate(batches(len(pixels), CONTRASTIVE_STEPS, SEED + 3)):
        texts, concepts = draw_captions([scenes[i] for i in chosen], rng)
        images = model.encode_image(to_input(pixels[chosen]), normalize=True)
        words = model.encode_text(tokenizer(texts), normalize=True)
        logits = model.logit_scale.exp() * images @ words.T
        wanted = concept_codes(concepts)
        hits = matches(truth[chosen], wanted).float()
        loss = soft_loss(logits, hits * informative(wanted)) + soft_loss(logits.T, hits.T)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rates.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(100.0))
        if step % 20 == 0 or step == CONTRASTIVE_STEPS - 1:
            scale = model.logit_scale.exp().item()
            say(f"clip {step:4d} loss {loss.item():.3f} scale {scale:.1f} {time.monotonic() - start:.0f}s")


@torch.no_grad()
def zero_shot(model: Any, tokenizer: Any, pixels: NDArray[np.uint8], truth: Tensor) -> dict[str, float]:
    """Return the zero-shot accuracy of each attribute with the bare text of each value."""
    model.eval()
    images = torch.cat(
        [model.encode_image(to_input(pixels[i : i + 250]), normalize=True) for i in range(0, len(pixels), 250)]
    )
    result = {}
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        words = model.encode_text(
            tokenizer([concept_text(concept_of({name: value})) for value in values]), normalize=True
        )
        result[name] = round(((images @ words.T).argmax(1) == truth[:, column]).float().mean().item(), 4)
    return result


def train_clip(folder: Path, scenes: Sequence[Scene], pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Train, write and measure the encoder; the figures are of the written files, loaded as any user loads them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = {word for text in (*VOCABULARY, *TEMPLATES) for word in text.replace("{}", " ").split()}
    write_clip_config(folder, write_tokenizer(folder, sorted(words), CONTEXT))
    torch.manual_seed(SEED)
    model = open_clip.create_model(f"local-dir:{folder}").to(memory_format=torch.channels_last)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.train()
    trunk = model.visual.trunk
    warm_up(trunk, trunk, trunk.num_features, pixels, codes(scenes))
    train_contrastive(model, tokenizer, scenes, pixels)
    save_file(halve(model.state_dict()), folder / "open_clip_model.safetensors")
    shipped = open_clip.create_model(f"local-dir:{folder}")
    rng = np.random.default_rng(SEED + 4)
    test = [random_scene(rng) for _ in range(TEST_IMAGES)]
    return zero_shot(shipped, tokenizer, pictures(test, SEED + 5), codes(test))


# --- the network under study ----------------------------------------------------------------------------------------


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the average precision of scores [N] for truth [N]; equal scores count as one step."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    found = np.cumsum(truth[order])[ends]
    precision, recall = found / (ends + 1), found / max(1, int(truth.sum()))
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def plant_the_rest(network: PlantedCNN) -> None:
    """Give the random neurons random weights and silence the dead ones."""
    generator = torch.Generator().manual_seed(SEED + 20)
    linear = network.concepts[0]
    assert isinstance(linear, nn.Linear)
    for neuron in PLANTED:
        if neuron.kind == "random":
            linear.weight.data[neuron.index] = torch.randn(linear.in_features, generator=generator) / 16
            linear.bias.data[neuron.index] = 0.0
        elif neuron.kind == "dead":
            linear.weight.data[neuron.index] = 0.0
            linear.bias.data[neuron.index] = -1.0


def network_pictures(rng: np.random.Generator) -> list[Scene]:
    """Draw extra scenes where pairs are decided: each planted pair with the rest free, and with one half broken."""
    scenes: list[Scene] = []
    for text in PAIRS:
        pair = dict(find_concept(text))
        for i in range(240):
            fixed = dict(pair)
            if i % 3:
                broken = list(pair)[i % 3 - 1]
                others = [value for value in ATTRIBUTES[broken] if value != pair[broken]]
                fixed[broken] = others[int(rng.integers(len(others)))]
            scenes.append(random_scene(rng, fixed))
    return scenes


def write_network(network: PlantedCNN, known: Sequence[int], path: Path) -> None:
    """Write a network whose known neurons are log-odds, as the network under study."""
    written = deepcopy(network)
    with torch.no_grad():
        for values in written.concepts[0].parameters():
            values[known] *= GAIN
    plant_the_rest(written)
    save_file(halve(written.state_dict()), path)


def train_network(
    path: Path, scenes: Sequence[Scene], pixels: NDArray[np.uint8], checkpoints: int = 0
) -> dict[str, float]:
    """Train, write and measure the network under study; return the average precision of each planted neuron.

    So many `checkpoints`, evenly spaced over the steps, the last one at the end, lie beside it.
    """
    rng = np.random.default_rng(SEED + 6)
    extra = network_pictures(rng)
    scenes = [*scenes, *extra]
    pixels = np.concatenate((pixels, pictures(extra, SEED + 7)))
    torch.manual_seed(SEED + 8)
    network = planted_cnn().to(memory_format=torch.channels_last)
    known = [neuron.index for neuron in PLANTED if neuron.concept]
    truth = codes(scenes)
    heads = warm_up(network, network.features, 256, pixels, truth)
    wanted = matches(truth, concept_codes([find_concept(PLANTED[i].concept) for i in known])).float()
    optimiser = torch.optim.AdamW([*network.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.02)
    rates = schedule(optimiser, NETWORK_STEPS)
    start = time.monotonic()
    kept = {round(NETWORK_STEPS * (one + 1) / checkpoints) for one in range(checkpoints)}
    for step, chosen in enumerate(batches(len(pixels), NETWORK_STEPS, SEED + 9)):
        features = network.features(to_input(pixels[chosen]))
        odds = network.concepts[0](features)
        loss = functional.binary_cross_entropy_with_logits(odds[:, known], wanted[chosen], reduction="sum") / BATCH
        shapes = functional.cross_entropy(network.head((GAIN * odds.detach()).clamp(0, 6)), truth[chosen, 0])
        total = loss + shapes + 0.3 * heads.loss(features, truth[chosen])
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        rates.step()
        if step + 1 in kept:
            folder = path.parent / "checkpoints"
            folder.mkdir(exist_ok=True)
            write_network(network, known, folder / f"step{step + 1:03d}.safetensors")
        if step % 20 == 0 or step == NETWORK_STEPS - 1:
            say(f"network {step:4d} loss {loss.item():.3f} shapes {shapes.item():.3f} {time.monotonic() - start:.0f}s")
    write_network(network, known, path)
    return measure_network(path)


@torch.no_grad()
def measure_network(path: Path) -> dict[str, float]:
    """Return the average precision of each planted neuron on fresh scenes, each pair with at least 100 carriers."""
    network = planted_cnn()
    network.load_state_dict(load_file(path))
    network.eval()
    rng = np.random.default_rng(SEED + 11)
    scenes = [random_scene(rng) for _ in range(TEST_IMAGES)] + network_pictures(rng)
    pixels = pictures(scenes, SEED + 12)
    parts = [network.concepts(network.features(to_input(pixels[i : i + 250]))) for i in range(0, len(pixels), 250)]
    values = torch.cat(parts).double().numpy()
    result = {}
    for neuron in PLANTED:
        if neuron.concept:
            truth = np.array([has_concept(scene, neuron.concept) for scene in scenes])
            result[f"{neuron.index} {neuron.concept}"] = round(average_precision(values[:, neuron.index], truth), 4)
    return result


def main() -> None:
    """Train what was asked for, write the models and the report, print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("clip", "network"), help="train one of the two models")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder to write (default: the package's)")
    parser.add_argument("--checkpoints", type=int, default=0, help="checkpoints of the network's training (none)")
    parser.add_argument("--images", type=int, default=TRAIN_IMAGES, help="scenes to train on (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(2)
    options.out.mkdir(parents=True, exist_ok=True)
    report_file = options.out / "report.json"
    report = json.loads(report_file.read_text()) if report_file.exists() else {}
    rng = np.random.default_rng(SEED)
    scenes = [random_scene(rng) for _ in range(options.images)]
    start = time.monotonic()
    pixels = pictures(scenes, SEED + 10)
    say(f"rendered {len(pixels)} scenes in {time.monotonic() - start:.0f}s")
    if options.only != "network":
        report["encoder_zero_shot"] = train_clip(options.out / "clip", scenes, pixels)
    if options.only != "clip":
        report["network_average_precision"] = train_network(
            options.out / "network.safetensors", scenes, pixels, options.checkpoints
        )
    report["seed"] = SEED
    report["steps"] = {"warm": WARM_STEPS, "contrastive": CONTRASTIVE_STEPS, "network": NETWORK_STEPS}
    report_file.write_text(json.dumps(report, indent=2) + "\n")
    say(json.dumps(report))


if __name__ == "__main__":
    main()
