"""The captioner: tiny models of the real classes, loaded offline from directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import tiny_vlms
import torch
import transformers
from few import few
from PIL import Image, ImageDraw

from csp_index.errors import ProposerError, SettingError
from csp_index.models.weights import hash_weights
from csp_index.proposers import captioner as module
from csp_index.proposers.captioner import Captioner
from csp_index.proposers.proposer import Answer, Question
from csp_index.records import NeuronKey

SIDE = tiny_models.IMAGE_SIZE
COLOURS, SHAPES = ("red", "blue"), ("star", "circle")
TEXT = {"vocab_size": len(tiny_models.WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_captioner(directory: Path, kind: str, *, seed: int = 0, model: Any = None) -> Path:
    """Write a captioner of a kind with its image processor and a tokenizer."""
    torch.manual_seed(seed)
    (model or shaken(make_model(kind))).save_pretrained(directory)
    side = {"height": SIDE, "width": SIDE}
    images = {
        "blip": lambda: transformers.BlipImageProcessor(size=side),
        "blip-2": lambda: transformers.BlipImageProcessor(size=side),
        "git": lambda: transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=side),
        "vision-encoder-decoder": lambda: transformers.ViTImageProcessor(size=side),
    }[kind]()
    images.save_pretrained(directory)
    tiny_models.word_tokenizer().save_pretrained(directory)
    return directory


def shaken(model: Any) -> Any:
    """Make the random weights large, so that what the model says hangs on the picture."""
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(12 if weights.ndim > 1 else 1)
    return model


def make_model(kind: str) -> Any:
    vision = {**SMALL, "image_size": SIDE, "patch_size": 8}
    if kind == "blip":
        text = {**SMALL, **TEXT, "encoder_hidden_size": 32, "sep_token_id": 3, "max_position_embeddings": 48}
        return transformers.BlipForConditionalGeneration(
            transformers.BlipConfig(
                text_config=text, vision_config=vision, projection_dim=32, image_text_hidden_size=32
            )
        )
    if kind == "blip-2":
        opt = {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64, **TEXT}
        text = transformers.OPTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, **opt).to_dict()
        former = {**SMALL, "encoder_hidden_size": 32, "vocab_size": 64}
        return transformers.Blip2ForConditionalGeneration(
            transformers.Blip2Config(
                vision_config=vision, qformer_config=former, text_config=text, num_query_tokens=4, image_token_index=1
            )
        )
    if kind == "git":
        config = transformers.GitConfig(vision_config=vision, **SMALL, **TEXT, max_position_embeddings=48)
        return transformers.GitForCausalLM(config)
    decoder = transformers.GPT2Config(
        n_embd=32, n_layer=1, n_head=2, n_positions=48, add_cross_attention=True, is_decoder=True, **TEXT
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**vision), decoder, decoder_start_token_id=2, **TEXT
    )
    return transformers.VisionEncoderDecoderModel(config)


def picture(colour: str, shape: str, shade: int = 0) -> Image.Image:
    """Draw a "star" in the upper half or a "circle" in the lower one; shades make distinct pictures."""
    image = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade))
    top = 0 if shape == "star" else SIDE // 2
    ImageDraw.Draw(image).rectangle((0, top, SIDE, top + SIDE // 2), fill=colour)
    return image


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a kind's tiny model; each is written once."""
    root = tmp_path_factory.mktemp("captioners")

    def directory(kind: str) -> Path:
        return root / kind if (root / kind).exists() else save_captioner(root / kind, kind, seed=4)

    return directory


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP, trained for seconds to say "a red star" of a red star."""
    torch.manual_seed(0)
    model = make_model("blip")
    directory = save_captioner(tmp_path_factory.mktemp("taught") / "blip", "blip", model=model)
    images = transformers.AutoImageProcessor.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    seen = [(colour, shape, shade) for colour in COLOURS for shape in SHAPES for shade in (0, 30, 60, 90)]
    pixels = images(images=[picture(*scene) for scene in seen], return_tensors="pt")["pixel_values"]
    words = tokenizer([f"a {colour} {shape}" for colour, shape, _ in seen], return_tensors="pt")["input_ids"]
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        loss = model(pixel_values=pixels, input_ids=words, labels=words).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 0.01:
            break
    return save_captioner(directory, "blip", model=model)


def load(directory: Path, **options: Any) -> Captioner:
    return Captioner(f"transformers:{directory}", device="cpu", **options)


def ask(captioner: Captioner, *questions: Question) -> list[Answer]:
    return list(captioner.ask(questions))


def question(number: int, activating: Sequence[Image.Image], contrastive: Sequence[Image.Image] = ()) -> Question:
    return Question(NeuronKey("m", "l", number), tuple(activating), tuple(contrastive))


def count_pictures(captioner: Captioner) -> list[int]:
    """Return a list that gets the size of each batch the captioner sees."""
    sizes: list[int] = []
    processor: Any = captioner._images

    def counting(images: list[Image.Image], return_tensors: str) -> Any:
        sizes.append(len(images))
        if any(image.size == (3, 3) for image in images):
            raise ValueError("cannot read a picture of 3 x 3")
        return processor(images=images, return_tensors=return_tensors)

    captioner._images = counting
    return sizes


@pytest.mark.parametrize("kind", few(["blip", "blip-2", "git", "vision-encoder-decoder"], 1))
def test_real_classes_caption_pictures_from_a_directory(saved: Callable[[str], Path], kind: str) -> None:
    captioner = load(saved(kind), new_tokens=6, batch=3)
    pictures = [picture(colour, shape, shade) for colour in COLOURS for shape in SHAPES for shade in (0, 60)]
    captions = captioner.captions(pictures)
    assert [captioner.captions([one])[0] for one in pictures] == captions, "a caption does not depend on its batch"
    assert len(captions) == len(pictures)
    assert len(set(captions)) > 1 or kind == "blip", "the trained BLIP below shows it of its class"
    assert all(len(caption.split()) <= 6 for caption in captions)
    model = transformers.AutoModelForImageTextToText.from_pretrained(saved(kind))
    assert captioner.revision == hash_weights(model)
    assert captioner.kind == "captioner"
    assert captioner.name == f"transformers:{saved(kind).resolve()}"
    assert json.loads(captioner.prompt) == {"floor": 0.1, "most": 20, "new_tokens": 6}


def test_other_weights_are_another_revision(saved: Callable[[str], Path], tmp_path: Path) -> None:
    other = save_captioner(tmp_path / "other", "blip", seed=1)
    assert load(other).revision != load(saved("blip")).revision == load(saved("blip")).revision


def test_contrast_finds_the_pair_and_the_single_concept(taught: Path) -> None:
    captioner = load(taught)
    stars = [picture("red", "star", shade) for shade in (0, 30, 60, 90)]
    halves = [
        picture("red", "circle"),
        picture("red", "circle", 30),
        picture("blue", "star"),
        picture("blue", "star", 60),
    ]
    circles = [picture("red", "circle", shade) for shade in (0, 30, 60, 90)]
    pair, single, alone = ask(captioner, question(1, stars, halves), question(2, stars, circles), question(3, stars))
    assert [answer.state for answer in (pair, single, alone)] == ["answered"] * 3
    assert pair.texts[0] == "red star"
    assert set(pair.texts) == {"red star", "red", "star"}
    assert single.texts[0] == "star"
    assert "red" not in single.texts
    assert dict(zip(alone.texts, alone.scores, strict=True)) == {"star": 1.0, "red": 1.0, "red star": 1.0}
    assert json.loads(pair.raw) == {
        "activating": ["a red star"] * 4,
        "contrastive": ["a red circle"] * 2 + ["a blue star"] * 2,
    }
    assert json.loads(alone.raw)["contrastive"] == []
    assert pair.scores == tuple(sorted(pair.scores, reverse=True))


def test_captions_that_both_sets_share_are_unparsed(taught: Path) -> None:
    stars = [picture("red", "star"), picture("red", "star", 30)]
    (answer,) = ask(load(taught), question(1, stars, stars))
    assert answer.state == "unparsed"
    assert answer.texts == ()
    assert answer.reason.startswith("no noun or adjective fits the captions of the activating images, but not the")
    assert json.loads(answer.raw)["activating"] == ["a red star"] * 2


def test_each_distinct_picture_is_captioned_once_and_batches_cross_neurons(taught: Path) -> None:
    captioner = load(taught, batch=4)
    sizes = count_pictures(captioner)
    stars = [picture("red", "star", shade) for shade in (0, 30, 60)]
    circles = [picture("blue", "circle", shade) for shade in (0, 30, 60)]
    asked = [question(1, stars, circles), question(2, circles, stars), question(3, [*stars, stars[0].copy()], circles)]
    answers = ask(captioner, *asked)
    assert sizes == [4, 2]
    assert [answer.neuron.neuron for answer in answers] == [1, 2, 3]
    assert [answer.requests for answer in answers] == [6, 0, 0]
    assert answers[0].completion_tokens == 6 * 3
    assert answers[1].completion_tokens == 0
    assert answers[2].texts == answers[0].texts
    assert set(answers[1].texts) == {"blue circle", "blue", "circle"}
    assert ask(captioner, asked[0])[0].texts == answers[0].texts
    assert sizes == [4, 2], "a later call knows them too"


def test_questions_are_taken_as_they_are_needed(taught: Path) -> None:
    taken: list[int] = []

    def questions() -> Iterator[Question]:
        for number in range(6):
            taken.append(number)
            yield question(number, [picture("red", "star", number), picture("red", "circle", number)])

    answers = load(taught, batch=4).ask(questions())
    assert next(answers).neuron.neuron == 0
    assert taken == [0, 1]
    assert [answer.neuron.neuron for answer in answers] == [1, 2, 3, 4, 5]


def test_few_captions_are_kept_and_the_answers_are_the_same(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stars = [picture("red", "star", shade) for shade in (0, 30, 60)]
    circles = [picture("blue", "circle", shade) for shade in (0, 30, 60)]
    asked = [question(1, stars, circles), question(2, circles, stars)]
    wanted = [answer.texts for answer in ask(load(taught, batch=2), *asked)]
    monkeypatch.setattr(module, "_KEPT_CAPTIONS", 1)
    captioner = load(taught, batch=2)
    sizes = count_pictures(captioner)
    assert [answer.texts for answer in ask(captioner, *asked)] == wanted
    assert sum(sizes) > 6, "what was forgotten is captioned again"


def test_a_picture_that_fails_fails_the_neurons_that_need_it(taught: Path) -> None:
    captioner = load(taught, batch=4)
    count_pictures(captioner)
    good, bad = [picture("red", "star", shade) for shade in (0, 30, 60)], Image.new("RGB", (3, 3))
    answers = ask(captioner, question(1, good), question(2, [*good[:1], bad]), question(3, good))
    assert [answer.state for answer in answers] == ["answered", "failed", "answered"]
    assert answers[1].reason == "the captioner failed on an image: cannot read a picture of 3 x 3"
    assert answers[1].raw == ""
    assert answers[0].texts == answers[2].texts


def test_short_memory_makes_batches_smaller(taught: Path) -> None:
    captioner = load(taught, batch=8)
    write, sizes = captioner._write, list[int]()

    def short(images: Sequence[Image.Image]) -> list[tuple[str, int]]:
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return write(images)

    captioner._write = short  # type: ignore[method-assign]
    answers = ask(captioner, *(question(n, [picture("red", "star", 4 * n + i) for i in range(4)]) for n in range(4)))
    assert [answer.state for answer in answers] == ["answered"] * 4
    assert sizes[0] == 8
    assert captioner.batch == 2
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2, 2, 2, 2]


def test_a_neuron_without_images_fails(taught: Path) -> None:
    (answer,) = ask(load(taught), question(1, [], [picture("red", "star")]))
    assert (answer.state, answer.reason) == ("failed", "the neuron has no image to show")


def test_options_come_from_the_settings(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_CAPTION_FLOOR", "0.9")
    monkeypatch.setenv("CSP_INDEX_CAPTION_PHRASES", "1")
    monkeypatch.setenv("CSP_INDEX_CAPTION_BATCH", "5")
    monkeypatch.setenv("CSP_INDEX_CAPTION_NEW_TOKENS", "2")
    captioner = load(taught)
    assert captioner.batch == 5
    assert json.loads(captioner.prompt) == {"floor": 0.9, "most": 1, "new_tokens": 2}
    (answer,) = ask(captioner, question(1, [picture("red", "star")]))
    assert json.loads(answer.raw)["activating"] == ["a red"], "stopped after two tokens"
    assert answer.texts == ("red",)
    with pytest.raises(SettingError, match="setting caption_floor is nan: expected a finite number"):
        load(taught, floor=float("nan"))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("blip", "the captioner 'blip' names no library: write transformers:ORG/NAME"),
        ("open_clip:ViT-B-32", "names no library"),
        ("transformers:", "names no library"),
        ("transformers:/no/such/model", "the directory /no/such/model does not exist"),
    ],
)
def test_an_unknown_model_is_told_in_one_line(spec: str, told: str) -> None:
    with pytest.raises(ProposerError) as caught:
        Captioner(spec, device="cpu")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_id_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ProposerError, match="captioner transformers:no-such-org/no-such-model cannot be loaded"):
        Captioner("transformers:no-such-org/no-such-model", device="cpu")


def test_a_model_of_text_only_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, **TEXT)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ProposerError, match="is a gpt2, which does not caption images: name a captioner"):
        load(tmp_path / "gpt")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProposerError, match="is a clip, which does not caption images"):
        load(tiny_models.save_transformers(tmp_path / "clip", "clip"))


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json"])
def test_a_missing_processor_is_told(saved: Callable[[str], Path], tmp_path: Path, missing: str) -> None:
    copy = Path(shutil.copytree(saved("blip"), tmp_path / "blip"))
    (copy / missing).unlink()
    with pytest.raises(ProposerError, match="lacks its image processor or its tokenizer: put the files"):
        load(copy)


def test_damaged_weights_are_told(saved: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved("git"), tmp_path / "git"))
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ProposerError, match="cannot be loaded") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_a_model_that_wants_a_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProposerError, match=r"cannot caption a picture on cpu: Image features and .* is for --vlm"):
        load(tiny_vlms.save_vlm(tmp_path / "llava", "llava"))
