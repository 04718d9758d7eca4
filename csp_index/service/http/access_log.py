"""The log of requests, one JSON line per request, and counters for Prometheus in a registry of their own.

Neither contains query strings, headers or bodies, which may be private.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from csp_index.service.config import SHARED_COUNTERS

requests_log = logging.getLogger("csp_index.service.requests")

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONGEST = 300  # characters of a path in the log


@dataclass(slots=True)
class Visit:
    """One request and its outcome."""

    id: str
    method: str
    path: str
    client: str
    route: str = "-"  # the template of the address, of which there are few
    status: int = 0
    sent: int = 0  # bytes of the answer's body
    seconds: float = 0.0


class Journal:
    """Logs finished requests; counts requests, SQL statements and cached responses."""

    def __init__(self, several: bool = False) -> None:
        """Count for one process, or for `several` processes that share a folder of counters."""
        self._several = several and SHARED_COUNTERS in os.environ
        self.registry = CollectorRegistry()
        own = self.registry
        self.in_flight = Gauge(
            "csp_index_in_flight", "Requests being worked on or waiting.", registry=own, multiprocess_mode="livesum"
        )
        self._requests = Counter(
            "csp_index_requests", "Requests answered.", ["method", "route", "status"], registry=own
        )
        self._seconds = Histogram(
            "csp_index_request_seconds", "Time to the answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self._statements = Counter("csp_index_sql", "SQL statements by their end.", ["outcome"], registry=own)
        self._answers = Counter(
            "csp_index_answers", "Responses that do not change, by source.", ["source"], registry=own
        )

    def write(self, visit: Visit) -> None:
        """Count a finished request and log it in one line."""
        method = visit.method if visit.method in _METHODS else "other"
        self._requests.labels(method, visit.route, str(visit.status)).inc()
        self._seconds.labels(visit.route).observe(visit.seconds)
        if requests_log.isEnabledFor(logging.INFO):
            requests_log.info("%s", _line(visit))

    def statement(self, outcome: str) -> None:
        """Count a SQL statement: done, cut, refused or stopped."""
        self._statements.labels(outcome).inc()

    def answer(self, cached: bool) -> None:
        """Count a response that does not change."""
        self._answers.labels("memory" if cached else "made").inc()

    def exposition(self) -> bytes:
        """Return all counters in the format of Prometheus, summed over all processes if there are several."""
        if not self._several:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)


def _line(visit: Visit) -> str:
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": visit.id,
            "method": visit.method,
            "route": visit.route,
            "path": visit.path[:_LONGEST],
            "status": visit.status,
            "ms": round(visit.seconds * 1000, 1),
            "bytes": visit.sent,
            "client": visit.client,
        }
    )
