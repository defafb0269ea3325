"""Calibrating language identification: the table, what it says, and the errors on the way."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from aya_data.calibration import calibrate
from aya_data.cli.main import app
from aya_data.core import language as languages
from aya_data.core.errors import InputError, NotFound
from aya_data.core.identity import draw
from aya_data.filters.language_id import calibration as language_calibration
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.calibration import COMMON, CONFIDENCES, STRANGE, Sample
from aya_data.filters.language_id.filter import LanguageId
from aya_data.filters.language_id.table import Limits, bundled_table, parse_table
from aya_data.text import language_model
from tests.test_filters import draft, environment, table, verdicts, write_model

WORDS = {
    "eng": "the children are playing in garden and weather is lovely today for us all with them on this day",
    "tur": "bugün hava çok güzel ve çocuklar bahçede oynuyor ama siz de bir daha gelin bu akşam için",
    "deu": "die kinder spielen heute im garten und das wetter ist schön für uns alle mit ihnen an diesem tag",
    "bam": "denmisɛnw bɛ tulon kɛ nakɔ kɔnɔ bi waati ka ɲi an bɛɛ ye ni olu ye don in na fana",
}


def sentences(count: int = 80) -> list[tuple[str, str]]:
    """Sentences of twelve words, drawn from each language's own; (label, text)."""
    found = []
    for label, words in WORDS.items():
        pool = words.split()
        for number in range(count):
            chosen = [pool[draw(7, label, f"{number}.{place}") % len(pool)] for place in range(12)]
            found.append((label, " ".join(chosen)))
    return found


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = sentences()
    columns = {"lang": [label for label, _ in rows], "text": [text for _, text in rows]}
    pq.write_table(pa.table(columns), tmp_path / "labelled.parquet")
    return tmp_path / "labelled.parquet"


def made(files: list[Path], out: Path, **given: Any) -> Any:
    return calibrate("language_id", files, **{"text": ["text"], "language": ["lang"], "out": out, **given})


def test_a_table_is_made_named_by_a_spec_and_judged_by(labelled: Path, tmp_path: Path) -> None:
    done = made([labelled], tmp_path / "t.tsv")
    assert (done.rows, done.varieties, done.unresolved, done.trial) == (320, 3, {}, None)
    found = parse_table((tmp_path / "t.tsv").read_bytes(), "t.tsv")
    assert set(found.declared) == {("eng", "Latn"), ("tur", "Latn"), ("deu", "Latn")}
    assert {label for label, _ in found.labels} == {"en", "tr", "de"}
    assert all(line.support == 80 for line in [*found.declared.values(), *found.labels.values()])
    a_filter = LanguageId(LanguageId.Settings(thresholds_from="t.tsv"), environment(base=tmp_path))
    assert a_filter.pins()["table"] == done.digest
    rows = table([draft(n, text, text, language=label) for n, (label, text) in enumerate(sentences(3))])
    result = verdicts(a_filter, rows)
    detected = result.tags["language_id"].to_pylist()
    assert detected[:6] == ["eng_Latn"] * 3 + ["tur_Latn"] * 3
    assert detected[9:] == ["und_Latn"] * 3
    assert not result.drop.any()


def test_languages_with_few_rows_are_named_and_judged_by_the_bundled_table(labelled: Path, tmp_path: Path) -> None:
    few = [("nld", f"{text} en nog {number}") for number, (_, text) in enumerate(sentences(29)[:29])]
    rows = [*few, ("swh", "watoto wanacheza katika bustani leo asubuhi"), *[("ita", "kort")] * 40]
    columns = {"lang": [label for label, _ in rows], "text": [text for _, text in rows]}
    pq.write_table(pa.table(columns), tmp_path / "few.parquet")
    done = made([labelled, tmp_path / "few.parquet"], tmp_path / "t.tsv")
    assert done.left_out == {"ita_Latn": 0, "nld_Latn": 29, "swh_Latn": 1}
    assert "\nLeft out, fewer than 30 rows: ita_Latn 0, nld_Latn 29, swh_Latn 1." in str(done)
    a_filter = LanguageId(LanguageId.Settings(thresholds_from="t.tsv"), environment(base=tmp_path))
    own, bundled = parse_table((tmp_path / "t.tsv").read_bytes(), "t.tsv"), bundled_table()
    for language in ("swh", "eng"):
        line = (own if language == "eng" else bundled).declared[language, "Latn"]
        assert a_filter._threshold(language, "Latn") == line.confidence
    assert a_filter.table is not None
    assert a_filter.table.labels["sw", "Latn"] == bundled.labels["sw", "Latn"]
    assert a_filter.table.labels["en", "Latn"] == own.labels["en", "Latn"] != bundled.labels["en", "Latn"]


def test_files_of_any_kind_in_any_order_give_the_same_lines(labelled: Path, tmp_path: Path) -> None:
    rows = sentences()
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("language", "sentence"), *rows[:170]])
    lines = [json.dumps({"lang": label, "text": text}) for label, text in reversed(rows[170:])]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
    one = made([labelled], tmp_path / "1.tsv")
    names: dict[str, Any] = {"text": ["text", "sentence"], "language": ["lang", "language"]}
    made([tmp_path / "a.csv", tmp_path / "b.jsonl"], tmp_path / "2.tsv", **names)
    made([tmp_path / "b.jsonl", tmp_path / "a.csv"], tmp_path / "3.tsv", **names)
    first, second, third = ((tmp_path / f"{n}.tsv").read_text("utf-8") for n in (1, 2, 3))
    assert second == third
    assert [x for x in first.split("\n") if not x.startswith("#")] == [x for x in second.split("\n") if x[:1] != "#"]
    assert made([labelled], tmp_path / "1.tsv").digest == one.digest


def test_what_is_kept_back_is_tried_and_not_calibrated_with(labelled: Path, tmp_path: Path) -> None:
    done = made([labelled], tmp_path / "t.tsv", holdout=0.5)
    assert done.trial is not None
    assert done.rows + done.trial.known + done.trial.unknown == 320
    assert done.trial.calibrated.wrong_passes <= done.trial.raw.wrong_passes
    assert done.trial.calibrated.accuracy == 1


def test_limits_are_the_best_of_all_combinations(tmp_path: Path) -> None:
    """Against all combinations of limits, each tried on all rows."""
    model = language_model.locate(None, base=tmp_path, cache=tmp_path)
    rows = sentences(60)
    texts = [text for _, text in rows]
    sample = language_calibration.prepare(texts, [languages.parse(label) for label, _ in rows], model)
    found = language_calibration.calibrate(sample, model)
    limits = Limits(found, model.labels)
    best = np.array([model.labels[label] for label in sample.labels[:, 0]])
    strange, common = limits.measure(texts, sample.labels[:, 0], sample.scripts)
    for (label, _), line in found.labels.items():
        name = language_labels.variety(label, True).language
        mine = best == label
        right = np.array([languages.same_language(name, given) for given, _ in rows])

        def gain(c: float, s: float, w: float, mine: Any = mine, right: Any = right) -> float:
            passes = mine & (sample.confidences[:, 0] >= c) & (strange <= s) & (common >= w)
            return float((passes & right).sum() - 4 * (passes & ~right).sum())

        allowed = [w for w in COMMON.tolist() if w <= 0.66 * line.profile.typical + 1e-9]
        every = [gain(*limit) for limit in product(CONFIDENCES.tolist(), STRANGE.tolist(), allowed)]
        assert gain(line.confidence, line.strange, line.common) == max(every)


def test_a_declared_threshold_keeps_all_but_the_least_of_its_rows(tmp_path: Path) -> None:
    model = language_model.locate(None, base=tmp_path, cache=tmp_path)
    count = 100
    english, turkish = model.labels.index("en"), model.labels.index("tr")
    confidence = np.linspace(0.01, 1, count)
    labels = np.tile(np.array([english, turkish, -1], np.int32), (count, 1))
    scores = np.column_stack([confidence, 1 - confidence, np.zeros(count)])
    texts = ["the children are playing in the garden today"] * count
    sample = Sample(texts, [languages.parse("eng")] * count, labels, scores, ["Latn"] * count, np.full(count, 40))
    line = language_calibration.calibrate(sample, model).declared["eng", "Latn"]
    assert line.confidence == 0.02
    assert line.coverage == 0.99


def test_another_model_has_a_table_of_its_own(labelled: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "own.bin", {f"{label}_Latn": WORDS[label].split() for label in ("eng", "tur")})
    done = made([labelled], tmp_path / "t.tsv", model=str(tmp_path / "own.bin"))
    assert (done.varieties, done.labels) == (2, 2)
    given = LanguageId.Settings(model="own.bin", thresholds_from="t.tsv")
    a_filter = LanguageId(given, environment(base=tmp_path))
    rows = table([draft(n, text, text, language=label) for n, (label, text) in enumerate(sentences(2))])
    detected = verdicts(a_filter, rows).tags["language_id"].to_pylist()
    assert detected == [*["eng_Latn"] * 2, *["tur_Latn"] * 2, *["und_Latn"] * 4]
    with pytest.raises(InputError, match=r"was calibrated for the model .*own\.bin .*, not for lid\.176\.ftz"):
        LanguageId(LanguageId.Settings(thresholds_from="t.tsv"), environment(base=tmp_path))


def test_errors_name_what_is_wrong(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.tsv"
    with pytest.raises(NotFound, match="there is no filter that can be calibrated 'length'"):
        calibrate("length", [labelled], text=["text"], language=["lang"], out=out)
    with pytest.raises(NotFound, match=r"there is no column 'txt'\. Did you mean 'text'"):
        made([labelled], out, text=["txt"])
    with pytest.raises(NotFound, match="there is no file"):
        made([tmp_path / "none.parquet"], out)
    (tmp_path / "x.docx").write_bytes(b"x")
    with pytest.raises(InputError, match="is of no known kind"):
        made([tmp_path / "x.docx"], out)
    (tmp_path / "x.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read"):
        made([tmp_path / "x.parquet"], out)
    (tmp_path / "few.jsonl").write_text('{"lang": "eng", "text": "too few rows for anything"}\n')
    with pytest.raises(InputError, match=r"no language has 30 rows that the model lid\.176\.ftz can be"):
        made([tmp_path / "few.jsonl"], out)
    assert not out.exists()


def test_the_command(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.tsv"
    arguments = ["calibrate", "language_id", str(labelled), "--language", "lang", "-o", str(out), "--holdout", "0.4"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Wrote {out}: 3 varieties, 3 labels, from ")
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert set(told) == {"path", "digest", "rows", "varieties", "labels", "unresolved", "left_out", "trial"}
    assert told["trial"]["calibrated"]["accuracy"] == 1
