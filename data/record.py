"""Record a teacher's answers by hand: write the prompts of a run to text files, collect the answers from text files.

python -m data.record prompts --prompts_dir out/teacher --num_prompts 144
python -m data.record collect --completions_dir out/teacher

The first writes <prompts_dir>/prompt_000.txt and so on, exactly the requests of the generator with --seed 5. The
second reads completion_000.txt and so on, up to the first that is missing, and writes
data/teacher_completions.jsonl.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import re
from pathlib import Path

from generate_instruction import encode_prompt, load_seed_tasks, sample_seed_tasks
from utils import ROOT, UserError, atomic_write, run_commands

SEED_TASKS_PATH = ROOT / "seed_tasks.jsonl"
COMPLETIONS_PATH = ROOT / "data" / "teacher_completions.jsonl"
SEED = 5
NUM_PROMPT_INSTRUCTIONS = 3


def recorded_prompt(prompt_index: int) -> tuple[list[str], str]:
    """The ids of the seed tasks in a run's prompt_index-th prompt (from 0), and the prompt."""
    seed_tasks = load_seed_tasks(str(SEED_TASKS_PATH))
    sampled = sample_seed_tasks(seed_tasks, NUM_PROMPT_INSTRUCTIONS, SEED, prompt_index)
    return [task["id"] for task in sampled], encode_prompt(sampled)


def prompts(prompts_dir: str, num_prompts: int = 144) -> None:
    """Write the first num_prompts prompts of the run, one text file each."""
    folder = Path(prompts_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(num_prompts):
        (folder / f"prompt_{k:03}.txt").write_text(recorded_prompt(k)[1], encoding="utf-8")
    print(f"{num_prompts} prompts in {folder}; put the answers beside them, as completion_000.txt and so on.")


def collect(completions_dir: str) -> None:
    """Write the answers to data/teacher_completions.jsonl, each with its prompt and seed tasks."""
    folder = Path(completions_dir)
    label = f"{NUM_PROMPT_INSTRUCTIONS + 1}. Instruction:"
    recordings = []
    # The generator asks for one prompt after another, so what lies behind a gap could not be replayed.
    while (path := folder / f"completion_{len(recordings):03}.txt").is_file():
        seed_task_ids, prompt = recorded_prompt(len(recordings))
        # The prompt ends with the label; an answer may or may not say it again.
        completion = re.sub(rf"\A\s*(?:###\s*)?{re.escape(label)}", "", path.read_text(encoding="utf-8"))
        recordings.append(
            {
                "seed_task_ids": seed_task_ids,
                "prompt": prompt,
                "completion": " " + completion.strip(),
                "finish_reason": "stop",
            }
        )
    if not recordings:
        raise UserError(f"{folder}: no completion_000.txt. The answers lie there as completion_000.txt and so on.")
    COMPLETIONS_PATH.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(COMPLETIONS_PATH) as f:
        f.writelines(json.dumps(recording, ensure_ascii=False) + "\n" for recording in recordings)
    behind = len(list(folder.glob("completion_*.txt"))) - len(recordings)
    print(f"{len(recordings)} completions in {COMPLETIONS_PATH}; {path.name} is missing, {behind} behind it left out.")


if __name__ == "__main__":
    run_commands({"prompts": prompts, "collect": collect})
