"""Arrays of one seed for a search of methods: embeddings, activations by kind of neuron, truth, sets of texts.

One .npz per seed and condition. `LAYOUT` says what each array is; it is written next to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from picture_models import CLIP_SIDE, NETWORK_SIDE, StudiedNetwork
from picture_packages import Emoji
from picture_views import BACKGROUNDS, as_input
from picture_words import Words, background_texts, compound_text
from planted_neurons import Planted, activations
from probing import ProbingSet
from torch import Tensor
from torch.nn import functional
from train_clip import average_precisions

LAYOUT: Final = """Arrays of the real-pictures experiment: one .npz per model seed and condition.

Read with numpy.load(FILE, allow_pickle=False). N images, D width, T texts, E emoji, M neurons, 8 backgrounds.
Condition: unbiased | biased (artists of the training), held-unbiased | held-biased (the held-out artist).

embeddings         float32 [N, D]  unit image embeddings
concept            int64 [N]       the emoji (0..E-1) on the image
background         int64 [N]       the background (0..7)
artist             str [N]
logit_scale        float32 []      multiplier of the cosine (after exp)
texts              str [T]         all texts: keywords by falling number of emoji, names, backgrounds, compounds, pairs
text_embeddings    float32 [T, D]  unit
in_words           bool [T]        vocabulary "150 words": the network's output words and the 8 backgrounds
in_keywords        bool [T]        vocabulary "keywords": keywords of two and more emoji, and the backgrounds
in_full            bool [T]        vocabulary "full": all texts
text_emoji         bool [T, E]     the emoji that a text is true of
text_background    bool [T, 8]     the backgrounds that a text is true of (all True for a text that names none)
                   A text is true of image i if text_emoji[t, concept[i]] and text_background[t, background[i]].
text_ap            float32 [T]     how well the CLIP knows a text: average precision of its cosine on the judge images
judge_embeddings   float32 [J, D]  images for judging, unbiased, other draws
judge_concept, judge_background    int64 [J]
layers             str [L]         names of the layers below: net, planted, hidden
activations_LAYER  float32 [N, M]  activations on the images
judge_LAYER        float32 [J, M]  activations on the judge images
kind_LAYER         str [M]         kind of each neuron: "keyword", "two keywords, leaking", ...
accepted_LAYER     str [M]         accepted texts, separated by ";" (empty for a hidden neuron: no truth)
truth_LAYER        bool [M, E, 8]  where the neuron's truth holds (net: its word; absent for hidden)
good_net           bool [M]        the output reaches AP >= .5 for its word on the judge images: judge only these
ap_net             float32 [M]     that AP
homed              bool [T]        keywords with a home color (biased sets: 90 % of their pictures stand on it)
home               int64 [T]       that color, -1 for none
"""


@dataclass(frozen=True, slots=True)
class Models:
    """A trained CLIP of open_clip with its tokenizer, and a trained network under study."""

    clip: Any
    tokenizer: Any
    network: StudiedNetwork


@dataclass(frozen=True, slots=True)
class Texts:
    """All candidate texts with the emoji bool [T, E] and the backgrounds bool [T, 8] that each is true of."""

    texts: tuple[str, ...]
    emoji: NDArray[np.bool_]
    background: NDArray[np.bool_]
    #: Rows of `Words.texts` come first; these many are keywords.
    keywords: int
    words: int


def all_texts(words: Words, planted: Sequence[Planted]) -> Texts:
    """Return the full vocabulary: words, names, backgrounds, the planted compounds on every background, pairs."""
    count = words.truth.shape[1]
    everywhere, colors = np.ones(len(BACKGROUNDS), bool), list(BACKGROUNDS)
    row_of = {text: row for row, text in enumerate(words.texts)}
    texts = [*words.texts, *background_texts()]
    emoji = [*words.truth, *(np.ones(count, bool) for _ in colors)]
    background = [everywhere for _ in words.texts] + list(np.eye(len(colors), dtype=bool))
    seen = set(texts)

    def add(text: str, shown: NDArray[np.bool_], on: NDArray[np.bool_]) -> None:
        if text not in seen:
            seen.add(text)
            texts.append(text)
            emoji.append(shown)
            background.append(on)

    for neuron in planted:
        if neuron.kind == "keyword and background":
            word = neuron.accepted[0].rsplit(" on a", 1)[0]
            for place, color in enumerate(colors):
                add(compound_text(word, color), words.truth[row_of[word]], np.arange(len(colors)) == place)
        elif neuron.kind == "two keywords":
            add(neuron.accepted[0], neuron.fires[:, 0], everywhere)
    return Texts(tuple(texts), np.array(emoji), np.array(background), words.keywords, len(words.output_words))


def preprocessed(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """Return uint8 pixels [N, 64, 64, 3] as the models' preprocessing gives them, [N, 3, side, side]."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    images = functional.interpolate(images.float(), (side, side), mode="bicubic", antialias=True, align_corners=False)
    return as_input(images.round().clamp_(0, 255) / 255.0)


@torch.no_grad()
def run_models(
    models: Models, probing: ProbingSet
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return unit embeddings [N, D], the network's outputs [N, 158] and its hidden layer [N, 128]."""
    models.clip.eval()
    models.network.eval()
    embeddings, outputs, hidden = [], [], []
    for i in range(0, len(probing.pixels), 256):
        part = probing.pixels[i : i + 256]
        embeddings.append(models.clip.encode_image(preprocessed(part, CLIP_SIDE), normalize=True))
        values = models.network.features(preprocessed(part, NETWORK_SIDE))
        hidden.append(values)
        outputs.append(models.network.outputs(values))
    return _joined(embeddings), _joined(outputs), _joined(hidden)


def _joined(parts: list[Tensor]) -> NDArray[np.float32]:
    joined: NDArray[np.float32] = torch.cat(parts).float().numpy()
    return joined


def text_precision(
    cosines: NDArray[np.float32], texts: Texts, concept: NDArray[np.int64], background: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how well each text's cosine [T, N] ranks the images that it is true of: average precision [T]."""
    result = []
    for i in range(0, len(cosines), 256):
        shows = texts.emoji[i : i + 256][:, concept] & texts.background[i : i + 256][:, background]
        result.append(average_precisions(torch.from_numpy(cosines[i : i + 256].T), torch.from_numpy(shows.T)))
    return torch.cat(result).numpy()


def write_layout(folder: Path) -> None:
    """Write what each array is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(LAYOUT)


def shared_arrays(
    models: Models,
    texts: Texts,
    vectors: NDArray[np.float32],
    judge: ProbingSet,
    words: Words,
    homes: Mapping[int, int],
) -> dict[str, Any]:
    """Return the arrays that all conditions of a seed share: texts, and the judge images through both models."""
    embeddings, outputs, hidden = run_models(models, judge)
    count, width = len(texts.texts), len(words.output_words)
    rows, names = np.arange(count), len(words.texts)
    backgrounds = (rows >= names) & (rows < names + len(BACKGROUNDS))
    home = np.full(count, -1)
    for row, color in homes.items():
        home[row] = color
    shown = np.concatenate(
        (words.truth[:width][:, judge.concept].T, np.eye(len(BACKGROUNDS), dtype=bool)[judge.background]), axis=1
    )
    precision = average_precisions(torch.from_numpy(outputs), torch.from_numpy(shown)).numpy()
    return {
        "logit_scale": np.float32(models.clip.logit_scale.exp().item()),
        "texts": np.array(texts.texts),
        "text_embeddings": vectors,
        "in_words": (rows < width) | backgrounds,
        "in_keywords": (rows < texts.keywords) | backgrounds,
        "in_full": np.ones(count, bool),
        "text_emoji": texts.emoji,
        "text_background": texts.background,
        "text_ap": text_precision(vectors @ embeddings.T, texts, judge.concept, judge.background),
        "judge_embeddings": embeddings,
        "judge_concept": judge.concept,
        "judge_background": judge.background,
        "judge_net": outputs,
        "judge_hidden": hidden,
        "ap_net": precision,
        "good_net": precision >= 0.5,
        "homed": home >= 0,
        "home": home,
    }


def neuron_arrays(words: Words, planted: Sequence[Planted]) -> dict[str, Any]:
    """Return kinds, accepted texts and truth of the layers net and planted."""
    width, colors = len(words.output_words), list(BACKGROUNDS)
    everywhere = np.ones(len(colors), bool)
    net = [words.truth[row][:, None] & everywhere for row in range(width)]
    net += [np.tile(np.arange(len(colors)) == place, (words.truth.shape[1], 1)) for place in range(len(colors))]
    return {
        "layers": np.array(("net", "planted", "hidden")),
        "kind_net": np.array(["keyword"] * width + ["background"] * len(colors)),
        "accepted_net": np.array((*words.output_words, *background_texts())),
        "truth_net": np.array(net),
        "kind_planted": np.array([neuron.kind for neuron in planted]),
        "accepted_planted": np.array([";".join(neuron.accepted) for neuron in planted]),
        "truth_planted": np.array([neuron.fires for neuron in planted]),
    }


def write_condition(
    file: Path, models: Models, probing: ProbingSet, planted: Sequence[Planted], shared: Mapping[str, Any], seed: int
) -> None:
    """Write all arrays of one condition."""
    embeddings, outputs, hidden = run_models(models, probing)
    judge = activations(planted, shared["judge_concept"], shared["judge_background"], 1000 + seed)
    own = activations(planted, probing.concept, probing.background, seed)
    arrays: dict[str, Any] = {
        "embeddings": embeddings,
        "concept": probing.concept,
        "background": probing.background,
        "artist": probing.artist,
        "activations_net": outputs,
        "activations_hidden": hidden,
        "activations_planted": own,
        "judge_planted": judge,
        "kind_hidden": np.array(["hidden"] * hidden.shape[1]),
        "accepted_hidden": np.array([""] * hidden.shape[1]),
    }
    part = file.with_name(file.name + ".part")
    with part.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays, **shared)
    part.rename(file)


def emoji_names(emoji: Sequence[Emoji]) -> NDArray[np.str_]:
    """Return the names of a list of emoji."""
    return np.array([entry.name for entry in emoji])
