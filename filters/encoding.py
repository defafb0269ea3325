"""The ``encoding`` editor: repairs mojibake, text whose bytes were read in a wrong encoding.

The work is ftfy's ``fix_encoding``, in the extra ``[text]``: it undoes chains of UTF-8 read as Windows-1252, Latin-1,
Windows-1251, Mac Roman and others, and leaves a text alone where that would not make it likelier. Nothing else is
changed: quotes, ligatures, entities and line breaks stay as they are. A regular expression over the whole column finds
the texts to ask about: those in which a letter that a first byte of UTF-8 turns into stands before a character that a
later byte turns into.

What cannot be repaired (bytes were lost on the way) stays, and the rule ``mojibake`` of ``quality`` tags it.

Rule of an edited row: ``mojibake``; evidence shows where it differs first, before and after. Cost: some 5 ns per
character to look, and 0.1 ms per text that ftfy is asked about.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from aya_data.core import settings
from aya_data.core.errors import MissingExtra
from aya_data.core.stage import Editor, Edits, Environment, Verdicts
from aya_data.text.turns import ROLES, Part

__all__ = ["Encoding"]

LATER_1252 = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
LATER_1251 = "ЂЃѓЉЊЌЋЏђљњќћџЎўЈҐЁЄЇІіґёєјЅѕї№€‚„…†‡‰‹‘’“”•–—™›\u00a0¤¦§©«¬\u00ad®°±µ¶·»"
SUSPECT = f"[\u00c2-\u00f4][{LATER_1252}]|[РС][{LATER_1251}][РС][{LATER_1251}]"
SHOWN = 4


class Encoding(Editor):
    """Repairs mojibake."""

    name = "encoding"
    libraries = ("ftfy",)
    columns = ("row_key",)

    class Settings(settings.Settings):
        """Which turns are repaired."""

        on: Part = Field("conversation", description="Which turns: the user's and assistant's, or one side's.")

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        if find_spec("ftfy") is None:
            raise MissingExtra("ftfy", "text", "repairing mojibake")

    def edit_pins(self) -> dict[str, str]:
        return {"on": self.settings.on}

    def edit(self, turns: pa.Table) -> Edits:
        """Return the texts, repaired where ftfy can."""
        import ftfy

        texts = turns["text"].combine_chunks()
        rule: list[str | None] = [None] * len(texts)
        evidence = rule.copy()
        wanted = pc.is_in(turns["role"].combine_chunks(), pa.array(ROLES[self.settings.on], pa.string()))
        suspect = pc.and_(wanted, pc.match_substring_regex(texts, SUSPECT))
        changed: dict[int, str] = {}
        for place in np.flatnonzero(pc.fill_null(suspect, False).to_numpy(zero_copy_only=False)).tolist():
            before = texts[place].as_py()
            after = ftfy.fix_encoding(before)
            if after != before and after.strip():
                changed[place] = after
                rule[place], evidence[place] = "mojibake", _difference(before, after)
        if changed:
            mask = np.zeros(len(texts), np.bool_)
            mask[list(changed)] = True
            texts = pc.replace_with_mask(texts, pa.array(mask), pa.array(list(changed.values()), texts.type))
        return Edits(texts, rule, evidence)

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        nothing = [None] * len(rows)
        return Verdicts(np.zeros(len(rows), np.bool_), nothing, nothing, nothing, nothing)


def _difference(before: str, after: str) -> str:
    """Show the first difference of two texts, and nothing beside it: this goes to the ledger before anything masks."""
    shared = next(
        (place for place, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
        min(len(before), len(after)),
    )
    one, other = before[shared : shared + SHOWN], after[shared : shared + SHOWN]
    return f"character {shared}: {one!r} became {other!r}"
