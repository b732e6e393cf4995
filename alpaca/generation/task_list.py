"""The numbered list of tasks that the teacher is shown and asked to continue: written as a prompt, and read back.

    ###
    1. Instruction: <instruction>
    1. Input:
    <input, or <noinput>>
    1. Output:
    <output>

with `###` between the tasks.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import os
import re
import string

from utils import ROOT, read_text

PROMPT_PATH = ROOT / "prompt.txt"
LAST_TASK_NUMBER = 20  # prompt.txt asks for a list of twenty tasks, the sampled seed tasks included

# What a text-only model cannot see or make. Matched as whole words, in any case.
UNSUITABLE_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram"),
)
FOREIGN_LABEL = re.compile(r"\d\.\s*(?:Instruction|Input|Output)\s*:", re.IGNORECASE)


def encode_prompt(prompt_instructions: list[dict], prompt_path: str | os.PathLike = PROMPT_PATH) -> str:
    """The request to the teacher: the text of prompt_path, the given tasks, and the label of the next one."""
    prompt = read_text(prompt_path) + "\n"
    for number, task in enumerate(prompt_instructions, start=1):
        instruction = re.sub(r"\s+", " ", task["instruction"]).strip().rstrip(":")
        prompt += f"###\n{number}. Instruction: {instruction}\n"
        prompt += f"{number}. Input:\n{task['input'] or '<noinput>'}\n"
        prompt += f"{number}. Output:\n{task['output']}\n"
    return prompt + f"###\n{len(prompt_instructions) + 1}. Instruction:"


def post_process_gpt3_response(num_prompt_instructions: int, response, drop_malformed: bool = True) -> list[dict]:
    """The usable tasks in a completion (with .text and .finish_reason), as {"instruction", "input", "output"}.

    Any text is accepted, and what is not a usable task is left out. With drop_malformed False, exactly what the
    original generator let through is let through.
    """
    if response is None:
        return []
    return parse_completion(num_prompt_instructions, response.text, response.finish_reason, drop_malformed)[0]


def parse_completion(
    num_prompt_instructions: int, text: str | None, finish_reason: str | None, drop_malformed: bool = True
) -> tuple[list[dict], collections.Counter]:
    """The usable tasks in a completion, and how many pieces were dropped for which reason."""
    first_number = num_prompt_instructions + 1
    pieces = f"{first_number}. Instruction:{text or ''}".split("###")
    tasks, dropped = [], collections.Counter()
    for number, piece in enumerate(pieces, start=first_number):
        if not piece.strip():
            continue
        if number == first_number + len(pieces) - 1 and finish_reason == "length":
            dropped["cut off by the token limit"] += 1
        elif isinstance(task := _parse_piece(number, piece, drop_malformed), str):
            dropped[task] += 1
        else:
            tasks.append(task)
    return tasks, dropped


def _parse_piece(number: int, piece: str, drop_malformed: bool) -> dict | str:
    """The task in one piece of a completion, or the reason why there is none."""
    if number > LAST_TASK_NUMBER:
        return f"numbered above {LAST_TASK_NUMBER}"
    # Without drop_malformed, "14. Input:" also ends in the label "4. Input:", as in the original.
    not_after_digit = r"(?<!\d)" if drop_malformed else ""
    parts = re.split(rf"{not_after_digit}{number}\.\s+(Instruction|Input|Output):", piece)
    if len(parts) != 7 or (drop_malformed and parts[1::2] != ["Instruction", "Input", "Output"]):
        return "not Instruction, Input, Output"
    instruction, input, output = (part.strip() for part in parts[2::2])
    if input.lower() == "<noinput>":
        input = ""
    if drop_malformed and not output:
        return "empty output"
    if drop_malformed and any(map(FOREIGN_LABEL.search, (instruction, input, output))):
        return "another task inside"
    if reason := _why_unsuitable(instruction):
        return reason
    return {"instruction": instruction, "input": input, "output": output}


def _why_unsuitable(instruction: str) -> str | None:
    """The reason to drop an instruction whatever else there is, or None."""
    num_words = len(instruction.split())
    if num_words <= 3:
        return "instruction of 3 words or fewer"
    if num_words > 150:
        return "instruction of more than 150 words"
    if any(find_word_in_string(word, instruction) for word in UNSUITABLE_WORDS):
        return "about images, sound or files"
    # Teachers like to put this before a task that needs no program.
    if instruction.startswith("Write a program"):
        return 'starts with "Write a program"'
    if instruction[0] in string.punctuation:
        return "starts with punctuation"
    if not instruction[0].isascii():
        return "starts with a non-ASCII character"
    return None


def find_word_in_string(w: str, s: str) -> re.Match | None:
    """The first place where s contains w as whole words, in any case.

    >>> find_word_in_string("map", "Read the Map aloud.").group(), find_word_in_string("map", "Draw a mapping.")
    ('Map', None)
    """
    return re.search(rf"\b({re.escape(w)})\b", s, flags=re.IGNORECASE)


def strip_repeated_label(text: str, number: int) -> str:
    """A chat reply without its own `{number}. Instruction:`, and whatever it says before, where it begins so.

    >>> strip_repeated_label("Sure!\\n\\n4. Instruction: Sort.\\n4. Input: 2 1", 4)
    ' Sort.\\n4. Input: 2 1'
    """
    first_label = re.search(rf"(?<!\d){number}\.\s+(Instruction|Input|Output):", text)
    return text[first_label.end() :] if first_label and first_label[1] == "Instruction" else text
