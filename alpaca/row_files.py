"""Results on disk as they come: a JSON lines file that is only ever appended to, and survives a kill at any instant.

Its first line holds the settings that the results were made with, so that a run continues its own work only.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import fcntl
import json
import os
import threading
from pathlib import Path

from utils import UserError


def read_rows(path: str | os.PathLike) -> list[dict]:
    """The JSON objects in the whole lines of a file; a last line without its end was cut off by a kill.

    Raises UserError with the line's number where there is anything else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}.") from None
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object. Mend the line, or move the file away.")
        rows.append(row)
    return rows


def read_settings_and_rows(path: str | os.PathLike) -> tuple[dict, list[dict]]:
    """The settings in the first line, {} in an empty file, and the rows after it."""
    settings, *rows = read_rows(path) or [{"settings": {}}]
    if not isinstance(settings.get("settings"), dict):
        raise UserError(f"{path}: not a file of results, since its first line holds no settings.")
    return settings["settings"], rows


class AppendOnlyFile:
    """The rows in a file and those appended since; a lock keeps out a second run as long as this one lives.

    Raises UserError where the file was made with other settings, is held by another run, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike, settings: dict):
        self.path = Path(path)
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the lock is held
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another run is writing it; wait for it, or name another file.") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}).") from None
        self._lock = threading.Lock()
        earlier, self.rows = read_settings_and_rows(self.path)
        data = self.path.read_bytes()
        self._file.truncate(data.rfind(b"\n") + 1)
        if not self.rows:  # new, or a run that ended before its first result: nothing that other settings could spoil
            self._file.truncate(0)
            self._write({"settings": settings})
            return
        for name in earlier:
            if earlier[name] != settings.get(name):
                raise UserError(
                    f"{self.path} was made with another {name} ({earlier[name]!r}, now {settings.get(name)!r}). "
                    "Name another file, or move this one away."
                )

    def append(self, row: dict) -> None:
        """Add a row. When this returns it is on the disk; from several threads, one after the other."""
        with self._lock:
            self._write(row)
            self.rows.append(row)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AppendOnlyFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, row: dict) -> None:
        data = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            while data:  # a disk that fills up takes a part first
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise UserError(
                f"{self.path}: {error.strerror}. What was saved is safe: make room and start again."
            ) from None
