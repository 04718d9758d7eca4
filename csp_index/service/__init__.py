"""An index in a browser, and for programs: pages, an API, SQL. `make_app` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csp_index.service.app import make_app
    from csp_index.service.config import ServiceSettings

__all__ = ["ServiceSettings", "make_app"]


def __getattr__(name: str) -> Any:
    if name == "make_app":
        from csp_index.service.app import make_app

        return make_app
    if name == "ServiceSettings":
        from csp_index.service.config import ServiceSettings

        return ServiceSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
