"""What the first page needs is read before models load: the import of torch would keep it waiting for seconds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from csp_index.errors import CspIndexError, NotFoundError, one_line
from csp_index.records import NeuronKey
from csp_index.service.documents.neuron import neuron_document

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine
    from csp_index.service.snapshot import Snapshot

_log = logging.getLogger("csp_index.service")


def read_first_page(snapshot: Snapshot, engine: Engine) -> NeuronKey | None:
    """Make the page of the first neuron that fires in a finished layer, so that what pages share is in memory.

    Return the neuron, None where there is none, or its page cannot be made: that is logged, and the page will say it.
    """
    for info in snapshot.layers():
        try:
            alive = np.flatnonzero(~snapshot.layer(info.key).dead)
            if not len(alive):
                continue
            key = NeuronKey(info.key.model, info.key.layer, int(alive[0]))
            neuron_document(snapshot, engine, key)
        except NotFoundError:  # not finished
            continue
        except (CspIndexError, OSError) as exc:
            _log.error("a page of %s cannot be made: %s", info.key, one_line(exc))
            return None
        return key
    return None
