"""A process that speaks :mod:`~aya_data.builders.arbitrage.teachers.hosted_protocol`: started, talked to, and ended.

It leads a process group of its own, so that what it starts itself ends with it: the whole group is killed, and is
waited for, since what comes next may need its memory. It reads and writes two pipes whose descriptors are the last two
arguments of its command; what it prints goes to a log. Writing never waits: what a pipe does not take stays in
:attr:`Process.outgoing` until :meth:`Process.flush`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aya_data.builders.arbitrage.teachers.hosted_protocol import frame, frames

__all__ = ["CannotRun", "Process"]

TAIL: Final = 4
"""Lines of the log that an error shows."""


class CannotRun(Exception):
    """A command that the system does not run; says why."""


class Process:
    """One process, which can be started again after it has ended."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """``environment`` is set on top of this process's own."""
        self.command, self.environment, self.log = command, environment, log
        self.running = False

    def start(self) -> None:
        """Start it. Raises :class:`CannotRun`."""
        mine_in, its_out = os.pipe()
        its_in, mine_out = os.pipe()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self.process = subprocess.Popen(
                [*self.command, str(its_in), str(its_out)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(its_in, its_out),
                env=_environment(self.environment),
                start_new_session=True,
            )
        except OSError as error:
            os.close(mine_in)
            os.close(mine_out)
            raise CannotRun(error.strerror) from error
        finally:
            for descriptor in (its_in, its_out, log):
                os.close(descriptor)
        os.set_blocking(mine_out, False)
        self.read, self.write = mine_in, mine_out
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.running = True

    def end(self, grace: float) -> str:
        """End it and all of its group, and say how it ended: ``exit code 0``, ``signal 9 (SIGKILL)``.

        ``grace`` is the seconds that it has to end by itself.
        """
        self.running = False
        leader = self.process.pid
        until = time.monotonic() + grace
        while not self.dead() and time.monotonic() < until:
            time.sleep(0.01)
        own = self.dead()
        # Not reaped yet, so its number and its group's are still its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
        code = self.process.wait()
        _await_group(leader)
        for descriptor in (self.read, self.write):
            os.close(descriptor)
        if not own:
            return "killed"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"signal {-code} ({signal.Signals(-code).name})"
        return f"exit code {code}"

    def dead(self) -> bool:
        """Whether it has ended; it stays unreaped, so that nobody else gets its number."""
        if self.process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True  # reaped by somebody else after all

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self.outgoing += frame(message)
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        try:
            while self.outgoing:
                del self.outgoing[: os.write(self.write, self.outgoing[: 1 << 16])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.outgoing.clear()  # it is dead or dying, which reading will show

    def messages(self) -> list[dict[str, Any]] | None:
        """Read what it says now; None at the end of the pipe, or where something else writes into it."""
        data = os.read(self.read, 1 << 18)
        if not data:
            return None
        self.incoming += data
        try:
            return list(frames(self.incoming))
        except ValueError:
            return None

    def last_lines(self) -> list[str]:
        """The last lines of the log that say something."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.strip()[:200] for line in text.splitlines()]
        return [line for line in lines if line][-TAIL:]


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    variables = {**os.environ, **own}
    # It would hide the protocol from the script beside it.
    variables.pop("PYTHONSAFEPATH", None)
    return variables


def _await_group(group: int, limit: float = 30.0) -> None:
    """Wait until no process of a killed group holds memory; those that nobody reaps do not."""
    until = time.monotonic() + limit
    while time.monotonic() < until and any(_alive(group)):
        time.sleep(0.01)


def _alive(group: int) -> Iterator[bool]:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return
    except PermissionError:
        pass
    processes = Path("/proc")
    if not (processes / "self" / "stat").exists():
        yield True
        return
    for entry in processes.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # After the name, which may hold anything: state, parent, group.
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state not in "ZX":
                    yield True
