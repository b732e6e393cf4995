"""Reading instruction data: JSON list, JSON lines, Parquet, or a dataset on the Hub, checked entry by entry."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
from pathlib import Path

from utils import UserError, jload

FIELDS = ("instruction", "input", "output")


def load_examples(data_path: str, cache_dir: str | None = None) -> list[dict[str, str]]:
    """Read examples with the fields instruction, input and output from a file or from the Hub.

    A missing input counts as "", other fields are dropped. Raises UserError, with the index of the first bad
    example, where a field is missing or is not text, and for a file that is missing, empty or damaged.
    """
    rows = read_rows(data_path, cache_dir)
    if not rows:
        raise UserError(f"{data_path}: no examples in it.")
    problems = [f"entry {i} {why}" for i, row in enumerate(rows) if (why := why_unusable(row))]
    if problems:
        raise UserError(
            f"{data_path}: {problems[0]} ({len(problems)} of {len(rows)} entries cannot be used). "
            "Each entry needs instruction and output as text, and may have an input."
        )
    return [{name: row.get(name, "") for name in FIELDS} for row in rows]


def why_unusable(row) -> str | None:
    if not isinstance(row, dict):
        return f"is not an object but {type(row).__name__}"
    for name in FIELDS:
        if name not in row and name != "input":
            return f"has no {name!r}"
        if not isinstance(row.get(name, ""), str):
            return f"has a field {name!r} that is not text but {type(row[name]).__name__}"
    return None


def read_rows(data_path: str, cache_dir: str | None) -> list:
    """The rows of a JSON list, JSON lines or Parquet file, or of the train split of a dataset on the Hub."""
    path = Path(data_path)
    if not path.exists():
        if path.suffix in (".json", ".jsonl", ".parquet") or data_path.count("/") != 1 or data_path[0] in "./~":
            raise UserError(f"{data_path}: no such file.")
        return read_hub_dataset(data_path, cache_dir)
    if path.is_dir():
        raise UserError(f"{data_path}: a folder; --data_path takes a JSON, JSON lines or Parquet file.")
    try:
        with open(path, "rb") as f:
            start = f.read(4)
    except OSError as error:
        raise UserError(f"{data_path}: cannot be read ({error.strerror}).") from None
    if start == b"PAR1":
        return read_parquet(path)
    if start.lstrip()[:1] != b"{":
        rows = jload(path)
        if not isinstance(rows, list):
            raise UserError(f"{data_path}: holds {type(rows).__name__}, not a list of examples.")
        return rows
    return read_json_lines(path)


def read_json_lines(path: Path) -> list:
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error.msg}).") from None
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not UTF-8 text.") from None
    return rows


def read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        # ParquetFile, not read_table: a folder name such as input=1 would add columns.
        table = pyarrow.parquet.ParquetFile(path)
        columns = [name for name in FIELDS if name in table.schema_arrow.names]
        return table.read(columns=columns).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())}).") from None


def read_hub_dataset(name: str, cache_dir: str | None) -> list[dict]:
    import datasets

    try:
        dataset = datasets.load_dataset(name, split="train", cache_dir=cache_dir)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: neither a file nor a dataset that the Hub gives out ({reason}).") from None
    return dataset.select_columns([column for column in FIELDS if column in dataset.column_names]).to_list()
