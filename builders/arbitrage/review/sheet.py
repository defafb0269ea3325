"""Review sheets: what people are given to judge, and reading what they wrote.

A sheet is JSON Lines or CSV (UTF-8), by the ending of its name; one line for each distinct answer to a prompt:

| column | |
|---|---|
| ``prompt``, ``answer`` | keys, to be left alone: the row_key, and a hash of it with the text of the answer |
| ``language`` | variety of the prompt |
| ``conversation`` | what was asked, every turn after its role |
| ``text`` | the answer |
| ``score`` | a number on the scale, best highest; empty where nobody has judged it. Left so, it stays unjudged |
| ``note`` | anything to say about it |

A sheet that is written again has the verdicts that are known, so that it can take the place of the one before: the mean
where several people judged. Prompts with something left to judge come first.

No teacher is named, and the answers to a prompt stand in drawn order. Only ``answer``, ``score`` and ``note`` are read
back, so that other columns may be removed or edited, and lines be sorted or left out. In CSV, a text that a spreadsheet
would take for a formula begins with an apostrophe; separators may be commas, semicolons or tabs, and a decimal comma is
read as one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field

from aya_data.builders.arbitrage.completions import conversations
from aya_data.core import durable
from aya_data.core.errors import InputError, did_you_mean
from aya_data.core.identity import digest, draws
from aya_data.core.settings import Number, Settings, wrong

__all__ = [
    "SHEET", "SHEETS", "HumanSettings", "Verdict", "answer_keys", "check_known", "check_name", "read_verdicts", "sheet",
    "write_sheet",
]  # fmt: skip

SHEET: Final = ("prompt", "answer", "language", "conversation", "text", "score", "note")
SHEETS: Final = "sheets"
"""The column beside verdicts that tells on which sheets an answer stands."""
KEY = re.compile(r"[0-9a-f]{32}")
NUMBER = re.compile(r"-?[0-9]{1,6}(?:[.,][0-9]{1,6})?", re.ASCII)
ENDINGS: Final = "Sheets end in .jsonl or .csv."
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _named(value: tuple[str, ...]) -> tuple[str, ...]:
    for path in value:
        if _format(path) is None:
            raise wrong(f"names {path[:80]!r}, which is no review sheet", ENDINGS)
    return value


def check_name(path: str) -> None:
    """Raise :class:`InputError` for the name of a file that cannot be a sheet."""
    if _format(path) is None:
        raise InputError(f"{path} cannot be a review sheet", ENDINGS)


def _format(path: str) -> Literal["jsonl", "csv"] | None:
    ending = path.rpartition(".")[2].lower()
    return "csv" if ending == "csv" else "jsonl" if ending == "jsonl" else None


class HumanSettings(Settings):
    """Review by people: a sheet to fill in, and verdicts from sheets that were."""

    kind: Literal["human"] = Field(description="People review.")
    verdicts: Annotated[
        tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]), AfterValidator(_named)
    ] = Field(
        (),
        description="A sheet that was filled in, or several of different people, relative to the spec. Default: none.",
        examples=["review/filled.csv"],
    )
    scale: tuple[Number, Number] = Field((Decimal(1), Decimal(10)), description="The worst and the best score.")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one person said of one answer, in line ``line`` of ``file``; ``score`` is None where it is not judged."""

    answer: str
    score: Decimal | None
    note: str | None
    file: str
    line: int


def answer_keys(completions: pa.Table) -> pa.Array:
    """Return the key of every completion's answer: equal for equal answers to one prompt."""
    pairs = zip(completions["prompt"].to_pylist(), completions["text"].to_pylist())
    return pa.array([digest("reviewed", prompt, text) for prompt, text in pairs], pa.string())


def sheet(
    chosen: pa.Table,
    prompts: pa.Table,
    completions: pa.Table,
    seed: int,
    known: Mapping[str, tuple[float, str | None]] = MappingProxyType({}),
) -> pa.Table:
    """Make the lines for those prompts of one part that are among ``chosen``, as strings.

    ``prompts`` are the rows of the part, ``completions`` their completions, ``known`` the verdicts and notes that there
    are, by key of the answer. The lines of all parts together, in
    the order of ``place``, are the sheet; :func:`write_sheet` drops that column.
    """
    places = dict(zip(chosen["prompt"].to_pylist(), chosen["place"].to_pylist()))
    names = ("row", "prompt", "language", "script", "text")
    columns = [completions[name].to_pylist() for name in names]
    keys = answer_keys(completions).to_pylist()
    drawn = draws(seed, "sheet", keys).tolist()
    lines: dict[str, tuple[int, int, dict[str, Any]]] = {}
    shown: dict[int, str] = {}
    for key, order, (row, prompt, language, script, text) in zip(keys, drawn, zip(*columns)):
        if prompt not in places:
            continue
        if row not in shown:
            (turns,) = conversations(prompts.slice(row, 1))
            shown[row] = "\n\n".join(f"[{role}]\n{content}" for role, content in turns)
        line = dict.fromkeys(SHEET, "") | {
            "prompt": prompt,
            "answer": key,
            "language": f"{language}_{script}" if script else language,
            "conversation": shown[row],
            "text": text,
        }
        if key in known:
            score, note = known[key]
            line |= {"score": f"{score:.4f}".rstrip("0").rstrip("."), "note": note or ""}
        lines[key] = (places[prompt], order, line)
    listed = [{"place": place, **line} for place, _, line in sorted(lines.values(), key=lambda one: one[:2])]
    schema = pa.schema([pa.field("place", pa.int32()), *(pa.field(name, pa.string()) for name in SHEET)])
    return pa.Table.from_pylist(listed, schema)


def write_sheet(path: Path, parts: Iterable[pa.Table]) -> int:
    """Write the lines of all parts, durably, as the ending of the name says; return how many are to be judged."""
    lines = [line for part in parts for line in part.to_pylist()]
    unjudged = [line["prompt"] for line in lines if not line["score"]]
    first = set(unjudged)
    # Parts come in order of their own; within a prompt the drawn order stays.
    lines.sort(key=lambda line: (line["prompt"] not in first, line["place"]))
    out = io.StringIO()
    if _format(path.name) == "csv":
        writer = csv.DictWriter(out, SHEET, extrasaction="ignore", lineterminator="\r\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({name: line[name] if name == "score" else _harmless(line[name]) for name in SHEET})
        durable.write_bytes(path, b"\xef\xbb\xbf" + out.getvalue().encode())
        return len(unjudged)
    for line in lines:
        score = json.loads(line["score"]) if line["score"] else None
        shown = {name: line[name] for name in SHEET} | {"score": score, "note": line["note"] or None}
        out.write(json.dumps(shown, ensure_ascii=False) + "\n")
    durable.write_bytes(path, out.getvalue().encode())
    return len(unjudged)


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def read_verdicts(path: Path, shown: str, scale: tuple[Decimal, Decimal]) -> list[Verdict]:
    """Read a sheet that was filled in, lines without a score too; ``shown`` is what errors call it.

    Raises :class:`InputError` at the line for a column that no sheet has, an answer that is no key or stands there
    twice, and a score that is no number on the scale.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"cannot read the review sheet: {error.strerror}", "Remove it from verdicts until it exists.", shown
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError("is not UTF-8", "Save the sheet as UTF-8.", f"{shown}:{line}") from None
    verdicts: dict[str, Verdict] = {}
    lines = _csv(text, shown) if _format(path.name) == "csv" else _jsonl(text, shown)
    for number, cells in lines:
        where = f"{shown}:{number}"
        for name in cells:
            if name not in SHEET:
                raise InputError(f"has a column {name!r}, which no sheet has", did_you_mean(name, SHEET), where)
        if "score" not in cells and _format(path.name) == "jsonl":
            raise InputError("has no column 'score'", "Leave the column there; a score may be null.", where)
        answer, score = cells.get("answer"), _number(cells.get("score"), scale, where)
        if not isinstance(answer, str) or not KEY.fullmatch(answer):
            raise InputError("has no key in the column 'answer'", "Leave that column as it was written.", where)
        earlier = verdicts.get(answer)
        if earlier is not None and score is None:
            continue
        if earlier is not None and earlier.score is not None:
            raise InputError(
                f"judges the answer {answer} again, after line {earlier.line}",
                "Keep one line; sheets of several people are files of their own.",
                where,
            )
        note = str(cells.get("note") or "").strip() or None
        verdicts[answer] = Verdict(answer, score, note, shown, number)
    return list(verdicts.values())


def check_known(verdicts: Iterable[Verdict], known: Collection[str]) -> None:
    """Raise :class:`InputError` for the first verdict, by file and line, on an answer that is not among ``known``."""
    unknown = sorted(
        (verdict.file, verdict.line, verdict.answer) for verdict in verdicts if verdict.answer not in known
    )
    if unknown:
        file, line, answer = unknown[0]
        more = f" ({len(unknown)} such lines)" if len(unknown) > 1 else ""
        raise InputError(
            f"judges the answer {answer}, which nobody gave{more}",
            "The prompts or teachers are others than those of the sheet. Remove the line, or the sheet from verdicts.",
            f"{file}:{line}",
        )


def _number(value: object, scale: tuple[Decimal, Decimal], where: str) -> Decimal | None:
    text = "" if value is None or isinstance(value, bool) else str(value).strip()
    if not text and not isinstance(value, bool):
        return None
    if NUMBER.fullmatch(text):
        number = Decimal(text.replace(",", "."))
        if scale[0] <= number <= scale[1]:
            return number
    raise InputError(
        f"has the score {str(value)[:40]!r}",
        f"Write a number from {scale[0].normalize():f} to {scale[1].normalize():f}, or nothing.",
        where,
    )


def _jsonl(text: str, shown: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_float=str, parse_int=str)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError("is no line of JSON with an object", "Mend the line.", f"{shown}:{number}")
        yield number, value


def _csv(text: str, shown: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    begin = 1
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        for cells in reader:
            if names is None:
                names = [cell.strip() for cell in cells]
                absent = next((name for name in ("answer", "score") if name not in names), None)
                if absent is not None:
                    raise InputError(f"has no column {absent!r}", "Keep the first line as it was.", f"{shown}:1")
            elif any(cell.strip() for cell in cells):
                if len(cells) > len(names):
                    raise InputError("has more cells than columns", "Quote texts with separators.", f"{shown}:{begin}")
                yield begin, dict(zip(names, cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"is no CSV: {error}", "Mend the quotes.", f"{shown}:{begin}") from None
