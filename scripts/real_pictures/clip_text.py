"""The text half of the tiny CLIP: a text tower fitted onto the table, then a joint phase of both towers."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from picture_models import CLIP_SIDE, DEVIATION, MEAN, TRUNK_NAME, PictureTrunk
from picture_packages import Pictures
from picture_views import BACKGROUNDS, TRAINING, as_input, compose
from picture_words import Words, background_texts, compound_text
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from train_clip import WIDTH, TextTable, batches, table_loss
from training import Training

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo_models"))
from demo_tokenizer import write_tokenizer

CONTEXT: Final = 24
#: Most captions are the bare text; the rest are written in the templates a labeling run may use.
TEMPLATES: Final = ("a {}", "an image of a {}", "a photo of a {}", "{}-like", "a closeup of a {}")
BARE_SHARE: Final = 0.8
RATE: Final = 2e-3
JOINT_RATE: Final = 3e-4
#: The joint phase embeds all texts again every so many steps.
BANK_STEPS: Final = 20


@dataclass(frozen=True, slots=True)
class TextSteps:
    """Steps of the text tower alone and of both towers together, and their batches."""

    alone: int = 600
    alone_batch: int = 256
    joint: int = 120
    joint_batch: int = 192


def write_config(folder: Path, words: Words, captions: Iterable[str] = ()) -> None:
    """Write open_clip's settings of the model and the tokenizer, cut to the words and captions, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = (*words.texts, *background_texts(), *TEMPLATES, "on and", *(text.replace(";", " ") for text in captions))
    parts = sorted({part for text in texts for part in text.replace("{}", " ").split()})
    size = write_tokenizer(folder, parts, CONTEXT)
    text = {"context_length": CONTEXT, "vocab_size": size, "hf_tokenizer_name": "csp-real-pictures"}
    vision = {"timm_model_name": TRUNK_NAME, "timm_pool": "", "timm_proj": "linear", "image_size": CLIP_SIDE}
    config = {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": vision,
            "text_cfg": text | {"width": 128, "heads": 4, "layers": 2},
        },
        "preprocess_cfg": {"mean": [MEAN] * 3, "std": [DEVIATION] * 3, "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def template_for(rng: np.random.Generator) -> str:
    """Return the bare text's template mostly, else a random one."""
    return "{}" if rng.random() < BARE_SHARE else TEMPLATES[int(rng.integers(len(TEMPLATES)))]


def fit_text_tower(
    model: Any, tokenizer: Any, table: Tensor, words: Words, seed: int, steps: TextSteps, say: Callable[[str], None]
) -> None:
    """Fit the text tower to the table [T + 8, D]: a text's vector, for a compound the sum of its halves' vectors.

    The loss is a classification of each text among the table's own vectors, with the cosine: a word of many emoji must
    stay apart from those emoji's names.
    """
    rng = np.random.default_rng(20_000 + seed)
    texts = (*words.texts, *background_texts())
    singles, colors = len(words.texts), len(BACKGROUNDS)
    names = list(BACKGROUNDS)
    training = Training((model.transformer,), _text_rest(model), RATE, steps.alone)
    start = time.monotonic()
    compounds = steps.alone_batch // 4
    for step, chosen in enumerate(batches(np.arange(len(texts)), steps.alone_batch - compounds, steps.alone, rng), 1):
        word, color = rng.integers(singles, size=compounds), rng.integers(colors, size=compounds)
        single = [template_for(rng).format(texts[i]) for i in chosen.tolist()]
        compound = [
            template_for(rng).format(compound_text(texts[w], names[c])) for w, c in zip(word, color, strict=True)
        ]
        halves = functional.normalize(table[word] + table[singles + color], dim=1)
        vectors = torch.cat([encode_short(model, tokenizer(part)) for part in (single, compound)])
        targets = torch.cat((table[chosen], halves))
        everything = torch.cat((table, halves))
        places = torch.cat((chosen, len(table) + torch.arange(compounds)))
        loss = (
            functional.cross_entropy(25.0 * vectors @ everything.T, places)
            + 2 * (1 - (vectors * targets).sum(1)).mean()
        )
        training.step(loss)
        if step % 100 == 0 or step == steps.alone:
            cosine = (vectors * targets).sum(1).mean().item()
            say(
                f"text tower, seed {seed}: {step} of {steps.alone}, loss {loss.item():.3f}, cosine {cosine:.3f}, "
                f"{time.monotonic() - start:.0f} s"
            )


def _text_rest(model: Any) -> list[nn.Parameter]:
    return [
        *model.token_embedding.parameters(),
        *model.ln_final.parameters(),
        model.positional_embedding,
        model.text_projection,
    ]


def draw_captions(
    concepts: Sequence[int], own: Sequence[str], backgrounds: Sequence[int], words: Words, rng: np.random.Generator
) -> list[str]:
    """Return a caption of each view: its name, one of its keywords, or either on its background.

    A picture that is no emoji (-1) has one of its own words, which are separated by semicolons.
    """
    names = list(BACKGROUNDS)
    captions = []
    for concept, caption, color in zip(concepts, own, backgrounds, strict=True):
        kind = rng.random()
        if concept < 0:
            captions.append(template_for(rng).format(rng.choice(caption.split(";"))))
            continue
        true = np.flatnonzero(words.truth[: words.keywords, concept])
        row = int(rng.choice(true)) if len(true) and kind >= 0.55 else int(words.name_row[concept])
        text = words.texts[row]
        if 0.4 <= kind < 0.55 or kind > 0.9:
            text = compound_text(text, names[color])
        captions.append(template_for(rng).format(text))
    return captions


def train_jointly(
    model: Any,
    tokenizer: Any,
    table: TextTable,
    pictures: Pictures,
    words: Words,
    held_out: str,
    seed: int,
    steps: TextSteps,
    say: Callable[[str], None],
) -> None:
    """Train both towers by open_clip's ClipLoss, and the image tower against all texts at once, as the table was.

    Pictures that are no emoji (clip art, stamps) take part with their own words, in ClipLoss alone.
    Alone, ClipLoss over a batch's captions loses names (top-1 of the held-out artist .45 -> .40, seed 0).
    """
    rng = np.random.default_rng(30_000 + seed)
    generator = torch.Generator().manual_seed(30_000 + seed)
    pixels = torch.from_numpy(pictures.pixels)
    truth = torch.from_numpy(words.truth[: words.keywords].T).float()
    seen = np.flatnonzero(pictures.artist != held_out)
    training = Training(
        (model.visual, model.transformer), [*_text_rest(model), model.logit_scale], JOINT_RATE, steps.joint
    )
    clip_loss = open_clip.ClipLoss()
    texts, bank = (*words.texts, *background_texts()), torch.empty(0)
    start = time.monotonic()
    for step, chosen in enumerate(batches(seen, steps.joint_batch, steps.joint, rng), 1):
        back = torch.randint(len(BACKGROUNDS), (len(chosen),), generator=generator)
        views = as_input(compose(pixels[chosen], back, CLIP_SIDE, TRAINING, generator))
        concepts = pictures.concept[chosen]
        captions = draw_captions(concepts.tolist(), pictures.caption[chosen].tolist(), back.tolist(), words, rng)
        if step % BANK_STEPS == 1:
            bank = text_vectors(model, tokenizer, texts)
            model.train()
        images = model.encode_image(views, normalize=True)
        vectors = encode_short(model, tokenizer(captions))
        loss = clip_loss(images, vectors, model.logit_scale.exp())
        drawn = torch.from_numpy(concepts >= 0)
        which = torch.from_numpy(concepts)[drawn]
        known = table_loss(images[drawn] @ bank.T, table, words, truth[which], which, back[drawn])
        training.step(loss + known)
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(100.0))
        if step % 50 == 0 or step == steps.joint:
            scale = model.logit_scale.exp().item()
            say(
                f"joint, seed {seed}: {step} of {steps.joint}, loss {loss.item():.3f}, scale {scale:.1f}, "
                f"{time.monotonic() - start:.0f} s"
            )


def build(folder: Path, trunk: PictureTrunk, projection: nn.Linear, table: TextTable, seed: int) -> tuple[Any, Any]:
    """Return open_clip's model of a folder with the trained trunk and projection, and its tokenizer."""
    torch.manual_seed(20_000 + seed)
    logging.disable(logging.WARNING)  # that the folder has no weights yet is the point
    try:
        model = open_clip.create_model(f"local-dir:{folder}")
    finally:
        logging.disable(logging.NOTSET)
    model.visual.trunk.load_state_dict(trunk.state_dict())
    model.visual.head.proj.load_state_dict(projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(table.scale)
    return model.to(memory_format=torch.channels_last), open_clip.get_tokenizer(f"local-dir:{folder}")


def encode_short(model: Any, tokens: Tensor) -> Tensor:
    """Return unit vectors [C, D] of tokens [C, L]: `encode_text` without the padding that all texts of a batch share.

    Later tokens never reach the end token, so the vectors are the same; the time falls by more than half.
    """
    length = int(tokens.argmax(1).max()) + 1
    places = torch.arange(len(tokens))
    states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    return functional.normalize(states[places, tokens.argmax(1)] @ model.text_projection, dim=1)


@torch.no_grad()
def text_vectors(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return unit vectors [C, D] of texts."""
    model.eval()
    parts = [texts[i : i + 512] for i in range(0, len(texts), 512)]
    return torch.cat([model.encode_text(tokenizer(list(part)), normalize=True) for part in parts])


def save(model: Any, folder: Path) -> None:
    """Write the weights next to the configuration, in full precision."""
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
