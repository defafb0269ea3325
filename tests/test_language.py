"""Every spelling that a source uses resolves to one variety, or is und with a reason."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data.core import language as languages
from aya_data.core import language_tables as tables
from aya_data.core.errors import NotFound
from aya_data.core.language import (
    LANGUAGE_SETS,
    UND,
    Variety,
    confusable,
    direction,
    fasttext_labels,
    flores,
    info,
    language_set,
    macro_of,
    name,
    parse,
    resolve,
    same_language,
)

SPELLINGS = {
    # codes of every kind
    "zho": "zho_Hans", "zh": "zho_Hans", "cmn": "zho_Hans", "chi": "zho_Hans", "zhs": "zho_Hans",
    "zh-CN": "zho_Hans", "zh-cn": "zho_Hans", "zh-SG": "zho_Hans", "zho_Hans": "zho_Hans",
    "zh-TW": "zho_Hant", "zh_TW": "zho_Hant", "zh-tw": "zho_Hant", "zh-HK": "zho_Hant", "cmn-TW": "zho_Hant",
    "zh-MO": "zho_Hant", "zh_Hant": "zho_Hant", "zh-Hant-HK": "zho_Hant", "zh_Hani": "zho_Hans",
    "zh-yue": "yue_Hant", "zh-yue-HK": "yue_Hant", "zh-min-nan": "nan_Hans", "wuu": "wuu_Hans",
    "ar": "arb_Arab", "ara": "arb_Arab", "arb": "arb_Arab", "ar_Latn": "arb_Latn",
    "ar-EG": "arb_Arab", "ary": "ary_Arab", "ar-arz": "arz_Arab", "ajp": "ajp_Arab",
    "fa": "pes_Arab", "fas": "pes_Arab", "pes": "pes_Arab", "per": "pes_Arab", "prs": "prs_Arab",
    "fa-AF": "prs_Arab", "sw": "swh_Latn", "swa": "swh_Latn", "sw-KE": "swh_Latn",
    "ms": "zsm_Latn", "msa": "zsm_Latn", "id": "ind_Latn", "in": "ind_Latn", "no": "nob_Latn",
    "nor": "nob_Latn", "nb": "nob_Latn", "nn": "nno_Latn", "no-nb": "nob_Latn", "et": "est_Latn",
    "ekk": "est_Latn", "lv": "lvs_Latn", "ku": "kmr_Latn", "kur": "kmr_Latn", "ku_Arab": "ckb_Arab",
    "ckb": "ckb_Arab", "kmr_Latn": "kmr_Latn", "az": "azj_Latn", "aze_Arab": "azb_Arab",
    "az-Cyrl": "azj_Cyrl", "sr": "srp_Cyrl", "sr-Latn": "srp_Latn", "sr_RS@latin": "srp_Latn",
    "sh": "hbs_Latn", "scc": "srp_Cyrl", "iw": "heb_Hebr", "ji": "ydd_Hebr", "mo": "ron_Latn",
    "jw": "jav_Latn", "tl": "tgl_Latn", "fil": "tgl_Latn", "tgl": "tgl_Latn", "or": "ory_Orya",
    "ori": "ory_Orya", "gj": "guj_Gujr", "uk-UA": "ukr_Cyrl", "pt-BR": "por_Latn",
    "pt_PT": "por_Latn", "es-ni": "spa_Latn", "en_US.UTF-8": "eng_Latn", "EN": "eng_Latn",
    "eng-us": "eng_Latn", "hi-Latn": "hin_Latn", "kor_Kore": "kor_Hang", "ko": "kor_Hang",
    "urd_Aran": "urd_Arab", "jpn_Hira": "jpn_Hira", "tw-akua": "twi_Latn", "kzj": "dtp_Latn",
    "lgg-official": "lgg_Latn", "ha-ne": "hau_Latn", "bh": "bho_Deva", "mul": "mul_Zyyy",
    "zxx": "zxx_Zxxx", "mis": "mis_Zyyy", "als": "als_Latn", "__label__als": "gsw_Latn",
    "__label__eng_Latn": "eng_Latn", "__label__zh": "zho_Hans", "zho_Zyyy": "zho_Hans",
    # names
    "standard_arabic": "arb_Arab", "Modern Standard Arabic": "arb_Arab", "Arabic": "arb_Arab",
    "Arabic, Standard": "arb_Arab", "Modern Standard Arabic (Romanized)": "arb_Latn",
    "Najdi Arabic": "ars_Arab", "ta'izzi-adeni_arabic": "acq_Arab",
    "Ta\u2019izzi-Adeni Arabic": "acq_Arab", "taizzi_adeni_arabic": "acq_Arab",
    "simplified chinese": "zho_Hans", "SimplifiedChinese": "zho_Hans", "chinese": "zho_Hans",
    "traditionalchinese": "zho_Hant", "Chinese (Traditional)": "zho_Hant",
    "Chinese (Hong Kong)": "zho_Hant", "Chinese (Taiwan)": "zho_Hant", "Mandarin": "zho_Hans",
    "Cantonese": "yue_Hant", "\u7e41\u9ad4\u4e2d\u6587": "zho_Hant",
    "Odia/Oriya": "ory_Orya", "Panjabi/Punjabi": "pan_Guru", "Spanish; Castilian": "spa_Latn",
    "Haitian Creole": "hat_Latn", "Hinglish": "hin_Latn", "Farsi": "pes_Arab",
    "Acehnese (Arabic script)": "ace_Arab", "Serbian (Latin script)": "srp_Latn",
    "Tamasheq (Tifinagh script)": "taq_Tfng", "latin serbian": "srp_Latn",
    "romanized hindi": "hin_Latn", "azerbaijani (arabic)": "azb_Arab", "toba_batak": "bbc_Latn",
    "Kurdish (Sorani)": "ckb_Arab", "Norwegian (Bokm\u00e5l)": "nob_Latn",
    "Portugese (Brazilian)": "por_Latn", "Spanish (Mexico)": "spa_Latn", "Turkish (tr)": "tur_Latn",
    "tur (Turkish)": "tur_Latn", "Turkish language": "tur_Latn", "Volap\u00fck": "vol_Latn",
    "old_english": "ang_Latn", "tok_pisin": "tpi_Latn", "N'Ko": "nqo_Nkoo",
    "fran\u00e7ais": "fra_Latn",
}  # fmt: skip

# Folder names of aya_collection_language_split, as the templated and translated parts use them.
FOLDERS = """
achinese ace, afrikaans afr, albanian als, amharic amh, armenian hye, balinese ban, banjar bjn,
basque eus, belarusian bel, bemba bem, bengali ben, bulgarian bul, burmese mya, catalan cat,
cebuano ceb, central_kanuri knc, central_khmer khm, central_kurdish ckb, chinese zho, croatian hrv,
czech ces, danish dan, dutch nld, eastern_yiddish ydd, egyptian_arabic arz, english eng,
esperanto epo, estonian est, filipino tgl, finnish fin, fon fon, french fra, galician glg,
georgian kat, german deu, greek ell, gujarati guj, haitian hat, halh_mongolian khk, hausa hau,
hebrew heb, hindi hin, hungarian hun, icelandic isl, igbo ibo, indonesian ind, iranian_persian pes,
irish gle, italian ita, japanese jpn, javanese jav, kannada kan, kashmiri kas, kazakh kaz,
khmer khm, kinyarwanda kin, korean kor, kyrgyz kir, lao lao, ligurian lij, lithuanian lit,
luxembourgish ltz, macedonian mkd, madurese mad, malayalam mal, maltese mlt, manipuri mni,
maori mri,
marathi mar, mesopotamian_arabic acm, minangkabau min, moroccan_arabic ary,
mozambican_portuguese por, najdi_arabic ars, nepali npi, ngaju nij, north_azerbaijani azj,
north_levantine_arabic apc, northern_kurdish kmr, northern_sotho nso, northern_uzbek uzn,
norwegian_bokmal nob, norwegian_nynorsk nno, nyanja nya, panjabi pan, persian pes,
plateau_malagasy plt, polish pol, portuguese por, romanian ron, russian rus, samoan smo,
scottish_gaelic gla, serbian srp, shona sna, simplified_chinese zho, sindhi snd, sinhala sin,
slovak slk, slovenian slv, somali som, south_azerbaijani azb, south_levantine_arabic ajp,
southern_pashto pbt, southern_sotho sot, spanish spa, standard_arabic arb, standard_latvian lvs,
standard_malay zsm, sundanese sun, swahili swh, swedish swe, taizzi_adeni_arabic acq, tajik tgk,
tamasheq taq, tamil tam, telugu tel, thai tha, toba_batak bbc, tosk_albanian als,
traditional_chinese zho, tunisian_arabic aeb, turkish tur, twi twi, ukrainian ukr, urdu urd,
vietnamese vie, welsh cym, wolof wol, xhosa xho, yoruba yor, yue_chinese yue, zulu zul
"""

UNRESOLVED = {
    "": "no label",
    "   ": "no label",
    "NaN": "no label",
    "und": "the source says that it is undetermined",
    "unknown": "the source does not say which language",
    "n/a": "the source does not say which language",
    "code": "not a natural language",
    "math": "not a natural language",
    "Go": "not a natural language",
    "Ada": "not a natural language",
    "ber": "ber names a family (Berber languages), not one language",
    "Berber": "names a family of languages, not one",
    "Creole": "the name of a kind of language, not of one",
    "qaa": "qaa is a private-use code",
    "English, French": "more than one language",
    "Madi": "ambiguous name: grg, mhi",
    "slq": "slq (Salchuq) was withdrawn from ISO 639-3: not an existing language",
    "xq": "not a language name or code that is known",
    "pt-xx": "not a language name or code that is known: pt with the unknown part 'xx'",
    "zua": "zua (Zeem) was split into tvi, dyr, dsk, cxh, zem: the label does not say which",
    "x" * 201: "longer than 200 characters: not a label",
}

# Names in provenance/ that stand for programming languages and file formats.
NOT_NATURAL = """
ABAP; ANTLR; API Blueprint; APL; ASP; ATS; ActionScript; Ada; Agda; ApacheConf; AppleScript;
Arc; Arduino; AsciiDoc; AspectJ; Assembly; Augeas; AutoHotkey; Awk; Batchfile; BitBake;
BlitzMax; Bluespec; Boo; Brainfuck; Bro; C; C#; C++; C2hs Haskell; CMake; CSS; CSV; Cap'n Proto;
CartoCSS; Ceylon; Chapel; Clean; Clojure; Code; CoffeeScript; ColdFusion; ColdFusion CFC; Common
Lisp; Crystal; Csound; Cucumber; Cuda; Cython; DIGITAL Command Language; DM; DNS Zone; Dart;
Diff; Dockerfile; Dylan; ECL; Eagle; Eiffel; Elixir; Elm; Emacs Lisp; EmberScript; Erlang; F#;
FLUX; FORTRAN; Factor; Fancy; Forth; FreeMarker; G-code; GAS; GDScript; GLSL; Genshi; Gentoo
Ebuild; Gettext Catalog; Gnuplot; Go; GraphQL; Graphviz (DOT); Groff; Groovy; Groovy Server
Pages; HCL; HLSL; HTML; HTML+Django; HTML+EEX; HTML+ERB; HTML+PHP; HTTP; Haml; Handlebars;
Harbour; Haskell; Haxe; Hy; IGOR Pro; INI; Idris; Inform 7; Inno Setup; Io; Ioke; Isabelle;
JFlex; JSON; JSON5; JSONLD; JSONiq; JSX; Jade; Jasmin; Java; Java Server Pages; JavaScript;
Julia; Jupyter Notebook; KRL; Kotlin; LFE; LLVM; LSL; Latte; Lean; Less; LilyPond; Linker
Script; Liquid; Literate Agda; Literate CoffeeScript; Literate Haskell; LiveScript; Logos;
Logtalk; Lua; M4; MTML; Makefile; Mako; Maple; Markdown; Mask; Mathematica; MediaWiki; Metal;
Mirah; Modelica; Module Management System; Monkey; MoonScript; NSIS; NetLinx; Nginx; Nimrod;
Ninja; Nit; Nix; Nu; OCaml; Objective-C++; OpenCL; OpenSCAD; Org; Oz; PAWN; PHP; POV-Ray SDL;
Pan; Parrot Assembly; Parrot Internal Representation; Pascal; Perl; Perl6; PigLatin; Pike; Pod;
Pony; PostScript; PowerShell; Processing; Propeller Spin; Protocol Buffer; Pure Data; PureBasic;
PureScript; Python; QML; QMake; R; RAML; RDoc; RHTML; Racket; Ragel in Ruby Host; Rebol; Red;
Ren'Py; RobotFramework; Rouge; Ruby; Rust; SAS; SCSS; SMT; SPARQL; SQF; SQL; STON; SVG; Sage;
SaltStack; Sass; Scala; Scaml; Scheme; Scilab; Shell; Slash; Slim; Smalltalk; Smarty; Solidity;
SourcePawn; Squirrel; Standard ML; Stata; Stylus; SuperCollider; Swift; SystemVerilog; TOML;
Tcl; Tcsh; TeX; Textile; Thrift; Turtle; Twig; TypeScript; Unity3D Asset; Uno; UnrealScript;
UrWeb; VCL; VHDL; Vala; VimL; Visual Basic; Volt; Vue; WebIDL; XML; XPages; XProc; XQuery; XS;
XSLT; Xtend; YAML; YANG; Yacc; Zephir; Zig; desktop; edn; fish; mupad; nesC; ooc;
reStructuredText; wisp; xBase
"""

# Everything else in the real data that stays und, and why.
REAL_UND = {
    "": "no label",
    "Creole": "the name of a kind of language, not of one",
    "Dayak": "names a family of languages, not one",
    "Text": "the source does not say which language",
    "ber": "ber names a family (Berber languages), not one language",
    "ksa": "ksa (Shuwa-Zamani) was split into rsw, izm: the label does not say which",
    "plj": "plj (Polci) was split into pze, nzr, zlu, uly: the label does not say which",
    "slq": "slq (Salchuq) was withdrawn from ISO 639-3: not an existing language",
    "unknown": "the source does not say which language",
    "zua": "zua (Zeem) was split into tvi, dyr, dsk, cxh, zem: the label does not say which",
}


@pytest.mark.parametrize("label", SPELLINGS)
def test_a_spelling_of_a_source_is_resolved(label: str) -> None:
    resolution = resolve(label)
    assert (resolution.variety.code, resolution.ok, resolution.reason) == (
        SPELLINGS[label],
        True,
        "",
    )
    assert resolution.label == label
    assert parse(label) == resolution.variety


def test_folder_names_of_the_language_split_are_resolved() -> None:
    for entry in FOLDERS.replace("\n", " ").split(","):
        folder, language = entry.split()
        assert resolve(folder).variety.language == language, folder


@pytest.mark.parametrize("label", UNRESOLVED)
def test_what_cannot_be_resolved_is_und_with_the_reason(label: str) -> None:
    resolution = resolve(label)
    assert (resolution.variety, resolution.ok) == (UND, False)
    assert (resolution.reason, resolution.label) == (UNRESOLVED[label], label)


def test_no_label_is_und() -> None:
    assert resolve(None) == languages.Resolution(UND, "", False, "no label")


def test_a_programming_language_hides_a_code_only_in_its_own_spelling() -> None:
    assert not resolve("Ada").ok
    assert resolve("ada").variety.code == resolve("ADA").variety.code == "ada_Latn"


@pytest.mark.parametrize(
    ("label", "note"),
    [
        ("ar", "macrolanguage ara"),
        ("mo", "deprecated code mo -> ron"),
        ("sw-KE", "region KE; macrolanguage swa"),
        ("fil", "fil is tgl here"),
        ("gj", "mistake for gu"),
        ("tur", ""),
    ],
)
def test_the_note_says_what_was_decided(label: str, note: str) -> None:
    assert resolve(label).note == note


def test_a_script_from_another_column_counts_where_the_label_gives_none() -> None:
    assert resolve("ace", script="Arab").variety.code == "ace_Arab"
    assert resolve("kur", script="arabic").variety.code == "ckb_Arab"
    assert resolve("zho", script="Traditional").variety.code == "zho_Hant"
    assert resolve("tur", script="").variety.code == "tur_Latn"
    clash = resolve("zho_Hans", script="Hant")
    assert (clash.variety.code, clash.note) == (
        "zho_Hans",
        "script Hant ignored: the label says Hans",
    )
    assert resolve("tur", script="Foo").note == "unknown script 'Foo' ignored"


def test_parse_teaches() -> None:
    with pytest.raises(NotFound) as caught:
        parse("Turkisch")
    assert str(caught.value) == (
        "there is no language 'Turkisch'. Did you mean 'Turkish'? Write an ISO 639-3 code with or "
        "without a script (tur, tur_Latn) or an English name."
    )
    with pytest.raises(NotFound, match=r"Ber names a family \(Berber languages\)"):
        parse("ber")


def test_every_code_is_known_and_stable() -> None:
    known = tables.languages()
    assert len(known) == 7924  # ISO 639-3 and ajp
    scopes = Counter(row.scope for row in known.values())
    assert scopes["S"] == 4
    assert scopes["M"] == len(tables.individuals())
    assert {"und", "mul", "zxx", "mis", "eng", "cmn"} <= set(known)
    assert len(tables.scripts()) == 226
    for code, row in known.items():
        assert row.script in tables.scripts(), code
        assert not row.macrolanguage or known[row.macrolanguage].scope == "M", code
        variety = resolve(code).variety
        assert code == "und" or resolve(code).ok, code
        assert same_language(variety.language, code), code
        assert resolve(variety.code).variety == variety, code
        assert name(code), code


def test_every_iso_639_1_code_resolves() -> None:
    short = {row.iso639_1: row.code for row in tables.languages().values() if row.iso639_1}
    assert len(short) == 184  # the 183 of today and sh, which was withdrawn
    for two, three in short.items():
        assert resolve(two).variety == resolve(three).variety


def test_tables_refer_to_known_codes() -> None:
    known = set(tables.languages())
    assert {to for to, _ in tables.canonical().values()} <= known
    assert {alias.language for alias in tables.aliases().values()} - {""} <= known
    assert {code for codes in tables.names().values() for code in codes.split()} <= known
    assert {code for row in tables.retired().values() for code in row.now.split()} <= known
    assert not set(tables.retired()) & known
    assert {code for group, _ in tables.confusable_groups() for code in group} <= known
    assert all(macro_of(member) == macro for macro, member in tables.apart())
    for to, _ in tables.canonical().values():
        assert (to, "*") not in tables.canonical(), to


def test_every_alias_is_reached_by_its_name() -> None:
    for alias in tables.aliases().values():
        if alias.language and alias.name.lower() not in tables.languages():
            resolution = resolve(alias.name)
            assert same_language(resolution.variety.language, alias.language), alias


def test_the_data_files_are_the_ones_declared() -> None:
    folder = files("aya_data.core").joinpath("data")
    for path in tables.DATA_FILES:
        assert folder.joinpath(path.removeprefix("data/")).is_file()


@given(st.text(max_size=80) | st.from_regex(r"[a-zA-Z]{2,3}([-_][a-zA-Z]{2,4}){0,2}", fullmatch=True))
def test_resolve_never_raises_and_is_idempotent(label: str) -> None:
    resolution = resolve(label)
    assert resolution.ok == (resolution.reason == "")
    assert resolution.ok or resolution.variety == UND
    assert resolve(resolution.variety.code).variety == resolution.variety
    assert resolve(label, script=label).ok == resolution.ok


@given(st.text(st.sampled_from("ab(),/;-_ @.[]|&or") | st.characters(), max_size=260))
def test_resolve_survives_marks_in_any_order(label: str) -> None:
    assert resolve(label).label == label


@given(st.sampled_from(sorted(SPELLINGS)), st.sampled_from("-_"))
def test_case_and_the_kind_of_dash_do_not_matter(label: str, dash: str) -> None:
    if label.startswith("__label__"):
        return
    expected = SPELLINGS[label]
    assert resolve(label.upper()).variety.code == expected
    assert resolve(re.sub("[-_]", dash, label).lower()).variety.code == expected


@given(st.sampled_from(sorted(tables.languages())), st.sampled_from(sorted(tables.scripts())))
def test_any_language_in_any_script_is_stable(language: str, script: str) -> None:
    variety = resolve(f"{language}_{script}").variety
    assert resolve(variety.code).variety == variety


def test_the_101_and_the_23() -> None:
    assert len(language_set("aya_101")) == 101
    levels = Counter(row.resource for row in tables.aya_101().values())
    assert levels == {"high": 24, "mid": 26, "low": 51}
    for level, count in levels.items():
        assert len(language_set(f"aya_101_{level}")) == count
        for variety in language_set(f"aya_101_{level}"):
            assert info(variety.language).resource == level
    codes = [
        "ar",
        "zh",
        "cs",
        "nl",
        "en",
        "fr",
        "de",
        "el",
        "he",
        "hi",
        "id",
        "it",
        "ja",
        "ko",
        "fa",
        "pl",
        "pt",
        "ro",
        "ru",
        "es",
        "tr",
        "uk",
        "vi",
    ]
    assert len(codes) == 23
    traditional = parse("zho_Hant")  # the paper: "Chinese (simplified & traditional)"
    expected = sorted([*(resolve(code).variety for code in codes), traditional])
    assert expected == list(language_set("aya_23"))
    assert {v.language for v in language_set("aya_23")} <= {v.language for v in language_set("aya_101")}


def test_the_printed_codes_of_the_101_become_the_canonical_ones() -> None:
    for code, row in tables.aya_101().items():
        assert resolve(code).variety.language == row.canonical
        assert resolve(row.name).variety.language == row.canonical
        assert info(code).family == info(row.canonical).family


def test_named_sets_are_sets_of_canonical_varieties() -> None:
    assert set(tables.named_sets()) == set(LANGUAGE_SETS)
    for set_name in LANGUAGE_SETS:
        members = language_set(set_name)
        assert len(set(members)) == len(members)
        assert [resolve(member.code).variety for member in members] == list(members)
    assert len(language_set("flores_200")) == 204
    dataset = language_set("aya_dataset")
    assert len(dataset) == 71  # varieties; 65 languages when the six of Arabic count once
    assert len({macro_of(v.language) == "ara" or v.language for v in dataset}) == 65


def test_the_translated_suite_has_119_varieties() -> None:
    tool = {code for row in tables.aya_101().values() for code in row.nllb.split()}
    more = "ace_Arab ace_Latn bjn_Arab bjn_Latn knc_Arab knc_Latn min_Arab min_Latn kas_Arab"
    tool |= {*more.split(), "mni_Beng", "taq_Latn"}
    assert len(tool) == 119
    assert {variety.code for variety in language_set("aya_evaluation_suite")} == tool


def test_an_unknown_set_is_named_with_a_suggestion() -> None:
    with pytest.raises(NotFound) as caught:
        language_set("aya_32")
    assert str(caught.value) == "there is no language set 'aya_32'. Did you mean 'aya_23'?"


def test_flores_codes_resolve_to_themselves() -> None:
    for variety in language_set("flores_200"):
        assert resolve(variety.code).variety == variety
        assert flores(variety) == variety.code
    assert flores(Variety("nqo", "Nkoo")) == "nqo_Nkoo"
    assert flores(Variety("fas", "Arab")) == "pes_Arab"
    assert flores(Variety("tur", "Arab")) is None
    assert flores(UND) is None


def test_the_labels_of_lid_176() -> None:
    labels = fasttext_labels()
    assert len(labels) == 176
    conventions = {
        "als": "gsw", "no": "nob", "nn": "nno", "sh": "hbs", "zh": "zho", "ar": "arb", "fa": "pes",
        "bh": "bho", "ku": "kmr", "ckb": "ckb", "eml": "egl", "nah": "nci", "arz": "arz",
        "yue": "yue",
        "wuu": "wuu", "azb": "azb", "pnb": "pnb", "az": "azj", "ms": "zsm", "tl": "tgl",
        "sq": "als",
    }  # fmt: skip
    assert {label: labels[label] for label in conventions} == conventions
    for label, language in labels.items():
        assert resolve(f"__label__{label}").variety.language == language
        if label != "als":
            assert resolve(label).variety.language == language


@pytest.mark.parametrize(
    "pair",
    [
        "zho-cmn",
        "ara-arb",
        "fas-pes",
        "swa-swh",
        "msa-zsm",
        "est-ekk",
        "nor-nob",
        "kur-ckb",
        "kur-kmr",
        "hbs-srp",
        "fil-tgl",
        "ara-arz",
        "kzj-dtp",
        "lav-lvs",
        "eng-eng",
    ],
)
def test_one_language_under_two_codes(pair: str) -> None:
    a, b = pair.split("-")
    assert same_language(a, b)
    assert same_language(b, a)


@pytest.mark.parametrize(
    "pair",
    [
        "msa-ind",
        "zsm-ind",
        "arz-arb",
        "ary-apc",
        "zho-yue",
        "cmn-yue",
        "zho-wuu",
        "pes-prs",
        "kmr-ckb",
        "nob-nno",
        "est-vro",
        "srp-hrv",
        "msa-min",
        "eng-fra",
        "und-eng",
    ],
)
def test_two_languages(pair: str) -> None:
    a, b = pair.split("-")
    assert not same_language(a, b)
    assert not same_language(b, a)


def test_confusable_pairs() -> None:
    for pair in [
        "bos-hrv",
        "ind-zsm",
        "dan-nob",
        "ces-slk",
        "glg-por",
        "arb-arz",
        "arb-ary",
        "azj-tur",
        "urd-hin",
        "zho-yue",
    ]:
        a, b = pair.split("-")
        assert confusable(a, b)
        assert confusable(b, a)
    assert confusable("msa", "ind")  # through the canonical code
    assert not confusable("eng", "eng")
    assert not confusable("eng", "tur")
    assert not confusable("ara", "arb")


def test_what_is_known_of_a_language() -> None:
    arabic = info("arb")
    assert (arabic.name, arabic.macrolanguage, arabic.family) == (
        "Standard Arabic",
        "ara",
        "Afro-Asiatic",
    )
    assert (arabic.resource, arabic.default_script, arabic.direction) == ("high", "Arab", "rtl")
    assert arabic.scripts == ("Arab", "Latn")
    macro = info("ara")
    assert (macro.iso639_1, macro.resource) == ("ar", "high")
    assert {"arb", "arz", "ajp"} <= set(macro.individuals)
    assert info("sna").family == "Atlantic-Congo"
    assert info("wku").resource is None
    with pytest.raises(NotFound, match="Give an ISO 639-3 code"):
        info("tr")


def test_direction_of_a_script() -> None:
    assert [direction(code) for code in ("Arab", "Hebr", "Thaa", "Nkoo", "Latn", "Hans")] == [
        *["rtl"] * 4,
        *["ltr"] * 2,
    ]
    with pytest.raises(NotFound, match="there is no script 'arab'"):
        direction("arab")


def test_names_for_people() -> None:
    assert name("zho_Hans") == "Chinese (Simplified)"
    assert name(Variety("zho", "Hant")) == "Chinese (Traditional)"
    assert name("zho") == "Chinese"
    assert name("tur_Latn") == name("tur") == "Turkish"
    assert name("hin_Latn") == "Hindi (Latin)"
    assert name("ell") == "Greek"
    assert name("no such") == "no such"


def test_varieties_print_and_sort_as_their_code() -> None:
    assert str(Variety("arb", "Arab")) == Variety("arb", "Arab").code == "arb_Arab"
    assert sorted([Variety("zho", "Hant"), Variety("zho", "Hans")])[0].script == "Hans"


def test_reading_the_tables_imports_nothing_heavy() -> None:
    modules = {"pycountry", "langcodes", "iso639", "babel"}
    resolve("zh-TW")
    assert not modules & set(sys.modules)


# ---- real data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("AYA_DATA_REAL")
    if not folder:
        pytest.skip("AYA_DATA_REAL does not name a folder of real data")
    return Path(folder)


def _check_real(labels: set[str]) -> None:
    natural = {part.strip() for part in NOT_NATURAL.replace("\n", " ").split(";")}
    for label in sorted(labels):
        resolution = resolve(label)
        if label in natural:
            assert resolution.reason == "not a natural language", label
        else:
            assert resolution.reason == REAL_UND.get(label, ""), label


def test_declared_labels_of_the_real_data_agree_with_their_iso_codes(real: Path) -> None:
    seen = 0
    for path in sorted(real.glob("*/*.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if "languages_declared" not in meta:
            continue
        _check_real(set(meta["languages_declared"]))
        stated = {code.partition("_")[0] for code in meta["languages_iso639_3"]}
        totals: Counter[str] = Counter()
        for label, rows in meta["languages_declared"].items():
            variety, seen = resolve(label).variety, seen + 1
            if label in REAL_UND:
                assert label in stated, (path, label)
                totals[label] += rows
                continue
            exact = [code for code in stated if resolve(code).variety.language == variety.language]
            near = [code for code in stated if same_language(code, variety.language)]
            assert exact or near, (path, label, variety)
            if variety.language == "zho":
                assert variety.code in meta["languages_iso639_3"], (path, label)
            totals[(exact or near)[0]] += rows
        for code in stated:  # kzj and dtp are one language now, so compare sums over one language
            same = {other for other in stated if resolve(other).variety == resolve(code).variety}
            expected = sum(
                rows for other, rows in meta["languages_iso639_3"].items() if other.partition("_")[0] in same
            )
            if resolve(code).ok:
                assert sum(totals[other] for other in same) == expected, (path, code)
    assert seen > 800


def test_language_columns_of_the_real_data_resolve(real: Path) -> None:
    polars = pytest.importorskip("polars")
    columns = {"lang", "language", "source_lang", "target_lang"}
    labels: set[str] = set()
    for path in sorted(real.glob("*/*.parquet")):
        frame = polars.scan_parquet(path)
        for column in columns & set(frame.collect_schema()):
            labels |= set(frame.select(column).unique().collect()[column].to_list())
    assert len(labels) > 800
    _check_real({"" if label is None else label for label in labels})


def test_english_names_of_the_provenance_tables_resolve(real: Path) -> None:
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(real / "provenance" / "datasets.parquet", columns=["languages"])
    labels = set(table["languages"].explode().drop_nulls().to_list())
    assert len(labels) == 550
    _check_real(labels)


def test_codes_of_linguameta_resolve(real: Path) -> None:
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(real / "linguameta" / "linguameta.parquet")
    assert table.height == 7511
    for tag, code in zip(table["bcp_47_code"], table["iso_639_3_code"], strict=True):
        _check_real({tag, code})
        assert resolve(tag).variety.language == resolve(code).variety.language, (tag, code)
