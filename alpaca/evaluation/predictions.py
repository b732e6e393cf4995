"""The files of an evaluation: instructions to answer, predictions, and the pairs that two prediction files make.

Read are JSON lists and JSON lines of the Self-Instruct evaluation, of Alpaca and of AlpacaEval; written is AlpacaEval's
format, where the input is a part of the instruction: {"instruction", "output", "generator"}, and "input" beside it.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils import UserError, jload, read_text


@dataclass(frozen=True)
class Task:
    """An instruction and its input ("" for none)."""

    instruction: str
    input: str

    @property
    def text(self) -> str:
        """Both as one text, as AlpacaEval has them; this is how files are matched."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True)
class Pair:
    """A task and the responses of the two models."""

    task: Task
    outputs: tuple[str, str]


def load_tasks(path: str) -> list[Task]:
    """The instructions in a file, in its order. Raises UserError for a missing field, a duplicate or an empty file."""
    return list(_by_text(path, ((place, _task(record, place), None) for place, record in _records(path))))


def load_predictions(path: str) -> tuple[str, dict[Task, str]]:
    """Name of the model and its response to each task. The response is in "output", or in Self-Instruct's "response";
    without a "generator" in the file, the model is called as the file. Raises UserError as load_tasks does."""
    entries, generators = [], set()
    for place, record in _records(path):
        output = record.get("output", record.get("response"))
        if not isinstance(output, str):
            raise UserError(f'{place}: no "output". Each entry needs instruction and output, and generator if it can.')
        generators.add(record.get("generator"))
        entries.append((place, _task(record, place), output.strip()))
    predictions = _by_text(path, entries)
    if len(generators) > 1:
        raise UserError(f"{path}: responses of {len(generators)} generators. Each file holds those of one model.")
    generator = generators.pop()
    return generator if isinstance(generator, str) else Path(path).stem, predictions


def load_pairs(path_1: str, path_2: str) -> tuple[tuple[str, str], list[Pair]]:
    """Names of the two models, and the pairs in the order of the first file.

    Raises UserError unless both files answer the same instructions.
    """
    (name_1, predictions_1), (name_2, predictions_2) = load_predictions(path_1), load_predictions(path_2)
    outputs_2 = {task.text: output for task, output in predictions_2.items()}
    missing = [task for task in predictions_1 if task.text not in outputs_2]
    texts_1 = {task.text for task in predictions_1}
    extra = [task for task in predictions_2 if task.text not in texts_1]
    if missing or extra:
        example, path = (missing[0], path_2) if missing else (extra[0], path_1)
        raise UserError(
            f"{path_1} and {path_2} answer different instructions: {len(missing)} are in the first only, {len(extra)} "
            f"in the second only. {path} lacks, for one, {' '.join(example.text.split())[:60]!r}."
        )
    if name_1 == name_2:  # two runs of the same model
        name_1, name_2 = f"{name_1} ({path_1})", f"{name_2} ({path_2})"
    # Where only one of the files keeps the input apart, its task is shown.
    apart = {task.text: task for task in (*predictions_2, *predictions_1) if task.input}
    pairs = [Pair(apart.get(task.text, task), (output, outputs_2[task.text])) for task, output in predictions_1.items()]
    return (name_1, name_2), pairs


def prediction(task: Task, output: str, generator: str, dataset: str) -> dict:
    """An entry of a prediction file, for AlpacaEval and for load_predictions."""
    return {
        "dataset": dataset,
        "instruction": task.text,
        "input": task.input,
        "output": output,
        "generator": generator,
    }


def _records(path: str) -> list[tuple[str, dict]]:
    """(where it is, for messages; content) of each entry."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        records = [(f"{path}, entry {number}", record) for number, record in enumerate(jload(path), start=1)]
    else:
        records = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append((f"{path}, line {number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}: not JSON ({error.msg}).") from None
    if not records:
        raise UserError(f"{path}: no entries. It has to be a JSON list or JSON lines.")
    for place, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{place}: not a JSON object.")
    return records


def _task(record: dict, place: str) -> Task:
    instruction, input = record.get("instruction"), record.get("input", "")
    if instances := record.get("instances"):  # Self-Instruct
        input = (
            instances[0].get("input", "") if isinstance(instances, list) and isinstance(instances[0], dict) else None
        )
    if not isinstance(instruction, str) or not instruction.strip():
        raise UserError(f'{place}: no "instruction".')
    if not isinstance(input, str):
        raise UserError(f'{place}: "input" is no text.')
    instruction, input = instruction.strip(), input.strip()
    if input:  # in the files that prediction() writes, the instruction holds it already
        instruction = instruction.removesuffix(f"\n\n{input}")
    return Task(instruction, input)


def _by_text(path: str, entries: Iterable[tuple[str, Task, str | None]]) -> dict[Task, str | None]:
    places, values = {}, {}
    for place, task, value in entries:
        if task.text in places:
            raise UserError(
                f"{place}: the same instruction and input as {places[task.text].removeprefix(path + ', ')}."
            )
        places[task.text] = place
        values[task] = value
    return values
