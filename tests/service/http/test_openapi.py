"""Requests made from the OpenAPI, by schemathesis: no 5xx, and no answer that the OpenAPI does not describe."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks

from csp_index.service import ServiceSettings, make_app

CHECKS = (
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
)


OPERATIONS = [
    ("GET", "/api/v1/index"),
    ("GET", "/api/v1/layers"),
    ("GET", "/api/v1/layers/{model}/{layer}/map"),
    ("GET", "/api/v1/matches"),
    ("GET", "/api/v1/matches/{name}"),
    ("GET", "/api/v1/evolution"),
    ("GET", "/api/v1/evolution/{name}"),
    ("GET", "/api/v1/neurons"),
    ("GET", "/api/v1/neurons/{model}/{layer}/{index}"),
    ("GET", "/api/v1/classes/{model}/{layer}"),
    ("GET", "/api/v1/class/{model}/{layer}"),
    ("GET", "/api/v1/neurons/{model}/{layer}/{index}/classes"),
    ("GET", "/api/v1/neurons/{model}/{layer}/{index}/effects"),
    ("GET", "/api/v1/neurons/{model}/{layer}/{index}/maps"),
    ("POST", "/api/v1/neurons/{model}/{layer}/{index}/maps"),
    ("GET", "/api/v1/neurons/{model}/{layer}/{index}/maps/{image_id}"),
    ("GET", "/api/v1/effects/{model}/{layer}"),
    ("GET", "/api/v1/meanings/{model}/{layer}"),
    ("GET", "/api/v1/audit/{model}"),
    ("GET", "/api/v1/audit/{model}/report"),
    ("GET", "/api/v1/hierarchy/{model}/{layer}"),
    ("GET", "/api/v1/concepts"),
    ("GET", "/api/v1/search"),
    ("POST", "/api/v1/search/image"),
    ("GET", "/api/v1/images/{image_id}"),
    ("GET", "/api/v1/images/{image_id}/thumbnail"),
    ("GET", "/images/{image_id}/original"),
    ("POST", "/api/v1/label"),
    ("POST", "/api/v1/sql"),
    ("GET", "/api/v1/notes"),
    ("POST", "/api/v1/notes"),
    ("GET", "/api/v1/review"),
    ("GET", "/api/v1/rate"),
    ("POST", "/api/v1/ratings"),
    ("GET", "/api/v1/version"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
]


WITHOUT_INPUT = {f"/api/v1/{name}" for name in ("index", "layers", "review", "matches", "evolution", "version")} | {
    "/healthz",
    "/readyz",
}
WITH_INPUT = [one for one in OPERATIONS if one[1] not in WITHOUT_INPUT]


@pytest.fixture(scope="module")
def openapi(served_db: Path) -> BaseSchema:
    app = make_app(served_db, ServiceSettings(hosts=("testserver",)))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def hold(schema: BaseSchema, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    """Ask so many times, in ways the OpenAPI allows or in ways it does not, and check every answer."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=mode))
    def asked(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    asked()


def test_all_operations_are_held(openapi):
    found = [operation.ok() for operation in openapi.get_all_operations()]
    assert sorted((one.method.upper(), one.path) for one in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_described(openapi, method, path):
    hold(openapi, method, path, GenerationMode.POSITIVE, 2 if path.endswith("sql") else 5)  # each SELECT is a process


@pytest.mark.parametrize(("method", "path"), WITH_INPUT)
def test_wrong_requests_are_refused_as_described(openapi, method, path):
    hold(openapi, method, path, GenerationMode.NEGATIVE, 4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), WITH_INPUT)
def test_answers_are_as_described_however_one_asks(openapi, method, path, mode):
    hold(openapi, method, path, mode, 60 if path.endswith("sql") else 300)
