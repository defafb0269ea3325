"""Templates: they make text of rows, cannot reach anything else, and end."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders.template import TemplateBuilder
from aya_data.core.errors import InputError
from aya_data.core.fields import source_references
from aya_data.core.identity import derived_key
from aya_data.core.license import POLICIES
from aya_data.core.row import ROW, Draft, tabulate
from aya_data.core.stage import Batch, Environment
from aya_data.text.template import Template, TemplateFailure, condition


def render(source: str, **variables: Any) -> str:
    return Template(source).render(variables, "key")


def refused(source: str, **variables: Any) -> str:
    """Return what is said of a template that does not compile or does not render."""
    with pytest.raises((InputError, TemplateFailure)) as caught:
        Template(source).render(variables, "key")
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "variables", "expected"),
    [
        ("{{ a }} and {{ row['odd name'] }}", {"a": 1, "row": {"odd name": "x"}}, "1 and x"),
        ("{% if b %}B{% else %}none{% endif %}", {"b": None}, "none"),
        ("{{ labels[n] }}", {"labels": ["no", "yes"], "n": 1}, "yes"),
        (
            "{% for x in xs %}{{ loop.index }}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
            {"xs": ["a", "b"]},
            "1a, 2b",
        ),
        ("{{ ', '.join(xs) }}|{{ xs | join('-') }}", {"xs": ["a", 1]}, "a, 1|a-1"),
        ("{{ text.strip().lower() | replace('x', 'y') }}", {"text": "  XaX "}, "yay"),
        ("{{ d.items }} {{ d.get('z', 0) }} {{ d.deep.er }}", {"d": {"items": 3, "deep": {"er": "!"}}}, "3 0 !"),
        (
            "{% for q, a in zip(qs, answers) %}{{ q }}{{ a }} {% endfor %}",
            {"qs": ["1", "2"], "answers": ["a", "b"]},
            "1a 2b ",
        ),
        ("{{ xs }} {{ d }}", {"xs": [1, "é"], "d": {"k": None}}, '[1, "é"] {"k": null}'),
        ("{{ a ~ '-' ~ b }} {{ 7 // 2 + n * 2 }}", {"a": "x", "b": 2, "n": 3}, "x-2 9"),
        ("{{ missing | default('d') }}{{ missing is defined }}", {}, "dFalse"),
        ("{{ xs | map(attribute='t') | select | join }}", {"xs": [{"t": "a"}, {"t": ""}, {"t": "b"}]}, "ab"),
        ("{{ '\ud800' }}", {}, None),
        ("{{ a }}", {"a": "lone \ud800"}, "lone \ud800"),
        ("{{ xs | most_frequent | first }} {{ xs | unique | list | length }}", {"xs": ["b", "a", "b"]}, "b 2"),
        ("{{ x | trim | title }} {{ n | round(1) }}", {"x": " two words ", "n": 2.34}, "Two Words 2.3"),
    ],
)
def test_what_templates_can_do(source: str, variables: dict[str, Any], expected: str | None) -> None:
    if expected is None:
        assert "cannot be compiled: UnicodeEncodeError" in refused(source)
    else:
        assert render(source, **variables) == expected


def test_parts_are_cut_at_separators_of_the_template_alone() -> None:
    made = Template("{{ a }} ||| {% if b %}{{ b }}|||{% endif %}c")
    assert made.parts({"a": "x ||| y", "b": "z\0|||\0"}) == ("x ||| y ", " z|||", "c")
    assert made.parts({"a": "x", "b": ""}) == ("x ", " c")
    assert made.render({"a": "x", "b": ""}) == "x ||| c"


def test_a_value_is_never_read_as_a_template() -> None:
    assert render("{{ a }}", a="{{ 7 * 7 }}{% include 'x' %}") == "{{ 7 * 7 }}{% include 'x' %}"


def test_missing_and_null_values_are_named() -> None:
    assert refused("{{ nope }}") == "template_missing:nope"
    assert refused("{% if nope %}{% endif %}") == "template_missing:nope"
    assert refused("{{ row.nope }}", row={}) == "template_missing:nope"
    assert refused("{{ xs[3] }}", xs=[1]) == "template_missing:3"
    assert refused("{{ nope | upper }}") == "template_missing:nope"
    assert refused("{{ a }}", a=None) == "template_error: an expression is null"
    assert refused("{{ a ~ 'x' }}", a=None) == "template_error: an expression is null"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ x.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ x | attr('__class__') }}",
        "{{ [x] | map(attribute='__class__') | list }}",
        "{{ range.__globals__ }}",
        "{{ ''.join.__self__ }}",
        "{{ x.format.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ loop }}",
        "{{ cycler }}",
        "{{ lipsum.__globals__ }}",
        "{{ namespace(a=1) }}",
        "{{ joiner }}",
        "{{ config }}",
        "{{ x.append(1) }}",
        "{{ d.pop('a') }}",
        "{{ d.update({}) }}",
        "{{ aya_budget }}",
        "{% for aya_budget in [1] %}{% endfor %}",
        "{% import 'x' as y %}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% block b %}{% endblock %}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ x | pprint }}",
        "{{ [1, [2]] | map('attr', '__class__') | list }}",
        "{{ dict }}",
        "{{ x() }}",
        "{{ len.__self__ }}",
        "{{ d.keys.__self__ }}",
        "{{ (x | map('upper')) }}",
        "{{ (x | map('upper')) | string }}",
        "{{ [x | map('upper')] }}",
        "{% for i in [1] %}{{ loop }}{% endfor %}",
        "{{ range }}",
    ],
)
def test_nothing_but_the_variables_can_be_reached(source: str) -> None:
    said = refused(source, x="abc", d={"a": 1})
    assert "0x" not in said


def chain(step: str, count: int = 200) -> str:
    return "".join(step.replace("B", f"v{i + 1}").replace("A", f"v{i}") for i in range(count))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ (1,) * 1000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{{ range(10000000) | list }}",
        "{{ range(0, 1 << 60) }}",
        "{% for i in range(2000) %}" * 3 + "{{ i }}" + "{% endfor %}" * 3,
        "{% for a in x %}" * 4 + "{% endfor %}" * 4,
        chain("{% set B = A ~ A %}"),
        chain("{% set B = A + A %}"),
        chain("{% set B %}{{ A }}{{ A }}{% endset %}"),
        chain("{% set B = A | replace('a', A) %}"),
        chain("{% set B = A.replace('a', A) %}"),
        chain("{% set B = [A, A] | join(A) %}"),
        chain("{% set B = A.join([A, A, A]) %}"),
        "{% set v0 = 7 %}" + chain("{% set B = A * A %}"),
        "{% set v0 = [1] %}" + chain("{% set B = A + A %}"),
        "{% set x %}{% for i in range(3000) %}" + "t" * 15_000 + "{% endfor %}{% endset %}",
        "{% filter upper %}{% for i in range(3000) %}" + "t" * 15_000 + "{% endfor %}{% endfilter %}",
        "{{ 1.5 | round(1000000000, 'ceil') }}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{{" + "-" * 15_000 + "1 }}",
        "{{ x" + ".a" * 9000 + " }}",
        "{% if x %}" * 1500,
        "x" * 20_001,
    ],
)
def test_resource_bombs_end(source: str) -> None:
    assert len(refused(source, x="abc" * 10, v0="aaa")) < 400


@settings(max_examples=300, deadline=None)
@given(source=st.text(st.sampled_from("{}%|'\"()[].~+*-/ abcxforinsetdi123_\n"), max_size=40))
def test_no_source_fails_in_another_way(source: str) -> None:
    for wrapped in (source, "{{" + source + "}}", "{% " + source + " %}"):
        with contextlib.suppress(InputError, TemplateFailure):
            Template(wrapped).render({"a": "text", "x": [1, {"b": None}]}, "k")


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40), number=st.integers(), flag=st.booleans())
def test_text_comes_out_as_it_went_in(text: str, number: int, flag: bool) -> None:
    assert (
        render("<{{ a }}>{{ n }}{{ f }}", a=text, n=number, f=flag)
        == f"<{text.replace(chr(0) + '|||' + chr(0), '|||')}>{number}{flag}"
    )


def test_errors_name_the_line() -> None:
    with pytest.raises(InputError) as caught:
        Template("one\ntwo {{ x", "templates.0.prompt")
    assert str(caught.value) == (
        "templates.0.prompt, line 2: the template is wrong: unexpected end of template, expected "
        "'end of print statement'. See the Jinja template syntax."
    )
    with pytest.raises(InputError) as caught:
        Template("a\n\n{% include 'x' %}")
    assert str(caught.value) == (
        "template, line 3: includes cannot be used in a template. Say it with variables, if, for and filters."
    )


def test_draws_depend_on_key_and_seed_alone() -> None:
    made = Template("{{ choice(xs) }}{{ xs | random }}")
    xs = list("abcdefgh")
    assert made.render({"xs": xs}, "k1", 7) == made.render({"xs": xs}, "k1", 7)
    assert len({made.render({"xs": xs}, f"k{i}", 7) for i in range(40)}) > 15
    assert len({made.render({"xs": xs}, "k", seed) for seed in range(40)}) > 15


def test_conditions() -> None:
    assert condition("label == 'yes' and n > 3")({"label": "yes", "n": 4})
    assert not condition("text | length > 3")({"text": "abc"})
    with pytest.raises(TemplateFailure, match="template_missing:nope"):
        condition("nope")({})


# -- the source


ENVIRONMENT = Environment(Path("/"), Path("/"), True, 7, None, POLICIES["research"])


def builder(**settings: Any) -> TemplateBuilder:
    return TemplateBuilder("made", TemplateBuilder.Settings.model_validate({"from": "house", **settings}), ENVIRONMENT)


def parents(*drafts: Draft) -> pa.Table:
    return tabulate(drafts, "house", "conversation", 10_000).rows.select(ROW.names)


def draft(key: str, question: str = "Kaç?", **other: Any) -> Draft:
    fields: dict[str, Any] = {
        "language": "Turkish",
        "license": "CC-BY-4.0",
        "dataset": "ev",
        "group": "g" + key,
        "terms": ["openai"],
        "teacher": "gpt",
        "translator": "nllb",
        "extra": {"label": 1, "topic": "sayı"},
        "config": "c",
        "split": "train",
    }
    return Draft(key, [("user", question), ("assistant", "Beş.")], ("f.jsonl", 3), **(fields | other))


ECHO = {"name": "echo", "prompt": "{{ language }}: {{ prompt }}", "answer": "{{ answer }} {{ extra.topic }}"}
CHOICES = {
    "name": "choices",
    "jinja": "{{ prompt }} {{ answer_choices | join('/') }} ||| {{ answer_choices[extra.label] }}",
    "answer_choices": "no ||| yes",
    "language": "eng",
    "task": "yes_no",
}


def derive(made: TemplateBuilder, table: pa.Table) -> list[Batch]:
    return list(made.derive(table))


def test_each_template_makes_a_row_of_each_parent() -> None:
    made = builder(templates=[ECHO, CHOICES])
    (batch,) = derive(made, parents(draft("k1"), draft("k2", "Kim?")))
    assert batch.records == 2 and made.parents == ("house",) and made.rows is None
    assert [(r.key, r.outcome, r.value, r.place) for r in batch.rejections] == [
        ("k1", "consumed", "2", ("f.jsonl", 3)),
        ("k2", "consumed", "2", ("f.jsonl", 3)),
    ]
    first, second = batch.drafts[:2]
    assert first.messages == [("user", "Turkish: Kaç?"), ("assistant", "Beş. sayı")]
    assert second.messages == [("user", "Kaç? no/yes"), ("assistant", "yes")]
    assert first.key == derived_key(["k1"], "template", "echo") and first.parents == ["k1"] and first.group == "gk1"
    assert (first.license, "openai" in first.terms, first.adapted, first.origin) == (
        "CC-BY-4.0",
        True,
        True,
        "templated",
    )
    assert (first.teacher, first.translator, first.template, first.dataset) == ("gpt", "nllb", "echo", "ev")
    table = tabulate(batch.drafts, "made", "conversation", 10_000)
    assert not table.rejections
    assert table.rows["language"].to_pylist() == ["tur", "eng", "tur", "eng"]
    assert table.rows["source_language"].to_pylist()[:2] == ["Turkish", "eng"]
    assert table.rows["task"].to_pylist()[:2] == [None, "yes_no"]


def test_a_parent_for_which_all_templates_fail_is_dropped() -> None:
    (batch,) = derive(builder(templates=[ECHO]), parents(draft("k1"), draft("k2", extra={})))
    assert [d.key for d in batch.drafts] == [derived_key(["k1"], "template", "echo")]
    lost = batch.rejections[1]
    assert (lost.key, lost.outcome, lost.rule) == ("k2", "dropped", "template_missing:topic")
    assert lost.evidence == "echo: template_missing:topic"
    (batch,) = derive(builder(templates=[ECHO, CHOICES]), parents(draft("k2", extra={"label": 0})))
    assert [(r.outcome, r.evidence) for r in batch.rejections] == [("consumed", "echo: template_missing:topic")]
    assert len(batch.drafts) == 1


def test_a_condition_in_the_template_may_make_nothing() -> None:
    only = {"name": "some", "jinja": "{% if extra.label == 2 %}{{ prompt }} ||| {{ answer }}{% endif %}"}
    (batch,) = derive(builder(templates=[only]), parents(draft("k1"), draft("k2", extra={"label": 2})))
    assert [(r.outcome, r.rule) for r in batch.rejections] == [("dropped", "template_empty"), ("consumed", "template")]


def test_rows_do_not_depend_on_order_or_on_other_templates() -> None:
    pick = {
        "name": "pick",
        "prompt": "{{ choice(['Soru', 'Question', 'Frage']) }}: {{ prompt }}",
        "answer": "{{ answer }}",
    }
    rows = [draft(f"k{i}") for i in range(30)]
    alone = {d.key: d.messages for b in derive(builder(templates=[pick]), parents(*rows)) for d in b.drafts}
    both = {
        d.key: d.messages
        for b in derive(builder(templates=[ECHO, pick]), parents(*reversed(rows)))
        for d in b.drafts
        if d.template == "pick"
    }
    assert alone == both
    assert len({messages[0][1] for messages in alone.values()}) == 3


def test_the_parent_is_a_source_reference() -> None:
    settings = builder(templates=[ECHO], rows=5).settings
    assert [(path, name) for path, name, _ in source_references(settings)] == [(("from",), "house")]
    assert builder(templates=[ECHO], rows=5).rows == 5


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ({"name": "t", "prompt": "{{ a"}, "has no answer"),
        ({"name": "t"}, "needs either prompt and answer, or jinja"),
        ({"name": "t", "prompt": "{{ a", "answer": "x"}, "the template is wrong: unexpected end of template"),
        ({"name": "t", "jinja": "no separator"}, "has no ||| between prompt and answer"),
        (
            {"name": "t", "prompt": "{{ x.y ** 2 }}", "answer": "x"},
            "the operator ** cannot be used in a template (line 1)",
        ),
    ],
)
def test_wrong_templates_are_errors_of_the_spec(template: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        builder(templates=[template])
    assert said in str(caught.value)


def test_two_templates_of_one_name_are_an_error() -> None:
    with pytest.raises(ValidationError, match="has two templates named 'echo'"):
        builder(templates=[ECHO, ECHO])


def test_the_builder_travels_to_a_worker() -> None:
    import pickle

    made = pickle.loads(pickle.dumps(builder(templates=[ECHO])))
    assert json.dumps([d.messages for b in derive(made, parents(draft("k"))) for d in b.drafts])
