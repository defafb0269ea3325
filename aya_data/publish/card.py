"""The documents of a release, from its manifest alone: dataset card, attribution, LLaMA-Factory's index.

The card's front matter follows the Hub's metadata (https://huggingface.co/docs/hub/datasets-cards) and
its ``configs`` (https://huggingface.co/docs/hub/datasets-manual-configuration), so that
``datasets.load_dataset`` reads a release folder as it lies on disk. Every name in a manifest is
text that somebody else wrote: nothing of it reaches Markdown or YAML unescaped. The same manifest gives
the same bytes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import yaml

from aya_data.catalog.terminal import amount
from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.errors import NotFound
from aya_data.core.generation import named_reasons

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "attribution",
    "card",
    "configs",
    "dataset_info",
    "hub_languages",
    "hub_license",
    "main_kind",
    "size_category",
]

DATA_FILES = ("templates/card.md.j2", "templates/attribution.md.j2")

FOLDERS: Final[Mapping[str, str]] = {"conversation": "data", "preference": "preference", "prompt": "prompts"}
"""Folder and, for kinds beside the main one, config of each kind of row."""

TITLES: Final[Mapping[str, str]] = {
    "conversation": "Conversations",
    "preference": "Preferences",
    "prompt": "Prompts",
}
SPLITS: Final = ("train", "validation", "test")

_SAME_ON_THE_HUB: Final = frozenset({
    "apache-2.0", "mit", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "osl-3.0", "postgresql", "ofl-1.1",
    "ncsa", "unlicense", "zlib",
})  # fmt: skip
"""SPDX ids that the Hub knows under the same name in lower case."""

_OTHER_ON_THE_HUB: Final[Mapping[str, str]] = {
    "odc-by-1.0": "odc-by",
    "odbl-1.0": "odbl",
    "pddl-1.0": "pddl",
    "c-uda-1.0": "c-uda",
    "agpl-3.0-only": "agpl-3.0",
    "agpl-3.0-or-later": "agpl-3.0",
    "gpl-2.0-only": "gpl-2.0",
    "gpl-2.0-or-later": "gpl-2.0",
    "gpl-3.0-only": "gpl-3.0",
    "gpl-3.0-or-later": "gpl-3.0",
    "lgpl-2.1-only": "lgpl-2.1",
    "lgpl-2.1-or-later": "lgpl-2.1",
    "lgpl-3.0-only": "lgpl-3.0",
    "lgpl-3.0-or-later": "lgpl-3.0",
    "gfdl-1.1-only": "gfdl",
    "gfdl-1.1-or-later": "gfdl",
    "gfdl-1.2-only": "gfdl",
    "gfdl-1.2-or-later": "gfdl",
    "gfdl-1.3-only": "gfdl",
    "gfdl-1.3-or-later": "gfdl",
}

_SIZES: Final = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")

_TERMS_DUTIES: Final[Mapping[str, str]] = {
    "no-compete": "Do not use these rows to develop models that compete with the provider's.",
    "non-commercial": "Use for non-commercial purposes only.",
    "research-only": "Use for research only.",
    "attribution": "Name the provider where you publish the rows or what is made from them.",
    "naming": "A model trained on these rows must carry the provider's name as the terms prescribe.",
    "use-restrictions": "The terms list uses that are not allowed; pass the list on.",
    "no-derivatives": "Do not pass on changed versions.",
    "no-redistribution": "Do not pass these rows on.",
}


def main_kind(manifest: Mapping[str, Any]) -> str | None:
    """Return the kind of row that config ``default`` loads: the first there is of :data:`FOLDERS`."""
    return next(iter(_kinds(manifest)), None)


def configs(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ``configs`` of the front matter: ``default``, one per variety, the same for other kinds.

    Splits stand in the order train, validation, and only where there are files.
    """
    found: list[dict[str, Any]] = []
    for index, kind in enumerate(_kinds(manifest)):
        folder = FOLDERS[kind]
        shards = [f for f in manifest["files"] if f.get("kind") == kind]
        whole: dict[str, Any] = {
            "config_name": folder if index else "default",
            "data_files": _data_files(shards, f"{folder}/*"),
        }
        if index == 0:
            whole["default"] = True
        found.append(whole)
        for variety in sorted({f["config"] for f in shards}):
            own = [f for f in shards if f["config"] == variety]
            name = f"{folder}-{variety}" if index else variety
            found.append({"config_name": name, "data_files": _data_files(own, f"{folder}/{variety}")})
    return found


def _kinds(manifest: Mapping[str, Any]) -> list[str]:
    there = {f["kind"] for f in manifest["files"] if "kind" in f}
    return [kind for kind in FOLDERS if kind in there]


def _data_files(shards: Iterable[Mapping[str, Any]], folder: str) -> list[dict[str, str]]:
    splits = {shard["split"] for shard in shards}
    return [{"split": split, "path": f"{folder}/{split}-*.parquet"} for split in sorted(splits, key=_split_order)]


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def hub_languages(codes: Iterable[str]) -> list[str]:
    """Return languages as the Hub wants them: ISO 639-1 where there is one, else 639-3; sorted, without ``und``.

    The code of a macrolanguage stands for the member that it usually means (``ar`` for ``arb``).
    """
    return sorted({_hub_language(code) for code in codes if code not in ("und", "mul", "zxx", "mis")})


def _hub_language(code: str) -> str:
    try:
        known = languages.info(code)
    except NotFound:
        return code
    if known.iso639_1:
        return known.iso639_1
    if known.macrolanguage:
        short = languages.info(known.macrolanguage).iso639_1
        if short and languages.resolve(short).variety.language == code:
            return short
    return code


def hub_license(manifest: Mapping[str, Any]) -> str | None:
    """Return the Hub's id of the one licence of all rows; None where there are several, terms, or no such id."""
    expressions = {row["license"] for row in manifest["licenses"]}
    if len(expressions) != 1 or manifest["terms"]:
        return None
    name = next(iter(expressions)).lower()
    return name if name in _SAME_ON_THE_HUB else _OTHER_ON_THE_HUB.get(name)


def size_category(rows: int) -> str:
    """Return the Hub's size category of ``rows``."""
    limit, before = 1000, ""
    for name in _SIZES:
        if rows < limit:
            return f"{before}n<{name}" if not before else f"{before}<n<{name}"
        limit, before = limit * 10, name
    return "n>1T"


def _front_matter(manifest: Mapping[str, Any]) -> str:
    kinds = _kinds(manifest)
    one = hub_license(manifest)
    codes = {row["variety"].partition("_")[0] for row in manifest["languages"]}
    spoken = hub_languages(codes)
    meta: dict[str, Any] = {"pretty_name": _clean(manifest["name"])}
    if spoken:
        meta["language"] = spoken
    if one:
        meta["license"] = one
    elif manifest["licenses"]:
        meta |= {"license": "other", "license_name": "see-attribution", "license_link": "ATTRIBUTION.md"}
    if len(spoken) > 1:
        meta["multilinguality"] = ["multilingual"]
    elif spoken:
        meta["multilinguality"] = ["monolingual"]
    meta["size_categories"] = [size_category(manifest["rows"])]
    meta["task_categories"] = ["text-generation"]
    tags = ["aya-data", "instruction-tuning", "multilingual"]
    if "preference" in kinds:
        tags += ["dpo", "preference", "reward-model"]
    meta["tags"] = sorted(tags)
    if found := configs(manifest):
        meta["configs"] = found
    text = yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=10_000, line_break="\n")
    return f"---\n{text}---\n\n"


def card(manifest: Mapping[str, Any]) -> str:
    """Return ``README.md`` of a release: the Hub's front matter, then what a reader needs to know."""
    varieties = sorted({row["variety"] for row in manifest["languages"]})
    kinds = _kinds(manifest)
    unnamed = sum(row["rows"] for row in manifest["languages"] if row["variety"].startswith("und"))
    unknown = sum(r["rows"] for r in manifest["licenses"] if not licenses.from_expression(r["license"]).known)
    flagged = sum(r["rows"] for r in manifest["rules"] if r["outcome"] == "flagged")
    limits = []
    if unnamed:
        limits.append(f"{amount(unnamed, 'row')} of no known language: see the configs of und.")
    if unknown:
        limits.append(f"{amount(unknown, 'row')} of no known licence: this release must not be published.")
    if flagged:
        times = amount(flagged, "time")
        limits.append(f"{times} a filter found a row odd without dropping it: see the outcome flagged.")
    for voice in manifest.get("voices", ()):
        if voice.get("failed"):
            asked = f"Of {amount(voice['asked'], 'request')} to {voice['step']} ({voice['source']})"
            limits.append(f"{asked} {voice['failed']:,} failed and have no answer: {named_reasons(voice['reasons'])}.")
    one = manifest["licenses"][0]["license"] if len(manifest["licenses"]) == 1 else None
    return _environment().get_template("card.md.j2").render(
        front_matter=_front_matter(manifest),
        name=manifest["name"],
        description=manifest["description"],
        version=manifest["version"],
        digest=manifest["digest"],
        rows=manifest["rows"],
        languages=sorted({v.partition("_")[0] for v in varieties} - {"und"}),
        varieties=[v for v in varieties if not v.startswith("und")],
        kinds=kinds,
        tables=[_table(manifest, kind, bool(index)) for index, kind in enumerate(kinds)],
        examples=_examples(manifest),
        folder=f"{_safe_name(manifest['name'])}/{manifest['version']}",
        funnel=_funnel(manifest),
        rules=_rules(manifest),
        license=one,
        licenses=_license_rows(manifest),
        terms=_term_rows(manifest),
        policy=manifest["policy"],
        profile=manifest["profile"],
        made_with=manifest["made_with"]["aya-data"],
        stages=manifest["stages"],
        voices=_voices(manifest),
        judged=any("bias" in report for report in manifest.get("generation", {}).values()),
        limits=limits,
    )  # fmt: skip


def _voices(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models that were asked: what each is called, and which of it that is."""
    rows = []
    for voice in manifest.get("voices", ()):
        identity = voice["identity"]
        model = str(identity.get("model") or voice["step"].partition("/")[2])
        revision = next((str(identity[name]) for name in ("revision", "digest", "recording") if identity.get(name)), "")
        rows.append({**voice, "model": model[:80], "revision": revision[:40]})
    return rows


def _table(manifest: Mapping[str, Any], kind: str, beside: bool) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    members = [row for row in manifest["languages"] if row["kind"] == kind]
    for member in members:
        variety = member["variety"]
        row = rows.setdefault(
            variety,
            {
                "variety": variety,
                "name": languages.name(variety),
                "config": f"{FOLDERS[kind]}-{variety}" if beside else variety,
                "splits": {},
                "chars": 0,
                "tokens": 0,
            },
        )
        row["splits"][member["split"]] = member["rows"]
        row["chars"] += member["chars"]
        row["tokens"] += member["tokens"] or 0
    return {
        "title": TITLES[kind],
        "splits": sorted({member["split"] for member in members}, key=_split_order),
        "tokens": any(member["tokens"] for member in members),
        "rows": [rows[variety] for variety in sorted(rows)],
    }


def _examples(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    found = [c["config_name"] for c in configs(manifest)]
    chosen = found[:1]
    if len(found) > 1:
        chosen.append("tur_Latn" if "tur_Latn" in found else found[1])
    chosen += [name for name in found if name in FOLDERS.values()]
    return [{"name": n, "target": "dataset" if n == "default" else re.sub(r"\W", "_", n.lower())} for n in chosen]


def _funnel(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of each source from read to released. By the ledger's law, read = kept + lost.

    What a builder used up to make rows (messages of a tree, parents of templates) is none of the rows read.
    """
    order = [stage["name"] for stage in manifest["stages"]]
    counts = {stage["name"]: stage for stage in manifest["stages"]}
    used: dict[tuple[str, str], int] = {}
    for rule in manifest["rules"]:
        if rule["outcome"] == "consumed" and rule["stage"].startswith(("read:", "derive:")):
            place = (rule["source"], rule["stage"])
            used[place] = used.get(place, 0) + rule["rows"]
    rows = []
    seen: set[str] = set()
    for source in manifest["sources"]:
        name = source["name"]
        gone: dict[str, int] = {}
        for stage, number in source["lost"].items():
            if left := number - used.get((name, stage), 0):
                seen.add(stage)
                gone[_stage_title(stage)] = gone.get(_stage_title(stage), 0) + left
        read = source["distinct"] + sum(gone.values())
        began = counts.get(f"read:{name}") or counts.get(f"derive:{name}")
        if source["use"] == "benchmark" and began:
            read = began["rows_in"] + began["created"] - began["consumed"]
        rows.append({**source, "read": read, "lost": gone})
    known = [stage for stage in order if stage in seen] + sorted(seen - set(order))
    return {"stages": list(dict.fromkeys(_stage_title(stage) for stage in known)), "rows": rows}


def _stage_title(stage: str) -> str:
    """All sources share one column for reading, and all waves of a filter one for it."""
    kind, _, rest = stage.partition(":")
    return "refused when read" if kind in ("read", "derive") else (rest or kind).partition("@")[0]


def _rules(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], int] = {}
    for rule in manifest["rules"]:
        key = (rule["stage"], rule["rule"] or "", rule["outcome"])
        found[key] = found.get(key, 0) + rule["rows"]
    return [{"stage": s, "rule": r, "outcome": o.replace("_", " "), "rows": n} for (s, r, o), n in found.items()]


def _license_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for entry in sorted(manifest["licenses"], key=lambda e: (-e["rows"], e["license"])):
        held = licenses.from_expression(entry["license"])
        atoms = [_atom(identifier) for identifier in licenses.atoms(entry["license"])]
        rows.append({**entry, "says": licenses.describe(held), "atoms": atoms})
    return rows


def _atom(identifier: str) -> dict[str, Any]:
    row = licenses.facts(identifier)
    duties = []
    if row.use == "unknown":
        duties.append("What this licence allows is not known: ask before using or passing on.")
    if row.use in ("noncommercial", "academic"):
        duties.append("Use for " + ("non-commercial purposes" if row.use == "noncommercial" else "research") + " only.")
    if row.attribution:
        duties.append("Name the authors and the licence, keep notices, say what was changed.")
    if row.share_alike:
        duties.append("Pass on what you make from it under the same or a compatible licence.")
    if row.derivatives is False:
        duties.append("Do not pass on changed versions.")
    return {"title": row.title or identifier, "url": row.url, "note": row.note, "duties": duties}


def _term_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in manifest["terms"]:
        known = licenses.terms_table().get(name)
        effects = sorted(known.effects) if known else []
        rows.append(
            {
                "id": name,
                "title": known.title if known else name,
                "url": known.url if known else "",
                "note": known.note if known else "",
                "effects": ", ".join(effects) or "not known",
                "duties": [_TERMS_DUTIES[effect] for effect in effects],
            }
        )
    return rows


def attribution(manifest: Mapping[str, Any]) -> str:
    """Return ``ATTRIBUTION.md``: sources, obligations of every licence and term, assertions, disagreements."""
    disagreements = []
    for source in manifest["sources"]:
        for dataset in sorted({part["dataset"] for part in source["parts"]}):
            for conflict in licenses.part_license(source["builder"], dataset or "*").conflicts:
                disagreements.append({"source": source["name"], "dataset": dataset or source["name"], "what": conflict})
    sources = [{**source, "pins": sorted(source["pins"].items())} for source in manifest["sources"]]
    return _environment().get_template("attribution.md.j2").render(
        name=manifest["name"],
        version=manifest["version"],
        sources=sources,
        licenses=_license_rows(manifest),
        terms=_term_rows(manifest),
        assertions=manifest["assertions"],
        disagreements=disagreements,
    )  # fmt: skip


def dataset_info(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return LLaMA-Factory's ``dataset_info.json`` for a release folder used as ``dataset_dir``.

    One entry per file, because LLaMA-Factory reads a file or a flat folder, never a tree; prompts
    have no answer to train on and are left out.
    """
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
        "observation_tag": "tool",
    }
    columns = {
        "conversation": {"messages": "messages"},
        "preference": {"messages": "context", "chosen": "chosen_message", "rejected": "rejected_message"},
    }
    info: dict[str, Any] = {}
    for file in manifest["files"]:
        kind = file.get("kind")
        if kind not in columns:
            continue
        number = file["path"].rpartition("/")[2].removeprefix(f"{file['split']}-").partition("-of-")[0]
        one = sum(_same(file, other) for other in manifest["files"]) == 1
        words = [FOLDERS[kind]] if kind != main_kind(manifest) else []
        words += [file["config"], file["split"], *([] if one else [number])]
        entry: dict[str, Any] = {"file_name": file["path"], "formatting": "sharegpt"}
        if kind == "preference":
            entry["ranking"] = True
        info["-".join(words)] = entry | {"columns": columns[kind], "tags": tags}
    return info


def _same(file: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(file.get(name) == other.get(name) for name in ("kind", "config", "split"))


# Escaping ------------------------------------------------------------------------------------------

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$@:-])")
_HARMLESS = re.compile(r"(?<=\w)\\[-:_](?=\w)|(?<=\w)\\:(?=\s|$)|\\[()]")


def _clean(value: object) -> str:
    """One line without control, formatting and bidirectional override characters."""
    kept = (c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else " " for c in str(value))
    return " ".join("".join(kept).split())


def _text(value: object) -> str:
    """Escape ``value`` as Markdown text: no markup, no HTML, no link."""
    escaped = _MARKUP.sub(r"\\\1", _clean(value)).replace("\\<", "&lt;").replace("\\>", "&gt;")
    return re.sub(r"^(\d+)\.(?=\s|$)", r"\1\\.", _HARMLESS.sub(lambda m: m[0].replace("\\", ""), escaped))


def _code(value: object) -> str:
    """``value`` as a code span that no back quote or table bar inside can end."""
    text = _clean(value).replace("|", "\\|")
    if not text:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _link(value: object) -> str:
    """An automatic link for a web address; anything else as code."""
    text = _clean(value)
    return f"<{text}>" if re.fullmatch(r"https?://[^\s<>\"'`|\\]+", text) else _code(text)


def _sentence(value: object) -> str:
    text = _clean(value)
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", _clean(name))


@cache
def _environment() -> Environment:
    from jinja2 import FunctionLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    folder = files("aya_data.publish").joinpath("templates")
    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the result is Markdown; the filters below escape for it
    )
    environment.filters |= {
        "text": _text,
        "code": _code,
        "link": _link,
        "sentence": _sentence,
        "number": lambda n: f"{n:,}",
        "epochs": lambda n: f"{n:.2f}".rstrip("0").rstrip("."),
    }
    return environment
