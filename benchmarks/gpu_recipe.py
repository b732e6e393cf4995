"""The recipe for LLaMA-7B on one GPU: the plain Trainer, train.py's and TRL's, with random weights and real examples.

python -m benchmarks.gpu_recipe [--shape 7b|3b|1b|tiny] [--num_steps 3] [--rows plain packed ...]

Global batch 128, at most 512 tokens an example, bfloat16 arithmetic on float32 weights, gradients and AdamW moments (16
bytes per parameter before any activation: 108 GB for the 7b shape, 55 GB for the 3b one). Each row is a process of its
own: 2 steps to warm up, then num_steps; its line of JSON goes to --output_path at once. Operations are counted as 6 x
parameters x tokens without padding, which leaves out attention and what is computed twice. The projection is for
52,002 examples of this length x 3 epochs. A device whose bfloat16 peak is not in the table gets null for its share.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import subprocess
import sys
import tempfile
import time

from utils import ROOT

# Dense bfloat16 FLOP/s from the makers' data sheets.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "MI300X": 1307e12}
SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "3b": {"hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 16, "num_attention_heads": 16},
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
}
ROWS = {  # name: (what it is, examples per micro-batch, flags of train.py or of TRL's SFTConfig)
    "plain": ("transformers.Trainer", 4, {}),
    "packed": ("train.py, the original's flags", 4, {}),
    "compiled": ("the same, --torch_compile True", 4, {"torch_compile": True}),
    "liger": ("the same, --use_liger_kernel True", 4, {"use_liger_kernel": True}),
    "packed 4096": ("train.py, 4,096 tokens", 8, {}),
    "compiled 4096": ("the same, --torch_compile True", 8, {"torch_compile": True}),
    "unpacked": ("train.py, --pack_steps False", 4, {"pack_steps": False}),
    "trl packing": ("TRL SFTTrainer, packing=True", 4, {"packing": True, "max_length": 512}),
    # It refuses to cut examples off here; none of alpaca_data.json is longer than 512 tokens.
    "trl padding_free": ("TRL SFTTrainer, padding_free=True", 4, {"padding_free": True, "max_length": None}),
}
GLOBAL_BATCH, NUM_EXAMPLES, NUM_EPOCHS, NUM_WARM_UP = 128, 52_002, 3, 2


def make_trainer(row: str, model, tokenizer, data_path: str, arguments: dict):
    import transformers

    import train
    from alpaca.training.arguments import fsdp_on_one_gpu

    _, _, flags = ROWS[row]
    if row.startswith("trl"):
        import trl

        from benchmarks.training import trl_dataset

        # Without a flash kernel of its own, TRL warns that documents of a row may see one another.
        args = trl.SFTConfig(**arguments, **flags, activation_checkpointing=False)
        dataset = trl_dataset(data_path, tokenizer)
        return trl.SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer)
    common = {
        "train_dataset": train.SupervisedDataset(data_path, tokenizer),
        "data_collator": train.DataCollatorForSupervisedDataset(tokenizer),
        "processing_class": tokenizer,
    }
    if row == "plain":
        return transformers.Trainer(model, transformers.TrainingArguments(**arguments), **common)
    args = train.TrainingArguments(**arguments, **fsdp_on_one_gpu(), **flags)
    train.compute_loss_on_response_only(model)
    if args.compile_layers:
        train.compile_layers(model)
    return train.AlpacaTrainer(model, args, **common)


def measure(row: str, shape: str, num_steps: int, data_path: str) -> dict:
    """Train with random weights, and return what was measured."""
    import torch
    import transformers

    import train

    _, micro_batch, _ = ROWS[row]
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
    marks = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if is_gpu:
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output_dir:
        arguments = {
            "output_dir": output_dir, "per_device_train_batch_size": micro_batch,
            "gradient_accumulation_steps": GLOBAL_BATCH // micro_batch, "max_steps": NUM_WARM_UP + num_steps,
            "learning_rate": 2e-5, "bf16": is_gpu, "tf32": True if is_gpu else None, "optim": "adamw_torch_fused",
            "seed": 42, "save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
        }  # fmt: skip
        trainer = make_trainer(row, model, tokenizer, data_path, arguments)
        trainer.add_callback(Clock())
        trainer.train()
    sec = (marks[-1] - marks[NUM_WARM_UP - 1]) / num_steps
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
        "losses": [round(entry["loss"], 5) for entry in trainer.state.log_history if "loss" in entry],
    }


def tokens_per_step(row: str, trainer, lengths) -> float:
    """Tokens without padding in the measured steps, on average."""
    import torch

    if row == "trl packing":  # rows of 512 tokens, each full but for what the last example left
        return GLOBAL_BATCH * sum(map(len, trainer.train_dataset["input_ids"])) / len(trainer.train_dataset)
    drawn = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(42)).numpy()
    steps = [drawn[k * GLOBAL_BATCH : (k + 1) * GLOBAL_BATCH] for k in range(trainer.args.max_steps)]
    return sum(lengths[step].sum() for step in steps[NUM_WARM_UP:]) / (len(steps) - NUM_WARM_UP)


def main(
    shape: str, num_steps: int, rows: list[str], data_path: str, output_path: str | None, timeout_sec: int
) -> None:
    results = []
    for row in rows:
        command = [sys.executable, "-m", "benchmarks.gpu_recipe", "--measure", row]
        command += ["--shape", shape, "--num_steps", str(num_steps), "--data_path", data_path]
        start = time.time()
        try:
            out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_sec, cwd=ROOT)
            is_done, errors = out.returncode == 0, out.stderr
        except subprocess.TimeoutExpired as error:
            is_done, errors = False, f"{(error.stderr or b'').decode()}\nnot done after {timeout_sec} s"
        result = json.loads(out.stdout.strip().splitlines()[-1]) if is_done else {"row": row, "failed": errors[-3000:]}
        results.append({**result, "wall_sec": round(time.time() - start)})
        print(json.dumps(results[-1]), flush=True)
        if output_path:
            with open(output_path, "a", encoding="utf-8") as f:
                f.write(json.dumps(results[-1]) + "\n")
    print(table([result for result in results if "failed" not in result]))


def table(results: list[dict]) -> str:
    """Markdown; losses are compared step by step with those of the plain Trainer, where it was measured."""
    plain = next((result["losses"] for result in results if result["row"] == "plain"), None)
    lines = ["| | tokens/s | share of peak | peak memory | 52,002 x 3 | largest difference of a loss |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for result in results:
        share = f"{result['share_of_peak']:.1%}" if result["share_of_peak"] else "-"
        memory = f"{result['peak_gb']:.0f} GB" if result["peak_gb"] else "-"
        same_steps = plain and result["row"] not in ("plain", "trl packing")
        difference = max(abs(a - b) for a, b in zip(result["losses"], plain, strict=True)) if same_steps else None
        cells = [ROWS[result["row"]][0], f"{result['tokens_per_sec']:,}", share, memory, f"{result['hours']:.2f} h"]
        lines.append(f"| {' | '.join(cells)} | {'' if difference is None else f'{difference:.1e}'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--num_steps", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--output_path")
    parser.add_argument("--timeout_sec", type=int, default=300)
    parser.add_argument("--measure", choices=ROWS, help=argparse.SUPPRESS)
    arguments = vars(parser.parse_args())
    row = arguments.pop("measure")
    if row:
        print(json.dumps(measure(row, arguments["shape"], arguments["num_steps"], arguments["data_path"])))
    else:
        main(**arguments)
