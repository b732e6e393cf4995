"""Batches in files: written, answered by a script that plays the engine, and read back as the online command would."""

import json
import random
import signal
import time

import pytest

from data.openai_server import OpenAIServer, answers_with, recorded_answers
from generate_instruction import (
    encode_prompt,
    generate_instruction_following_data,
    load_seed_tasks,
    read_batch,
    sample_seed_tasks,
    trace,
    write_batch,
)
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line
from tests.helpers.generation_data import make_tasks, play_engine, read_lines, write_lines
from utils import UserError

SCRIPT = ROOT / "generate_instruction.py"
RECORDINGS = ROOT / "data" / "teacher_completions.jsonl"


@pytest.fixture
def folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def answered_batch(folder, num_requests=20, tasks_per_answer=5, **flags) -> list[dict]:
    """The answers to a batch of seed 7, each with other tasks."""
    write_batch("batch.jsonl", num_requests, seed=7, model_name="m", **flags)
    tasks = make_tasks(num_requests * tasks_per_answer)
    return play_engine(read_lines(folder / "batch.jsonl"), answers_with(tasks, tasks_per_answer))


def read_in_order(folder, answers, output_dir="expected") -> bytes:
    read_batch([write_lines(folder / "whole.jsonl", answers)], output_dir)
    return (folder / output_dir / "regen.json").read_bytes()


# The same as online


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_recorded_teachers_answers_give_the_file_of_the_online_command(api, folder, monkeypatch):
    flags = {"seed_tasks_path": str(ROOT / "seed_tasks.jsonl"), "prompt_path": str(ROOT / "prompt.txt")}
    write_batch("batch.jsonl", 144, seed=5, model_name="davinci", api=api, parts=8, **flags)
    parts = [folder / f"batch-{part}-of-8.jsonl" for part in range(1, 9)]
    requests = [request for path in parts for request in read_lines(path)]
    assert [request["custom_id"] for request in requests] == [f"5-{index}" for index in range(144)]
    with OpenAIServer(recorded_answers(str(RECORDINGS))) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        one_by_one = {"request_batch_size": 1, "max_concurrent_requests": 1, "max_total_tokens": 260_055}
        generate_instruction_following_data(
            "online", num_instructions_to_generate=9999, seed=5, model_name="davinci", api=api, **one_by_one, **flags
        )
    assert server.requests[0]["body"] == requests[0]["body"]
    answers = play_engine(requests, recorded_answers(str(RECORDINGS)))
    random.Random(0).shuffle(answers)
    halves = [write_lines(folder / f"{i}.jsonl", answers[i::2]) for i in range(2)]
    read_batch(halves, "offline", **flags)
    assert (folder / "offline" / "regen.json").read_bytes() == (folder / "online" / "regen.json").read_bytes()
    assert len(json.loads((folder / "offline" / "regen.json").read_text())) == 2448
    for output_dir in ("online", "offline"):
        trace(output_dir, check=True)
    fields = ("first_task", "kept", "seed_task_ids", "completions_sha256", "tasks_sha256", "prompt_indices", "seed")
    online, offline = (read_lines(folder / name / "generation_log.jsonl") for name in ("online", "offline"))
    assert [[a[field] for field in fields] for a in online] == [[a[field] for field in fields] for a in offline]


@pytest.mark.parametrize("name", ["regen_reference_128.json", "regen_reference_73.json"])
def test_the_originals_tasks_give_the_originals_file(name, folder, reference_data):
    reference = json.loads((reference_data / name).read_text(encoding="utf-8"))
    seeds = {"seed_tasks_path": str(reference_data / "seed_tasks_reference.jsonl")}
    write_batch("batch.jsonl", -(-len(reference) // 17), **seeds)
    answers = play_engine(read_lines(folder / "batch.jsonl"), answers_with(reference, 17))
    read_batch([write_lines(folder / "results.jsonl", answers[::-1])], "out", drop_malformed=False, **seeds)
    assert (folder / "out" / "regen.json").read_bytes() == (reference_data / name).read_bytes()


def test_a_request_can_be_made_again_from_its_custom_id(folder):
    write_batch("batch.jsonl", 3, seed=-4, model_name="m", temperature=0.5)
    seed_tasks = load_seed_tasks(folder / "seed_tasks.jsonl")
    prompts = [encode_prompt(sample_seed_tasks(seed_tasks, 3, -4, k), folder / "prompt.txt") for k in range(3)]
    decoding = {"max_tokens": 3072, "temperature": 0.5, "top_p": 1.0, "n": 1, "stop": ["###\n21."]}
    assert read_lines(folder / "batch.jsonl") == [
        {
            "custom_id": f"-4-{k}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", **decoding, "messages": [{"role": "user", "content": prompt}]},
        }
        for k, prompt in enumerate(prompts)
    ]


# What an engine may give back


def test_answers_that_are_mixed_up_repeated_missing_refused_and_foreign_are_each_treated_as_they_are(folder, capsys):
    answers = answered_batch(folder)
    expected = read_in_order(folder, [a for a in answers if a["custom_id"] not in ("7-3", "7-8", "7-12", "7-15")])
    lines = [line for line in answers if line["custom_id"] != "7-12"]  # missing
    lines[3] = {"custom_id": "7-3", "response": None, "error": {"code": "batch_expired", "message": "It expired."}}
    failed = {"status_code": 500, "body": {"error": {"message": "Internal error."}}}
    lines[8] = {"custom_id": "7-8", "response": failed, "error": None}
    next(line for line in lines if line["custom_id"] == "7-15")["response"]["body"]["choices"] = []
    lines += [answers[2], {**answers[4], "custom_id": "request-1"}]
    lines.append({**answers[5], "response": {"status_code": 500, "body": {}}})  # a second try that failed
    random.Random(1).shuffle(lines)
    capsys.readouterr()
    read_batch([write_lines(folder / "results.jsonl", lines)], "out")
    assert (folder / "out" / "regen.json").read_bytes() == expected
    summary = capsys.readouterr().out
    for words in ("16 answers read", "3 refused", "1 came twice", "1 prompts before the last", "1 of another batch"):
        assert words in summary
    requests = {request["custom_id"]: request for request in read_lines(folder / "batch.jsonl")}
    retry = read_lines(folder / "out" / "retry.jsonl")
    assert sorted(retry, key=json.dumps) == sorted((requests[f"7-{k}"] for k in (3, 8, 15)), key=json.dumps)
    # What is sent again is read in the end, and nothing is read twice.
    later = play_engine(retry, answers_with(make_tasks(15, seed=3), 5))
    read_batch([write_lines(folder / "later.jsonl", later[:2]), "results.jsonl"], "out")
    assert [line["custom_id"] for line in read_lines(folder / "out" / "retry.jsonl")] == [later[2]["custom_id"]]
    read_batch([write_lines(folder / "later.jsonl", later)], "out")
    assert len(json.loads((folder / "out" / "regen.json").read_text())) == 95
    assert not (folder / "out" / "retry.jsonl").exists()
    trace("out", check=True)


def test_an_answer_that_the_token_limit_cut_off_loses_its_last_task(folder):
    answers = answered_batch(folder, 1)
    answers[0]["response"]["body"]["choices"][0]["finish_reason"] = "length"
    assert len(json.loads(read_in_order(folder, answers))) == 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"custom_id": "7-4", "resp\n', "line 5, column 22: not JSON"),
        (b"[]\n", "line 5: not an answer"),
        (b'{"custom_id": 5, "response": {}}\n', "line 5: not an answer"),
        (b'{"custom_id": "\xff"}\n', "line 5, byte 15: not UTF-8"),
    ],
)
def test_a_damaged_line_is_named_before_anything_is_stored(line, words, folder):
    lines = (folder / write_lines(folder / "results.jsonl", answered_batch(folder))).read_bytes().splitlines(True)
    (folder / "results.jsonl").write_bytes(b"".join([*lines[:4], line, *lines[5:]]))
    with pytest.raises(UserError, match=words):
        read_batch(["results.jsonl"], "out")
    assert not (folder / "out").exists()
    (folder / "results.jsonl").write_bytes(b"".join(lines)[:-20])  # cut off by a lost connection
    with pytest.raises(UserError, match="line 20, column"):
        read_batch(["results.jsonl"], "out")


def test_no_file_of_another_kind_is_replaced(folder):
    answers = answered_batch(folder, 2)
    answers[0]["response"]["status_code"] = 500
    write_lines(folder / "results.jsonl", answers)
    (folder / "notes.jsonl").write_text("my notes")
    (folder / "out").mkdir()
    (folder / "out" / "retry.jsonl").write_text("my notes")
    with pytest.raises(UserError, match="something else than a batch"):
        write_batch("notes.jsonl", 2)
    with pytest.raises(UserError, match="something else than a batch"):
        read_batch(["results.jsonl"], "out")
    assert (folder / "notes.jsonl").read_text() == (folder / "out" / "retry.jsonl").read_text() == "my notes"
    with pytest.raises(UserError, match="no answer to a batch of write_batch"):
        read_batch([write_lines(folder / "foreign.jsonl", [{**answers[1], "custom_id": "x"}])], "other")


def test_mistakes_on_the_command_line_are_one_line(folder):
    failed = write_lines(folder / "failed.jsonl", [{"custom_id": "7-0", "response": None, "error": "no"}])
    for command, words in [
        (("write_batch", "--api", "auto"), "--api auto"),
        (("write_batch", "--num_requests", "3", "--parts", "4"), "--parts 4"),
        (("write_batch", "--output_path", "no/batch.jsonl"), "there is no folder no"),
        (("read_batch",), "needs --responses_path"),
        (("read_batch", "--responses_path", "no.jsonl"), "no.jsonl: No such file"),
        (("read_batch", "--responses_path", failed, failed), "--model_name"),
        (("trace",), "--task 17"),
        (("trace", "--check", "True", "--output_dir", "no"), "no/regen.json: no such file"),
        (("generate_instruction_following_data", "--price_per_million", "0.15"), "two prices"),
    ]:
        assert_fails_in_one_line(forks.run(SCRIPT, *command, cwd=folder, OPENAI_API_KEY="x"), words)


# What reading survives


def start(folder, *settings: str) -> forks.Forks:
    code = f"{'; '.join(settings) or 'pass'}; import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = forks.python("-c", code, "read_batch", "--responses_path", "results.jsonl", "--output_dir", "out")
    return forks.Forks(command, folder, PYTHONPATH=str(ROOT))


FREQUENT = "from alpaca.generation import task_files; task_files.MIN_TASKS_TO_FOLD = 1"
# Each answer takes a while, so that kills fall between and into them.
SLOW = "import time; from alpaca.generation import task_pool as p; add = p.TaskPool.add; p.TaskPool.add = "
SLOW += "lambda *arguments: (time.sleep(0.005), add(*arguments))"


@pytest.mark.slow  # 22 processes
def test_twenty_kills_while_reading_lose_nothing_and_double_nothing(folder):
    answers = answered_batch(folder, 300, 4)
    expected = read_in_order(folder, answers)
    random.Random(2).shuffle(answers)
    write_lines(folder / "results.jsonl", answers)
    rng, num_at_work = random.Random(3), 0
    log_path = folder / "out" / "generation_log.jsonl"
    for _ in range(20):
        size = log_path.stat().st_size if log_path.exists() else 0
        process = start(folder, FREQUENT, SLOW)
        end = time.monotonic() + 60
        while not (log_path.exists() and log_path.stat().st_size > size) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        num_at_work += process.poll() is None
        process.kill()
        process.communicate()
    assert num_at_work >= 5
    assert start(folder, FREQUENT).wait(120) == 0
    assert (folder / "out" / "regen.json").read_bytes() == expected
    read = [line["custom_id"] for line in read_lines(log_path)]
    assert len(read) == len(set(read)) == 300
    trace("out", check=True)


def test_an_interrupt_ends_between_two_answers_and_a_full_disk_in_one_line(folder):
    expected = read_in_order(folder, answered_batch(folder, 100, 4))
    (folder / "whole.jsonl").rename(folder / "results.jsonl")
    process = start(folder, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert "File too large" in stderr.strip().splitlines()[-1]
    process = start(folder, SLOW)
    while process.poll() is None and not (folder / "out" / "regen_journal.jsonl").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (143, -15, 0)
    assert start(folder).wait(60) == 0
    assert (folder / "out" / "regen.json").read_bytes() == expected
    trace("out", check=True)
