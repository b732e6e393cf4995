"""Results on disk as they come: a JSON lines file that is appended to, and survives a kill at any instant.

Its first line can hold the settings that the results were made with, so that a run continues its own work only.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from alpaca.examples import parse_json_lines
from utils import (
    UserError,
    check_output_path,
    check_regular,
    lock_or_refuse,
    os_errors_in_one_line,
    sync_directory,
)

ADVICE = "Everything before is safe. Make room and run the same command again."

Check = Callable[[dict], str | None]  # what is wrong with a row, in words


def read_whole_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict]]:
    """("line 3", the JSON object in it) of the whole lines of a file, one after the other; a last line without its end
    was cut off by a kill.

    Raises UserError with the line's number where there is anything else.
    """
    check_regular(path)
    with os_errors_in_one_line(path), open(path, "rb") as f:
        for place, row in parse_json_lines((line for line in f if line.endswith(b"\n")), path):
            if not isinstance(row, dict):
                raise UserError(f"{path}, {place}: not a JSON object. Mend the line, or move the file away.")
            yield place, row


def read_settings_and_rows(
    path: str | os.PathLike, check_for: Callable[[dict], Check] = lambda settings: lambda row: None
) -> tuple[dict, list[dict]]:
    """The settings in the first line of a file, and the rows after it, checked by check_for(settings)."""
    lines = list(read_whole_lines(path))
    settings = _settings(lines, path)
    check_rows(lines[1:], check_for(settings), path)
    return settings, [row for _, row in lines[1:]]


def _settings(lines: list[tuple[str, dict]], path: str | os.PathLike) -> dict:
    if not lines or not isinstance(lines[0][1].get("settings"), dict):
        raise UserError(f"{path}: not a file of results, since its first line holds no settings.")
    return lines[0][1]["settings"]


def check_rows(lines: Iterable[tuple[str, dict]], check: Check, path: str | os.PathLike) -> None:
    """Raise UserError, with its place, for the first row that check finds something wrong with."""
    for place, row in lines:
        if problem := check(row):
            raise UserError(f"{path}, {place}: {problem}. Mend the line, or move the file away.")


class AppendOnlyFile:
    """The rows in a file and those appended since; a lock keeps out a second run as long as this one lives.

    With settings, they are the first line. Else, begins is how each line begins, so that a single line that a kill cut
    off can be told from a file that somebody else has made. check(row) says what is wrong with a row that is there.
    Raises UserError where the file is of another kind, was made with other settings or has a wrong row (it is left as
    it is), is held by another run, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict | None = None,
        begins: str = "",
        sync: bool = True,
        check: Check = lambda row: None,
    ):
        self.path, self._sync, self._check = Path(path), sync, check
        self._lock = threading.Lock()
        check_output_path(self.path)
        with os_errors_in_one_line(self.path), contextlib.ExitStack() as on_error:
            self._file = on_error.enter_context(open(self.path, "a+b", buffering=0))
            lock_or_refuse(self._file.fileno(), self.path)
            sync_directory(self.path.parent)  # a file without a name on the disk would not survive a power cut
            self._load(settings, begins)
            on_error.pop_all()

    def _load(self, settings: dict | None, begins: str) -> None:
        head = (begins if settings is None else _line({"settings": settings})).encode()
        self._num_settings = 0 if settings is None else 1
        with open(self.path, "rb") as f:
            start = f.read(len(head))
            f.seek(0)
            # Whatever is behind the last whole line is cut off by the first append, not before.
            self._size = sum(len(line) for line in f if line.endswith(b"\n"))
        first_lines = list(itertools.islice(read_whole_lines(self.path), 2))
        if not first_lines and not head.startswith(start):
            raise UserError(f"{self.path}: holds something else. Name another file, or move this one away.")
        if settings is not None:
            self._check_settings(settings, first_lines)
        check_rows(self._lines(), self._check, self.path)

    def _check_settings(self, settings: dict, first_lines: list[tuple[str, dict]]) -> None:
        earlier = _settings(first_lines or [("", {"settings": settings})], self.path)
        if earlier.keys() != settings.keys():
            raise UserError(f"{self.path}: holds results of another kind. Name another file, or move this one away.")
        if len(first_lines) < 2:  # new, or ended before its first result: nothing that other settings could spoil
            self._size = 0
            self.append({"settings": settings})
            return
        for name in settings:
            if earlier[name] != settings[name]:
                raise UserError(
                    f"{self.path} was made with another {name} ({earlier[name]!r}, now {settings[name]!r}). "
                    "Name another file, or move this one away."
                )

    def _lines(self) -> Iterator[tuple[str, dict]]:
        return itertools.islice(read_whole_lines(self.path), self._num_settings, None)

    def __iter__(self) -> Iterator[dict]:
        """The rows that are on the disk, one after the other, so that a long file takes no memory."""
        return (row for _, row in self._lines())

    @property
    def rows(self) -> list[dict]:
        return list(self)

    def append(self, *rows: dict) -> None:
        """Add rows, all or, with a UserError, none. When this returns they are on the disk, unless sync is off; from
        several threads, one after the other."""
        left = data = "".join(map(_line, rows)).encode()
        with self._lock, os_errors_in_one_line(self.path, ADVICE):
            self._file.truncate(self._size)  # what a kill left of a line
            try:
                while left:  # a disk that fills up takes a part first
                    left = left[self._file.write(left) :]
                if self._sync:
                    os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(self._size)
                raise
            self._size += len(data)

    def sync(self) -> None:
        """Flush to the disk what was appended with sync off."""
        with os_errors_in_one_line(self.path, ADVICE):
            os.fsync(self._file.fileno())

    def clear(self) -> None:
        """Take all rows out of a file without settings."""
        with self._lock, os_errors_in_one_line(self.path):
            self._file.truncate(0)
            self._size = 0

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AppendOnlyFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
