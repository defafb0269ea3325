"""Every broken spec in ``broken_specs`` gives exactly the message in the text file beside it.

A comment in the first line, ``# profile: …`` or ``# set: …``, says how the spec is loaded. To write
the messages anew after a deliberate change, run the tests with ``AYA_DATA_WRITE_GOLDEN=1`` set,
then read the difference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from aya_data.core.errors import InputError, SpecError
from aya_data.core.spec import load_spec
from tests.spec_plugins import registry

FOLDER = Path(__file__).parent / "broken_specs"
SPECS = sorted(FOLDER.glob("*.yaml"))


def message(path: Path) -> SpecError:
    first = path.read_bytes().decode("utf-8", errors="replace").split("\n", 1)[0]
    option = re.match(r"# (profile|set): (.*)", first)
    profile = option[2] if option and option[1] == "profile" else "sample"
    sets = [option[2]] if option and option[1] == "set" else []
    with pytest.raises(SpecError) as caught:
        load_spec(path, profile, sets, registry())
    return caught.value


def test_there_are_many() -> None:
    assert len(SPECS) >= 150


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    error = message(path)
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    shown = str(error).replace(str(path), "spec.yaml") + "\n"
    golden = path.with_suffix(".txt")
    if os.environ.get("AYA_DATA_WRITE_GOLDEN"):
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    """Each problem has its place, a sentence, and a caret; nothing of the parser's own words."""
    for problem in message(path).problems:
        assert min(problem.line, problem.column) >= 1
        assert problem.file in (str(path), "--set")
        first, *excerpt = str(problem).split("\n")
        assert re.match(r".+?:\d+:\d+: .+\S$", first), first
        assert [line.rstrip("^") != line for line in excerpt] == [False, True]
        for word in ("Traceback", "pydantic", "validation error", "Input should", "<class", "None"):
            assert word not in str(problem)
