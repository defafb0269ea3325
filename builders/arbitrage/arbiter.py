"""What an arbiter is: it gives every completion a score, by itself or by asking a model."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aya_data.core.generation import Asked, Voice
from aya_data.core.stage import Environment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Arbiter"]


class Arbiter(abc.ABC):
    """Scores completions. One instance for every entry of ``arbiter`` in a spec; cheap to make and picklable."""

    code: tuple[str, ...] = ()
    """Modules that its scores depend on beside its own."""
    place: tuple[str, ...] = ("arbiter",)
    """Where its settings stand among those of the source, for errors."""

    def __init__(self, name: str, settings: Any, environment: Environment) -> None:
        self.name = name
        self.settings = settings
        self.environment = environment

    @abc.abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What its scores depend on beside the completions and the answers of its voice, as JSON."""

    def voice(self) -> Voice | None:
        """The model that it asks, if it asks one."""
        return None

    def expected(self, completions: int) -> int:
        """How many requests it makes for a prompt with so many completions."""
        return completions

    def requests(self, prompts: pa.Table, completions: pa.Table) -> Iterator[Asked]:
        """List what it asks for one part. Pure. ``completions`` as in :data:`~aya_data.builders.arbitrage.tables`.

        A tag tells the requests of one prompt apart and is understood by :meth:`score` alone.
        """
        return iter(())

    @abc.abstractmethod
    def score(self, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
        """Score the completions of one part, row by row: column ``score`` (float64, rounded to 1e-4, null where it
        cannot say), and ``note`` (string) where there is more to keep. ``answers`` are those of its voice.

        Pure. A score depends on nothing but the prompt's own completions and their answers: never on other rows.
        """
