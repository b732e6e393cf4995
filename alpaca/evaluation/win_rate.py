"""What pairwise preferences say: win rate and its uncertainty, position bias, agreement of raters.

A row holds "verdict" ("first", "second", "tie"; others are no preference) and "first", the number (1 or 2) of the model
whose response was shown first.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import math
from collections.abc import Callable

from utils import printable

NUM_RESAMPLES = 10_000
VERDICTS = {"judge": ("first", "second", "tie", "unparsable"), "human": ("first", "second", "tie", "skip")}


def verdict_check(kind: str, pairs: set[tuple[str, str]] | None = None) -> Callable[[dict], str | None]:
    """A check of a file's rows, one after the other, as row_files takes it: that each is a verdict, on one of the pairs
    (instruction, input) if they are given, and that none counts twice."""
    seen = set()
    by = "rater" if kind == "human" else "first"

    def check(row: dict) -> str | None:
        for name in ("instruction", "input", "verdict", *(["rater"] if kind == "human" else [])):
            if not isinstance(row.get(name), str):
                return f"has no {name!r} that is text"
        if type(row.get("first")) is not int or row["first"] not in (1, 2):
            return f"'first' is {row.get('first')!r}, and has to be 1 or 2"
        if row["verdict"] not in VERDICTS[kind]:
            return f"{row['verdict']!r} is no verdict; there are {', '.join(VERDICTS[kind])}"
        pair = (row["instruction"], row["input"])
        if pairs is not None and pair not in pairs:
            return "a verdict on a pair that the two files of responses do not have"
        if (pair, row[by]) in seen:
            return "a second verdict on the same pair"
        seen.add((pair, row[by]))
        return None

    return check


def outcome(row: dict) -> int | None:
    """1 where model 1 was preferred, -1 where model 2 was, 0 for a tie, None for no preference.

    >>> outcome({"verdict": "second", "first": 2}), outcome({"verdict": "skip", "first": 1})
    (1, None)
    """
    signs = {"first": 1, "second": -1, "tie": 0}
    sign = signs.get(row["verdict"])
    return sign if sign is None or row["first"] == 1 else -sign


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact sign test: wins and losses under a fair coin.

    >>> sign_test(90, 89), sign_test(0, 0), round(sign_test(9, 1), 4)
    (1.0, 1.0, 0.0215)
    """
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**n)


def bootstrap_interval(scores: list[list[float]], seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean of all scores, where groups, such as the votes on one pair, are resampled
    whole (Efron 1979). nan where there is nothing."""
    import numpy as np

    if not scores:
        return math.nan, math.nan
    sums, counts = np.array([sum(group) for group in scores]), np.array([len(group) for group in scores])
    rng, means = np.random.default_rng(seed), []
    for _ in range(0, NUM_RESAMPLES, 100):  # bounds the memory
        index = rng.integers(0, len(scores), (100, len(scores)))
        means.append(sums[index].sum(axis=1) / counts[index].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


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


def judge_table(names: tuple[str, str], verdicts: list[dict]) -> str:
    """The result of judging every pair in both orders. A pair is won by a model that wins one order and does not lose
    the other; an order without a verdict leaves its pair out, since the other alone would bring in the position."""
    by_pair = collections.defaultdict(dict)
    for row in verdicts:
        by_pair[row["instruction"], row["input"]][row["first"]] = row
    complete = [orders for orders in by_pair.values() if len(orders) == 2]
    decided = [orders for orders in complete if all(outcome(row) is not None for row in orders.values())]
    sums = [sum(outcome(row) for row in orders.values()) for orders in decided]
    opposed = [orders for orders in decided if {outcome(row) for row in orders.values()} == {1, -1}]
    first_twice = sum(all(row["verdict"] == "first" for row in orders.values()) for orders in opposed)
    differing = sum(len({outcome(row) for row in orders.values()}) == 2 for orders in decided)
    num_unparsable = sum(outcome(row) is None for row in verdicts)
    lines = [
        *_common_lines(names, [[(total > 0) - (total < 0)] for total in sums], verdicts),
        (
            "orders disagree",
            f"{differing} of {len(decided)} pairs{_share(differing, len(decided))}; in {first_twice} "
            f"the first response won twice, in {len(opposed) - first_twice} the second",
        ),
        ("unparsable", f"{num_unparsable} of {len(verdicts)} verdicts; {len(complete) - len(decided)} pairs left out"),
    ]
    if len(complete) < len(by_pair):
        lines.append(("not finished", f"{len(by_pair) - len(complete)} pairs judged in one order only, left out"))
    return _format(names, lines)


def human_table(names: tuple[str, str], votes: list[dict]) -> str:
    """The result of a blind evaluation by any number of raters; every vote counts, except skips."""
    by_pair = collections.defaultdict(list)
    for row in votes:
        if outcome(row) is not None:
            by_pair[row["instruction"], row["input"]].append(outcome(row))
    groups = list(by_pair.values())
    equal = sum(math.comb(c, 2) for group in groups for c in collections.Counter(group).values())
    possible = sum(math.comb(len(group), 2) for group in groups)
    raters = collections.Counter(row["rater"] for row in votes)
    alpha = krippendorff_alpha(groups)
    agreement = f"{equal} of {possible} pairs of votes on the same pair{_share(equal, possible)}" if possible else "-"
    if not math.isnan(alpha):
        agreement += f"; Krippendorff's alpha {alpha:.2f}"
    lines = [
        *_common_lines(names, groups, votes),
        ("skipped", f"{sum(row['verdict'] == 'skip' for row in votes)} of {len(votes)}"),
        ("raters", ", ".join(f"{rater} ({count})" for rater, count in sorted(raters.items())) or "none"),
        ("agreement", agreement),
    ]
    return _format(names, lines)


def _common_lines(names: tuple[str, str], groups: list[list[int]], rows: list[dict]) -> list[tuple[str, str]]:
    """What judge and human report alike. groups: the outcomes of each pair."""
    outcomes = [value for group in groups for value in group]
    wins, losses, ties = (outcomes.count(value) for value in (1, -1, 0))
    n = len(outcomes)
    low, high = bootstrap_interval([[(value + 1) / 2 for value in group] for group in groups])
    # Several votes on one pair are not independent: in the test a pair counts once.
    pair_sums = [sum(group) for group in groups]
    p = sign_test(sum(total > 0 for total in pair_sums), sum(total < 0 for total in pair_sums))
    verdicts = [row["verdict"] for row in rows]
    num_first, num_second = verdicts.count("first"), verdicts.count("second")
    num_chosen = num_first + num_second
    bias = f"the first response won {num_first} of {num_chosen} verdicts that chose one{_share(num_first, num_chosen)}"
    win_rate = f"{100 * (wins + ties / 2) / n:.1f}%  (95% bootstrap interval {100 * low:.1f}% to {100 * high:.1f}%)"
    return [
        ("pairs", f"{len(groups)}"),
        ("wins", f"{wins}{_share(wins, n)}"),
        ("losses", f"{losses}{_share(losses, n)}"),
        ("ties", f"{ties}{_share(ties, n)}"),
        ("win rate", win_rate if n else "-"),
        ("sign test", f"p = {p:.3g}  (pairs won against pairs lost)"),
        ("position bias", f"{bias}; by chance p = {sign_test(num_first, num_second):.3g}"),
    ]


def _share(part: int, whole: int) -> str:
    return f"  ({100 * part / whole:.1f}%)" if whole else ""


def _format(names: tuple[str, str], lines: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in lines)
    lines = [f"{names[0]}  against  {names[1]}", *(f"  {label:<{width}}  {text}" for label, text in lines)]
    return "\n".join(map(printable, lines))
