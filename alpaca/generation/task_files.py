"""The tasks of a generation run on disk: regen.json, and beside it a journal of the tasks that it does not hold yet.

A task counts once its line is in the journal, flushed to the disk. Now and then, and at an orderly end, regen.json is
written anew with all tasks and the journal emptied. Killed at any instant, the two files together hold every task
that counted; a line says which task it is, so one that is in both is read once.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import json
import os
from pathlib import Path

from alpaca.row_files import AppendOnlyFile
from utils import UserError, atomic_write, jload, os_errors_in_one_line, read_text

MIN_TASKS_TO_FOLD = 64


class TaskFiles:
    """The files in an output folder: regen.json and its journal, and the log of requests.

    Raises UserError where another run holds the folder, where a file is damaged (which is left as it is), and where
    the disk takes no more.
    """

    def __init__(self, output_dir: str | os.PathLike):
        self.output_dir = Path(output_dir)
        self.regen_path = self.output_dir / "regen.json"
        with os_errors_in_one_line(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        self.instructions: list[str] = []
        self._entries: list[str] = []  # the text between regen.json's brackets, in pieces
        self._num_unfolded = 0  # tasks that are in the journal and not in regen.json
        with contextlib.ExitStack() as opened:
            # The log comes first: it is kept, so its lock is the folder's. It needs no flush, since no task is in it.
            path = self.output_dir / "generation_log.jsonl"
            self._log = opened.enter_context(AppendOnlyFile(path, begins='{"time": ', sync=False))
            last_prompt_index = self._last_prompt_index()
            self._read_regen()
            path = self.output_dir / "regen_journal.jsonl"
            self._journal = opened.enter_context(AppendOnlyFile(path, begins='{"position": '))
            self._read_journal()
            # Without tasks it is a fresh run, whatever an older log says.
            self.next_prompt_index = last_prompt_index + 1 if self.instructions else 0
            self._fold()
            self._opened = opened.pop_all()

    def append(self, tasks: list[dict]) -> None:
        """Add tasks. When this returns they are on the disk, and they are in instructions only then."""
        first = len(self.instructions)
        self._journal.append(*({"position": first + i, "task": task} for i, task in enumerate(tasks)))
        self._take(tasks)
        # In proportion to what there is: in all, regen.json is written a constant number of times over.
        if self._num_unfolded >= max(MIN_TASKS_TO_FOLD, (len(self.instructions) - self._num_unfolded) // 2):
            self._fold()

    def _take(self, tasks: list[dict]) -> None:
        """Count tasks that are in the journal."""
        self.instructions += [task["instruction"] for task in tasks]
        # Each task is turned into text once, not at each writing of regen.json.
        self._entries += [json.dumps(task, indent=4).replace("\n", "\n    ") for task in tasks]
        self._num_unfolded += len(tasks)

    def log(self, entry: dict) -> None:
        """Add a line about one request to the log."""
        self._log.append(entry)

    def close(self) -> None:
        """Leave regen.json with all tasks, no journal, and the folder free for another run."""
        with self._opened:
            self._fold()
            self._journal.path.unlink()

    def _fold(self) -> None:
        """Move the journal's tasks to regen.json."""
        if self._num_unfolded:
            advice = f"No task is lost: {self._journal.path} has the newest. Make room and run the same command again."
            with atomic_write(self.regen_path, advice=advice) as f:
                f.write("[\n    " + ",\n    ".join(self._entries) + "\n]")
            self._num_unfolded = 0
        self._journal.clear()

    def _read_regen(self) -> None:
        for leftover in self.output_dir.glob("regen.json.*.tmp"):  # of a run that was killed; others are not ours
            if leftover.suffixes[-2][1:].isdecimal():
                leftover.unlink()
        if not self.regen_path.exists():
            return
        tasks = jload(self.regen_path)
        if not isinstance(tasks, list):
            raise UserError(f"{self.regen_path}: not a list of tasks.")
        for i, task in enumerate(tasks):
            if not _is_task(task):
                raise UserError(f"{self.regen_path}, entry {i}: no task with instruction, input and output.")
        self.instructions = [task["instruction"] for task in tasks]
        if tasks:
            self._entries = [read_text(self.regen_path).strip()[1:-1].strip()]

    def _read_journal(self) -> None:
        for number, row in enumerate(self._journal.rows, start=1):
            place = f"{self._journal.path}, line {number}"
            position, task = row.get("position"), row.get("task")
            if not isinstance(position, int) or not _is_task(task):
                raise UserError(f"{place}: no position and task.")
            if position == len(self.instructions):
                self._take([task])
            elif not 0 <= position < len(self.instructions) or self.instructions[position] != task["instruction"]:
                raise UserError(
                    f"{place}: this task, number {position + 1}, does not fit {self.regen_path}, which has "
                    f"{len(self.instructions) - self._num_unfolded}. Put back the regen.json that belongs to it, "
                    "or move the journal away."
                )

    def _last_prompt_index(self) -> int:
        """The highest prompt index in the log, or -1."""
        indices = [-1]
        for number, row in enumerate(self._log.rows, start=1):
            logged = row.get("prompt_indices")
            if not isinstance(logged, list) or not all(isinstance(index, int) for index in logged):
                raise UserError(f"{self._log.path}, line {number}: no prompt_indices. Move the file away to go on.")
            indices += logged
        return max(indices)


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and all(isinstance(task.get(key), str) for key in ("instruction", "input", "output"))
