"""Seed tasks and new tasks for the tests of the generator, made up from lists of words, and how it is run on them."""

import json
import os
import random
import subprocess
import time
from pathlib import Path

from data.openai_server import OpenAIServer
from tests.helpers import forks
from tests.helpers.commands import ROOT

SCRIPT = ROOT / "generate_instruction.py"
COMMAND = "generate_instruction_following_data"
ONE_BY_ONE = {"request_batch_size": 1, "max_concurrent_requests": 1}  # answers come in the order of the requests
VERBS, WORDS = (
    line.split()
    for line in (
        "Explain Compare Rewrite Translate Summarize Describe Classify Outline Improve Invent Justify Rank",
        "river castle garden market winter engine teacher harbour pencil kettle bridge forest lantern planet harvest "
        "ticket mirror violin carpet pepper saddle candle anchor button ladder marble needle orchard pillow quarry "
        "ribbon shelter temple umbrella valley window yogurt zipper basket copper dragon eagle feather glacier hammer",
    )
)


def make_tasks(num_tasks: int, seed: int = 0) -> list[dict]:
    """Tasks that the novelty filter keeps: any two instructions of twelve words share only a few."""
    rng = random.Random(seed)
    tasks = []
    for number in range(num_tasks):
        instruction = f"{rng.choice(VERBS)} the {' '.join(rng.sample(WORDS, 10))}."
        tasks.append(
            {"instruction": instruction, "input": rng.choice(["", "One.\nTwo."]), "output": f"Answer {number}."}
        )
    return tasks


def write_inputs(folder: Path, num_seed_tasks: int = 12) -> None:
    """A prompt.txt and a seed_tasks.jsonl in folder."""
    (folder / "prompt.txt").write_text("Write tasks.", encoding="utf-8")
    with open(folder / "seed_tasks.jsonl", "w", encoding="utf-8") as f:
        for number, task in enumerate(make_tasks(num_seed_tasks, seed=99)):
            instance = {"input": task["input"], "output": task["output"]}
            seed_task = {"id": f"seed_task_{number}", "name": "made_up", "instruction": task["instruction"]}
            f.write(json.dumps({**seed_task, "instances": [instance], "is_classification": False}) + "\n")


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_lines(path, lines) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return str(path)


def play_engine(requests: list[dict], answer) -> list[dict]:
    """A line of answer per request, in the order of the requests."""
    server = OpenAIServer(answer)  # not started: only its replies are wanted
    lines = []
    for request in requests:
        status, body = server.reply(request["url"], request["body"])
        response = {"status_code": status, "request_id": "0", "body": body}
        lines.append({"id": "0", "custom_id": request["custom_id"], "response": response, "error": None})
    server._server.server_close()
    return lines


def wait_until(condition, timeout_sec: float = 60) -> None:
    """Look again and again; fail after timeout_sec."""
    end = time.monotonic() + timeout_sec
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def arguments(settings: str = "", **flags) -> list[str]:
    """The command line, with settings (Python statements) that come before it."""
    script = ["-c", f"{settings}; import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"]
    return [*(script if settings else [str(SCRIPT)]), COMMAND, *(f"--{k}={v}" for k, v in flags.items())]


def generate(folder, server, settings="", timeout=120, **flags) -> subprocess.CompletedProcess:
    """Run the command in folder, with output_dir out."""
    environment = {"PYTHONPATH": str(ROOT), **(server.environment if server else {})}
    flags = {"output_dir": "out", **flags}
    return forks.run(*arguments(settings, **flags), cwd=folder, timeout=timeout, **environment)


def regen(folder) -> list[dict]:
    return json.loads((folder / "out" / "regen.json").read_text(encoding="utf-8"))


def log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "out" / "generation_log.jsonl").read_text("utf-8").splitlines()]


def instructions(tasks) -> list[str]:
    return [task["instruction"] for task in tasks]


def assert_orderly_end(folder, tasks) -> None:
    """regen.json alone holds all of tasks, in order."""
    assert sorted(os.listdir(folder / "out")) == ["generation_log.jsonl", "regen.json"]
    assert instructions(regen(folder)) == instructions(tasks)
