"""A builder for engine tests: rows come from a JSON file of records, as a plugin outside the package would."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from aya_data.core import durable
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
