"""The one reader of tasks and examples, checked entry by entry: JSON list, JSON lines, Parquet, a dataset on the Hub.

An entry is of Alpaca's format (instruction, input, output), of Self-Instruct's (instruction and instances, of which the
first one's input and output are taken: seed tasks and its evaluation), or of predictions (output, or Self-Instruct's
response, beside the instruction).
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from utils import UserError, check_regular, is_hub_name, jload, os_errors_in_one_line, parse_json

FIELDS = ("instruction", "input", "output")
COLUMNS = (*FIELDS, "response", "instances", "generator", "id")  # others are not read from Parquet and the Hub


def load_examples(data_path: str | os.PathLike, cache_dir: str | None = None) -> list[dict[str, str]]:
    """Read examples with the fields instruction, input and output from a file or from the Hub.

    A missing input counts as "", other fields are dropped. Raises UserError as read_entries does.
    """
    return [example for _, _, example in read_entries(data_path, cache_dir)]


def read_entries(
    data_path: str | os.PathLike, cache_dir: str | None = None, optional: tuple[str, ...] = ("input",)
) -> list[tuple[str, dict, dict[str, str]]]:
    """(place, entry as it is, its instruction, input and output) of each entry; a missing optional field is "".

    The place is that of read_rows. Raises UserError, with the place of the first bad entry, where a field is missing
    or is not text, and for a file that is missing, empty or damaged.
    """
    rows = read_rows(data_path, cache_dir)
    if not rows:
        raise UserError(f"{data_path}: no examples in it.")
    problems = [f"{place} {why}" for place, row in rows if (why := why_unusable(row, optional))]
    if problems:
        required = " and ".join(name for name in FIELDS if name not in optional)
        raise UserError(
            f"{data_path}, {problems[0]} ({len(problems)} of {len(rows)} entries cannot be used). "
            f"Each entry needs {required} as text."
        )
    return [(place, row, {name: text or "" for name, text in fields_of(row).items()}) for place, row in rows]


def fields_of(row: dict) -> dict:
    """Instruction, input and output of an entry in any format, unchecked; None where it has none.

    >>> fields_of({"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}]})
    {'instruction': 'Add.', 'input': '1, 2', 'output': '3'}
    """
    instances = row.get("instances")
    instance = instances[0] if isinstance(instances, list) and instances else None
    response = {"output": row["response"]} if "response" in row else {}
    fields = {**(instance if isinstance(instance, dict) else {}), **response, **row}
    return {name: fields.get(name) for name in FIELDS}


def why_unusable(row: typing.Any, optional: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return f"is not an object but {type(row).__name__}"
    for name, text in fields_of(row).items():
        if text is None and name not in optional:
            return f"has no {name!r}"
        if not isinstance(text, str | None):
            return f"has a field {name!r} that is not text but {type(text).__name__}"
        if text and re.search("[\ud800-\udfff]", text):  # JSON can carry it, UTF-8 and tokenizers cannot
            return f"has a field {name!r} with half of a surrogate pair, which is no character"
    return None


def read_rows(data_path: str | os.PathLike, cache_dir: str | None = None) -> list[tuple[str, typing.Any]]:
    """(place, row) of every row of a JSON list, JSON lines or Parquet file, or of the train split of a dataset on the
    Hub. The place, for messages, is "line 3" in JSON lines, counted from 1, and else "entry 2", the index from 0."""
    path = Path(data_path)
    if not path.exists():
        if "/" in str(data_path) and is_hub_name(str(data_path)):
            return _with_index(read_hub_dataset(str(data_path), cache_dir))
        raise UserError(f"{data_path}: no such file.")
    check_regular(path)
    with os_errors_in_one_line(path):
        with open(path, "rb") as f:
            start = f.read(16)
        if start.startswith(b"PAR1"):
            return _with_index(read_parquet(path))
        if start.lstrip().startswith(b"{"):
            return list(parse_json_lines(path.read_bytes(), path))
    rows = jload(path)
    if not isinstance(rows, list):
        raise UserError(f"{data_path}: holds {type(rows).__name__}, not a list of examples.")
    return _with_index(rows)


def _with_index(rows: list) -> list[tuple[str, typing.Any]]:
    return [(f"entry {i}", row) for i, row in enumerate(rows)]


def parse_json_lines(data: bytes, path: str | os.PathLike) -> Iterator[tuple[str, typing.Any]]:
    """("line 3", what it holds) of each line of data that is not empty. Raises UserError, with the place in the file
    path, for a line that is not JSON."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}, byte {error.start}: not UTF-8 text.") from None
            yield f"line {number}", parse_json(text, str(path), number)


def read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        # ParquetFile, not read_table: a folder name such as input=1 would add columns.
        table = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        columns = [name for name in COLUMNS if name in table.schema_arrow.names]
        return table.read(columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())}).") from None


def read_hub_dataset(name: str, cache_dir: str | None) -> list[dict]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, split="train", cache_dir=cache_dir)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: neither a file nor a dataset that the Hub gives out ({reason}).") from None
    return dataset.select_columns([column for column in COLUMNS if column in dataset.column_names]).to_list()
