"""Properties of what the root reads: settings, addresses, options, .npy files, texts for terminals."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, ODD, QUICK, damaged, like, refusing

from csp_index.errors import AddressError, ArrayError, CspIndexError, SettingError, StoreError
from csp_index.files.array_files import load_array
from csp_index.files.regular_files import read_bytes, read_text, user_path
from csp_index.printable import printable, printable_json
from csp_index.records import ExampleOptions, LayerKey, NeuronKey, ScoringOptions
from csp_index.settings import MAX_TEXT_BYTES, SETTINGS, Amount, Count, CountOrAuto, Real, Setting

NAME = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text and text == text.strip())


@QUICK
@given(st.text(), st.sampled_from([CspIndexError, StoreError]))
@example("a\n\x1b[2J\ud800", StoreError)
def test_every_message_is_one_line_that_can_be_encoded(text: str, kind: type[CspIndexError]) -> None:
    message = str(kind(text))
    assert message.isprintable() or not set(message) & set("\n\r\x1b\x85\u2028")
    assert len(message.splitlines()) <= 1 and message.encode() is not None
    if text.isprintable():
        assert message == text


@QUICK
@given(st.sampled_from(list(SETTINGS.values())), like("1", "0", "-", ".", "e", "_", "auto", "inf", "float16"))
def test_a_setting_is_in_its_bounds_or_refused(setting: Setting, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch, refusing(SettingError):
        value = setting.value(text)
        if text and not {"\0"} & set(text):
            patch.setenv(setting.variable, text)
            assert setting.value() == value
        if isinstance(setting, Count):
            assert isinstance(value, int) and setting.least <= value <= setting.most
        if isinstance(setting, CountOrAuto):
            assert value is None or (isinstance(value, int) and 0 <= value <= setting.most)
        if isinstance(setting, Amount | Real):
            assert isinstance(value, float) and np.isfinite(value)
        if setting.choices:
            assert value in setting.choices
        assert setting.value(str(value) if value is not None else "auto") == value


def test_the_default_of_every_setting_is_read_as_it_is_written() -> None:
    for setting in SETTINGS.values():
        assert setting.value(str(setting.default)) == setting.value(setting.default)


@QUICK
@given(st.sampled_from(list(SETTINGS.values())), st.one_of(st.floats(), st.integers()))
def test_a_setting_from_python_is_in_its_bounds_or_refused(setting: Setting, number: float) -> None:
    with refusing(SettingError):
        setting.value(number)


@QUICK
@given(NAME, NAME, st.integers(0, 10**18 - 1))
def test_addresses_are_read_as_they_are_written(model: str, layer: str, neuron: int) -> None:
    assert LayerKey.parse(f"{model}/{layer}") == LayerKey(model, layer)
    key = NeuronKey(model, layer, neuron)
    assert NeuronKey.parse(str(key)) == key


@QUICK
@given(like("m", "/", "layer4.0", "7", "-"))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with refusing(AddressError):
        key = LayerKey.parse(text)
        assert str(key) == text and key.model and key.layer and "/" not in key.model + key.layer
    with refusing(AddressError):
        neuron = NeuronKey.parse(text)
        assert 0 <= neuron.neuron < 10**18 and LayerKey.parse(str(neuron.layer_key)) == neuron.layer_key


EXAMPLE_FIELDS = sorted(ExampleOptions.__dataclass_fields__)
SCORING_FIELDS = sorted(ScoringOptions.__dataclass_fields__)


@QUICK
@given(st.sampled_from(EXAMPLE_FIELDS), JSON, st.sampled_from(SCORING_FIELDS))
@example("variant_prompt", 5, "prior")
@example("reuse", "no", "subtract_empty")
@example("generator", [], "renormalise_text")
def test_options_are_of_their_kinds_or_refused(name: str, value: object, other: str) -> None:
    with refusing(SettingError):
        options = ExampleOptions(**{name: value})  # type: ignore[arg-type]
        assert options.kinds and "{caption}" in options.variant_prompt
        _same_kind(getattr(options, name), getattr(ExampleOptions(), name))
    with refusing(SettingError):
        scoring = ScoringOptions(**{other: value})  # type: ignore[arg-type]
        _same_kind(getattr(scoring, other), getattr(ScoringOptions(), other))


def _same_kind(value: object, default: object) -> None:
    if isinstance(default, bool | str):
        assert type(value) is type(default)
    elif default is None:
        assert value is None or isinstance(value, str | int | float)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arrays") / "array.npy"


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@QUICK
@given(
    st.one_of(
        damaged(_npy(ARRAY)),
        st.binary(max_size=40),
        st.binary(max_size=40).map(b"PK\x03\x04".__add__),
        st.tuples(like("{'descr': '<f4', ", "'fortran_order': False, ", "'shape': (2, 3), }", "(", "'", "<M8")).map(
            lambda parts: (
                b"\x93NUMPY\x01\x00"
                + len(parts[0].encode("latin-1", "replace")[:9000]).to_bytes(2, "little")
                + parts[0].encode("latin-1", "replace")[:9000]
                + bytes(24)
            )
        ),
    )
)
@example(b"PK\x03\x04 no archive")
@example(b"PK\x05\x06" + bytes(18))
@example(_npy(ARRAY.view("V4")))
@example(_npy(ARRAY[0]))
def test_any_bytes_are_an_array_of_finite_numbers_or_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with refusing(ArrayError):
        array = load_array(file, "embeddings")
        assert array.ndim == 2 and array.size and np.isfinite(array).all()
        del array


def test_an_array_is_read_as_it_is_written(file: Path) -> None:
    file.write_bytes(_npy(ARRAY))
    assert np.array_equal(load_array(file, "embeddings"), ARRAY)


@QUICK
@given(like("/", ".", "..", "~", "x"))
@example("\0")
@example("~\0/x")
@example("a" * 300)
@example("\ud800")
def test_any_path_is_read_or_an_os_error(text: str) -> None:
    assert user_path(text) is not None
    for read in (read_text, lambda path: read_bytes(path, MAX_TEXT_BYTES)):
        try:
            read(text)
        except (OSError, UnicodeDecodeError):
            continue


@QUICK
@given(st.text(), JSON)
@example(ODD[5], "\ud800")
def test_what_terminals_show_moves_no_cursor(text: str, value: object) -> None:
    assert len(printable(text).splitlines()) <= 1 and printable(text).encode() is not None
    assert printable(printable(text)) == printable(text)
    line = printable_json(value)
    assert "\n" not in line and json.dumps(json.loads(line)) == json.dumps(value)
    assert os.linesep not in printable(text)
