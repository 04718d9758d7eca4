"""Train a small BatchTopK sparse autoencoder on a layer's stored activations, for those who have none.

    python scripts/train_sae.py birds.db --layer resnet50/layer4 --out sae_layer4
    csp-index index birds.db --network torchvision:resnet50/IMAGENET1K_V2 --layers layer4 --sae layer4=sae_layer4

The activations are the pooled ones that the index holds, one row per image. Of a batch of B images the B x k largest
activations of the latents stay (Bussmann et al., arXiv 2412.06410); latents that no longer fire learn from what is left
over. The folder gets `sae_weights.safetensors`, `cfg.json` beside it, and `training.pt`, from which the same command
resumes. Everything is drawn by --seed: an interrupted training ends as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from csp_index.errors import CspIndexError, SettingError
from csp_index.models.weights import resolve_device
from csp_index.store import catalog
from csp_index.store.addresses import resolve
from csp_index.store.catalog import LayerInfo
from csp_index.store.connect import open_snapshot
from csp_index.store.values import streams

DEAD_AFTER: Final = 2_000  # images without firing
LEFT_OVER_WEIGHT: Final = 1 / 32  # of the loss of the latents that no longer fire (Gao et al., arXiv 2406.04093)
SAVE_EVERY: Final = 500


@dataclass(frozen=True)
class Settings:
    """What a training depends on; one that goes on must have the same."""

    layer: str
    images: int
    latents: int
    k: int
    steps: int
    batch: int
    rate: float
    seed: int


class Autoencoder:
    """An autoencoder in training on inputs [B, D] of mean norm sqrt(D): W_enc [D, S], W_dec [S, D] of unit rows."""

    def __init__(self, inputs: Tensor, settings: Settings, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(settings.seed)
        rows = torch.randn(settings.latents, inputs.shape[1], generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        start = {"W_enc": rows.T, "b_enc": torch.zeros(settings.latents), "W_dec": rows, "b_dec": inputs.mean(0)}
        self.parts = {n: t.clone().contiguous().to(device).requires_grad_(True) for n, t in start.items()}
        self.k = settings.k
        self.silent = torch.zeros(settings.latents, device=device)  # images since each latent fired
        self.optimizer = torch.optim.Adam(list(self.parts.values()), lr=settings.rate)
        self.step = 0

    def activations(self, inputs: Tensor) -> Tensor:
        """Return what each latent would be, [B, S], none negative, before the largest are chosen."""
        return torch.relu((inputs - self.parts["b_dec"]) @ self.parts["W_enc"] + self.parts["b_enc"])

    def learn(self, inputs: Tensor, rate: float) -> None:
        """Take one step on a batch [B, D] at a learning rate."""
        dense = self.activations(inputs)
        kept = dense.flatten().topk(min(self.k * len(inputs), dense.numel()))
        sparse = torch.zeros_like(dense).flatten().scatter(0, kept.indices, kept.values).view_as(dense)
        error = inputs - self.parts["b_dec"] - sparse @ self.parts["W_dec"]
        loss = error.square().sum(1).mean() + LEFT_OVER_WEIGHT * self._left_over(dense, error.detach())
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            self._keep_unit_rows(before=True)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self._keep_unit_rows(before=False)
            self.silent += len(inputs)
            self.silent[(sparse > 0).any(0)] = 0
        self.step += 1

    def _left_over(self, dense: Tensor, error: Tensor) -> Tensor:
        """Return the loss of dead latents that reconstruct the error [B, D] of the living ones."""
        dead = self.silent > DEAD_AFTER
        count = min(int(dead.sum()), dense.shape[1], max(error.shape[1] // 2, 1))
        if count == 0:
            return error.new_zeros(())
        kept = torch.where(dead, dense, -torch.inf).topk(count, dim=1)
        sparse = torch.zeros_like(dense).scatter(1, kept.indices, kept.values)
        return (error - sparse @ self.parts["W_dec"]).square().sum(1).mean()

    def _keep_unit_rows(self, *, before: bool) -> None:
        rows = self.parts["W_dec"]
        if not before:
            rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        elif rows.grad is not None:
            rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows

    def state(self) -> dict[str, Any]:
        """Return all that a training needs to go on."""
        parts = {name: tensor.detach() for name, tensor in self.parts.items()}
        return {"parts": parts, "silent": self.silent, "optimizer": self.optimizer.state_dict(), "step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        with torch.no_grad():
            for name, tensor in self.parts.items():
                tensor.copy_(state["parts"][name])
        self.silent.copy_(state["silent"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def stored_activations(uri: str, address: str) -> tuple[LayerInfo, Tensor]:
    """Return a layer of an index, and its pooled activations [images, D]."""
    store = open_snapshot(uri)
    target, _ = resolve(store, address)[0]
    tiles = list(streams.activation_tiles(store, target, catalog.shards(store, target.what)))
    if not tiles:
        raise SettingError(f"the layer {address} has no images yet: run csp-index index first")
    return target, torch.cat(tiles, 1).T.contiguous()


def batches(settings: Settings, first: int) -> Iterator[Tensor]:
    """Yield the images of each step from the step `first` on: every image once in each round."""
    size = min(settings.batch, settings.images)
    per_round = max(settings.images // size, 1)
    order, of_round = torch.empty(0, dtype=torch.int64), -1
    for step in range(first, settings.steps):
        if step // per_round != of_round:
            of_round = step // per_round
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + of_round + 1)
            order = torch.randperm(settings.images, generator=generator)
        place = step % per_round
        yield order[place * size : (place + 1) * size]


def rate_at(step: int, settings: Settings) -> float:
    """Return the learning rate of a step: up in the first twentieth, down in the last fifth."""
    up = min(1.0, (step + 1) / max(settings.steps / 20, 1))
    down = min(1.0, (settings.steps - step) / max(settings.steps / 5, 1))
    return settings.rate * min(up, down)


def train(inputs: Tensor, settings: Settings, checkpoint: Path, device: torch.device) -> Autoencoder:
    """Train, or go on with a training, and return the autoencoder."""
    result = Autoencoder(inputs, settings, device)
    if checkpoint.is_file():
        stored = torch.load(checkpoint, map_location=device, weights_only=True)
        differing = [
            f"{n} is {v}, was {stored['settings'].get(n)}"
            for n, v in asdict(settings).items()
            if stored["settings"].get(n) != v
        ]
        if differing:
            raise SettingError(f"{checkpoint} is of another training ({'; '.join(differing)}): use another --out")
        result.restore(stored["state"])
        say(f"going on after step {result.step:,}")
    for images in batches(settings, result.step):
        result.learn(inputs[images].to(device), rate_at(result.step, settings))
        if result.step % SAVE_EVERY == 0 or result.step == settings.steps:
            partial = checkpoint.with_suffix(".part")
            torch.save({"settings": asdict(settings), "state": result.state()}, partial)
            os.replace(partial, checkpoint)
            dead = int((result.silent > DEAD_AFTER).sum())
            say(f"step {result.step:,} of {settings.steps:,}: {dead:,} of {settings.latents:,} latents are dead")
    return result


@torch.no_grad()
def measure(trained: Autoencoder, inputs: Tensor, batch: int, device: torch.device) -> dict[str, float]:
    """Return the threshold above which k latents per image fire on average, and what is explained with it."""
    parts = inputs.split(batch)
    limits = []
    for part in parts:
        dense = trained.activations(part.to(device)).flatten()
        limits.append(float(dense.topk(min(trained.k * len(part) + 1, dense.numel())).values[-1]) * len(part))
    threshold = sum(limits) / len(inputs)
    missed = fired = 0.0
    for part in parts:
        dense = trained.activations(part.to(device))
        sparse = dense * (dense > threshold)
        error = part.to(device) - trained.parts["b_dec"] - sparse @ trained.parts["W_dec"]
        missed += float(error.square().sum())
        fired += float((sparse > 0).sum())
    total = float((inputs - inputs.mean(0)).square().sum())
    return {
        "threshold": threshold,
        "explained": 1 - missed / max(total, 1e-30),
        "active_per_image": fired / len(inputs),
    }


def write(trained: Autoencoder, scale: float, found: dict[str, float], settings: Settings, folder: Path) -> None:
    """Write the weights for inputs as they are stored, `scale` folded in, and the settings beside them."""
    parts = {name: tensor.detach().cpu().clone() for name, tensor in trained.parts.items()}
    parts["W_enc"] *= scale
    parts["W_dec"] /= scale
    parts["b_dec"] /= scale
    threshold = torch.tensor(found["threshold"])
    save_file(
        {**{name: tensor.contiguous() for name, tensor in parts.items()}, "threshold": threshold},
        folder / "sae_weights.safetensors",
    )
    width, latents = parts["W_enc"].shape
    said = {"architecture": "batchtopk", "k": settings.k, "d_in": width, "d_sae": latents, "dtype": "float32"}
    said |= {"apply_b_dec_to_input": True, "normalize_activations": "none"}
    said |= {"metadata": {**asdict(settings), **found, "made_by": "csp_index scripts/train_sae.py"}}
    (folder / "cfg.json").write_text(json.dumps(said, indent=1) + "\n")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", help="the index")
    parser.add_argument("--layer", required=True, help="MODEL/LAYER whose activations are stored")
    parser.add_argument("--out", required=True, type=Path, help="folder that gets the autoencoder")
    parser.add_argument("--latents", type=int, help="how many (8 times the layer's neurons, at most 16,384)")
    parser.add_argument("--k", type=int, default=32, help="latents per image on average (32)")
    parser.add_argument("--steps", type=int, default=10_000, help="batches to learn from (10,000)")
    parser.add_argument("--batch", type=int, default=1024, help="images per batch (1,024)")
    parser.add_argument("--rate", type=float, help="learning rate (by the number of latents)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write one autoencoder; the exit status is 2 for what the user can mend."""
    options = parse(arguments)
    try:
        run(options)
    except CspIndexError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """Train and write the autoencoder that the options describe."""
    target, inputs = stored_activations(options.db, options.layer)
    latents = options.latents if options.latents is not None else min(8 * inputs.shape[1], 16_384)
    rate = options.rate if options.rate is not None else 2e-4 / math.sqrt(max(latents, 1) / 2**14)
    settings = Settings(
        options.layer, len(inputs), latents, options.k, options.steps, options.batch, rate, options.seed
    )
    for name in ("latents", "k", "steps", "batch"):
        if getattr(settings, name) < 1:
            raise SettingError(f"--{name} is {getattr(settings, name)}: expected a number above 0")
    if settings.k > latents:
        raise SettingError(f"--k is {settings.k} for {latents} latents: expected at most as many")
    length = float(inputs.norm(dim=1).mean())
    if length == 0 or not bool((inputs != inputs[0]).any()):
        raise SettingError(f"the activations of {options.layer} are the same for all images: choose another layer")
    scale = math.sqrt(inputs.shape[1]) / length
    options.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(options.device)
    say(f"{len(inputs):,} images, {inputs.shape[1]:,} neurons, {latents:,} latents, k {settings.k}, on {device}")
    trained = train(inputs * scale, settings, options.out / "training.pt", device)
    found = measure(trained, inputs * scale, settings.batch, device)
    write(trained, scale, found, settings, options.out)
    say(f"{found['explained']:.1%} of the variance is explained by {found['active_per_image']:.1f} latents per image")
    say(f"use it: --network {target.network} --sae {target.key.layer}={options.out}:pool={target.pool}")


if __name__ == "__main__":
    sys.exit(main())
