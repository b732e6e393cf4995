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
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU and says that there is none

from benchmarks.measure import largest_difference, median_of
from utils import ROOT

GLOBAL_BATCH, MICRO_BATCH = 64, 8
SHARDED = "--fsdp full_shard --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer".split()
SETTINGS = {  # name: (number of processes, threads of each, flags)
    "1 process, 1 thread": (1, 1, []),
    "1 process, 2 threads": (1, 2, []),
    "2 ranks, DDP": (2, 1, []),
    "2 ranks, FSDP": (2, 1, SHARDED),
}


def train_with_a_clock(times_path: str) -> None:
    """train.py's main(), as its command line says; rank 0 writes when each step was logged, and its peak memory."""
    import train

    times = []

    class ClockedTrainer(train.AlpacaTrainer):
        def log(self, logs, start_time=None):
            if "loss" in logs:
                times.append(time.perf_counter())
            super().log(logs, start_time)

    train.AlpacaTrainer = ClockedTrainer
    train.main()
    if os.environ.get("RANK", "0") == "0":
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        Path(times_path).write_text(json.dumps({"times": times, "peak_gb": peak_bytes / 1e9}))


def measure(setting: str, folder: Path, data_path: str, num_steps: int) -> dict:
    num_processes, num_threads, flags = SETTINGS[setting]
    with tempfile.TemporaryDirectory() as output_dir:
        times_path = Path(output_dir) / "times.json"
        command = [sys.executable, "-m", "benchmarks.distributed", "--clock", str(times_path)]
        if num_processes > 1:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}", f"--master_port={port}"]
            command[1:1] = launcher
        command += ["--model_name_or_path", str(folder), "--data_path", data_path, "--output_dir", output_dir]
        accumulation = GLOBAL_BATCH // MICRO_BATCH // num_processes
        command += f"--per_device_train_batch_size {MICRO_BATCH} --gradient_accumulation_steps {accumulation}".split()
        command += f"--max_steps {num_steps + 1} --logging_steps 1 --save_strategy no --use_cpu True".split()
        command += flags
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "HF_HUB_OFFLINE": "1"}
        out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if out.returncode:
            raise SystemExit(out.stderr[-3000:])
        result = json.loads(times_path.read_text())
        losses = json.loads((Path(output_dir) / "trainer_state.json").read_text())["log_history"]
    seconds = result["times"][-1] - result["times"][0]
    return {
        "setting": setting,
        "examples_per_sec": num_steps * GLOBAL_BATCH / seconds,
        "peak_gb": result["peak_gb"],
        "losses": [entry["loss"] for entry in losses if "loss" in entry],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    import torch
    import transformers

    from benchmarks.training import make_model

    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.data_path)
        runs = [
            measure(setting, Path(folder), arguments.data_path, arguments.num_steps)
            for _ in range(arguments.repeats)
            for setting in SETTINGS
        ]
    print(
        f"{Path(arguments.data_path).name}, global batch {GLOBAL_BATCH}, {arguments.num_steps} steps, "
        f"{arguments.repeats} repeats; torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    )
    heads = f"{'setting':<22}{'examples/s':>12}{'(min-max)':>15}{'peak GB of rank 0':>19}"
    print(f"{heads}{'last loss':>12}{'|loss - first|':>16}")
    rows = []
    for setting in SETTINGS:
        same = [run for run in runs if run["setting"] == setting]
        row = median_of(same, "examples_per_sec")
        row["max_difference"] = largest_difference(row["losses"], runs[0]["losses"])
        rows.append(row)
        spread = "{:.1f}-{:.1f}".format(*row["spread"])
        print(
            f"{setting:<22}{row['examples_per_sec']:>12.1f}{spread:>15}{row['peak_gb']:>19.2f}{row['losses'][-1]:>12.4f}"
            f"{row['max_difference']:>16.1e}"
        )
    print(json.dumps({"data": Path(arguments.data_path).name, "rows": rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--clock"]:
        times_path = sys.argv.pop(2)
        sys.argv.pop(1)
        train_with_a_clock(times_path)
    else:
        main()
