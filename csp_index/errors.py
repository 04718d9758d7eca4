"""The one error family of csp_index.

Every message tells what was wrong, what was expected and what to do next, in one line: the command line prints it as it
is and exits with status 1.
"""

from __future__ import annotations


class CspIndexError(Exception):
    """Base of every error a user can cause or mend."""


class SourceError(CspIndexError):
    """An image source cannot be opened or holds no image."""


class ModelError(CspIndexError):
    """An encoder or network cannot be loaded or run, gives NaN, or is not the one the index was built with."""


class StoreError(CspIndexError):
    """The database cannot be opened, read, written or locked."""


class ArrayError(CspIndexError):
    """Arrays made elsewhere do not fit: shape, length, dtype, or values that are not finite."""


class SettingError(CspIndexError):
    """A setting is out of range, unknown, or differs from what the index was built with."""


class LabelError(CspIndexError):
    """Neurons cannot be labelled as asked: unknown neuron, empty vocabulary, missing scale."""


class EvaluationError(CspIndexError):
    """Labels cannot be judged as asked: no held-out images, a truth file that does not fit, data a metric needs."""


class ClusterError(CspIndexError):
    """A Ray cluster is missing, does not answer, or lost its workers."""


class QueryError(CspIndexError):
    """A SQL statement is refused or fails."""


class NotFoundError(CspIndexError):
    """What an address names (a layer, a neuron, an image) is not in the index."""


class BusyError(CspIndexError):
    """As much as may run at once is running; the same question may be answered later."""


def one_line(exc: BaseException) -> str:
    """Return what another library's exception says, in one line of at most 300 characters."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    line = " ".join(text.split()) or type(exc).__name__
    return line if len(line) <= 300 else line[:297] + "..."


class ProposerError(CspIndexError):
    """A model that names candidate labels cannot be used, or a prompt or an answer's form is wrong."""
