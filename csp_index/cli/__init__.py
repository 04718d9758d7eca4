"""The command line `csp-index`: each command is a few lines over Index.

Exit status: 0 fine, 1 an error in one line on stderr, 2 wrong usage. Torch and the database load when a command
needs them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import click

from csp_index import __version__
from csp_index.cli import (
    candidates,
    collisions,
    demo,
    doctor,
    evaluate,
    import_labels,
    index,
    label,
    layers,
    mcp,
    query,
    serve,
    start,
    verify,
    versions,
)
from csp_index.cli.output import plain_warnings, say
from csp_index.cli.studies import (
    associations,
    audit,
    compare,
    concept,
    effects,
    evolution,
    facets,
    formulas,
    hierarchy,
    map,
    notes,
    report,
)
from csp_index.errors import CspIndexError, one_line
from csp_index.printable import printable
from csp_index.tensors.torch_threads import numpy_on_one_thread, share_one_heap


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="csp-index")
def cli() -> None:
    """A database of what the neurons of a vision network mean.

    \b
    All in one:            csp-index start photos/
    Index images once:     csp-index index DB IMAGES --encoder open_clip:... --network timm:... --layers layer4
    Label any neuron:      csp-index label DB --layer resnet50/layer4 --neurons 0-9
    See it all at work:    csp-index demo
    """


for command in (
    *start.COMMANDS,
    *demo.COMMANDS,
    *index.COMMANDS,
    *layers.COMMANDS,
    *doctor.COMMANDS,
    *candidates.COMMANDS,
    *label.COMMANDS,
    *query.COMMANDS,
    *evaluate.COMMANDS,
    *collisions.COMMANDS,
    *concept.COMMANDS,
    *associations.COMMANDS,
    *effects.COMMANDS,
    *facets.COMMANDS,
    *formulas.COMMANDS,
    *compare.COMMANDS,
    *evolution.COMMANDS,
    *audit.COMMANDS,
    *report.COMMANDS,
    *hierarchy.COMMANDS,
    *map.COMMANDS,
    *import_labels.COMMANDS,
    *notes.COMMANDS,
    *serve.COMMANDS,
    *mcp.COMMANDS,
    *versions.COMMANDS,
    *verify.COMMANDS,
):
    cli.add_command(command)


_NO_MEMORY = "can't allocate memory"  # in what torch raises


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no UTF-8 text: an index stores texts, names and addresses."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"the argument {printable(argument)} is not UTF-8 text: rename it") from None


def main() -> None:
    """Run the command line and exit with its status."""
    warnings.filterwarnings("ignore", message=".*could be decompression bomb")  # the limit on pixels is our own
    numpy_on_one_thread()
    share_one_heap()
    try:
        _check_text(sys.argv[1:])
        with plain_warnings():
            status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.UsageError as exc:
        exc.show()
        sys.exit(2)
    except click.ClickException as exc:
        exc.show()
        sys.exit(1)
    except CspIndexError as exc:
        say(f"Error: {' '.join(str(exc).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe is gone, as with `| head`
        sys.exit(0)
    except (KeyboardInterrupt, click.Abort):  # before RuntimeError, which Abort is
        say("Interrupted: what is finished is kept; the same command goes on where this one stopped.", err=True)
        sys.exit(1)
    except (MemoryError, RuntimeError) as exc:
        if not isinstance(exc, MemoryError) and _NO_MEMORY not in str(exc):
            raise
        say(f"Error: there is not enough memory ({one_line(exc)}): ask for less at once, or see the settings", err=True)
        sys.exit(1)
    except OSError as exc:  # what no module expected: a folder nobody may look into, a disk that is full
        say(f"Error: {one_line(exc)}{f': {exc.filename}' if exc.filename else ''}", err=True)
        sys.exit(1)
