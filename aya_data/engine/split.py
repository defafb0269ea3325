"""Splits: train and validation cut along leakage groups, before the mixture.

Rows are in one leakage group when they have the same upstream record (``group``, which children
inherit), the same normalised prompt, or a link that a filter found (near-duplicates at a looser threshold),
directly or through others. A whole group goes to one
side, by the draw of its least member; a group that is too large goes to train.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aya_data.core.identity import draws

__all__ = ["LARGE", "components", "validation_rows"]

LARGE = 20
"""A group of up to so many rows may be held out however small the data is; beyond, 0.1 % of the rows."""

Ints = npt.NDArray[np.int64]


Names = Sequence[str] | npt.NDArray[np.bytes_]


def components(groups: Names, prompts: Names, links: Ints | None = None) -> tuple[Ints, list[str]]:
    """Return for each row the code of its leakage group, and for each code its least group name.

    ``links`` (m x 2) are pairs of rows that belong together for another reason: near-duplicates.

    Both depend on the set of rows alone. Union-find over the prompts that several groups share:
    O(n log n) for sorting, then one step per such pair.
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    prompt = np.unique(np.asarray(prompts), return_inverse=True)[1]
    root = list(range(len(names)))

    def find(code: int) -> int:
        while root[code] != code:
            root[code] = root[root[code]]
            code = root[code]
        return code

    order = np.lexsort((group, prompt))
    first, second = order[:-1], order[1:]
    joined = (prompt[first] == prompt[second]) & (group[first] != group[second])
    pairs = np.column_stack([group[first[joined]], group[second[joined]]])
    if links is not None:
        pairs = np.concatenate([pairs, group[links]])
    for a, b in pairs.tolist():
        one, two = find(a), find(b)
        if one != two:
            root[max(one, two)] = min(one, two)
    final = np.array([find(code) for code in range(len(names))], dtype=np.int64)
    kept, code = np.unique(final, return_inverse=True)
    return code[group].astype(np.int64), [
        name.decode() if isinstance(name, bytes) else str(name) for name in names[kept]
    ]


def validation_rows(
    groups: Names, prompts: Names, fraction: float, seed: int, links: Ints | None = None
) -> npt.NDArray[np.bool_]:
    """Mark the rows held out: about ``fraction`` of the groups, never part of a group."""
    if fraction <= 0 or not len(groups):
        return np.zeros(len(groups), np.bool_)
    code, names = components(groups, prompts, links)
    size = np.bincount(code)
    drawn = draws(seed, "split", names).astype(np.float64) / 2.0**64
    held = (drawn < fraction) & (size <= max(LARGE, len(groups) // 1000))
    marked: npt.NDArray[np.bool_] = held[code]
    return marked
