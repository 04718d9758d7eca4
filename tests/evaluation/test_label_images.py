from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_images
from PIL import Image
from tiny_models import word_tokenizer

from csp_index import NetworkSource, open_index
from csp_index.demo.generator import renderer
from csp_index.errors import CspIndexError, EvaluationError, GeneratorError, SettingError, SourceError, StoreError
from csp_index.evaluation.label_images import (
    CachedGenerator,
    GenerationSettings,
    control_activations,
    generated_activations,
    load_generator,
    sample_rows,
)
from csp_index.models.generators.variant_generators import Original, load_variants, make_variants
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store.values.derived_images import FIRST


class Painter:
    """Draws "red" and "blue", each picture a shade darker; refuses other texts and counts how often it is asked."""

    colours = {"red": (200, 0, 0), "blue": (0, 0, 200)}  # noqa: RUF012

    def __init__(self) -> None:
        self.name = "painter"
        self.identity = {"spec": "python:x:painter", "weights": "none", "library": "tests 1"}
        self.asked: list[str] = []

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        self.asked.append(text)
        if text not in self.colours:
            raise GeneratorError(f"no paint for {text!r}")
        shades = [1 - (place + seed) / 50 for place in range(count)]
        return [Image.new("RGB", (8, 8), tuple(int(c * shade) for c in self.colours[text])) for shade in shades]


def painter() -> Painter:
    return Painter()


@pytest.fixture(scope="module")
def network() -> LoadedNetwork:
    return load_network("python:fakes:network", layers=["conv", "concepts"], device="cpu")


def _direct(network: LoadedNetwork, layer: str, pictures: list[Image.Image]) -> torch.Tensor:
    return network.activations(torch.stack([network.preprocess(picture) for picture in pictures]))[layer]


def test_each_pair_gets_its_own_neuron_on_its_own_label_and_a_label_is_drawn_once(network: LoadedNetwork) -> None:
    made, settings = Painter(), GenerationSettings(count=5, seed=3)
    pairs = [(2, "red"), (4, "blue"), (0, "red"), (9, "red")]
    found = generated_activations(network, "concepts", made, pairs, settings)
    assert made.asked == ["red", "blue"] and not found.failures
    for row, (neuron, text) in enumerate(pairs):
        expected = _direct(network, "concepts", Painter().generate(text, 5, 3))[:, neuron]
        torch.testing.assert_close(found.values[row], expected)
    assert found.values.shape == (4, 5) and not torch.equal(found.values[0], found.values[2])


def test_batches_do_not_change_the_values(network: LoadedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generated_activations(network, "conv", Painter(), [(1, "red")], GenerationSettings(count=7)).values
    monkeypatch.setattr(network, "batch_size", 3)
    torch.testing.assert_close(
        generated_activations(network, "conv", Painter(), [(1, "red")], GenerationSettings(count=7)).values, whole
    )


def test_a_label_that_cannot_be_drawn_costs_only_its_own_rows(network: LoadedNetwork) -> None:
    found = generated_activations(network, "conv", Painter(), [(0, "soul"), (0, "red")], GenerationSettings(count=2))
    assert found.values[0].isnan().all() and found.values[1].isfinite().all()
    assert found.failures == {"soul": "no paint for 'soul'"}


def test_no_pair_is_no_row(network: LoadedNetwork) -> None:
    assert generated_activations(network, "conv", Painter(), []).values.shape == (0, 20)


def test_the_template_is_what_the_generator_hears(network: LoadedNetwork) -> None:
    made = Painter()
    settings = GenerationSettings(count=1, template="a photo of {}")
    found = generated_activations(network, "conv", made, [(0, "red")], settings)
    assert made.asked == ["a photo of red"] and list(found.failures) == ["red"]


def test_progress_tells_of_every_label(network: LoadedNetwork) -> None:
    told: list[tuple[int, int]] = []
    pairs = [(0, "red"), (1, "blue"), (2, "red")]
    generated_activations(
        network, "conv", Painter(), pairs, GenerationSettings(count=1), lambda done, todo, _: told.append((done, todo))
    )
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("break_it", "kind", "message"),
    [
        (
            lambda n: generated_activations(n, "concepts", Painter(), [(10, "red")]),
            EvaluationError,
            "has no neuron 10 (has: 0 to 9)",
        ),
        (lambda n: generated_activations(n, "head", Painter(), []), EvaluationError, "layer 'head' was not loaded"),
        (lambda n: GenerationSettings(count=0), EvaluationError, "at least 1"),
        (lambda n: GenerationSettings(template="photo"), EvaluationError, "has no {}"),
        (lambda n: load_generator("sd15"), GeneratorError, "names no library"),
        (lambda n: load_generator("python:fakes:network"), GeneratorError, "without name, identity, generate"),
        (lambda n: load_generator("diffusers:./nowhere"), GeneratorError, "does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(
    network: LoadedNetwork, break_it: Callable[[LoadedNetwork], Any], kind: type[CspIndexError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        break_it(network)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_generator_that_breaks_is_told_by_name(network: LoadedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Painter()
    monkeypatch.setattr(made, "generate", lambda *_: 1 / 0)
    with pytest.raises(GeneratorError, match="the generator painter fails on 'red': ZeroDivisionError"):
        generated_activations(network, "conv", made, [(0, "red")])
    monkeypatch.setattr(made, "generate", lambda *_: [])
    with pytest.raises(GeneratorError, match="made 0 pictures of 'red', expected 20"):
        generated_activations(network, "conv", made, [(0, "red")])


# control images


def test_control_images_are_a_seeded_sample_of_a_folder(network: LoadedNetwork, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "coco", 12)
    all_of_them = control_activations(network, "conv", folder, 100)
    some = control_activations(network, "conv", folder, 5, seed=1)
    assert all_of_them.shape == (12, 6) and some.shape == (5, 6)
    torch.testing.assert_close(some, all_of_them[sample_rows(12, 5, 1)])
    assert sample_rows(1_000, 5, 1).tolist() != sample_rows(1_000, 5, 2).tolist()
    next(folder.rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(SourceError, match="cannot be read"):
        control_activations(network, "conv", folder, 100)


# the cache


def test_pictures_are_kept_and_read_back_as_they_were(tmp_path: Path) -> None:
    made = Painter()
    kept = CachedGenerator(made, tmp_path)
    first = kept.generate("red", 3, 0)
    again = CachedGenerator(made, tmp_path).generate("red", 3, 0)
    assert made.asked == ["red"]
    for one, other, fresh in zip(first, again, Painter().generate("red", 3, 0), strict=True):
        assert one.tobytes() == other.tobytes() == fresh.tobytes()
    for count, seed in ((4, 0), (3, 1)):
        kept.generate("red", count, seed)
    assert made.asked == ["red"] * 3
    made.identity = {**made.identity, "weights": "others"}
    CachedGenerator(made, tmp_path).generate("red", 3, 0)
    assert len(made.asked) == 4


def test_a_killed_run_leaves_no_half_of_the_pictures(tmp_path: Path) -> None:
    made = Painter()
    kept = CachedGenerator(made, tmp_path)

    class Killed(Image.Image):
        def convert(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    pictures = [*Painter().generate("red", 2, 0), Killed()]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(made, "generate", lambda *_: pictures)
        kept.generate("red", 3, 0)
    assert len(kept.generate("red", 3, 0)) == 3 and made.asked == ["red"]


def test_a_label_that_is_no_file_name_is_kept_too_and_a_failure_is_not(tmp_path: Path) -> None:
    made = Painter()
    made.colours = {"../a/b: c?": (1, 2, 3)}
    kept = CachedGenerator(made, tmp_path / "cache")
    assert kept.generate("../a/b: c?", 1, 0)[0].getpixel((0, 0)) == (1, 2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    for _ in range(2):
        with pytest.raises(GeneratorError):
            kept.generate("soul", 1, 0)
    assert made.asked[1:] == ["soul", "soul"]


def test_a_disk_that_fails_is_not_put_on_the_label(network: LoadedNetwork, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="no folder for pictures"):
        CachedGenerator(Painter(), tmp_path / "file" / "deeper")
    kept = CachedGenerator(Painter(), tmp_path / "cache")
    kept.generate("red", 20, 0)
    next((tmp_path / "cache").rglob("0003.png")).write_bytes(b"")
    with pytest.raises(StoreError, match="delete its folder"):
        generated_activations(network, "conv", kept, [(0, "red")])


# the demo's renderer


def test_the_renderer_draws_what_the_label_fixes_and_varies_the_rest() -> None:
    pictures = [np.asarray(p) for p in load_generator("python:csp_index.demo.generator:renderer").generate("red", 8, 0)]
    again = [np.asarray(p) for p in renderer().generate("red", 8, 0)]
    assert all(np.array_equal(one, other) for one, other in zip(pictures, again, strict=True))
    assert pictures[0].shape == (64, 64, 3) and len({p.tobytes() for p in pictures}) == 8
    for picture in pictures:  # a red thing somewhere
        red = (picture[..., 0] > 150) & (picture[..., 1] < 80) & (picture[..., 2] < 80)
        assert red.mean() > 0.01
    assert np.array_equal(np.asarray(renderer().generate("red", 2, 0)[1]), pictures[1])
    assert not np.array_equal(np.asarray(renderer().generate("red", 1, 1)[0]), pictures[0])
    with pytest.raises(GeneratorError, match="no concept 'a cat'"):
        renderer().generate("a cat", 1, 0)


def test_planted_neurons_fire_on_pictures_of_their_concept() -> None:
    from csp_index.demo.network import CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED

    planted = [p for p in PLANTED if p.kind == "pair"][:4]
    cnn = load_network(
        "python:csp_index.demo.network:planted_cnn", layers=[CONCEPT_LAYER], weights=NETWORK_WEIGHTS, device="cpu"
    )
    pairs = [(p.index, p.concept) for p in planted] + [(p.index, "white") for p in planted]
    found = generated_activations(cnn, CONCEPT_LAYER, renderer(), pairs, GenerationSettings(count=8)).values.mean(1)
    assert (found[:4] > 3).all() and (found[4:] < 1.5).all()


# diffusers


@pytest.fixture(scope="module")
def diffusion_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Stable Diffusion pipeline of the real classes, some thousand random weights in all."""
    diffusers = pytest.importorskip("diffusers")
    import transformers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=2, sample_size=8)
    text = transformers.CLIPTextConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=64,
        max_position_embeddings=48,
        bos_token_id=2,
        eos_token_id=3,
    )
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=60, clip_sample=False, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=word_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    directory = tmp_path_factory.mktemp("sd")
    pipeline.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_a_diffusers_pipeline_draws_from_disk(diffusion_directory: Path) -> None:
    made = load_generator(f"diffusers:{diffusion_directory}", device="cpu")
    made._pipeline = partial(made._pipeline, num_inference_steps=4)  # of 50
    two = made.generate("red star", 2, 0)
    assert [picture.size for picture in two] == [(8, 8)] * 2
    assert made.generate("red star", 1, 0)[0].tobytes() == two[0].tobytes() != two[1].tobytes()
    assert made.generate("red star", 1, 1)[0].tobytes() != two[0].tobytes()
    assert set(made.identity) == {"spec", "weights", "settings", "library"}
    assert json.loads(made.identity["settings"])["scheduler"]["num_train_timesteps"] == 60


def test_a_diffusers_pipelines_identity_follows_its_weights(diffusion_directory: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(diffusion_directory, tmp_path / "sd")
    held = next((tmp_path / "sd" / "unet").glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(held).items()}, held, {"format": "pt"})
    one, other = (
        load_generator(f"diffusers:{place}", device="cpu") for place in (diffusion_directory, tmp_path / "sd")
    )
    assert one.identity["weights"] != other.identity["weights"]
    (tmp_path / "sd" / "model_index.json").write_text("{}")
    with pytest.raises(GeneratorError, match="cannot be loaded"):
        load_generator(f"diffusers:{tmp_path / 'sd'}", device="cpu")


def _original(side: int = 20, prompt: str = "") -> Original:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Original(Image.fromarray(pixels), 7, {}, prompt)


def test_a_diffusers_pipeline_varies_a_picture_from_disk(
    diffusion_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSP_INDEX_VARIANT_STEPS", "4")
    made = load_variants(f"diffusers:{diffusion_directory}", device="cpu")
    two = make_variants(made, _original(prompt="red star"), 2, 0)
    assert not isinstance(two, str)
    assert [(one.picture.size, one.prompt) for one in two] == [((8, 8), "red star")] * 2
    shown = [one.picture.tobytes() for one in two]
    assert made.variants(_original(prompt="red star"), 1, 0)[0].picture.tobytes() == shown[0] != shown[1]
    assert made.variants(_original(prompt="red star"), 1, 1)[0].picture.tobytes() != shown[0]
    assert len(made.variants(_original(), 1, 0)) == 1  # without anything said of it
    told = json.loads(made.identity["settings"])
    assert told["strength"] == 0.6 and told["kind"] == "StableDiffusionImg2ImgPipeline"
    monkeypatch.setenv("CSP_INDEX_VARIANT_STRENGTH", "0.9")
    monkeypatch.setenv("CSP_INDEX_VARIANT_STEPS", "5")
    other = load_variants(f"diffusers:{diffusion_directory}", device="cpu")
    told = json.loads(other.identity["settings"])
    assert (told["strength"], told["num_inference_steps"]) == (0.9, 5) and other.identity != made.identity
    monkeypatch.setenv("CSP_INDEX_VARIANT_STRENGTH", "0")
    with pytest.raises(SettingError, match="more than 0 and at most 1"):
        load_variants(f"diffusers:{diffusion_directory}", device="cpu")
    monkeypatch.setenv("CSP_INDEX_VARIANT_STRENGTH", "much")
    with pytest.raises(SettingError, match="variant_strength"):
        load_variants(f"diffusers:{diffusion_directory}", device="cpu")


def test_less_noise_leaves_more_of_the_original(diffusion_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distance = {}
    original = _original(side=8)
    monkeypatch.setenv("CSP_INDEX_VARIANT_STEPS", "10")
    for strength in ("0.1", "1.0"):
        monkeypatch.setenv("CSP_INDEX_VARIANT_STRENGTH", strength)
        made = load_variants(f"diffusers:{diffusion_directory}", device="cpu").variants(original, 2, 0)
        distance[strength] = np.abs(np.asarray(made[0].picture, float) - np.asarray(made[1].picture, float)).mean()
    assert distance["0.1"] < distance["1.0"]  # variants of one picture differ the less


@pytest.mark.slow
def test_labels_by_synthetic_contrast_of_a_diffusers_pipeline(diffusion_directory: Path, tmp_path: Path) -> None:
    index = open_index(tmp_path / "db", device="cpu")
    source = NetworkSource("python:fakes:network", ("concepts",))
    index.add_images(write_images(tmp_path / "images", 12), encoders=["python:fakes:encoder"], networks=[source])
    options = {"contrast": "synthetic", "generator": f"diffusers:{diffusion_directory}", "variants": 2, "examples": 3}
    labels = index.label("network/concepts", vocabulary=["red", "blue"], templates="none", bootstrap=0, **options)
    assert any(pair.contrast_id is not None and pair.contrast_id >= FIRST for found in labels for pair in found.pairs)
