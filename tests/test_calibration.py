"""Calibrating language identification: the table, what it says, and the errors on the way."""

from __future__ import annotations

import csv
import json
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
from aya_data.core.identity import draw, draws
from aya_data.filters.language_id import calibration as language_calibration
from aya_data.filters.language_id.calibration import Sample
from aya_data.filters.language_id.filter import LanguageId
from aya_data.filters.language_id.likelihood import PRECISION, PRECISION_OF_LABELS, USUAL, fit
from aya_data.filters.language_id.rivals import FOLDS, Trigrams, folds
from aya_data.filters.language_id.table import bundled_table, parse_table
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


def test_a_sample_without_an_unknown_language_has_the_usual_odds(tmp_path: Path) -> None:
    rows = [(label, text) for label, text in sentences(60) if label != "bam"]
    columns = {"lang": [label for label, _ in rows], "text": [text for _, text in rows]}
    pq.write_table(pa.table(columns), tmp_path / "known.parquet")
    done = made([tmp_path / "known.parquet"], tmp_path / "t.tsv")
    assert "No row is in a language that the model does not know: labels are believed by the usual odds." in str(done)
    found = parse_table((tmp_path / "t.tsv").read_bytes(), "t.tsv")
    assert ("unknown_languages", "0") in found.notes
    made([tmp_path / "known.parquet"], tmp_path / "more.tsv", cost=8)
    more = parse_table((tmp_path / "more.tsv").read_bytes(), "more.tsv")
    for key, line in found.labels.items():
        assert line.odds[1:] == USUAL[1:]
        assert line.coverage >= 0.85
        assert more.labels[key].odds[0] == pytest.approx(line.odds[0] - np.log(2), abs=2e-4)


def test_the_fitted_odds_are_the_most_likely() -> None:
    """Against steps aside: none has a larger posterior."""
    noise = (draws(3, "noise", map(str, range(400 * 6))) / 2**64).reshape(400, 6)
    label = (draws(3, "label", map(str, range(400))) % np.uint64(5)).astype(np.int64)
    right = noise @ np.array([1.0, -2, 1, 0, 2, 1]) + 0.3 * label > 1.5 + noise[::-1, 0]
    weight = np.where(right, 1.0, 2.0)
    odds, of_label = fit(noise, label, 5, right, weight)

    def posterior(odds: Any, of_label: Any) -> float:
        sums = odds[0] + of_label[label] + noise @ odds[1:]
        likely = weight @ np.log(1 / (1 + np.exp(np.where(right, -sums, sums))))
        drawn = PRECISION * ((odds - USUAL) ** 2).sum() + PRECISION_OF_LABELS * (of_label**2).sum()
        return float(likely - drawn / 2)

    best = posterior(odds, of_label)
    for place in range(7 + 5):
        for step in (-0.01, 0.01):
            aside = np.concatenate([odds, of_label])
            aside[place] += step
            assert posterior(aside[:7], aside[7:]) < best


def test_a_part_is_weighed_with_what_the_others_say() -> None:
    texts = [
        f"{word} ve {word} bir" for word in ("kitap", "kalem", "defter", "masa", "duvar", "sokak", "deniz", "orman")
    ]
    known = np.array([True] * 6 + [False] * 2)
    part = folds(texts, ["tur"] * 6 + ["crh", "crh"], known)
    assert part[6] == part[7]
    assert part.tolist() == folds(texts[::-1], ["crh", "crh"] + ["tur"] * 6, known[::-1])[::-1].tolist()
    trigrams = Trigrams(texts, "Latn", part, known)
    own, wrong = np.arange(6), np.array([6, 7])
    for fold in range(FOLDS):
        rest = [row for row in range(8) if part[row] != fold]
        others = Trigrams([texts[row] for row in rest], "Latn", part[rest], known[rest])
        places = {row: place for place, row in enumerate(rest)}
        left = [np.array([places[row] for row in rows if row in places], np.int64) for rows in (own, wrong)]
        assert trigrams.weights(own, wrong, fold) == others.weights(*left)


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
    # More rows of what the model does not know never help.
    rows = [{"lang": label, "text": text} for label, text in sentences() if label == "bam"]
    (tmp_path / "bam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = "can be calibrated with; languages that it does not know, by rows: bam_Latn 80. "
    for files, remedy in (
        (["bam"], ""),
        (["bam", "few"], "Give more labelled rows, of at least some twenty letters each. "),
    ):
        with pytest.raises(InputError) as caught:
            made([tmp_path / f"{name}.jsonl" for name in files], out)
        assert str(caught.value).endswith(f"{said}{remedy}Name a model that does with --model.")
    assert not out.exists()


def test_many_varieties_are_named_up_to_a_number() -> None:
    counts = {f"v{number:02}": 20 - number for number in range(20)}
    assert language_calibration.listed(dict(list(counts.items())[:1])) == "v00 20"
    assert language_calibration.listed(dict(list(counts.items())[:2])) == "v00 20 and v01 19"
    assert language_calibration.listed(counts).endswith("v08 12, v09 11 and 10 more")


def test_the_command(labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.tsv"
    arguments = ["calibrate", "language_id", str(labelled), "--language", "lang", "-o", str(out), "--holdout", "0.4"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Wrote {out}: 3 varieties, 3 labels, from ")
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    counts = {"rows", "varieties", "labels", "unknown_languages"}
    assert set(told) == {"path", "digest", "unresolved", "left_out", "unknown", "trial", *counts}
    assert told["unknown_languages"] == 1
    assert told["unknown"] == {
        "bam_Latn": told["rows"] - sum(line.support for line in parse_table(out.read_bytes(), "t").declared.values())
    }
    names = f"bam_Latn {told['unknown']['bam_Latn']}"
    line = f"Without a line, because the model does not know them: {names}. --model names another."
    assert line in done.stdout.splitlines()
    assert told["trial"]["calibrated"]["accuracy"] == 1
