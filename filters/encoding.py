"""The ``encoding`` editor: repairs mojibake, text whose bytes were read in a wrong encoding.

The work is ftfy's ``fix_encoding``, in the extra ``[text]``: it undoes chains of UTF-8 read as Windows-1252, Latin-1,
Windows-1251, Mac Roman and others, and leaves a text alone where that would not make it likelier. Of Windows-1251 it
leaves much (all of Greek, Arabic, Hebrew, Polish or Korean text, single letters of French), so a text it leaves is also
repaired where all of it, as Windows-1251, is UTF-8: in Cyrillic text no word is. Nothing else is changed: quotes,
ligatures, entities and line breaks stay as they are. A regular expression over the whole column finds the texts to ask
about: those in which a letter that a first byte of UTF-8 turns into stands before a character that a later byte turns
into. In Cyrillic text that takes more, because there both are letters.

What cannot be repaired stays (bytes were lost on the way, or a text is part Windows-1251, part right); the rule
``mojibake`` of ``quality`` tags what was read as Windows-1252 or Latin-1.

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
SIGNS_1251 = "€‚„…†‡‰‹\u0098‘’“”•–—™›\u00a0¤¦§©«¬\u00ad®°±µ¶·»№"
SMALL_1251, LARGE_1251 = "ѓђљњќћџўіґёєјѕї", "ЂЃЉЊЌЋЏЎЈҐЁЄЇІЅ"
LATER_1251 = SIGNS_1251 + SMALL_1251 + LARGE_1251
PAIR, TRIPLE = f"[В-Я][{LATER_1251}]", f"[а-п][{LATER_1251}]{{2}}"
SUSPECT = "|".join(
    [
        f"[\u00c2-\u00f4][{LATER_1252}]",
        # Windows-1251 makes letters of Cyrillic of all first bytes, and Ukrainian, Serbian and Macedonian write those
        # that it makes of later ones: what no word of theirs has is two in a row, or a neighbour that is Latin.
        f"[РС][{LATER_1251}][РС][{LATER_1251}]",
        f"(?:[В-Я][{SIGNS_1251}{SMALL_1251}]){{2}}",
        f"(?:{TRIPLE}){{2}}",
        f"[A-Za-z](?:{PAIR}|{TRIPLE})",
        f"(?:{PAIR}|{TRIPLE})[A-Za-z]",
        f"вЂ[{SIGNS_1251}]|в„ў|в‚¬|рџ[{SIGNS_1251}]",
    ]
)
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
        texts = turns["text"].combine_chunks()
        rule: list[str | None] = [None] * len(texts)
        evidence = rule.copy()
        wanted = pc.is_in(turns["role"].combine_chunks(), pa.array(ROLES[self.settings.on], pa.string()))
        suspect = pc.and_(wanted, pc.match_substring_regex(texts, SUSPECT))
        changed: dict[int, str] = {}
        for place in np.flatnonzero(pc.fill_null(suspect, False).to_numpy(zero_copy_only=False)).tolist():
            before = texts[place].as_py()
            after = _repaired(before)
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


def _repaired(text: str) -> str:
    import ftfy

    fixed = ftfy.fix_encoding(text)
    if fixed != text:
        return fixed
    try:
        return text.encode("sloppy-windows-1251").decode("utf-8")
    except UnicodeError:
        return text


def _difference(before: str, after: str) -> str:
    """Show the first difference of two texts, and nothing beside it: this goes to the ledger before anything masks."""
    shared = next(
        (place for place, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
        min(len(before), len(after)),
    )
    one, other = before[shared : shared + SHOWN], after[shared : shared + SHOWN]
    return f"character {shared}: {one!r} became {other!r}"
