"""Personal data: planted in every script, checksums against brute force, masking that is stable and exact."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data import api
from aya_data.core import license as licenses
from aya_data.core.errors import WrongSetting
from aya_data.core.row import Draft, tabulate
from aya_data.core.stage import Edits, Environment, Verdicts
from aya_data.filters.pii import checksums
from aya_data.filters.pii.examples import values
from aya_data.filters.pii.filter import Pii
from aya_data.filters.pii.patterns import KINDS, find, regions_of

pytest.importorskip("phonenumbers", reason="phone numbers need the extra pii")

ENVIRONMENT = Environment(Path("."), Path("."), True, 7, None, licenses.policy("any"))
KEY = "AKIA" + "J2R7WQXZ5M4T3LKP"
TOKEN = "ghp_" + "a8Kd92LmQx71VbZr04TyUwPe56HnSc3fGjXo"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJ1aWQiOjkxNzJ9." + "c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAv7a9Xk2mB1tq8cYw" * 4 + "\n-----END RSA PRIVATE KEY-----"
CARD, IBAN = "4539 1488 0343 6467", "TR87 0006 2000 1200 0067 2153 84"


def digits_of(text: str, zero: str) -> str:
    return "".join(chr(ord(zero) + int(c)) if c in "0123456789" else c for c in text)


def with_check_digits(country: str, account: str) -> str:
    """The brute force: the one pair of check digits of a hundred that makes the remainder 1."""
    for check in range(2, 99):
        whole = f"{account}{country}{check:02d}"
        number = 0
        for character in whole:
            for digit in str(int(character, 36)):
                number = (number * 10 + int(digit)) % 97
        if number == 1:
            return f"{country}{check:02d}{account}"
    raise AssertionError


def luhn_by_hand(text: str) -> bool:
    total = 0
    for place, character in enumerate(text[::-1]):
        number = int(character) * (2 if place % 2 else 1)
        total += number // 10 + number % 10
    return total % 10 == 0


def mask(text: str, language: str = "eng", script: str = "Latn", **given: Any) -> tuple[str, str | None]:
    kinds = {"private_ip": "mask", "phone": "mask"}
    pii = Pii(Pii.Settings(**{"action": "mask", "kinds": kinds, **given}), ENVIRONMENT)
    edits = edit(pii, [text], language, script)
    return edits.texts[0].as_py(), edits.evidence[0]


def edit(pii: Pii, texts: list[str], language: str = "eng", script: str = "Latn") -> Edits:
    count = len(texts)
    columns = {"text": texts, "role": ["user"] * count, "language": [language] * count, "script": [script] * count}
    return pii.edit(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}))


# Every kind, in texts of many scripts.

SCRIPTS = {
    ("eng", "Latn"): ("Please write to {} today.", "0", "+44 20 7183 8750"),
    ("rus", "Cyrl"): ("Пишите на {}, пожалуйста.", "0", "8 (495) 771-22-33"),
    ("ell", "Grek"): ("Γράψτε στο {} σήμερα.", "0", "+30 210 331 0280"),
    ("arb", "Arab"): ("يرجى الكتابة إلى {} اليوم", "٠", "+966 50 731 9264"),
    ("pes", "Arab"): ("لطفاً به {} بنویسید", "۰", "۰۹۱۲ ۷۴۳ ۶۱۸۵"),
    ("heb", "Hebr"): ("אנא כתבו אל {} היום", "0", "050-731-9264"),
    ("hin", "Deva"): ("कृपया {} पर लिखें", "०", "९८७६५ ४३२१०"),
    ("ben", "Beng"): ("দয়া করে {} এ লিখুন", "০", "+৮৮০ ১৭১৪ ৮৩৬৫২৯"),
    ("tam", "Taml"): ("தயவுசெய்து {} க்கு எழுதவும்", "௦", "+91 98412 60357"),
    ("tha", "Thai"): ("กรุณาเขียนถึง{}วันนี้", "๐", "๐๘๑-๗๓๔-๖๙๒๕"),
    ("mya", "Mymr"): ("ကျေးဇူးပြု၍{}သို့ရေးပါ", "၀", "+95 9 421 084 953"),
    ("khm", "Khmr"): ("សូមសរសេរទៅ{}ថ្ងៃនេះ", "០", "+855 12 730 946"),
    ("zho", "Hans"): ("请联系{}谢谢", "０", "138 1735 9264"),
    ("jpn", "Jpan"): ("電話は{}です", "０", "０３－３５０１－１５１１"),
    ("kor", "Hang"): ("연락처는 {}입니다", "0", "010-7319-2648"),
    ("amh", "Ethi"): ("እባክዎ ወደ {} ይጻፉ", "0", "+251 91 173 0946"),
    ("kat", "Geor"): ("მოგვწერეთ {} მისამართზე", "0", "+995 555 73 09 46"),
    ("bod", "Tibt"): ("{}ལ་འབྲི་རོགས།", "༠", "+86 138 1735 9264"),
}


@pytest.mark.parametrize(("variety", "planted"), SCRIPTS.items(), ids=["_".join(name) for name in SCRIPTS])
def test_what_is_planted_is_masked_and_nothing_else(variety: tuple[str, str], planted: tuple[str, str, str]) -> None:
    frame, zero, phone = planted
    local = digits_of("9", zero)
    for kind, value in (
        ("EMAIL", "ayse.yilmaz" + "9" + "@posta.com.tr"),
        ("PHONE", phone),
        ("IP", digits_of("83.12.99.4", zero)),
        ("IP", "2a00:1450:4001:82b::200e"),
        ("PRIVATE_IP", digits_of("192.168.1.20", zero)),
        ("IBAN", IBAN),
        ("IBAN", digits_of(IBAN, zero).replace(" ", "\u00a0")),
        ("CARD", digits_of(CARD, zero)),
        ("CARD", digits_of(CARD.replace(" ", ""), zero)),
        ("SECRET", KEY),
        ("SECRET", TOKEN),
        ("SECRET", JWT),
        ("SECRET", PEM),
    ):
        for end in ("", ".", ",", "。", "؟", ")", "\n", "…"):
            text = frame.format(value + end)
            masked, evidence = mask(text, *variety)
            assert masked == frame.format(f"<{kind}>{end}"), (text, masked)
            assert evidence == f"user: {kind.lower()} 1 at {frame.index('{')}"
    for harmless in (f"{local}.{local}", "12:30:45", "1990-1995", "2800-3000", "2024-11-22", "1 000 000", "@handle"):
        text = frame.format(digits_of(harmless, zero))
        assert mask(text, *variety) == (text, None)


def test_addresses_in_other_scripts_and_direction_marks() -> None:
    for text, masked in (
        ("Почта: иван@почта.рф!", "Почта: <EMAIL>!"),
        ("用户@例子.公司谢谢", "<EMAIL>谢谢"),
        ("ผู้ใช้@ตัวอย่าง.ไทย", "<EMAIL>"),
        ("ann＠corp．com", "<EMAIL>"),
        ("رقم \u202a+966\u200e 50 731 9264\u202c هنا", "رقم \u202a<PHONE>\u202c هنا"),
        ("an\u00adn@corp.com", "<EMAIL>"),
        ("mailto:ann@corp.com?subject=x", "mailto:<EMAIL>?subject=x"),
        ("<ann@corp.com>", "<<EMAIL>>"),
        ("Почта иван@почта.рф.Спасибо", "Почта <EMAIL>.Спасибо"),
        ("메일은иван@почта.рф입니다", "메일은<EMAIL>입니다"),
        ("пишите наann@corp.com", "пишите на<EMAIL>"),
        ("פנו ל-ann@corp.com", "פנו ל-<EMAIL>"),
        ("@josé@corp.social", "@josé@corp.social"),
        ("postgres://bob:hunter2x@db.corp.com/x", "postgres://bob:<SECRET>@db.corp.com/x"),
        ("ftp://jürgen:geheimß@host.de/", "ftp://jürgen:<SECRET>@host.de/"),
    ):
        assert mask(text)[0] == masked, text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "address",
    [
        "jürgen.müller@firma.de", "gülşah.yılmaz@posta.com.tr", "josé@gmail.com", "nguyễn.văn@việt.vn",
        "ünal@müller.de", "o'brien.ó@corp.ie", "łukasz-żak+x@firma.pl", "иван.петров99@corp.ru", "иван.2@почта.рф",
        "γιάννης_77@corp.gr", "علي.حسن٩٩@corp.com", "גִּל.כהן9@corp.co.il", "हिन्दी.नाम९@corp.in", "정호.김99@corp.kr",
        "საბა.9@corp.ge",
    ],
)  # fmt: skip
def test_names_in_addresses_are_masked_whole(address: str, form: Literal["NFC", "NFD"]) -> None:
    for frame in (
        "{}",
        "Mail {}, bitte",
        "请联系{}谢谢",
        "ส่ง{}ครับ",
        "日本語の{}。",
        "mailto:{}?a=b",
        "<{}>",
        "x={}.",
        "é…{}!",
    ):
        frame = normalize(form, frame)
        assert mask(frame.format(normalize(form, address)))[0] == frame.format("<EMAIL>")


@pytest.mark.parametrize(
    ("language", "number", "found"),
    [
        ("spa", "655820413", True), ("pol", "602918374", True), ("ita", "3478209137", True),
        ("hin", "९८४५०७२३१६", True), ("tur", "5327319264", True), ("rus", "9161734692", True),
        ("tha", "0898204136", True), ("fra", "655820413", False), ("eng", "4158209137", False),
        ("dan", "40829137", False), ("spa", "912345087", False), ("spa", "47400798", False),
        ("hin", "20241122", False), ("hin", "1428627663", False), ("ita", "1990", False),
    ],
)  # fmt: skip
def test_mobile_numbers_in_one_piece(language: str, number: str, found: bool) -> None:
    """Where a trunk prefix is dialled, a number without it and without a country code is any number."""
    assert mask(f"({number})", language)[0] == (f"({'<PHONE>' if found else number})")
    assert mask(f"x {number}.", language)[0] == (f"x {'<PHONE>' if found else number}.")


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.com", "root@localhost", "a@b.test", "git@github.com:org/x.git", "icon@2x.png", "@ann@corp.social",
        "127.0.0.1 0.0.0.0 255.255.255.0 224.0.0.1 192.0.2.7 203.0.113.9 2001:db8::7 ::1 8.8.8.8 section 1.2.3.4",
        "version 83.12.99.4, v83.12.99.4, Chrome/83.12.99.4, バージョン83.12.99.4, 83.12.99.4.5, 83.12.0.0/16",
        "212-555-0123, +1 212 555 0187, +44 7700 900123, 1-800-273-8255, 123-456-7890, 1990-1995, 2024-11-22 12:30",
        "DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432, GB82WEST12345698765433",
        "4242 4242 4242 4242, 4111111111111111, 4539148803436468, 0.4539148803436467, id4539148803436467",
        "AKIAIOSFODNN7EXAMPLE hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx sk-learn-contrib-something-very-long-here",
        "mysql://user:password@host/db https://user:${TOKEN}@host/ http://host:8080/a@b std::vector 12:34:56:78",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    ],
)  # fmt: skip
def test_what_stands_for_no_person_does_not_count(text: str) -> None:
    assert mask(text) == (text, None)


def test_examples_count_where_they_are_asked_for() -> None:
    masked, evidence = mask("ann@example.com, 4242 4242 4242 4242, 203.0.113.9", examples=True)
    assert masked == "<EMAIL>, <CARD>, <IP>"
    assert evidence == "user: card 1 at 17, email 1 at 0, ip 1 at 38"


def test_a_password_without_a_user_is_found_where_only_secrets_are_looked_for() -> None:
    kinds = {"email": "ignore", "secret": "mask"}
    assert mask("redis://:hunter2x@db.corp.com/1", kinds=kinds)[0] == "redis://:<SECRET>@db.corp.com/1"


# Checksums.


@settings(deadline=None)
@given(st.sampled_from(["DE", "GB", "NO", "MT"]), st.data())
def test_check_digits_are_those_of_brute_force(country: str, data: st.DataObject) -> None:
    length = checksums.iban_length(country)
    assert length is not None
    account = data.draw(st.text("0123456789ABCXYZ", min_size=length - 4, max_size=length - 4))
    right = with_check_digits(country, account)
    assert checksums.is_iban(right)
    wrong = f"{right[:2]}{(int(right[2:4]) + 1) % 100:02d}{account}"
    assert not checksums.is_iban(wrong)
    assert not checksums.is_iban(right[:-1])


@settings(deadline=None)
@given(st.text("0123456789", min_size=1, max_size=19))
def test_luhn_is_that_of_brute_force(digits: str) -> None:
    assert checksums.luhn(digits) == luhn_by_hand(digits)
    assert sum(checksums.luhn(digits + check) for check in "0123456789") == 1


def test_the_tables_are_what_they_claim() -> None:
    assert all(checksums.is_iban(value) for value in values("iban"))
    assert all(checksums.is_card(value) for value in values("card"))
    assert regions_of("zho", "Hant") == ("TW", "HK")
    assert regions_of("tur", "Latn") == ("TR",)


# Masking.

PIECES = st.sampled_from(
    [
        "ann@corp.com", "josé.99@c.de", "иван.9@почта.рф", "b@c.de",
        CARD, "4539148803436467", IBAN, IBAN.replace(" ", ""), KEY, TOKEN, JWT, PEM,
        "83.12.99.4", "2a00:1450:4001:82b::200e", "+44 20 7183 8750", "+90 532 731 92 64", "<EMAIL>",
        "-----BEGIN PRIVATE KEY-----", "postgres://bob:hunter2x@db.corp.com", " ", "\n", ".", "-", "@", ":", "/",
        "9", "٤", "x", "请", "ไ", "\u200f", "😀",
    ]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=9).map("".join))
def test_masking_is_idempotent_and_leaves_the_rest_alone(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    masked, evidence = mask(text)
    assert mask(masked) == (masked, None)
    assert (masked == text) == (evidence is None)
    # What stands between placeholders stands in the original, in this order.
    kept = re.split("|".join(f"<{kind.upper()}>" for kind in KINDS), masked)
    pattern = ".*".join(map(re.escape, kept))
    assert re.fullmatch(pattern, text, re.DOTALL)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=9).map("".join))
def test_no_text_with_a_hit_is_passed_over(text: str) -> None:
    """The patterns over columns, which are fast, let through every text in which the careful ones find something."""
    text = text.encode("utf-8", "ignore").decode()
    spans = find(text, KINDS, regions=("GB",))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert bool(spans) == (mask(text, regions={"eng": ("GB",)})[1] is not None)


ENDLESS = [
    "a@" * 50_000, "a." * 50_000, "a" * 100_000, "@" + "a." * 50_000, "1" * 100_000, "1 " * 50_000, "1." * 50_000,
    "+1" * 50_000, "2001:" * 20_000, "2001::" * 16_000, "AB12" * 25_000, "GB82 " * 20_000, "4539 " * 20_000,
    "eyJ" * 33_000, "eyJa." * 20_000, "-----BEGIN PRIVATE KEY-----" * 3_700,
    "-----BEGIN PRIVATE KEY-----" * 3_000 + "-----END PRIVATE KEY-----", "a://" * 25_000, "a://b:c" * 14_000,
    "ghp_" * 25_000, "sk-" * 33_000, "sk-proj-" * 12_000, "xoxb-1-" * 14_000, "1:AA" * 25_000, "(" * 100_000,
    "(1" * 50_000, "ก@" * 50_000, "é.@" * 30_000, "a@" + "é.ж" * 30_000, "ж.9" * 30_000 + "@",
    "用@用." * 20_000, "\u200e1" * 50_000, "٤" * 100_000,
    "aws_secret_access_key" * 4_700,
    "ann@corp.com " * 7_000, "83.12.99.4 " * 9_000, f"{KEY} " * 4_700,
]  # fmt: skip


def test_time_is_linear_for_texts_made_to_be_slow() -> None:
    """Each would take hours with a pattern that backtracks; all take seconds here."""
    for text in ENDLESS:
        mask(text)


# The filter in its place.


def rows(*answers: str, language: str = "eng") -> pa.Table:
    drafts = [
        Draft(f"k{n}", [("system", "Be brief."), ("user", "Who?"), ("assistant", text)], ("f", n), language=language)
        for n, text in enumerate(answers)
    ]
    return tabulate(drafts, "s", "conversation", 10**6).rows


def judged(pii: Pii, table: pa.Table) -> Verdicts:
    return pii.judge(table.select(pii.columns), pii.measure(table.select(pii.measure_columns)))


def test_rows_are_tagged_flagged_and_dropped_by_kind() -> None:
    pii = Pii(Pii.Settings(kinds={"secret": "drop", "ip": "ignore"}), ENVIRONMENT)
    found = judged(pii, rows("ann@corp.com b@corp.com", f"{KEY} and ann@corp.com", "83.12.99.4", "192.168.1.7", "no"))
    assert found.drop.tolist() == [False, True, False, False, False]
    assert found.flag is not None
    assert found.flag.tolist() == [True, False, False, True, False]
    assert found.rule == ["pii.email", "pii.secret", None, "pii.private_ip", None]
    assert found.value == ["2", "1", None, "1", None]
    assert found.threshold == ["0", "0", None, "0", None]
    assert found.evidence[:2] == [
        "turn 2 (assistant): email 2 at 0, 13",
        "turn 2 (assistant): secret 1 at 0; turn 2 (assistant): email 1 at 25",
    ]
    assert found.tags["pii"].to_pylist() == ["email:2", "email:1,secret:1", None, "private_ip:1", None]
    assert sorted(map(tuple, (row.values() for row in found.statistics["pii"].to_pylist()))) == [
        ("email", "tag", "eng", 2, 3),
        ("private_ip", "tag", "eng", 1, 1),
        ("secret", "drop", "eng", 1, 1),
    ]
    assert not pii.edits


def test_masked_rows_say_so_and_values_are_nowhere() -> None:
    pii = Pii(Pii.Settings(action="mask"), ENVIRONMENT)
    texts = ["Ask ann@corp.com", "clean", f"{KEY} ann@corp.com {CARD}"]
    edits = edit(pii, texts)
    assert pii.edits
    assert edits.texts.to_pylist() == ["Ask <EMAIL>", "clean", "<SECRET> <EMAIL> <CARD>"]
    assert list(edits.rule) == ["pii.masked", None, "pii.masked"]
    found = judged(pii, rows(*edits.texts.to_pylist()))
    assert found.tags["pii.masked"].to_pylist() == ["email:1", None, "card:1,email:1,secret:1"]
    assert found.tags["pii"].null_count == 3
    assert set(found.rule) == {None}
    said = repr((edits.rule, edits.evidence, found))
    assert not any(value in said for value in ("ann", "corp", KEY, "4539"))


def test_settings_that_cannot_work() -> None:
    with pytest.raises(WrongSetting, match=r"^there is no country with phone numbers 'UK'\. "):
        Pii(Pii.Settings(kinds={"phone": "tag"}, regions={"eng": ("UK",)}), ENVIRONMENT)
    with pytest.raises(ValidationError, match=r"has the region 'gb' for eng"):
        Pii.Settings(regions={"eng": ("gb",)})


def test_presidio_adds_names(tmp_path: Path) -> None:
    pytest.importorskip("presidio_analyzer", reason="names need the extra presidio")
    spacy = pytest.importorskip("spacy")
    language = spacy.blank("en")
    language.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ann Lee"}])
    language.to_disk(tmp_path / "model")
    environment = Environment(tmp_path, tmp_path, True, 7, None, licenses.policy("any"))
    presidio = {"entities": ["PERSON"], "models": {"eng": "model"}}
    pii = Pii(Pii.Settings.model_validate({"action": "mask", "presidio": presidio}), environment)
    assert edit(pii, ["Ask Ann Lee or ann@corp.com"]).texts.to_pylist() == ["Ask <PERSON> or <EMAIL>"]
    assert edit(pii, ["Ask <PERSON>"]).evidence == [None]
    assert edit(pii, ["Ask Ann Lee"], "fra").evidence == [None], "no model for French"


def test_presidio_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WrongSetting, match=r"^pii with presidio needs .*pip install 'aya-data\[presidio\]'$"):
        Pii(Pii.Settings.model_validate({"presidio": {"entities": ["PERSON"], "models": {"eng": "m"}}}), ENVIRONMENT)


def test_phone_numbers_without_their_library_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(WrongSetting, match=r"^finding phone numbers needs .*pip install 'aya-data\[pii\]'$"):
        Pii(Pii.Settings(kinds={"phone": "tag"}), ENVIRONMENT)
    Pii(Pii.Settings(), ENVIRONMENT)


SPEC = """
name: masked
policy: any
sources:
  said:
    builder: files
    path: p.jsonl
    columns: {prompt: q, answer: a}
    language: {constant: eng}
    license: {assume: CC0-1.0, reason: written for this test}
filters: [{pii: {action: mask, kinds: {secret: drop}}}]
"""


def test_a_build_masks_and_the_ledger_knows(tmp_path: Path) -> None:
    texts = ["Write to ann@corp.com.", "Nothing here.", f"The key is {KEY}."]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"q": f"Q{n}?", "a": t}) + "\n" for n, t in enumerate(texts)))
    (tmp_path / "spec.yaml").write_text(SPEC)
    done = api.build(tmp_path / "spec.yaml", workspace=tmp_path / "workspace", workers=1)
    released = pl.read_parquet(done.result.path / "data" / "*" / "*.parquet")
    assert sorted(messages[-1]["content"] for messages in released["messages"]) == [
        "Nothing here.",
        "Write to <EMAIL>.",
    ]
    ledger = pl.read_parquet(done.result.path / "ledger" / "ledger-*.parquet").filter(
        pl.col("rule").str.starts_with("pii")
    )
    assert sorted(ledger.select("outcome", "rule", "evidence").rows()) == [
        ("dropped", "pii.secret", "turn 1 (assistant): secret 1 at 11"),
        ("flagged", "pii.masked", "assistant: email 1 at 9"),
    ]
    for path in done.result.path.rglob("*"):
        assert path.is_dir() or b"ann@corp" not in path.read_bytes()
