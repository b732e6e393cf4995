"""The statistics of a comparison, by simulation against known truths."""

import functools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from alpaca.evaluation import win_rate
from alpaca.evaluation.results import judge_table
from alpaca.evaluation.win_rate import PairVotes

NUM_DRAWS = 2000


def draw_outcomes(rng, p_win, ties):
    """An outcome for each probability of a win, of which half of `ties` become a tie, as far as losses allow."""
    p_win = np.asarray(p_win)
    p_tie = 2 * ties * np.minimum(p_win, 1 - p_win)
    u = rng.random(p_win.shape)
    return np.where(u < p_win - p_tie / 2, 1, np.where(u < p_win + p_tie / 2, 0, -1))


def draw_lengths(rng, num_pairs, longer=1.0):
    """Lengths of model 1's and model 2's responses, heavy in the tail as real ones are."""
    return (np.exp(rng.normal(5, 0.8, (num_pairs, 2))) * [longer, 1]).astype(int)


def pairs_of(outcomes, lengths):
    return [
        PairVotes(np.atleast_1d(o).tolist(), tuple(size))
        for o, size in zip(outcomes, np.asarray(lengths).tolist(), strict=True)
    ]


# ---- Win rates ----


@pytest.mark.parametrize(
    ("num_pairs", "truth", "ties", "votes_per_pair"),
    [(252, 0.5, 0.0, 1), (252, 0.6, 0.3, 1), (179, 0.9, 0.3, 1), (60, 0.6, 0.3, 1), (100, 0.6, 0.2, 3)],
)
def test_the_interval_of_the_win_rate_covers_the_truth_in_95_of_100_draws(num_pairs, truth, ties, votes_per_pair):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(NUM_DRAWS):
        # Votes on a pair are alike: pairs differ in how good model 1 is on them.
        spread = min(truth, 1 - truth) if votes_per_pair > 1 else 0
        p_win = truth + spread * rng.uniform(-1, 1, (num_pairs, 1)) * np.ones(votes_per_pair)
        estimate = win_rate.win_rate(pairs_of(draw_outcomes(rng, p_win, ties), [(1, 1)] * num_pairs))
        covered += estimate.low <= truth <= estimate.high
    assert covered / NUM_DRAWS == pytest.approx(0.95, abs=0.01)


def test_ten_votes_on_a_pair_that_all_agree_know_no_more_than_one():
    pairs = [PairVotes([1 if i % 10 < 6 else -1], None) for i in range(400)]
    assert win_rate.win_rate([PairVotes(pair.outcomes * 10, None) for pair in pairs]) == pytest.approx(
        win_rate.win_rate(pairs)
    )
    half = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    assert win_rate.win_rate(pairs) == pytest.approx((0.6, 0.6 - half, 0.6 + half, 400), abs=0.001)


def test_winning_every_pair_is_not_certainty():
    estimate = win_rate.win_rate([PairVotes([1], None)] * 100)
    assert (estimate.rate, estimate.high) == (1, 1)
    assert 0.95 < estimate.low < 0.97  # 0.964 by Clopper and Pearson


def judge_with_a_bias(rng, truth, bias, ties, lengths, votes_per_pair=1):
    """Outcomes of a judge whose log odds grow with the difference of lengths."""
    difference = lengths[:, 0] - lengths[:, 1]
    p_win = expit(logit(truth) + bias * np.tanh(difference / difference.std()))
    return draw_outcomes(rng, np.repeat(p_win[:, None], votes_per_pair, axis=1), ties)


@pytest.mark.slow  # 2,000 regressions each
@pytest.mark.parametrize(
    ("num_pairs", "truth", "bias", "ties", "votes_per_pair"),
    [(252, 0.5, 2.0, 0.0, 1), (252, 0.6, 1.0, 0.3, 1), (179, 0.8, 2.0, 0.3, 1), (100, 0.6, 1.0, 0.2, 3)],
)
def test_the_length_controlled_interval_covers_the_truth_in_95_of_100_draws(
    num_pairs, truth, bias, ties, votes_per_pair
):
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(NUM_DRAWS):
        lengths = draw_lengths(rng, num_pairs, longer=1.3)
        outcomes = judge_with_a_bias(rng, truth, bias, ties, lengths, votes_per_pair)
        estimates.append(win_rate.length_controlled_win_rate(pairs_of(outcomes, lengths)))
    assert np.mean([e.low <= truth <= e.high for e in estimates]) == pytest.approx(0.95, abs=0.01)
    assert np.mean([e.rate for e in estimates]) == pytest.approx(truth, abs=0.005)


@pytest.mark.parametrize("truth", [0.5, 0.6, 0.8])
def test_the_length_control_takes_away_a_bias_that_was_put_in(truth):
    rng = np.random.default_rng(1)
    lengths = draw_lengths(rng, 20_000, longer=2.0)
    pairs = pairs_of(judge_with_a_bias(rng, truth, 2.0, 0.2, lengths), lengths)
    rates = win_rate.win_rates(pairs)
    assert rates["win rate"].rate > truth + 0.03
    assert rates["where longer"].rate > rates["length-controlled"].rate > rates["where shorter"].rate
    assert rates["length-controlled"].rate == pytest.approx(truth, abs=0.01)


def test_swapping_the_models_mirrors_every_win_rate():
    rng = np.random.default_rng(2)
    lengths = draw_lengths(rng, 200)
    outcomes = judge_with_a_bias(rng, 0.6, 1.0, 0.2, lengths)
    rates, mirrored = (
        win_rate.win_rates(pairs) for pairs in (pairs_of(outcomes, lengths), pairs_of(-outcomes, lengths[:, ::-1]))
    )
    names = {"where longer": "where shorter", "where shorter": "where longer"}
    for label, (rate, low, high, num_pairs) in rates.items():
        assert mirrored[names.get(label, label)] == pytest.approx((1 - rate, 1 - high, 1 - low, num_pairs))


@pytest.mark.parametrize(
    "outcomes",
    [[1, 1, 0, -1, -1], [1, 1, 1, -1, -1], [-1, -1, -1, 1, 1], [1] * 5, [-1] * 5, [0] * 5, [1, 1, 1, 1, 0]],
)
def test_there_is_no_length_control_where_lengths_alone_tell_wins_from_losses(outcomes):
    lengths = [(30, 10), (20, 10), (10, 10), (10, 20), (10, 30)]
    assert win_rate.length_controlled_win_rate(pairs_of(outcomes, lengths)) is None
    assert win_rate.length_controlled_win_rate([]) is None


def test_a_constant_difference_of_lengths_cannot_be_controlled_for():
    assert win_rate.length_controlled_win_rate(pairs_of([1, -1, 1, 0], [(20, 10)] * 4)) is None


# ---- Power ----


@functools.cache
def is_found(wins, losses):
    return win_rate.sign_test(wins, losses) < 0.05


def simulated_power(rng, rate, num_pairs, ties, num_draws=20_000):
    draws = rng.multinomial(num_pairs, [rate - ties / 2, ties, 1 - rate - ties / 2], num_draws)
    return np.mean([is_found(int(wins), int(losses)) for wins, _, losses in draws])


@pytest.mark.parametrize(("rate", "ties"), [(0.6, 0.0), (0.6, 0.3), (0.75, 0.1), (0.9, 0.0), (0.55, 0.5)])
def test_the_pairs_that_plan_names_show_the_difference_with_80_of_100_draws(rate, ties):
    num_pairs = win_rate.num_pairs_needed(rate, ties)
    assert simulated_power(np.random.default_rng(0), rate, num_pairs, ties) == pytest.approx(
        win_rate.power(rate, num_pairs, ties), abs=0.02
    )
    assert win_rate.power(rate, num_pairs - 1, ties) < 0.8 <= win_rate.power(rate, num_pairs, ties) < 0.9


@pytest.mark.parametrize(("num_pairs", "ties"), [(252, 0.0), (252, 0.3), (179, 0.0), (40, 0.2)])
def test_the_win_rate_that_the_table_names_is_found_in_80_of_100_draws(num_pairs, ties):
    rate = win_rate.detectable_win_rate(num_pairs, ties)
    assert simulated_power(np.random.default_rng(0), rate, num_pairs, ties) == pytest.approx(0.8, abs=0.02)


def test_too_few_pairs_show_nothing():
    assert win_rate.detectable_win_rate(5) is None
    assert win_rate.detectable_win_rate(252, 1.0) is None


# ---- Tests and agreement ----


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_sums_the_binomial(wins, losses):
    n = wins + losses
    masses = [math.comb(n, k) / 2**n for k in range(n + 1)]
    # All outcomes that are no likelier than this one; the fair coin is symmetric.
    expected = sum(mass for mass in masses if mass <= masses[wins] * (1 + 1e-9))
    assert win_rate.sign_test(wins, losses) == pytest.approx(expected)


def test_krippendorffs_alpha_is_0_by_chance_and_that_of_the_published_example():
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four raters, nominal data, 0.743.
    raters = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    columns = zip(*(line.split() for line in raters), strict=True)
    assert win_rate.krippendorff_alpha([[int(r) for r in c if r != "."] for c in columns]) == pytest.approx(
        0.743, abs=5e-4
    )
    draw = random.Random(0)
    chance = [[draw.choice([-1, 1]) for _ in range(2)] for _ in range(5000)]
    assert win_rate.krippendorff_alpha(chance) == pytest.approx(0, abs=0.05)


def test_swapping_the_models_swaps_wins_and_losses():
    draw = random.Random(1)
    verdicts = [
        {"instruction": str(i), "input": "", "first": first, "verdict": draw.choice(["first", "second", "tie"])}
        for i in range(50)
        for first in (1, 2)
    ]
    swapped = [{**row, "first": 3 - row["first"]} for row in verdicts]
    table, other = (judge_table(("a", "b"), r).splitlines() for r in (verdicts, swapped))
    assert table[2].split()[1:] == other[3].split()[1:]
    assert table[3].split()[1:] == other[2].split()[1:]
    assert table[4] == other[4]
    assert table[9:] == other[9:]
