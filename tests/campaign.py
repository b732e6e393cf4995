"""Kill every command at random instants, fill its disk, and give it hostile files, servers and visitors.

  python -m tests.campaign --scale 1

Loopback only. Prints a table, a line per kind of attack and command. lost: results that were on the disk and are no
more, or that a run begun again did not end with; doubled: results that are there twice; accepted: what cannot be right
and was taken without a word, and secrets or control characters that were printed; the others say what a run ended in.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch

from configs import tiny_models
from data.openai_server import answers_with
from tests.helpers import hostility
from tests.helpers.diff_models import contents, make_diff, pickle_model, tune
from tests.helpers.generation_data import make_tasks, play_engine, read_lines, write_inputs, write_lines
from tests.helpers.trials import Outcome, openai_server, run_forked
from tests.helpers.visitors import attack_pages
from utils import jdump

COLUMNS = ("tries", "lost", "doubled", "accepted", "tracebacks", "hangs")
SHOWN = 600  # characters of what a try printed that went wrong


class Table:
    """The counts by (attack, command), and what there is to say of each try that went wrong."""

    def __init__(self):
        self.counts = collections.defaultdict(collections.Counter)

    def add(self, attack: str, command: str, case: str, outcome: Outcome, **counts: int) -> None:
        counts |= {"tracebacks": int(outcome.is_traceback), "hangs": int(outcome.code is None)}
        self.counts[attack, command].update({"tries": 1, **counts})
        if any(counts.values()):
            wrong = {name: count for name, count in counts.items() if count}
            print(f"{attack}, {command}, {case}: {wrong}, exit code {outcome.code}", outcome.printed[-SHOWN:], sep="\n")

    def text(self) -> str:
        lines = [("attack", "command", *COLUMNS)]
        lines += [(*key, *(str(counts[name]) for name in COLUMNS)) for key, counts in self.counts.items()]
        total = sum(self.counts.values(), collections.Counter())
        lines.append(("all", "", *(str(total[name]) for name in COLUMNS)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                for line in lines]  # fmt: skip
        return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])

    def num_wrong(self) -> int:
        return sum(counts[name] for counts in self.counts.values() for name in COLUMNS[1:])


# ---- What there is to attack ----


@dataclasses.dataclass
class Job:
    """A command that writes results. command is relative to a folder that prepare() has filled; results() lists what
    the folder holds, as far as it is on the disk; answer() is that of a server, if the command asks one."""

    name: str
    command: list
    results: Callable[[Path], list]
    answer: Callable[[], Callable] | None = None
    is_killed: bool = True
    latency_sec: float = 0.0
    is_atomic: bool = False  # its output is there whole or not at all, and is never replaced

    @contextlib.contextmanager
    def server(self) -> Iterator[dict[str, str]]:
        if self.answer is None:
            yield {}
        else:
            with openai_server(self.answer(), latency_sec=self.latency_sec) as environment:
                yield environment


def prepare(folder: Path) -> Path:
    """A folder with a file of every kind that the commands read."""
    write_inputs(folder)
    tasks = make_tasks(40, seed=5)
    jdump([{key: task[key] for key in ("instruction", "input", "output")} for task in tasks], folder / "data.json")
    for name in ("ours", "theirs"):
        rows = [{"instruction": t["instruction"], "output": f"{name}: {t['output']}", "generator": name} for t in tasks]
        jdump(rows, folder / f"{name}.json")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tasks), folder / "data.parquet")
    (folder / "judge.txt").write_text("{task}\n{first}\n{second}\nVerdict: 1, 2 or tie?")
    base = tiny_models.save_llama(folder / "base")
    tune(base, folder / "tuned")
    make_diff(base, folder / "tuned", folder / "diff")
    make_diff(base, folder / "tuned", folder / "exact", "--exact", "True")
    pickle_model(base, folder / "pickled")
    generate = ["generate_instruction.py", "write_batch", "--num_requests=20", "--seed=7", "--model_name=m"]
    assert run_forked(generate, folder).code == 0
    answers = play_engine(read_lines(folder / "batch.jsonl"), answers_with(make_tasks(100), 5))
    write_lines(folder / "answers.jsonl", answers)
    shutil.copytree(folder / "base", folder / "adapter", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    train = [*TRAIN, "--lora_rank=2", "--max_steps=1", "--output_dir=adapter"]
    outcome = run_forked(train, folder)
    assert outcome.code == 0, outcome.printed
    for job in (GENERATE, JUDGE):
        with job.server() as environment:
            outcome = run_forked(job.command, folder, **environment)
            assert outcome.code == 0, outcome.printed
    return folder


def tasks_in(folder: Path) -> list:
    """What generate_instruction.py has put on the disk, in order."""
    path, journal = folder / "out" / "regen.json", folder / "out" / "regen_journal.jsonl"
    tasks = json.loads(path.read_text()) if path.exists() else []
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    rows = [json.loads(line) for line in lines]
    return [task["instruction"] for task in tasks] + [
        row["task"]["instruction"] for row in rows if row["position"] >= len(tasks)
    ]


def rows_in(name: str, *keys: str) -> Callable[[Path], list]:
    """The rows of a JSON lines file, by some of their fields, without the settings."""

    def results(folder: Path) -> list:
        if not (folder / name).exists():
            return []
        rows = [json.loads(line) for line in (folder / name).read_bytes().split(b"\n")[:-1]]
        return [tuple(row[key] for key in keys) for row in rows if keys[0] in row]

    return results


def responses_in(folder: Path) -> list:
    """Those of compare.py generate, by their instruction's index, in either of its files."""
    if (folder / "out.json").exists():
        return [(i,) for i in range(len(json.loads((folder / "out.json").read_text())))]
    return rows_in("out.json.partial", "index")(folder)


def digest_of(name: str) -> Callable[[Path], list]:
    """The content of a file or folder that is there whole or not at all."""

    def results(folder: Path) -> list:
        path = folder / name
        files = contents(path) if path.is_dir() else {name: path.read_bytes()} if path.exists() else {}
        kept = {name: data for name, data in files.items() if name.endswith((".safetensors", ".jsonl", ".png", ".svg"))}
        return [hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()] if kept else []

    return results


def weights_in(folder: Path) -> list:
    """The weights that training ends with; checkpoints count as nothing yet."""
    path = folder / "out" / "model.safetensors"
    return [hashlib.sha256(path.read_bytes()).hexdigest()] if path.exists() else []


TRACE = ["generate_instruction.py", "trace", "--output_dir=out"]
PLOT = ["plot_diversity.py", "plot", "--data_path=data.json", "--output_path=figure"]
TRAIN = ["train.py", "--model_name_or_path=base", "--data_path=data.json", "--logging_steps=1", "--report_to=none"]
TRAIN += ["--per_device_train_batch_size=4", "--learning_rate=1e-3", "--save_strategy=steps", "--save_steps=2"]
PAIRS = ["--predictions_1=ours.json", "--predictions_2=theirs.json"]
GENERATE = Job(
    "generate",
    [
        *("generate_instruction.py", "generate_instruction_following_data", "--output_dir=out", "--model_name=m"),
        *("--num_instructions_to_generate=60", "--max_concurrent_requests=2", "--request_batch_size=1"),
    ],
    tasks_in,
    lambda: answers_with(make_tasks(400), 5),
    latency_sec=0.02,
)
JUDGE = Job(
    "judge",
    ["compare.py", "judge", *PAIRS, "--model_name=m", "--output_path=verdicts.jsonl", "--prompt_path=judge.txt"],
    rows_in("verdicts.jsonl", "instruction", "first"),
    lambda: lambda prompt: "Verdict: 1",
    latency_sec=0.01,
)
RECOVER = ["weight_diff.py", "recover", "--path_raw=base", "--test_inference=False", "--path_tuned=new"]
DIFF = ["weight_diff.py", "make_diff", "--path_raw=base", "--path_tuned=tuned", "--path_diff=new"]
JOBS = [
    GENERATE,
    Job(
        "read_batch",
        ["generate_instruction.py", "read_batch", "--responses_path=answers.jsonl", "--output_dir=out"],
        tasks_in,
    ),
    Job(
        "write_batch",
        ["generate_instruction.py", "write_batch", "--num_requests=2000", "--seed=7", "--output_path=new.jsonl"],
        digest_of("new.jsonl"),
    ),
    JUDGE,
    Job(
        "compare generate",
        ["compare.py", "generate", "--model_name=m", "--instructions_path=data.json", "--output_path=out.json"],
        responses_in,
        lambda: lambda prompt: "Yes.",
        latency_sec=0.02,
    ),
    Job("make_diff", DIFF, digest_of("new"), is_atomic=True),
    Job("make_diff --exact", [*DIFF, "--exact=True"], digest_of("new"), is_atomic=True),
    Job("recover", [*RECOVER, "--path_diff=diff"], digest_of("new"), is_atomic=True),
    Job("recover, exact", [*RECOVER, "--path_diff=exact"], digest_of("new"), is_atomic=True),
    Job("train", [*TRAIN, "--max_steps=6", "--output_dir=out", "--resume_from_checkpoint=True"], weights_in),
    Job("plot_diversity", PLOT, digest_of("figure.svg"), is_killed=False),
    Job(
        "report",
        ["compare.py", "report", "--verdicts_path=earlier.jsonl", "--figure=new.svg"],
        digest_of("new.svg"),
        is_killed=False,
    ),
]


# ---- Kills and full disks ----


def fresh(world: Path, folder: Path) -> Path:
    """The world again, without what jobs have written."""
    hostility.copy_of(world, folder)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "verdicts.jsonl").rename(folder / "earlier.jsonl")
    return folder


def hurt_and_repeat(table: Table, attack: str, job: Job, world: Path, folder: Path, rng, num_tries: int) -> None:
    """Run a job that is killed, or whose disk is full, and again without that; compare with a run left in peace."""
    fresh(world, folder)
    with job.server() as environment:
        started = time.monotonic()
        outcome = run_forked(job.command, folder, **environment)
    assert outcome.code == 0, (job.name, outcome.printed)
    duration, expected = time.monotonic() - started, sorted(map(repr, job.results(folder)))
    largest = max(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime > 0)
    for number in range(num_tries):
        fresh(world, folder)
        is_kill = attack == "kill"
        hurt = {"kill_after_sec": rng.uniform(0, duration)} if is_kill else {"max_file_bytes": rng.randrange(largest)}
        with job.server() as environment:
            first = run_forked(job.command, folder, **hurt, **environment)
            before = job.results(folder)
            second = run_forked(job.command, folder, **environment)
        after = job.results(folder)
        is_same = len(after) == len(expected) if job in (GENERATE,) else sorted(map(repr, after)) == expected
        was_whole = job.is_atomic and bool(before)  # killed at its last instants: that its output is kept is right
        lost = len([result for result in before if result not in after])
        lost += int(not is_same or (second.code != 0 and not was_whole))
        table.add(attack, job.name, f"{number}: {hurt}", first, lost=lost, doubled=len(after) - len(set(after)))
        if lost or second.is_traceback:
            print("the run after it:", second.code, second.printed[-SHOWN:])
    for leftover in folder.glob("*partial*"):
        print(f"{job.name} left {leftover.name}")


def vote_and_die(table: Table, world: Path, folder: Path, rng, num_tries: int) -> None:
    """Raters vote until the process is killed; what they were told to be saved has to be there."""
    code = folder / "vote.py"
    for number in range(num_tries):
        fresh(world, folder)
        code.write_text(VOTING)
        outcome = run_forked([code], folder, kill_after_sec=rng.uniform(0.05, 0.6))
        told = [tuple(json.loads(line)) for line in outcome.printed.splitlines() if line.endswith("]")]
        saved = rows_in("votes.jsonl", "rater", "instruction")(folder)
        lost = len(set(told) - set(saved))
        table.add("kill", "human", str(number), outcome, lost=lost, doubled=len(saved) - len(set(saved)))


VOTING = """
import json
from alpaca.evaluation.predictions import load_pairs
from alpaca.evaluation.rating_page import BlindEvaluation
from alpaca.row_files import AppendOnlyFile
pairs = load_pairs("ours.json", "theirs.json")[1]
evaluation = BlindEvaluation(pairs, AppendOnlyFile("votes.jsonl", {"kind": "human"}), 0)
for rater in map(str, range(1000)):
    while view := evaluation.next_view(rater):
        position, task, _ = view
        evaluation.vote(rater, position, "first")
        print(json.dumps([rater, task.instruction]), flush=True)
"""


# ---- Hostile files ----

CHAT = ["demo.py", "chat", "--max_new_tokens=3"]
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
DIFF_FILES = ("diff/config.json", "diff/model.safetensors", "diff/weight_diff.json")
# (command, its arguments, the file that is damaged, whether the command has to find any damage)
READERS = [
    ("generate", GENERATE.command, "seed_tasks.jsonl", False),
    ("generate", GENERATE.command, "prompt.txt", False),
    ("generate", GENERATE.command, "out/regen.json", False),
    ("generate", GENERATE.command, "out/generation_log.jsonl", False),
    ("read_batch", JOBS[1].command, "answers.jsonl", False),
    ("trace", [*TRACE, "--check=True"], "out/regen.json", True),
    ("trace", [*TRACE, "--check=True"], "out/generation_log.jsonl", True),
    ("trace", [*TRACE, "--task=7"], "out/generation_log.jsonl", False),
    ("compare generate", JOBS[4].command, "data.json", False),
    ("judge", JUDGE.command, "ours.json", False),
    ("judge", JUDGE.command, "judge.txt", False),
    ("judge", JUDGE.command, "verdicts.jsonl", False),
    ("report", ["compare.py", "report", "--verdicts_path=verdicts.jsonl"], "verdicts.jsonl", False),
    ("plot_diversity", PLOT, "data.json", False),
    ("train", [*TRAIN, "--max_steps=1", "--output_dir=new"], "data.json", False),
    ("train", [*TRAIN, "--data_path=data.parquet", "--max_steps=1", "--output_dir=new"], "data.parquet", False),
    *(("train", [*TRAIN, "--max_steps=1", "--output_dir=new"], f"base/{name}", False) for name in MODEL_FILES),
    *(("make_diff", DIFF, name, False) for name in ("base/tokenizer.json", "base/model.safetensors")),
    *(("make_diff", DIFF, f"tuned/{name}", False) for name in ("config.json", "tokenizer.json", "model.safetensors")),
    ("make_diff", [*DIFF, "--path_raw=pickled"], "pickled/pytorch_model.bin", False),
    ("recover", [*RECOVER, "--path_diff=diff"], "base/model.safetensors", True),
    *(("recover", [*RECOVER, "--path_diff=diff"], name, True) for name in DIFF_FILES),
    *(("demo chat", [*CHAT, "--model_name_or_path=base"], f"base/{name}", False) for name in MODEL_FILES),
    ("demo chat", [*CHAT, "--model_name_or_path=adapter"], "adapter/adapter_config.json", False),
]  # fmt: skip


def read_hostile_files(table: Table, world: Path, folder: Path, rng, tries_per_kind: int) -> None:
    maybe, surely = [*hostility.MAYBE_WRONG] * tries_per_kind, [*hostility.SURELY_WRONG, *hostility.NO_FILES]
    with GENERATE.server() as environment:
        for command, arguments, name, finds_all in READERS:
            for kind in maybe + surely:
                hostility.copy_of(world, folder)
                before = (folder / name).read_bytes()
                state = rng.getstate()
                hostility.damage(folder / name, kind, rng)
                if kind not in hostility.NO_FILES and (folder / name).read_bytes() == before:
                    continue
                outcome = run_forked(arguments, folder, stdin=b"Say hi.\n", before=impatient, **environment)
                is_taken = outcome.code == 0 and not is_optional(name, kind)
                accepted = is_taken and (finds_all or kind in surely)
                case = f"{name} {kind} (random state {hashlib.sha256(repr(state).encode()).hexdigest()[:8]})"
                table.add("hostile file", command, case, outcome, accepted=int(accepted or shows_secrets(outcome)))


def is_optional(name: str, kind: str) -> bool:
    """Whether there is nothing wrong with it: a prompt may be any text, and an empty log is that of no run."""
    texts = ("prompt.txt", "out/generation_log.jsonl", "verdicts.jsonl") if kind == "empty" else ()
    texts += ("prompt.txt",) if kind in ("deep", "digits") else ()
    texts += ("prompt.txt", "seed_tasks.jsonl") if kind == "a loop of links" else ()  # those that ship are taken then
    return name in texts or name.endswith(("generation_config.json", "tokenizer_config.json"))


def shows_secrets(outcome: Outcome) -> bool:
    return any(secret in outcome.printed for secret in hostility.SECRETS)


def impatient() -> None:
    """Waits of milliseconds, and small limits, in this fork alone."""
    from alpaca.inference import server

    server.FIRST_WAIT_SEC, server.MAX_WAIT_SEC, server.MAX_RETRIES = 0.001, 0.002, 2
    server.REQUEST_TIMEOUT_SEC, server.MAX_BODY_BYTES, server.MAX_RETRY_AFTER_SEC = 1.0, 1 << 22, 1.0


# ---- Hostile servers ----


def ask_hostile_servers(table: Table, world: Path, folder: Path, rng, num_replies: int) -> None:
    askers = [
        ("generate", GENERATE.command),
        ("judge", JUDGE.command),
        ("compare generate", JOBS[4].command),
        ("demo chat", [*CHAT, "--model_name=m"]),
    ]
    for command, arguments in askers:
        for name, reply in hostility.replies(rng, num_replies):
            fresh(world, folder)
            with hostility.hostile_server(name, reply) as environment:
                outcome = run_forked(arguments, folder, stdin=b"Say hi.\n", before=impatient, **environment)
            written = "".join(p.read_text("utf-8", "replace") for p in folder.rglob("generation_log.jsonl"))
            accepted = shows_secrets(outcome) or hostility.KEY in written
            table.add("hostile server", command, name, outcome, accepted=int(accepted))


# ---- All of it ----


def campaign(scale: float = 1.0, seed: int = 0) -> Table:
    """Attack everything; scale multiplies the numbers of tries."""
    torch.set_num_threads(1)
    preload()
    table, rng, started = Table(), random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        world, folder = Path(name) / "world", Path(name) / "try"
        world.mkdir()
        prepare(world)
        count = lambda number: max(1, round(number * scale))  # noqa: E731
        for job in JOBS:
            if job.is_killed:
                hurt_and_repeat(table, "kill", job, world, folder, rng, count(12))
            hurt_and_repeat(table, "full disk", job, world, folder, rng, count(8))
            print(f"{time.monotonic() - started:.0f} s: {job.name} killed, and without disk", file=sys.stderr)
        vote_and_die(table, world, folder, rng, count(12))
        ask_hostile_servers(table, world, folder, rng, count(40))
        print(f"{time.monotonic() - started:.0f} s: hostile servers", file=sys.stderr)
        read_hostile_files(table, world, folder, rng, count(4))
        with openai_server(lambda prompt: "Yes.") as environment:
            attack_pages(table, ["demo.py", "web", "--model_name=m"], "demo web", fresh(world, folder), **environment)
        attack_pages(table, ["compare.py", "human", *PAIRS, "--output_path=votes.jsonl"], "human", folder)
    print(f"\n{table.text()}\n\nseed {seed}, {time.monotonic() - started:.0f} s")
    return table


def preload() -> None:
    """What forks shall find loaded."""
    import accelerate  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import openai  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import tqdm

    import train  # noqa: F401
    from alpaca.generation import novelty, online  # noqa: F401

    # tqdm's own lock is shared by all forks: one that is killed in the midst of a bar would leave the others waiting.
    tqdm.tqdm.set_lock(threading.RLock())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(scale: float = 1.0, seed: int = 0) -> None:
    """Run the campaign; exit code 1 where anything went wrong.

    Args:
        scale: multiplies the numbers of tries.
        seed: of the instants, the places and the choice of attacks.
    """
    if campaign(scale, seed).num_wrong():
        raise SystemExit(1)


if __name__ == "__main__":
    from fire import Fire

    Fire(main)
