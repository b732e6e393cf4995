"""The tasks of a generation run on disk: regen.json, and beside it a journal of the tasks that it does not hold yet.

A task counts once its line is in the journal, flushed to the disk. Now and then, and at an orderly end, regen.json is
written anew with all tasks and the journal emptied. Killed at any instant, the two files together hold every task
that counted; a line says which task it is, so one that is in both is read once.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import fcntl
import json
import os
import typing
from collections.abc import Iterator
from pathlib import Path

from utils import UserError, atomic_write, jload

MIN_TASKS_TO_FOLD = 64


class TaskFiles:
    """The files in an output folder: regen.json and its journal, and the log of requests.

    Raises UserError where another run holds the folder, where a file is damaged (which is left as it is), and where
    the disk takes no more.
    """

    def __init__(self, output_dir: str | os.PathLike):
        self.output_dir = Path(output_dir)
        self.regen_path = self.output_dir / "regen.json"
        self._journal_path = self.output_dir / "regen_journal.jsonl"
        self._log_path = self.output_dir / "generation_log.jsonl"
        with _os_error_in_one_line(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        # The log is appended to and never replaced, so its lock holds for the whole run; the system drops the lock
        # with the process, however that ends.
        with _os_error_in_one_line(self._log_path):
            self._log = open(self._log_path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the lock is held
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._load()
            except BaseException as error:
                self._log.close()
                if isinstance(error, BlockingIOError):
                    raise UserError(f"{self.output_dir}: another run is at work here; choose another one.") from None
                raise

    def _load(self) -> None:
        """Read what is there, and bring regen.json up to date with the journal."""
        for leftover in self.output_dir.glob("regen.json.*.tmp"):  # of a run that was killed
            leftover.unlink()
        self.instructions: list[str] = []
        self._entries: list[str] = []  # the text between regen.json's brackets, in pieces
        self._num_unfolded = 0  # tasks that are in the journal and not in regen.json
        self._read_regen()
        self._read_journal()
        # Without tasks it is a fresh run, whatever an older log says.
        last_prompt_index = self._read_log()
        self.next_prompt_index = last_prompt_index + 1 if self.instructions else 0
        with _os_error_in_one_line(self._journal_path):
            self._journal = open(self._journal_path, "ab", buffering=0)  # noqa: SIM115
            _sync_directory(self.output_dir)  # a file without a name on the disk would not survive a power cut
        self._fold()

    def append(self, tasks: list[dict]) -> None:
        """Add tasks. When this returns they are on the disk, and they are in instructions only then."""
        first = len(self.instructions)
        lines = [json.dumps({"position": first + i, "task": task}) + "\n" for i, task in enumerate(tasks)]
        _append(self._journal, "".join(lines), self._journal_path)
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
        _append(self._log, json.dumps(entry) + "\n", self._log_path, sync=False)

    def close(self) -> None:
        """Leave regen.json with all tasks, no journal, and the folder free for another run."""
        try:
            self._fold()
            self._journal_path.unlink()
        finally:
            self._journal.close()
            self._log.close()

    def _fold(self) -> None:
        """Move the journal's tasks to regen.json."""
        if self._num_unfolded:
            advice = f"No task is lost: {self._journal_path} has the newest. Make room and run the same command again."
            with _os_error_in_one_line(self.regen_path, advice):
                with atomic_write(self.regen_path) as f:
                    f.write("[\n    " + ",\n    ".join(self._entries) + "\n]")
                _sync_directory(self.output_dir)  # the new name must be on the disk before the journal is emptied
            self._num_unfolded = 0
        self._journal.truncate(0)

    def _read_regen(self) -> None:
        if not self.regen_path.exists():
            return
        tasks = jload(self.regen_path)
        if not isinstance(tasks, list):
            raise UserError(f"{self.regen_path}: not a list of tasks.")
        for number, task in enumerate(tasks, start=1):
            if not _is_task(task):
                raise UserError(f"{self.regen_path}, entry {number}: no task with instruction, input and output.")
        self.instructions = [task["instruction"] for task in tasks]
        if tasks:
            self._entries = [self.regen_path.read_text(encoding="utf-8").strip()[1:-1].strip()]

    def _read_journal(self) -> None:
        for number, line in _whole_lines(self._journal_path):
            place = f"{self._journal_path}, line {number}"
            position, task = line.get("position"), line.get("task")
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

    def _read_log(self) -> int:
        """The highest prompt index in the log, or -1. A line cut off by a kill goes, so that the next one is whole."""
        indices = [-1]
        for number, line in _whole_lines(self._log_path):
            logged = line.get("prompt_indices")
            if not isinstance(logged, list) or not all(isinstance(index, int) for index in logged):
                raise UserError(f"{self._log_path}, line {number}: no prompt_indices. Move the file away to go on.")
            indices += logged
        content = self._log_path.read_bytes()
        if not content.endswith(b"\n"):
            self._log.truncate(content.rfind(b"\n") + 1)
        return max(indices)


def _whole_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Number and content of the lines of a JSON lines file; a last line without its end was cut off by a kill."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(content, dict):
            raise UserError(f"{path}, line {number}: not a JSON object.")
        yield number, content


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and all(isinstance(task.get(key), str) for key in ("instruction", "input", "output"))


def _append(file: typing.BinaryIO, text: str, path: Path, sync: bool = True) -> None:
    """Append to an unbuffered file: all of text, or, with a UserError, nothing."""
    size = os.fstat(file.fileno()).st_size
    data = text.encode()
    with _os_error_in_one_line(path, "Everything before is safe. Make room and run the same command again."):
        try:
            while data:  # a disk that fills up takes a part first
                data = data[file.write(data) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _os_error_in_one_line(path: Path, advice: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. {advice}".strip()) from None
