"""The source ``arbitrage``: conversations and preference pairs from the answers of several teachers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final

import pyarrow as pa

from aya_data.builders.arbitrage import report
from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.arbiters import arbiters_of, weights_of
from aya_data.builders.arbitrage.completions import completions, conversations
from aya_data.builders.arbitrage.pairs import pairs
from aya_data.builders.arbitrage.ranking import combine, norms
from aya_data.builders.arbitrage.review import prompts as review
from aya_data.builders.arbitrage.review import sheet as review_sheet
from aya_data.builders.arbitrage.review.steps import HEARD, SHEET, VERDICTS, judged, review_steps
from aya_data.builders.arbitrage.review.verdicts import REVIEW, decided, verdicts
from aya_data.builders.arbitrage.routing.learning import learn, picked
from aya_data.builders.arbitrage.routing.rules import Contender, assignments, route, second, unserved
from aya_data.builders.arbitrage.rows import Author, drafts
from aya_data.builders.arbitrage.scoring import add_scores, described, heard, warm
from aya_data.builders.arbitrage.settings import ArbitrageSettings
from aya_data.builders.arbitrage.teacher import TeacherSettings, sample_seed, with_system
from aya_data.builders.arbitrage.teachers import make_voice, samples_of
from aya_data.builders.arbitrage.thoughts import answered
from aya_data.builders.arbitrage.translated import STAGES, Translated, TranslatedSettings
from aya_data.core.errors import WrongSetting
from aya_data.core.generation import PROMPTS, Asked, GeneratingBuilder, Request, Step, Voice, request_key, voice_key
from aya_data.core.identity import canonical, digest
from aya_data.core.language import resolve
from aya_data.core.row import Kind
from aya_data.core.stage import Batch, Environment
from aya_data.text.tokens import Tokenizer, TokenizerFiles, located

__all__ = ["SHEET", "ArbitrageBuilder"]

AGAIN: Final = "@2"
"""What the names of steps of the second round end with."""


class ArbitrageBuilder(GeneratingBuilder):
    """Asks teachers, scores their answers, and picks.

    Steps: ``generate/<teacher>``, ``arbiter/<name>`` where an arbiter asks a model, ``score``, ``heard``; then, where
    routing learns from a share of the prompts, ``learn`` and the same again for the others (``@2``); ``norms``; where
    some prompts are reviewed, ``select``, ``review/<name>`` and ``review``; ``route``, ``pair`` and ``report``.
    """

    Settings: ClassVar[type[ArbitrageSettings]] = ArbitrageSettings
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-numpy2-wheel", "numpy", "polars", "sentencepiece", "tokenizers")
    settings: ArbitrageSettings

    def __init__(self, source: str, settings: ArbitrageSettings, environment: Environment) -> None:
        super().__init__(source, settings, environment)
        wanted = environment.languages or ()
        asked_for = {name: teacher.asked_for for name, teacher in settings.teachers.items()}
        if faults := unserved([(one.language, one.script) for one in wanted], asked_for, settings.routing):
            raise WrongSetting(faults).in_source(source)

    @property
    def kind(self) -> Kind:
        """Conversations; pairs are told apart by what they have."""
        return "conversation"

    @property
    def parents(self) -> tuple[str, ...]:
        """The sources that the prompts come from."""
        return self.settings.prompts.sources

    @property
    def rows(self) -> int | None:
        """How many prompts to draw."""
        return self.settings.prompts.rows

    @property
    def max_failed(self) -> int:
        """How many requests of one voice may fail."""
        return self.settings.max_failed

    @property
    def commit(self) -> tuple[int, float]:
        """When answers are committed."""
        return self.settings.commit.rows, float(self.settings.commit.seconds)

    def pins(self) -> dict[str, str]:
        """The voices, by the name of their step, and the tokenizer of the pairs."""
        tokenizer = {} if self.tokenizer is None else {"tokenizer": self.tokenizer.digest}
        try:
            voices = {step.name: self.voice(step.name) for step in self.steps() if step.kind == "ask"}
            named = {name: voice_key(voice) for name, voice in voices.items() if not name.endswith(AGAIN)}
            return {**named, **tokenizer}
        except WrongSetting as error:
            raise error.in_source(self.source) from None

    def warm(self) -> None:
        """Have the kernels of the arbiters compiled, and those that compare answers."""
        warm(self.arbiters, self.settings.review is not None)

    # What there is ------------------------------------------------------------------------------------

    @cached_property
    def teachers(self) -> dict[str, Voice]:
        """The voices of the teachers, by name."""
        return {name: self._voice_of(name, settings) for name, settings in sorted(self._settings_of.items())}

    def _voice_of(self, name: str, settings: TeacherSettings) -> Voice:
        if isinstance(settings, TranslatedSettings):
            return Translated(name, settings, self.environment)
        return make_voice(name, settings, self.environment)

    @property
    def _settings_of(self) -> Mapping[str, TeacherSettings]:
        return self.settings.teachers

    @cached_property
    def arbiters(self) -> dict[str, Arbiter]:
        """The arbiters, by name."""
        return arbiters_of(self.settings.arbiter, self.environment)

    @cached_property
    def reviewer(self) -> Arbiter | None:
        """Who reviews some of the prompts."""
        if self.settings.review is None:
            return None
        return review.reviewer(REVIEW, self.settings.review, self.environment)

    @cached_property
    def tokenizer(self) -> TokenizerFiles | None:
        """What counts the tokens of answers that may be a pair, where anything does."""
        wanted = self.settings.pairs
        if wanted is None or wanted.max_length_ratio is None:
            return None
        if wanted.tokenizer is None:
            spoken = self.environment.tokenizer
            return None if spoken is None else located(spoken, self.environment)
        try:
            return located(wanted.tokenizer, self.environment, ("pairs", "tokenizer"))
        except WrongSetting as error:
            raise error.in_source(self.source) from None

    @cached_property
    def contenders(self) -> list[Contender]:
        """The teachers as routing sees them, by name."""
        return [
            Contender(name, self._identity_of(name), self._family(name), self._settings_of[name].asked_for)
            for name in self.teachers
        ]

    def _identity_of(self, teacher: str) -> str:
        return digest(voice_key(self.teachers[teacher]), canonical(self._asked(teacher)))

    def _family(self, teacher: str) -> str:
        return self._settings_of[teacher].family or teacher

    def _asked(self, teacher: str) -> dict[str, Any]:
        """What decides which requests a teacher gets, beside the routing."""
        settings = self._settings_of[teacher]
        system = (
            settings.system if settings.system is None or isinstance(settings.system, str) else dict(settings.system)
        )
        return {"languages": settings.languages, "system": system, "samples": samples_of(settings)}

    # Steps --------------------------------------------------------------------------------------------

    def steps(self) -> Sequence[Step]:
        """The steps between the prompts and the rows."""
        return self._steps

    @cached_property
    def _steps(self) -> list[Step]:
        routing = self.settings.routing.model_dump(mode="json")
        everybody = {one.name: one.identity for one in self.contenders}
        identities = {name: dict(one.identity()) for name, one in self.arbiters.items()}
        steps: list[Step] = []

        def asked_and_scored(again: str, before: tuple[str, ...]) -> None:
            generated = []
            for name, voice in self.teachers.items():
                about: dict[str, Any] = {"teacher": self._asked(name), "teachers": everybody, "routing": routing}
                if isinstance(voice, Translated):
                    about["thoughts"] = self._thoughts[name]
                own = before
                for stage in STAGES if isinstance(voice, Translated) else ("generate",):
                    steps.append(Step(f"{stage}/{name}{again}", "ask", own, about))
                    own = (*before, steps[-1].name)
                generated += (
                    [steps[-1].name]
                    if not isinstance(voice, Translated)
                    else [f"{stage}/{name}{again}" for stage in STAGES[1:]]
                )
            asked = []
            for name, arbiter in self.arbiters.items():
                if arbiter.voice() is not None:
                    asking = {"arbiter": identities[name], "thoughts": self._thoughts}
                    steps.append(Step(f"arbiter/{name}{again}", "ask", tuple(generated), asking))
                    asked.append(steps[-1].name)
            inputs = (*generated, *asked)
            judged = {
                "arbiters": identities,
                "divergence": self.settings.review is not None,
                "families": self._families,
                "thoughts": self._thoughts,
            }
            steps.append(Step(f"score{again}", "part", inputs, judged))
            if asked:
                steps.append(Step(f"{HEARD}{again}", "whole", (f"score{again}", *asked), None))

        asked_and_scored("", ())
        rounds = ["score"]
        if self.settings.routing.rounds == 2:
            steps.append(
                Step("learn", "whole", ("score",), {"routing": routing, "teachers": everybody, **self._judging})
            )
            asked_and_scored(AGAIN, ("learn",))
            rounds.append("score" + AGAIN)
        steps.append(Step("norms", "whole", tuple(rounds), sorted(self.arbiters)))
        generated = tuple(step.name for step in steps if step.name.startswith(("answer/", "generate/")))
        routed = [*rounds, "norms"]
        if self.reviewer is not None:
            assert self.settings.review is not None
            seed = self.environment.seed
            steps += review_steps(self.settings.review, self.reviewer, rounds, generated, self._thoughts, seed)
            routed.append(REVIEW)
        about = {"routing": routing, "teachers": everybody, **self._judging}
        steps.append(Step("route", "part", tuple(routed), about))
        told = ["route", *(name for name in ("select", VERDICTS) if any(step.name == name for step in steps))]
        if self.settings.pairs is not None:
            given = self.settings.pairs.model_dump(mode="json")
            counted = None if self.tokenizer is None else self.tokenizer.digest
            made = {"pairs": given, "tokenizer": counted, "thoughts": self._thoughts, **self._judging}
            if self.settings.review is not None:
                made["reviewed"] = str(self.settings.review.min_margin)
            steps.append(Step("pair", "part", (*routed, *generated), made))
            told.append("pair")
        if routing["kind"] == "learned":
            told.append("learn")
        steps.append(
            Step("report", "whole", (*routed, *told), {**about, "families": self._families, "arbiters": self._judges})
        )
        return steps

    @property
    def _judging(self) -> dict[str, Any]:
        return {"weights": dict(sorted(self._weights.items())), "seed": self.environment.seed}

    @property
    def _weights(self) -> dict[str, float]:
        return weights_of(self.settings.arbiter)

    @property
    def _judges(self) -> dict[str, str | None]:
        """The model family of each arbiter that has one."""
        return {name: getattr(one, "family", None) for name, one in self.arbiters.items()}

    @property
    def _families(self) -> dict[str, str]:
        return {name: self._family(name) for name in self.teachers}

    @property
    def _thoughts(self) -> dict[str, list[str]]:
        """Whether the thoughts of each teacher are left out; of one whose answers are translated, those of both."""
        return {
            name: [own.answers.thoughts, own.translator.thoughts]
            if isinstance(own, TranslatedSettings)
            else [own.thoughts]
            for name, own in sorted(self._settings_of.items())
        }

    # Asking -------------------------------------------------------------------------------------------

    def voice(self, step: str) -> Voice:
        """The voice of a teacher, an arbiter or a reviewer."""
        kind, _, name = step.removesuffix(AGAIN).partition("/")
        if kind in STAGES:
            voice = self.teachers[name]
            return voice.voice(kind) if isinstance(voice, Translated) else voice
        arbiter = self.reviewer if kind == REVIEW else self.arbiters[name]
        found = arbiter.voice() if arbiter is not None else None
        assert found is not None
        return found

    def unasked(self, step: str, prompts: Mapping[tuple[str, str], int] | None) -> str:
        """A teacher is asked nothing where none of the prompts, or of the spec's languages, is in its own."""
        kind, _, name = step.partition("/")
        teacher = self._settings_of.get(name)
        if teacher is None or teacher.languages is None:
            return ""
        wanted = self.environment.languages or ()
        known = [(one.language, one.script) for one in wanted] if prompts is None else list(prompts)
        first = "answer" if isinstance(teacher, TranslatedSettings) else "generate"
        if kind != first or not known or any(teacher.asked_for(*one) for one in known):
            return ""
        what = "spec's languages" if prompts is None else f"{sum(prompts.values()):,} prompts"
        return f"none of the {what} is in its languages: {', '.join(teacher.languages)}"

    def expected(self, step: str, prompts: int, tokens: Callable[[str], float]) -> int:
        """How many requests a step makes of so many prompts: where one teacher of several is asked, as if each were
        asked as often as the others, of translations as if no prompt were in the pivot language, and of a review as if
        all answers to a prompt were different."""
        kind, _, name = step.removesuffix(AGAIN).partition("/")
        share = self.settings.routing.learns
        everybody = self.settings.routing.kind == "reward" or (share is not None and not step.endswith(AGAIN))
        if share is not None and kind != REVIEW:
            prompts = round(prompts * (1 - share if step.endswith(AGAIN) else share))
        if kind in STAGES:
            asked = prompts if everybody else round(prompts * self._likely(name))
            return asked if kind == "translate" else asked * samples_of(self._settings_of[name])
        samples = {name: samples_of(settings) for name, settings in self._settings_of.items()}
        arbiter = self.reviewer if kind == REVIEW else self.arbiters[name]
        assert arbiter is not None
        if kind == REVIEW and (budget := self.settings.review) is not None:
            each = {name: count if everybody else count * self._likely(name) for name, count in samples.items()}
            prompts = budget.expected(prompts, sum(count * tokens(f"generate/{name}") for name, count in each.items()))
        counts = samples.values()
        return prompts * arbiter.expected(sum(counts) if everybody or kind == REVIEW else max(counts))

    def _likely(self, teacher: str) -> float:
        """The share of prompts that a teacher is likely to be asked about where only one is."""
        named = self.settings.routing.names or tuple(self.teachers)
        return (teacher in named) / len(named)

    def possible(self, step: str, tables: Mapping[str, pa.Table]) -> tuple[float, Iterator[Asked]] | None:
        """Before anything is learned, each teacher may be the one that is asked about a prompt outside the share."""
        kind, _, name = step.removesuffix(AGAIN).partition("/")
        voice = self.teachers.get(name)
        if not step.endswith(AGAIN) or kind not in STAGES or voice is None:
            return None
        prompts = tables[PROMPTS]
        given = assignments(prompts, self.contenders, self.settings.routing, self.environment.seed)
        varieties = zip(prompts["language"].to_pylist(), prompts["script"].to_pylist(), strict=True)
        allowed = self._settings_of[name].asked_for
        left = [not scored and allowed(*variety) for scored, variety in zip(given.scored, varieties, strict=True)]
        if not isinstance(voice, Translated):
            return self._likely(name), self._questions(name, prompts, left)
        return (self._likely(name), voice.requests(kind, prompts, left, None)) if kind == "translate" else None

    def requests(self, step: str, tables: Mapping[str, pa.Table]) -> Iterator[Asked]:
        """List what is asked of a teacher, an arbiter or a reviewer about one part."""
        kind, _, name = step.removesuffix(AGAIN).partition("/")
        prompts = tables[PROMPTS]
        if kind in STAGES:
            given = self._assigned(name, prompts, tables.get("learn"))
            voice = self.teachers[name]
            if isinstance(voice, Translated):
                before = [tables[one] for one in tables if one.partition("/")[2] == step.partition("/")[2]]
                yield from voice.requests(kind, prompts, given, before[0] if before else None)
            else:
                yield from self._questions(name, prompts, given)
            return
        said = self._completions(tables, AGAIN if step.endswith(AGAIN) else "" if kind == "arbiter" else None)
        if kind == REVIEW:
            said = review.chosen_rows(said, tables["select"])
        arbiter = self.reviewer if kind == REVIEW else self.arbiters[name]
        assert arbiter is not None
        yield from arbiter.requests(prompts, said)

    def _assigned(self, teacher: str, prompts: pa.Table, learnt: pa.Table | None) -> list[bool]:
        """Whether a teacher is asked about each prompt."""
        seed, routing = self.environment.seed, self.settings.routing
        given = assignments(prompts, self.contenders, routing, seed)
        if learnt is not None:
            best = picked(learnt, prompts, self.contenders, routing)
            given = second(prompts, self.contenders, routing, seed, best)
        return [bool(one) for one in given.asked[teacher]]

    def _questions(self, teacher: str, prompts: pa.Table, given: list[bool]) -> Iterator[Asked]:
        """List the requests to a teacher, those with one system prompt together and the short ones first."""
        seed = self.environment.seed
        settings = self._settings_of[teacher]
        voice = voice_key(self.teachers[teacher])
        varieties = zip(prompts["language"].to_pylist(), prompts["script"].to_pylist(), strict=True)
        asked: list[tuple[str, int, int, tuple[tuple[str, str], ...], str]] = []
        for row, (wanted, turns, (language, script)) in enumerate(
            zip(given, conversations(prompts), varieties, strict=True)
        ):
            if wanted and turns:
                system = settings.system_for(language, script)
                messages = with_system(turns, system)
                size = sum(len(text) for _, text in messages)
                asked.append((system or "", size, row, messages, f"{language}_{script}"))
        for _, _, row, messages, variety in sorted(asked, key=lambda one: one[:3]):
            for sample in range(samples_of(settings)):
                drawn = sample_seed(seed, messages, sample)
                key = request_key(voice, messages, drawn, sample)
                yield Asked(row, str(sample), Request(key, messages, drawn, sample, variety))

    def _completions(self, tables: Mapping[str, pa.Table], round_: str | None) -> pa.Table:
        """The completions of a round (``""`` or ``@2``), or of all."""
        ends = ("", AGAIN) if round_ is None else (round_,)
        prompts = tables[PROMPTS]
        answers: dict[str, list[pa.Table]] = {}
        for name, voice in self.teachers.items():
            for end in ends:
                said = tables.get(f"generate/{name}{end}")
                if said is None:
                    continue
                if isinstance(voice, Translated):
                    said = voice.answered(prompts, tables[f"answer/{name}{end}"], said)
                else:
                    said = answered(said, self._settings_of[name])
                answers.setdefault(name, []).append(said)
        return completions(prompts, answers, self._families)

    # Tables -------------------------------------------------------------------------------------------

    def part(self, step: str, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Make the table of ``score``, ``review``, ``route`` or ``pair`` for one part."""
        prompts = tables[PROMPTS]
        seed = self.environment.seed
        if step == REVIEW:
            assert self.reviewer is not None
            said = review.chosen_rows(self._completions(tables, None), tables["select"])
            return verdicts(self.reviewer, prompts, said, tables.get(f"{REVIEW}/{REVIEW}"))
        if step == SHEET:
            assert isinstance(self.reviewer, review.HumanArbiter)
            said = self._completions(tables, None)
            return review_sheet.sheet(tables["select"], prompts, said, seed, self.reviewer.known())
        if step == "route":
            return route(prompts, self._scores(tables), self.contenders, self.settings.routing, seed)
        if step == "pair":
            assert self.settings.pairs is not None
            counted = None if self.tokenizer is None else Tokenizer.load(self.tokenizer)
            least = None if self.settings.review is None else self.settings.review.min_margin
            said = self._completions(tables, None)
            return pairs(self._scores(tables), said, self.settings.pairs, seed, counted, least)
        again = AGAIN if step.endswith(AGAIN) else ""
        said = self._completions(tables, again)
        answers = {
            name: tables[f"arbiter/{name}{again}"] for name in self.arbiters if f"arbiter/{name}{again}" in tables
        }
        table = described(prompts, said, self.settings.review is not None)
        return add_scores(table, prompts, said, self.arbiters, answers)

    def _combined(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """All that is known of the completions of a part, with the score of the arbiters together."""
        rounds = [tables[name] for name in ("score", "score" + AGAIN) if name in tables]
        order = [("row", "ascending"), ("teacher", "ascending"), ("sample", "ascending")]
        return combine(pa.concat_tables(rounds).sort_by(order), self._weights, tables["norms"])

    def _scores(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """The same with the score that counts, which is that of the verdicts where a prompt was reviewed."""
        scores = self._combined(tables)
        if self.settings.review is None or REVIEW not in tables:
            return scores
        return decided(scores, tables[REVIEW])

    def whole(self, step: str, parts: Iterable[Mapping[str, pa.Table]]) -> pa.Table:
        """Make the table of ``learn``, ``norms``, ``select`` or ``report``."""
        names = sorted(self.arbiters)
        routing = self.settings.routing
        if step == "norms":
            rounds = (tables[name] for tables in parts for name in ("score", "score" + AGAIN) if name in tables)
            return norms(rounds, names)
        if step == "learn":
            try:
                return learn(parts, self.contenders, routing, self._weights, self.environment.seed)
            except WrongSetting as error:
                raise error.in_source(self.source) from None
        if step.startswith(HEARD):
            return heard(parts, self.source)
        if step == VERDICTS:
            assert isinstance(self.reviewer, review.HumanArbiter)
            return judged(self.reviewer, (self._completions(tables, None) for tables in parts))
        if step == "select":
            assert self.settings.review is not None
            every: list[pa.Table] = []
            known: list[str] = []
            for tables in parts:
                every += [tables[name] for name in ("score", "score" + AGAIN) if name in tables]
                known = tables[VERDICTS]["prompt"].to_pylist() if VERDICTS in tables else []
            if not every:
                return review.CHOSEN.empty_table()
            return review.select(pa.concat_tables(every), self.settings.review, self.environment.seed, known)
        reviewer = self.settings.review.reviewer.kind if self.settings.review is not None else ""
        told = next(iter(parts), {})
        lost = set(told[VERDICTS]["prompt"].to_pylist()) if VERDICTS in told else set()
        lost -= set(told["select"]["prompt"].to_pylist()) if lost else set()
        learnt = told["learn"] if told and routing.kind == "learned" else None
        found = report.make(
            ((self._combined(tables), tables["route"], tables.get("pair"), tables.get(REVIEW)) for tables in parts),
            self.contenders,
            routing,
            self._judges,
            [name for name in self.arbiters if name not in self._weights],
            learnt,
            self.environment.seed,
            reviewer,
            len(lost),
        )
        if self.settings.pairs is not None and self.settings.pairs.max_length_ratio is not None:
            found["length_unit"] = "characters" if self.tokenizer is None else "tokens"
        return pa.table({"report": pa.array([json.dumps(found, sort_keys=True, ensure_ascii=False)], pa.string())})

    # Rows ---------------------------------------------------------------------------------------------

    def make(self, tables: Mapping[str, pa.Table]) -> Iterator[Batch]:
        """Make a conversation of every prompt whose answer was picked, and its preference pairs."""
        texts = self._completions(tables, None)
        yield drafts(
            tables[PROMPTS],
            conversations(tables[PROMPTS]),
            dict(zip(texts["key"].to_pylist(), texts["text"].to_pylist(), strict=True)),
            tables["route"],
            tables.get("pair"),
            {name: self._author(name) for name in self.teachers},
            self.source,
            self.settings.answers,
            self._scores(tables),
        )

    def _author(self, teacher: str) -> Author:
        """Who has a part in the answers of a teacher."""
        settings = self._settings_of[teacher]
        model = str(getattr(settings, "model", None) or teacher)
        if isinstance(settings, TranslatedSettings):
            translator = getattr(settings.translator, "model", None) or f"the translator of {teacher}"
            pivot = resolve(settings.pivot).variety.language
            return Author(model, str(translator), pivot, settings.answers.system_for)
        return Author(model, None, "", settings.system_for)

    def publish(self, tables: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
        """Keep the completions without their texts, what failed, what each arbiter said, what was picked, and the
        pairs."""
        asked = {step.name: tables[step.name] for step in self.steps() if step.kind == "ask"}
        views = report.views(self._combined(tables), tables["route"], tables.get("pair"), tables.get(REVIEW))
        return {**views, **report.failures(tables[PROMPTS], asked)}

    def report(self, wholes: Mapping[str, pa.Table]) -> Mapping[str, Any]:
        """How the teachers fared, and what the arbiter is inclined to."""
        found: dict[str, Any] = json.loads(wholes["report"]["report"][0].as_py())
        return found
