"""The ``toxicity`` filter: how toxic a text is, by a classifier that the spec names.

The classifier is a sequence classification model of transformers (extra ``toxicity``), run here, or an endpoint that
speaks the OpenAI protocol: moderation, or a chat model that is given a rubric. What a score means is the classifier's
business; most read some languages only, and all make more mistakes in dialects, quotations and talk of illness.
So nothing is dropped unless ``drop_above`` says so: the score is a column to look at, select by or train on.

Score: ``toxicity``, from 0 to 1; of a long text the highest of its windows. Tag ``toxicity``: ``toxic`` above
``flag_above``, ``unknown`` where the endpoint gave no score; unknown rows pass, and never get a number.

===========  =======  =============================================================================
rule         outcome  when
===========  =======  =============================================================================
``toxic``    dropped  above ``drop_above``; flagged above ``flag_above``
``unknown``  flagged  the endpoint did not answer, or not with a score; evidence says what happened
===========  =======  =============================================================================

Statistic ``toxicity``: rows, toxic, unknown by language.

Cost: scores are measures, cached under the model's digest or the endpoint's model and ``revision``.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from aya_data.core import settings
from aya_data.core.errors import WrongSetting
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.filters.toxicity.endpoint import Endpoint, EndpointSettings
from aya_data.filters.toxicity.model import Classifier, ModelFiles, ModelSettings, locate
from aya_data.text import turns

__all__ = ["Toxicity"]


class Toxicity(RowFilter):
    """Scores how toxic a text is; drops nothing unless it is asked to."""

    name = "toxicity"
    libraries = ("torch", "transformers", "tokenizers")
    columns = ("language",)
    measure_columns = turns.COLUMNS

    class Settings(settings.Settings):
        """Which classifier scores which turns, and what becomes of high scores."""

        classifier: Annotated[ModelSettings | EndpointSettings, Field(discriminator="kind")] = Field(
            description="What scores: kind transformers, or kind openai.",
            examples=[{"kind": "transformers", "model": "org/multilingual-toxicity"}],
        )
        on: turns.Part = Field(
            "conversation", description="Which turns are scored: the user's and assistant's, or one side's."
        )
        flag_above: float = Field(0.5, ge=0, le=1, description="Rows above this score are tagged and flagged.")
        drop_above: float | None = Field(
            None, ge=0, le=1, description="Rows above this score are dropped; without it, none is."
        )

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        own = settings.classifier
        self.files: ModelFiles | None = None
        if isinstance(own, ModelSettings):
            with WrongSetting.at("classifier"):
                self.files = locate(own, base=environment.base, cache=environment.cache, offline=environment.offline)

    def pins(self) -> dict[str, str]:
        own = self.settings.classifier
        if self.files is not None:
            return {"model": self.files.digest, "labels": ",".join(self.files.labels)}
        return {"endpoint": f"{own.model}@{own.revision}"}

    def measure_pins(self) -> dict[str, str]:
        own = self.settings.classifier
        return {**self.pins(), "on": self.settings.on, "classifier": repr(sorted(own.measured().items()))}

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``toxicity`` (float, null where unknown) and ``failure`` (string, null where there is a score)."""
        texts = turns.row_texts(rows, self.settings.on)
        if self.files is not None:
            scores = [float(score) for score in Classifier.load(self.files, self.settings.classifier).score(texts)]
            failures: list[str | None] = [None] * len(texts)
        else:
            answers = Endpoint(self.settings.classifier).score(texts)
            scores = [float("nan") if answer.score is None else answer.score for answer in answers]
            failures = [answer.failure for answer in answers]
        column = np.round(np.array(scores, np.float64), 4)
        return pa.table(
            {
                "toxicity": pa.array(column, mask=np.isnan(column)),
                "failure": pa.array(failures, pa.string()),
            }
        )

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        count = len(measures)
        score = pc.fill_null(measures["toxicity"], -1.0).to_numpy()
        unknown = score < 0
        dropping = self.settings.drop_above
        drop = np.zeros(count, np.bool_) if dropping is None else score > dropping
        toxic = score > self.settings.flag_above
        flag = (toxic | unknown) & ~drop
        rule: list[str | None] = [None] * count
        value, threshold, evidence = rule.copy(), rule.copy(), rule.copy()
        failures = measures["failure"].combine_chunks()
        for row in np.flatnonzero(drop | flag).tolist():
            if unknown[row]:
                rule[row], evidence[row] = "unknown", failures[row].as_py()
            else:
                rule[row], value[row] = "toxic", f"{score[row]:.4f}"
                threshold[row] = f"{dropping if drop[row] else self.settings.flag_above:g}"
        tag = np.select([unknown, toxic], ["unknown", "toxic"], "")
        return Verdicts(
            drop,
            rule,
            value,
            threshold,
            evidence,
            flag,
            tags={"toxicity": pa.array(tag, mask=tag == "", type=pa.string())},
            scores={"toxicity": measures["toxicity"].combine_chunks()},
            statistics={"toxicity": _statistic(rows["language"], toxic, unknown)},
        )


def _statistic(language: pa.ChunkedArray, toxic: npt.NDArray[np.bool_], unknown: npt.NDArray[np.bool_]) -> pa.Table:
    counted = pa.table(
        {
            "language": pc.fill_null(language, "und"),
            "rows": np.ones(len(toxic), np.int64),
            "toxic": toxic.astype(np.int64),
            "unknown": unknown.astype(np.int64),
        }
    )
    numbers = ("rows", "toxic", "unknown")
    grouped = counted.group_by("language").aggregate([(name, "sum") for name in numbers])
    return pa.table({"language": grouped["language"], **{name: grouped[f"{name}_sum"] for name in numbers}})
