"""Responses per second of `compare.py generate` on the CPU, beside a plain loop of model.generate, prompt by prompt.

python -m benchmarks.inference

The loop gets a model that is loaded already; the command's time includes loading it, and saving each response. Random
LLaMA models of 0.1 and 100 million parameters, greedy; enough tokens end a text that responses differ in length.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import io
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from benchmarks.measure import machine
from compare import generate
from configs import tiny_models
from utils import format_prompt

NUM_TASKS = 32
MAX_NEW_TOKENS = 96
NUM_REPEATS = 3
MODELS = {"0.1M": (64, 2), "100M": (768, 17)}  # hidden size, layers


def save_model(path: Path, hidden_size: int, num_layers: int) -> None:
    """A random model in which about one token in 45 ends a response."""
    tiny_models.save_llama(path, hidden_size, num_layers)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    draw = random.Random(0)
    model.generation_config.eos_token_id = [2, *sorted(draw.sample(range(3, model.config.vocab_size), 8))]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight *= 4  # far from ties, which rounding would decide
    model.save_pretrained(path)


def write_tasks(path: Path) -> list[dict]:
    """Texts as long as those of the Self-Instruct evaluation on average: 18 words of instruction, four in five with an
    input of 24 words."""
    draw = random.Random(0)
    words = " ".join(tiny_models.TEXT).split()

    def text(longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(3, longest)))

    tasks = [{"instruction": text(33), "input": text(45) if i % 5 else ""} for i in range(NUM_TASKS)]
    path.write_text(json.dumps(tasks))
    return tasks


def one_by_one(model, tokenizer, tasks: list[dict]) -> tuple[list[str], int]:
    """The responses, and how many tokens they have in all."""
    outputs, num_tokens = [], 0
    for task in tasks:
        inputs = tokenizer(format_prompt(**task), return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )[0, inputs.input_ids.shape[1] :].tolist()
        num_tokens += len(ids)
        ids = [i for i in ids if i not in model.generation_config.eos_token_id]
        outputs.append(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return outputs, num_tokens


def command(model_path: Path, tasks_path: Path, output_path: Path) -> list[str]:
    output_path.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        generate(str(tasks_path), str(output_path), str(model_path), max_new_tokens=MAX_NEW_TOKENS)
    return [entry["output"] for entry in json.loads(output_path.read_text())]


def measure(name: str, folder: Path) -> dict:
    save_model(folder / name, *MODELS[name])
    tasks = write_tasks(folder / "tasks.json")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / name)
    one_by_one(model, tokenizer, tasks[:2])  # warm up
    command(folder / name, folder / "tasks.json", folder / "out.json")
    loop_sec, command_sec = [], []
    for _ in range(NUM_REPEATS):
        started = time.perf_counter()
        expected, num_tokens = one_by_one(model, tokenizer, tasks)
        loop_sec.append(time.perf_counter() - started)
        started = time.perf_counter()
        outputs = command(folder / name, folder / "tasks.json", folder / "out.json")
        command_sec.append(time.perf_counter() - started)
    prompt_tokens = [len(tokenizer(format_prompt(**task)).input_ids) for task in tasks]
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "prompt tokens": round(statistics.mean(prompt_tokens), 1),
        "response tokens": round(num_tokens / NUM_TASKS, 1),
        "one by one": sorted(round(NUM_TASKS / seconds, 2) for seconds in loop_sec),
        "compare.py generate": sorted(round(NUM_TASKS / seconds, 2) for seconds in command_sec),
        "speed-up": round(statistics.median(loop_sec) / statistics.median(command_sec), 1),
        "equal responses": f"{sum(a == b for a, b in zip(outputs, expected, strict=True))} of {NUM_TASKS}",
    }


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(name, Path(folder)) for name in MODELS]
    print("responses per second of each run, the median in the middle; prompt and response in tokens, on average")
    for key in results[0]:
        print(f"{key:<20}" + "".join(f"{row[key]!s:>32}" for row in results))
    versions = f"{machine()}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}\n{json.dumps({'versions': versions, 'results': results})}")


if __name__ == "__main__":
    main()
