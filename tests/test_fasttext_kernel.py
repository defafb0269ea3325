"""The kernel against the library: the same labels in the same order, and the same scores to the last bit."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import fasttext
import fasttext_pybind
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.identity import draw
from aya_data.text import fasttext_file, language_model
from aya_data.text.fasttext_file import UnknownModel
from aya_data.text.fasttext_kernel import Kernel
from aya_data.text.language_model import LanguageModel, locate

LID = resources.files("aya_data.text") / "models" / "lid.176.ftz"

TEXTS = [
    "The weather is lovely today and the children are playing in the garden.",
    "Bugün hava çok güzel ve çocuklar bahçede oynuyorlar.",
    "الطقس جميل اليوم والأطفال يلعبون في الحديقة.",
    "היום מזג האוויר יפה והילדים משחקים בגינה, \u200fשלום\u200e!",
    "आज मौसम बहुत अच्छा है और बच्चे बगीचे में खेल रहे हैं।",
    "今日はとても良い天気で、子どもたちは庭で遊んでいます。この文には空白がありません。",
    "今天天气很好，孩子们在花园里玩耍。",
    "วันนี้อากาศดีมากและเด็กๆกำลังเล่นอยู่ในสวน",
    "오늘은 날씨가 아주 좋아서 아이들이 정원에서 놀고 있습니다.",
    "Сегодня прекрасная погода, и дети играют в саду.",
    "🎉🎊 👩‍👩‍👧‍👦 🏳️‍🌈 emoji 🇹🇷",
    "first line\nsecond\tline\r\nthird\x0bline\x0cfourth",
    "zeros\0between\0words\0\0",
    "</s> after the mark </s>and</s>between< /s> </s",
    "__label__en is no word, __label__, a__label__ is; __label__xx neither",
    "https://example.org/a/very/long/path?with=parameters&and=more#and-a-fragment-that-does-not-end",
    "a",
    "é",
    "字",
    "< > <> << >>",
    "12345 67890",
    "x" * 31,
    "x" * 32,
    "x" * 33,
    "é" * 16 + " " + "é" * 17,
    "\u00a0 \u3000 not blank",
    "\x1c",
    "\0",
]
BLANK = ["", " ", "\n\t \r", "</s>", " </s>\n</s> ", "\u3000", "\u00a0\u2003\u2028\u2029\u202f\u205f\u1680\x85\x1c\x1d"]

Answer = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def library(path: Path | str) -> Callable[..., Answer]:
    """The library's own answers, with the texts cleaned as :class:`LanguageModel` says."""
    binding = fasttext_pybind.fasttext()
    binding.loadModel(str(path))
    names, _ = binding.getLabels("strict")
    numbers = {name: number for number, name in enumerate(names)}

    def answer(texts: list[str], k: int = 3, threshold: float = 0.0) -> Answer:
        labels, scores = np.full((len(texts), k), -1, np.int32), np.zeros((len(texts), k), np.float32)
        for row, text in enumerate(texts):
            clean = text.replace("</s>", " ").replace("\n", " ")
            if clean and not clean.isspace():
                for rank, (score, name) in enumerate(binding.predict(clean + "\n", k, threshold, "strict")):
                    labels[row, rank], scores[row, rank] = numbers[name], score
        return labels, scores

    return answer


def assert_equal(found: Answer, truth: Answer) -> None:
    assert found[0].tolist() == truth[0].tolist()
    assert (found[1] == truth[1]).all()


@pytest.fixture(scope="module")
def lid() -> Kernel:
    return Kernel.load(Path(str(LID)))


@pytest.fixture(scope="module")
def lid_library() -> Callable[..., Answer]:
    return library(str(LID))


def test_every_kind_of_text(lid: Kernel, lid_library: Callable[..., Answer]) -> None:
    texts = [*TEXTS, *BLANK, *(text[cut:] for text in TEXTS for cut in range(1, len(text), 7))]
    for k in (1, 3, 5, 200):
        assert_equal(lid.predict(pa.array(texts), k), lid_library(texts, k))
    assert lid.labels == locate(None, base=Path(), cache=Path()).labels


@pytest.mark.parametrize("threshold", [0.0, 1e-5, 0.01, 0.5, 0.99, 1.0])
def test_thresholds(lid: Kernel, lid_library: Callable[..., Answer], threshold: float) -> None:
    assert_equal(lid.predict(pa.array(TEXTS), 3, threshold), lid_library(TEXTS, 3, threshold))


def test_blank_texts_and_nulls_have_no_answer(lid: Kernel) -> None:
    labels, scores = lid.predict(pa.array([*BLANK, None]))
    assert (labels == -1).all()
    assert (scores == 0).all()


def test_blank_means_what_python_means_by_white_space(lid: Kernel) -> None:
    characters = [chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    answered = lid.predict(pa.array(characters), 1)[0][:, 0] >= 0
    assert [c for c, found in zip(characters, answered, strict=True) if not found] == [
        c for c in characters if c.isspace()
    ]


def test_a_text_of_ten_megabytes(lid: Kernel, lid_library: Callable[..., Answer]) -> None:
    spaced = "".join(TEXTS) * (10_000_000 // len("".join(TEXTS).encode()) + 1)
    texts = [spaced, "字" * 700_000, "ab" * 500_000, "short"]
    assert_equal(lid.predict(pa.array(texts)), lid_library(texts))


def test_every_way_to_hold_strings(lid: Kernel, lid_library: Callable[..., Answer]) -> None:
    truth = lid_library(TEXTS)
    plain = pa.array(TEXTS, pa.string())
    columns = [
        plain,
        plain.cast(pa.large_string()),
        plain.dictionary_encode(),
        pa.array(TEXTS, pa.string_view()),
        pa.chunked_array([plain[:3], plain[3:3], plain[3:].cast(pa.string())]),
        pa.concat_arrays([pa.array(["in front", None]), plain, pa.array(["behind"])])[2:-1],
    ]
    for column in columns:
        assert_equal(lid.predict(column), truth)
    for empty in (pa.array([], pa.string()), pa.chunked_array([], pa.string()), plain[:0]):
        assert lid.predict(empty)[0].shape == lid.predict(empty)[1].shape == (0, 3)
    with pytest.raises(ValueError, match="k is 0, must be at least 1"):
        lid.predict(plain, 0)


def test_neither_order_nor_neighbours_nor_threads_matter(lid: Kernel) -> None:
    texts = [text[cut:] for text in TEXTS for cut in range(0, len(text), 5)]
    together = lid.predict(pa.array(texts))
    assert_equal(tuple(part[::-1] for part in lid.predict(pa.array(texts[::-1]))), together)  # type: ignore[arg-type]
    fresh = Kernel.load(Path(str(LID)))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(fresh.predict, [pa.array(texts)] * 12):
            assert_equal(found, together)


def test_more_words_than_are_remembered(lid: Kernel, lid_library: Callable[..., Answer]) -> None:
    words = [f"{draw(1, 'word', str(number)):x}"[: 3 + number % 29] for number in range(60_000)]
    texts = [" ".join(words[begin : begin + 300]) for begin in range(0, len(words), 300)] * 2
    assert_equal(lid.predict(pa.array(texts)), lid_library(texts))


@given(
    st.lists(
        st.text(max_size=80)
        | st.text(alphabet="ab\0\r\n\x0b</s>é字🎉_label \u3000\u200d", max_size=40)
        | st.sampled_from(TEXTS + BLANK),
        max_size=8,
    ),
    st.integers(1, 6),
)
@settings(max_examples=150, deadline=None)
def test_any_text(lid: Kernel, lid_library: Callable[..., Answer], texts: list[str], k: int) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    assert_equal(lid.predict(pa.array(texts, pa.string()), k), lid_library(texts, k))


# Models made on the spot --------------------------------------------------------------------------
#
# Written here and not trained: training of small models starts from memory that the library does not clear, and often
# ends in "Encountered NaN". So every combination is there, and the same at each run.

HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4
WORDS = sorted({word for text in TEXTS[:12] for word in text.split()})[::2]


def noise(count: int, salt: int, scale: float = 2.0) -> npt.NDArray[np.float32]:
    mixed = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15 + 2 * salt)) >> np.uint64(40)
    return ((mixed.astype(np.float64) / 2**24 - 0.5) * scale).astype(np.float32)


def quantizer(dim: int, dsub: int, salt: int) -> bytes:
    head = struct.pack("<4i", dim, -(-dim // dsub), dsub, dim % dsub or dsub)
    return head + noise(dim * 256, salt).tobytes()


def matrix(count: int, dim: int, salt: int, quantized: bool, qnorm: bool, dsub: int, scale: float) -> bytes:
    if not quantized:
        return struct.pack("<2q", count, dim) + noise(count * dim, salt, scale).tobytes()
    size = count * -(-dim // dsub)
    codes = (noise(size + count, salt, 256) + 128).astype(np.uint8)
    data = struct.pack("<?2qi", qnorm, count, dim, size) + codes[:size].tobytes() + quantizer(dim, dsub, salt + 1)
    return data + (codes[size:].tobytes() + quantizer(1, 1, salt + 2) if qnorm else b"")


def write(
    path: Path,
    *,
    loss: int = HIERARCHICAL,
    labels: int = 7,
    dim: int = 16,
    minn: int = 2,
    maxn: int = 4,
    bucket: int = 3000,
    word_ngrams: int = 1,
    words: tuple[str, ...] = ("</s>", *WORDS),
    pruned: int | None = None,
    quantized: bool = False,
    qnorm: bool = False,
    qout: bool = False,
    dsub: int = 2,
    version: int = 12,
    scale: float = 2.0,
    prefix: str = "__label__",
) -> Path:
    """Write a classifier with made-up weights. The label counts have ties, as the tree's order depends on them."""
    data = struct.pack(
        "<14i d", 793712314, version, dim, 5, 5, 1, 5, word_ngrams, loss, 3, bucket, minn, maxn, 100, 1e-4
    )
    buckets = np.unique(np.arange(pruned or 0, dtype=np.int64) * 7919 % max(bucket, 1)).astype(np.int32)
    kept = len(buckets) if pruned is not None else -1
    data += struct.pack("<3i 2q", len(words) + labels, len(words), labels, 1000, kept)
    for number, word in enumerate(words):
        data += word.encode() + b"\0" + struct.pack("<qb", 900 - number, 0)
    for number in range(labels):
        data += f"{prefix}l{number}".encode() + b"\0" + struct.pack("<qb", 1 + (labels - number) // 3 * 5, 1)
    rows = np.argsort(noise(len(buckets), 9), kind="stable").astype(np.int32)
    data += np.column_stack([buckets, rows])[rows].tobytes()
    count = len(words) + (bucket if pruned is None else len(buckets))
    data += struct.pack("<?", quantized) + matrix(count, dim, 1, quantized, qnorm, dsub, scale)
    data += struct.pack("<?", qout) + matrix(labels, dim, 5, quantized and qout, qnorm, dsub, 3 * scale)
    path.write_bytes(data)
    return path


LOSSES = (HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL)
PACKED = {"quantized": True, "pruned": 900}
MADE: list[dict[str, Any]] = [
    *({"loss": loss, "word_ngrams": n} for loss in LOSSES for n in (1, 2, 3, 5)),
    *({"minn": low, "maxn": high} for low, high in ((0, 0), (0, 3), (1, 1), (1, 3), (3, 3), (3, 6), (4, 2), (2, 9))),
    *(PACKED | {"minn": low, "maxn": high} for low, high in ((0, 0), (0, 2), (1, 3), (5, 6))),
    *({"minn": 0, "maxn": 0, "word_ngrams": n, "loss": SOFTMAX} for n in (2, 4)),
    {"minn": 0, "maxn": 0, "bucket": 0},
    *(
        {"dim": dim, "loss": loss}
        for dim in (1, 5, 16, 18, 32, 50, 64, 100, 256, 512)
        for loss in (HIERARCHICAL, SOFTMAX)
    ),
    *({"bucket": bucket} for bucket in (1, 2, 127, 4096, 65537)),
    *(PACKED | {"bucket": bucket, "pruned": 5000} for bucket in (64, 1_000_003, 2_000_000, 16_777_216)),
    *(
        {"quantized": True, "qnorm": qnorm, "qout": qout, "pruned": pruned, "loss": loss, "word_ngrams": 2}
        for qnorm in (False, True)
        for qout in (False, True)
        for pruned in (None, 0, 900)
        for loss in (HIERARCHICAL, SOFTMAX, ONE_VS_ALL)
    ),
    *(PACKED | {"dim": 10, "dsub": dsub, "qnorm": True, "qout": True} for dsub in (1, 2, 3, 4, 10)),
    *({"labels": labels, "loss": loss, "dim": 8} for labels in (1, 2, 3, 1024, 1025, 1500) for loss in LOSSES),
    *({"scale": scale, "loss": loss, "labels": 40} for scale in (0.0, 30.0) for loss in LOSSES),
    *({"words": words} for words in ((), tuple(WORDS), ("a", "</s>", "__label__l1"))),
    *(PACKED | {"words": (), "pruned": 0}, {"version": 11, "word_ngrams": 2}),
]
"""Scale 0: every label of a softmax has the same score."""


@pytest.mark.parametrize(
    "made", MADE, ids=lambda made: ",".join(f"{key}={value}" for key, value in made.items() if key != "words")
)
def test_every_kind_of_model(tmp_path: Path, made: dict[str, Any]) -> None:
    path = write(tmp_path / "model.bin", **made)
    texts = [*TEXTS, *BLANK, "qqq", *(" ".join(text.split()[::-1]) for text in TEXTS)]
    kernel, truth = Kernel.load(path), library(path)
    for k, threshold in ((3, 0.0), (1, 0.0), (7, 0.2), (100, 0.0)):
        assert_equal(kernel.predict(pa.array(texts), k, threshold), truth(texts, k, threshold))


def test_labels_with_another_prefix_are_no_words(tmp_path: Path) -> None:
    path = write(tmp_path / "model.bin", prefix="__lang__")
    texts = ["__lang__l3 text", "__label__l3 text", "text __lang__l9", "__lang__l0"]
    assert_equal(Kernel.load(path).predict(pa.array(texts)), library(path)(texts))


def test_a_trained_model(tmp_path: Path) -> None:
    """A model that the library trained and quantized itself, where it manages to."""
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(f"__label__l{n % 7} {TEXTS[n % 10]} {n}\n" for n in range(700)), encoding="utf-8")
    for loss in ("hs", "softmax"):
        for _ in range(6):
            try:
                model = fasttext.train_supervised(
                    str(lines), dim=16, loss=loss, minn=2, maxn=4, bucket=20_000, thread=1, verbose=0
                )
                model.quantize(input=str(lines), cutoff=3000, retrain=False, qnorm=True, thread=1, verbose=0)
            except RuntimeError as error:
                assert "Encountered NaN" in str(error)
                continue
            path = tmp_path / f"{loss}.ftz"
            model.save_model(str(path))
            if np.isfinite(fasttext_file.read(path).input).all():
                assert_equal(Kernel.load(path).predict(pa.array(TEXTS)), library(path)(TEXTS))
                break


# Files that are no such model ---------------------------------------------------------------------


def test_word_vectors_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "model.bin").read_bytes()
    (tmp_path / "vectors.bin").write_bytes(data[:36] + struct.pack("<i", 1) + data[40:])
    with pytest.raises(UnknownModel, match="it holds word vectors, no classifier"):
        Kernel.load(tmp_path / "vectors.bin")


def test_damaged_files_are_refused_wherever_they_end(tmp_path: Path) -> None:
    data = LID.read_bytes()
    path = tmp_path / "cut.ftz"
    for size in (0, 3, 60, 90, 5_000, 200_000, 500_000, 900_000, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UnknownModel, match=r"it ends too early|it is empty"):
            fasttext_file.read(path)
    path.write_bytes(b"x" * 1000)
    with pytest.raises(UnknownModel, match="it is no fastText model of format 11 or 12"):
        fasttext_file.read(path)
    path.write_bytes(data[:32] + struct.pack("<i", 9) + data[36:])
    with pytest.raises(UnknownModel, match="its loss has the unknown number 9"):
        fasttext_file.read(path)


# The language model, which uses both ---------------------------------------------------------------


def test_a_language_model_goes_over_to_the_kernel_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    file = locate(None, base=Path(), cache=Path())
    texts = [*TEXTS, *BLANK, "\ud800 surrogates \udfff", *(text[cut:] for text in TEXTS for cut in range(1, 9))]
    slow, fast = (LanguageModel.load.__wrapped__(file) for _ in range(2))
    monkeypatch.setattr(language_model, "ENOUGH", 0)
    found = fast.predict(texts)
    assert fast.compiled
    monkeypatch.setattr(language_model, "ENOUGH", 1 << 40)
    truth = slow.predict(texts)
    assert not slow.compiled
    assert found.labels.tolist() == truth.labels.tolist()
    assert found.confidences.tolist() == truth.confidences.tolist()
    columns = [text.encode("utf-8", "replace").decode() for text in texts]
    assert fast.predict(pa.chunked_array([columns])).labels.tolist() == truth.labels.tolist()
    assert slow.predict(pa.array(columns)).labels.tolist() == truth.labels.tolist()


def test_a_model_that_the_kernel_does_not_know_stays_with_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.ftz"
    path.write_bytes(LID.read_bytes())
    model = LanguageModel.load.__wrapped__(locate("own.ftz", base=tmp_path, cache=tmp_path))
    monkeypatch.setattr(language_model, "ENOUGH", 0)
    path.write_bytes(b"gone")
    assert model.file.labels[model.predict(TEXTS).labels[0, 0]] == "en"
    assert not model.compiled
