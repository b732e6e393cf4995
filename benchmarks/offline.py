"""A whole batch read: seconds and memory to judge and store 52,000 tasks in 4,000 answers, and in a gigabyte of them.

python -m benchmarks.offline [--num_requests 4000]

Each answer, in the format of `vllm run-batch`, holds 13 tasks with made-up instructions of realistic lengths; a
read_batch of its own reads them: once with outputs of 60 words, once with as many as make the file a gigabyte.
Prints both, saves them in benchmarks/results/offline.txt, and ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import machine, print_and_save, usage_of
from benchmarks.novelty import make_instructions
from data.openai_server import completion_of
from utils import ROOT

TASKS_PER_ANSWER, GIGABYTE = 13, 10**9


def write_answers(path: Path, num_requests: int, output: str) -> None:
    """Answers to the requests 0-0, 0-1, ..., as an engine writes them."""
    instructions = make_instructions(TASKS_PER_ANSWER * num_requests)
    with open(path, "w", encoding="utf-8") as f:
        for index in range(num_requests):
            own = instructions[TASKS_PER_ANSWER * index : TASKS_PER_ANSWER * (index + 1)]
            text = completion_of([{"instruction": instruction, "input": "", "output": output} for instruction in own])
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = {"object": "chat.completion", "model": "m", "choices": [choice]}
            answer = {"custom_id": f"0-{index}", "response": {"status_code": 200, "body": body}, "error": None}
            f.write(json.dumps(answer) + "\n")


def read(folder: str, num_requests: int, words_per_output: int) -> dict:
    """One read_batch, from its start to its end."""
    answers, tasks = Path(folder) / "answers.jsonl", Path(folder) / f"{words_per_output}" / "regen.json"
    write_answers(answers, num_requests, "word " * words_per_output)
    command = [sys.executable, ROOT / "generate_instruction.py", "read_batch", answers, f"--output_dir={tasks.parent}"]
    usage = usage_of(command)
    num_kept = tasks.read_text(encoding="utf-8").count('"most_similar_instructions"')
    return {"gigabytes": answers.stat().st_size / GIGABYTE, "kept": num_kept, **usage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_requests", type=int, default=4_000)
    num_requests = parser.parse_args().num_requests
    words_of_a_gigabyte = round(GIGABYTE / (num_requests * TASKS_PER_ANSWER * len("word ")))
    with tempfile.TemporaryDirectory() as folder:
        results = [read(folder, num_requests, words) for words in (60, words_of_a_gigabyte)]
    lines = [f"{machine()}: {num_requests:,} answers of {TASKS_PER_ANSWER} tasks"]
    lines.append("answers in GB  tasks kept  seconds  processor  peak MB")
    for row in results:
        lines.append("{gigabytes:>13.2f}{kept:>12,}{sec:>9.1f}{cpu_sec:>11.1f}{peak_mb:>9,.0f}".format(**row))
    print_and_save("offline", [*lines, json.dumps(results)])


if __name__ == "__main__":
    main()
