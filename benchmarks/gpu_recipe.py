"""The LLaMA-7B recipe on one device: tokens per second, peak memory, share of the device's peak, projected hours.

python -m benchmarks.gpu_recipe [--shape 7b|tiny] [--num_steps 5] [--micro_batch 16] [--data_path alpaca_data.json]
    [--no-gradient_checkpointing] [--torch_compile]

Random weights of the model's shape, real examples, global batch 128, bfloat16 arithmetic on float32 weights, AdamW,
through train.py's own trainer. The 7b shape needs 108 GB for weights, gradients and AdamW's two moments, before any
activation. Operations are counted as 6 x parameters x tokens, which leaves out attention and what checkpointing does
again. The projection is for 52,002 examples x 3 epochs. A device whose dense bfloat16 peak is not in the table gets
null for its share. Ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import tempfile
import time

import torch
import transformers

import train
from alpaca.training.response_loss import compute_loss_on_response_only
from utils import ROOT

# Dense bfloat16 FLOP/s from the makers' data sheets.
PEAK_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "MI300X": 1307e12}
SHAPES = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
}
GLOBAL_BATCH, NUM_EXAMPLES, NUM_EPOCHS = 128, 52_002, 3


def main(
    shape: str, num_steps: int, micro_batch: int, data_path: str, gradient_checkpointing: bool, torch_compile: bool
) -> None:
    tokenizer = train.load_tokenizer(str(ROOT / "configs" / "tiny-llama"), None, 512)[0]
    dataset = train.SupervisedDataset(data_path, tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.LlamaConfig(
        vocab_size=32001, num_key_value_heads=SHAPES[shape]["num_attention_heads"], use_cache=False, **SHAPES[shape]
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    compute_loss_on_response_only(model)
    marks = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), sum(token_counts)))

    token_counts = []
    collator = train.DataCollatorForSupervisedDataset(tokenizer)

    def counting_collator(examples):
        batch = collator(examples)
        token_counts.append(int(batch["attention_mask"].sum()))
        return batch

    with tempfile.TemporaryDirectory() as output_dir:
        arguments = train.TrainingArguments(
            output_dir=output_dir, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=GLOBAL_BATCH // micro_batch, max_steps=num_steps + 2, learning_rate=2e-5,
            bf16=True, tf32=True, gradient_checkpointing=gradient_checkpointing, torch_compile=torch_compile,
            save_strategy="no", report_to="none", logging_steps=1, optim="adamw_torch_fused",
        )  # fmt: skip
        trainer = train.AlpacaTrainer(
            model, arguments, train_dataset=dataset, data_collator=counting_collator, processing_class=tokenizer,
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    (start, tokens_before), (end, tokens_after) = marks[1], marks[-1]  # two steps to warm up
    tokens_per_sec = (tokens_after - tokens_before) / (end - start)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name), None)
    result = {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": num_parameters,
        "micro_batch": micro_batch,
        "gradient_checkpointing": gradient_checkpointing,
        "torch_compile": torch_compile,
        "tokens_per_example": float(dataset.lengths.mean()),
        "tokens_per_sec": tokens_per_sec,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
        "share_of_peak": 6 * num_parameters * tokens_per_sec / peak if peak else None,
        "projected_hours": float(dataset.lengths.mean()) * NUM_EXAMPLES * NUM_EPOCHS / tokens_per_sec / 3600,
    }
    for key, value in result.items():
        print(f"{key:>16}  {value:,.4g}" if isinstance(value, float) else f"{key:>16}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--num_steps", type=int, default=5)
    parser.add_argument("--micro_batch", type=int, default=16)
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--torch_compile", action="store_true")
    main(**vars(parser.parse_args()))
