"""``hub``: any dataset on the Hugging Face Hub in Parquet, JSON Lines, JSON, CSV or TSV files.

Which files: those that ``files`` names; else those that the card's ``configs`` give to the chosen
config; else all data files, in a folder of the config's name where one was chosen. The split comes
from the card, or from a file's or folder's name (train, validation, test and their usual synonyms);
a file that says none is taken for training data, as the ``datasets`` library does.

What the columns mean is mapped in the spec, as for ``files``. The licence is never taken from the
card silently: ``card_license: true`` takes the card's tag as an assertion that ATTRIBUTION prints.

A repository that holds only a loading script cannot be read, because the script is never run; the
Hub converts many of them to Parquet on the branch that ``parquet_branch: true`` reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from pydantic import Field, model_validator

from aya_data.builders.hub.repository import tail
from aya_data.builders.mapping.mapper import Mapper, MappingSettings
from aya_data.builders.records.reader import Format, Record, column_names, format_of
from aya_data.builders.upstream import (
    HUB,
    REPOSITORY,
    Choice,
    File,
    Origin,
    UpstreamBuilder,
    hub_file,
    localize_file,
)
from aya_data.core.errors import InputError, NotFound, WrongSetting, did_you_mean
from aya_data.core.license import resolve
from aya_data.core.row import Draft, Kind, Rejection
from aya_data.core.settings import LicenseFrom, wrong
from aya_data.core.stage import Batch, Unit

__all__ = ["HubBuilder", "HubSettings"]

PARQUET_BRANCH = "refs/convert/parquet"
LONGEST_FOOTER = 64 << 20
NOT_DATA = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"})
SYNONYMS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation", "test": "test", "testing": "test", "eval": "test",
    "evaluation": "test",
}  # fmt: skip
SPLIT = re.compile(rf"(?<![a-z0-9])({'|'.join(SYNONYMS)})(?![a-z0-9])", re.IGNORECASE)


class HubSettings(MappingSettings):
    """Settings of ``hub``."""

    repo: str = Field(description="The repository, owner/name.", examples=["owner/name"])
    revision: str = Field("main", min_length=1, description="Branch, tag or commit; a build pins it to a commit.")
    location: str | None = Field(
        None,
        min_length=1,
        description="A local folder with the same files, relative to the spec.",
    )
    configs: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Configs to read. Default: the card's default, or its only one.",
    )
    splits: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Splits to read. Default: the training split, or every split of a config that has none.",
    )
    files: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Patterns over the paths in the repository: data/*.jsonl, **/*.parquet.",
    )
    parquet_branch: bool = Field(False, description=f"Read the Hub's own conversion to Parquet ({PARQUET_BRANCH}).")
    card_license: bool = Field(False, description="Take the licence tag of the card for every row, as an assertion.")

    @model_validator(mode="after")
    def _check(self) -> HubSettings:
        if not REPOSITORY.fullmatch(self.repo):
            raise wrong(
                f"names the repository {self.repo!r}, which is not a name of the Hub",
                "Write owner/name.",
            )
        if self.parquet_branch and self.revision != "main":
            raise wrong("has both revision and parquet_branch", "Keep one of them.")
        if self.card_license and self.license is not None:
            raise wrong("has both license and card_license", "Keep one of them.")
        if self.files is not None and self.configs is not None:
            raise wrong("has both files and configs", "Keep one of them.")
        return self


class HubBuilder(UpstreamBuilder):
    """Reads a dataset of the Hub with columns mapped in the spec."""

    Settings = HubSettings
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow", "jinja2")
    name: ClassVar[str] = "hub"
    sampled: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """The kind of row that the mapping makes."""
        return self._mapper.kind

    @cached_property
    def _mapper(self) -> Mapper:
        return Mapper(self.source, self.settings, self.environment.seed)

    @cached_property
    def _chosen(self) -> Mapping[str, Choice]:
        (origin,) = self.origins().values()
        return _choose(origin, self._card, self.settings)

    @cached_property
    def _card(self) -> Mapping[str, Any]:
        """Return the metadata at the top of the card; empty where there is no card."""
        (origin,) = self.origins().values()
        file = next((file for file in origin.files if file.path == "README.md"), None)
        if file is None:
            return {}
        path = localize_file(file.location, self.environment.cache)
        return _metadata(path, f"{origin.id}/README.md")

    def __getstate__(self) -> dict[str, Any]:
        lazy = ("_mapper", "_chosen", "_card")
        return {name: v for name, v in super().__getstate__().items() if name not in lazy}

    def repositories(self) -> Mapping[str, str]:
        """Name the repository."""
        return {"": self.settings.repo}

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name nothing: no licences are recorded for datasets that a spec brings."""
        return []

    def revision(self) -> str:
        """Return the branch, tag or commit to pin."""
        return PARQUET_BRANCH if self.settings.parquet_branch else super().revision()

    def dataset(self, unit: Unit) -> str:
        """Name the repository: rows are the same whatever a spec calls the source."""
        return str(self.settings.repo)

    def choose(self, path: str) -> Choice | None:
        """Say whether the spec, or the card, wants the file."""
        return self._chosen.get(path)

    def pins(self) -> dict[str, str]:
        """Return the pinned commit, and the card's licence where it is taken."""
        pins = super().pins()
        if self.settings.card_license:
            pins["card_license"] = self._tag()
        return pins

    def units(self) -> list[Unit]:
        """List the files, after a look at their columns.

        Raises :class:`InputError` where a config, a split, a file, a mapped column or the licence
        of the card is missing, or the repository holds a loading script and no data.
        """
        units = super().units()
        self._check_columns(units)
        if not self.settings.card_license:
            return units
        tag = self._tag()
        return [replace(unit, labels={**unit.labels, "card_license": tag}) for unit in units]

    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one file, and map its columns."""
        mapper = self._mapper
        tag = unit.labels.get("card_license")
        if tag is not None:
            reason = f"the card of {self.settings.repo} at {unit.revision} says license: {tag}"
            assumed = self.settings.model_copy(update={"license": LicenseFrom(assume=tag, reason=reason)})
            mapper = Mapper(self.source, assumed, self.environment.seed)
        labels = {"dataset": self.dataset(unit), **mapper.file_labels(unit.name)}
        for records in self.records(unit):
            yield mapper.batch(
                records,
                unit.name,
                labels,
                revision=unit.revision,
                config=unit.config,
                split=unit.split,
            )

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Never called: the mapping reads whole batches."""
        raise NotImplementedError

    def _open(self, folder: str, name: str) -> Origin:
        place = self.settings.location
        if place is not None and not (self.environment.base / Path(place).expanduser()).is_dir():
            raise NotFound("folder", place, remedy=f"It is the location of {self.source!r}.")
        return super()._open(folder, name)

    def _tag(self) -> str:
        tag = _license_tag(self._card)
        if tag is not None and resolve(tag).license.use != "unknown":
            return tag
        raise InputError(
            f"the card of {self.settings.repo} states "
            + ("no licence" if tag is None else f"the licence {tag!r}, which nobody knows"),
            f"Remove card_license from the source {self.source!r}, or write license: {{assume: …, reason: …}}.",
        )

    def _check_columns(self, units: Sequence[Unit]) -> None:
        """Fail now if a mapped column is in none of the files; their rows would all be dropped.

        Of files on the Hub only the footers of Parquet are read, until one has what is mapped.
        """
        known: dict[str, None] = {}
        certain = True
        failure: WrongSetting | None = None
        for unit in {unit.name: unit for unit in units}.values():
            format_ = format_of(unit.name)
            assert format_ is not None, unit.name
            names = _columns(unit.location, format_, self.environment.cache)
            if names is None:
                return
            known |= dict.fromkeys(names)
            certain = certain and format_ not in ("json", "jsonl")
            place = unit.name if len(units) == 1 else f"any of the {len(units)} files"
            try:
                self._mapper.check(list(known), certain, place)
            except WrongSetting as error:
                failure = error.in_source(self.source)
            else:
                return
        if failure is not None:
            raise failure


def _columns(location: str, format_: Format, cache: Path) -> list[str] | None:
    """Return the columns of a file, ``None`` where finding out would fetch all of it."""
    if not location.startswith(HUB):
        return column_names(location, format_)
    if format_ != "parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    repository, file = hub_file(location, cache)
    # A Parquet file ends with its footer, the footer's length in four bytes and the magic number.
    end = tail(repository, file, cache, 8)
    length = int.from_bytes(end[:4], "little") + 8
    if end[4:] != b"PAR1" or length > min(file.size, LONGEST_FOOTER):
        return None
    footer = tail(repository, file, cache, length)
    try:
        return list(pq.ParquetFile(pa.BufferReader(b"PAR1" + footer)).schema_arrow.names)
    except (pa.ArrowException, ValueError, OSError):
        return None


def _choose(origin: Origin, card: Mapping[str, Any], settings: HubSettings) -> dict[str, Choice]:
    """Say of each wanted file which config and split it belongs to."""
    data = [file for file in origin.files if format_of(file.path) is not None]
    if settings.files is not None:
        patterns = [_pattern(text) for text in settings.files]
        found = [file for file in data if any(p.fullmatch(file.path) for p in patterns)]
        if not found:
            names = [file.path for file in data]
            raise InputError(
                f"no data file of {origin.id} matches {', '.join(settings.files)}",
                did_you_mean(settings.files[0], names) or _without_data(origin),
            )
        return {file.path: Choice(None, _split(file.path)) for file in found}
    data = [file for file in data if PurePosixPath(file.path).name not in NOT_DATA]
    if not data:
        raise InputError(f"{origin.id} holds no data file", _without_data(origin))
    configs = _card_configs(card)
    if configs and not settings.parquet_branch:
        return _by_card(origin, data, configs, settings)
    return _by_folder(origin, data, settings)


def _by_card(
    origin: Origin,
    data: Sequence[File],
    configs: Mapping[str, Mapping[str, Any]],
    settings: HubSettings,
) -> dict[str, Choice]:
    names = settings.configs
    if names is None:
        default = [n for n, c in configs.items() if c.get("default") is True or n == "default"]
        names = tuple(default[:1]) or tuple(configs)
        if len(names) > 1:
            raise InputError(
                f"{origin.id} has several configs and none is its default",
                f"Add 'configs: [...]' to the source. {did_you_mean('', names)}",
            )
    chosen: dict[str, Choice] = {}
    for name in names:
        if name not in configs:
            raise NotFound(f"config of {origin.id}", name, configs)
        for split, texts in _data_files(configs[name].get("data_files")):
            patterns = [_pattern(text) for text in texts]
            for file in data:
                if any(pattern.fullmatch(file.path) for pattern in patterns):
                    chosen.setdefault(file.path, Choice(name, split or _split(file.path)))
    return chosen


def _by_folder(origin: Origin, data: Sequence[File], settings: HubSettings) -> dict[str, Choice]:
    if settings.configs is None:
        folders = {file.path.partition("/")[0] for file in data if "/" in file.path}
        if settings.parquet_branch and len(folders) > 1 and "default" not in folders:
            raise InputError(
                f"{origin.id} has several configs and none is its default",
                f"Add 'configs: [...]' to the source. {did_you_mean('', folders)}",
            )
        only = "default" if settings.parquet_branch and "default" in folders else None
        return {
            file.path: Choice(only, _split(file.path))
            for file in data
            if only is None or file.path.startswith(f"{only}/")
        }
    chosen: dict[str, Choice] = {}
    for name in settings.configs:
        found = [file for file in data if name in PurePosixPath(file.path).parts[:-1]]
        if not found:
            folders = {part for file in data for part in PurePosixPath(file.path).parts[:-1]}
            raise NotFound(f"config of {origin.id}", name, folders)
        chosen |= {file.path: Choice(name, _split(file.path)) for file in found}
    return chosen


def _without_data(origin: Origin) -> str:
    scripts = [file.path for file in origin.files if "/" not in file.path and file.path.endswith(".py")]
    if not scripts:
        return "Check its name and revision."
    return (
        f"It has the loading script {scripts[0]}, which is never run. Many such datasets were "
        f"converted on the branch {PARQUET_BRANCH}: add 'parquet_branch: true' to the source."
    )


def _split(path: str) -> str:
    """Return the split that a path tells: its file's name first, then its folders from within."""
    for part in reversed(PurePosixPath(path).parts):
        found = SPLIT.search(part.partition(".")[0].replace("_", "-"))
        if found:
            return SYNONYMS[found[1].lower()]
    return "train"


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a glob over paths: ``*`` and ``?`` stay within a folder, ``**`` does not."""
    out: list[str] = []
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", text, re.DOTALL):
        if piece in ("**/", "**"):
            out.append("(?:.*/)?" if piece == "**/" else ".*")
        elif piece in ("*", "?"):
            out.append("[^/]*" if piece == "*" else "[^/]")
        elif len(piece) > 1:
            inside = piece[1:-1].replace("\\", r"\\")
            out.append(f"[{'^' + inside[1:] if inside.startswith('!') else inside}]")
        else:
            out.append(re.escape(piece))
    try:
        return re.compile("".join(out))
    except re.error:
        return re.compile(re.escape(text))


def _metadata(path: Path, where: str) -> Mapping[str, Any]:
    """Read the YAML at the top of a card; without any, or with a broken one, it says nothing."""
    from huggingface_hub import metadata_load

    try:
        found = metadata_load(path)
    except Exception as error:
        # A card is prose by other people: what is wrong in it is not the spec's fault.
        if isinstance(error, OSError):
            raise InputError(f"cannot read the card: {error}", where=where) from None
        return {}
    return found if isinstance(found, Mapping) else {}


def _card_configs(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    configs = card.get("configs")
    return {
        str(config.get("config_name", "default")): config
        for config in (configs if isinstance(configs, list) else [])
        if isinstance(config, Mapping) and config.get("data_files")
    }


def _data_files(value: Any) -> Iterator[tuple[str | None, list[str]]]:
    """Yield (split, patterns) of a config's ``data_files``, in any of its written forms."""
    if isinstance(value, Mapping):
        value = [{"split": split, "path": path} for split, path in value.items()]
    if isinstance(value, str):
        value = [value]
    for item in value if isinstance(value, list) else []:
        if isinstance(item, str):
            yield None, [item]
        elif isinstance(item, Mapping):
            path = item.get("path")
            texts = [path] if isinstance(path, str) else path if isinstance(path, list) else []
            split = item.get("split")
            yield (str(split) if split else None), [t for t in texts if isinstance(t, str)]


def _license_tag(card: Mapping[str, Any]) -> str | None:
    """Return the licence tag; several are joined, because nobody says which rows have which."""
    tag = card.get("license")
    tags = [tag] if isinstance(tag, str) else tag if isinstance(tag, list) else []
    texts = [text.strip() for text in tags if isinstance(text, str) and text.strip()]
    return " AND ".join(texts) or None
