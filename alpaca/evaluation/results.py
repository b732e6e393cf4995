"""The results of a comparison as people read them: the tables of `compare.py judge` and `human`, and the figure."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import math
from collections.abc import Callable

from alpaca.evaluation.win_rate import (
    CONTROLLED,
    Estimate,
    PairVotes,
    detectable_win_rate,
    krippendorff_alpha,
    outcome,
    sign_test,
    win_rates,
)
from utils import printable

WITHDRAWN = "withdrawn"  # takes back a rater's vote on a pair

VERDICTS = {
    "judge": ("first", "second", "tie", "unparsable", "refused"),
    "human": ("first", "second", "tie", "skip", WITHDRAWN),
}
FIGURE_TITLE = "Win rates of two models"  # in the files' metadata, which shows whose they are


def verdict_check(kind: str, pairs: set[tuple[str, str]] | None = None) -> Callable[[dict], str | None]:
    """A check of a file's rows, one after the other, as row_files takes it: that each is a verdict, on one of the pairs
    (instruction, input) if they are given, and that none counts twice."""
    standing = set()
    by = "rater" if kind == "human" else "first"

    def check(row: dict) -> str | None:
        for name in ("instruction", "input", "verdict", *(["rater"] if kind == "human" else [])):
            if not isinstance(row.get(name), str):
                return f"has no {name!r} that is text"
        if type(row.get("first")) is not int or row["first"] not in (1, 2):
            return f"'first' is {row.get('first')!r}, and has to be 1 or 2"
        if row["verdict"] not in VERDICTS[kind]:
            return f"{row['verdict']!r} is no verdict; there are {', '.join(VERDICTS[kind])}"
        lengths = row.get("lengths", [0, 0])
        if not isinstance(lengths, list) or [type(n) for n in lengths] != [int, int] or min(lengths) < 0:
            return "'lengths' is not a list of two lengths"
        pair = (row["instruction"], row["input"])
        if pairs is not None and pair not in pairs:
            return "a verdict on a pair that the two files of responses do not have"
        vote = (pair, row[by])
        if row["verdict"] == WITHDRAWN and vote not in standing:
            return "takes back a vote that is not there"
        if row["verdict"] != WITHDRAWN and vote in standing:
            return "a second verdict on the same pair"
        standing.symmetric_difference_update([vote])
        return None

    return check


def judged_pairs(verdicts: list[dict]) -> list[PairVotes]:
    """One outcome for each pair judged in both orders: a pair is won by a model that wins one order and does not lose
    the other. An order without a verdict leaves its pair out, since the other alone would bring in the position."""
    pairs = []
    for rows in _by_pair(verdicts).values():
        if len(rows) == 2 and None not in (outcomes := [outcome(row) for row in rows]):
            pairs.append(PairVotes([(sum(outcomes) > 0) - (sum(outcomes) < 0)], _lengths(rows)))
    return pairs


def rated_pairs(votes: list[dict]) -> list[PairVotes]:
    """The outcomes of every pair that people voted on; every vote counts, except skips and what was taken back."""
    pairs = []
    for rows in _by_pair(last_votes(votes)).values():
        if outcomes := [value for row in rows if (value := outcome(row)) is not None]:
            pairs.append(PairVotes(outcomes, _lengths(rows)))
    return pairs


def _by_pair(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    by_pair = collections.defaultdict(list)
    for row in rows:
        by_pair[row["instruction"], row["input"]].append(row)
    return by_pair


def _lengths(rows: list[dict]) -> tuple[int, int] | None:
    return tuple(rows[0]["lengths"]) if "lengths" in rows[0] else None


# ---- Tables ----


def judge_table(names: tuple[str, str], verdicts: list[dict]) -> str:
    """The result of judging every pair in both orders."""
    by_pair = _by_pair(verdicts)
    complete = [rows for rows in by_pair.values() if len(rows) == 2]
    decided = [rows for rows in complete if all(outcome(row) is not None for row in rows)]
    opposed = [rows for rows in decided if {outcome(row) for row in rows} == {1, -1}]
    first_twice = sum(all(row["verdict"] == "first" for row in rows) for rows in opposed)
    differing = sum(len({outcome(row) for row in rows}) == 2 for rows in decided)
    num_unparsable = sum(outcome(row) is None for row in verdicts)
    lines = {
        **_common_lines(judged_pairs(verdicts), verdicts),
        "orders disagree": f"{differing} of {len(decided)} pairs{_share(differing, len(decided))}; in {first_twice} "
        f"the first response won twice, in {len(opposed) - first_twice} the second",
        "unparsable": f"{num_unparsable} of {len(verdicts)} verdicts; {len(complete) - len(decided)} pairs left out",
    }
    if num_refused := sum(row["verdict"] == "refused" for row in verdicts):
        lines["refused"] = f"{num_refused} of these, by the judge's server"
    if len(complete) < len(by_pair):
        lines["not finished"] = f"{len(by_pair) - len(complete)} pairs judged in one order only, left out"
    return _format(names, lines)


def last_votes(rows: list[dict]) -> list[dict]:
    """The vote of each rater on each pair that stands: the last one, where it is not withdrawn."""
    last = {(row["rater"], row["instruction"], row["input"]): row for row in rows}
    return [row for row in last.values() if row["verdict"] != WITHDRAWN]


def human_table(names: tuple[str, str], votes: list[dict]) -> str:
    """The result of a blind evaluation by any number of raters; withdrawn votes do not count."""
    votes = last_votes(votes)
    pairs = rated_pairs(votes)
    groups = [pair.outcomes for pair in pairs]
    equal = sum(math.comb(c, 2) for group in groups for c in collections.Counter(group).values())
    possible = sum(math.comb(len(group), 2) for group in groups)
    raters = collections.Counter(row["rater"] for row in votes)
    alpha = krippendorff_alpha(groups)
    agreement = f"{equal} of {possible} pairs of votes on the same pair{_share(equal, possible)}" if possible else "-"
    if not math.isnan(alpha):
        agreement += f"; Krippendorff's alpha {alpha:.2f}"
    lines = {
        **_common_lines(pairs, votes),
        "skipped": f"{sum(row['verdict'] == 'skip' for row in votes)} of {len(votes)}",
        "raters": ", ".join(f"{rater} ({count})" for rater, count in sorted(raters.items())) or "none",
        "agreement": agreement,
    }
    return _format(names, lines)


def _common_lines(pairs: list[PairVotes], rows: list[dict]) -> dict[str, str]:
    """What judge and human report alike."""
    outcomes = [value for pair in pairs for value in pair.outcomes]
    counts = {label: outcomes.count(value) for label, value in (("wins", 1), ("losses", -1), ("ties", 0))}
    # Several votes on one pair are not independent: in the test a pair counts once.
    sums = [sum(pair.outcomes) for pair in pairs]
    pairs_won, pairs_lost = sum(total > 0 for total in sums), sum(total < 0 for total in sums)
    verdicts = [row["verdict"] for row in rows]
    num_first, num_second = verdicts.count("first"), verdicts.count("second")
    num_chosen = num_first + num_second
    bias = f"the first response won {num_first} of {num_chosen} verdicts that chose one{_share(num_first, num_chosen)}"
    return {
        "pairs": f"{len(pairs)}",
        **{label: f"{count}{_share(count, len(outcomes))}" for label, count in counts.items()},
        **_length_lines(pairs),
        "sign test": f"p = {sign_test(pairs_won, pairs_lost):.3g}  (pairs won against pairs lost)" if outcomes else "-",
        "power": _power_line(len(pairs), sums.count(0)) if outcomes else "-",
        "position bias": f"{bias}; by chance p = {sign_test(num_first, num_second):.3g}" if num_chosen else "-",
    }


def _length_lines(pairs: list[PairVotes]) -> dict[str, str]:
    """The win rates, and the lengths that they depend on."""
    lines = {label: _estimate_text(label, estimate) for label, estimate in win_rates(pairs).items()}
    lengths = [pair.lengths for pair in pairs if pair.lengths]
    means = [f"{sum(side) / len(lengths):,.0f}" for side in zip(*lengths, strict=True)]
    return {
        "win rate": lines.pop("win rate"),
        "mean length": f"{means[0]} and {means[1]} characters" if means else "-",
        **lines,
    }


def _estimate_text(label: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-  (needs wins and losses that length alone does not tell apart)" if label == CONTROLLED else "-"
    text = f"{100 * estimate.rate:.1f}%  (95% interval {100 * estimate.low:.1f}% to {100 * estimate.high:.1f}%"
    return text + (f"; {estimate.num_pairs} pairs)" if label.startswith("where") else ")")


def _power_line(num_pairs: int, num_tied: int) -> str:
    rate = detectable_win_rate(num_pairs, num_tied / num_pairs) if num_pairs else None
    if rate is None:
        return "too few decided pairs to show any difference with 80% power"
    return f"so many pairs show a true win rate of {100 * rate:.1f}% or more with 80% power"


def _share(part: int, whole: int) -> str:
    return f"  ({100 * part / whole:.1f}%)" if whole else ""


def _format(names: tuple[str, str], lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    lines = [f"{names[0]}  against  {names[1]}", *(f"  {label:<{width}}  {text}" for label, text in lines.items())]
    return "\n".join(map(printable, lines))


# ---- Figure ----


def draw(names: tuple[str, str], pairs: list[PairVotes]):
    """A matplotlib Figure of the win rates with their intervals, from all pairs and by length. Grey are the rates that
    so many pairs would not show with 80% power."""
    from matplotlib.figure import Figure

    rates = {label: rate for label, rate in win_rates(pairs).items() if rate}
    figure = Figure(figsize=(7.5, 1.5 + 0.5 * len(rates)), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(50, color="#555555", linewidth=1)
    ties = sum(sum(pair.outcomes) == 0 for pair in pairs)
    if pairs and (detectable := detectable_win_rate(len(pairs), ties / len(pairs))):
        axes.axvspan(100 - 100 * detectable, 100 * detectable, color="#eeeeee", zorder=0)
    for row, (rate, low, high, _) in enumerate(rates.values()):
        axes.plot([100 * low, 100 * high], [row, row], color="#1f5a94", linewidth=2)
        axes.plot(100 * rate, row, "o", color="#1f5a94", markersize=7)
        axes.annotate(f"{100 * rate:.1f}%", (100 * rate, row), (0, 6), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(rates)), [f"{label}  ({rate.num_pairs:,})" for label, rate in rates.items()])
    axes.set_ylim(len(rates) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel(
        "win rate in %, with 95% interval; in brackets, the number of pairs\n"
        "grey: what all pairs together would not show with 80% power"
    )
    axes.set_title(f"{names[0]}  against  {names[1]}", fontsize=10, parse_math=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
