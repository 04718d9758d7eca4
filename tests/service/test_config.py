"""Where a service listens and who may use it: settings that would open it to strangers are refused."""

from __future__ import annotations

import pytest

from csp_index.errors import SettingError
from csp_index.service.config import ServiceSettings, read_token

TOKEN = "a token of some length"


def test_off_loopback_a_token_or_consent_is_needed():
    for host in ("0.0.0.0", "::", "192.168.1.4", "birds.example"):
        with pytest.raises(SettingError, match="--token-file FILE, or say --public-read"):
            ServiceSettings(host=host)
        assert ServiceSettings(host=host, token=TOKEN).sql is False
        assert ServiceSettings(host=host, public_read=True).sql is False
        assert ServiceSettings(host=host, public_read=True, sql=True).sql is True
    assert ServiceSettings(host="127.0.0.9").sql is True
    assert ServiceSettings(sql=False).sql is False


def test_the_token_never_shows():
    assert TOKEN not in repr(ServiceSettings(token=TOKEN))
    with pytest.raises(SettingError, match="the token has 5 characters: expected at least 16"):
        ServiceSettings(token="short")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b"two words", "white space in it"),
    ],
)
def test_a_token_file_holds_one_word(tmp_path, content, told):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingError, match=told):
        read_token(tmp_path / "token")


def test_a_token_file_is_read(tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert read_token(tmp_path / "token") == "0123456789abcdef"
    with pytest.raises(SettingError, match="cannot be read"):
        read_token(tmp_path / "none")
    with pytest.raises(SettingError, match="cannot be read"):
        read_token(tmp_path)
