"""The one error family of csp_index: each class is named after what went wrong, not after the part that noticed.

Every message says what was wrong, what was expected and what to do next, in one line: the command line prints it as it
is and exits with status 1, and the service chooses the HTTP status by the class.
"""

from __future__ import annotations

from csp_index.printable import printable


class CspIndexError(Exception):
    """Base of every error a user can cause or mend. Its message is one line, whatever the names in it contain."""

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().splitlines()))


class AddressError(CspIndexError):
    """A text is no address of a layer or of neurons: MODEL/LAYER, MODEL/LAYER/INDEX, or numbers such as 0,5,10-20."""


class NotFoundError(CspIndexError):
    """Not in the index: a layer, neuron, encoder, image, metadata column or run, or what was not computed yet."""


class SettingError(CspIndexError):
    """A setting is out of range, unknown, or differs from what the index was built with."""


class SourceError(CspIndexError):
    """Images or their metadata cannot be opened or read, or changed since they were indexed."""


class ArrayError(CspIndexError):
    """Arrays made elsewhere do not fit: shape, length, dtype, or values that are not finite."""


class ModelError(CspIndexError):
    """An encoder or network cannot be loaded or run, gives NaN, or is not the one the index was built with."""


class GeneratorError(CspIndexError):
    """An image generator cannot be loaded, fails, or cannot draw a text or vary a picture."""


class ProposerError(CspIndexError):
    """A model that names candidate labels cannot be used, or a prompt or an answer's form is wrong."""


class StoreError(CspIndexError):
    """The database cannot be opened, read, written or locked."""


class LockedError(StoreError):
    """Another process is writing the database; the same command may be given again."""


class LabelError(CspIndexError):
    """Neurons cannot be labeled as requested: unknown method, empty vocabulary, missing scale."""


class EvaluationError(CspIndexError):
    """Labels cannot be evaluated: no held-out images, a truth file that does not fit, missing data for a metric."""


class StudyError(CspIndexError):
    """A study of a network cannot be made: a column without values, classes or layers that cannot be compared."""


class QueryError(CspIndexError):
    """A SQL statement is refused or fails, or a result cannot be written as requested."""


class PluginError(CspIndexError):
    """What an installed package offers to csp_index cannot be imported, or has a name that is taken."""


class ClusterError(CspIndexError):
    """A Ray cluster is missing, does not answer, or lost its workers."""


class BusyError(CspIndexError):
    """As much as may run at once is running; the same question may be answered later."""


class StoppedError(CspIndexError):
    """The work was ended before it was done: the client left, the time limit passed, or the service ends."""


def one_line(exc: BaseException) -> str:
    """Return what another library's exception says, in one line of at most 300 characters."""
    text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    line = " ".join(text.split()) or type(exc).__name__
    return line if len(line) <= 300 else line[:297] + "..."
