"""The ``license`` filter: rows whose licence or terms of use the spec's policy refuses.

The policy decides (:mod:`aya_data.core.policy`); this filter asks it once per distinct combination and adds what
the row knows: why a licence could not be read, and which translator or teacher made the text. Rules are the
policy's: ``license.use``, ``license.unknown``, ``license.derivatives``, ``terms.no-compete``, … Rows that
pass although their licence is unknown, or by an exception of the policy, are flagged.

Cost: 300,000 rows take about 0.2 s.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core import license as licenses
from aya_data.core import settings
from aya_data.core.identity import digest
from aya_data.core.stage import RowFilter, Verdicts

__all__ = ["License"]

SEPARATOR, TERM_SEPARATOR = "\x1f", "\x1e"

WORTH_KNOWING = frozenset({"license.unknown", "license.exception"})
"""Rules of verdicts that let a row pass and are flagged."""


class License(RowFilter):
    """Drops rows that the policy refuses."""

    name = "license"
    columns = ("license", "terms", "adapted", "license_reason", "provenance")

    class Settings(settings.Settings):
        """There is nothing to set: what passes is the spec's ``policy``."""

    def pins(self) -> dict[str, str]:
        policy = self.environment.policy
        return {
            "policy": digest(
                policy.name,
                " ".join(sorted(policy.uses)),
                repr((policy.share_alike, policy.attribution, policy.derivatives)),
                " ".join(sorted(policy.refused_effects)),
                repr(sorted(policy.exceptions)),
            )
        }

    def judge(self, rows: pa.Table, measures: pa.Table | None = None) -> Verdicts:
        encoded = _combinations(rows).combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        decided = [self._decide(*text.split(SEPARATOR, 5)) for text in encoded.dictionary.to_pylist()]
        drop = np.array([not verdict.allowed for verdict in decided], np.bool_)[codes]
        flag = np.array([v.allowed and v.rule in WORTH_KNOWING for v in decided], np.bool_)[codes]
        said = [
            (v.rule, v.value, v.threshold, v.evidence)
            if not v.allowed or v.rule in WORTH_KNOWING
            else (None, None, None, None)
            for v in decided
        ]
        columns = [np.array(column, object)[codes].tolist() for column in zip(*said, strict=True)]
        rule, value, threshold, evidence = columns or ([], [], [], [])
        return Verdicts(drop, rule, value, threshold, evidence, flag)

    def _decide(
        self, expression: str, terms: str, adapted: str, translator: str, teacher: str, reason: str
    ) -> licenses.Verdict:
        verdict = licenses.judge(
            licenses.from_expression(expression),
            [term for term in terms.split(TERM_SEPARATOR) if term],
            self.environment.policy,
            adapted=adapted == "true",
        )
        causes = [reason] if not licenses.from_expression(expression).known else []
        causes += [f"translated by {translator}"] if translator else []
        causes += [f"written by {teacher}"] if teacher else []
        evidence = "; ".join(filter(None, [verdict.evidence, *causes]))
        return licenses.Verdict(verdict.allowed, verdict.rule, verdict.value, verdict.threshold, evidence)


def _combinations(rows: pa.Table) -> pa.ChunkedArray:
    """Return one text per row that holds all that a verdict depends on, the free text last."""
    provenance = rows["provenance"]
    fields = [
        rows["license"],
        pc.binary_join(rows["terms"], TERM_SEPARATOR),
        pc.fill_null(rows["adapted"], False).cast(pa.string()),
        pc.struct_field(provenance, "translator"),
        pc.struct_field(provenance, "teacher"),
        rows["license_reason"],
    ]
    return pc.binary_join_element_wise(*(pc.fill_null(field, "") for field in fields), SEPARATOR)
