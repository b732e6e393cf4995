"""Rebuild alpaca_data.json from the recorded answers of the teacher, byte for byte.

python -m data.build alpaca_data
python -m data.build replay --num_instructions_to_generate 100 --output_dir out/quick_start

The first lets generate_instruction.py ask a local server that plays all of data/teacher_completions.jsonl, lets it
read the answers to a batch of prompts for longer tasks, data/teacher_answers_long.jsonl, applies data/corrections.json
to what it kept, and writes alpaca_data.json. The second stops after the server, and leaves its regen.json in
<output_dir>.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from alpaca.examples import FIELDS, load_examples
from data.openai_server import OpenAIServer, recorded_answers
from generate_instruction import LAST_TASK_NUMBER, read_batch
from utils import ROOT, UserError, check_output_path, jdump, jload, run_commands

DATA_PATH = ROOT / "alpaca_data.json"
SEED_TASKS_PATH = ROOT / "seed_tasks.jsonl"
COMPLETIONS_PATH = ROOT / "data" / "teacher_completions.jsonl"
CORRECTIONS_PATH = ROOT / "data" / "corrections.json"
SEED, NUM_PROMPT_INSTRUCTIONS = 5, 3  # of the run whose prompts the teacher answered
# `write_batch --prompt_path data/prompt_long.txt --seed 6 --num_requests 300 --api completions` wrote these prompts.
ANSWERS_PATH = ROOT / "data" / "teacher_answers_long.jsonl"
LONG_PROMPT_PATH = ROOT / "data" / "prompt_long.txt"


def load_recordings() -> list[dict]:
    """The requests in their order: seed_task_ids, prompt, completion, finish_reason."""
    return [json.loads(line) for line in COMPLETIONS_PATH.read_text(encoding="utf-8").splitlines()]


def replay(output_dir: str, num_instructions_to_generate: int | None = None) -> None:
    """Run generate_instruction.py on the recordings, all of them where no number of tasks is given.

    Args:
        output_dir: Folder for regen.json and the log; a regen.json that lies there is continued.
        num_instructions_to_generate: Tasks in regen.json at the end.
    """
    recordings = load_recordings()
    most_tasks = LAST_TASK_NUMBER - NUM_PROMPT_INSTRUCTIONS  # in one completion
    flags = {
        "output_dir": str(Path(output_dir).resolve()),
        "seed_tasks_path": SEED_TASKS_PATH,
        "prompt_path": ROOT / "prompt.txt",
        "num_instructions_to_generate": num_instructions_to_generate or most_tasks * len(recordings),
        "num_prompt_instructions": NUM_PROMPT_INSTRUCTIONS,
        "seed": SEED,
        # One request after another: the order in which answers arrive decides which of two similar tasks is kept.
        "request_batch_size": 1,
        "max_concurrent_requests": 1,
        "num_cpus": 1,
        # The local server counts words. When the last recording has been played, the budget is used up.
        "max_total_tokens": sum(len(r["prompt"].split()) + len(r["completion"].split()) for r in recordings),
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    with OpenAIServer(recorded_answers(COMPLETIONS_PATH)) as server:
        result = subprocess.run(
            [sys.executable, "-m", "generate_instruction", "generate_instruction_following_data", *arguments],
            cwd=ROOT,
            env={**os.environ, **server.environment},
            check=False,
        )
    if result.returncode != 0:
        raise UserError(f"generate_instruction.py ended with exit code {result.returncode}; its message is above.")


def alpaca_data(data_path: str = str(DATA_PATH)) -> None:
    """Replay all recordings, apply the corrections, and write the data.

    Args:
        data_path: JSON file to write. One that is there already is replaced if it comes from the recordings.
    """
    check_output_path(data_path)
    if Path(data_path).exists() and not is_from_recordings(data_path):
        raise UserError(f"{data_path}: not made by this command, so it stays. Name another --data_path.")
    with tempfile.TemporaryDirectory() as folder:
        replay(folder)
        read_batch(
            [str(ANSWERS_PATH)],
            folder,
            str(SEED_TASKS_PATH),
            num_prompt_instructions=NUM_PROMPT_INSTRUCTIONS,
            prompt_path=str(LONG_PROMPT_PATH),
        )
        tasks = [{name: task[name] for name in FIELDS} for task in jload(Path(folder) / "regen.json")]
    corrections = jload(CORRECTIONS_PATH)
    corrected = apply_corrections(tasks, corrections)
    jdump(corrected, data_path)
    num_removed = len(tasks) - len(corrected)
    print(f"{len(tasks):,} tasks kept by the generator, {num_removed} of them removed by hand,")
    print(f"{len(corrections) - num_removed} corrected: {len(corrected):,} examples in {data_path}")


def is_from_recordings(path: str) -> bool:
    """Do most instructions of a data file, of a hundred of them, stand in the recordings? Others were corrected."""
    recorded = json.dumps([recording["completion"] for recording in load_recordings()])
    recorded += ANSWERS_PATH.read_text(encoding="utf-8")
    try:
        examples = load_examples(path)
    except UserError:
        return False
    sample = [json.dumps(example["instruction"])[1:-1] for example in examples[:: len(examples) // 100 + 1]]
    return sum(instruction in recorded for instruction in sample) > len(sample) / 2


def apply_corrections(tasks: list[dict], corrections: list[dict]) -> list[dict]:
    """The tasks with each correction's replacement in place, and without those whose replacement is null.

    A correction is {"instruction", "reason", "replacement"}; a replacement holds the parts that change.

    >>> task = {"instruction": "Add 1 and 1.", "input": "", "output": "3"}
    >>> apply_corrections([task], [{"instruction": task["instruction"], "reason": "", "replacement": {"output": "2"}}])
    [{'instruction': 'Add 1 and 1.', 'input': '', 'output': '2'}]
    """
    replacements = {correction["instruction"]: correction["replacement"] for correction in corrections}
    if len(replacements) < len(corrections):
        raise UserError(f"{CORRECTIONS_PATH}: two corrections of the same instruction.")
    corrected = []
    for task in tasks:
        replacement = replacements.pop(task["instruction"], {})
        if replacement is not None:
            corrected.append({**task, **replacement})
    if replacements:
        raise UserError(f"{CORRECTIONS_PATH}: no task has the instruction {next(iter(replacements))!r}.")
    return corrected


if __name__ == "__main__":
    run_commands({"alpaca_data": alpaca_data, "replay": replay})
