"""How likely the label of a model is right: a logistic regression over six signs, with an intercept for each label.

The signs are numbers about a text and the profile of its label (:mod:`aya_data.text.language_profile`). One set of
coefficients serves all labels, because a sample has too few unknown languages to learn from for each; what differs
between labels, how often texts in languages that the model does not know get them, is in their intercepts, which are
drawn to a common one (a normal prior, as in hierarchical regression: Gelman and Hill 2007, chapter 14).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["SIGNS", "USUAL", "fit", "signs"]

SIGNS = ("confidence", "strange", "common", "common ratio", "fit", "length")
USUAL = (5.5, 0.6, -9.0, 8.5, 1.7, 2.6, 0.8)
"""Intercept and coefficients where a sample says nothing: about those of the bundled table."""
PRECISION, PRECISION_OF_LABELS = 1.0, 4.0
"""How strongly the coefficients are drawn to the usual ones, and the intercepts of labels to the common one."""
STEPS = 20
LONG = 240

Shares = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


def signs(confidence: Shares, strange: Shares, common: Shares, typical: Shares, fit: Shares, letters: Longs) -> Shares:
    """Return float64[n, 6]: the log odds of the confidence; tenths of strange letters, up to three; common words less
    what is typical, and the logarithm of their ratio; the fit of the trigrams; the logarithm of the letters, of which
    ``LONG`` are enough."""
    share = np.clip(confidence, 0.02, 0.9999)
    columns = (
        np.log(share / (1 - share)),
        10 * np.minimum(strange, 0.3),
        common - typical,
        np.log((common + 0.02) / (typical + 0.02)),
        fit,
        np.log(np.clip(letters, 1, LONG)) - 4,
    )
    return np.round(np.column_stack(columns), 4)


def fit(
    found: Shares, label: Longs, labels: int, right: npt.NDArray[np.bool_], weight: Shares
) -> tuple[Shares, Shares]:
    """Fit intercept and coefficients float64[7], and what each label's intercept has beyond that, float64[labels].

    ``found`` are signs [n, 6], ``label`` numbers from 0 of so many ``labels``. A fixed number of Newton's steps, each
    halved until it is one upwards; rounded to 1e-4.
    """
    width = found.shape[1] + 1
    columns = np.column_stack([np.ones(len(found)), found])
    usual = np.concatenate([USUAL, np.zeros(labels)])
    precision = np.concatenate([np.full(width, PRECISION), np.full(labels, PRECISION_OF_LABELS)])
    sign = np.where(right, 1.0, -1.0)

    def odds(values: Shares) -> Shares:
        sums: Shares = columns @ values[:width] + values[width + label]
        return sums

    def posterior(values: Shares) -> float:
        loss = weight @ np.logaddexp(0, -sign * odds(values))
        return -float(loss + precision @ (values - usual) ** 2 / 2)

    values = usual.copy()
    for _ in range(STEPS):
        share = 1 / (1 + np.exp(-np.clip(odds(values), -30, 30)))
        rest, curve = weight * (right - share), weight * share * (1 - share)
        slope = np.concatenate([columns.T @ rest, np.bincount(label, rest, labels)]) - precision * (values - usual)
        bend = np.diag(precision)
        bend[:width, :width] += (columns * curve[:, None]).T @ columns
        mixed = np.stack([np.bincount(label, curve * column, labels) for column in columns.T])
        bend[:width, width:] += mixed
        bend[width:, :width] += mixed.T
        bend[width:, width:] += np.diag(np.bincount(label, curve, labels))
        step = np.linalg.solve(bend, slope)
        now = posterior(values)
        while posterior(values + step) < now and np.abs(step).max() > 1e-9:
            step /= 2
        values += step
    values = np.round(values, 4)
    return values[:width], values[width:]
