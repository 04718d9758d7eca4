"""Encoders of both libraries, loaded offline from tiny models of the real classes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from csp_index.errors import ModelError, SettingError
from csp_index.models.encoders import TwoTowers, load_encoder, templates

KINDS = ("open_clip", "clip", "siglip", "siglip2")
TEXTS = ["red star", "blue circle", "dotted", "a striped circle of red"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    saved = {kind: tiny_models.save_transformers(root / kind, kind) for kind in KINDS[1:]}
    return {"open_clip": tiny_models.save_open_clip(root / "open_clip"), **saved}


@pytest.fixture(scope="module")
def encoders(directories: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_encoder(spec(kind, path), device="cpu") for kind, path in directories.items()}


def spec(kind: str, path: Path) -> str:
    return f"{'open_clip' if kind == 'open_clip' else 'transformers'}:{path}"


def pictures(count: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (20 + 9 * i, 40, 3), dtype=np.uint8)) for i in range(count)]


def embedded(encoder: Any, images: list[Image.Image]) -> torch.Tensor:
    found: torch.Tensor = encoder.embed_images(torch.stack([encoder.preprocess(image) for image in images]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch(kind: str, encoders: dict[str, Any]) -> None:
    encoder = encoders[kind]
    images = pictures()
    vectors = embedded(encoder, images)
    assert (vectors.shape, vectors.dtype, vectors.device.type) == ((5, encoder.width), torch.float32, "cpu")
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5), atol=1e-6)
    assert torch.equal(vectors, embedded(encoder, images)), "deterministic"
    alone = torch.cat([embedded(encoder, [image]) for image in images])
    assert torch.allclose(vectors, alone, atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)

    texts = encoder.embed_texts(TEXTS)
    assert (texts.shape, texts.dtype) == ((4, encoder.width), torch.float32)
    assert torch.allclose(texts.norm(dim=1), torch.ones(4), atol=1e-6)
    assert encoder.embed_texts([]).shape == (0, encoder.width)
    assert encoder.logit_scale == pytest.approx(float(encoder._towers.module.logit_scale.exp()))


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessing_in_threads_gives_the_same(kind: str, encoders: dict[str, Any]) -> None:
    images = pictures() * 8
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoders[kind].preprocess, images))
    assert all(
        torch.equal(encoders[kind].preprocess(image), found) for image, found in zip(images, together, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessing_can_be_sent_to_another_process_without_the_model(kind: str, encoders: dict[str, Any]) -> None:
    packed = pickle.dumps(encoders[kind].preprocess)
    assert len(packed) < 20_000
    assert torch.equal(pickle.loads(packed)(pictures()[0]), encoders[kind].preprocess(pictures()[0]))


def test_open_clip_equals_the_library(directories: dict[str, Path], encoders: dict[str, Any]) -> None:
    import open_clip

    name = f"local-dir:{directories['open_clip']}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(image) for image in pictures()]), normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    assert torch.allclose(embedded(encoders["open_clip"], pictures()), images, atol=1e-6)
    assert torch.allclose(encoders["open_clip"].embed_texts(TEXTS), texts, atol=1e-6)
    assert encoders["open_clip"].identity["library"] == f"open_clip {open_clip.__version__}"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_transformers_equals_the_library(kind: str, directories: dict[str, Path], encoders: dict[str, Any]) -> None:
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(directories[kind]).eval()
    processor: Any = transformers.AutoImageProcessor.from_pretrained(directories[kind])  # type: ignore[no-untyped-call]
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directories[kind])
    tokens = tokenizer(TEXTS, padding="max_length", max_length=tiny_models.TEXT_LENGTH, return_tensors="pt")
    mask = tokens["attention_mask"] if kind == "clip" else None
    with torch.no_grad():
        inputs = processor(images=pictures(), return_tensors="pt")
        found = model(input_ids=tokens["input_ids"], attention_mask=mask, **inputs)
    assert torch.allclose(embedded(encoders[kind], pictures()), found.image_embeds, atol=1e-5)
    assert torch.allclose(encoders[kind].embed_texts(TEXTS), found.text_embeds, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_trap_6_rows_of_texts_and_templates_are_not_mixed(kind: str, encoders: dict[str, Any]) -> None:
    encoder = encoders[kind]
    six = templates("csp")
    together = encoder.embed_texts(TEXTS * 9, six)  # more prompts than one batch holds
    assert len(TEXTS) * 9 * len(six) > encoder.batch_size * 4
    for row, text in enumerate(TEXTS):
        alone = torch.stack([encoder.embed_texts([template.replace("{}", text)])[0] for template in six]).mean(0)
        for copy in range(9):
            assert torch.allclose(together[row + 4 * copy], alone, atol=1e-5)
    assert (together.norm(dim=1) < 1).all(), "the mean is not renormalised"


def test_siglip_texts_are_padded_to_the_full_length(encoders: dict[str, Any]) -> None:
    for kind in ("siglip", "siglip2"):
        tokens = encoders[kind]._towers.tokenise(["red"])
        assert {name: tuple(tensor.shape) for name, tensor in tokens.items()} == {
            "input_ids": (1, tiny_models.TEXT_LENGTH)
        }


def test_braces_in_a_label_are_kept(encoders: dict[str, Any]) -> None:
    seen: list[str] = []
    towers = encoders["open_clip"]._towers
    spy = SimpleNamespace(**{name: getattr(towers, name) for name in towers.__dataclass_fields__})
    spy.tokenise = lambda texts: (seen.extend(texts), towers.tokenise(texts))[1]
    TwoTowers("spy", spy, torch.device("cpu")).embed_texts(["{0} {}"], ["a {}"])  # type: ignore[arg-type]
    assert seen == ["a {0} {}"]


def test_identity_tells_weights_apart(directories: dict[str, Path], encoders: dict[str, Any], tmp_path: Path) -> None:
    again = load_encoder(spec("open_clip", directories["open_clip"]), device="cpu").identity
    assert again == encoders["open_clip"].identity
    assert set(again) == {"spec", "weights", "preprocessing", "library"}
    assert "0x" not in again["preprocessing"]
    other = load_encoder(f"open_clip:{tiny_models.save_open_clip(tmp_path / 'other', seed=1)}", device="cpu").identity
    assert other["weights"] != again["weights"]
    assert other["preprocessing"] == again["preprocessing"]


def test_checkpoint_file_of_a_named_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    directory = tiny_models.save_open_clip(tmp_path / "tiny")
    (tmp_path / "configs").mkdir()
    import json

    config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "configs" / "csp-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs" / "csp-tiny.json")
    try:
        encoder = load_encoder(f"open_clip:csp-tiny/{directory}/open_clip_model.safetensors", device="cpu")
        assert encoder.width == tiny_models.WIDTH
        with pytest.raises(ModelError, match=r"checkpoint /no/such.pt of csp-tiny does not exist"):
            load_encoder("open_clip:csp-tiny//no/such.pt", device="cpu")
    finally:
        open_clip.factory._MODEL_CONFIGS.pop("csp-tiny")
        open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path / "configs" / "csp-tiny.json")


def test_merges_file_is_relative_to_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    directory = tmp_path / "cut"
    directory.mkdir()
    with gzip.open(directory / "merges.txt.gz", "wt") as stream:
        stream.write("#version\nr e\nre d</w>")
    tiny_models.save_open_clip(directory, vocab_size=516, tokenizer_kwargs={"bpe_path": "merges.txt.gz"})
    monkeypatch.chdir(tmp_path)
    encoder: Any = load_encoder("open_clip:./cut", device="cpu")
    assert encoder._towers.tokenise(["red"])["text"][0, :3].tolist() == [514, 513, 515]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("ViT-B-32", "names no library: write open_clip:ARCH/PRETRAINED"),
        ("open_clip:", "names no library"),
        ("open_clip:ViT-B32/openai", r"no architecture 'ViT-B32' \(near: ViT-B-32"),
        ("open_clip:ViT-B-32/laion2b", r"ViT-B-32 has no weights 'laion2b': .*TAG \(has: .*laion2b_e16"),
        ("open_clip:ViT-B-32", "ViT-B-32 needs its weights named"),
        ("open_clip:/no/such/model", "the directory /no/such/model does not exist"),
        ("open_clip:./model", "does not exist"),
        ("transformers:~/no/such/model", "does not exist"),
        ("python:json", "does not name a factory"),
        ("python:json:nothing", r"module 'json' has no function 'nothing' \(has: .*dump"),
        ("python:no.such.module:make", "cannot be imported: ModuleNotFoundError"),
        ("python:types:SimpleNamespace", "returned SimpleNamespace, which lacks width, logit_scale"),
    ],
)
def test_wrong_specs_are_told_in_one_line(wrong: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_encoder(wrong, device="cpu")
    assert "\n" not in str(error.value)


def test_mistyped_path_never_becomes_a_download(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = directories["open_clip"].parent
    with pytest.raises(ModelError, match=r"does not exist \(near: open_clip\)"):
        load_encoder(f"open_clip:{root}/open_clap", device="cpu")
    monkeypatch.chdir(root.parent)
    with pytest.raises(ModelError, match=r"looks like a path, .* it has no 'sigllip' \(near: siglip"):
        load_encoder(f"transformers:{root.name}/sigllip", device="cpu")


def test_damaged_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no open_clip_config.json"):
        load_encoder(f"open_clip:{tmp_path}", device="cpu")
    tiny_models.save_vit(tmp_path / "vit")
    with pytest.raises(ModelError, match="is a ViTModel, which does not put images and texts into one space"):
        load_encoder(f"transformers:{tmp_path}/vit", device="cpu")
    directory = tiny_models.save_open_clip(tmp_path / "broken")
    (directory / "open_clip_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(f"open_clip:{directory}", device="cpu")


def test_vectors_that_are_not_finite_are_an_error(encoders: dict[str, Any]) -> None:
    pixels = encoders["open_clip"].preprocess(pictures()[0])[None] * float("nan")
    with pytest.raises(ModelError, match="1 of 1 vectors are zero or not finite"):
        encoders["open_clip"].embed_images(pixels)


def test_unknown_device_is_told(directories: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match="device 'gpu' is unknown"):
        load_encoder(spec("open_clip", directories["open_clip"]), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="'cuda' is not available"):
            load_encoder(spec("open_clip", directories["open_clip"]), device="cuda")


def test_python_factory_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_encoder.py").write_text(
        "from types import SimpleNamespace\n"
        "def make():\n"
        "    names = 'width logit_scale identity device batch_size preprocess embed_images embed_texts'.split()\n"
        "    return SimpleNamespace(**dict.fromkeys(names))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_encoder("python:my_own_encoder:make").spec == "python:my_own_encoder:make"


def test_template_sets(tmp_path: Path) -> None:
    assert templates("none") == ("{}",)
    assert len(templates("csp")) == 6
    assert len(templates("openai")) == 80
    assert all(template.count("{}") == 1 for name in ("csp", "openai") for template in templates(name))
    own = tmp_path / "own.txt"
    own.write_text("a {}\n\nthe {}\n")
    assert templates(str(own)) == ("a {}", "the {}")
    (tmp_path / "bad.txt").write_text("a {} and {}\n")
    with pytest.raises(SettingError, match="must hold exactly one"):
        templates(str(tmp_path / "bad.txt"))
    with pytest.raises(SettingError, match="has: none, csp, openai"):
        templates("imagenet")


def test_importing_the_module_does_not_import_the_libraries() -> None:
    code = (
        "import sys, csp_index.models.encoders; "
        "print([m for m in ('open_clip', 'transformers', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_on_the_gpu_is_near_float32(
    kind: str, directories: dict[str, Path], encoders: dict[str, Any]
) -> None:
    fast = load_encoder(spec(kind, directories[kind]), device="cuda")
    assert (embedded(fast, pictures()) * embedded(encoders[kind], pictures())).sum(dim=1).min() > 0.999
    assert (fast.embed_texts(TEXTS) * encoders[kind].embed_texts(TEXTS)).sum(dim=1).min() > 0.999
