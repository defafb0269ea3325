"""The documentation says what is so: its commands, specs, queries and programs run here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from aya_data.catalog.query import query
from aya_data.core.registry import builtin_registry
from aya_data.core.spec import load_spec
from aya_data.core.store import Workspace
from docs import examples, reference

PAGES = examples.pages()
NAMES = [str(page.relative_to(examples.ROOT)) for page in PAGES]
EXTEND = examples.ROOT / "docs" / "extend.md"
KINDS = {"console", "yaml", "sql", "python", "py", "sh", "text", "toml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> examples.Workplace:
    """A folder like a clone in which the sample spec was built."""
    place = examples.Workplace(tmp_path_factory.mktemp("docs").resolve() / "clone")
    place.prints("aya-data build specs/sft_mix.yaml")
    return place


@pytest.fixture
def place(built: examples.Workplace, tmp_path: Path) -> examples.Workplace:
    return built.copy(tmp_path.resolve() / "clone")


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {b.kind for page in PAGES for b in examples.blocks(page)} <= KINDS


@pytest.mark.parametrize("page", [p for p in PAGES if examples.blocks(p, "console")], ids=lambda p: p.stem)
def test_commands_print_what_the_page_shows(page: Path, place: examples.Workplace) -> None:
    place.lay_out(page)
    for block in examples.blocks(page, "console"):
        for command in examples.commands(block):
            printed = place.prints(command.line, wrong=block.title == "wrong")
            shown = "\n".join(command.shown)
            same = not shown or examples.agree(shown, printed, place.folder)
            assert same, f"{block}: {command.line}\n{printed}\n(python -m docs.examples writes it anew)"


@pytest.mark.parametrize("block", [b for p in PAGES if p != EXTEND for b in examples.blocks(p, "yaml")], ids=str)
def test_specs_are_valid(block: examples.Block, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    text, keys = block.text, set(yaml.safe_load(block.text))
    if "name" not in keys:
        text = f"name: example\n{text}"
    if "sources" not in keys:
        text += "\nsources: {aya: {builder: aya_dataset}}"
    spec.write_text(text + "\n", encoding="utf-8")
    for profile in ("sample", "hub"):
        load_spec(spec, profile)


@pytest.mark.parametrize("block", [b for p in PAGES for b in examples.blocks(p, "sql")], ids=str)
def test_queries_find_rows(block: examples.Block, built: examples.Workplace) -> None:
    assert query(Workspace(built.folder / ".aya-data"), block.text).rows


@pytest.mark.parametrize("block", [b for p in PAGES for b in examples.blocks(p, "python") if not b.title], ids=str)
def test_programs_run(block: examples.Block, place: examples.Workplace) -> None:
    (place.folder / "program.py").write_text(block.text + "\n", encoding="utf-8")
    place.prints("python -W ignore program.py")


@pytest.mark.parametrize("page", reference.pages(), ids=lambda p: p.stem)
def test_reference_pages_are_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == reference.pages()[page], "run: python -m docs.reference"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_every_page_is_named_in_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [p.name for p in PAGES[1:] if f"(docs/{p.name})" not in readme] == []


def test_every_builder_and_filter_has_its_words() -> None:
    registry = builtin_registry()
    folder = examples.ROOT / "docs"
    readme = PAGES[0].read_text(encoding="utf-8")
    for kind, page in (("builder", "sources.md"), ("filter", "filters.md")):
        text = (folder / page).read_text(encoding="utf-8")
        for name in registry.builtin(kind):
            assert f"`{name}`" in text, f"{name} is missing in {page}"
            assert f"`{name}`" in readme or name == "tokens", f"{name} is missing in the README"


def test_readme_commands_are_those_that_are_checked_before_a_change_lands() -> None:
    build, tests = (block.text for block in examples.blocks(PAGES[0], "sh"))
    assert build.endswith("aya-data build specs/sft_mix.yaml")
    checked = (examples.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in re.findall(r"\.venv/bin/(?:pip |python -m )(.*?)(?: &&|$)", tests):
        assert command in checked


def test_picture_has_words_and_no_machine_in_it() -> None:
    picture = (examples.ROOT / "docs" / "images" / "pipeline.svg").read_text(encoding="utf-8")
    assert "<title" in picture and "<desc" in picture and "http://www.w3.org/2000/svg" in picture
    assert "href" not in picture


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.2 s\n[…]\nend", "a 3.4 s\nx\ny\nend\n", True),
        ("rows […] in all", "rows 1\n", False),
        ("release@0123456789ab in […]", "release@ba9876543210 in /some/where\n", True),
        ("one", "one\ntwo\n", False),
        ("12 rows", "13 rows\n", False),
    ],
)
def test_agreement(shown: str, printed: str, same: bool) -> None:
    assert examples.agree(shown, printed) is same
