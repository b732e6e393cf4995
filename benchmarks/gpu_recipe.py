"""The recipe for LLaMA-7B on one GPU: the plain Trainer, train.py's and TRL's, with random weights and real examples.

python -m benchmarks.gpu_recipe [--shape 7b|1b|tiny] [--num_steps 3] [--rows plain packed ...]

Global batch 128, at most 512 tokens an example, bfloat16 arithmetic on float32 weights, gradients and AdamW moments (16
bytes per parameter before any activation: 108 GB for the 7b shape). Each row is a process of its own, 2 steps to warm
up, then num_steps, and prints a line of JSON. Operations are counted as 6 x parameters x tokens without padding, which
leaves out attention and what is computed twice. The projection is for 52,002 examples of this length x 3 epochs. A
device whose bfloat16 peak is not in the table gets null for its share.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import tempfile

from benchmarks.measure import largest_difference
from benchmarks.training import in_a_process, make_trainer, train_by_the_clock
from utils import ROOT

# Dense bfloat16 FLOP/s from the makers' data sheets.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "MI300X": 1307e12}
SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16, "num_attention_heads": 16},
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
}
ROWS = {  # name: (what it is, trainer, examples per micro-batch, its flags)
    "plain": ("transformers.Trainer", "plain", 4, {}),
    "packed": ("train.py, the original's flags", "ours", 4, {}),
    "liger": ("the same, --use_liger_kernel True", "ours", 4, {"use_liger_kernel": True}),
    "compiled": ("the same, --torch_compile True", "ours", 4, {"torch_compile": True}),
    "compiled 4096": ("the same, --per_device_train_batch_size 8, too", "ours", 8, {"torch_compile": True}),
    # Without a flash kernel of its own, TRL warns that documents of a row may see one another.
    "trl packing": (
        "TRL SFTTrainer, packing=True", "trl", 4,
        {"packing": True, "max_length": 512, "activation_checkpointing": False},
    ),
    # It refuses to cut examples off here; none of alpaca_data.json is longer than 512 tokens.
    "trl padding_free": (
        "TRL SFTTrainer, padding_free=True", "trl", 4,
        {"padding_free": True, "max_length": None, "activation_checkpointing": False},
    ),
}  # fmt: skip
GLOBAL_BATCH, NUM_EXAMPLES, NUM_EPOCHS, NUM_WARM_UP = 128, 52_002, 3, 2


def measure(row: str, shape: str, num_steps: int, data_path: str) -> dict:
    """Train with random weights, and return what was measured."""
    import torch
    import transformers

    import train
    from alpaca.training.arguments import fsdp_on_one_gpu

    _, kind, micro_batch, flags = ROWS[row]
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(0)
    tokenizer = train.load_tokenizer(str(ROOT / "configs" / "tiny-llama"), None, 512)[0]
    lengths = train.SupervisedDataset(data_path, tokenizer).lengths
    sizes = SHAPES[shape]
    config = transformers.LlamaConfig(
        vocab_size=32001, num_key_value_heads=sizes["num_attention_heads"], use_cache=False, **sizes
    )
    is_gpu = torch.cuda.is_available()
    with torch.device("cuda" if is_gpu else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if kind == "ours":
        flags = flags | fsdp_on_one_gpu()
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = make_trainer(
            kind, model, tokenizer, data_path, output_dir=output_dir, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=GLOBAL_BATCH // micro_batch, max_steps=NUM_WARM_UP + num_steps,
            learning_rate=2e-5, bf16=is_gpu, tf32=True if is_gpu else None, optim="adamw_torch_fused", **flags,
        )  # fmt: skip
        times, losses = train_by_the_clock(trainer)
    sec = (times[-1] - times[NUM_WARM_UP - 1]) / num_steps
    # The mean over the data: what a step holds varies, and TRL's packing puts other examples into a step.
    tokens_per_sec = tokens_per_step(row, trainer, lengths) / sec
    name = torch.cuda.get_device_name() if is_gpu else "cpu"
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name), None)
    return {
        "row": row,
        "shape": shape,
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": num_parameters,
        "sec_per_step": round(sec, 3),
        "tokens_per_sec": round(tokens_per_sec),
        "share_of_peak": round(6 * num_parameters * tokens_per_sec / peak, 3) if peak else None,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if is_gpu else None,
        "hours": round(float(lengths.mean()) * NUM_EXAMPLES * NUM_EPOCHS / tokens_per_sec / 3600, 2),
        "losses": [round(loss, 5) for loss in losses],
    }


def tokens_per_step(row: str, trainer, lengths) -> float:
    """Tokens without padding in the measured steps, on average."""
    import torch

    if row == "trl packing":  # rows of 512 tokens, each full but for what the last example left
        return GLOBAL_BATCH * sum(map(len, trainer.train_dataset["input_ids"])) / len(trainer.train_dataset)
    drawn = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(42)).numpy()
    steps = [drawn[k * GLOBAL_BATCH : (k + 1) * GLOBAL_BATCH] for k in range(trainer.args.max_steps)]
    return sum(lengths[step].sum() for step in steps[NUM_WARM_UP:]) / (len(steps) - NUM_WARM_UP)


def main(shape: str, num_steps: int, rows: list[str], data_path: str) -> None:
    results = []
    for row in rows:
        try:
            results.append(in_a_process("benchmarks.gpu_recipe", row, shape, num_steps, data_path))
            print(json.dumps(results[-1]), flush=True)
        except SystemExit as error:  # out of memory, say; the other rows count all the same
            print(json.dumps({"row": row, "failed": str(error)}), flush=True)
    print(table(results))


def table(results: list[dict]) -> str:
    """Markdown; losses are compared step by step with those of the plain Trainer, where it was measured."""
    plain = next((result["losses"] for result in results if result["row"] == "plain"), None)
    lines = ["| | tokens/s | share of peak | peak memory | 52,002 x 3 | largest difference of a loss |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for result in results:
        share = f"{result['share_of_peak']:.1%}" if result["share_of_peak"] else "-"
        memory = f"{result['peak_gb']:.0f} GB" if result["peak_gb"] else "-"
        same_steps = plain and result["row"] not in ("plain", "trl packing")
        difference = f"{largest_difference(result['losses'], plain):.1e}" if same_steps else ""
        cells = [ROWS[result["row"]][0], f"{result['tokens_per_sec']:,}", share, memory, f"{result['hours']:.2f} h"]
        lines.append(f"| {' | '.join([*cells, difference])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--num_steps", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    main(**vars(parser.parse_args()))
