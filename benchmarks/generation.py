"""The generator against a server with 1 s latency: requests per second, beside the most that 8 in flight allow.

python -m benchmarks.generation [--num_requests 240]

regen.json holds 52,000 tasks to begin with, so each new task is scored against 52,000 instructions and more; a request
carries five prompts, an answer five completions of 17 tasks. The server and the generator share this machine. Prints
the throughput between the first request and the last answer, its share of 8 / latency, and the generator's time and
memory; saves them in benchmarks/results/generation.txt, and ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import machine, print_and_save, usage_of
from benchmarks.novelty import make_instructions
from data.openai_server import OpenAIServer, answers_with
from utils import ROOT

NUM_KNOWN, LATENCY_SEC, NUM_IN_FLIGHT, TASKS_PER_PROMPT, TASKS_PER_REQUEST = 52_000, 1.0, 8, 17, 85


def write_known_tasks(path: Path, instructions: list[str]) -> None:
    """A regen.json of realistic size, 1.4 kB a task, and therefore of 73 MB."""
    similar = {text: 0.25 for text in instructions[:10]}
    scores = {"most_similar_instructions": similar, "avg_similarity_score": 0.1}
    tasks = [{"instruction": text, "input": "", "output": "word " * 120, **scores} for text in instructions]
    path.write_text(json.dumps(tasks, indent=4), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_requests", type=int, default=240, help="about that many; 8 take a second")
    num_requests = parser.parse_args().num_requests
    instructions = make_instructions(NUM_KNOWN + TASKS_PER_REQUEST * (num_requests + NUM_IN_FLIGHT))
    new_tasks = [{"instruction": text, "input": "", "output": "word " * 60} for text in instructions[NUM_KNOWN:]]
    command = [sys.executable, ROOT / "generate_instruction.py", "generate_instruction_following_data"]
    command += [f"--num_instructions_to_generate={NUM_KNOWN + round(0.9 * TASKS_PER_REQUEST * num_requests)}"]
    command += [f"--max_concurrent_requests={NUM_IN_FLIGHT}"]
    with tempfile.TemporaryDirectory() as folder:
        write_known_tasks(Path(folder) / "regen.json", instructions[:NUM_KNOWN])
        with OpenAIServer(answers_with(new_tasks, TASKS_PER_PROMPT), LATENCY_SEC) as server:
            usage = usage_of([*command, f"--output_dir={folder}"], **server.environment)
        log_text = (Path(folder) / "generation_log.jsonl").read_text(encoding="utf-8")
    log = [json.loads(line) for line in log_text.splitlines()]
    answered = sorted(request["end"] for request in server.requests)[: len(log)]
    seconds = answered[-1] - server.requests[0]["start"]
    result = {
        "requests": len(log),
        "tasks_kept": sum(line["kept"] for line in log),
        "seconds": seconds,
        "requests_per_sec": len(log) / seconds,
        "share_of_ideal": len(log) / seconds / (NUM_IN_FLIGHT / LATENCY_SEC),
        "cpu_sec": usage["cpu_sec"],
        "peak_mb": usage["peak_mb"],
    }
    lines = [machine(), *(f"{name:<20}{value:>12,.2f}" for name, value in result.items()), json.dumps(result)]
    print_and_save("generation", lines)


if __name__ == "__main__":
    main()
