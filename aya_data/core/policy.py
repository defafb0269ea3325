"""Which licences and terms a release may hold, and the verdict on one row.

``commercial`` takes what anybody may use for anything: use "any", no terms that forbid competing
models, commercial use or passing on. ``research`` takes everything with a known licence that
allows at least research; no-compete terms are allowed there and travel with the row. ``any``
takes everything, also the unknown; a release with unknowns cannot be published (``publishable``).

Everything fails closed: an unknown licence, unknown terms, a derivative of a work that does not
say that derivatives are allowed. Verdicts are an aid, not legal advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from aya_data.core.errors import InputError, NotFound, did_you_mean
from aya_data.core.license_algebra import Refusal
from aya_data.core.license_reader import parse
from aya_data.core.license_table import (
    CONFLICT,
    License,
    Use,
    atoms,
    describe,
    facts,
    from_expression,
    terms_of,
    unite,
)
from aya_data.core.settings import Settings, wrong
from aya_data.core.terms import Effect, Terms, terms_table

__all__ = ["POLICIES", "Policy", "PolicySettings", "Verdict", "judge", "policy", "publishable"]

PolicyName = Literal["commercial", "research", "any"]


class ExceptionSettings(Settings):
    """A licence or set of terms that is let through in spite of the policy."""

    id: str = Field(min_length=1, description="SPDX id or expression, LicenseRef-…, or terms id.")
    reason: str = Field(min_length=3, description="Why it may pass: a permission, a contract. Goes to ATTRIBUTION.")


class PolicySettings(Settings):
    """A policy, written out in a spec. What is not listed is refused."""

    name: str = Field("written-out", min_length=1, description="What verdicts call the policy.")
    uses: tuple[Use, ...] = Field(
        ("any",),
        min_length=1,
        description="Uses that a licence may be limited to: any, noncommercial, academic, unknown.",
    )
    share_alike: bool = Field(True, description="Whether share-alike licences may be in.")
    attribution: bool = Field(True, description="Whether licences that ask for attribution may be in.")
    derivatives: bool = Field(
        False, description="Whether every licence must allow derivatives, also of untouched rows."
    )
    refuse_terms: tuple[Effect, ...] = Field(
        ("no-compete", "non-commercial", "research-only", "no-derivatives", "no-redistribution"),
        description="Effects of terms of use that are refused; no-derivatives counts only for rows made from others.",
    )
    exceptions: tuple[ExceptionSettings, ...] = Field(
        (), description="Licences or terms that pass in spite of the rest, each with a reason."
    )

    @field_validator("exceptions")
    @classmethod
    def _known(cls, value: tuple[ExceptionSettings, ...]) -> tuple[ExceptionSettings, ...]:
        for entry in value:
            if entry.id.strip().casefold() not in terms_table():
                try:
                    parse(entry.id)
                except InputError as error:
                    what = f"must name a licence or terms; {error.what}"
                    raise wrong(what, error.remedy) from None
        return value


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, ready to judge by. ``exceptions`` are pairs of canonical id and reason."""

    name: str
    uses: frozenset[Use]
    share_alike: bool
    attribution: bool
    derivatives: bool
    refused_effects: frozenset[Effect]
    exceptions: tuple[tuple[str, str], ...] = ()

    @property
    def permits_all(self) -> bool:
        """Whether nothing is refused (``any``)."""
        return (
            "unknown" in self.uses
            and self.share_alike
            and self.attribution
            and not self.derivatives
            and not self.refused_effects
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a row may be in, by which rule, on which value against which threshold."""

    allowed: bool
    rule: str
    value: str
    threshold: str
    evidence: str


POLICIES: Final[Mapping[str, Policy]] = {
    "commercial": Policy(
        "commercial",
        frozenset({"any"}),
        True,
        True,
        False,
        frozenset({"no-compete", "non-commercial", "research-only", "no-derivatives", "no-redistribution"}),
    ),
    "research": Policy(
        "research",
        frozenset({"any", "noncommercial", "academic"}),
        True,
        True,
        False,
        frozenset({"no-derivatives", "no-redistribution"}),
    ),
    "any": Policy(
        "any",
        frozenset({"any", "noncommercial", "academic", "unknown"}),
        True,
        True,
        False,
        frozenset(),
    ),
}


def policy(source: str | Mapping[str, Any] | PolicySettings) -> Policy:
    """Return the policy of that name, or the one written out.

    Raises:
        NotFound: there is no policy of that name.
        InputError: the mapping does not fit ``PolicySettings``; all problems are named.
    """
    if isinstance(source, str):
        if source not in POLICIES:
            raise NotFound("policy", source, POLICIES, "Or write one out: {uses: [any], …}.")
        return POLICIES[source]
    if not isinstance(source, PolicySettings):
        try:
            source = PolicySettings.model_validate(source)
        except ValidationError as error:
            raise InputError("the policy is wrong: " + _problems(error)) from None
    exceptions = {
        entry.id.strip().casefold()
        if entry.id.strip().casefold() in terms_table()
        else parse(entry.id).expression: entry.reason
        for entry in source.exceptions
    }
    return Policy(
        source.name,
        frozenset(source.uses),
        source.share_alike,
        source.attribution,
        source.derivatives,
        frozenset(source.refuse_terms),
        tuple(sorted(exceptions.items())),
    )


def _problems(error: ValidationError) -> str:
    found = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(step) for step in problem["loc"])
        what, remedy = problem["msg"], str(problem.get("ctx", {}).get("remedy", ""))
        if problem["type"] == "extra_forbidden":
            what, remedy = "unknown key", did_you_mean(place, PolicySettings.model_fields)
        found.append(f"{place}: {what}. {remedy}".rstrip(" ."))
    return "; ".join(found)


def judge(
    license: License | Refusal,
    terms: Iterable[str | Terms] = (),
    policy: Policy = POLICIES["research"],
    *,
    adapted: bool = False,
) -> Verdict:
    """Return the verdict on one row.

    ``terms`` are those of the row; those that its licence brings along are added. ``adapted`` says
    that the row was made from another work by this build (a template, a translation), so that the
    licence must allow derivatives. Terms that nobody knows are refused like an unknown licence.
    Cached by its arguments: per row it costs a look-up.
    """
    names = tuple(sorted({t if isinstance(t, str) else t.id for t in terms}))
    expression = CONFLICT.expression if isinstance(license, Refusal) else license.expression
    verdict = _judge(expression, names, policy, adapted)
    if verdict.rule == "license.unknown" and expression == CONFLICT.expression:
        value, evidence = expression, "made from works whose licences cannot be combined"
        if isinstance(license, Refusal):
            value, evidence = " + ".join(license.inputs), license.reason
        return Verdict(verdict.allowed, "license.compatibility", value, verdict.threshold, evidence)
    return verdict


@lru_cache(maxsize=16_384)
def _judge(expression: str, names: tuple[str, ...], policy: Policy, adapted: bool) -> Verdict:
    excepted = dict(policy.exceptions)
    used: list[str] = []

    def passes(*ids: str) -> bool:
        hit = [i for i in ids if i in excepted]
        used.extend(f"{i}: {excepted[i]}" for i in hit)
        return bool(hit)

    left = () if passes(expression) else tuple(a for a in atoms(expression) if not passes(a))
    if left:
        refused = _judge_license(from_expression(unite(list(left))), policy, adapted)
        if refused is not None:
            return refused
    for name in sorted({*names, *terms_of(from_expression(expression))}):
        if passes(name):
            continue
        refused = _judge_terms(name, policy, adapted)
        if refused is not None:
            return refused
    if used:
        return Verdict(True, "license.exception", expression, policy.name, "; ".join(used))
    if not from_expression(expression).known:
        return Verdict(True, "license.unknown", expression, policy.name, "passes, not publishable")
    return Verdict(True, "license", expression, policy.name, describe(from_expression(expression)))


def _judge_license(license: License, policy: Policy, adapted: bool) -> Verdict | None:
    value = license.expression
    evidence = _evidence(license)

    def no(rule: str, wanted: str) -> Verdict:
        return Verdict(False, rule, value, f"{policy.name}: {wanted}", evidence)

    if license.use not in policy.uses:
        wanted = "use " + " or ".join(sorted(policy.uses))
        return no("license.use" if license.known else "license.unknown", wanted)
    if "unknown" in policy.uses and not license.known:
        return None
    if not policy.share_alike and license.share_alike is not False:
        return no("license.share_alike", "no share-alike")
    if not policy.attribution and license.attribution is not False:
        return no("license.attribution", "no attribution")
    must = policy.derivatives or (adapted and not policy.permits_all)
    if must and license.derivatives is not True:
        return no("license.derivatives", "derivatives allowed")
    return None


def _judge_terms(name: str, policy: Policy, adapted: bool) -> Verdict | None:
    row = terms_table().get(name)
    if row is None:
        if "unknown" in policy.uses:
            return None
        return Verdict(False, "terms.unknown", name, f"{policy.name}: known terms", "no such terms")
    for effect in sorted(row.effects & policy.refused_effects):
        if effect == "no-derivatives" and not adapted:
            continue
        return Verdict(
            False, f"terms.{effect}", name, f"{policy.name}: no {effect} terms",
            f"{row.title} ({row.url})" if row.url else row.title,
        )  # fmt: skip
    return None


def _evidence(license: License) -> str:
    places = [facts(a).url for a in atoms(license.expression) if facts(a).url]
    return describe(license) + (f" ({', '.join(places)})" if places else "")


def publishable(licenses: Iterable[License], terms: Iterable[str] = (), exceptions: Iterable[str] = ()) -> list[str]:
    """Return what stands in the way of publishing a release; an empty list means nothing.

    A licence that is unknown or conflicting, terms that nobody knows, or terms that forbid passing
    the text on. ``exceptions`` are ids that the policy let through with a reason.
    """
    allowed = set(exceptions)
    named = set(terms)
    problems = []
    for license in sorted({*licenses}, key=lambda found: found.expression):
        named.update(terms_of(license))
        dark = [a for a in atoms(license.expression) if facts(a).use == "unknown"]
        if license.expression not in allowed and not set(dark) <= allowed:
            problems.append(f"the licence {license.expression} is not known")
    for name in sorted(named - allowed):
        row = terms_table().get(name)
        if row is None:
            problems.append(f"the terms {name!r} are not known")
        elif "no-redistribution" in row.effects:
            problems.append(f"{row.title} forbids passing the text on")
    return problems
