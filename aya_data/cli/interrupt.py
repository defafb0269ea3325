"""Ctrl-C: it ends the command at once, whatever the main thread is doing.

Python raises KeyboardInterrupt between two of its own instructions, and one call of a library (a join
over millions of rows, a compiled kernel) is one instruction. So the signal is also written to a pipe,
which a thread beside reads: where the main thread has not ended by itself after :data:`PATIENCE`
seconds, or Ctrl-C is pressed again, the thread ends the process. A kill at any moment leaves the
workspace whole; workers end with their parent.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from typing import Final

__all__ = ["stopped", "watch"]

STOPPED: Final = "aya-data: stopped. What was finished is kept; the same command resumes."
PATIENCE: Final = 1.0
SHOW_CURSOR: Final = "\x1b[?25h"


_saying = threading.Lock()


def stopped(*, abruptly: bool = False) -> None:
    """Say on stderr that the command was stopped and how to go on; once, whoever comes first."""
    if not _saying.acquire(blocking=False):
        return
    line = STOPPED + "\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # A live display that is cut off hides the cursor, and leaves it in its own line.
        line = f"{SHOW_CURSOR}\n{line}" if abruptly and sys.stderr.isatty() else line
        os.write(sys.stderr.fileno(), line.encode())


def watch() -> None:
    """Begin to watch for Ctrl-C. To be called once, in the main thread of the command line."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(read,), daemon=True).start()


def _wait(read: int) -> None:
    while os.read(read, 1) != bytes([signal.SIGINT]):
        pass
    select.select([read], [], [], PATIENCE)
    stopped(abruptly=True)
    os._exit(128 + signal.SIGINT)
