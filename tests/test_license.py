"""Licences: what sources write, what may be made of what, what a policy lets through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data.core import license as licenses
from aya_data.core.errors import InputError, NotFound
from aya_data.core.license import (
    CONFLICT,
    POLICIES,
    UNKNOWN,
    License,
    PolicySettings,
    Refusal,
    adapt,
    aggregate,
    collection_parts,
    compile_licenses,
    describe,
    judge,
    license_table,
    parse,
    part_license,
    policy,
    publishable,
    reconcile,
    resolve,
    stricter,
    strictness,
    terms,
    terms_of_model,
    terms_table,
)

USES = ("any", "noncommercial", "academic", "unknown")


def ranks(found: License) -> tuple[int, int, int, int]:
    """Each column on its own scale: 0 is the most permissive, unknown the least."""
    return (
        USES.index(found.use),
        2 if found.attribution is None else int(found.attribution),
        2 if found.share_alike is None else int(found.share_alike),
        2 if found.derivatives is None else int(not found.derivatives),
    )


def never_more_permissive(result: License, given: License) -> bool:
    return all(a >= b for a, b in zip(ranks(result), ranks(given), strict=True))


IDS = sorted(license_table())
COMMON = [
    "MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "GPL-2.0-only", "GPL-3.0-or-later", "ODbL-1.0",
    "LicenseRef-research-only", "LicenseRef-aya-unknown", "Sleepycat",
]  # fmt: skip
one = st.one_of(st.sampled_from(COMMON), st.sampled_from(IDS))
expression = st.recursive(
    one,
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
    max_leaves=4,
)
any_license = st.one_of(one, expression).map(lambda text: resolve(text).license)


# ------------------------------------------------------------------ the table
@pytest.mark.parametrize("row", license_table().values(), ids=lambda row: row.id)
def test_every_row_of_the_table_is_an_id_that_resolves_to_itself(
    row: licenses.LicenseFacts,
) -> None:
    found = resolve(row.id)
    assert found.license.expression == row.id
    assert resolve(row.id.lower()).license == resolve(row.id.upper()).license == found.license
    assert set(row.terms) <= set(terms_table())
    assert found.license.known == (row.use != "unknown")
    # adapt relies on it: where derivatives are allowed, share-alike is known too.
    assert row.derivatives is not True or row.share_alike is not None


def test_ids_that_are_not_ours_are_on_the_spdx_list() -> None:
    from license_expression import get_spdx_licensing

    known = get_spdx_licensing().known_symbols
    assert [i for i in IDS if not i.startswith("LicenseRef-") and i not in known] == []


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("CC-BY-4.0", ("any", True, False, True)),
        ("CC-BY-ND-4.0", ("any", True, False, False)),
        ("CC-BY-NC-ND-4.0", ("noncommercial", True, False, False)),
        ("CC BY-NC-SA", ("noncommercial", True, True, True)),
        ("GPL-3.0", ("any", True, True, True)),
        ("LGPL 3.0", ("any", True, True, True)),
        ("MIT", ("any", True, False, True)),
        ("MIT License", ("any", True, False, True)),
        ("CC0", ("any", False, False, True)),
        ("No License", ("unknown", None, None, None)),
    ],
)
def test_four_columns(text: str, facts: tuple[object, ...]) -> None:
    found = resolve(text).license
    assert (found.use, found.attribution, found.share_alike, found.derivatives) == facts


# ------------------------------------------------------------------ reading
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("CC BY NC SA 4.0", "CC-BY-NC-SA-4.0"),
        ("CC BY-SA-NC 4.0", "CC-BY-NC-SA-4.0"),
        ("Creative Commons Attribution-ShareAlike 3.0 Unported License", "CC-BY-SA-3.0"),
        ("Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("CC\u2010BY\u20114.0", "CC-BY-4.0"),
        ("\uff23\uff23-BY-4.0", "CC-BY-4.0"),
        ("CC-BY", "LicenseRef-CC-BY"),
        ("cc-by-nc", "LicenseRef-CC-BY-NC"),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "CC-BY-NC-SA-4.0"),
        ("http://creativecommons.org/licenses/by/3.0/de/deed.en", "CC-BY-3.0-DE"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("https://spdx.org/licenses/BSD-3-Clause.html", "BSD-3-Clause"),
        ("http://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("gpl", "GPL-1.0-or-later"),
        ("odc-by", "ODC-By-1.0"),
        ("ms-pl", "MS-PL"),
        ("openrail", "LicenseRef-OpenRAIL"),
        ("llama3.1", "LicenseRef-Llama-3.1"),
        ("gemma", "LicenseRef-Gemma"),
        ("unlicense", "Unlicense"),
        ("MIT (history/LICENSE)", "MIT"),
        ("the dataset is licensed under CC BY 4.0", "CC-BY-4.0"),
        ("CC-BY-NC-4.0 and CC-BY-4.0", "CC-BY-4.0 AND CC-BY-NC-4.0"),
        ("CC BY-SA 3.0 AND MIT License", "CC-BY-SA-3.0 AND MIT"),
        ("mit AND (cc-by-4.0 or GPL-3.0+)", "(CC-BY-4.0 OR GPL-3.0-or-later) AND MIT"),
        ("MIT AND MIT", "MIT"),
        ("(MIT)", "MIT"),
        ("GPL-2.0 WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-house", "LicenseRef-house"),
        ("Sleepycat", "Sleepycat"),
    ],
)
def test_what_people_write(text: str, wanted: str) -> None:
    assert resolve(text).license.expression == wanted
    assert resolve(f"  {text} ").license.expression == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no licence stated"),
        ("", "no licence stated"),
        (" \n", "no licence stated"),
        ("NOASSERTION", "the source says that it does not know"),
        ("Unspecified", "the source says that it does not know"),
        ("unknown", "the source says that it does not know"),
        ("other", "a licence that is not named"),
        ("cc", "names Creative Commons but not which of its licences"),
        ("No License", "no licence means no permission"),
        ("Request Form", "conditions are shown on request only"),
        ("Modified MIT License", "a changed MIT text that nobody read here"),
        ("OpenAI", "terms of use, not a licence: openai-tou"),
        (["MIT"], "not a text but list"),
        (3, "not a text but int"),
        ("x" * 5_000, "too long to be a name (5000 characters)"),
        ("MIT (non-commercial use only)",
         "'MIT (non-commercial use only)' is not a licence that is known here"),
        ("not licensed under MIT", "'not licensed under MIT' is not a licence that is known here"),
        ("MIT or something", "'MIT or something' is not a licence that is known here"),
        ("\ud800", "'\\ud800' is not a licence that is known here"),
        ("Sleepycat", "nothing is known here of Sleepycat"),
        ("MIT AND LicenseRef-mine", "nothing is known here of LicenseRef-mine"),
    ],
)  # fmt: skip
def test_unknown_says_why(text: object, reason: str) -> None:
    found = resolve(text)
    assert not found.license.known
    assert found.reason == reason
    found.reason.encode("utf-8")


@given(st.one_of(st.text(), st.none(), st.integers(), st.binary()))
def test_resolve_never_raises_and_gives_canonical_expressions(text: object) -> None:
    found = resolve(text)
    assert found.license.known == (found.reason == "")
    assert resolve(found.license.expression).license == found.license


@given(expression)
def test_canonical_expressions_stay_as_they_are(text: str) -> None:
    found = resolve(text).license
    assert resolve(found.expression).license == found
    assert licenses.from_expression(found.expression) == found


def test_a_choice_counts_as_its_least_strict_alternative_as_a_whole() -> None:
    assert describe(parse("CC-BY-NC-4.0 OR CC-BY-SA-4.0")) == "any use, attribution, share-alike"
    assert parse("MIT OR LicenseRef-mine").known


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Apache-2.1", NotFound,
         ("there is no licence 'Apache-2.1'. Did you mean 'Apache-2.0'? Write an SPDX id such as "
         "CC-BY-4.0, or LicenseRef-<name> for a text of your own.")),
        ("OpenAI", InputError,
         ("'OpenAI' names terms of use, not a licence. Write terms: [openai-tou] beside the "
         "licence.")),
        ("other", InputError,
         ("'other' does not say which licence: a licence that is not named. Write an SPDX id such "
         "as CC-BY-4.0, or LicenseRef-<name> for a text of your own.")),
        ("", InputError,
         ("'' does not say which licence: no licence stated. Write an SPDX id such as CC-BY-4.0, "
         "or LicenseRef-<name> for a text of your own.")),
    ],
)  # fmt: skip
def test_parse_refuses_with_a_remedy(text: str, kind: type[InputError], message: str) -> None:
    with pytest.raises(kind) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("CC-BY-NC-SA-4.0", "non-commercial, attribution, share-alike"),
        ("CC0-1.0", "any use"),
        ("CC-BY-ND-4.0", "any use, attribution, no derivatives"),
        ("research only", ("research only, attribution not stated, share-alike not stated, "
         "derivatives not stated")),
        ("NOASSERTION", "unknown"),
    ],
)  # fmt: skip
def test_one_line_for_people(text: str, line: str) -> None:
    assert describe(resolve(text).license) == line


# ------------------------------------------------------------------ derivation
@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (["MIT"], "MIT"),
        (["CC0-1.0", "CC-BY-4.0"], "CC-BY-4.0"),
        (["CC0-1.0"], "CC0-1.0"),
        (["CC-BY-4.0", "Apache-2.0"], "Apache-2.0 AND CC-BY-4.0"),
        (["CC-BY-4.0", "CC-BY-SA-4.0"], "CC-BY-4.0 AND CC-BY-SA-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-3.0-DE"], "CC-BY-SA-4.0"),
        (["CC BY-SA", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC BY-SA"], "LicenseRef-CC-BY-SA"),
        (["CC-BY-NC-4.0", "MIT"], "CC-BY-NC-4.0 AND MIT"),
        (["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"], "CC-BY-NC-4.0 AND CC-BY-NC-SA-4.0"),
        (["CC-BY-SA-4.0", "GPL-3.0-only"], "GPL-3.0-only"),
        (["CC-BY-SA-4.0", "GPL-3.0-or-later"], "GPL-3.0-only"),
        (["GPL-2.0-or-later", "Apache-2.0"], "Apache-2.0 AND GPL-3.0-only"),
        (["GPL-2.0-or-later", "GPL-3.0-only"], "GPL-3.0-only"),
        (["MIT OR GPL-2.0-only", "CC-BY-NC-4.0"], "CC-BY-NC-4.0 AND MIT"),
        (["CC-BY-4.0", "NOASSERTION"], "LicenseRef-aya-unknown"),
        (["CC-BY-4.0", "research only"], "LicenseRef-aya-unknown"),
        ([], "LicenseRef-aya-unknown"),
    ],
)
def test_adapt(inputs: list[str], wanted: str) -> None:
    found = adapt(resolve(text).license for text in inputs)
    assert isinstance(found, License)
    assert found.expression == wanted


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["CC-BY-ND-4.0"], "CC-BY-ND-4.0 does not allow derivatives"),
        (["CC-BY-NC-ND-4.0", "MIT"], "CC-BY-NC-ND-4.0 does not allow derivatives"),
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"],
         ("CC-BY-NC-SA-4.0 and CC-BY-SA-4.0 are both share-alike and there is no licence that both "
         "may be carried on as")),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"],
         "CC-BY-SA-4.0 is share-alike and does not allow the conditions of CC-BY-NC-4.0"),
        (["CC-BY-SA-3.0", "GPL-3.0-only"],
         ("CC-BY-SA-3.0 and GPL-3.0-only are both share-alike and there is no licence that both "
         "may be carried on as")),
        (["CC-BY-SA-1.0", "CC-BY-SA-4.0"],
         ("CC-BY-SA-1.0 and CC-BY-SA-4.0 are both share-alike and there is no licence that both "
         "may be carried on as")),
        (["GPL-2.0-only", "GPL-3.0-only"],
         ("GPL-2.0-only and GPL-3.0-only are both share-alike and there is no licence that both "
         "may be carried on as")),
        (["GPL-2.0-only", "Apache-2.0"],
         "GPL-2.0-only is share-alike and does not allow the conditions of Apache-2.0"),
        (["ODbL-1.0", "CC-BY-4.0"],
         "ODbL-1.0 is share-alike and does not allow the conditions of CC-BY-4.0"),
        (["CC-BY-SA-4.0 AND CC-BY-NC-SA-4.0"],
         ("CC-BY-NC-SA-4.0 and CC-BY-SA-4.0 are both share-alike and there is no licence that both "
         "may be carried on as")),
    ],
)  # fmt: skip
def test_adapt_refuses(inputs: list[str], reason: str) -> None:
    for order in permutations(inputs):
        found = adapt(parse(text) for text in order)
        assert isinstance(found, Refusal)
        assert found.reason == reason
        assert found.license == CONFLICT


def test_share_alike_and_non_commercial_share_alike_may_be_compiled_but_not_adapted() -> None:
    pair = [parse("CC-BY-SA-4.0"), parse("CC-BY-NC-SA-4.0")]
    assert compile_licenses(pair).expression == "CC-BY-NC-SA-4.0 AND CC-BY-SA-4.0"
    assert compile_licenses(pair).use == "noncommercial"
    assert isinstance(adapt(pair), Refusal)


@given(st.lists(any_license, min_size=1, max_size=5))
def test_adapt_is_never_more_permissive_than_any_input(inputs: list[License]) -> None:
    found = adapt(inputs)
    result = found.license if isinstance(found, Refusal) else found
    assert all(never_more_permissive(result, one) for one in inputs)


@given(st.lists(any_license, max_size=4), st.randoms(use_true_random=False))
def test_adapt_ignores_order_and_repetition(inputs: list[License], shuffler: object) -> None:
    again = [*inputs, *inputs]
    shuffler.shuffle(again)  # type: ignore[attr-defined]
    left, right = adapt(inputs), adapt(again)
    assert left == right


@given(st.lists(any_license, max_size=4))
def test_unknown_absorbs(inputs: list[License]) -> None:
    found = adapt([*inputs, UNKNOWN])
    assert found == UNKNOWN or isinstance(found, Refusal)
    if not isinstance(adapt(inputs), Refusal):
        assert found == UNKNOWN


@given(st.lists(any_license, min_size=1, max_size=4))
def test_adapting_the_result_again_changes_nothing(inputs: list[License]) -> None:
    found = adapt(inputs)
    if isinstance(found, License):
        assert adapt([found]) == found
    else:
        assert isinstance(adapt([found.license, *inputs]), Refusal)


@given(st.lists(any_license, max_size=4), any_license)
def test_another_input_never_mends_a_refusal(inputs: list[License], more: License) -> None:
    if isinstance(adapt(inputs), Refusal):
        assert isinstance(adapt([*inputs, more]), Refusal)


@given(st.lists(any_license, max_size=4), st.lists(any_license, max_size=4))
def test_compile_is_a_union(left: list[License], right: list[License]) -> None:
    whole = compile_licenses([*left, *right])
    assert whole == compile_licenses([*right, *left, *left])
    if left and right:
        assert whole == compile_licenses([compile_licenses(left), compile_licenses(right)])
        assert all(never_more_permissive(whole, one) for one in [*left, *right])


@given(any_license, any_license, any_license)
def test_strictness_is_a_total_order(a: License, b: License, c: License) -> None:
    assert (strictness(a) == strictness(b)) == (a == b)
    assert stricter(a, b) == stricter(b, a)
    assert stricter(stricter(a, b), c) == stricter(a, stricter(b, c))
    assert strictness(stricter(a, UNKNOWN))[0] == 3


@pytest.mark.parametrize(
    ("part", "collection", "wanted", "conflict"),
    [
        ("CC-BY-SA-4.0", "Apache-2.0", "CC-BY-SA-4.0",
         "the part says CC-BY-SA-4.0, its collection Apache-2.0"),
        ("MIT", "CC-BY-NC-4.0", "CC-BY-NC-4.0",
         "the part says MIT, its collection CC-BY-NC-4.0"),
        ("MIT", "Apache-2.0", "MIT", "the part says MIT, its collection Apache-2.0"),
        ("MIT", "MIT", "MIT", ""),
        ("unknown", "Apache-2.0", "LicenseRef-aya-unknown", ""),
        ("MIT", "unknown", "MIT", ""),
        (None, "Apache-2.0", "Apache-2.0", ""),
        (None, None, "LicenseRef-aya-unknown", ""),
    ],
)  # fmt: skip
def test_a_part_overrides_its_collection(part: str | None, collection: str | None, wanted: str, conflict: str) -> None:
    said = [None if text is None else resolve(text).license for text in (part, collection)]
    found = reconcile(*said)
    assert (found.license.expression, found.conflict) == (wanted, conflict)


# The worked examples of the Data Provenance Initiative's aggregation, and where we are stricter.
@pytest.mark.parametrize(
    ("statements", "use", "attribution", "share_alike", "carried"),
    [
        (["Apache 2.0", "Apache License 2.0"], "any", True, False, ()),
        (["CC BY-SA 3.0", "OpenAI"], "any", True, True, ("openai-tou",)),
        (["CC BY-SA 3.0"], "any", True, True, ()),
        (["Unspecified", "OpenAI"], "unknown", None, None, ("openai-tou",)),
        (["OpenAI"], "unknown", None, None, ("openai-tou",)),
        (["CC0", "Request Form"], "unknown", None, None, ()),
        (["MIT", "Unspecified"], "unknown", None, None, ()),
        (["https://example.org/custom"], "unknown", None, None, ()),
        (["MIT", "CC BY-NC 4.0", "Academic Research Purposes Only"], "academic", None, None, ()),
        ([], "unknown", None, None, ()),
    ],
)
def test_several_statements(
    statements: list[str],
    use: str,
    attribution: bool | None,
    share_alike: bool | None,
    carried: tuple[str, ...],
) -> None:
    found = aggregate(statements)
    held = found.license
    assert (held.use, held.attribution, held.share_alike) == (use, attribution, share_alike)
    assert found.terms == carried
    assert (found.reason == "") == held.known


# ------------------------------------------------------------------ terms
def test_terms() -> None:
    assert terms("openai-tou").effects == {"no-compete"}
    assert terms("llama3-community").effects >= {"no-compete", "naming"}
    with pytest.raises(NotFound, match=r"there is no set of terms 'openai'\. Did you mean"):
        terms("openai")
    assert {effect for row in terms_table().values() for effect in row.effects} <= {*licenses.EFFECTS}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("facebook/nllb-200-3.3B", ("nllb-200",)),
        ("NLLB-200-3.3B", ("nllb-200",)),
        ("gpt-4-1106-preview", ("openai-tou",)),
        ("openai/gpt-oss-20b", ()),
        ("claude-instant-1.2", ("anthropic-tos",)),
        ("command-r", ("cohere-c4ai",)),
        ("meta-llama/Meta-Llama-3-8B-Instruct", ("llama3-community",)),
        ("Meta-Llama-3.1-70B-Instruct-Turbo", ("llama3.1-community",)),
        ("google/gemma-2-9b-it", ("gemma",)),
        ("Qwen/Qwen3-8B", ()),
    ],
)
def test_what_a_model_brings_along(model: str, wanted: tuple[str, ...]) -> None:
    assert terms_of_model(model) == wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("google/gemma-2-9b/", ("gemma",)),
        (
            "~/.cache/huggingface/hub/models--google--gemma-2-9b/snapshots/33c193028431c2fde6c6e51f29e6f17b60cbfac6",
            ("gemma",),
        ),
        (r"C:\models\gemma-2", ("gemma",)),
        ("../models/Gemma-2-9b-it/final", ("gemma",)),
        ("/models/Meta-Llama-3-8B-Instruct/", ("llama3-community",)),
        ("/models/CohereLabs/tiny/", ("cohere-c4ai",)),
        ("hub/models--CohereLabs--tiny/snapshots/abc", ("cohere-c4ai",)),
        ("Qwen2.5-72B-Instruct", ("qwen",)),
        ("/models/qwen2.5-72b/checkpoint-500", ("qwen",)),
        ("openrouter/openai/gpt-4o", ("openai-tou",)),
        # Folders that only look like models.
        ("Qwen2.5-7B-Instruct", ()),
        ("/home/aya-project/models/mistral-7b", ()),
        ("/data/aya-2026/command-line/gemma-runs/mistral-7b", ()),
        ("/runs/o1/gpt-4-prompts/davinci-2/mistral-7b", ()),
        ("aya-data/models/mistral-7b", ()),
        ("hub/models--openai--gpt-oss-20b/snapshots/abc", ()),
        ("/", ()),
        ("", ()),
    ],
)
def test_terms_of_a_model_in_a_folder(path: str, wanted: tuple[str, ...]) -> None:
    assert terms_of_model(path) == wanted


# ------------------------------------------------------------------ policies
@pytest.mark.parametrize(
    ("text", "with_terms", "adapted", "commercial", "research"),
    [
        ("MIT", [], False, "license", "license"),
        ("CC-BY-NC-4.0", [], False, "license.use", "license"),
        ("research only", [], False, "license.use", "license"),
        ("research only", [], True, "license.use", "license.derivatives"),
        ("unknown", [], False, "license.unknown", "license.unknown"),
        ("No License", [], False, "license.unknown", "license.unknown"),
        ("LicenseRef-aya-conflict", [], False, "license.compatibility", "license.compatibility"),
        ("CC-BY-ND-4.0", [], False, "license", "license"),
        ("CC-BY-ND-4.0", [], True, "license.derivatives", "license.derivatives"),
        ("MIT", ["openai-tou"], False, "terms.no-compete", "license"),
        ("MIT", ["nllb-200"], False, "terms.non-commercial", "license"),
        ("MIT", ["tanzil"], False, "license", "license"),
        ("MIT", ["tanzil"], True, "terms.no-derivatives", "terms.no-derivatives"),
        ("MIT", ["nobody-knows"], False, "terms.unknown", "terms.unknown"),
        ("LDC User Agreement", [], False, "license.use", "terms.no-redistribution"),
        ("llama3", [], False, "terms.no-compete", "license"),
        ("gemma", [], False, "license", "license"),
    ],
)
def test_verdicts(text: str, with_terms: list[str], adapted: bool, commercial: str, research: str) -> None:
    held = resolve(text).license
    for name, rule in (("commercial", commercial), ("research", research)):
        verdict = judge(held, with_terms, POLICIES[name], adapted=adapted)
        assert verdict.rule == rule
        assert verdict.allowed == (rule == "license")
    assert judge(held, with_terms, POLICIES["any"], adapted=adapted).allowed


def test_a_verdict_carries_value_threshold_and_evidence() -> None:
    found = judge(parse("CC-BY-NC-4.0"), (), POLICIES["commercial"])
    assert (found.value, found.threshold, found.evidence) == (
        "CC-BY-NC-4.0",
        "commercial: use any",
        "non-commercial, attribution (https://creativecommons.org/licenses/by-nc/4.0/)",
    )
    refused = adapt([parse("CC-BY-SA-4.0"), parse("CC-BY-NC-4.0")])
    found = judge(refused, (), POLICIES["research"], adapted=True)
    assert not found.allowed
    assert (found.rule, found.value) == ("license.compatibility", "CC-BY-NC-4.0 + CC-BY-SA-4.0")
    assert "does not allow the conditions of CC-BY-NC-4.0" in found.evidence


@given(any_license, st.booleans())
def test_what_commercial_lets_through_research_does_too(held: License, adapted: bool) -> None:
    if judge(held, (), POLICIES["commercial"], adapted=adapted).allowed:
        assert judge(held, (), POLICIES["research"], adapted=adapted).allowed
        assert held.use == "any"
    if not held.known:
        assert not judge(held, (), POLICIES["research"], adapted=adapted).allowed
        assert publishable([held]) != []


def test_a_policy_written_out() -> None:
    written = policy(
        {
            "uses": ["any", "noncommercial"],
            "share_alike": False,
            "exceptions": [
                {"id": "LicenseRef-house", "reason": "our own text"},
                {"id": "OpenAI-ToU", "reason": "a contract"},
            ],
        }
    )
    assert written == policy(PolicySettings.model_validate(
        {
            "uses": ["any", "noncommercial"],
            "share_alike": False,
            "exceptions": [
                {"id": "openai-tou", "reason": "a contract"},
                {"id": "LicenseRef-house", "reason": "our own text"},
            ],
        }
    ))  # fmt: skip
    assert judge(parse("CC-BY-SA-4.0"), (), written).rule == "license.share_alike"
    assert judge(parse("LicenseRef-house"), (), written) == licenses.Verdict(
        True,
        "license.exception",
        "LicenseRef-house",
        "written-out",
        "LicenseRef-house: our own text",
    )
    assert judge(parse("LicenseRef-house AND CC-BY-SA-4.0"), (), written).allowed is False
    assert judge(parse("MIT"), ["openai-tou"], written).rule == "license.exception"
    assert judge(parse("MIT"), ["google-translate"], written).rule == "terms.no-compete"
    assert publishable([parse("LicenseRef-house")]) == ["the licence LicenseRef-house is not known"]
    assert publishable([parse("LicenseRef-house")], exceptions=["LicenseRef-house"]) == []
    assert json.loads(json.dumps(PolicySettings.model_json_schema()))["additionalProperties"] is False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("comercial", ("there is no policy 'comercial'. Did you mean 'commercial'? "
         "Or write one out: {uses: [any], …}.")),
        ({"use": ["any"]}, "the policy is wrong: use: unknown key. Did you mean 'uses'?"),
        ({"exceptions": [{"id": "MTI", "reason": "because"}]}, ("the policy is wrong: exceptions: "
         "must name a licence or terms; there is no licence 'MTI'. Did you mean 'MIT'? Write an "
         "SPDX id such as CC-BY-4.0, or LicenseRef-<name> for a text of your own.")),
    ],
)  # fmt: skip
def test_a_wrong_policy(source: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        policy(source)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_publishable_names_what_stands_in_the_way() -> None:
    assert publishable([parse("MIT"), parse("CC-BY-NC-4.0")], ["openai-tou"]) == []
    assert publishable([UNKNOWN, parse("LDC User Agreement")], ["x"]) == [
        "the licence LicenseRef-aya-unknown is not known",
        "LDC user agreement forbids passing the text on",
        "the terms 'x' are not known",
    ]


# ------------------------------------------------------------------ traps inside collections
def test_the_aya_collection_has_64_parts() -> None:
    parts = collection_parts("aya_collection")
    assert len(parts) == 64
    assert sum(part.startswith("templated_") for part in parts) == 44
    assert sum(part.startswith("translated_") for part in parts) == 19


@pytest.mark.parametrize("part", [p for p in collection_parts("aya_collection") if p.startswith("translated_")])
def test_translated_parts_are_refused_under_commercial(part: str) -> None:
    found = part_license("aya_collection", part)
    assert found.translator == "nllb-200-3.3B"
    assert "nllb-200" in found.terms
    assert not judge(found.license, found.terms, POLICIES["commercial"]).allowed
    research = judge(found.license, found.terms, POLICIES["research"])
    assert research.allowed == found.license.known


def test_the_cause_is_the_translator() -> None:
    found = part_license("aya_collection", "translated_dolly")
    verdict = judge(found.license, found.terms, POLICIES["commercial"])
    assert (verdict.rule, verdict.value) == ("terms.non-commercial", "nllb-200")
    assert verdict.evidence.startswith("NLLB-200 weights, CC-BY-NC-4.0")
    assert judge(found.license, found.terms, POLICIES["research"]).allowed


@pytest.mark.parametrize(
    ("collection", "part", "wanted", "conflict"),
    [
        ("aya_collection", "translated_wiki_split", "CC-BY-SA-4.0", True),
        ("aya_collection", "templated_wiki_split", "CC-BY-SA-4.0", True),
        ("aya_collection", "translated_piqa", "LicenseRef-aya-unknown", True),
        ("aya_collection", "translated_cnn_dailymail", "LicenseRef-aya-unknown", True),
        ("aya_collection", "translated_adversarial_qa", "CC-BY-SA-3.0", True),
        ("aya_collection", "translated_dolly", "CC-BY-SA-3.0", True),
        ("aya_collection", "translated_flan_cot", "LicenseRef-aya-unknown", False),
        ("aya_collection", "translated_flan_gem_wiki", "CC-BY-NC-SA-3.0", False),
        ("aya_collection", "translated_wikiqa", "LicenseRef-MSR-DLA", False),
        ("aya_collection", "templated_mintaka", "CC-BY-4.0", False),
        ("CohereLabs/aya_collection_language_split", "Mintaka-inst (T)", "CC-BY-4.0", False),
        ("aya_collection", "templated_new", "LicenseRef-aya-unknown", False),
        ("databricks/databricks-dolly-15k", "*", "CC-BY-SA-3.0", True),
        ("OpenAssistant/oasst1", "*", "CC-BY-4.0", True),
        ("oasst2", "*", "Apache-2.0", False),
        ("aya_dataset", "*", "Apache-2.0", False),
        ("aya_evaluation_suite", "dolly_machine_translated", "CC-BY-SA-3.0", True),
        ("xp3x", "samsum", "CC-BY-NC-ND-4.0", False),
        ("xp3x", "never heard of", "LicenseRef-aya-unknown", False),
    ],
)
def test_parts_and_their_disagreements(collection: str, part: str, wanted: str, conflict: bool) -> None:
    found = part_license(collection, part)
    assert found.license.expression == wanted
    assert bool(found.conflicts) == conflict
    assert (found.reason == "") == found.license.known


def test_a_disagreement_is_one_sentence() -> None:
    assert part_license("aya_collection", "translated_piqa").conflicts == (
        "ADS Table 9 says unknown, A101 Table 15 says AFL-3.0: the stricter holds (unknown)",
    )


# ------------------------------------------------------------------ cost, and real data
def test_listed_names_do_not_load_the_expression_library() -> None:
    code = (
        "import sys; from aya_data.core import license as l; "
        "[l.resolve(t) for t in ('apache-2.0', 'CC BY-SA 4.0', 'MIT License', None, 'other')]; "
        "l.judge(l.parse('cc-by-4.0')); l.part_license('aya_collection', 'translated_dolly'); "
        "print('license_expression' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


REAL = os.environ.get("AYA_DATA_REAL")
PUBLISHED_AS_PROSE = 14  # sentences such as "code Apache-2.0; data CC-BY-NC-4.0"


@pytest.mark.skipif(REAL is None, reason="AYA_DATA_REAL names no folder with real data")
class TestRealData:
    """Every licence string of the real data is read, or unknown with a reason of its own."""

    def test_names_and_spellings(self) -> None:
        import pyarrow.parquet as pq

        folder = Path(str(REAL)) / "provenance"
        classes = pq.read_table(folder / "licence_classes.parquet").to_pylist()
        assert len(classes) == 145
        spellings = pq.read_table(folder / "licence_spellings.parquet").to_pylist()
        assert len(spellings) == 137
        read = [row["url"] or row["licence"] for row in classes]
        read += [row["spelling"] for row in spellings]
        for text in read:
            assert not resolve(text).reason.endswith("known here"), text
        # Never more permissive in use than the class of the Data Provenance Initiative.
        order = {"All": 0, "NC": 1, "Acad": 2}
        for row in classes:
            found = resolve(row["url"] or row["licence"])
            if found.license.known and row["use"] in order:
                assert USES.index(found.license.use) >= order[row["use"]], row

    def test_tags_catalogues_and_rows(self) -> None:
        import pyarrow.parquet as pq

        folder = Path(str(REAL))
        columns = [
            ("provenance/datasets.parquet", "hf_licence_tag"),
            ("provenance/datasets.parquet", "github_licence"),
            ("provenance/arabic_masader.parquet", "license"),
            ("african_storybook/stories.parquet", "license"),
            ("pratham_books/stories.parquet", "license"),
        ]
        for file, column in columns:
            table = pq.read_table(folder / file, columns=[column])
            for text in set(table.column(column).to_pylist()):
                assert not resolve(text).reason.endswith("known here"), (file, text)

    def test_the_licence_of_every_source(self) -> None:
        stated: set[str] = set()
        for file in sorted(Path(str(REAL)).glob("*/*.json")):
            facts = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or "licence_spdx" not in facts:
                continue
            found = resolve(facts["licence_spdx"])
            assert not found.reason.endswith("known here"), file
            stated.add(facts["licence_stated"])
        assert len(stated) > 20
        prose = [text for text in stated if resolve(text).reason.endswith("known here")]
        assert len(prose) <= PUBLISHED_AS_PROSE, prose

    def test_what_commercial_lets_through_the_catalogue_calls_commercial(self) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(Path(str(REAL)) / "provenance/datasets.parquet")
        allowed = {"commercial": 0, "research": 0}
        for row in table.select(["licences", "use_category"]).to_pylist():
            names = [one["url"] if one["licence"] == "Custom" else one["licence"] for one in row["licences"]]
            found = aggregate(names)
            for name in allowed:
                allowed[name] += judge(found.license, found.terms, POLICIES[name]).allowed
            if judge(found.license, found.terms, POLICIES["commercial"]).allowed:
                assert row["use_category"] == "commercial", row
        assert 800 < allowed["commercial"] < allowed["research"] < table.num_rows
