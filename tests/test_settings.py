"""The table of settings: the call before the environment before the default, and bad values refused."""

from __future__ import annotations

import pytest
from fakes import write_arrays

from csp_index import open_index, settings
from csp_index.errors import SettingError
from csp_index.settings import SETTINGS


def test_a_setting_comes_from_the_call_then_the_environment_then_the_table(monkeypatch):
    monkeypatch.delenv("CSP_INDEX_SHARD_SIZE", raising=False)
    assert settings.SHARD_SIZE.value() == SETTINGS["shard_size"].default
    monkeypatch.setenv("CSP_INDEX_SHARD_SIZE", "64")
    assert settings.SHARD_SIZE.value() == 64
    assert settings.SHARD_SIZE.value(8) == 8
    monkeypatch.setenv("CSP_INDEX_DEVICE", "cpu")
    assert settings.DEVICE.value() == "cpu"
    assert settings.DEVICE.value("mps") == "mps"


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_has_a_default_that_holds_a_help_text_and_a_variable(name, monkeypatch):
    setting = SETTINGS[name]
    monkeypatch.delenv(setting.variable, raising=False)  # the tests have their own folder for a user's state
    assert setting.value() == (None if isinstance(setting, settings.CountOrAuto) else setting.default)
    assert getattr(settings, name.upper()) is setting
    assert setting.help.endswith(".")
    assert setting.variable == f"CSP_INDEX_{name.upper()}"
    assert not setting.choices or setting.default in setting.choices


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("shard_size", "many", "setting shard_size is 'many': expected int .default 2048."),
        ("shard_size", "2.5", "expected int"),
        ("shard_size", "", "expected int"),
        ("shard_size", "0", "setting shard_size is 0: expected at least 1"),
        ("vlm_retries", "-1", "setting vlm_retries is -1: expected at least 0 .default 4."),
        ("vlm_timeout", "inf", "setting vlm_timeout is inf: expected 0 or more .default 120.0."),
        ("caption_floor", "nan", "setting caption_floor is nan: expected a finite number .default 0.1."),
        ("serve_threads", "-1", "setting serve_threads is '-1': expected auto or a number from 0 to 1024"),
        ("top_images", "-3", "setting top_images is -3: expected at least 1"),
        ("activation_dtype", "float8", "setting activation_dtype is 'float8': expected one of float32, float16"),
    ],
)
def test_bad_values_are_refused_in_one_line(name, value, told, monkeypatch):
    monkeypatch.setenv(SETTINGS[name].variable, value)
    with pytest.raises(SettingError, match=told) as error:
        SETTINGS[name].value()
    assert "\n" not in str(error.value)


def test_the_environment_reaches_the_index(tmp_path, monkeypatch):
    paths = write_arrays(tmp_path)
    monkeypatch.setenv("CSP_INDEX_SHARD_SIZE", "25")
    monkeypatch.setenv("CSP_INDEX_ACTIVATION_DTYPE", "float16")
    monkeypatch.setenv("CSP_INDEX_TOP_IMAGES", "5")
    index = open_index(tmp_path / "db")
    assert index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"]).shards == 3
    assert index.sql("SELECT DISTINCT dtype, len(top_images) AS kept FROM layers, neurons").rows() == [
        {"dtype": "float16", "kept": 5}
    ]


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if not isinstance(setting.default, float)])
@pytest.mark.parametrize("value", ["9" * 20, "-" + "9" * 20, "9" * 5000])
def test_numbers_beyond_64_bits_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(SETTINGS[name].variable, value)
    if isinstance(SETTINGS[name], settings.Text):
        return
    with pytest.raises(SettingError, match=name) as error:
        SETTINGS[name].value()
    assert "\n" not in str(error.value)
