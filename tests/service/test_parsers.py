"""Properties of what the service reads: headers, cookies, cursors, addresses, bodies, pages of the manual, hosts."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pydantic_core
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, QUICK, check_message, like, refusing, replaced

from csp_index import errors
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings, read_token
from csp_index.service.documents.layer import GalleryQuery
from csp_index.service.documents.manual import manual_document, picture
from csp_index.service.http.addresses import neuron_href
from csp_index.service.http.api import fault_of
from csp_index.service.http.auth import Token, fault_of_address, first, is_foreign, local_path, wants_page
from csp_index.service.http.pages import _keys
from csp_index.service.http.rendering import moment, took
from csp_index.service.http.schemas import LabelBody, SqlBody

KEY = LayerKey("cnn", "concepts")
SETTINGS = ServiceSettings(hosts=("birds.example",))
VALUE = like(
    "localhost", ":8000", "birds.example", "Bearer ", "csp_index_8000=", ";", "[::1]", "http://", "%", "*", ","
).map(lambda text: text.encode("utf-8"))
NAMES = [b"host", b"origin", b"authorization", b"cookie", b"accept", b"content-length", b"transfer-encoding"]
HEADERS = st.lists(
    st.tuples(st.sampled_from([*NAMES, b"sec-fetch-site", b"sec-fetch-mode"]), VALUE | st.binary(max_size=9))
)


@QUICK
@given(HEADERS, like("/", "search", ".json", "..", "\n"))
@example([(b"host", b"localhost"), (b"origin", b"http://[")], "/")
@example([(b"cookie", b"csp_index_8000=" + b"9" * 11 + b".\xff")], "/")
def test_any_headers_are_judged(headers: list[tuple[bytes, bytes]], path: str) -> None:
    fault = fault_of_address(SETTINGS, path, headers)
    assert fault is None or check_message(fault) is None
    assert is_foreign(SETTINGS, headers) in (True, False) and wants_page(path, headers) in (True, False)
    token = Token("0123456789abcdef", 8000, "start")
    assert not token.admits(headers)
    assert token.admits([(b"cookie", f"a=b; {token.cookie}={token.session()}".encode())])
    assert first(headers, b"accept") is not None


@QUICK
@given(like("/", "\\", "search?q=", "elsewhere.example", "http:", "\t", "@"))
def test_where_a_sign_in_leads_is_in_this_service(text: str) -> None:
    path = local_path(text)
    assert path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    assert local_path(path) == path


@QUICK
@given(
    st.integers(0, 10**9 - 1), st.text(max_size=5), st.sampled_from(["asc", "desc"]), like("=", "-", "_", "OTk5", ".")
)
def test_a_cursor_is_read_as_it_is_written_and_no_other_text_is_one(place: int, q: str, order: Any, text: str) -> None:
    query = GalleryQuery(order=order, q=q)
    cursor = query.cursor_at(KEY, place)
    assert GalleryQuery(order=order, q=q, cursor=cursor).place(KEY) == place
    with pytest.raises(errors.SettingError):
        GalleryQuery(order=order, q=q + "x", cursor=cursor).place(KEY)
    if text:
        with refusing(errors.SettingError):
            assert GalleryQuery(cursor=text).place(KEY) is None, "any text is a cursor"
    with refusing(errors.SettingError):
        assert GalleryQuery(sort=text).sort == text  # type: ignore[arg-type]


BODY = {"neurons": ["cnn/concepts/0"], "method": "csp", "gamma": 1.0, "examples": 3, "candidates": ["red"], "top": 2}


@QUICK
@given(st.one_of(replaced(BODY), like("cnn", "/", "concepts", "/3").map(lambda text: BODY | {"neurons": [text]}), JSON))
@example({"\ud800": 1})
@example(BODY | {"neurons": ["\x1cm/l/0"]})
@example(BODY | {"a\nb\x1b[2J": 1})
def test_any_body_is_a_query_or_a_fault_that_can_be_sent(body: Any) -> None:
    try:
        LabelBody.model_validate(body).query()
        SqlBody.model_validate(body)
    except pydantic.ValidationError as exc:
        fault = fault_of(RequestValidationError(exc.errors(include_url=False)))
    except errors.CspIndexError as exc:
        fault = fault_of(exc)
    else:
        return
    assert 400 <= fault.status < 500
    check_message(fault.message)
    assert json.loads(pydantic_core.to_json(fault.document("id")))["error"]["message"] == fault.message


@QUICK
@given(st.lists(like("cnn/concepts/3", ",", " ", "/", "0"), max_size=4))
def test_any_neurons_to_compare_are_addresses_or_refused(values: list[str]) -> None:
    with refusing(errors.AddressError, errors.SettingError):
        keys = _keys(values)
        assert len(set(keys)) == len(keys) and _keys(list(map(str, keys))) == keys
        assert all(neuron_href(str(key)).isascii() for key in keys)


@QUICK
@given(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True))
def test_neurons_to_compare_are_read_as_they_are_written(numbers: list[int]) -> None:
    keys = [NeuronKey("cnn", "concepts", number) for number in numbers]
    assert _keys([",".join(map(str, keys))]) == keys


@QUICK
@given(like("index", "cli", "..", "/", ".md", "%2e"))
def test_any_name_is_a_page_of_the_manual_or_missing(name: str) -> None:
    with refusing(errors.NotFoundError):
        assert manual_document(name)["headings"] is not None
    with refusing(errors.NotFoundError):
        assert picture(name) is None or isinstance(picture(name), tuple)


@QUICK
@given(like("127.0.0.1", "localhost", "[", "]", ":", "::1", "birds.example", ".", "0"))
def test_any_host_is_known_or_not(name: str) -> None:
    assert SETTINGS.knows_host(name) in (True, False)
    with refusing(errors.SettingError):
        assert ServiceSettings(host=name).loopback  # another host needs a token


@QUICK
@given(st.one_of(like("0123456789abcdef", " ", "\n").map(str.encode), st.binary(max_size=20)))
def test_any_file_is_a_token_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "token-of-parsers"
    file.write_bytes(data)
    with refusing(errors.SettingError):
        token = read_token(file)
        assert token and token == token.strip() and token.isprintable()


TIME = like("2026-01-01", "T00:00:00", "+00:00", "Z", "-", "24")


@QUICK
@given(TIME, TIME)
@example("2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00")
def test_any_times_are_shown(start: str, end: str) -> None:
    assert moment(start) and took([start, end])
