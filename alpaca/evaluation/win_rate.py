"""What pairwise preferences say: win rate, with and without the effect of length, its uncertainty, power, agreement.

A row holds "verdict" ("first", "second", "tie"; others are no preference), "first", the number (1 or 2) of the model
whose response was shown first, and "lengths", the characters of model 1's response and of model 2's.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import math
import typing

SIGNIFICANCE = 0.05  # of the sign test; intervals hold the truth in all other cases
POWER = 0.8
CONTROLLED = "length-controlled"


class PairVotes(typing.NamedTuple):
    """The votes on one pair, each 1 for model 1, -1 for model 2 or 0 for a tie, and how long the two responses are."""

    outcomes: list[int]
    lengths: tuple[int, int] | None  # None in files that do not have them


class Estimate(typing.NamedTuple):
    """A win rate, ties being half a win, with its 95% interval, and the number of pairs behind it."""

    rate: float
    low: float
    high: float
    num_pairs: int


def outcome(row: dict) -> int | None:
    """1 where model 1 was preferred, -1 where model 2 was, 0 for a tie, None for no preference.

    >>> outcome({"verdict": "second", "first": 2}), outcome({"verdict": "skip", "first": 1})
    (1, None)
    """
    sign = {"first": 1, "second": -1, "tie": 0}.get(row["verdict"])
    return sign if sign is None or row["first"] == 1 else -sign


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: wins and losses under a fair coin.

    >>> sign_test(90, 89), sign_test(0, 0), round(sign_test(9, 1), 4)
    (1.0, 1.0, 0.0215)
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


# ---- Win rates ----


def win_rates(pairs: list[PairVotes]) -> dict[str, Estimate | None]:
    """Model 1's win rate over all pairs, where its response is the longer one, where it is the shorter one, and at
    equal length; None where there is nothing to estimate it from."""
    measured = [pair for pair in pairs if pair.lengths]
    return {
        "win rate": win_rate(pairs),
        "where longer": win_rate([pair for pair in measured if pair.lengths[0] > pair.lengths[1]]),
        "where shorter": win_rate([pair for pair in measured if pair.lengths[0] < pair.lengths[1]]),
        CONTROLLED: length_controlled_win_rate(measured),
    }


def win_rate(pairs: list[PairVotes]) -> Estimate | None:
    """The mean score of all votes. Interval: Wilson 1927, for the effective number of votes of Korn and Graubard 1998,
    which is smaller where votes on the same pair agree, and larger where there are ties."""
    import numpy as np
    from scipy.stats import t

    if not pairs:
        return None
    scores = np.array([sum(pair.outcomes) / 2 + len(pair.outcomes) / 2 for pair in pairs])
    counts = np.array([len(pair.outcomes) for pair in pairs])
    rate, freedom = scores.sum() / counts.sum(), max(len(pairs) - 1, 1)
    variance = len(pairs) / freedom * ((scores - rate * counts) ** 2).sum() / counts.sum() ** 2
    n = rate * (1 - rate) / variance if variance else len(pairs)
    z = t.isf(SIGNIFICANCE / 2, freedom)
    center, scale = rate + z**2 / (2 * n), 1 + z**2 / n
    margin = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    low, high = (float(np.clip((center + step) / scale, 0, 1)) for step in (-margin, margin))
    return Estimate(float(rate), low, high, len(pairs))


def length_controlled_win_rate(pairs: list[PairVotes]) -> Estimate | None:
    """The win rate if both responses were equally long: sigmoid(a) of P(win) = sigmoid(a + b tanh(d / sd(d))), where d
    is the difference of lengths (AlpacaEval 2; Dubois et al. 2024, arXiv 2404.04475). A tie is half a win; the interval
    is the sandwich estimator's, with the votes on a pair as one cluster. None where there is no such fit: where a
    threshold of d tells wins from losses, or no vote differs from another (Albert and Anderson 1984)."""
    import numpy as np
    from scipy.special import expit
    from scipy.stats import t
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    differences = np.array([pair.lengths[0] - pair.lengths[1] for pair in pairs], float)
    index = np.repeat(np.arange(len(pairs)), [len(pair.outcomes) for pair in pairs])
    scores = np.array([(outcome + 1) / 2 for pair in pairs for outcome in pair.outcomes])
    d = differences[index]
    won, lost = d[scores > 0], d[scores < 1]
    if not len(won) or not len(lost) or np.ptp(scores) == 0 or won.min() >= lost.max() or won.max() <= lost.min():
        return None
    lengths = np.tanh(d / differences.std())
    model = GLM(scores, np.column_stack([np.ones_like(lengths), lengths]), family=Binomial())
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": index})
    margin = t.isf(SIGNIFICANCE / 2, max(len(pairs) - 2, 1)) * fit.bse[0]
    return Estimate(*(float(expit(fit.params[0] + step)) for step in (0, -margin, margin)), len(pairs))


# ---- Power ----


def power(win_rate: float, num_pairs: int, ties: float = 0.0) -> float:
    """How likely the exact sign test finds a difference at the 5% level, where pairs are won and lost independently.

    ties: the share of pairs that neither model wins; win_rate counts them as half a win, so that it is at most
    1 - ties / 2.
    """
    import numpy as np
    from scipy.stats import binom

    decided = np.arange(binom.ppf(1e-9, num_pairs, 1 - ties), binom.isf(1e-9, num_pairs, 1 - ties) + 1)
    p = min(1.0, (win_rate - ties / 2) / (1 - ties))
    critical = binom.ppf(SIGNIFICANCE / 2, decided, 0.5)
    critical -= binom.cdf(critical, decided, 0.5) > SIGNIFICANCE / 2
    found = binom.cdf(critical, decided, p) + binom.cdf(critical, decided, 1 - p)
    return float((binom.pmf(decided, num_pairs, 1 - ties) * found).sum())


def num_pairs_needed(win_rate: float, ties: float = 0.0) -> int:
    """The smallest number of pairs that show a true win rate with 80% power. Without ties a few pairs more can have a
    little less: the test's exact level, and with it the power, is a saw, whose teeth are about sqrt(n) wide."""
    high = 1
    while power(win_rate, high, ties) < POWER:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(win_rate, middle, ties) >= POWER else (middle, high)
    first = max(1, high - 2 * math.isqrt(high))
    return next(n for n in range(first, high + 1) if power(win_rate, n, ties) >= POWER)


def detectable_win_rate(num_pairs: int, ties: float = 0.0) -> float | None:
    """The smallest true win rate above one half that so many pairs show with 80% power; None where none is enough."""
    from scipy.optimize import brentq

    highest = 1 - ties / 2
    if ties == 1 or power(highest, num_pairs, ties) < POWER:
        return None
    return brentq(lambda rate: power(rate, num_pairs, ties) - POWER, 0.5, highest)


# ---- Agreement ----


def krippendorff_alpha(ratings: list[list[int]]) -> float:
    """Agreement beyond chance of raters who each saw some of the units: 1 is perfect, 0 is chance (Krippendorff 2004,
    nominal data). nan where no unit has two ratings or where all are the same.

    >>> krippendorff_alpha([[1, 1], [-1, -1], [0, 0]]), round(krippendorff_alpha([[1, -1], [1, 1], [-1, -1]]), 3)
    (1.0, 0.444)
    """
    units = [collections.Counter(unit) for unit in ratings if len(unit) > 1]
    n = sum(unit.total() for unit in units)
    observed = sum((unit.total() ** 2 - sum(c * c for c in unit.values())) / (unit.total() - 1) for unit in units)
    totals = sum(units, collections.Counter())
    expected = n * n - sum(c * c for c in totals.values())
    return 1 - (n - 1) * observed / expected if expected else math.nan
