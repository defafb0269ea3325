"""Specs: what a good one means, what its documentation says, and that no input breaks the reader.

What is said of bad ones stands in ``test_broken_specs``.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import core_schema

from aya_data.core.document import Document
from aya_data.core.errors import InputError, MissingExtra, NotFound, SpecError
from aya_data.core.explain import explain, json_schema, starter_spec
from aya_data.core.fields import fields_of, source_references
from aya_data.core.policy import PolicySettings
from aya_data.core.problems import describe_error
from aya_data.core.registry import Registry, builtin_registry
from aya_data.core.settings import Settings, Size
from aya_data.core.spec import Frame, SourceFrame, Spec, load_spec
from tests import spec_plugins

EXAMPLE = Path(__file__).parent / "fixtures" / "design_example.yaml"
REGISTRY = spec_plugins.registry()
SMALL = "name: small\nsources:\n  house: {builder: files, path: x}\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_spec(content: str) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_text(content, encoding="utf-8")
        return path

    return write_spec


def load(path: Path, *sets: str, profile: str = "sample") -> Spec:
    return load_spec(path, profile, sets, REGISTRY)


def test_the_example_of_the_design() -> None:
    spec = load(EXAMPLE)
    assert (spec.name, spec.seed, spec.policy, spec.profile) == ("sft_mix", 7, "research", "sample")
    assert spec.languages is not None
    assert len({variety.language for variety in spec.languages}) == 23
    assert [use.name for use in spec.filters][:2] == ["license", "length"]
    assert spec.sources["suite"].use == "benchmark"
    assert spec.mix.weights is not None
    assert {name: w.weight for name, w in spec.mix.weights.items()} == {
        "aya": 10,
        "collection": 49,
        "house": 15,
        "arbitrage": None,
    }
    assert spec.release.shard_size == 256_000_000
    assert spec.at("mix.caps.0.rows") == f"{EXAMPLE}:39:51"
    assert spec.at(("filters", 1, "length", "min_chars")) == f"{EXAMPLE}:29:25"
    assert spec.folder == EXAMPLE.parent
    assert "39 |" in str(spec.problem("mix.caps", "too tight"))
    assert str(spec.positions["seed",]) == f"{EXAMPLE}:4:7"


def test_defaults(write: Any) -> None:
    spec = load(write(SMALL))
    assert (spec.seed, spec.languages, spec.policy, spec.filters) == (0, None, "commercial", ())
    assert spec.mix.epochs.max == 1
    assert load(write(SMALL), profile="hub").profile == "hub"


def test_layers(write: Any) -> None:
    text = SMALL + "mix: {budget: {rows: 5}, epochs: {max: 2}}\nprofiles:\n"
    path = write(text + "  hub: {mix: {budget: {rows: 9}, epochs: null}}\n  none: {mix: null}\n")
    assert load(path).mix.budget.rows == 5  # type: ignore[union-attr]
    hub = load(path, profile="hub")
    assert (hub.mix.budget.rows, hub.mix.epochs.max) == (9, 1)  # type: ignore[union-attr]
    assert hub.at("mix.budget.rows") == f"{path}:6:30"
    assert load(path, profile="none").mix.budget is None
    spec = load(path, "mix.budget.rows=7", "filters=null", profile="hub")
    assert spec.mix.budget.rows == 7  # type: ignore[union-attr]
    assert spec.at("mix.budget.rows") == "--set:1:17"


def test_settings_reach_a_filter_by_its_name(write: Any) -> None:
    path = write(SMALL + "filters: [license, length, {language_id: {min_confidence: 0.1}}]\n")
    spec = load(path, "filters.length.min_chars=9", "filters.2.language_id.min_confidence=1")
    found = [use.settings.model_dump() for use in spec.filters[1:]]
    assert found[0]["min_chars"] == 9
    assert found[1]["min_confidence"] == 1.0


def test_weights_are_exact(write: Any) -> None:
    text = SMALL + "mix: {weights: {house: {weight: 0.10000000000000000001, datasets: {a: 1e1}}}}\n"
    weights = load(write(text)).mix.weights
    assert weights is not None
    assert weights["house"].weight == Decimal("0.10000000000000000001")
    assert weights["house"].datasets == {"a": 10}


def test_references_are_found(write: Any) -> None:
    spec = load(EXAMPLE)
    found = [(p, n, r.use) for p, n, r in source_references(spec.sources["arbitrage"].settings)]
    assert found == [(("prompts", "from"), "aya", None)]
    found = [(p, n, r.use) for p, n, r in source_references(spec.filters[-1].settings)]
    assert found == [(("against", 0), "suite", "benchmark")]


def test_canonical_ignores_what_has_no_meaning(write: Any) -> None:
    first = load(
        write(
            "# one\nname: m\nlanguages: [tur, eng]\n"
            "sources:\n  a: {builder: files, path: x}\n  b: {builder: aya_dataset}\n"
            "mix: {weights: {a: 1.50, b: 2}, caps: [{per: [source, language], rows: 5}]}\n"
            "release: {shard_size: 1MB, validation: 0.10}\n"
        )
    ).canonical()
    second = load(
        write(
            "release:\n  validation: 1e-1\n  shard_size: 1000 KB\n"
            "mix: {caps: [{rows: 0x5, per: [language, source]}], weights: {b: 2.0, a: 1.5}}\n"
            "sources:\n  b: {builder: aya_dataset, demographics: false}\n"
            "  a: {path: 'x', use: train, builder: files}\n"
            "languages: [English, tur_Latn]\npolicy: commercial\nname: 'm' # two\nseed: 0\n"
        )
    ).canonical()
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "description=x",
        "name=other",
        "policy=any",
        "languages=aya_101",
        "sources.aya.demographics=true",
        "sources.suite.configs=null",
        "filters.length.min_chars=6",
        "mix.budget.rows=50001",
        "mix.weights.aya=10.000001",
        "mix.languages.temperature=2.1",
        "mix.epochs.max=2",
        "release.validation=0.02",
        "release.shard_size=257MB",
    ],
)
def test_canonical_sees_what_has_meaning(change: str) -> None:
    same = "suite.configs" in change
    assert (load(EXAMPLE).canonical() == load(EXAMPLE, change).canonical()) is same


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MB", 256_000_000),
        ("1.5KiB", 1536),
        ("1 gb", 10**9),
        (5, 5),
        ("7b", 7),
        ("2TiB", 2 * 2**40),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert TypeAdapter(Size).validate_python(text) == size


# Plugins ------------------------------------------------------------------------------------------


def plugin(name: str, value: str, kind: str = "builder") -> EntryPoint:
    return EntryPoint(name=name, value=value, group=f"aya_data.{kind}s")


def problem_of(registry: Registry, path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path, registry=registry)
    (found,) = caught.value.problems
    return f"{found.line}:{found.column}: {found.what}. {found.remedy}"


def test_plugins_of_other_packages(write: Any) -> None:
    path = write("name: x\nsources:\n  a: {builder: theirs, path: x}\n")
    unused = plugin("unused", "no_such_module:Builder")
    loaded = load_spec(path, registry=Registry({}, {}, (plugin("theirs", f"{spec_plugins.__name__}:Files"), unused)))
    assert loaded.sources["a"].settings == spec_plugins.Files.Settings(path="x")
    broken = Registry({}, {}, (plugin("theirs", "no_such_module:Builder"),))
    assert problem_of(broken, path) == (
        "3:16: the builder 'theirs' of the package no_such_module:Builder cannot be loaded: "
        "ModuleNotFoundError: No module named 'no_such_module'. Update or reinstall that package."
    )
    bare = Registry({}, {}, (plugin("theirs", f"{spec_plugins.__name__}:NoSettings"),))
    assert "has no settings model" in problem_of(bare, path)
    both = (plugin("theirs", f"{spec_plugins.__name__}:Files"), plugin("theirs", "spec_plugins:Plain"))
    assert "is provided by" in problem_of(Registry({}, {}, both), path)
    assert "there is no builder 'theirs'" in problem_of(Registry({}, {}), path)
    mine = Registry({"theirs": f"{spec_plugins.__name__}:Files"}, {}, (unused, *broken.plugins))
    assert load_spec(path, registry=mine).sources["a"].builder == "theirs"
    assert mine.names("builder") == ["theirs", "unused"]


def test_a_missing_extra_is_one_line(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("spec_plugin_of_another_package")

    def refuse(name: str) -> Any:
        raise MissingExtra("vllm", "vllm", "a local teacher")

    module.__getattr__ = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = write("name: x\nsources:\n  a: {builder: theirs}\n")
    registry = Registry({}, {}, (plugin("theirs", f"{module.__name__}:Builder"),))
    assert "pip install 'aya-data[vllm]'" in problem_of(registry, path)


def test_lists_fill_what_is_immutable() -> None:
    class Inner(Settings):
        names: frozenset[str] = frozenset()
        pairs: tuple[tuple[int, ...], ...] = ()

    class Outer(Settings):
        inner: dict[str, Inner] = Field({})

    outer = Outer.model_validate({"inner": {"a": {"names": ["x"], "pairs": [[1, 2]]}}})
    assert outer.inner["a"] == Inner(names=frozenset("x"), pairs=((1, 2),))
    for bad in ({"names": [1]}, {"pairs": [["1"]]}, {"pairs": [[True]]}, {"names": "x"}):
        with pytest.raises(ValidationError):
            Outer.model_validate({"inner": {"a": bad}})


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", get_args(core_schema.ErrorType))
def test_every_error_of_pydantic_has_words(kind: str) -> None:
    for value in ("x", 5, None, [], {"a": 1}, 0.5, True):
        bounds = dict.fromkeys(("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length"), 1)
        context = {**bounds, "expected": "'a' or 'b'", "tag": "c", "pattern": "x", "error": "bad"}
        what, remedy = describe_error({"type": kind, "ctx": context, "input": value})
        assert what
        assert "Input should" not in what + remedy
        assert "None" not in what + remedy


VALUES: list[Any] = [
    None, True, 0, -1, 5, 10**30, 0.5, float("inf"), "", "x", "rest", "no", "aya", "a/b", "1_0",
    [], [[]], ["x"], [None], {}, {"x": 1}, {"": {}}, {"weight": "rest"}, {"builder": "files"},
    {"length": None}, {"from": "aya"}, "日本", "x" * 200,
]  # fmt: skip


def paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from paths(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from paths(value, (*path, index))


DATA = Document.load(EXAMPLE).data
PATHS = list(paths(DATA))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(PATHS), st.sampled_from([*VALUES, "delete"])),
        min_size=1,
        max_size=3,
    )
)
def test_no_change_of_a_spec_breaks_the_reader(tmp_path: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = json.loads(json.dumps(DATA))
    for path, value in changes:
        inner = data
        try:
            for step in path[:-1]:
                inner = inner[step]
            if value == "delete":
                del inner[path[-1]]
            else:
                inner[path[-1]] = json.loads(json.dumps(value))
        except (KeyError, IndexError, TypeError):
            continue
    spec = tmp_path / "spec.yaml"
    text = json.dumps(data, indent=1, ensure_ascii=False).replace("Infinity", ".inf")
    spec.write_text(text, encoding="utf-8")
    try:
        canonical = load(spec).canonical()
    except SpecError as error:
        lines = text.split("\n")
        for problem in error.problems:
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
            assert "_type" not in problem.what
    else:
        json.dumps(canonical, allow_nan=False)


# Documentation ------------------------------------------------------------------------------------


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    from aya_data.core.explain import _models_inside

    if model not in seen:
        seen.add(model)
        for info in fields_of(model).values():
            for inner in _models_inside(info.annotation):
                models(inner, seen)
    return seen


@pytest.mark.parametrize("kind", ["builder", "filter"])
def test_built_ins_describe_their_settings(kind: str) -> None:
    registry = builtin_registry()
    for name in registry.builtin(kind):
        assert issubclass(registry.settings(kind, name), Settings), name
        for model in models(registry.settings(kind, name), set()):
            for key, info in fields_of(model).items():
                assert info.description, f"{kind} {name}: {key}"


def test_every_field_has_a_description() -> None:
    found: set[type[BaseModel]] = set()
    for root in (Frame, SourceFrame, PolicySettings):
        models(root, found)
    assert len(found) >= 10
    for model in found:
        for key, info in fields_of(model).items():
            assert info.description, f"{model.__name__}.{key}"
            assert info.description.endswith("."), f"{model.__name__}.{key}"


EXPLAINED = {
    "mix.caps.0.rows": """\
mix.caps.0.rows  (whole number; optional)
  Rows in each group.
  Must be at least 1 and at most 1000000000000000.
  Example: rows: 3000""",
    "sources.*.columns": """\
builder files: columns  (mapping of names to text; optional)
  Which column holds what.""",
    "builder files.path": """\
builder files: path  (text; required)
  A file, or a pattern of files.""",
    "filters.length.min_chars": """\
filter length: min_chars  (whole number; default: 1)
  The least characters.
  Must be at least 0.""",
    "builder template.from": """\
builder template: from  (name of a source; required)
  The parent.""",
    "mix.languages": """\
mix.languages  (mapping; optional)
  How languages share; without it each by its size.
  Keys:
    temperature  A language of n rows gets a share of n to the power 1/temperature: 1 keeps the \
natural shares, more evens them out. (optional)
    unimax       Every language gets the same share, and no row stands more often than this; a language that has too \
little leaves the rest to the others. (optional)
    weights      Relative shares by language or variety; languages not named get none. (optional)""",
    "release.shard_size": """\
release.shard_size  (size; default: 256000000)
  About how large a Parquet shard gets.
  Example: shard_size: 256MB""",
}


@pytest.mark.parametrize("path", EXPLAINED)
def test_explain(path: str) -> None:
    assert explain(path, REGISTRY) == EXPLAINED[path]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "Keys:"),
        ("sources", "builders: arbitrage"),
        ("sources.house", "use"),
        ("filters", "near_dedup"),
        ("filters.1.length", "max_chars"),
        ("policy", "share_alike"),
        ("policy.uses", "noncommercial"),
        ("builder", "files"),
        ("builder arbitrage.teachers.qwen.sampling.n", "Completions per prompt"),
        ("profiles", "overlays"),
        ("files", "columns"),
        ("length.min_chars", "filter length: min_chars"),
    ],
)
def test_explain_finds(path: str, words: str) -> None:
    assert words in explain(path, REGISTRY)


def test_a_key_of_several_kinds_of_mappings_is_explained_for_each() -> None:
    text = explain("builder arbitrage.teachers.engine", builtin_registry())
    first, *others = text.splitlines()
    assert first.endswith("(openai, recorded, transformers, vllm or translated; required)")
    assert "  recorded: Answers that exist already, in files." in others
    assert "Keys with engine: vllm:" in explain("builder arbitrage.teachers", builtin_registry())
    assert explain("builder arbitrage.teachers.base_url", builtin_registry()).count("\n\n") == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mxi", "there is no key of the spec, builder or filter 'mxi'. Did you mean 'mix'?"),
        ("fils", "there is no key of the spec, builder or filter 'fils'. Did you mean 'files'?"),
        ("files.colums", "there is no key of builder files 'colums'. Did you mean 'columns'?"),
        ("mix.cap", "there is no key of mix 'cap'. Did you mean 'caps'?"),
        ("sources.a.colums", "there is no key of a source 'colums'. Did you mean 'columns'?"),
        ("filters.lenght", "there is no filter 'lenght'. Did you mean 'length'?"),
        ("builder fils", "there is no builder 'fils'. Did you mean 'files'?"),
        (
            "filter length.min_char",
            "there is no key of filter length 'min_char'. Did you mean 'min_chars'?",
        ),
    ],
)
def test_explain_suggests(path: str, message: str) -> None:
    with pytest.raises(NotFound) as caught:
        explain(path, REGISTRY)
    assert str(caught.value) == message


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def test_json_schema_joins_frame_and_plugins() -> None:
    schema = json_schema(REGISTRY)
    json.dumps(schema, allow_nan=False)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Frame.model_fields)
    assert schema["required"] == ["name", "sources"]
    assert schema["additionalProperties"] is False
    for reference in references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]
    for name in REGISTRY.builders:
        plugin_schema = schema["$defs"][f"builder.{name}"]
        assert set(plugin_schema["properties"]) >= {"builder", "use"}
        assert plugin_schema["additionalProperties"] is False
    branches = schema["$defs"]["source"]["allOf"]
    assert [b["if"]["properties"]["builder"]["const"] for b in branches] == sorted(REGISTRY.builders)


def test_json_schema_accepts_the_example() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema(REGISTRY))
    data = Document.load(EXAMPLE).data
    assert list(validator.iter_errors(data)) == []
    data["sources"]["house"]["pth"] = "x"
    data["sed"] = 5
    assert len(list(validator.iter_errors(data))) == 2


def test_starter_spec_is_a_spec(write: Any) -> None:
    path = write(starter_spec())
    assert load_spec(path).mix.budget.rows == 50000  # type: ignore[union-attr]
    assert load_spec(path, "hub").mix.budget.rows == 500000  # type: ignore[union-attr]
    for line in starter_spec().split("\n"):
        assert len(line) <= 100


def test_what_the_starter_spec_proposes_works(write: Any) -> None:
    lines = starter_spec().split("\n")
    text = "\n".join(line.replace("# ", "", 1) if line.startswith("  # ") else line for line in lines)
    spec = load_spec(write(text.replace("  Your own data:", "  # Your own data:")))
    assert set(spec.sources) == {"aya", "house"}
    assert spec.mix.weights is not None
    assert spec.mix.caps[0].rows == 3000


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "spec.yaml")
