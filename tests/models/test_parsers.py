"""Properties of what is read about models: their specs, weight files, devices, templates; of autoencoders the files."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import QUICK, damaged, like, refusing
from safetensors.torch import save

from csp_index.errors import ModelError, SettingError
from csp_index.models.layers.pooling import choose_pool
from csp_index.models.prompt_templates import TEMPLATE_SETS, as_stored, fill, from_index, templates
from csp_index.models.sparse_autoencoders import SparseAutoencoder, SparseSource, settled, split_spec
from csp_index.models.weights import lasting, local_directory, read_file, resolve_device
from csp_index.models.zoo import default_name

SPEC = like(
    "timm:",
    "torchvision:",
    "python:",
    "resnet50",
    "/none",
    "+sae:",
    "layer4=",
    "f.safetensors",
    ":topk=",
    "32",
    ":places",
    ":name=",
    "~",
    "/",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@QUICK
@given(SPEC)
@example("timm:~nobody-here/x")
@example("timm:" + "a" * 300 + "/x")
@example("timm:/\0")
@example("timm:x+sae:a=~nobody-here/f")
@example("timm:x+sae:a=f:topk=" + "9" * 5000)
@example("timm:x+sae:a=\0")
def test_any_spec_of_a_network_has_a_name_or_is_refused(spec: str) -> None:
    with refusing(ModelError):
        assert default_name(spec) is not None
    with refusing(ModelError):
        base, added = split_spec(spec)
        assert all(split_spec(f"{base}+sae:{source}")[1] == (source,) for source in added)
    with refusing(ModelError):
        assert settled(settled(spec)) == settled(spec)
    with refusing(ModelError):
        assert lasting(lasting(spec)) == lasting(spec)
    with refusing(ModelError):
        local_directory(spec.partition(":")[2], ModelError)


NAME = st.text(st.characters(categories=("L", "Nd"), include_characters="._-"), min_size=1, max_size=6)


@QUICK
@given(
    NAME,
    NAME,
    st.none() | st.integers(1, 99),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, "max"]),
    st.none() | NAME,
)
def test_an_autoencoder_is_read_as_it_is_written(
    layer: str, file: str, topk: int | None, places: bool, plain: bool, pool: str | None, name: str | None
) -> None:
    source = SparseSource(layer, f"/{file}.safetensors", topk, places, plain, pool, name)
    assert split_spec(f"timm:x+sae:{source}") == ("timm:x", (source,))
    assert settled(f"timm:x+sae:{source}") == f"timm:x+sae:{source}"


TENSORS = {"W_enc": torch.ones(3, 5), "b_enc": torch.zeros(5), "b_dec": torch.zeros(3), "k": torch.tensor(2)}
SHAPE = st.lists(st.integers(0, 5), max_size=3)


@QUICK
@given(
    st.one_of(
        damaged(save(TENSORS)),
        st.binary(max_size=40),
        st.tuples(
            st.dictionaries(st.sampled_from(["W_enc", "encoder.weight", "b_enc", "b_pre", "b_dec", "k", "x"]), SHAPE),
            st.sampled_from([torch.float32, torch.float16, torch.int64, torch.complex64, torch.bool]),
            st.dictionaries(
                st.sampled_from(["k", "architecture", "apply_b_dec_to_input"]), like("topk", "3", "false"), max_size=2
            ),
        ).map(lambda drawn: save({n: torch.ones(s, dtype=drawn[1]) for n, s in drawn[0].items()}, _metadata(drawn[2]))),
    ),
    st.booleans(),
)
@example(save(TENSORS | {"b_enc": torch.tensor(1.0)}), False)
@example(save(TENSORS | {"b_dec": torch.tensor(1.0)}), False)
@example(save(TENSORS | {"k": torch.tensor(float("inf"))}), False)
@example(save({"W_enc": torch.ones(0, 5)}), False)
@example(save(TENSORS | {"W_enc": torch.ones(3, 5, dtype=torch.complex64)}), False)
def test_any_file_is_an_autoencoder_or_refused(folder: Path, data: bytes, plain: bool) -> None:
    file = folder / "sae.safetensors"
    file.write_bytes(data)
    with refusing(ModelError):
        read = SparseAutoencoder(SparseSource("a", str(file), plain=plain))
        width, features = read.encoder.shape
        assert width and features and read.bias.shape == (features,) and read.centre.shape == (width,)
        assert read.topk is None or 0 < read.topk <= features
        assert read.encode(torch.ones(1, width)).shape == (1, features)


_WORDS = like("topk", "batch-top-k", "jumprelu", "gated", "relu", "none", "layer_norm", "3", "x", "\n")
_PLAIN = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | _WORDS | st.just([1])
_NAMED = st.sampled_from(
    [
        "k",
        "architecture",
        "activation",
        "activation_fn_kwargs",
        "trainer",
        "cfg",
        "dict_class",
        "threshold",
        "schema",
        "normalize_activations",
        "normalize",
        "apply_b_dec_to_input",
        "d_in",
        "postact_fn",
        "input_scale",
        "params",
    ]
)
_SETTINGS = st.recursive(_PLAIN, lambda inner: st.dictionaries(_NAMED, inner, max_size=3), max_leaves=6)
_PARTS = st.sampled_from(
    [
        "threshold",
        "log_threshold",
        "r_mag",
        "b_mag",
        "b_gate",
        "bias",
        "W_dec",
        "input_std",
        "input_scale",
        "k",
        "encoder.final_block.0.weight",
        "encoder.final_block.1.running_mean",
        "encoder.final_block.1.running_var",
    ]
)


@QUICK
@given(
    st.dictionaries(_NAMED, _SETTINGS, max_size=4),
    st.dictionaries(_PARTS, SHAPE, max_size=4),
    st.none() | st.dictionaries(_NAMED, _SETTINGS, max_size=2),
)
@example({}, {"encoder.final_block.0.weight": []}, None)
@example({"k": True}, {"threshold": []}, {"trainer": {"k": 3}})
def test_any_settings_are_understood_or_refused(
    folder: Path, beside: dict[str, object], parts: dict[str, list[int]], line: dict[str, object] | None
) -> None:
    place = folder / "any"
    place.mkdir(exist_ok=True)
    (place / "cfg.json").write_text(json.dumps(beside))
    buffer = io.BytesIO()
    torch.save(
        {"W_enc": torch.ones(3, 5), "b_dec": torch.ones(3)} | {n: torch.ones(s) for n, s in parts.items()}, buffer
    )
    start = b"" if line is None else json.dumps(line).encode() + b"\n"
    (place / "sae.pt").write_bytes(start + buffer.getvalue())
    with refusing(ModelError):
        read = SparseAutoencoder(SparseSource("a", str(place)))
        assert "\n" not in read.understood
        features = read.encode(torch.ones(2, 3))
        assert features.shape == (2, 5) and bool((features >= 0).all() | features.isnan().any())


def _metadata(drawn: dict[str, str]) -> dict[str, str]:
    return {name: text.encode("utf-8", "replace").decode() for name, text in drawn.items()}


@QUICK
@given(st.one_of(st.binary(max_size=40), damaged(save(TENSORS))), st.sampled_from([".pt", ".bin", ".safetensors", ""]))
@example(b"PK\x03\x04", ".pt")
@example(b"\x80\x02cposix\nsystem\n.", ".pt")
def test_any_file_is_weights_or_refused(folder: Path, data: bytes, suffix: str) -> None:
    file = folder / f"weights{suffix}"
    file.write_bytes(data)
    with refusing(ModelError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about old formats
        read_file(file)


@QUICK
@given(like("cpu", "cuda", "mps", ":", "0", "meta", "xla", "privateuseone"))
@example("cuda:" + "9" * 30)
@example("cpu:" + "9" * 30)
@example("cpu:7")
@example("\ud800")
def test_any_text_is_a_device_or_refused(text: str) -> None:
    with refusing(SettingError):
        assert resolve_device(text).type in ("cpu", "cuda", "mps")


def _check(lines: tuple[str, ...]) -> None:
    assert lines and all(line == line.strip() and line.count("{}") == 1 for line in lines)
    assert all(fill(line, "{x} {}") == line.replace("{}", "{x} {}", 1) for line in lines)


@QUICK
@given(st.one_of(like("{}", "a ", "\n", "{x}", "{{}}").map(str.encode), st.binary(max_size=30)))
@example(b"a {}\x0bb {}\n")
@example("{}\u2028\n".encode())
def test_any_file_is_templates_or_refused_and_is_stored_whole(folder: Path, data: bytes) -> None:
    file = folder / "t.txt"
    file.write_bytes(data)
    with refusing(SettingError):
        lines = templates(str(file))
        _check(lines)
        stored = as_stored(str(file))
        assert templates(from_index(stored)) == lines and as_stored(stored) == stored


@QUICK
@given(like("csp", "none", "openai", "{}", "a", "\n", "~", "/"))
@example("~nobody-here/t.txt")
@example("\0")
def test_any_name_is_templates_or_refused(name: str) -> None:
    with refusing(SettingError):
        _check(templates(name))
    with refusing(SettingError):
        assert from_index(name) in TEMPLATE_SETS or "\n" in name


@QUICK
@given(st.lists(st.integers(0, 3), max_size=4), st.none() | like("mean", "cls", "none", "token-max", "mean-last"))
def test_any_pool_fits_or_is_refused(shape: list[int], text: str | None) -> None:
    with refusing(ModelError):
        pool = choose_pool(tuple(shape), text, has_class_token=True)
        assert text is None or pool.startswith(text)
