"""Reading the files of a model runs no code: neither code beside them nor pickles in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from csp_index.errors import CspIndexError, ModelError
from csp_index.models.encoders import load_encoder
from csp_index.models.networks import load_network
from csp_index.models.weights import read_file

CODE = """
from pathlib import Path
Path({ran!r}).write_text("code beside a model ran")
from transformers import CLIPConfig, CLIPModel, CLIPImageProcessor, PreTrainedTokenizerFast
class Config(CLIPConfig):
    model_type = "evil"
class Model(CLIPModel):
    config_class = Config
class Images(CLIPImageProcessor): ...
class Tokens(PreTrainedTokenizerFast): ...
"""
AUTO = {
    "config.json": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
    "preprocessor_config.json": {"AutoImageProcessor": "evil.Images"},
    "tokenizer_config.json": {"AutoTokenizer": ["evil.Tokens", "evil.Tokens"]},
}


class Bomb:
    """Pickled, it runs code when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "a pickle ran")


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that exists once code of a model has run; a question at the terminal is answered by yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return tmp_path / "ran"


@pytest.fixture
def clip(tmp_path: Path, ran: Path) -> Path:
    """Return a directory of transformers with code beside the model."""
    directory = tiny_models.save_transformers(tmp_path / "clip", "clip")
    (directory / "evil.py").write_text(CODE.format(ran=str(ran)))
    return directory


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("file", AUTO)
@pytest.mark.parametrize("unknown", [True, False])
def test_auto_map_never_runs(file: str, unknown: bool, clip: Path, ran: Path) -> None:
    change(clip / file, auto_map=AUTO[file])
    if unknown:  # so that the library could only go on by the code
        change(clip / "config.json", model_type="evil")
        change(clip / "preprocessor_config.json", image_processor_type="Images")
        change(clip / "tokenizer_config.json", tokenizer_class="Tokens")
    for load in (lambda: load_encoder(f"transformers:{clip}"), lambda: load_network(f"transformers:{clip}", layers=[])):
        try:
            load()
        except ModelError as exc:
            assert "\n" not in str(exc)
    assert not ran.exists()


def test_a_model_that_needs_its_code_is_refused_in_words(clip: Path, ran: Path) -> None:
    change(clip / "config.json", auto_map=AUTO["config.json"], model_type="evil")
    with pytest.raises(ModelError, match="needs code of its own, which is never run"):
        load_encoder(f"transformers:{clip}")
    with pytest.raises(ModelError, match="needs code of its own, which is never run"):
        load_network(f"transformers:{clip}", layers=["visual_projection"])
    assert not ran.exists()


@pytest.mark.parametrize("keywords", [{"trust_remote_code": True}, {"trust_remote_code": "yes", "use_fast": True}, {}])
def test_an_open_clip_directory_cannot_turn_its_tokenizer_into_code(
    keywords: dict[str, Any], clip: Path, ran: Path, tmp_path: Path
) -> None:
    directory = tiny_models.save_open_clip(tmp_path / "enc")
    for file in clip.iterdir():
        if file.name != "config.json":
            shutil.copy(file, directory / file.name)
    change(directory / "tokenizer_config.json", auto_map=AUTO["tokenizer_config.json"], tokenizer_class="Tokens")
    config = json.loads((directory / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "anything", "tokenizer_kwargs": keywords}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    try:
        load_encoder(f"open_clip:{directory}").embed_texts(["red star"])
    except ModelError as exc:
        assert "\n" not in str(exc)
    assert not ran.exists()


def test_an_open_clip_directory_cannot_name_a_text_model_with_code(clip: Path, ran: Path, tmp_path: Path) -> None:
    directory = tiny_models.save_open_clip(tmp_path / "enc")
    change(clip / "config.json", auto_map=AUTO["config.json"], model_type="evil")
    config = json.loads((directory / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(clip), "hf_tokenizer_name": str(clip)}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="never run"):
        load_encoder(f"open_clip:{directory}")
    assert not ran.exists()


def test_a_timm_directory_runs_nothing(ran: Path, tmp_path: Path) -> None:
    directory = tmp_path / "timm"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": {}}))
    torch.save({"state_dict": Bomb(ran)}, directory / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_network(f"timm:{directory}", layers=["layer1"])
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["open_clip", "transformers"])
@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pth"])
def test_pickled_weights_of_a_directory_run_nothing(
    kind: str, name: str, clip: Path, ran: Path, tmp_path: Path
) -> None:
    directory = tiny_models.save_open_clip(tmp_path / "enc") if kind == "open_clip" else clip
    for file in directory.glob("*.safetensors"):
        file.unlink()
    torch.save({"logit_scale": Bomb(ran)}, directory / name)
    with pytest.raises(ModelError):
        load_encoder(f"{kind}:{directory}")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.ckpt", "weights"])
def test_a_weight_file_or_an_autoencoder_runs_nothing(name: str, ran: Path, tmp_path: Path) -> None:
    torch.save({"conv.weight": Bomb(ran)}, tmp_path / name)
    for read in (
        lambda: read_file(tmp_path / name),
        lambda: load_network("python:fakes:network", layers=["conv"], weights=tmp_path / name),
        lambda: load_network(f"python:fakes:network+sae:conv={tmp_path / name}", layers=["conv.sae-weights"]),
    ):
        with pytest.raises(CspIndexError):
            read()
    assert not ran.exists()


def test_the_bomb_goes_off_where_pickles_are_read(ran: Path, tmp_path: Path) -> None:
    torch.save(Bomb(ran), tmp_path / "weights.pt")
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert ran.exists()
