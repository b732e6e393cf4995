"""Examples per second of train.py on the CPU with one process and with two ranks, under DDP and under FSDP.

python -m benchmarks.distributed [--data_path alpaca_data.json] [--num_steps 4] [--repeats 2]

Real commands: python train.py and torchrun --nproc_per_node=2 train.py, with a clock at each logged step; the first
step is left out. A LLaMA of 9 million parameters (benchmarks/training.py makes it), float32, global batch 64 in
micro-batches of 8, one thread per rank; one process with two threads stands beside them, for it has as many cores.
The settings take turns in each of the repeats, whose medians count. Ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
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

GLOBAL_BATCH, MICRO_BATCH = 64, 8
SHARDED = "--fsdp full_shard --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer".split()
SETTINGS = {  # name: (number of processes, threads of each, flags)
    "1 process, 1 thread": (1, 1, []),
    "1 process, 2 threads": (1, 2, []),
    "2 ranks, DDP": (2, 1, []),
    "2 ranks, FSDP": (2, 1, SHARDED),
}


def train_with_a_clock() -> None:
    """train.py's main(), as its command line says; rank 0 prints when each step was logged, and what it took."""
    import train

    times, losses = [], []

    class ClockedTrainer(train.AlpacaTrainer):
        def log(self, logs, start_time=None):
            if "loss" in logs:
                times.append(time.perf_counter())
                losses.append(logs["loss"])
            super().log(logs, start_time)

    train.AlpacaTrainer = ClockedTrainer
    train.main()
    if os.environ.get("RANK", "0") == "0":
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps({"times": times, "losses": losses, "peak_gb": peak_gb}))


def measure(setting: str, folder: str, data_path: str, num_steps: int) -> dict:
    num_processes, num_threads, flags = SETTINGS[setting]
    command = ["env", f"OMP_NUM_THREADS={num_threads}", sys.executable]
    if num_processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
        command += ["--no-python", sys.executable]
    command += ["-c", "from benchmarks.distributed import train_with_a_clock; train_with_a_clock()"]
    command += ["--model_name_or_path", folder, "--data_path", data_path, *flags]
    accumulation = GLOBAL_BATCH // MICRO_BATCH // num_processes
    command += f"--per_device_train_batch_size {MICRO_BATCH} --gradient_accumulation_steps {accumulation}".split()
    command += f"--max_steps {num_steps + 1} --logging_steps 1 --save_strategy no --use_cpu True".split()
    with tempfile.TemporaryDirectory() as output_dir:
        result = result_of([*command, "--output_dir", output_dir])
    times = result.pop("times")
    return {"setting": setting, "examples_per_sec": num_steps * GLOBAL_BATCH / (times[-1] - times[0]), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    from benchmarks.training import make_model

    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.data_path)
        runs = [
            measure(setting, folder, arguments.data_path, arguments.num_steps)
            for _ in range(arguments.repeats)
            for setting in SETTINGS
        ]
    print(
        f"{Path(arguments.data_path).name}, global batch {GLOBAL_BATCH}, {arguments.num_steps} steps, "
        f"{arguments.repeats} repeats; {machine('torch', 'transformers')}"
    )
    print(f"{'setting':<22}{'examples/s':>12}{'x first':>9}{'peak GB of rank 0':>19}{'|loss - first|':>16}")
    rows = []
    for setting in SETTINGS:
        row = median_of([run for run in runs if run["setting"] == setting], "examples_per_sec")
        rows.append(row)
        row["speedup"] = row["examples_per_sec"] / rows[0]["examples_per_sec"]
        row["max_difference"] = largest_difference(row["losses"], rows[0]["losses"])
        print(
            f"{setting:<22}{row['examples_per_sec']:>12.1f}{row['speedup']:>9.2f}{row['peak_gb']:>19.2f}"
            f"{row['max_difference']:>16.1e}"
        )
    print(json.dumps({"data": Path(arguments.data_path).name, "rows": rows}))


if __name__ == "__main__":
    main()
