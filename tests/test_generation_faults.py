"""What a run of the generator survives: a server's faults, signals, kills, a full disk; and how the next goes on."""

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time

import pytest

from data.openai_server import OpenAIServer, answers_with, completion_of
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line
from tests.helpers.generation_data import (
    ONE_BY_ONE,
    arguments,
    assert_orderly_end,
    generate,
    instructions,
    log,
    make_tasks,
    regen,
    wait_until,
)

# Waits of a real run are of seconds; the tests look at what happens after them.
PATIENCE = "from alpaca.inference import server; server.FIRST_WAIT_SEC = 0.01"

PASSING = [
    "rate limit",
    "server error",
    "overloaded",
    "no choices",
    "error with status 200",
    "not JSON",
    "another JSON",
]
PASSING += ["dropped", "cut", "silent"]
SHORT_TIMEOUT = f"{PATIENCE}; server.REQUEST_TIMEOUT_SEC = 0.5"


def start(folder, server, settings="", **flags) -> forks.Forks:
    """What generate runs, without waiting for its end."""
    command = forks.python(*arguments(settings, output_dir="out", **flags))
    return forks.Forks(command, folder, PYTHONPATH=str(ROOT), **server.environment)


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_costs_no_task(fault, folder):
    tasks = make_tasks(40)
    with OpenAIServer(answers_with(tasks), faults=lambda number: fault if number % 2 == 0 else None) as server:
        result = generate(
            folder,
            server,
            SHORT_TIMEOUT,
            num_instructions_to_generate=40,
            **ONE_BY_ONE,
        )
    assert result.returncode == 0, result.stderr
    assert_orderly_end(folder, tasks)
    assert result.stderr.count("retry 1 of 7") == 4
    assert "Traceback" not in result.stderr


def test_all_passing_faults_mixed_cost_no_task(folder):
    rng = random.Random(0)
    tasks = make_tasks(400)
    with OpenAIServer(
        answers_with(tasks, 5), 0.01, faults=lambda number: rng.choice([*PASSING, *[None] * 20])
    ) as server:
        result = generate(folder, server, SHORT_TIMEOUT, num_instructions_to_generate=300, request_batch_size=2)
    assert result.returncode == 0, result.stderr
    kept = instructions(regen(folder))
    assert len(kept) == len(set(kept)) == 300
    assert set(kept) <= set(instructions(tasks))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong key", "OPENAI_API_KEY"),
        ("no permission", "denies permission"),
        ("unknown model", "retired"),
        ("no quota", "quota"),
        ("overloaded", "8 attempts in a row failed"),
    ],
)
def test_a_final_fault_ends_the_run_with_everything_saved(fault, words, folder):
    tasks = make_tasks(40)
    with OpenAIServer(answers_with(tasks), faults=lambda number: fault if number >= 2 else None) as server:
        result = generate(folder, server, PATIENCE, **ONE_BY_ONE)
    assert result.returncode == 1
    assert_fails_in_one_line(result, words)
    assert_orderly_end(folder, tasks[:20])
    assert re.search(r"kept +20\n", result.stdout)


def test_a_teacher_that_yields_nothing_is_stopped_after_20_requests(folder):
    task = make_tasks(1)[0]
    with OpenAIServer(lambda prompt: completion_of([task, {**task, "output": ""}])) as server:
        result = generate(folder, server, **ONE_BY_ONE)
    assert result.returncode == 1
    assert_fails_in_one_line(
        result,
        "20 requests in a row",
        "too similar to a known instruction: 20",
        "empty output: 21",
        f"The last reply begins '{task['instruction'][:20]}",
    )
    assert len(server.requests) in (21, 22)  # the next one may start while an answer is judged
    assert_orderly_end(folder, [task])


def test_the_budget_of_tokens_stops_new_requests_and_keeps_the_answers_under_way(folder):
    with OpenAIServer(answers_with(make_tasks(300)), latency_sec=0.3) as server:
        result = generate(
            folder,
            server,
            num_instructions_to_generate=250,
            request_batch_size=1,
            max_concurrent_requests=4,
            max_total_tokens=200,
        )
    assert result.returncode == 0, result.stderr
    assert "stopped at --max_total_tokens 200" in result.stderr
    assert re.search(r"\nstill needed for 210 tasks: about 2\d requests and [\d,]+ tokens\n", result.stdout)
    assert len(server.requests) == 4  # the first answer alone is more than the budget
    assert len(regen(folder)) == 40
    assert sorted(os.listdir(folder / "out")) == ["generation_log.jsonl", "regen.json"]


def test_a_budget_needs_a_server_that_reports_its_tokens(folder):
    with OpenAIServer(answers_with(make_tasks(200)), reports_usage=False) as server:
        assert_fails_in_one_line(generate(folder, server, max_total_tokens=1000), "--max_total_tokens")
        result = generate(folder, server, num_instructions_to_generate=20)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_orderly(signal_number, folder):
    tasks = make_tasks(60)
    play = answers_with(tasks)
    with OpenAIServer(play, faults=lambda number: "silent" if number >= 2 else None) as server:
        process = start(folder, server, **ONE_BY_ONE)
        wait_until(lambda: len(server.requests) == 3)
        process.send_signal(signal_number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + signal_number
    assert "Traceback" not in stderr
    assert "interrupted" in stderr.strip().splitlines()[-1]
    assert re.search(r"kept +20\n", stdout)
    assert_orderly_end(folder, tasks[:20])


def test_a_long_request_shows_life(folder):
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (24, 80))
    with OpenAIServer(None, faults=lambda number: "silent") as server:
        command = [sys.executable, *arguments(output_dir="out", request_batch_size=1, max_concurrent_requests=2)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **server.environment}
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=other_end, stdout=subprocess.DEVNULL)
        shown, end = b"", time.monotonic() + 60
        while b"2 under way, last answer 2 s ago" not in shown:
            shown += os.read(terminal, 4096)
            assert time.monotonic() < end
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def stored(folder) -> list[str]:
    """The instructions that are on disk after a kill: in regen.json, and whole in the journal."""
    regen_path, journal_path = folder / "out" / "regen.json", folder / "out" / "regen_journal.jsonl"
    kept = instructions(json.loads(regen_path.read_text("utf-8"))) if regen_path.exists() else []
    lines = journal_path.read_bytes().split(b"\n")[:-1] if journal_path.exists() else []
    for line in map(json.loads, lines):
        if line["position"] == len(kept):
            kept.append(line["task"]["instruction"])
    return kept


@pytest.mark.parametrize(("num_kills", "least_at_work"), [(7, 2), pytest.param(20, 10, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_double_nothing(num_kills, least_at_work, folder):
    rng = random.Random(1)
    before, num_kills_at_work = [], 0
    # More kills fall into the rewriting of regen.json.
    frequent = "from alpaca.generation import task_files; task_files.MIN_TASKS_TO_FOLD = 1"
    flags = {"num_instructions_to_generate": 1200, "request_batch_size": 1}
    with OpenAIServer(answers_with(make_tasks(4000), 4), latency_sec=0.01) as server:
        for _ in range(num_kills):
            num_requests = len(server.requests) + rng.randint(1, 20)
            process = start(folder, server, frequent, **flags)
            wait_until(lambda n=num_requests, p=process: len(server.requests) >= n or p.poll() is not None)
            time.sleep(rng.random() * 0.05)
            process.kill()
            process.communicate()
            after = stored(folder)
            assert after[: len(before)] == before
            num_kills_at_work += len(after) > len(before)
            before = after
        assert num_kills_at_work >= least_at_work
        result = generate(folder, server, **flags)
    assert result.returncode == 0, result.stderr
    final = instructions(regen(folder))
    assert final[: len(before)] == before
    assert len(final) == len(set(final)) == 1200
    assert sorted(os.listdir(folder / "out")) == ["generation_log.jsonl", "regen.json"]


def test_a_second_run_is_refused_while_the_first_lives_and_not_after_its_kill(folder):
    with OpenAIServer(answers_with(make_tasks(60)), faults=lambda number: "silent" if number == 0 else None) as server:
        first = start(folder, server, num_instructions_to_generate=10, request_batch_size=1)
        wait_until(lambda: server.requests)
        assert_fails_in_one_line(generate(folder, server), "another run is at work here")
        first.kill()
        first.communicate()
        result = generate(folder, server, num_instructions_to_generate=10, request_batch_size=1)
    assert result.returncode == 0, result.stderr
    assert len(regen(folder)) == 10


def test_a_full_disk_ends_the_run_in_one_line_and_the_next_run_goes_on(folder):
    tasks = make_tasks(200)
    full_disk = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"
    flags = {"num_instructions_to_generate": 100, **ONE_BY_ONE}
    with OpenAIServer(answers_with(tasks)) as server:
        result = generate(folder, server, full_disk, **flags)
        assert result.returncode == 1
        assert_fails_in_one_line(result, "File too large", "Make room")
        before = stored(folder)
        assert 10 <= len(before) < 100
        assert generate(folder, server, **flags).returncode == 0
    after = instructions(regen(folder))
    assert after[: len(before)] == before == instructions(tasks)[: len(before)]
    assert len(after) == len(set(after)) == 100


def test_a_regen_json_of_the_original_is_continued_and_kept_as_it_is(folder):
    old = [{**task, "most_similar_instructions": {"x": 0.25}, "avg_similarity_score": 0.1} for task in make_tasks(5, 7)]
    (folder / "out").mkdir()
    (folder / "out" / "regen.json").write_text(json.dumps(old, indent=4), encoding="utf-8")
    tasks = [*make_tasks(5, 7), *make_tasks(30)]  # known ones first
    with OpenAIServer(answers_with(tasks)) as server:
        result = generate(folder, server, num_instructions_to_generate=25, **ONE_BY_ONE)
    assert result.returncode == 0, result.stderr
    assert regen(folder)[:5] == old
    assert_orderly_end(folder, old + tasks[5:25])


def test_a_finished_run_makes_no_request_and_needs_no_key(folder):
    with OpenAIServer(answers_with(make_tasks(60))) as server:
        assert generate(folder, server, num_instructions_to_generate=20).returncode == 0
    num_requests = len(server.requests)
    for target in (20, 7):
        result = generate(folder, None, num_instructions_to_generate=target, timeout=60)
        assert result.returncode == 0, result.stderr
        assert "holds 20 tasks" in result.stdout
    assert len(server.requests) == num_requests
    assert len(regen(folder)) == 20


def test_a_resumed_run_with_a_seed_goes_on_to_new_prompts(folder):
    with OpenAIServer(answers_with(make_tasks(100))) as server:
        for target in (20, 40):
            generate(
                folder,
                server,
                num_instructions_to_generate=target,
                **ONE_BY_ONE,
                seed=2,
            )
    assert [line["prompt_indices"] for line in log(folder)] == [[0], [1], [2], [3]]
