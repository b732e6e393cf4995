"""What is still needed: fitted to the answers so far, and right within a quarter after a fifth of the tasks."""

import collections
import json
import random

import pytest

from alpaca.generation.forecast import Forecast
from alpaca.generation.novelty import NoveltyFilter
from generate_instruction import load_seed_tasks, parse_completion
from tests.helpers.commands import ROOT


def forecast_and_truth(answers: list[tuple[list[str], tuple[int, int]]], seeds: list[str], num_tasks: int):
    """(prompts, tokens) still needed after a fifth of num_tasks, by the forecast and in truth."""
    forecast, novelty = Forecast(), NoveltyFilter(seeds)
    need = None
    spent = collections.Counter()
    for instructions, tokens in answers:
        num_known = len(novelty.texts)
        kept = sum(verdict.is_novel for verdict in novelty.judge(instructions))
        forecast.observe(num_known, 1, len(instructions), kept)
        forecast.observe_cost(1, *tokens)
        spent.update(prompts=1, prompt_tokens=tokens[0], completion_tokens=tokens[1])
        num_kept = len(novelty.texts) - len(seeds)
        if need is None and num_kept >= num_tasks / 5:
            need, before = forecast.need(len(novelty.texts), num_tasks - num_kept), spent.copy()
        if num_kept >= num_tasks:
            break
    assert num_kept >= num_tasks
    return [(getattr(need, name), spent[name] - before[name]) for name in spent]


def assert_within_a_quarter(pairs) -> None:
    for expected, truth in pairs:
        assert 0.75 * truth <= expected <= 1.25 * truth


def test_the_recorded_teachers_run_is_foreseen():
    recordings = map(json.loads, (ROOT / "data" / "teacher_completions.jsonl").read_text("utf-8").splitlines())
    answers = []
    for recording in recordings:
        tasks, _ = parse_completion(3, recording["completion"], recording["finish_reason"])
        tokens = len(recording["prompt"].split()), len(recording["completion"].split())
        answers.append(([task["instruction"] for task in tasks], tokens))
    seeds = [task["instruction"] for task in load_seed_tasks(ROOT / "seed_tasks.jsonl")]
    assert_within_a_quarter(forecast_and_truth(answers, seeds, 2448))


@pytest.mark.parametrize("name", ["regen_reference_128.json", "regen_reference_73.json"])
def test_the_originals_runs_are_foreseen(name, reference_data):
    instructions = [task["instruction"] for task in json.loads((reference_data / name).read_text("utf-8"))]
    seeds = [task["instruction"] for task in load_seed_tasks(reference_data / "seed_tasks_reference.jsonl")]
    answers = [(instructions[i : i + 5], (500, 400)) for i in range(0, len(instructions), 5)]
    assert_within_a_quarter(forecast_and_truth(answers, seeds, len(instructions)))


@pytest.mark.parametrize(("tail", "num_tasks"), [(0.2, 500), (0.3, 500), (0.2, 4000), (0.3, 4000), (0.5, 4000)])
def test_a_share_that_falls_is_foreseen(tail, num_tasks):
    """A teacher that repeats itself: in the end, one task in three is new, or one in twenty."""
    rng = random.Random(1)
    known = set()
    while len(known) < 175:
        known.add(int(rng.paretovariate(tail) * 10))
    forecast, need, num_prompts, at_forecast = Forecast(), None, 0, 0
    while len(known) < 175 + num_tasks:
        num_known = len(known)
        known.update(int(rng.paretovariate(tail) * 10) for _ in range(17))
        forecast.observe(num_known, 1, 17, len(known) - num_known)
        num_prompts += 1
        if need is None and len(known) - 175 >= num_tasks / 5:
            need, at_forecast = forecast.need(len(known), 175 + num_tasks - len(known)), num_prompts
    assert_within_a_quarter([(need.prompts, num_prompts - at_forecast)])


def test_without_a_task_kept_there_is_no_forecast():
    forecast = Forecast()
    assert forecast.need(175, 100) is None
    forecast.observe(175, 1, 17, 0)
    forecast.observe(175, 1, 0, 0)
    assert forecast.need(175, 100) is None
