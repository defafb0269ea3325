"""Passwords and signatures of URLs stay out of locks and errors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from aya_data.core.errors import BuildError, InputError, Problem, TaskFailed, WrongSetting
from aya_data.core.redaction import address, redacted
from aya_data.core.spec import load_spec

PLAIN = "https://store.example/data/a.jsonl"
SIGNED = "https://me:SECRET@store.example/data/a.jsonl?X-Amz-Expires=60&X-Amz-Signature=SECRET#SECRET"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (PLAIN, PLAIN),
        (SIGNED, PLAIN),
        (f"simplecache::{SIGNED}", f"simplecache::{PLAIN}"),
        (f"zip://a.jsonl::{SIGNED} with 'spaces'", f"zip://a.jsonl::{PLAIN}"),
        ("HTTPS://u:SECRET@x?SECRET", "HTTPS://x"),
        ("ftp://me:SECRET@x/a?b", "ftp://x/a?b"),
        ("s3://bucket/key?versionId=3", "s3://bucket/key?versionId=3"),
        ("data/a?[b]#@*.jsonl", "data/a?[b]#@*.jsonl"),
        ("/home/me@there/a.jsonl", "/home/me@there/a.jsonl"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(location: str, shown: str) -> None:
    assert address(location) == shown


def test_an_error_shows_no_secret_of_an_address() -> None:
    what = f"cannot read {SIGNED}: 403, url='{SIGNED}' ({SIGNED})"
    said = f"cannot read {PLAIN}: 403, url='{PLAIN}' ({PLAIN})"
    errors = [InputError(what), BuildError(what), WrongSetting([(("a",), what, "")]), TaskFailed("s", "u", what)]
    for error in errors:
        for found in (error, pickle.loads(pickle.dumps(error))):
            assert said in str(found) and "SECRET" not in str(found)
    assert str(Problem("a", 1, 2, what)) == f"a:1:2: {said}."
    for plain in ("Is it at https://host/x?", "a = b ? c : d", "see https://a.b/c, or 'd?e'."):
        assert redacted(plain) == plain


def test_a_signed_url_is_in_no_lock_and_signing_it_anew_changes_nothing(tmp_path: Path) -> None:
    def canonical(url: str) -> Any:
        (tmp_path / "spec.yaml").write_text(f"""
name: signed
policy: any
sources:
  one: {{builder: files, path: ["{url}"], columns: {{prompt: p, answer: a}}, language: tur,
         license: {{assume: MIT, reason: written for this test}}}}
  two:
    builder: arbitrage
    prompts: {{from: one}}
    routing: reward
    teachers:
      columns: {{engine: recorded, path: "{url}", columns: {{prompt: q, answer: a}}}}
      batch: {{engine: recorded, path: "{url}", requests: "{url}"}}
""")
        return load_spec(tmp_path / "spec.yaml").canonical()

    assert "SECRET" not in json.dumps(canonical(SIGNED))
    assert canonical(SIGNED) == canonical(SIGNED.replace("SECRET", "ANOTHER")) == canonical(PLAIN)
