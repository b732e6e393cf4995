"""Examples per second, peak memory and loss of three trainers on one model, data, seed and global batch, on the CPU.

python benchmarks/training.py [--data_path alpaca_data.json] [--num_steps 6]

(a) transformers.Trainer with random sampling, padding and its own loss; (b) TRL's SFTTrainer for prompt-completion
data, as it comes and with its length grouping; (c) train.py's AlpacaTrainer. A LLaMA of 9 million parameters, float32,
two threads, global batch 64. Each run is a process of its own; the first step is left out. Ends with a line of JSON.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

VARIANTS = {
    "a plain": "transformers.Trainer",
    "b trl": "TRL SFTTrainer, defaults",
    "b trl grouped": "TRL SFTTrainer, group_by_length",
    "c ours": "train.py",
}
GLOBAL_BATCH = 64


def make_model(folder: Path, data_path: str) -> None:
    """A random LLaMA of 9 million parameters with a byte-level tokenizer of 8,192 words trained on the data."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    from example_files import load_examples
    from utils import format_prompt

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = load_examples(data_path)
    tokenizer.train_from_iterator(
        (format_prompt(e["instruction"], e["input"]) + e["output"] for e in examples), trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def trainer_arguments(micro_batch: int, num_steps: int, output_dir: str) -> dict:
    return {
        "output_dir": output_dir,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": GLOBAL_BATCH // micro_batch,
        "max_steps": num_steps,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def make_trainer(variant: str, folder: str, data_path: str, arguments: dict):
    import transformers

    import train
    from example_files import load_examples
    from utils import format_prompt

    tokenizer = train.load_tokenizer(folder, None, 512)[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    if variant.startswith("b"):
        import datasets
        import trl

        rows = [
            {"prompt": format_prompt(e["instruction"], e["input"]), "completion": e["output"] + tokenizer.eos_token}
            for e in load_examples(data_path)
        ]
        if variant == "b trl grouped":
            arguments["train_sampling_strategy"] = "group_by_length"
        args = trl.SFTConfig(**arguments, max_length=512, bf16=False, gradient_checkpointing=False)
        return trl.SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer)
    common = {
        "train_dataset": train.SupervisedDataset(data_path, tokenizer),
        "data_collator": train.DataCollatorForSupervisedDataset(tokenizer),
        "processing_class": tokenizer,
    }
    if variant == "a plain":
        return transformers.Trainer(model, transformers.TrainingArguments(**arguments), **common)
    train.compute_loss_on_response_only(model)
    return train.AlpacaTrainer(model, train.TrainingArguments(**arguments), **common)


def run(variant: str, micro_batch: int, num_steps: int, folder: str, data_path: str) -> None:
    """Train for num_steps + 1 steps and print one line of JSON."""
    import torch
    import transformers

    torch.set_num_threads(2)
    transformers.utils.logging.set_verbosity_error()
    times = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output_dir:
        arguments = trainer_arguments(micro_batch, num_steps + 1, output_dir)
        trainer = make_trainer(variant, folder, data_path, arguments)
        before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        trainer.add_callback(Clock())
        trainer.train()
    result = {
        "variant": variant,
        "micro_batch": micro_batch,
        "examples_per_sec": num_steps * GLOBAL_BATCH / (times[-1] - times[0]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "before_training_gb": before_bytes / 1e9,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    print(json.dumps(result))


def main(data_path: str, num_steps: int) -> None:
    import accelerate
    import torch
    import transformers
    import trl

    results = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), data_path)
        for micro_batch in (4, 16):
            for variant in VARIANTS:
                call = f"run({variant!r}, {micro_batch}, {num_steps}, {folder!r}, {data_path!r})"
                code = (
                    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from training import run; {call}"
                )
                out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
                if out.returncode:
                    raise SystemExit(out.stderr[-3000:])
                results.append(json.loads(out.stdout.strip().splitlines()[-1]))
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, accelerate {accelerate.__version__}, "
        f"trl {trl.__version__}, {platform.machine()}, 2 threads"
    )
    print(f"{Path(data_path).name}, global batch {GLOBAL_BATCH}, {num_steps} steps; {versions}")
    heads = ("micro-batch", "examples/s", "x plain", "peak GB", "last loss", "|loss - plain|")
    print(f"{'trainer':<34}" + "".join(f"{head:>15}" for head in heads))
    for result in results:
        plain = next(r for r in results if r["variant"] == "a plain" and r["micro_batch"] == result["micro_batch"])
        result["speedup"] = result["examples_per_sec"] / plain["examples_per_sec"]
        result["max_difference"] = max(abs(a - b) for a, b in zip(result["losses"], plain["losses"], strict=True))
        print(
            f"{VARIANTS[result['variant']]:<34}{result['micro_batch']:>15}{result['examples_per_sec']:>15.1f}"
            f"{result['speedup']:>15.2f}{result['peak_gb']:>15.2f}{result['losses'][-1]:>15.4f}"
            f"{result['max_difference']:>15.1e}"
        )
    print(json.dumps({"versions": versions, "data": Path(data_path).name, "results": results}))


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--num_steps", type=int, default=6)
    main(**vars(parser.parse_args()))
