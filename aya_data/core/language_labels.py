"""How a label is read: tags, codes, spellings of data sets, English names.

``find`` turns a label into a code with what the label says of the script, or into the reason why
there is none; ``settle`` makes the canonical choice of language and script. The rules are in
``aya_data.core.language``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from aya_data.core import language_tables as tables

__all__ = [
    "LONGEST",
    "UNKNOWN",
    "Found",
    "canonical_code",
    "find",
    "find_code",
    "macro_of",
    "says_script",
    "settle",
]


class Found(NamedTuple):
    """What a label gives: a language, a script if it says one (else empty), what was noticed."""

    language: str
    script: str = ""
    notes: tuple[str, ...] = ()


LONGEST = 200  # characters; a longer text is no label, and names are matched word by word

# The script that a region implies where it is not the language's usual one.
_REGION_SCRIPTS = {
    ("zho", "TW"): "Hant",
    ("zho", "HK"): "Hant",
    ("zho", "MO"): "Hant",
    ("yue", "CN"): "Hans",
    ("srp", "ME"): "Latn",
    ("uzb", "AF"): "Arab",
    ("aze", "IR"): "Arab",
    ("kur", "IQ"): "Arab",
    ("kur", "IR"): "Arab",
    ("pan", "PK"): "Arab",
    ("snd", "IN"): "Deva",
    ("mon", "CN"): "Mong",
    ("kaz", "CN"): "Arab",
    ("kir", "CN"): "Arab",
}
_BY_REGION = frozenset(language for language, _ in _REGION_SCRIPTS)
_REGION_LANGUAGES = {("fas", "AF"): "prs"}

# Script codes for styles of a script, or for scripts in combination, that mean nothing for text.
_SCRIPT_STYLES = {
    "Aran": "Arab",
    "Latf": "Latn",
    "Latg": "Latn",
    "Cyrs": "Cyrl",
    "Syre": "Syrc",
    "Syrj": "Syrc",
    "Syrn": "Syrc",
    "Hanb": "Hant",
    "Hntl": "Hant",
}
# (language, script): the one of several codes for the same thing that the sources use.
_SCRIPT_CHOICES = {
    ("kor", "Kore"): "Hang",
    ("zho", "Hani"): "Hans",
    ("yue", "Hani"): "Hant",
    ("jpn", "Hani"): "Jpan",
}
UNKNOWN = "not a language name or code that is known"
_NO_SCRIPT = frozenset({"Zyyy", "Zzzz", "Zinh"})
_ENCODINGS = ("utf", "iso", "euc", "gb", "big5", "koi8", "cp")
_FILLER = frozenset({"script", "alphabet", "characters", "language"})


def canonical_code(language: str, script: str) -> str:
    """Return the one code that stands for ``language`` here."""
    table = tables.canonical()
    choice = table.get((language, script)) or table.get((language, "*"))
    return choice[0] if choice else language


def macro_of(language: str) -> str | None:
    """Return the macrolanguage of an ISO 639-3 code; None for none, or an unknown code."""
    row = tables.languages().get(language)
    return row.macrolanguage or None if row else None


def find(text: str, depth: int = 0) -> Found | str:
    """Return the language that a label names, or the reason why there is none.

    ``text`` has at most ``LONGEST`` characters. ``depth`` counts how often a name has been taken
    apart; it stops at three, so that the cost stays under some hundred lookups.
    """
    if text.startswith("__label__"):
        text = text.removeprefix("__label__")
        if text in tables.lid_176():
            return Found(tables.lid_176()[text])
    if not text:
        return UNKNOWN
    not_languages = tables.not_languages()
    if ("exact", text) in not_languages:
        return not_languages["exact", text]
    tag = _find_tag(text)
    key = tables.squash(text)
    # A lone code is a code, whatever else has that name; a longer tag may be a name (min_nan).
    if "-" not in text and "_" not in text:
        if isinstance(tag, Found):
            return tag
    elif text[0].isupper() and key in tables.names() and key not in tables.aliases():
        tag = None  # a capitalised name (Aka-Bo) that looks like a code with a region
    alias = tables.aliases().get(key)
    if alias is not None:
        if not alias.language:
            return alias.note
        return Found(alias.language, alias.script, (alias.note,) if alias.note else ())
    if tag is not None and (isinstance(tag, Found) or not tag.startswith(UNKNOWN)):
        return tag
    if ("key", key) in not_languages:
        return not_languages["key", key]
    return _find_name(text, key, depth) or tag or UNKNOWN


def _find_tag(text: str) -> Found | str | None:
    """Read a BCP 47, POSIX or FLORES tag; None when ``text`` does not look like one.

    A reason that starts with ``UNKNOWN`` leaves room for reading the text as a name
    (``tok_pisin``).
    """
    text, _, modifier = text.partition("@")
    head, _, encoding = text.partition(".")
    subtags = (head if encoding.lower().startswith(_ENCODINGS) else text).replace("_", "-").split("-")
    if not all(s.isascii() and s.isalnum() and len(s) <= 8 for s in subtags):
        return None
    if not 2 <= len(subtags[0]) <= 3:
        return None
    if modifier.lower() in ("latin", "cyrillic"):
        subtags.insert(1, modifier)
    code = find_code(subtags[0].lower())
    if not isinstance(code, Found):
        if len(subtags) == 1 or code is None:
            return code
        return f"{UNKNOWN}: {code}"
    language, script, notes, region = code.language, "", list(code.notes), ""
    for position, subtag in enumerate(subtags[1:], start=1):
        lower = subtag.lower()
        if len(subtag) == 1:  # extensions and private use say nothing of language or script
            break
        if position == 1 and len(subtag) == 3 and macro_of(lower) == language:
            language = lower
        elif not script and not region and lower in tables.script_keys() and _is_script(subtag):
            script = tables.script_keys()[lower]
        elif not region and subtag.upper() in tables.regions():
            region = subtag.upper()
            notes.append(f"region {region}")
        elif lower in tables.variants():
            notes.append(f"variant {lower}")
        else:
            return f"{UNKNOWN}: {subtags[0]} with the unknown part {subtag!r}"
    language = _REGION_LANGUAGES.get((language, region), language)
    return Found(language, script or _region_script(language, region), tuple(notes))


def _is_script(subtag: str) -> bool:
    return len(subtag) == 4 or subtag.lower() in ("latin", "cyrillic")


def find_code(code: str) -> Found | str | None:
    """Look up a two- or three-letter code; a reason if it is withdrawn, None if unknown."""
    if code in tables.languages():
        return Found(code)
    if code in tables.by_short_code():
        return Found(tables.by_short_code()[code])
    row = tables.retired().get(code)
    if row is None:
        if "qaa" <= code <= "qtz" and len(code) == 3:
            return f"{code} is a private-use code"
        return None
    if row.why == "collective":
        return f"{code} names a family ({row.name}), not one language"
    now = row.now.split()
    if len(now) == 1:
        return Found(now[0], notes=(f"deprecated code {code} -> {now[0]}",))
    if now:
        return f"{code} ({row.name}) was split into {', '.join(now)}: the label does not say which"
    return f"{code} ({row.name}) was withdrawn from ISO 639-3: {row.why}"


def _find_name(text: str, key: str, depth: int) -> Found | str | None:
    """Read an English name, with a script around it, or several names of one language."""
    codes = tables.names().get(key, "").split()
    if len(codes) == 1:
        return Found(codes[0])
    if codes:
        return f"ambiguous name: {', '.join(codes)}"
    if depth == 3:
        return None
    for form, script, note in _rewritten(text):
        found = find(form, depth + 1)
        if isinstance(found, Found) and not (script and found.script):
            notes = (*found.notes, note) if note else found.notes
            return Found(found.language, script or found.script, notes)
    return _find_each(text) if depth == 0 else None


def _find_each(text: str) -> Found | str | None:
    """Read several names: of one language (``Odia/Oriya``), or a reason when of more."""
    for mark in ("/", ";", "|", ",", " or ", " and ", " & "):
        if mark not in text:
            continue
        parts = {find(part.strip(), 2) for part in text.split(mark)}
        named = [part for part in parts if isinstance(part, Found)]
        if len(named) < len(parts):
            continue
        if len({settle(part, None)[:2] for part in named}) > 1:
            return "more than one language"
        return min(named)
    return None


def _rewritten(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield other ways to read a name: (name, script, note)."""
    base, inner = _brackets(text)
    if base and inner:
        script = _script_of(inner)
        if script:
            yield base, script, ""
        region = tables.region_keys().get(tables.squash(inner))
        if region:
            yield f"{base} {inner}", "", f"region {region}"
            yield base, "", f"region {region}"
        yield f"{inner} {base}", "", ""
        yield f"{base} {inner}", "", ""
        for code, other in ((inner, base), (base, inner)):
            first, second = find_code(code.lower()), _find_name(other, tables.squash(other), 3)
            if not (isinstance(first, Found) and isinstance(second, Found)):
                continue
            if canonical_code(first.language, "") == canonical_code(second.language, ""):
                yield code, "", ""
        return
    before, comma, after = text.partition(",")
    if comma:
        yield f"{after.strip()} {before.strip()}", "", ""
        return
    words = _words(text)
    if 2 <= len(words) <= 6:
        plain = [word for word in words if word.lower() not in _FILLER]
        if len(plain) < len(words) and plain:
            yield " ".join(plain), "", ""
            words = plain
        for count in (1, 2):
            if len(words) > count:
                if script := _script_of(" ".join(words[-count:])):
                    yield " ".join(words[:-count]), script, ""
                if script := _script_of(" ".join(words[:count])):
                    yield " ".join(words[count:]), script, ""


def _brackets(text: str) -> tuple[str, str]:
    """Split ``Serbian (Latin)`` into what stands before and in the brackets, empty if none."""
    for opening, closing in ("()", "[]"):
        if text.endswith(closing):
            base, _, inner = text[:-1].partition(opening)
            return base.strip(), inner.strip()
    return "", ""


def _words(text: str) -> list[str]:
    return text.replace("_", " ").replace("-", " ").split()


def _script_of(text: str) -> str:
    """Return the script that a word or code names, empty if none."""
    words = [word for word in _words(text) if word.lower() not in _FILLER]
    return tables.script_keys().get(tables.squash(" ".join(words)), "")


def says_script(found: Found) -> bool:
    """Tell whether a label gave a script, by itself or by its region.

    A region counts for a language whose regions differ in script: ``zh-CN`` says Hans as ``zh-TW`` says Hant, while
    ``pt-BR`` says nothing.
    """
    if found.script:
        return _SCRIPT_STYLES.get(found.script, found.script) not in _NO_SCRIPT
    codes = (found.language, macro_of(found.language))
    return any(code in _BY_REGION for code in codes) and any(note.startswith("region ") for note in found.notes)


def _region_script(language: str, region: str) -> str:
    """Return the script that a region implies for a language, or for its macrolanguage (``cmn-TW`` as ``zh-TW``)."""
    macro = macro_of(language) or language
    return _REGION_SCRIPTS.get((language, region)) or _REGION_SCRIPTS.get((macro, region), "")


def settle(found: Found, said: str | None) -> Found:
    """Choose the canonical language and script; ``said`` is a script from another column."""
    notes, language, script = list(found.notes), found.language, found.script
    if said and said.strip():
        stated = _script_of(said)
        if not stated:
            notes.append(f"unknown script {said.strip()!r} ignored")
        elif script and stated != script:
            notes.append(f"script {stated} ignored: the label says {script}")
        else:
            script = stated
    script = _SCRIPT_STYLES.get(script, script)
    if script in _NO_SCRIPT:
        script = ""
    chosen = canonical_code(language, script)
    if chosen != language:
        notes.append(_choice_note(language, chosen))
        language = chosen
    script = script or tables.languages()[language].script
    return Found(language, _SCRIPT_CHOICES.get((language, script), script), tuple(notes))


def _choice_note(language: str, chosen: str) -> str:
    if tables.languages()[language].scope == "M":
        return f"macrolanguage {language}"
    return f"{language} is {chosen} here"
