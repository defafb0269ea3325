"""Licences, terms and policies: the public face of the modules below.

license_table      one licence: an SPDX expression and four facts
license_reader     what sources write -> a licence, or unknown with the reason
license_algebra    adapt (derivation), compile_licenses (collection), stricter
terms              terms of use and their effects
policy             commercial, research, any, or written out; the verdict on a row
dataset_license    the parts of named collections
"""

from __future__ import annotations

from aya_data.core.dataset_license import PartFacts, collection_parts, part_license
from aya_data.core.license_algebra import (
    Reconciled,
    Refusal,
    adapt,
    aggregate,
    compile_licenses,
    reconcile,
    stricter,
)
from aya_data.core.license_reader import Resolution, parse, resolve
from aya_data.core.license_table import (
    CONFLICT,
    UNKNOWN,
    License,
    LicenseFacts,
    Use,
    atoms,
    describe,
    facts,
    from_expression,
    license_table,
    strictness,
    terms_of,
)
from aya_data.core.policy import (
    POLICIES,
    Policy,
    PolicySettings,
    Verdict,
    judge,
    policy,
    publishable,
)
from aya_data.core.terms import (
    EFFECTS,
    Effect,
    Terms,
    join_terms,
    terms,
    terms_of_model,
    terms_table,
)

__all__ = [
    "CONFLICT",
    "EFFECTS",
    "POLICIES",
    "UNKNOWN",
    "Effect",
    "License",
    "LicenseFacts",
    "PartFacts",
    "Policy",
    "PolicySettings",
    "Reconciled",
    "Refusal",
    "Resolution",
    "Terms",
    "Use",
    "Verdict",
    "adapt",
    "aggregate",
    "atoms",
    "collection_parts",
    "compile_licenses",
    "describe",
    "facts",
    "from_expression",
    "join_terms",
    "judge",
    "license_table",
    "parse",
    "part_license",
    "policy",
    "publishable",
    "reconcile",
    "resolve",
    "stricter",
    "strictness",
    "terms",
    "terms_of",
    "terms_of_model",
    "terms_table",
]
