"""The process around a command: its arguments and streams, how it is stopped, and the code that it exits with."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

import typer

from aya_data.cli.interrupt import stopped, watch

__all__ = ["run"]


def run(command: Callable[[], object]) -> None:
    """Run the command line and exit with its code: 0 done, 1 failed, 2 wrong input, 130 stopped."""
    import errno

    from aya_data.core.errors import AyaDataError

    _open_streams()
    watch()
    try:
        try:
            _check_arguments(sys.argv[1:])
            command()
        finally:
            sys.stdout.flush()
    except AyaDataError as error:
        typer.echo(f"aya-data: {error}" if not hasattr(error, "problems") else str(error), err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == 130:  # typer makes this of Ctrl-C, and says nothing.
            stopped()
        raise
    except KeyboardInterrupt:
        stopped()
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # The workspace's own writes raise WorkspaceUnusable: what is full is where stdout leads.
        typer.echo("aya-data: what was to be printed could not be written: no space is left there.", err=True)
        os._exit(1)  # Python would try to write the rest once more.


def _open_streams() -> None:
    """Give a closed stdout or stderr the null device; else the next file that is opened takes its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "r+"), encoding="utf-8"))


def _check_arguments(arguments: list[str]) -> None:
    """Refuse what is not text: it would fail later, where a name is stored."""
    from aya_data.core.errors import InputError

    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= char <= "\udfff" for char in argument):
            raise InputError(
                f"the argument {argument!r} is not UTF-8", "Use names in UTF-8, and a locale such as LC_ALL=C.UTF-8."
            )
