"""What a set of instruction data is worth: the loss on references that people wrote, after tuning on each of three.

python -m configs.quick_start base --output_dir out/smollm2
python -m benchmarks.data_value [--model out/smollm2] [--num_tokens 100000] [--num_steps 25]

The same model is tuned (train.py, all weights, one pass, one seed, one learning rate) on equally many tokens, prompts
included, and in equally many steps, of the examples of alpaca_data.json's first run, of all of alpaca_data.json, and of
alpaca_sample.json, 1,989 long examples of the 52,002 of 2023. Before and after: the mean loss per token (nats, EOS
included) on the 252 references of Self-Instruct's evaluation in the training prompt, by the length of the reference.
Both files are read from --reference_dir. Saves the table in benchmarks/results/data_value.txt, its last line as JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import machine, print_and_save
from utils import ROOT, jdump

MAX_LENGTH, SEED = 512, 42  # tokens of an example at most; what is beyond is cut off
NUM_DRAWS = 200  # of which the one whose tokens come nearest to --num_tokens is taken
LENGTHS = {"up to 20 words": (0, 20), "21 to 100": (21, 100), "over 100": (101, 10**6), "all": (0, 10**6)}


def load_sets(reference_dir: Path) -> dict[str, list[dict]]:
    from alpaca.examples import load_examples
    from data.kinds import load_kinds

    examples, kinds = load_examples(ROOT / "alpaca_data.json"), load_kinds()
    return {
        "first run": [example for example in examples if example["instruction"] not in kinds],
        "alpaca_data.json": examples,
        "alpaca_sample.json": load_examples(reference_dir / "alpaca_sample.json"),
    }


def draw(examples: list[dict], path: Path, model: str, num_tokens: int, num_steps: int) -> tuple[int, int]:
    """Write random examples of about num_tokens, equally many for each step, to path; how many, and their tokens."""
    import train

    jdump(examples, path)
    lengths = train.SupervisedDataset(str(path), train.load_tokenizer(model, None, MAX_LENGTH)[0]).lengths
    num_examples = max(1, round(num_tokens / lengths.mean() / num_steps)) * num_steps
    if num_examples > len(examples):
        raise SystemExit(f"only {lengths.sum():,} tokens in {len(examples):,} examples: lower --num_tokens.")
    rng = random.Random(SEED)
    draws = [rng.sample(range(len(examples)), num_examples) for _ in range(NUM_DRAWS)]
    best = min(draws, key=lambda indices: abs(lengths[indices].sum() - num_tokens))
    jdump([examples[i] for i in best], path)
    return num_examples, int(lengths[best].sum())


def tune(model: str, data_path: Path, num_examples: int, arguments: argparse.Namespace, output_dir: Path) -> None:
    command = [sys.executable, "train.py", "--model_name_or_path", model, "--data_path", str(data_path)]
    command += ["--output_dir", str(output_dir), "--num_train_epochs", "1", "--save_strategy", "no"]
    # On a CPU, micro-batches hold 2,048 tokens all the same.
    command += ["--per_device_train_batch_size", str(num_examples // arguments.num_steps)]
    command += ["--model_max_length", str(MAX_LENGTH), "--seed", str(SEED)]
    command += ["--learning_rate", str(arguments.learning_rate), "--lr_scheduler_type", "cosine"]
    command += ["--warmup_ratio", "0.05", "--logging_steps", "5", "--report_to", "none"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SystemExit("train.py failed; its message is above.")


def losses(model_path: str, reference_path: Path) -> dict[str, float]:
    """The mean loss per token over the references of each length, in nats."""
    import torch
    import transformers

    import train
    from alpaca.examples import load_examples
    from alpaca.inference.local import num_rows_of, resize_embeddings

    tokenizer, num_new_tokens = train.load_tokenizer(model_path, None, MAX_LENGTH)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    resize_embeddings(model, num_rows_of(tokenizer), num_new_tokens)
    num_words = [len(example["output"].split()) for example in load_examples(reference_path)]
    dataset, sums = train.SupervisedDataset(str(reference_path), tokenizer), []
    for example in dataset:
        with torch.inference_mode():
            logits = model(example["input_ids"][None, :]).logits[0, :-1]
        sums.append(torch.nn.functional.cross_entropy(logits, example["labels"][1:], reduction="sum").item())
    found = {}
    for name, (least, most) in LENGTHS.items():
        rows = [i for i, n in enumerate(num_words) if least <= n <= most]
        found[f"{name} ({len(rows)})"] = sum(sums[i] for i in rows) / int(dataset.num_labels[rows].sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="out/smollm2")
    parser.add_argument("--num_tokens", type=int, default=100_000)
    parser.add_argument("--num_steps", type=int, default=25)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--reference_dir", type=Path, default=ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    reference_path = arguments.reference_dir / "user_oriented_instructions.jsonl"
    rows = [{"set": "before", "examples": 0, "tokens": 0, "losses": losses(arguments.model, reference_path)}]
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, examples) in enumerate(load_sets(arguments.reference_dir).items()):
            data_path, output_dir = Path(folder) / f"set{i}.json", Path(folder) / f"model{i}"
            size = draw(examples, data_path, arguments.model, arguments.num_tokens, arguments.num_steps)
            tune(arguments.model, data_path, size[0], arguments, output_dir)
            after = losses(str(output_dir), reference_path)
            rows.append({"set": name, "examples": size[0], "tokens": size[1], "losses": after})
    lines = [
        f"{machine()}; {arguments.model}, {arguments.num_steps} steps, learning rate {arguments.learning_rate:g}, "
        f"seed {SEED}; mean loss per token of the references, by their length (how many)",
        f"{'tuned on':<22}{'examples':>9}{'tokens':>10}" + "".join(f"{name:>22}" for name in rows[0]["losses"]),
    ]
    for row in rows:
        values = "".join(f"{loss:>22.4f}" for loss in row["losses"].values())
        lines.append(f"{row['set']:<22}{row['examples']:>9,}{row['tokens']:>10,}{values}")
    print_and_save("data_value", [*lines, json.dumps(rows)])


if __name__ == "__main__":
    main()
