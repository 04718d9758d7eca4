"""What is given as a weight file: folders and shards are read, other kinds of files are called by their name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from csp_index.errors import ModelError
from csp_index.models.checkpoints import load_weights
from csp_index.models.specs import check_weights, network_spec
from csp_index.models.weights import local_directory, read_file

TABLE = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def shards(folder: Path) -> Path:
    save_file({"a": TABLE["a"]}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": TABLE["b"]}, folder / "model-00002-of-00002.safetensors")
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def same(content: object) -> bool:
    return isinstance(content, dict) and all(torch.equal(content[name], tensor) for name, tensor in TABLE.items())


def test_shards_are_read_together_by_their_index_or_their_folder(tmp_path: Path) -> None:
    index = shards(tmp_path)
    assert same(read_file(index)) and same(read_file(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shards that are not beside it: model-00002-of-00002\.safetensors"):
        read_file(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelError, match=r"not beside it: \.\./secret"):
        read_file(index)


def test_a_folder_stands_for_its_only_or_usual_weight_file(tmp_path: Path) -> None:
    torch.save(TABLE, tmp_path / "run.ckpt")
    assert same(read_file(tmp_path))
    torch.save({}, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"2 weight files \(other.ckpt, run.ckpt\): name one of them"):
        read_file(tmp_path)
    torch.save(TABLE, tmp_path / "pytorch_model.bin")
    assert same(read_file(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gguf", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX graph"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        ("a.msgpack", b"\x81\xa1a\x01", "is a checkpoint of Flax"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("a.pt", b"\n<!doctype html><html>", "is a web page"),
        ("a.pt", b"", "is empty"),
        ("a.json", b'{"a": 1}', "is JSON, which holds settings"),
        ("a.pt", b"hello", "cannot be read as plain tensors"),
    ],
)
def test_other_kinds_of_files_are_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_file(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_pickled_module_is_named_and_never_run(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match=r"holds the Python object torch\.nn\.modules\.linear\.Linear, which is never"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "whole.pt")


def test_a_distributed_checkpoint_is_refused_with_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(ModelError, match="a distributed checkpoint: convert it first"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda file: network_spec(str(file)), "is a file: name the network it is of, and give the file as --weights"),
        (lambda file: local_directory(str(file), ModelError), "is a file: expected a directory"),
        (lambda file: network_spec(" "), "names no library"),
        (lambda file: network_spec("~/no/such/folder"), "is a path to nothing"),
        (lambda file: check_weights(""), "the name of the weight file is empty"),
    ],
)
def test_a_file_for_a_network_and_empty_names_are_said(
    work: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "net.pt"
    file.write_bytes(b"x")
    with pytest.raises(ModelError) as caught:
        work(file)
    assert message in str(caught.value)
