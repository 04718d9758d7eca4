"""Without a connection a model is loaded from what is on this disk, and what is not is said in one line."""

from __future__ import annotations

import logging
import socket

import pytest

from csp_index.errors import ModelError
from csp_index.models import hub
from csp_index.models.autoencoders.files import read_files
from csp_index.models.encoders import load_encoder
from csp_index.models.remote_code import cannot_load


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A machine whose resolver knows no host, without a proxy and without kept models; return what was looked up."""
    from huggingface_hub import constants

    asked = []

    def unknown(host: str, *rest: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://models.example")
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return asked


def test_an_encoder_of_the_hub_fails_at_once_in_one_line(alone, caplog):
    with pytest.raises(ModelError) as failure:
        load_encoder("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert "is not on this machine and cannot be downloaded (no connection to models.example): give" in str(
        failure.value
    )
    assert alone == ["models.example"] * 2  # nothing was asked for a file
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_autoencoder_of_the_hub_fails_at_once_too(alone):
    with pytest.raises(
        ModelError, match=r"org/sae cannot be fetched \(no connection to models\.example\): download it"
    ):
        read_files("hf:org/sae")


def test_the_hub_is_asked_again_after_that(alone):
    from huggingface_hub import constants

    with hub.kept_files_if_alone("ViT-B-32/openai"):
        assert constants.HF_HUB_OFFLINE
        logging.error("what is raised next")
    assert not constants.HF_HUB_OFFLINE
    assert not logging.getLogger().filters


def test_a_folder_needs_no_hub(alone, tmp_path):
    from huggingface_hub import constants

    with hub.kept_files_if_alone(str(tmp_path)):
        assert not constants.HF_HUB_OFFLINE
    assert alone == []


def test_behind_a_proxy_the_library_asks(alone, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy.example"})
    with hub.kept_files_if_alone("ViT-B-32/openai"):
        assert not constants.HF_HUB_OFFLINE
    assert alone == []
    assert hub.why_not_downloaded(RuntimeError("Connection error: x")) == "Connection error: x"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("urlopen error [Errno -2]", "(urlopen error [Errno -2])"),  # torchvision's weights are not on the hub
        ("Cannot reach it: offline mode is enabled", "(no connection to models.example)"),
    ],
)
def test_the_reason_is_that_of_the_library_or_the_missing_connection(alone, message, why):
    assert why in str(cannot_load("the network x", RuntimeError(message)))
    assert "cannot be loaded: bad shape" in str(cannot_load("the network x", RuntimeError("bad shape")))


def test_who_asked_for_no_connection_is_told_so(alone, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.why_not_downloaded(RuntimeError("offline mode is enabled")) == "HF_HUB_OFFLINE is set"


def test_whether_the_hub_can_be_asked(alone, monkeypatch):
    from huggingface_hub import constants

    assert hub.is_alone() and alone == ["models.example"]
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy.example"})
    assert not hub.is_alone()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.is_alone()
