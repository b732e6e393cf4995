"""Results on disk as they come: a JSON lines file that is appended to, and survives a kill at any instant.

Its first line can hold the settings that the results were made with, so that a run continues its own work only.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import json
import os
import threading
from collections.abc import Callable
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


Place = str  # of a row, for messages: "line 3"
Check = Callable[[dict], str | None]  # what is wrong with a row, in words


def whole_lines(data: bytes, path: str | os.PathLike) -> list[tuple[Place, dict]]:
    """The JSON objects in the whole lines of a file's data; a last line without its end was cut off by a kill.

    Raises UserError with the line's number where there is anything else.
    """
    rows = []
    for place, row in parse_json_lines(data[: data.rfind(b"\n") + 1], path):
        if not isinstance(row, dict):
            raise UserError(f"{path}, {place}: not a JSON object. Mend the line, or move the file away.")
        rows.append((place, row))
    return rows


def read_settings_and_rows(
    path: str | os.PathLike, check_for: Callable[[dict], Check] = lambda settings: accept
) -> tuple[dict, list[dict]]:
    """The settings in the first line of a file, and the rows after it, checked by check_for(settings)."""
    check_regular(path)
    with os_errors_in_one_line(path):
        data = Path(path).read_bytes()
    settings, lines = _split(whole_lines(data, path), path)
    return settings, _checked(lines, check_for(settings), path)


def _split(lines: list[tuple[Place, dict]], path: str | os.PathLike) -> tuple[dict, list[tuple[Place, dict]]]:
    if not lines or not isinstance(lines[0][1].get("settings"), dict):
        raise UserError(f"{path}: not a file of results, since its first line holds no settings.")
    return lines[0][1]["settings"], lines[1:]


def accept(row: dict) -> None:
    """The check that finds nothing wrong."""


def _checked(rows: list[tuple[Place, dict]], check: Check, path: str | os.PathLike) -> list[dict]:
    for place, row in rows:
        if problem := check(row):
            raise UserError(f"{path}, {place}: {problem}. Mend the line, or move the file away.")
    return [row for _, row in rows]


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
        check: Check = accept,
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
        self._file.seek(0)
        data = self._file.read()
        lines = whole_lines(data, self.path)
        self._size = data.rfind(b"\n") + 1  # whatever is behind is cut off by the first append, not before
        head = (begins if settings is None else _line({"settings": settings})).encode()
        if not lines and not (data.startswith(head) or head.startswith(data)):
            raise UserError(f"{self.path}: holds something else. Name another file, or move this one away.")
        if settings is None:
            self.rows = _checked(lines, self._check, self.path)
            return
        earlier, lines = _split(lines or [("", {"settings": settings})], self.path)
        if earlier.keys() != settings.keys():
            raise UserError(f"{self.path}: holds results of another kind. Name another file, or move this one away.")
        self.rows: list[dict] = []
        if not lines:  # new, or a run that ended before its first result: nothing that other settings could spoil
            self._size = 0
            self._write([{"settings": settings}])
            return
        for name in settings:
            if earlier[name] != settings[name]:
                raise UserError(
                    f"{self.path} was made with another {name} ({earlier[name]!r}, now {settings[name]!r}). "
                    "Name another file, or move this one away."
                )
        self.rows = _checked(lines, self._check, self.path)

    def append(self, *rows: dict) -> None:
        """Add rows, all or, with a UserError, none. When this returns they are on the disk, unless sync is off; from
        several threads, one after the other."""
        with self._lock:
            self._write(rows)
            self.rows += rows

    def clear(self) -> None:
        """Take all rows out of a file without settings."""
        with self._lock, os_errors_in_one_line(self.path):
            self._file.truncate(0)
            self._size, self.rows = 0, []

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AppendOnlyFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, rows: list[dict] | tuple[dict, ...]) -> None:
        left = data = "".join(map(_line, rows)).encode()
        with os_errors_in_one_line(self.path, ADVICE):
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


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
