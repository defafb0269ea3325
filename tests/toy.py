"""A builder for engine tests: rows come from a JSON file of records, as a plugin outside the package would."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from aya_data.core import durable
from aya_data.core.generation import (
    FAILED,
    Answer,
    Asked,
    GeneratingBuilder,
    Place,
    Request,
    Step,
    Voice,
    request_key,
    voice_key,
)
from aya_data.core.identity import derived_key, record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.settings import Settings, SourceName
from aya_data.core.stage import Batch, Builder, Unit
from aya_data.core.store import file_digest


class ToySettings(Settings):
    """A folder of JSON lines."""

    folder: str = Field(description="Where the files lie.")


class ToyBuilder(Builder):
    """One row per record {p, a, lang, license, id?}; ``bad`` records are rejected."""

    Settings = ToySettings

    def units(self) -> list[Unit]:
        folder = self.environment.base / self.settings.folder
        # Of unknown size: each file is a part of its own.
        return [Unit(p.name, file_digest(p), str(p)) for p in sorted(folder.iterdir(), reverse=True)]

    def read(self, unit: Unit) -> Iterator[Batch]:
        self._arm()
        for start, lines in enumerate(_chunks(Path(unit.location).read_text().splitlines(), 64)):
            drafts, rejections = [], []
            for offset, line in enumerate(lines):
                record = json.loads(line)
                place = (unit.name, start * 64 + offset)
                key = row_key(self.source, str(record.get("id") or record_digest(record)))
                if record.get("bad"):
                    rejections.append(Rejection(key, place, "bad"))
                    continue
                turns = [("user", record["p"]), ("assistant", record["a"])]
                drafts.append(
                    Draft(
                        key,
                        turns,
                        place,
                        language=record.get("lang"),
                        license=record.get("license"),
                        dataset=self.source,
                    )
                )
            yield Batch(len(lines), drafts, rejections)

    def _arm(self) -> None:
        """A worker that finds a file ``die`` beside the spec takes it and is killed some operations later."""
        die = self.environment.base / "die"
        if die.exists() and multiprocessing.parent_process() is not None:
            durable.failpoint.fail_at = durable.failpoint.count + int(die.read_text())
            durable.failpoint.active = True
            die.unlink(missing_ok=True)


def _chunks(lines: list[str], size: int) -> list[list[str]]:
    return [lines[i : i + size] for i in range(0, len(lines), size)]


class EchoSettings(Settings):
    """Two rows from each parent."""

    from_: SourceName = Field(alias="from", description="The parent source.")
    take: int | None = Field(None, description="How many parents.")


class EchoBuilder(Builder):
    """Makes two rows from each parent: its prompt said twice, and thrice."""

    Settings = EchoSettings

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.settings.from_,)

    @property
    def rows(self) -> int | None:
        return self.settings.take

    def units(self) -> list[Unit]:
        return []

    def read(self, unit: Unit) -> Iterator[Batch]:
        raise AssertionError("has parents")

    def derive(self, rows: pa.Table) -> Iterator[Batch]:
        drafts, rejections = [], []
        for row in rows.to_pylist():
            place = (row["provenance"]["file"], row["provenance"]["row"])
            prompt, answer = row["messages"][0]["content"], row["messages"][-1]["content"]
            for times in (2, 3):
                key = derived_key([row["row_key"]], "echo", str(times))
                turns = [("user", " ".join([prompt] * times)), ("assistant", answer)]
                drafts.append(
                    Draft(
                        key,
                        turns,
                        place,
                        language=row["language"],
                        license=row["license"],
                        group=row["group"],
                        parents=[row["row_key"]],
                        origin="templated",
                        dataset=self.source,
                        adapted=True,
                    )
                )
            rejections.append(Rejection(row["row_key"], place, "parent", outcome="consumed"))
        yield Batch(len(rejections), drafts, rejections)


class AskSettings(Settings):
    """One row of what a voice says of each parent."""

    from_: SourceName = Field(alias="from", description="The parent source.")
    take: int | None = Field(default=None, description="How many parents.")
    suffix: str = Field(default="!", description="What the voice adds.")
    fail: str = Field(default="", description="Texts with this in them fail, until a file 'mended' is there.")
    max_failed: int = Field(default=0, description="How many may fail.")


class Echoing(Voice):
    """Says what it hears, in capitals. It writes down every request that reached it in a file ``asked`` of its base.

    Where a file ``dies`` is there, it says that its process died so many times."""

    name = "echoing"

    def __init__(self, settings: AskSettings, base: Path) -> None:
        self.settings, self.base = settings, base

    def identity(self) -> Mapping[str, Any]:
        return {"model": "echoing", "suffix": self.settings.suffix}

    @contextlib.contextmanager
    def session(self, place: Place) -> Iterator[Echoing]:
        dies = self.base / "dies"
        for _ in range(int(dies.read_text()) if dies.exists() else 0):
            assert place.restarted is not None
            place.restarted("signal 9 (SIGKILL)", 3)
        yield self

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        for request in requests:
            with (self.base / "asked").open("a") as log:
                log.write(request.key + "\n")
            text = request.messages[-1][1]
            if self.settings.fail and self.settings.fail in text and not (self.base / "mended").exists():
                yield Answer(request.key, finish=FAILED, reason="it is too hard")
            else:
                yield Answer(request.key, text.upper() + self.settings.suffix, prompt_tokens=3, completion_tokens=5)
            yield None


class AskBuilder(GeneratingBuilder):
    """Every kind of step: what a voice says, how long it is, the longest of all, and a row of each."""

    Settings = AskSettings

    @property
    def parents(self) -> tuple[str, ...]:
        return (self.settings.from_,)

    @property
    def rows(self) -> int | None:
        taken: int | None = self.settings.take
        return taken

    @property
    def max_failed(self) -> int:
        most: int = self.settings.max_failed
        return most

    @property
    def commit(self) -> tuple[int, float]:
        return 3, 1000.0

    def steps(self) -> list[Step]:
        return [
            Step("generate/echoing", "ask", (), {}),
            Step("length", "part", ("generate/echoing",), {}),
            Step("longest", "whole", ("length",), {}),
        ]

    def voice(self, step: str) -> Voice:
        return Echoing(self.settings, self.environment.base)

    def requests(self, step: str, tables: Mapping[str, pa.Table]) -> Iterator[Asked]:
        voice = voice_key(self.voice(step))
        for row, prompt in enumerate(tables["prompts"].to_pylist()):
            messages = (("user", prompt["messages"][0]["content"]),)
            variety = f"{prompt['language']}_{prompt['script']}"
            yield Asked(row, "0", Request(request_key(voice, messages, 1, 0), messages, 1, 0, variety))

    def part(self, step: str, tables: Mapping[str, pa.Table]) -> pa.Table:
        return pa.table({"length": pa.array([len(t or "") for t in tables["generate/echoing"]["text"].to_pylist()])})

    def whole(self, step: str, parts: Iterable[Mapping[str, pa.Table]]) -> pa.Table:
        return pa.table({"longest": [max((n for t in parts for n in t["length"]["length"].to_pylist()), default=0)]})

    def make(self, tables: Mapping[str, pa.Table]) -> Iterator[Batch]:
        longest = tables["longest"]["longest"][0].as_py()
        batch = Batch(tables["prompts"].num_rows, [])
        said = tables["generate/echoing"]["text"].to_pylist()
        for prompt, text in zip(tables["prompts"].to_pylist(), said, strict=True):
            place = (prompt["provenance"]["file"], prompt["provenance"]["row"])
            if text is None:
                batch.rejections.append(Rejection(prompt["row_key"], place, "no_answer"))
                continue
            batch.rejections.append(Rejection(prompt["row_key"], place, "ask", "1", outcome="consumed"))
            batch.drafts.append(
                Draft(
                    derived_key([prompt["row_key"]], "ask", "0"),
                    [("user", prompt["messages"][0]["content"]), ("assistant", text)],
                    place,
                    language=prompt["language"],
                    license=prompt["license"],
                    dataset=self.source,
                    group=prompt["group"],
                    origin="generated",
                    parents=[prompt["row_key"]],
                    adapted=True,
                    scores={"share": round(len(text) / longest, 4)},
                )
            )
        yield batch

    def publish(self, tables: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
        prompts = tables["prompts"]
        return {"lengths": pa.table({"prompt": prompts["row_key"], "length": tables["length"]["length"]})}

    def report(self, wholes: Mapping[str, pa.Table]) -> Mapping[str, Any]:
        return {"longest": wholes["longest"]["longest"][0].as_py()}
