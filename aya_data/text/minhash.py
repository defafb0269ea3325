"""MinHash: short signatures of shingle sets, and how they are cut into bands to find sets that resemble each other.

The minimum of a random order over a set is the same for two sets with the probability of their Jaccard index J (Broder
1997). A signature holds :data:`PERMUTATIONS` such minima, 16 bits of each; with r of them to a band and b bands, two
sets share a band with probability 1 - (1 - J^r)^b. :func:`banding` takes the largest r that misses at most
one pair in :data:`MISSED` at the threshold; the pairs that share a band are then compared by their whole signatures,
and what is left by their sets. Signatures do not depend on the threshold.

Cost: :func:`signatures` takes some 7 ns per shingle on top of shingling, and 160 bytes per text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import comb

import numba as nb
import numpy as np
import numpy.typing as npt

from aya_data.text.kernel import kernel
from aya_data.text.shingles import Gram, Pieces, batches, mix

__all__ = ["PERMUTATIONS", "Banding", "Signatures", "band_keys", "banding", "signatures"]

PERMUTATIONS = 80
MISSED = 0.004
"""Share of pairs at the threshold that no band may find, at most."""
OVERLOOKED = 0.0005
"""Share of pairs at the threshold whose signatures may agree in fewer places than :attr:`Banding.agreeing`."""
MOST_ROWS = 8

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Banding:
    """``bands`` bands of ``rows`` minima each. Signatures of a pair at the threshold agree in ``agreeing`` places or
    more, but for :data:`OVERLOOKED` of them."""

    rows: int
    bands: int
    agreeing: int

    def found(self, jaccard: float) -> float:
        """Return the probability that a pair of this resemblance shares a band."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


@dataclass(frozen=True, slots=True)
class Signatures:
    """Of n texts: ``minima`` uint16[n, 80]; ``sequence`` uint64, equal for equal lists of shingles; ``count`` int32 of
    shingles, those that occur twice counted twice. Texts without a shingle have count 0."""

    minima: npt.NDArray[np.uint16]
    sequence: Hashes
    count: npt.NDArray[np.int32]


def banding(threshold: float) -> Banding:
    """Return the bands for a Jaccard threshold above 0 and up to 1."""
    best = max(
        (rows for rows in range(1, MOST_ROWS + 1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED),
        default=1,
    )
    return Banding(best, PERMUTATIONS // best, least_agreeing(threshold))


def least_agreeing(jaccard: float) -> int:
    """Return in how many places signatures of a pair agree, but for :data:`OVERLOOKED` of the pairs."""
    below = 0.0
    for places in range(PERMUTATIONS + 1):
        below += comb(PERMUTATIONS, places) * jaccard**places * (1 - jaccard) ** (PERMUTATIONS - places)
        if below > OVERLOOKED:
            return places
    return PERMUTATIONS


def signatures(pieces: Pieces, gram: Gram, salts: Hashes) -> Signatures:
    """Return the signatures of all texts; those with different salts resemble each other only by chance."""
    found = Signatures(
        np.zeros((len(pieces), PERMUTATIONS), np.uint16),
        np.zeros(len(pieces), np.uint64),
        np.zeros(len(pieces), np.int32),
    )
    factors, terms = _permutations()
    least = np.empty(PERMUTATIONS, np.uint32)
    for batch in batches(pieces, gram, salts):
        rows = slice(batch.first, batch.first + len(batch))
        _sign(batch.shingles, batch.bounds, factors, terms, least, found.minima[rows])
        found.sequence[rows] = batch.sequence
        found.count[rows] = np.diff(batch.bounds)
    return found


def band_keys(minima: npt.NDArray[np.uint16], banding: Banding, band: int) -> Hashes:
    """Return the key of one band of each signature, uint64[n]."""
    keys = np.zeros(len(minima), np.uint64)
    _key(minima, band * banding.rows, banding.rows, keys)
    return keys


@cache
def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return odd factors and terms of affine permutations of 32 bits, from a counter through splitmix64."""
    drawn = np.array([int(mix(np.uint64(place + 1))) for place in range(PERMUTATIONS)], np.uint64)
    return (drawn >> np.uint64(32)).astype(np.uint32) | np.uint32(1), drawn.astype(np.uint32)


@kernel
def _sign(shingles, bounds, factors, terms, least, minima):  # type: ignore[no-untyped-def]
    for row in range(len(bounds) - 1):
        for place in range(PERMUTATIONS):
            least[place] = nb.uint32(0xFFFFFFFF)
        for index in range(bounds[row], bounds[row + 1]):
            value = nb.uint32(shingles[index] >> nb.uint64(32))
            # Products of 32 bits must stay 32 bits wide: numba would widen them, and every minimum would be the same.
            for place in range(PERMUTATIONS):
                drawn = nb.uint32(nb.uint32(factors[place] * value) + terms[place])
                least[place] = min(least[place], drawn)
        for place in range(PERMUTATIONS):
            # A minimum over many is small: its high bits say little.
            minima[row, place] = nb.uint16(nb.uint32(least[place] * nb.uint32(0x9E3779B1)) >> nb.uint32(16))


@kernel
def _key(minima, first, rows, keys):  # type: ignore[no-untyped-def]
    for row in range(len(minima)):
        key = nb.uint64(first)
        for place in range(first, first + rows):
            key = mix(key ^ nb.uint64(minima[row, place])) + nb.uint64(place)
        keys[row] = key
