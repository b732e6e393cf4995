"""The files of an evaluation: instructions to answer, predictions, and the pairs that two prediction files make.

Read are JSON lists and JSON lines of the Self-Instruct evaluation, of Alpaca and of AlpacaEval; written is AlpacaEval's
format, where the input is a part of the instruction: {"instruction", "output", "generator"}, and "input" beside it.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import typing
from pathlib import Path

from alpaca.examples import read_entries
from utils import UserError


class Task(typing.NamedTuple):
    """An instruction and its input ("" for none); verdicts name their pair by both."""

    instruction: str
    input: str

    @property
    def text(self) -> str:
        """Both as one text, as AlpacaEval has them; this is how files are matched."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


class Pair(typing.NamedTuple):
    """A task and the responses of the two models."""

    task: Task
    outputs: tuple[str, str]

    @property
    def lengths(self) -> tuple[int, int]:
        """Of the responses, in characters."""
        return len(self.outputs[0]), len(self.outputs[1])


def load_tasks(path: str) -> list[Task]:
    """The instructions in a file, in its order. Raises UserError for a missing field, a duplicate or an empty file."""
    return list(_by_task(path, read_entries(path, optional=("input", "output"))))


def load_predictions(path: str) -> tuple[str, dict[Task, str]]:
    """Name of the model and its response to each task. Without a "generator" in the file, the model is called as the
    file. Raises UserError as load_tasks does."""
    entries = read_entries(path)
    for place, entry, _ in entries:
        if not isinstance(entry.get("generator"), str | None):
            raise UserError(f"{path}, {place} has a field 'generator' that is not text.")
    generators = {entry.get("generator") for _, entry, _ in entries}
    if len(generators) > 1:
        raise UserError(f"{path}: responses of {len(generators)} generators. Each file holds those of one model.")
    return generators.pop() or Path(path).stem, _by_task(path, entries)


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


def _by_task(path: str, entries: list[tuple[str, dict, dict]]) -> dict[Task, str]:
    """The output to each task. Raises UserError for an empty instruction, and for a task that comes twice."""
    places, outputs = {}, {}
    for place, _, example in entries:
        instruction, input, output = (text.strip() for text in example.values())
        if not instruction:
            raise UserError(f"{path}, {place} has an empty 'instruction'.")
        # In the files that compare.py writes, the instruction holds the input already.
        task = Task(instruction.removesuffix(f"\n\n{input}") if input else instruction, input)
        if task.text in places:
            raise UserError(f"{path}, {place}: the same instruction and input as {places[task.text]}.")
        places[task.text] = place
        outputs[task] = output
    return outputs
