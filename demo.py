"""Talk to an instruction-following model, in the terminal or on a web page.

python demo.py chat --model_name_or_path <model folder, adapter folder or Hub name>
python demo.py web --model_name_or_path <model> --port 7860
echo "Name three colours." | python demo.py chat --model_name_or_path <model>

`chat` asks for an instruction and, if you like, an input. Where its standard input is no terminal, every line of it is
an instruction, or instruction, tab, input; instruction and response are printed. Nothing is written to disk.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import sys

from inference import Decoding, load_model, stream
from utils import UserError, format_prompt, run_commands

NOTICE = (
    "This model makes things up, repeats prejudices of its training data, and has no safety training. "
    "For research only: the instruction data is licensed CC BY-NC 4.0, so commercial use is not allowed."
)


def chat(
    model_name_or_path: str,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int | None = None,
    cache_dir: str | None = None,
) -> None:
    """Answer instructions in the terminal, one after the other.

    Args:
        model_name_or_path: a model folder, an adapter folder, or a name on the Hub.
        max_new_tokens: longest response, in tokens.
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: makes the responses repeatable.
        cache_dir: where models from the Hub are kept.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p)
    decoding.check()
    local = load_model(model_name_or_path, cache_dir)

    def answer(instruction: str, input: str):
        return stream(local, format_prompt(instruction, input), decoding, seed)

    if sys.stdin.isatty():
        converse(answer)
    else:
        answer_lines(sys.stdin, answer)


def answer_lines(lines, answer) -> None:
    """Print instruction and response for every line `instruction` or `instruction<tab>input`."""
    for number, line in enumerate(lines, start=1):
        instruction, _, input = (part.strip() for part in line.partition("\t"))
        if not instruction:
            continue
        print(f"Instruction: {instruction}" + (f"\nInput: {input}" if input else ""))
        try:
            print("Response: ", end="")
            show(answer(instruction, input))
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
        print()


def converse(answer) -> None:
    """Ask for an instruction and an input, show the response, and so on until the end of the input (Ctrl-D)."""
    print(f"{NOTICE}\n\nCtrl-C stops a response, Ctrl-D ends the conversation.")
    while True:
        try:
            instruction = input("\nInstruction: ").strip()
            if not instruction:
                continue
            context = input("Input (Enter for none): ").strip()
        except EOFError:
            print()
            return
        print("Response: ", end="", flush=True)
        try:
            show(answer(instruction, context))
        except UserError as error:
            print(f"[{error}]")
        except KeyboardInterrupt:
            print(" [stopped]")


def show(responses) -> None:
    """Print a growing response as it grows. Control characters, which a terminal would obey, are left out."""
    shown = ""
    for response in responses:
        text = "".join(c for c in response if c.isprintable() or c in "\n\t")
        if text.startswith(shown):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


if __name__ == "__main__":
    run_commands({"chat": chat})
