"""The language model and the script table."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

import fasttext_pybind
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.errors import BuildError, HubUnreachable, InputError, NotFound
from aya_data.core.language import fasttext_labels
from aya_data.text.language_model import LanguageModel, ModelFile, locate
from aya_data.text.script import measure_scripts, written_in
from tests.hub_server import HubServer


class ModelHub(HubServer):
    """The Hub double, serving its folders as model repositories."""

    async def _route(self, request: Any, host: str) -> None:
        if host != "cdn" and request.words[0] not in ("api", "datasets", "objects"):
            request.words = ["datasets", *request.words]
        elif request.words[:2] == ["api", "models"]:
            request.words[1] = "datasets"
        await super()._route(request, host)


SAMPLES = {
    "en": "The weather is lovely today and the children are playing in the garden.",
    "tr": "Bugün hava çok güzel ve çocuklar bahçede oynuyorlar.",
    "ar": "الطقس جميل اليوم والأطفال يلعبون في الحديقة.",
    "hi": "आज मौसम बहुत अच्छा है और बच्चे बगीचे में खेल रहे हैं।",
    "ja": "今日はとても良い天気で、子どもたちは庭で遊んでいます。",
    "zh": "今天天气很好，孩子们在花园里玩耍。",
    "ru": "Сегодня прекрасная погода, и дети играют в саду.",
    "vi": "Hôm nay thời tiết rất đẹp và bọn trẻ đang chơi trong vườn.",
    "he": "מזג האוויר יפה היום והילדים משחקים בגינה.",
    "ko": "오늘은 날씨가 아주 좋아서 아이들이 정원에서 놀고 있습니다.",
}


def bundled(folder: Path = Path(".")) -> ModelFile:
    return locate(None, base=folder, cache=folder)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load(bundled())


def best(model: LanguageModel, texts: list[str]) -> list[str | None]:
    labels = model.predict(texts).labels[:, 0].tolist()
    return [None if label < 0 else model.file.labels[label] for label in labels]


def test_bundled_model_is_the_one_in_its_notice() -> None:
    folder = resources.files("aya_data.text") / "models"
    data, notice = (folder / "lid.176.ftz").read_bytes(), (folder / "NOTICE").read_text("utf-8")
    assert hashlib.sha256(data).hexdigest() == bundled().digest
    assert bundled().digest in notice
    assert "CC-BY-SA-3.0" in notice
    assert f"{len(data):,} bytes" in notice


def test_languages_are_recognised(model: LanguageModel) -> None:
    assert best(model, list(SAMPLES.values())) == list(SAMPLES)


def test_labels_are_read_without_loading_the_model() -> None:
    binding = fasttext_pybind.fasttext()
    binding.loadModel(str(resources.files("aya_data.text") / "models" / "lid.176.ftz"))
    labels, _ = binding.getLabels("strict")
    assert bundled().labels == tuple(label.removeprefix("__label__") for label in labels)
    assert set(bundled().labels) == set(fasttext_labels())


def test_equal_to_the_raw_binding(model: LanguageModel) -> None:
    binding = fasttext_pybind.fasttext()
    binding.loadModel(str(resources.files("aya_data.text") / "models" / "lid.176.ftz"))
    texts = [*SAMPLES.values(), "first line\nsecond line", "12345", "a"]
    found = model.predict(texts)
    for row, text in enumerate(texts):
        raw = binding.predict(text.replace("\n", " ") + "\n", 3, 0.0, "strict")
        assert [model.file.labels[n] for n in found.labels[row]] == [
            label.removeprefix("__label__") for _, label in raw
        ]
        assert found.confidences[row].tolist() == [round(min(1.0, p), 4) for p, _ in raw]


def test_empty_and_blank_texts_have_no_answer(model: LanguageModel) -> None:
    found = model.predict(["", " \n\t ", "</s>", "\u3000"])
    assert (found.labels == -1).all()
    assert (found.confidences == 0).all()


def test_no_texts(model: LanguageModel) -> None:
    found = model.predict([])
    assert found.labels.shape == found.confidences.shape == (0, 3)


def test_the_word_that_ends_a_sentence_does_not_hide_what_follows(model: LanguageModel) -> None:
    assert best(model, [f"</s> {SAMPLES['tr']}", f"</s>\n{SAMPLES['ja']}"]) == ["tr", "ja"]


@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet="ab\0\r\n\ud800</s>é字 ", max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_text_gets_sound_confidences(text: str) -> None:
    found = LanguageModel.load(bundled()).predict([text])
    assert ((found.confidences >= 0) & (found.confidences <= 1)).all()
    assert (np.diff(found.confidences[0]) <= 0).all()
    assert (found.confidences == np.round(found.confidences, 4)).all()


def test_surrogates_and_zeros_are_not_fatal(model: LanguageModel) -> None:
    texts = [f"\ud800 {SAMPLES['tr']} \udfff", SAMPLES["ru"].replace(" ", "\0"), SAMPLES["ar"].replace(" ", "\r\n")]
    assert best(model, texts) == ["tr", "ru", "ar"]


def test_batches_do_not_matter(model: LanguageModel) -> None:
    texts = list(SAMPLES.values())
    together = model.predict(texts)
    alone = [model.predict([text]) for text in texts]
    assert (together.labels == np.vstack([one.labels for one in alone])).all()
    assert (together.confidences == np.vstack([one.confidences for one in alone])).all()


def test_a_located_model_travels_and_is_loaded_once() -> None:
    file = pickle.loads(pickle.dumps(bundled()))
    assert file == bundled()
    assert file.path is None
    assert LanguageModel.load(file) is LanguageModel.load(bundled())


def test_a_model_by_path_is_relative_to_the_spec(tmp_path: Path) -> None:
    data = (resources.files("aya_data.text") / "models" / "lid.176.ftz").read_bytes()
    (tmp_path / "own.ftz").write_bytes(data)
    file = locate("own.ftz", base=tmp_path, cache=tmp_path)
    assert (file.digest, file.labels) == (bundled().digest, bundled().labels)
    assert locate(str(tmp_path / "own.ftz"), base=Path("/"), cache=tmp_path).digest == file.digest


def test_a_model_of_the_hub_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (resources.files("aya_data.text") / "models" / "lid.176.ftz").read_bytes()
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "model.bin").write_bytes(data)
    with ModelHub({"org/lid": tmp_path / "up"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for name in ("org/lid:model.bin", f"org/lid:model.bin@{hub.commit('org/lid')}"):
            file = locate(name, base=tmp_path, cache=tmp_path)
            assert (file.name, file.digest) == (name, bundled().digest)
        for missing in ("org/lid:other.bin", "org/lid:model.bin@nobranch"):
            with pytest.raises(NotFound, match="The Hub has no such repository, file or revision"):
                locate(missing, base=tmp_path, cache=tmp_path)
    assert locate("org/lid:model.bin", base=tmp_path, cache=tmp_path, offline=True).digest == bundled().digest
    with pytest.raises(HubUnreachable, match=r"for org/lid:other\.bin: the build is offline"):
        locate("org/lid:other.bin", base=tmp_path, cache=tmp_path, offline=True)


def test_a_missing_model_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        locate("lid.bin", base=tmp_path, cache=tmp_path)
    assert str(caught.value) == (
        f"there is no language model 'lid.bin'. Give a file (looked for {tmp_path}/lid.bin) or "
        "org/repository:file on the Hub, or leave 'model' out for the bundled lid.176."
    )
    assert caught.value.exit_code == 2


def header(magic: int = 793712314, version: int = 12, labels: int = 2) -> bytes:
    return struct.pack("<14i d 3i 2q", magic, version, *range(12), 0.0, labels, 0, labels, 0, 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it has only 0 bytes"),
        (b"not a model" * 20, "it does not start as one"),
        (header(version=99), "it has format 99, readable are 11 and 12"),
        (header(labels=0), "it has no labels"),
        (
            header() + b"word\0" + b"\0" * 9 + b"__label__en\0" + b"\0" * 8 + b"\1",
            "1 of its 2 labels start with __label__",
        ),
    ],
)
def test_a_file_that_is_no_model_is_refused_at_once(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"{path} is not a fastText model that names languages: {why}.")):
        locate("model.bin", base=tmp_path, cache=tmp_path)


def test_a_model_that_changes_under_the_build_is_noticed(tmp_path: Path) -> None:
    data = (resources.files("aya_data.text") / "models" / "lid.176.ftz").read_bytes()
    path = tmp_path / "own.ftz"
    path.write_bytes(data)
    file = locate("own.ftz", base=tmp_path, cache=tmp_path)
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(BuildError, match="changed while it was in use"):
        LanguageModel.load(file)


def test_a_truncated_model_is_one_line(tmp_path: Path) -> None:
    data = (resources.files("aya_data.text") / "models" / "lid.176.ftz").read_bytes()
    (tmp_path / "cut.ftz").write_bytes(data[:300_000])
    file = locate("cut.ftz", base=tmp_path, cache=tmp_path)
    with pytest.raises(BuildError, match=r"cut\.ftz cannot be loaded"):
        LanguageModel.load(file)


# Scripts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "script", "letters"),
    [
        ("hello, world 123", "Latn", 10),
        ("Привет hi", "Cyrl", 8),
        ("नमस्ते", "Deva", 4),
        ("日本語のテキスト", "Jpan", 19),
        ("中文文本", "Hani", 12),
        ("한국어 漢字", "Hang", 12),
        ("ひらがな", "Jpan", 8),
        ("ሰላም", "Ethi", 6),
        ("İıŞşéà", "Latn", 6),
        ("", None, 0),
        ("123 !? \u0301 🎉", None, 0),
        ("\ud800", None, 0),
    ],
)
def test_dominant_script(text: str, script: str | None, letters: int) -> None:
    found = measure_scripts([text])
    assert (found.script, found.letters.tolist()) == ([script], [letters])


def test_shares() -> None:
    assert measure_scripts(["abcд", "abcd", "42"]).share.tolist() == [0.75, 1.0, 0.0]


def test_every_letter_of_ascii_and_latin_1_agrees_with_unicode() -> None:
    texts = [chr(c) for c in range(256)]
    letters = measure_scripts(texts).letters > 0
    assert letters.tolist() == [unicodedata.category(c)[0] == "L" and c not in "µ" for c in texts]


@given(st.lists(st.text(max_size=40), max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_script_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    together = measure_scripts(texts)
    for row, text in enumerate(texts):
        alone = measure_scripts([text])
        assert (together.script[row], together.letters[row], together.share[row]) == (
            alone.script[0],
            alone.letters[0],
            alone.share[0],
        )


def test_many_and_large_texts() -> None:
    texts = ["é" * 300_000, *["я"] * 2_000, "字" * 200_000]
    found = measure_scripts(texts)
    assert found.script == ["Latn", *["Cyrl"] * 2_000, "Hani"]
    assert found.letters.tolist() == [300_000, *[1] * 2_000, 600_000]


@pytest.mark.parametrize(
    ("declared", "measured", "fits"),
    [
        ("Latn", "Latn", True),
        ("Cyrl", "Latn", False),
        ("Hans", "Hani", True),
        ("Hant", "Hani", True),
        ("Hans", "Jpan", False),
        ("Jpan", "Hani", True),
        ("Kore", "Hang", True),
        ("Aran", "Arab", True),
        ("Zyyy", "Cyrl", True),
    ],
)
def test_declared_and_measured_scripts(declared: str, measured: str, fits: bool) -> None:
    assert written_in(declared, measured) is fits
