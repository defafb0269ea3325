"""Shingles as their definition says them, in plain Python: the reference that kernels are tested against."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from aya_data.text.folding import IGNORED, MARK, SEPARATOR, WHITE, WORD, fold, kind_of

__all__ = ["jaccard", "shingles"]

Shingle = tuple[int, str, tuple[str, ...]]


def shingles(text: str, words: int = 5, characters: int = 5) -> frozenset[Shingle]:
    """Return the shingles of a text: (1 of words, 2 of characters; gram, short or whole; tokens)."""
    folded = fold(text)
    tokens: list[tuple[int, str]] = []
    word = ""
    for character in folded:
        kind = kind_of(character)
        if kind == IGNORED:
            continue
        if kind == WHITE:
            kind = SEPARATOR
        if kind == MARK:
            kind = WORD if word or not tokens else tokens[-1][0]
        if kind == WORD:
            word += character
            continue
        if word:
            tokens.append((WORD, word))
            word = ""
        if kind != SEPARATOR:
            tokens.append((kind, character))
    if word:
        tokens.append((WORD, word))
    found: list[Shingle] = []
    for kind, members in groupby(tokens, key=lambda token: token[0]):
        run = tuple(token for _, token in members)
        n = words if kind == WORD else characters
        # A mark may stand in runs of several scripts: a shingle does not say of which.
        of = min(kind, WORD + 1)
        if len(run) < n:
            found.append((of, "short", run))
        found += [(of, "gram", run[i : i + n]) for i in range(len(run) - n + 1)]
    if len(found) < max(words, characters):
        whole = " ".join(folded.split())
        return frozenset([(0, "whole", (whole,))] if whole else [])
    return frozenset(found)


def jaccard(one: frozenset[Shingle], two: frozenset[Shingle]) -> float:
    """Return the Jaccard index, rounded as it is judged."""
    return float(np.round(len(one & two) / len(one | two), 4)) if one | two else 0.0
