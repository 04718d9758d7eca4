"""Tiny models of the real classes, written to disk in the form their libraries load; weights are random and seeded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

IMAGE_SIZE = 16
WIDTH = 8  # of the common space
TEXT_LENGTH = 48
WORDS = (
    "<pad>",
    "<unk>",
    "<bos>",
    "<eos>",
    "a",
    "an",
    "the",
    "of",
    "image",
    "closeup",
    "red",
    "blue",
    "star",
    "circle",
)
WORDS += ("dotted", "striped", "-", "like")


def save_open_clip(directory: Path, *, seed: int = 0, **text: Any) -> Path:
    """Write a CLIP of open_clip's class with a ViT of one block."""
    import open_clip
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    model_cfg = {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1, **text},
    }
    preprocess_cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**{name: dict(v) if isinstance(v, dict) else v for name, v in model_cfg.items()})
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return directory


def save_transformers(directory: Path, kind: str, *, seed: int = 0) -> Path:
    """Write a ``clip``, ``siglip`` or ``siglip2`` of transformers with its image processor and a tokenizer."""
    import transformers

    common = {"hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**common, "vocab_size": 64, "max_position_embeddings": TEXT_LENGTH}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**common, "image_size": IMAGE_SIZE, "patch_size": 8}
    torch.manual_seed(seed)
    images: Any
    if kind == "clip":
        config: Any = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
        model: Any = transformers.CLIPModel(config)
        side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        images = transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side)
    elif kind == "siglip":
        config = transformers.SiglipConfig(text_config={**text, "projection_size": WIDTH}, vision_config=vision)
        model = transformers.SiglipModel(config)
        images = transformers.SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    else:
        vision = {**common, "patch_size": 8, "num_patches": 4}
        config = transformers.Siglip2Config(text_config={**text, "projection_size": WIDTH}, vision_config=vision)
        model = transformers.Siglip2Model(config)
        images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    model.save_pretrained(directory)
    images.save_pretrained(directory)
    (letter_tokenizer() if kind == "siglip2" else word_tokenizer()).save_pretrained(directory)
    return directory


def word_tokenizer() -> Any:
    """Return a tokenizer of whole words that frames a text by begin and end tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=TEXT_LENGTH,
    )


def letter_tokenizer() -> Any:
    """Return SigLIP 2's own tokenizer with letters for a vocabulary, as it insists on its class."""
    import transformers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz-", "\u2581"])}
    return transformers.Siglip2Tokenizer(vocab=vocab, merges=[], padding_side="right", model_max_length=TEXT_LENGTH)


def save_classifier(directory: Path, classes: dict[int, str]) -> Path:
    """Write the same with a head for classes that have names."""
    import transformers

    config = transformers.ViTConfig.from_pretrained(save_vit(directory), num_labels=len(classes), id2label=classes)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    return directory


def save_vit(directory: Path, *, seed: int = 0) -> Path:
    """Write a transformers ViT of two blocks with its image processor."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=8,
    )
    transformers.ViTModel(config).save_pretrained(directory)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    transformers.ViTImageProcessor(size=size).save_pretrained(directory)
    return directory
