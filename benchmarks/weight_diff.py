"""Memory and time of weight_diff.py on a model of 1.2 billion parameters and on one of half the size.

  python -m benchmarks.weight_diff --folder /tmp/weight_diff_benchmark | tee benchmarks/results/weight_diff.txt

The base is float16, the tuned model float32, both LLaMAs with random weights in several shards. Each command is a
process of its own; its peak memory is the largest resident set that the kernel saw, imports included. Beside it
stand `cp` of as many bytes as the command reads, `cp` of as many as it writes, and a script that loads both models.
What a command reads is in the page cache before a timing starts, if it fits there, and what it writes is on disk when
the timing ends. Needs 30 GB of disk and, for the script that loads both models, 11 GB of memory.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import in_own_process, machine, median_of, usage_of
from utils import ROOT

VOCABULARY = 32000
NUM_LAYERS = (22, 10)


def save_models(folder: Path, num_layers: int) -> int:
    """Save base (float16, no pad token) and tuned model (float32, with [PAD]), which has so many parameters."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, VOCABULARY)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), unk_token="<unk>", bos_token="<s>"
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=5504,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.half().save_pretrained(folder / "base", max_shard_size="1GB")
    tokenizer.save_pretrained(folder / "base")
    model.float()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(VOCABULARY + 1, mean_resizing=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=1e-3)
    model.save_pretrained(folder / "tuned", max_shard_size="1GB")
    tokenizer.save_pretrained(folder / "tuned")
    return model.num_parameters()


def timed(command: list, output: Path, warm: list[Path]) -> dict:
    """Run a command that writes the folder output: seconds until it has ended and all is on disk, and the rest."""
    shutil.rmtree(output, ignore_errors=True)
    for file in (file for path in warm for file in path.iterdir()):
        with open(file, "rb", buffering=0) as f:
            while f.read(1 << 24):
                pass
    os.sync()
    start = time.perf_counter()
    usage = usage_of(command)
    os.sync()
    return {**usage, "sec": time.perf_counter() - start}


def benchmark(folder: Path, repeats: int) -> list[dict]:
    """All commands on the models in folder, in rounds, so that each has its share of good and bad moments."""
    base, tuned, diff, recovered = (folder / name for name in ("base", "tuned", "diff", "recovered"))
    copy, script = folder / "copy", ROOT / "weight_diff.py"
    plain = [sys.executable, "-m", "benchmarks.plain_weight_diff"]
    make = [sys.executable, script, "make_diff", "--path_raw", base, "--path_tuned", tuned, "--path_diff", diff]
    back = [sys.executable, script, "recover", "--path_raw", base, "--path_diff", diff, "--path_tuned", recovered]
    back += ["--test_inference", "False"]
    copy_both = ["sh", "-c", f"mkdir '{copy}' && cp -r '{base}' '{tuned}' '{copy}'"]
    commands = [
        ("cp of base and tuned (what is read)", copy_both, copy, [base, tuned]),
        ("cp of tuned (what is written)", ["cp", "-r", tuned, copy], copy, [tuned]),
        ("make_diff", make, diff, [base, tuned]),
        ("recover", back, recovered, [base, diff]),
    ]
    once = [
        ("make_diff --exact True", [*make, "--exact", "True"], diff, [base, tuned]),
        ("recover, exact", back, recovered, [base, diff]),
        ("both models loaded: make_diff", [*plain, "make_diff", base, tuned, diff], diff, [base, tuned]),
        ("both models loaded: recover", [*plain, "recover", base, diff, recovered], recovered, [diff]),
    ]
    runs = {name: [] for name, *_ in commands + once}
    for name, command, output, warm in commands * repeats + once:
        runs[name].append(timed(command, output, warm))
        if output != diff:
            shutil.rmtree(output)
    return [
        {
            "command": name,
            **median_of(results, "sec"),
            "cpu_sec": statistics.median(run["cpu_sec"] for run in results),
            "peak_mb": max(run["peak_mb"] for run in results),
            "runs": len(results),
        }
        for name, results in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the models are written, for the time being")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timings of each command; exact mode and the plain script run once"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    versions = machine("torch", "transformers", "safetensors")
    print(versions)
    results = []
    for num_layers in NUM_LAYERS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            # In a process of its own: the kernel counts this process's memory as that of those it starts.
            num_parameters = in_own_process(save_models, Path(folder), num_layers)
            rows = benchmark(Path(folder), arguments.repeats)
        results.append({"parameters": num_parameters, "rows": rows})
        print(f"\n{num_parameters / 1e9:.3f} billion parameters, base float16, tuned float32")
        print(f"{'':36}{'median':>8}{'range':>17}{'runs':>6}{'CPU time':>10}{'peak memory':>13}")
        for row in rows:
            spread = "{:.1f} to {:.1f} s".format(*row["spread"])
            print(
                f"{row['command']:36}{row['sec']:>6.1f} s{spread:>17}{row['runs']:>6}{row['cpu_sec']:>8.1f} s"
                f"{row['peak_mb'] * 2**20 / 1e9:>10.3f} GB"
            )
    print("\n" + json.dumps({"machine": versions, "results": results}))


if __name__ == "__main__":
    main()
