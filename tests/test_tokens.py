"""Token counts by both kinds of tokenizer, with and without chat templates."""

from __future__ import annotations

import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sentencepiece

from aya_data.core import license as licenses
from aya_data.core.errors import InputError, NotFound, WrongSetting
from aya_data.core.row import PART, Draft, Turn, tabulate
from aya_data.core.stage import Environment
from aya_data.filters.tokens import Tokens
from aya_data.text.tokens import Tokenizer, TokenizerFiles, locate

TEXTS = ["Bugün hava çok güzel.", "the cat sat on the mat", "今天天气很好", "", " ", "a\nb", "🎉🎉"]
CHATML = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model and a byte-level tokenizer.json, both trained here."""
    path = tmp_path_factory.mktemp("tokenizer")
    model = io.BytesIO()
    corpus = ["the cat sat on the mat", "Bugün hava çok güzel ve çocuklar oynuyor", "今天天气很好"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=3,
        num_threads=1,
    )
    (path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(corpus, trainer)
    bpe.enable_truncation(3)
    bpe.enable_padding(length=50)
    bpe.save(str(path / "tokenizer.json"))
    return path


def files(folder: Path, kind: Any, name: str = ".") -> TokenizerFiles:
    return locate(kind, name, base=folder, cache=folder)


def copy(folder: Path, to: Path, **config: Any) -> Path:
    for name in ("tokenizer.model", "tokenizer.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    if config:
        (to / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return to


def test_sentencepiece_counts_as_its_own_library(folder: Path) -> None:
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    counted = Tokenizer.load(files(folder, "sentencepiece")).count(TEXTS)
    assert counted == [len(own.encode(text)) for text in TEXTS]
    assert counted[3] == 0


def test_tokenizers_counts_ignore_truncation_and_padding(folder: Path) -> None:
    import tokenizers

    own = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_truncation()
    own.no_padding()
    counted = Tokenizer.load(files(folder, "huggingface")).count(TEXTS)
    assert counted == [len(own.encode(text, add_special_tokens=False).ids) for text in TEXTS]
    assert max(counted) > 3


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_no_texts(folder: Path, kind: Any) -> None:
    assert Tokenizer.load(files(folder, kind)).count([]) == []
    assert Tokenizer.load(files(folder, kind)).count_conversations([]) == ([], [])


@pytest.mark.parametrize(("kind", "name"), [("sentencepiece", "tokenizer.model"), ("huggingface", "tokenizer.json")])
def test_a_file_or_its_folder(folder: Path, kind: Any, name: str) -> None:
    assert files(folder, kind, name) == files(folder, kind)
    assert pickle.loads(pickle.dumps(files(folder, kind))) == files(folder, kind)
    assert Tokenizer.load(files(folder, kind)).digest == files(folder, kind).digest


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]


def test_without_a_template_the_turns_are_counted(folder: Path) -> None:
    tokenizer = Tokenizer.load(files(folder, "huggingface"))
    counts = tokenizer.count(["the cat", "sat on"])
    found = tokenizer.count_conversations([turns("the cat", "sat on"), [], turns("the cat")])
    assert found == ([sum(counts), 0, counts[0]], [False] * 3)


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_a_chat_template_is_applied(folder: Path, tmp_path: Path, kind: Any) -> None:
    plain = Tokenizer.load(files(folder, kind))
    chat = Tokenizer.load(files(copy(folder, tmp_path, chat_template=CHATML), kind))
    rendered = "<s>user\nthe cat</s>\n<s>assistant\nsat</s>\n"
    assert chat.count_conversations([turns("the cat", "sat")]) == (plain.count([rendered]), [False])
    assert chat.digest != plain.digest


def test_where_templates_stand(folder: Path, tmp_path: Path) -> None:
    config = {
        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}!"}],
        "bos_token": {"content": "<b>"},
        "eos_token": None,
    }
    found = files(copy(folder, tmp_path, **config), "huggingface")
    assert (found.template, found.special) == ("{{ bos_token }}!", (("bos_token", "<b>"),))
    (tmp_path / "chat_template.jinja").write_text("own", encoding="utf-8")
    assert files(tmp_path, "huggingface").template == "own"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no talking') }}", "no talking"),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
    ],
)
def test_a_template_that_misbehaves_is_an_error_of_the_plan(
    folder: Path, tmp_path: Path, template: str, said: str
) -> None:
    plain = Tokenizer.load(files(folder, "huggingface"))
    chat = Tokenizer.load(files(copy(folder, tmp_path, chat_template=template), "huggingface"))
    assert chat.count_conversations([turns("the cat")]) == (plain.count(["the cat"]), [True])
    with pytest.raises(WrongSetting, match="cannot render a question and its answer: .*" + re.escape(said)) as caught:
        filter_of(tmp_path)
    assert caught.value.faults[0][0] == ("path",)


def test_a_template_has_what_transformers_gives_to_one(folder: Path, tmp_path: Path) -> None:
    template = (
        "{{ strftime_now('%Y-%m-%d') }}{% for turn in messages %}{% generation %}{{ turn.content }}{% endgeneration %}"
        "{% break %}{% endfor %}"
    )
    chat = Tokenizer.load(files(copy(folder, tmp_path, chat_template=template), "huggingface"))
    assert chat.count_conversations([turns("the cat")]) == (chat.count(["2025-01-01the cat"]), [False])


def test_errors_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=re.escape("there is no tokenizer 'gone'. Give a file, a folder or a Hub")):
        files(folder, "huggingface", "gone")
    with pytest.raises(NotFound, match=re.escape("The folder holds none of: tokenizer.json.")):
        files(tmp_path, "huggingface")
    with pytest.raises(InputError, match=r"tokenizer\.model is not a huggingface tokenizer: .* Check 'kind'"):
        Tokenizer.load(files(folder, "huggingface", "tokenizer.model"))
    with pytest.raises(InputError, match=r"tokenizer\.json is not a sentencepiece tokenizer"):
        Tokenizer.load(files(folder, "sentencepiece", "tokenizer.json"))
    with pytest.raises(InputError, match=r"the chat template of .* is broken"):
        Tokenizer.load(files(copy(folder, tmp_path, chat_template="{% for"), "huggingface"))
    (tmp_path / "tokenizer_config.json").write_text("[1", encoding="utf-8")
    with pytest.raises(InputError, match="is not a tokenizer configuration"):
        files(tmp_path, "huggingface")


def filter_of(folder: Path, kind: Any = "huggingface") -> Tokens:
    environment = Environment(folder, folder, True, 7, None, licenses.policy("any"))
    return Tokens(Tokens.Settings(kind=kind, path="."), environment)


def test_the_filter_counts_whole_rows_and_drops_none(folder: Path) -> None:
    shared: list[Turn] = [("user", "the cat")]
    chosen, rejected = [*shared, ("assistant", "sat")], [*shared, ("assistant", "on the mat")]
    parts = [
        tabulate([Draft("a", [*shared, ("assistant", "sat")], ("f", 0))], "s", "conversation", 1000).rows,
        tabulate([Draft("b", shared, ("f", 1))], "s", "prompt", 1000).rows,
        tabulate([Draft("c", shared, ("f", 2), chosen=chosen, rejected=rejected)], "s", "preference", 1000).rows,
    ]
    rows = pa.concat_tables(parts)
    one, cat, sat, mat = (
        filter_of(folder),
        *Tokenizer.load(files(folder, "huggingface")).count(["the cat", "sat", "on the mat"]),
    )
    measures = one.measure(rows.select(one.measure_columns))
    assert measures["n_tokens"].type == pa.int32()
    assert measures["n_tokens"].to_pylist() == [cat + sat, cat, 2 * cat + sat + mat]
    found = one.judge(rows.select(one.columns), measures)
    assert found.drop.tolist() == [False] * 3
    assert found.scores["n_tokens"].to_pylist() == [cat + sat, cat, 2 * cat + sat + mat]


def test_rows_that_a_template_refuses_are_tagged_and_counted(folder: Path, tmp_path: Path) -> None:
    choosy = (
        "{% for m in messages %}{% if m.role == 'system' or m.content == 'on' %}"
        "{{ raise_exception('no') }}{% endif %}[{{ m.content }}]{% endfor %}"
    )
    one = filter_of(copy(folder, tmp_path, chat_template=choosy))
    shared: list[Turn] = [("user", "the cat")]
    system: list[Turn] = [("system", "sat"), *shared]
    chosen, rejected = [*shared, ("assistant", "sat")], [*shared, ("assistant", "on")]
    parts = [
        tabulate([Draft("a", [*shared, ("assistant", "sat")], ("f", 0))], "s", "conversation", 1000).rows,
        tabulate([Draft("b", system, ("f", 1))], "s", "prompt", 1000).rows,
        tabulate([Draft("c", shared, ("f", 2), chosen=chosen, rejected=rejected)], "s", "preference", 1000).rows,
    ]
    rows = pa.concat_tables(parts)
    measures = one.measure(rows.select(one.measure_columns))
    found = one.judge(rows.select(one.columns), measures)

    def count(*texts: str) -> int:
        return sum(Tokenizer.load(files(folder, "huggingface")).count(texts))

    pair = count("[the cat][sat]")
    assert measures["n_tokens"].to_pylist() == [pair, count("sat", "the cat"), pair + count("the cat", "on")]
    assert found.tags["tokens"].to_pylist() == [None, "no_template", "no_template"]
    assert sum(found.statistics["fertility"]["untemplated"].to_pylist()) == 2


def test_an_empty_part(folder: Path) -> None:
    one = filter_of(folder, "sentencepiece")
    measures = one.measure(PART.empty_table().select(one.measure_columns))
    assert one.judge(PART.empty_table().select(one.columns), measures).drop.tolist() == []


def test_counts_are_pinned_by_the_tokenizer(folder: Path) -> None:
    one = filter_of(folder)
    assert one.measure_pins() == one.pins() == {"tokenizer": files(folder, "huggingface").digest}
    assert one.pins() != filter_of(folder, "sentencepiece").pins()


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    heavy = ["tokenizers", "sentencepiece", "jinja2", "fasttext_pybind", "huggingface_hub"]
    code = (
        "import sys; import aya_data.filters.tokens, aya_data.text.language_model; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
