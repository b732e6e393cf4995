"""The tasks of a generation run on disk: regen.json, beside it a journal of the tasks that it does not hold yet, and a
log that says of every task where it came from.

A task counts once its line is in the journal, flushed to the disk. Now and then, and at an orderly end, regen.json is
written anew with all tasks and the journal emptied. Killed at any instant, the two files together hold every task
that counted; a line says which task it is, so one that is in both is read once. The first line of an answer's tasks
holds the answer's line of the log, too, so that a kill between the two costs no record. In memory are the instructions
alone: a million tasks take 1.4 GB on the disk.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import codecs
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from alpaca.row_files import AppendOnlyFile
from utils import UserError, atomic_write, check_regular, jload, os_errors_in_one_line

MIN_TASKS_TO_FOLD = 64
READ_AT_ONCE = 2**20  # characters
# What stands in a JSON list before the first entry, between two, after the last one, and where there is none.
OPENING, COMMA, CLOSING, EMPTY = (
    re.compile(pattern.replace(" ", r"[ \t\r\n]*")) for pattern in (r" \[ ", " , ", r" \] ", r" \[ \] ")
)


class TaskFiles:
    """The files in an output folder: regen.json and its journal, and the log of requests.

    Raises UserError where another run holds the folder, where a file is damaged (which is left as it is), and where
    the disk takes no more. answers_per_sync: how many answers may wait for the disk together, and for a line of the
    log; more are faster, where an answer can be had again.
    """

    def __init__(self, output_dir: str | os.PathLike, answers_per_sync: int = 1):
        self.output_dir = Path(output_dir)
        self.regen_path = self.output_dir / "regen.json"
        with os_errors_in_one_line(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        self.answers_per_sync = answers_per_sync
        self.instructions: list[str] = []
        self.next_prompt_index = 0
        self.custom_ids: set[str] = set()  # of the answers of batches that were read before
        self._num_unfolded = 0  # tasks that are in the journal and not in regen.json
        self._regen_bytes = 0  # where the last task in regen.json ends
        self._unlogged: list[dict] = []  # lines of the log that are only in the journal
        with contextlib.ExitStack() as opened:
            # The log comes first: it is kept, so its lock is the folder's.
            path = self.output_dir / "generation_log.jsonl"
            self._log = opened.enter_context(AppendOnlyFile(path, begins='{"time": ', sync=False))
            self._read_regen()
            path = self.output_dir / "regen_journal.jsonl"
            self._journal = opened.enter_context(AppendOnlyFile(path, begins='{"position": ', sync=False))
            self._read_journal()
            self._read_log()
            self._fold()
            self._opened = opened.pop_all()

    def append(self, tasks_of_prompts: list[list[dict]], entry: dict) -> None:
        """Add the tasks that the prompts of a request brought, and the request's line of the log: entry, and what ties
        it to the tasks. When this returns they are on the disk, unless several answers wait for it together."""
        first = len(self.instructions)
        tasks = [task for tasks in tasks_of_prompts for task in tasks]
        hashes = [[sha256(json.dumps(task)) for task in tasks] for tasks in tasks_of_prompts]
        entry = sealed({**entry, "first_task": first, "kept": len(tasks), "tasks_sha256": hashes})
        rows = [{"position": first + i, "task": task} for i, task in enumerate(tasks)]
        if rows:
            rows[0]["log"] = entry
            self._journal.append(*rows)
        self._unlogged.append(entry)
        self.instructions += [task["instruction"] for task in tasks]
        self._num_unfolded += len(tasks)
        if "custom_id" in entry:
            self.custom_ids.add(entry["custom_id"])
        if len(self._unlogged) >= self.answers_per_sync:
            self._write_log()
        # In proportion to what there is: in all, regen.json is written a constant number of times over.
        if self._num_unfolded >= max(MIN_TASKS_TO_FOLD, (len(self.instructions) - self._num_unfolded) // 2):
            self._fold()

    def close(self) -> None:
        """Leave regen.json with all tasks, no journal, and the folder free for another run."""
        with self._opened:
            self._fold()
            self._journal.path.unlink()

    def _write_log(self) -> None:
        """Flush the journal to the disk, and write the lines that are missing in the log."""
        if self._unlogged:
            self._journal.sync()
            self._log.append(*self._unlogged)
            self._unlogged.clear()

    def _fold(self) -> None:
        """Move the journal's tasks to regen.json."""
        self._write_log()
        if self._num_unfolded:
            advice = f"No task is lost: {self._journal.path} has the newest. Make room and run the same command again."
            first = len(self.instructions) - self._num_unfolded
            with atomic_write(self.regen_path, mode="wb", advice=advice) as f:
                if self._regen_bytes:
                    with open(self.regen_path, "rb") as old:
                        shutil.copyfileobj(old, f)
                    f.seek(self._regen_bytes)
                    f.truncate()
                for row in self._journal:
                    if row["position"] >= first:
                        f.write(regen_text(row["position"], row["task"]).encode())
                num_bytes = f.tell()
                f.write(b"\n]")
            self._num_unfolded, self._regen_bytes = 0, num_bytes
        self._log.sync()
        self._journal.clear()

    def _read_regen(self) -> None:
        for leftover in self.output_dir.glob("regen.json.*.tmp"):  # of a run that was killed; others are not ours
            if leftover.suffixes[-2][1:].isdecimal():
                leftover.unlink()
        check_regular(self.regen_path)
        if not self.regen_path.exists():
            return
        with open(self.regen_path, "rb") as f:
            self._regen_bytes = 3 if f.read(3) == codecs.BOM_UTF8 else 0
        for text, task in read_regen(self.regen_path):
            self.instructions.append(task["instruction"])
            self._regen_bytes += len(text.encode())

    def _read_journal(self) -> None:
        for number, row in enumerate(self._journal, start=1):
            place = f"{self._journal.path}, line {number}"
            position, task = row.get("position"), row.get("task")
            if not isinstance(position, int) or not _is_task(task):
                raise UserError(f"{place}: no position and task.")
            if position == len(self.instructions):
                self.instructions.append(task["instruction"])
                self._num_unfolded += 1
            elif not 0 <= position < len(self.instructions) or self.instructions[position] != task["instruction"]:
                raise UserError(
                    f"{place}: this task, number {position + 1}, does not fit {self.regen_path}, which has "
                    f"{len(self.instructions) - self._num_unfolded}. Put back the regen.json that belongs to it, "
                    "or move the journal away."
                )
            if "log" in row:
                if not isinstance(row["log"], dict) or row["log"] != sealed(row["log"]):
                    raise UserError(f"{place}: its log is not as the run wrote it.")
                self._unlogged.append(row["log"])

    def _read_log(self) -> None:
        """Read which prompts have been asked and which answers read, and which lines are missing in the log."""
        last_prompt_index, num_tasks = -1, 0
        missing = {entry["line_sha256"]: entry for entry in self._unlogged}
        for number, line in enumerate(self._log, start=1):
            indices, first, kept = line.get("prompt_indices"), line.get("first_task", num_tasks), line.get("kept", 0)
            if not isinstance(indices, list) or not all(isinstance(n, int) for n in (*indices, first, kept)):
                raise UserError(f"{self._log.path}, line {number}: no prompt_indices. Move the file away to go on.")
            if not all(isinstance(line.get(name, ""), str) for name in ("custom_id", "line_sha256")):
                raise UserError(f"{self._log.path}, line {number}: not of a run. Move the file away to go on.")
            last_prompt_index = max([last_prompt_index, *indices])
            if first < num_tasks:  # the log of a run whose regen.json was moved away ends here
                self.custom_ids.clear()
            num_tasks = first + kept
            missing.pop(line.get("line_sha256"), None)
            if "custom_id" in line:
                self.custom_ids.add(line["custom_id"])
        self._unlogged = [self._as_stored(entry) for entry in missing.values()]
        if self.instructions:  # without tasks it is a fresh run, whatever an older log says
            unlogged = [index for entry in self._unlogged for index in entry["prompt_indices"]]
            self.next_prompt_index = max([last_prompt_index, *unlogged]) + 1
            self.custom_ids |= {entry["custom_id"] for entry in self._unlogged if "custom_id" in entry}
        else:
            self.custom_ids.clear()

    def _as_stored(self, entry: dict) -> dict:
        """A line of the log from the journal, about those of its tasks that are there: a kill can cut off the others,
        and then the answer counts as not read."""
        left = len(self.instructions) - entry["first_task"]
        if left >= entry["kept"]:
            return entry
        hashes = []
        for of_prompt in entry["tasks_sha256"]:
            hashes.append(of_prompt[:left])
            left -= len(hashes[-1])
        entry = {key: value for key, value in entry.items() if key != "custom_id"}
        kept = sum(map(len, hashes))
        return sealed({**entry, "parsed": kept, "dropped": {}, "kept": kept, "tasks_sha256": hashes})


def read_regen(path: Path) -> Iterator[tuple[str, dict]]:
    """(text, task) of each task in a JSON list, one after the other; the text begins where the task before ends.

    Raises UserError, with the place, where the file is anything else.
    """
    decode = json.JSONDecoder().raw_decode
    before, buffer, start = OPENING, "", 0
    with os_errors_in_one_line(path), open(path, encoding="utf-8-sig", newline="") as f:
        while True:
            if match := before.match(buffer, start):
                with contextlib.suppress(ValueError, RecursionError):  # perhaps for want of the rest
                    task, end = decode(buffer, match.end())
                    if not _is_task(task):
                        raise why_damaged(path)
                    yield buffer[start:end], task
                    before, start = COMMA, end
                    continue
            try:
                more = f.read(max(READ_AT_ONCE, len(buffer) - start))
            except UnicodeDecodeError:
                raise why_damaged(path) from None
            if not more:
                break
            buffer, start = buffer[start:] + more, 0
    if not (EMPTY if before is OPENING else CLOSING).fullmatch(buffer, start):
        raise why_damaged(path)


def why_damaged(path: Path) -> UserError:
    """The error for a regen.json that is no list of tasks, with the place of the damage."""
    tasks = jload(path)  # raises it itself where the file is not JSON
    if not isinstance(tasks, list):
        return UserError(f"{path}: not a list of tasks.")
    damaged = next((i for i, task in enumerate(tasks) if not _is_task(task)), None)
    if damaged is None:
        return UserError(f"{path}: not UTF-8 text. Save it as UTF-8, and run this again.")
    return UserError(f"{path}, entry {damaged}: no task with instruction, input and output.")


def regen_text(position: int, task: dict) -> str:
    """A task as it stands in regen.json, with what is before it: in all, json.dumps(tasks, indent=4)."""
    return (",\n    " if position else "[\n    ") + json.dumps(task, indent=4).replace("\n", "\n    ")


def sealed(entry: dict) -> dict:
    """A line of the log with its own hash, as it is now, at the end."""
    content = {name: value for name, value in entry.items() if name != "line_sha256"}
    return {**content, "line_sha256": sha256(json.dumps(content))}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and all(isinstance(task.get(key), str) for key in ("instruction", "input", "output"))
