"""The models of a service, shared by all versions of the index that it shows: each is loaded once. Loads no torch."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from csp_index import settings

if TYPE_CHECKING:
    from csp_index.models.index_models import Models


class SharedModels:
    """Models, and the locks around them: `loading` while one is loaded, `running` while one runs."""

    def __init__(self, *, trust: bool) -> None:
        """Load nothing yet; `trust` runs code that only the index names."""
        self.trust = trust
        self.loading, self.running = threading.Lock(), threading.Lock()  # hooks are not made for several threads

    @cached_property
    def models(self) -> Models:
        """The models; they are loaded when first needed. Loads torch."""
        from csp_index.models.index_models import Models

        return Models(settings.DEVICE.value(), trust=self.trust)
