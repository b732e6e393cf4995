"""Where a task of regen.json comes from, by the log beside it, and whether every record fits.

A line of the log says of a request: first_task, the index of the first task that it added, and kept; per prompt its
prompt_indices, seed_task_ids, completions_sha256 (a hash of the completion as it came) and tasks_sha256 (a hash of
json.dumps of each task kept from it); line_sha256, of the line itself without this field.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from alpaca.examples import parse_json_line
from alpaca.generation.task_files import read_regen, regen_text, sealed, sha256
from utils import UserError, os_errors_in_one_line, printable

LOG_NAME = "generation_log.jsonl"


def check_records(output_dir: str) -> str:
    """Go through the whole folder; how much was checked. Raises UserError, with the first task whose record does not
    fit: a byte of regen.json or of the log that is another one than the run wrote is found."""
    regen_path, log_path = paths(output_dir)
    hashes, first, damage = read_hashes(log_path)
    num_tasks, num_bytes = 0, 0
    try:
        for text, task in read_regen(regen_path):
            if num_tasks >= first:
                if num_tasks == first + len(hashes):
                    raise UserError(damage or f"no line of {log_path} tells where it comes from.")
                if sha256(json.dumps(task)) != hashes[num_tasks - first] or text != regen_text(num_tasks, task):
                    raise UserError(f"it is not as the run wrote it to {regen_path}.")
            num_bytes += len(text.encode())
            num_tasks += 1
        if damage or num_tasks < first + len(hashes):
            raise UserError(damage or f"{regen_path} does not hold it.")
        if regen_path.read_bytes()[num_bytes:] != b"\n]" and hashes:
            raise UserError(f"{regen_path} does not end as the run wrote it.")
    except UserError as error:
        raise UserError(f"task {num_tasks}: {error}") from None
    older = f" ({first:,} are older than the log)" if first else ""
    return f"{regen_path}: {num_tasks:,} tasks{older}, and every record fits."


def read_hashes(log_path: Path) -> tuple[list[str], int, str]:
    """The hash of each task from the index first on, first, and what is wrong with the first line that is damaged."""
    hashes: list[str] = []
    first = None
    try:
        for number, entry in log_lines(log_path):
            if "first_task" not in entry:  # of a run that kept no such record
                continue
            if first is None or entry["first_task"] < first:  # or the log of tasks that were moved away ends here
                hashes, first = [], entry["first_task"]
            del hashes[entry["first_task"] - first :]
            if entry["first_task"] > first + len(hashes):
                raise UserError(f"{log_path}, line {number}: the line before it is missing.")
            hashes += itertools.chain.from_iterable(entry["tasks_sha256"])
    except UserError as error:
        return hashes, first or 0, str(error)
    return hashes, first or 0, ""


def describe(output_dir: str, number: int) -> str:
    """Where the task with this index comes from, and what it was kept beside. Raises UserError where nothing tells."""
    regen_path, log_path = paths(output_dir)
    instructions, task = [], None
    for _, task in itertools.islice(read_regen(regen_path), number + 1):
        instructions.append(task["instruction"])
    if task is None or len(instructions) <= number:
        raise UserError(f"{regen_path} has {len(instructions):,} tasks, no number {number}; the first one is 0.")
    try:
        line_number, entry = find_line(log_path, number)
        rows = _origin(task, number, instructions, entry, f"{LOG_NAME}, line {line_number}")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise UserError(f"{regen_path}, task {number}, or its line of {log_path}: not as a run writes it.") from None
    return "\n".join(printable(f"{name:<12}{text}") for name, text in rows)


def _origin(task: dict, number: int, instructions: list[str], entry: dict, place: str) -> list[tuple[str, str]]:
    """What a task and its line of the log tell."""
    hashes = [(sha, position) for position, of_prompt in enumerate(entry["tasks_sha256"]) for sha in of_prompt]
    sha, position = hashes[number - entry["first_task"]]
    fits = "fits" if sha == sha256(json.dumps(task)) else "DOES NOT FIT: the task was changed since"
    similar = task["most_similar_instructions"]
    rows = [
        ("task", f"{number}: {task['instruction']}"),
        ("request", f"{place}, of {entry['time']}"),
        ("prompt", f"{entry['prompt_indices'][position]} of seed {entry['seed']}"),
        ("seed tasks", ", ".join(map(str, entry["seed_task_ids"][position]))),
        ("model", f"{entry['model']} ({entry['api']})"),
        ("completion", f"SHA-256 {entry['completions_sha256'][position]}"),
        ("record", fits),
        ("kept", f"highest ROUGE-L {max(similar.values(), default=0):.3f}, at most {entry['similarity_threshold']}"),
        ("beside it", f"{entry['kept']} of {entry['parsed']} tasks of the request were kept"),
        *(("dropped", f"{count}: {reason}") for reason, count in entry["dropped"].items()),
    ]
    known = {text: f"task {i}" for i, text in enumerate(instructions[:number])}
    rows += [("neighbour", f"{score:.3f}, {known.get(text, 'seed task')}: {text}") for text, score in similar.items()]
    return rows


def find_line(log_path: Path, number: int) -> tuple[int, dict]:
    """The last line of the log, with its number, that added the task."""
    found = None
    for line_number, entry in log_lines(log_path):
        first = entry.get("first_task")
        if first is not None and first <= number < first + entry["kept"]:
            found = line_number, entry
    if found is None:
        raise UserError(f"no line of {log_path} tells where task {number} comes from; it may be older than the log.")
    return found


def log_lines(log_path: Path) -> Iterator[tuple[int, dict]]:
    """(number, what it holds) of each line of the log. Raises UserError for one that is not as a run wrote it."""
    with os_errors_in_one_line(log_path), open(log_path, "rb") as f:
        for number, line in enumerate(f, start=1):
            place = f"{log_path}, line {number}"
            entry = parse_json_line(line, place)
            if not isinstance(entry, dict):
                raise UserError(f"{place}: not a line of a run.")
            has_record = {"first_task", "tasks_sha256", "line_sha256"} & entry.keys()
            if has_record and json.dumps(sealed(entry)).encode() + b"\n" != line:
                raise UserError(f"{place}: it is not as the run wrote it.")
            yield number, entry


def paths(output_dir: str) -> tuple[Path, Path]:
    """regen.json and the log of a run that has ended. Raises UserError where there are none."""
    folder = Path(output_dir)
    if (folder / "regen_journal.jsonl").exists():
        raise UserError(
            f"{folder}: a run is at work here or was killed. Let it end, or start it again, and trace then."
        )
    for name in ("regen.json", LOG_NAME):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file. Name the folder of a run with --output_dir.")
    return folder / "regen.json", folder / LOG_NAME
