"""Train the demo's captioner, of transformers' own classes, and write it to csp_index/demo/models/captioner.

    python scripts/demo_models/train_demo_captioner.py                some two minutes on two idle cores
    python scripts/demo_models/train_demo_captioner.py --measure      only measure the captioner that is there

Everything is seeded and counted in steps, never in seconds. A plain vision transformer does not learn shapes in the
minutes a demo may train, so the captioner sees through the trunk of the demo's trained encoder, as it is; what is
trained is a small BERT that reads the mean and the maximum of the trunk's maps and says the six attributes of a scene
in one sentence. Beside the weights it writes `report.json`: the share of fresh scenes whose caption says the right
value of each attribute, and all six.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from demo_training import SEED, batches, halve, pictures, say, schedule, to_input
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    BertLMHeadModel,
    BertTokenizer,
    TimmWrapperConfig,
    TimmWrapperModel,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from csp_index.demo.network import CAPTIONER_FOLDER, CLIP_FOLDER
from csp_index.demo.trunk import TRUNK_NAME, WIDTHS
from csp_index.demo.world import ATTRIBUTES, SIDE, Scene, random_scene

TRAIN_IMAGES: Final = 16_000
TEST_IMAGES: Final = 2_000
STEPS: Final = 240
RATE: Final = 2e-3
WIDTH: Final = 128
LAYERS: Final = 2
SAID: Final = 16  # tokens, at most; a caption has 11
CONTEXT: Final = 64  # tokens the decoder has places for, so that whoever asks for more than it says gets no error
SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def caption(scene: Scene) -> str:
    """Say a scene in one sentence.

    >>> caption(Scene("star", "red", "striped", "navy", "speckled", "large"))
    'a large striped red star on a speckled navy background'
    """
    thing = f"{scene.size} {scene.texture} {scene.colour} {scene.shape}"
    return f"a {thing} on a {scene.pattern} {scene.background} background"


# --- the model ------------------------------------------------------------------------------------------------------


def make_processor() -> TrOCRProcessor:
    """Return the processor: pictures as the encoder takes them, one token a word of the demo world."""
    words = ["a", "on", "background", *(value for values in ATTRIBUTES.values() for value in values)]
    tokens = {token: place for place, token in enumerate((*SPECIAL, *words))}
    pixels = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return TrOCRProcessor(pixels, BertTokenizer(vocab=tokens, model_max_length=CONTEXT))


def make_model(tokenizer: BertTokenizer) -> VisionEncoderDecoderModel:
    """Return the captioner: the encoder's trained trunk, and a decoder with fresh weights."""
    shape: dict[str, Any] = {"architecture": TRUNK_NAME, "do_pooling": False, "hidden_size": WIDTHS[-1]}
    seeing = TimmWrapperModel(TimmWrapperConfig(**shape))
    seeing.timm_model.load_state_dict(open_clip.create_model(f"local-dir:{CLIP_FOLDER}").visual.trunk.state_dict())
    saying = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,
        add_cross_attention=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = VisionEncoderDecoderModel(encoder=seeing, decoder=BertLMHeadModel(saying))
    for settings in (model.config, model.generation_config):
        settings.decoder_start_token_id = tokenizer.cls_token_id
        settings.eos_token_id = tokenizer.sep_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    model.generation_config.max_new_tokens = SAID
    return model


# --- training -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def seen_by(trunk: nn.Module, pixels: NDArray[np.uint8]) -> Tensor:
    """Return what the trunk sees, [N, 2, 192]: it is not trained, so once is enough."""
    trunk.eval()
    parts = [trunk(pixel_values=to_input(pixels[i : i + 250])).last_hidden_state for i in range(0, len(pixels), 250)]
    return torch.cat(parts)


def train(model: VisionEncoderDecoderModel, tokenizer: BertTokenizer, scenes: Sequence[Scene]) -> None:
    """Teach the decoder to say the captions of the scenes."""
    start = time.monotonic()
    pixels = pictures(scenes, SEED + 30)
    say(f"rendered {len(pixels)} scenes in {time.monotonic() - start:.0f}s")
    seen = seen_by(model.encoder, pixels)
    say(f"seen by {time.monotonic() - start:.0f}s")
    # All captions have the same number of tokens; the first, [CLS], starts the decoder and is not to be said.
    labels = tokenizer([caption(scene) for scene in scenes], return_tensors="pt")["input_ids"][:, 1:]
    trained = [value for name, value in model.named_parameters() if not name.startswith("encoder.")]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.02)
    rates = schedule(optimiser, STEPS)
    model.decoder.train()
    for step, chosen in enumerate(batches(len(seen), STEPS, SEED + 31)):
        loss = model(encoder_outputs=(seen[chosen],), labels=labels[chosen]).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        rates.step()
        if step % 20 == 0 or step == STEPS - 1:
            say(f"{step:4d} loss {loss.item():.4f} {time.monotonic() - start:.0f}s")
    model.eval()


def write(model: VisionEncoderDecoderModel, processor: TrOCRProcessor, folder: Path) -> None:
    """Write the captioner as transformers keeps one; the weights lie in half precision and are loaded in full."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    weights = folder / "model.safetensors"
    save_file(halve(load_file(weights)), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors makes files that only their owner reads


# --- measuring ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """Return, on fresh scenes, the share of greedy captions with the right value of each attribute, and with all."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
    rng = np.random.default_rng(SEED + 32)
    scenes = [random_scene(rng) for _ in range(TEST_IMAGES)]
    pixels = pictures(scenes, SEED + 33)
    found: list[str] = []
    for first in range(0, len(pixels), 250):
        images = [Image.fromarray(picture) for picture in pixels[first : first + 250]]
        rows = model.generate(processor.image_processor(images, return_tensors="pt")["pixel_values"], do_sample=False)
        found += processor.batch_decode(rows, skip_special_tokens=True)
    hits = [
        [scene.value(name) in text.split() for name in ATTRIBUTES] + [text == caption(scene)]
        for scene, text in zip(scenes, found, strict=True)
    ]
    shares = np.array(hits).mean(0).tolist()
    return {name: round(share, 4) for name, share in zip((*ATTRIBUTES, "all"), shares, strict=True)}


def main() -> None:
    """Train, write and measure the captioner; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CAPTIONER_FOLDER, help="folder to write (default: the package's)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--measure", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.measure:
        torch.manual_seed(SEED + 34)
        rng = np.random.default_rng(SEED + 35)
        processor = make_processor()
        model = make_model(processor.tokenizer)
        say(f"{sum(values.numel() for values in model.parameters()):,} weights")
        train(model, processor.tokenizer, [random_scene(rng) for _ in range(TRAIN_IMAGES)])
        write(model, processor, options.out)
    report = {"captions": measure(options.out), "scenes": TEST_IMAGES, "seed": SEED, "steps": STEPS}
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    say(json.dumps(report))


if __name__ == "__main__":
    main()
