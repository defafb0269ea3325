"""How alike two texts are: bounded Levenshtein distance, and whether one stands in the other.

:func:`similarity` is 1 - d / max(m, n), where d is the number of characters to insert, delete or replace. It is
measured exactly from :data:`LEAST` on, and is 0 below: lengths and a count of characters rule out most pairs at once,
and the others are followed along diagonals (Ukkonen 1985, "Algorithms for approximate string matching", Information and
Control 64) in time that grows with d squared, not with m times n. Longer texts are compared by their first
:data:`LONGEST` characters.

Cost: some 1 ns per character where the texts differ, up to 3 ms for two of 5,000 characters that just reach
:data:`LEAST`.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from aya_data.text.kernel import inner_kernel, kernel

__all__ = ["LEAST", "LONGEST", "ROOM", "contained", "measure_similarity", "similarity"]

LEAST = 0.8
LONGEST = 5000
BUCKETS = 256
ROOM = 2 * (2 * round((1 - LEAST) * LONGEST) + 3)
"""Two rows of diagonals, as many as the distance may be; more than there are buckets."""

PRIME = nb.uint64(0x9E3779B97F4A7C15)


def measure_similarity(one: str, other: str) -> float:
    """Return the similarity of two texts, character by character; 0 below :data:`LEAST`."""
    first, second = (np.frombuffer(text.encode("utf-32-le"), np.int32) for text in (one, other))
    return float(_similarity_of_two(first, len(first), second, len(second), np.zeros(ROOM, np.int64)))


@kernel
def _similarity_of_two(one, m, other, n, room):  # type: ignore[no-untyped-def]
    return similarity(one, m, other, n, room)


@inner_kernel
def fewest_edits(one, m, other, n, surplus):  # type: ignore[no-untyped-def]
    """Return a lower bound of their distance: characters of one that the other lacks need an edit each."""
    for bucket in range(BUCKETS):
        surplus[bucket] = 0
    for at in range(m):
        surplus[one[at] & (BUCKETS - 1)] += 1
    for at in range(n):
        surplus[other[at] & (BUCKETS - 1)] -= 1
    more = 0
    less = 0
    for bucket in range(BUCKETS):
        if surplus[bucket] > 0:
            more += surplus[bucket]
        else:
            less -= surplus[bucket]
    return max(more, less)


@inner_kernel
def similarity(one, m, other, n, room):  # type: ignore[no-untyped-def]
    """Return the similarity of two runs of code points (int32, lengths ``m`` and ``n``), 0 below :data:`LEAST`.

    ``room`` int64[:data:`ROOM`] is working memory.
    """
    m = min(m, LONGEST)
    n = min(n, LONGEST)
    longer = max(m, n)
    if longer == 0:
        return 0.0
    allowed = nb.int64((1 - LEAST) * longer + 1e-9)
    if abs(m - n) > allowed or fewest_edits(one, m, other, n, room) > allowed:
        return 0.0
    # room[far + k]: how far into ``one`` the diagonal k (place in ``other`` less place in ``one``) reaches with d
    # edits; room[new + k] with one more.
    width = 2 * allowed + 3
    for at in range(2 * width):
        room[at] = -2
    far = allowed + 1
    new = far + width
    goal = n - m
    for d in range(allowed + 1):
        for k in range(-d, d + 1):
            if k < -m or k > n:
                continue
            if d == 0:
                reach = 0
            else:
                reach = room[far + k] + 1 if room[far + k] >= 0 else -2
                reach = max(reach, room[far + k - 1])
                if room[far + k + 1] >= 0:
                    reach = max(reach, room[far + k + 1] + 1)
            if reach < 0:
                room[new + k] = -2
                continue
            reach = min(reach, min(m, n - k))
            while reach < m and reach + k < n and one[reach] == other[reach + k]:
                reach += 1
            room[new + k] = reach
        if -d <= goal and goal <= d and room[new + goal] >= m:
            return 1.0 - d / longer
        far, new = new, far
    return 0.0


@inner_kernel
def contained(needle, m, hay, n):  # type: ignore[no-untyped-def]
    """Return the first place at which ``needle`` (m code points) stands in ``hay`` (n), -1 if it does not."""
    if m == 0 or m > n:
        return -1
    power = nb.uint64(1)
    wanted = nb.uint64(0)
    for at in range(m):
        power *= PRIME
        wanted = wanted * PRIME + nb.uint64(needle[at] + 1)
    rolling = nb.uint64(0)
    for at in range(n):
        rolling = rolling * PRIME + nb.uint64(hay[at] + 1)
        if at >= m:
            rolling -= nb.uint64(hay[at - m] + 1) * power
        if at >= m - 1 and rolling == wanted:
            begin = at - m + 1
            size = 0
            while size < m and hay[begin + size] == needle[size]:
                size += 1
            if size == m:
                return begin
    return -1
