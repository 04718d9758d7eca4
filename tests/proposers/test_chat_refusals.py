"""Models that cannot be asked about pictures are refused in a line, before anything is asked; their code is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_vlms

from csp_index.errors import ProposerError
from csp_index.proposers.transformers_vlm import ChatModel


def refused(spec: str) -> str:
    with pytest.raises(ProposerError) as error:
        ChatModel(spec, device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_of_text_only_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    directory = tiny_vlms.save_text_model(tmp_path / kind, kind)
    assert refused(f"transformers:{directory}") == (
        f"transformers:{directory} is a {kind}, a model of text only: name a "
        "vision-language model, one of those that transformers lists under image-text-to-text"
    )


def test_a_captioner_without_a_prompt_is_refused(tmp_path: Path) -> None:
    directory = tiny_vlms.save_captioner(tmp_path / "blip")
    assert "only captions with --captioner" in refused(f"transformers:{directory}")


def test_a_directory_without_a_processor_is_refused(llava: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (llava / name).unlink(missing_ok=True)
    assert "processor" in refused(f"transformers:{llava}")


def test_a_processor_that_does_not_fit_its_model_is_refused_before_anything_is_asked(llava: Path) -> None:
    file = llava / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "patch_size": 14}))
    assert "cannot answer about a small gray test picture on cpu" in refused(f"transformers:{llava}")


def test_a_directory_without_weights_is_refused(llava: Path) -> None:
    (llava / "model.safetensors").unlink()
    assert "cannot be loaded" in refused(f"transformers:{llava}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("transformers:nobody/has-this-model", "cannot be loaded (expected: a directory that save_pretrained wrote"),
        ("transformers:/no/such/folder", "the directory /no/such/folder does not exist"),
        ("transformers:", "names no library"),
        ("open_clip:ViT-B-32/openai", "names no library"),
    ],
)
def test_an_unknown_model_is_refused_in_a_line(spec: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert said in refused(spec)


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(trap)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    own = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "auto_map": own}))
    assert "which is never run" in refused(f"transformers:{tmp_path}")
    assert not trap.exists()
