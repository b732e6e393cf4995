"""Responses per second of `compare.py generate` on the CPU, beside what transformers offers for many prompts.

python -m configs.quick_start base --output_dir out/smollm2
python -m benchmarks.inference [--repeats 3] [--models 0.1M 100M 135M]

Beside it: model.generate prompt by prompt and on batches sorted by length, and generate_batch, its continuous batching.
They get a model that is loaded already; the command's time includes loading it, and saving each response. Greedy, in
float32: random LLaMA models of 0.1 and 100 million parameters, in which enough tokens end a text that responses differ
in length, and SmolLM2-135M. Saves benchmarks/results/inference.txt, its last line as JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import contextlib
import functools
import io
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers

from alpaca.inference.local import LocalModel, load_model
from benchmarks.measure import machine, print_and_save
from compare import generate
from configs import tiny_models
from utils import ROOT

NUM_TASKS = 32
MAX_NEW_TOKENS = 96
BATCH_SIZE = 16
RANDOM_MODELS = {"0.1M": (64, 2), "100M": (768, 17)}  # hidden size, layers
SMOLLM2 = ROOT / "out" / "smollm2"


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


def generated(local: LocalModel, prompts: list[str]) -> list[list[int]]:
    """The ids that model.generate adds to each prompt of a batch."""
    inputs = local.tokenizer(prompts, return_tensors="pt", padding=len(prompts) > 1, padding_side="left")
    inputs = inputs.to(local.model.device)
    with torch.inference_mode():
        ids = local.model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
    return ids[:, inputs.input_ids.shape[1] :].tolist()


def one_by_one(local: LocalModel, prompts: list[str]) -> list[list[int]]:
    return [ids for prompt in prompts for ids in generated(local, [prompt])]


def sorted_batches(local: LocalModel, prompts: list[str]) -> list[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    ids: dict[int, list[int]] = {}
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        ids.update(zip(batch, generated(local, [prompts[i] for i in batch]), strict=True))
    return [ids[i] for i in range(len(prompts))]


def continuous(local: LocalModel, prompts: list[str]) -> list[list[int]]:
    settings = transformers.GenerationConfig(
        max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=sorted(local.eos_ids), pad_token_id=0
    )
    results = local.model.generate_batch([local.encode(prompt) for prompt in prompts], generation_config=settings)
    by_number = sorted(results.values(), key=lambda result: int(result.request_id.rpartition("_")[2]))
    return [result.generated_tokens for result in by_number]


def command(model_path: Path, tasks_path: Path, output_path: Path) -> list[str]:
    output_path.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        generate(str(tasks_path), str(output_path), str(model_path), prompt="alpaca", max_new_tokens=MAX_NEW_TOKENS)
    return [entry["output"] for entry in json.loads(output_path.read_text())]


LIBRARY = {
    "generate, one by one": one_by_one,
    f"generate, sorted batches of {BATCH_SIZE}": sorted_batches,
    "generate_batch": continuous,
}


def measure(name: str, folder: Path, repeats: int) -> dict:
    """Seconds of each way, repeats times in turn, and whether its responses are those of one by one."""
    path = folder / name if name in RANDOM_MODELS else SMOLLM2
    if name in RANDOM_MODELS:
        save_model(path, *RANDOM_MODELS[name])
    tasks = write_tasks(folder / "tasks.json")
    local = load_model(str(path), prompt="alpaca")
    local.tokenizer.pad_token = local.tokenizer.pad_token or local.tokenizer.eos_token  # which batches take alone
    prompts = [local.prompt(**task) for task in tasks]

    def texts_of(way) -> list[str]:
        all_ids = [[i for i in ids if i not in local.eos_ids] for ids in way(local, prompts)]
        return [local.decode(ids).strip() for ids in all_ids]

    ways = {label: functools.partial(texts_of, way) for label, way in LIBRARY.items()}
    ways["compare.py generate"] = lambda: command(path, folder / "tasks.json", folder / "out.json")
    one_by_one(local, prompts)  # to warm up
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    texts = {}
    for _ in range(repeats):
        for label, way in ways.items():
            started = time.perf_counter()
            texts[label] = way()
            seconds[label].append(time.perf_counter() - started)
    expected = texts["generate, one by one"]
    return {
        "model": name,
        "seconds": {label: statistics.median(times) for label, times in seconds.items()},
        "equal": {label: sum(a == b for a, b in zip(found, expected, strict=True)) for label, found in texts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=[*RANDOM_MODELS, "135M"], choices=[*RANDOM_MODELS, "135M"])
    arguments = parser.parse_args()
    if "135M" in arguments.models and not SMOLLM2.is_dir():
        parser.error("135M is made by python -m configs.quick_start base --output_dir out/smollm2")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(name, Path(folder), arguments.repeats) for name in arguments.models]
    lines = [
        f"{machine('torch', 'transformers')}; {NUM_TASKS} prompts, at most {MAX_NEW_TOKENS} tokens in "
        f"an answer; medians of {arguments.repeats}"
    ]
    for result in results:
        lines.append(result["model"])
        one_by_one_sec = result["seconds"]["generate, one by one"]
        for label, sec in result["seconds"].items():
            equal = f"{result['equal'][label]} of {NUM_TASKS} equal"
            lines.append(f"  {label:<34}{NUM_TASKS / sec:>8.2f} responses/s{one_by_one_sec / sec:>7.1f} x  {equal}")
    print_and_save("inference", [*lines, json.dumps(results)])


if __name__ == "__main__":
    main()
