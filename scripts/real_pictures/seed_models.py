"""Train, write, read and measure the two models of one model seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import clip_text
import numpy as np
import open_clip
from clip_text import TextSteps
from picture_models import PictureTrunk, StudiedNetwork
from picture_packages import Pictures
from picture_words import Words, background_texts
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train_clip import WIDTH, TableSteps, TextTable, measure, train_table
from train_network import NetworkSteps, measure_network, train_network
from world_arrays import Models

TABLE_FILE: Final = "table.safetensors"
#: The level from which a run is worth judging.
CLIP_LEVEL: Final = 0.40
GOOD_OUTPUTS: Final = 80


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of all phases of training."""

    table: TableSteps = field(default_factory=TableSteps)
    text: TextSteps = field(default_factory=TextSteps)
    network: NetworkSteps = field(default_factory=NetworkSteps)

    def settings(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        return asdict(self)


QUICK: Final = Steps(
    TableSteps(((32, 6), (48, 2)), batch=16), TextSteps(4, 16, 2, 16), NetworkSteps(((32, 6), (40, 2)), batch=16)
)


def train_first(
    file: Path, pictures: Pictures, words: Words, held_out: str, seed: int, steps: Steps, say: Callable[[str], None]
) -> None:
    """Train the trunk of a seed's CLIP against a table of text vectors, and write both."""
    save_file(_state(nn.ModuleList(train_table(pictures, words, held_out, seed, steps.table, say))), file)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous().clone() for name, value in module.state_dict().items()}


def train_clip(
    folder: Path, pictures: Pictures, words: Words, held_out: str, seed: int, steps: Steps, say: Callable[[str], None]
) -> None:
    """Train both towers of a seed's CLIP from `table.safetensors` next to its folder, and write it for open_clip.

    The result is a local directory as open_clip reads it, with the level of each artist's pictures in `level.json`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    trunk, projection, table = PictureTrunk(), nn.Linear(512, WIDTH, bias=False), TextTable(len(words.texts))
    nn.ModuleList((trunk, projection, table)).load_state_dict(load_file(folder.parent / TABLE_FILE))
    clip_text.write_config(folder, words, np.unique(pictures.caption).tolist())
    model, tokenizer = clip_text.build(folder, trunk, projection, table, seed)
    model.train()
    clip_text.fit_text_tower(model, tokenizer, table.vectors().detach(), words, seed, steps.text, say)
    clip_text.train_jointly(model, tokenizer, table, pictures, words, held_out, seed, steps.text, say)
    clip_text.save(model, folder)
    vectors = clip_text.text_vectors(model, tokenizer, (*words.texts, *background_texts()))
    level = {
        artist: asdict(measure(partial(model.encode_image, normalize=True), vectors, pictures, words, artist))
        for artist in sorted(set(pictures.artist[pictures.concept >= 0].tolist()))
    }
    (folder / "level.json").write_text(json.dumps(level, indent=2) + "\n")
    for artist, marks in level.items():
        say(f"clip, seed {seed}, {artist}{' (held out)' if artist == held_out else ''}: {json.dumps(marks)}")


def train_studied(
    file: Path, pictures: Pictures, words: Words, held_out: str, seed: int, steps: Steps, say: Callable[[str], None]
) -> None:
    """Train the network under study of a seed and write its weights."""
    network = train_network(pictures, words, held_out, seed, steps.network, say)
    save_file(_state(network), file)
    for artist in sorted(set(pictures.artist[pictures.concept >= 0].tolist())):
        say(f"network, seed {seed}, {measure_network(network, pictures, words, artist)}")


def load_models(folder: Path) -> Models:
    """Return the models of a seed's folder, in evaluation mode."""
    clip = open_clip.create_model(f"local-dir:{folder / 'clip'}")
    state = load_file(folder / "network.safetensors")
    network = StudiedNetwork(len(state["outputs.0.bias"]))
    network.load_state_dict(state)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder / 'clip'}")
    return Models(clip.eval(), tokenizer, network.eval())


def text_vectors(models: Models, texts: tuple[str, ...]) -> np.ndarray:
    """Return unit vectors float32 [T, D] of texts."""
    return clip_text.text_vectors(models.clip, models.tokenizer, texts).numpy()
