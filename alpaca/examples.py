"""The one reader of tasks and examples, checked entry by entry: JSON list, JSON lines, Parquet, a dataset on the Hub.

An entry is of Alpaca's format (instruction, input, output), of Self-Instruct's (instruction and instances, of which the
first one's input and output are taken: seed tasks and its evaluation), of Dolly's (instruction, context, response), of
predictions (output, or Self-Instruct's response, beside the instruction), or a conversation (messages, or ShareGPT's
conversations), which counts as its first question and answer where nobody asks for more. What other tools write is read
as what it means: a byte order mark, UTF-16, null or NaN for a missing input, objects over several lines, a list within
an object.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import codecs
import hashlib
import json
import os
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils import (
    TO_UTF_8,
    UserError,
    check_regular,
    encoding_of,
    is_hub_name,
    jload,
    json_errors_in_one_line,
    os_errors_in_one_line,
    parse_json,
    read_text,
)

FIELDS = ("instruction", "input", "output")
WRAPPERS = ("data", "examples", "train")  # names under which an object holds a whole list
# Others are not read from Parquet and the Hub.
COLUMNS = (*FIELDS, "context", "response", "instances", "generator", "id", "messages", "conversations")
INPUT_BEGINS = "\n\n### Input:\n"  # in a user's message, between an instruction and its input
SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def load_examples(data_path: str | os.PathLike, cache_dir: str | None = None) -> list[dict]:
    """Read examples with the fields instruction, input and output from a file or from the Hub.

    A missing input counts as "", other fields are dropped; a conversation has its messages as well, a list of role and
    content. Raises UserError as read_entries does.
    """
    entries = read_entries(data_path, cache_dir)
    return [example | ({"messages": messages_of(row)} if is_conversation(row) else {}) for _, row, example in entries]


def sha256_of(data_path: str | os.PathLike, examples: list[dict]) -> str:
    """What identifies data: the SHA-256 of the file, or of the examples, as JSON, of a dataset on the Hub."""
    path = Path(data_path)
    content = path.read_bytes() if path.exists() else json.dumps(examples).encode()
    return hashlib.sha256(content).hexdigest()


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
            f"Each entry needs {required} as text, or messages."
        )
    # Half a surrogate pair, which JSON can carry, has no UTF-8, so that no tokenizer and no file takes it.
    return [
        (place, row, {name: (text or "").encode("utf-8", "replace").decode() for name, text in fields_of(row).items()})
        for place, row in rows
    ]


def fields_of(row: dict) -> dict:
    """Instruction, input and output of an entry in any format, unchecked; None where it has none, or NaN (pandas).

    >>> fields_of({"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}]})
    {'instruction': 'Add.', 'input': '1, 2', 'output': '3'}
    """
    if is_conversation(row):
        user, assistant = [message["content"] for message in messages_of(row) if message["role"] != "system"][:2]
        instruction, _, input = user.partition(INPUT_BEGINS)
        return {"instruction": instruction, "input": input, "output": assistant}
    instances = row.get("instances")
    instance = instances[0] if isinstance(instances, list) and instances else None
    response = {"output": row["response"], "input": row.get("context")} if "response" in row else {}
    fields = {**(instance if isinstance(instance, dict) else {}), **response, **row}
    values = {name: fields.get(name) for name in FIELDS}
    return {name: None if value != value else value for name, value in values.items()}


def why_unusable(row: typing.Any, optional: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return f"is not an object but {type(row).__name__}"
    if is_conversation(row) and (why := why_no_conversation(messages_of(row))):
        return why
    for name, text in fields_of(row).items():
        if text is None and name not in optional:
            return f"has no {name!r}"
        if not isinstance(text, str | None):
            return f"has a field {name!r} that is not text but {type(text).__name__}"
    return None


def is_conversation(row: dict) -> bool:
    has_messages = row.get("messages") is not None or row.get("conversations") is not None
    return has_messages and row.get("instruction") is None


def messages_of(row: dict) -> typing.Any:
    """The messages of a conversation as a list of role and content, unchecked.

    >>> messages_of({"conversations": [{"from": "human", "value": "Hi."}]})
    [{'role': 'user', 'content': 'Hi.'}]
    """
    if row.get("messages") is not None:
        return row["messages"]
    if not isinstance(row["conversations"], list):
        return row["conversations"]
    return [
        {"role": SHAREGPT_ROLES.get(str(m.get("from")), m.get("from")), "content": m.get("value")}
        if isinstance(m, dict)
        else m
        for m in row["conversations"]
    ]


def why_no_conversation(messages: typing.Any) -> str | None:
    """Why these cannot be trained on, in words: after a system message, if any, user and assistant take turns, the
    assistant has the last word, and every message is a text. None if nothing is wrong."""
    if not isinstance(messages, list) or not messages:
        return "has no list of messages"
    expected = ["system", "user"]
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"has a message {i} that is not an object but {type(message).__name__}"
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            return f"has a message {i} of the role {role!r}; known are system, user (human) and assistant (gpt)"
        if role not in expected:
            return f"has a message {i} of the {role}, where one of the {expected[-1]} has to be"
        if not isinstance(content, str):
            return f"has a message {i} whose content is not text but {type(content).__name__}"
        if not content.strip():
            return f"has an empty message {i}"
        expected = ["assistant"] if role == "user" else ["user"]
    return None if messages[-1]["role"] == "assistant" else "ends without a message of the assistant"


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
            start = f.read(64)
        if start.startswith(b"PAR1"):
            return _with_index(read_parquet(path))
        if start.decode(encoding_of(start), "ignore").lstrip().startswith("{"):
            return read_objects(path)
    rows = jload(path)
    if not isinstance(rows, list):
        raise UserError(f"{data_path}: holds {type(rows).__name__}, not a list of examples.")
    return _with_index(rows)


def read_objects(path: Path) -> list[tuple[str, typing.Any]]:
    """(place, object) of each object in a file of them: one on each line, or over several lines, as jq prints them, or
    one that holds the list of examples under a name of its own."""
    data = path.read_bytes()
    if encoding_of(data[:3]) == "utf-16":
        data = read_text(path).encode()
    lines = parse_json_lines(data.split(b"\n"), path)
    try:
        rows = [next(lines)]
    except UserError:  # the first line is no object by itself
        rows = _with_index(_values_in(read_text(path), path))
    rows += lines
    wrapped = [rows[0][1][name] for name in WRAPPERS if len(rows) == 1 and isinstance(rows[0][1].get(name), list)]
    return _with_index(wrapped[0]) if wrapped else rows


def _values_in(text: str, path: Path) -> list:
    """The JSON values in a text, one after the other."""
    decoder, values, position = json.JSONDecoder(), [], 0
    with json_errors_in_one_line(str(path)):
        while start := re.compile(r"\S").search(text, position):
            value, position = decoder.raw_decode(text, start.start())
            values.append(value)
    return values


def _with_index(rows: list) -> list[tuple[str, typing.Any]]:
    return [(f"entry {i}", row) for i, row in enumerate(rows)]


def parse_json_lines(lines: Iterable[bytes], path: str | os.PathLike) -> Iterator[tuple[str, typing.Any]]:
    """("line 3", what it holds) of each of the lines that is not empty. Raises UserError, with the place in the file
    path, for a line that is not JSON."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield f"line {number}", parse_json_line(line, f"{path}, line {number}")


def parse_json_line(line: bytes, place: str) -> typing.Any:
    """What a line of JSON holds. Raises UserError, with its place, where it is not JSON."""
    try:
        text = line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}, byte {error.start}: not UTF-8 text. {TO_UTF_8}") from None
    return parse_json(text, place, is_line=True)


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
