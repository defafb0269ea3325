"""The examples of the documentation: found in its pages, run, and compared with what the pages show.

Blocks are told by the word after the fence:

* ``console``: lines that begin with ``$`` are commands, the others what they print to stdout
  (``console wrong``: input is wrong, exit code 2, what they print to stderr);
* ``yaml``: a spec, or a piece of one, which is completed and read;
* ``sql``: a query over the catalog of the sample build;
* ``python``: a program, run in the folder of the commands; with a title (``python acme_aya/rows.py``) a file.

In what a command prints, ``[…]`` stands for anything: within a line, or for any lines where it stands
alone. White space, rules of tables, hashes, durations and the place of the folder are not compared.

    python -m docs.examples [PAGE…]      run every console block and write what it prints into the pages
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CUT", "ROOT", "Block", "Command", "Workplace", "agree", "blocks", "commands", "pages"]

ROOT = Path(__file__).resolve().parent.parent
CUT = "[…]"
PACKAGE, SITE = ".package", ".site"
NEEDED = ("specs", "builders/samples/house", "builders/samples/answers")
"""What the commands of the pages find around them, as in a clone."""

_ISOLATES = re.compile("[\u2066-\u2069]")
"""Marks around text of either direction; a page that holds them looks suspicious to code hosts."""
_FENCE = re.compile(r"^( *)(`{3,})(\S*) ?(.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: ``kind`` and ``title`` from its fence, ``line`` of its first line, from 1."""

    page: Path
    line: int
    kind: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block and what the page says it prints."""

    line: str
    shown: tuple[str, ...]


def pages() -> list[Path]:
    """Return the README and all pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, kind: str = "") -> list[Block]:
    """Return the fenced blocks of a page, or those of one kind, in order."""
    found: list[Block] = []
    opened: tuple[int, str, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, body = (number + 1, fence[2], fence[3], fence[4].strip()), []
        elif fence and fence[2] == opened[1] and not fence[3]:
            found.append(Block(page, opened[0], opened[2], opened[3], "\n".join(body)))
            opened = None
        else:
            body.append(line)
    return [block for block in found if not kind or block.kind == kind]


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; a line that ends with a backslash goes on."""
    found: list[tuple[str, list[str]]] = []
    going_on = False
    for line in block.text.splitlines():
        if going_on:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        elif line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
        going_on = (going_on or line.startswith("$ ")) and line.endswith("\\")
    return [Command(line, tuple(shown)) for line, shown in found]


class Workplace:
    """A folder in which the commands of the pages run, as in a clone of the repository.

    ``aya-data`` and ``python`` are this interpreter's, whatever else is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NEEDED:
            if not (folder / name).exists():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        programs = folder / ".programs"
        programs.mkdir(exist_ok=True)
        python = shlex.quote(sys.executable)
        for name, arguments in (("aya-data", "-m aya_data"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {python} {arguments} "$@"\n', encoding="utf-8")
            program.chmod(0o755)

    def copy(self, folder: Path) -> Workplace:
        """Return a copy with all that was built here."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Workplace(folder)

    def lay_out(self, page: Path) -> None:
        """Write the files of a page; where a ``pyproject.toml`` is among them, install the package."""
        titled = [block for block in blocks(page) if block.title and block.kind != "console"]
        package = self.folder / PACKAGE
        packaged = any(block.title == "pyproject.toml" for block in titled)
        for block in titled:
            for folder in (package, self.folder) if packaged else (self.folder,):
                if folder == package or block.kind not in ("python", "toml"):
                    path = folder / block.title
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"{block.text}\n", encoding="utf-8")
        if packaged:
            offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
            command = [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", self.folder / SITE, package]
            subprocess.run(command, check=True)

    def environment(self) -> Mapping[str, str]:
        """Return the environment of the commands: no workspace, cache or terminal of the caller's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AYA_DATA_", "HF_"))}
        paths = [str(self.folder / SITE), str(ROOT)]
        return {
            **kept,
            "PATH": f"{self.folder / '.programs'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "HF_HOME": str(self.folder / ".hf"),
            "HF_HUB_OFFLINE": "1",
            "TERM": "dumb",
            "NO_COLOR": "1",
        }

    def prints(self, line: str, wrong: bool = False) -> str:
        """Run a command line and return what it prints to stdout, or to stderr where its input is ``wrong``.

        Raises RuntimeError when its exit code is not 0, or 2 for wrong input.
        """
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=dict(self.environment()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        if done.returncode != (2 if wrong else 0):
            raise RuntimeError(f"{line} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stderr if wrong else done.stdout


def agree(shown: str, found: str, folder: Path | None = None) -> bool:
    """Tell whether a page shows what a command printed."""
    wanted = _plain(shown, folder)
    pattern = "".join(_line_pattern(line) for line in wanted)
    text = "".join(f"{line}\n" for line in _plain(found, folder))
    return re.fullmatch(pattern, text) is not None


def _line_pattern(line: str) -> str:
    if line == CUT:
        return r"(?:.*\n)*?"
    return ".*?".join(re.escape(piece) for piece in line.split(CUT)) + r"\n"


def _plain(text: str, folder: Path | None) -> list[str]:
    if folder is not None:
        text = text.replace(f"{folder}/", "")
    text = _ISOLATES.sub("", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "<hash>", text)
    text = re.sub(r"\b[\d,]+\.\d+ (s|MB|GB)\b", r"<number> \1", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not set(line) <= {"─", " "}]


# Writing what the commands print -------------------------------------------------------------------


def _refreshed(page: Path, place: Workplace) -> Iterator[str]:
    """Rewrite what a page shows of its commands' output; yield a line for each that a person must look at.

    A command that shows nothing stays so; ``?`` asks for its output. Output with cuts keeps the lines that it
    shows, with the numbers of today.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    moved = 0
    for block in blocks(page, "console"):
        written: list[str] = []
        for command in commands(block):
            printed = place.prints(command.line, wrong=block.title == "wrong")
            written += f"$ {command.line}".splitlines()
            plain = _ISOLATES.sub("", printed.replace(f"{place.folder}/", ""))
            plain = "\n".join(line.rstrip() for line in plain.splitlines()).strip("\n")
            found = re.sub(r"\n{3,}", "\n\n", plain).splitlines()
            if any(CUT in line for line in command.shown):
                kept = _cut_alike(command.shown, found)
                if not agree("\n".join(kept), printed, place.folder):
                    yield f"{block}: {command.line} prints\n{printed}"
                written += kept
            elif command.shown:
                written += found
        start, length = block.line - 1 + moved, len(block.text.splitlines())
        lines[start : start + length] = written
        moved += len(written) - length
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cut_alike(shown: Sequence[str], printed: Sequence[str]) -> list[str]:
    """Return the lines of ``printed`` that differ from those shown in their numbers alone, cuts between them."""
    written: list[str] = []
    start = 0
    for line in shown:
        alike = (at for at in range(start, len(printed)) if _numberless(printed[at]) == _numberless(line))
        place = None if CUT in line or not line else next(alike, None)
        written.append(line if place is None else printed[place])
        start = start if place is None else place + 1
    return written


def _numberless(line: str) -> str:
    return " ".join(re.sub(r"[0-9a-f]{8,}|[\d.,]+|·", "0", line).split())


def main() -> None:
    """Run every console block in fresh folders and write what it prints into the pages."""
    with tempfile.TemporaryDirectory() as temporary:
        base = Workplace(Path(temporary).resolve() / "base")
        base.prints("aya-data build specs/sft_mix.yaml")
        for page in pages():
            if sys.argv[1:] and page.name not in sys.argv[1:]:
                continue
            # The README shows a first build.
            folder = base.folder.with_name(page.stem)
            place = Workplace(folder) if page.name == "README.md" else base.copy(folder)
            place.lay_out(page)
            for problem in _refreshed(page, place):
                sys.stdout.write(problem + "\n")


if __name__ == "__main__":
    main()
