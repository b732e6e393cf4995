"""Examples per second, peak memory and loss of three trainers on one model, data, seed and global batch, on the CPU.

python -m benchmarks.training [--data_path alpaca_data.json ...] [--num_steps 3] [--repeats 2]

(a) transformers.Trainer with random sampling, padding and its own loss; (b) TRL's SFTTrainer for prompt-completion
data, as it comes and with its length grouping; (c) train.py's AlpacaTrainer. A LLaMA of 9 million parameters, float32,
two threads, global batch 64. Each run is a process of its own, its first step is left out, and the trainers take turns
in each of the repeats, whose medians count. What ordering by length gains depends on how much lengths differ, so the
table names them: several data files give a table each. Ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU and says that there is none

from benchmarks.measure import largest_difference, machine, median_of, result_of
from utils import ROOT

TRL = {"max_length": 512, "bf16": False, "gradient_checkpointing": False}
VARIANTS = {  # name: (trainer, its flags)
    "transformers.Trainer": ("plain", {}),
    "TRL SFTTrainer, defaults": ("trl", TRL),
    "TRL SFTTrainer, group_by_length": ("trl", {**TRL, "train_sampling_strategy": "group_by_length"}),
    "train.py": ("ours", {}),
}
GLOBAL_BATCH, MICRO_BATCHES = 64, (4, 16)


def make_model(folder: Path, data_path: str) -> None:
    """A random LLaMA of 9 million parameters with a byte-level tokenizer of 8,192 words trained on the data."""
    import torch
    import transformers

    from alpaca.examples import load_examples
    from configs.tiny_models import llama_tokenizer
    from utils import format_prompt

    examples = load_examples(data_path)
    tokenizer = llama_tokenizer(8192, (format_prompt(e["instruction"], e["input"]) + e["output"] for e in examples))
    tokenizer.pad_token = tokenizer.unk_token  # which no text has
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def trl_dataset(data_path: str, tokenizer):
    """The examples as TRL's SFTTrainer takes them, with the loss on completions only."""
    import datasets

    from alpaca.examples import load_examples
    from utils import format_prompt

    rows = [
        {"prompt": format_prompt(e["instruction"], e["input"]), "completion": e["output"] + tokenizer.eos_token}
        for e in load_examples(data_path)
    ]
    return datasets.Dataset.from_list(rows)


def make_trainer(kind: str, model, tokenizer, data_path: str, **flags):
    """A transformers.Trainer ("plain"), TRL's SFTTrainer ("trl") or train.py's ("ours"), which logs every step."""
    import transformers

    import train

    flags |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    if kind == "trl":
        import trl

        dataset = trl_dataset(data_path, tokenizer)
        return trl.SFTTrainer(model, trl.SFTConfig(**flags), train_dataset=dataset, processing_class=tokenizer)
    common = {
        "train_dataset": train.SupervisedDataset(data_path, tokenizer),
        "data_collator": train.DataCollatorForSupervisedDataset(tokenizer),
        "processing_class": tokenizer,
    }
    if kind == "plain":
        return transformers.Trainer(model, transformers.TrainingArguments(**flags), **common)
    args = train.TrainingArguments(**flags)
    train.compute_loss_on_response_only(model)
    if args.compile_layers:
        train.compile_layers(model)
    return train.AlpacaTrainer(model, args, **common)


def train_by_the_clock(trainer) -> tuple[list[float], list[float]]:
    """Train; when each step ended, in seconds, and its loss."""
    import torch
    import transformers

    times = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    return times, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def measure(variant: str, micro_batch: int, num_steps: int, folder: str, data_path: str) -> dict:
    """Train for num_steps + 1 steps, and return what was measured of all but the first."""
    import torch
    import transformers

    import train

    torch.set_num_threads(2)
    transformers.utils.logging.set_verbosity_error()
    tokenizer = train.load_tokenizer(folder, None, 512)[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    kind, flags = VARIANTS[variant]
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = make_trainer(
            kind, model, tokenizer, data_path, output_dir=output_dir, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=GLOBAL_BATCH // micro_batch, max_steps=num_steps + 1, learning_rate=1e-3,
            lr_scheduler_type="constant", use_cpu=True, **flags,
        )  # fmt: skip
        times, losses = train_by_the_clock(trainer)
    return {
        "variant": variant,
        "micro_batch": micro_batch,
        "examples_per_sec": num_steps * GLOBAL_BATCH / (times[-1] - times[0]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "losses": losses,
    }


def in_a_process(module: str, *arguments) -> dict:
    """What measure(*arguments) of a module returns in a process of its own."""
    call = f"print(json.dumps(measure(*{arguments!r})))"
    return result_of([sys.executable, "-c", f"import json; from {module} import measure; {call}"])


def length_summary(folder: str, data_path: str) -> str:
    import numpy as np

    import train

    dataset = train.SupervisedDataset(data_path, train.load_tokenizer(folder, None, 512)[0])
    low, median, high = np.percentile(dataset.lengths, [5, 50, 95]).round().astype(int)
    responses = dataset.num_labels.sum() / dataset.lengths.sum()
    padding = ", ".join(
        "{:.0%} and {:.0%} at micro-batch {}".format(*padding_shares(dataset.lengths, micro_batch), micro_batch)
        for micro_batch in MICRO_BATCHES
    )
    return (
        f"{Path(data_path).name}: {len(dataset):,} examples of {dataset.lengths.mean():.0f} tokens (5%: {low}, half: "
        f"{median}, 95%: {high}), {responses:.0%} of them response; padding, plain and ours: {padding}"
    )


def padding_shares(lengths, micro_batch: int) -> tuple[float, float]:
    """Share of padding in what is computed in an epoch: with random micro-batches, and as train.py deals them."""
    import torch

    from alpaca.training.packed_steps import CPU_TOKENS, cut

    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(42)).numpy()
    plain = [order[i : i + micro_batch] for i in range(0, len(order), micro_batch)]
    steps = [order[i : i + GLOBAL_BATCH] for i in range(0, len(order), GLOBAL_BATCH)]
    ours = [
        step[group] for step in steps for group in cut(lengths[step], 1, min(micro_batch * 512, CPU_TOKENS), False)[0]
    ]
    return tuple(
        1 - sum(lengths[batch].sum() for batch in batches) / sum(lengths[batch].max() * len(batch) for batch in batches)
        for batches in (plain, ours)
    )


def table(data_path: str, num_steps: int, repeats: int) -> list[dict]:
    """Measure and print one table; its rows, with the losses of every step."""
    runs, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), data_path)
        print(length_summary(folder, data_path))
        for _ in range(repeats):
            for micro_batch in MICRO_BATCHES:
                for variant in VARIANTS:
                    arguments = (variant, micro_batch, num_steps, folder, data_path)
                    runs.append(in_a_process("benchmarks.training", *arguments))
    heads = ("micro-batch", "examples/s", "x plain", "peak GB", "|loss - plain|")
    print(f"{'trainer':<34}" + "".join(f"{head:>15}" for head in heads))
    for micro_batch in MICRO_BATCHES:
        plain = None
        for variant in VARIANTS:
            same = [run for run in runs if (run["variant"], run["micro_batch"]) == (variant, micro_batch)]
            row = {"data": Path(data_path).name, **median_of(same, "examples_per_sec")}
            plain = plain or row
            row["speedup"] = row["examples_per_sec"] / plain["examples_per_sec"]
            row["max_difference"] = largest_difference(row["losses"], plain["losses"])
            rows.append(row)
            print(
                f"{variant:<34}{micro_batch:>15}{row['examples_per_sec']:>15.1f}{row['speedup']:>15.2f}"
                f"{row['peak_gb']:>15.2f}{row['max_difference']:>15.1e}",
                flush=True,
            )
    return rows


def main(data_path: list[str], num_steps: int, repeats: int) -> None:
    versions = machine("torch", "transformers", "trl")
    print(f"global batch {GLOBAL_BATCH}, {num_steps} steps, {repeats} repeats; {versions}")
    rows = [row for path in data_path for row in table(path, num_steps, repeats)]
    print(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", nargs="+", default=[str(ROOT / "alpaca_data.json")])
    parser.add_argument("--num_steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    main(**vars(parser.parse_args()))
