"""The task pool of Self-Instruct: what is known, what each answer of the teacher adds to it, and the count of both.

Answers come from a server or from the files of a batch; whatever their way, they are judged, stored and logged here.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import contextlib
import datetime
import math
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterator

from alpaca.generation.forecast import Forecast, Need
from alpaca.generation.task_files import TaskFiles, sha256
from alpaca.inference.answers import Answer

MAX_FRUITLESS_REQUESTS = 20  # in a row without a task kept; more would burn money for nothing


class Script(typing.NamedTuple):
    """The subject of generate_instruction.py, as the ways to get answers need it."""

    sample: Callable[[int, int], list[dict]]  # the seed tasks of a prompt, by seed and index
    encode: Callable[[list[dict]], str]  # the prompt that shows them
    decoding: dict  # in the terms of the API
    parse: Callable[[Answer], list[tuple[list[dict], collections.Counter]]]
    most_tasks: int  # that a prompt can bring


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's SIGTERM: the number of the signal."""


@contextlib.contextmanager
def task_files(output_dir: str, answers_per_sync: int = 1) -> Iterator[TaskFiles]:
    """The files in a folder, closed in order whatever the end; an Interrupted becomes one line and the exit code of a
    shell."""
    files = TaskFiles(output_dir, answers_per_sync)
    try:
        yield files
    except Interrupted as interrupted:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        raise SystemExit(128 + interrupted.args[0]) from None
    finally:
        files.close()
        print(f"{files.regen_path} holds {len(files.instructions):,} tasks.", flush=True)


@contextlib.contextmanager
def signals_between() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM put their number in the list, so that work is interrupted only where it looks there."""
    arrived: list[int] = []
    before = {n: signal.signal(n, lambda n, _: arrived.append(n)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TaskPool:
    """The seed tasks and the tasks in the files, and the counts of one run.

    flags: similarity_threshold, num_cpus. num_wanted: the number of tasks in the files at the end, None for as many as
    there are.
    """

    def __init__(
        self, files: TaskFiles, seed_tasks: list[dict], script: Script, flags: dict, num_wanted: int | None = None
    ):
        from alpaca.generation.novelty import NoveltyFilter

        self.files, self.script, self.num_wanted = files, script, num_wanted
        self.threshold = flags["similarity_threshold"]
        known = [task["instruction"] for task in seed_tasks] + files.instructions
        self._filter = NoveltyFilter(known, self.threshold, min(flags["num_cpus"], os.cpu_count()))
        self.forecast = Forecast()
        self.counts, self.dropped = collections.Counter(), collections.Counter()
        self.num_fruitless_requests, self.last_reply = 0, ""

    @property
    def num_missing(self) -> float:
        return math.inf if self.num_wanted is None else self.num_wanted - len(self.files.instructions)

    def need(self) -> Need | None:
        """What the missing tasks take, by the answers so far."""
        return self.forecast.need(len(self._filter.texts), self.num_missing)

    def count_tokens(self, num_prompts: int, answer: Answer) -> None:
        tokens = answer.prompt_tokens or 0, answer.completion_tokens or 0
        self.counts.update({"prompt tokens": tokens[0], "completion tokens": tokens[1], "tokens": sum(tokens)})
        self.forecast.observe_cost(num_prompts, *tokens)

    def add(self, answer: Answer, request: dict) -> None:
        """Parse an answer, judge, store and log it. request: its seed and prompt_indices, and what else the log is to
        say of it."""
        parsed = self.script.parse(answer)
        self.last_reply = answer.completions[-1][0]
        num_known = len(self._filter.texts)
        dropped = sum((reasons for _, reasons in parsed), collections.Counter())
        verdicts = iter(self._filter.judge([task["instruction"] for tasks, _ in parsed for task in tasks]))
        kept, num_kept, num_novel = [], 0, 0
        for tasks, _ in parsed:
            kept.append([])
            for task, verdict in zip(tasks, verdicts, strict=False):
                num_novel += verdict.is_novel
                if not verdict.is_novel:
                    dropped["too similar to a known instruction"] += 1
                elif num_kept == self.num_missing:
                    dropped["beyond the number asked for"] += 1
                else:
                    scores = {
                        "most_similar_instructions": verdict.most_similar,
                        "avg_similarity_score": verdict.average,
                    }
                    kept[-1].append({**task, **scores})
                    num_kept += 1
        self.forecast.observe(num_known, len(parsed), sum(len(tasks) for tasks, _ in parsed), num_novel)
        self.files.append(
            kept,
            {
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                **request,
                "seed_task_ids": [
                    [task["id"] for task in self.script.sample(request["seed"], index)]
                    for index in request["prompt_indices"]
                ],
                "api": answer.api,
                "model": answer.model,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "completions_sha256": [sha256(text) for text, _ in answer.completions],
                "similarity_threshold": self.threshold,
                "parsed": num_kept + dropped.total(),
                "dropped": dropped,
            },
        )
        self._count(num_kept, dropped)

    def count_refused(self, reason: str) -> None:
        """Count a request that the server refuses for its prompt's sake."""
        self.counts["refused"] += 1
        self.last_reply = reason
        self._count(0, collections.Counter())

    def _count(self, num_kept: int, dropped: collections.Counter) -> None:
        self.counts.update({"requests": 1, "kept": num_kept, "parsed": num_kept + dropped.total()})
        self.dropped += dropped
        self.num_fruitless_requests = 0 if num_kept else self.num_fruitless_requests + 1

    def why_fruitless(self) -> str | None:
        """The reason to stop, where the last answers brought nothing."""
        if self.num_fruitless_requests < MAX_FRUITLESS_REQUESTS:
            return None
        reasons = ", ".join(f"{reason}: {number}" for reason, number in self.dropped.most_common(4))
        return (
            f"{MAX_FRUITLESS_REQUESTS} requests in a row brought no task that could be kept. "
            f"Dropped so far: {reasons or 'nothing, the answers were empty'}. "
            f"The last reply begins {' '.join(self.last_reply.split())[:200]!r}."
        )

    def table(self) -> str:
        """What the run asked for, got, kept, and dropped for which reason."""
        names = ["requests", "prompt tokens", "completion tokens", "parsed", "kept"]
        names[1:1] = ["refused"] if self.counts["refused"] else []
        rows = [(name, self.counts[name]) for name in names]
        rows += [(f"dropped: {reason}", number) for reason, number in self.dropped.most_common()]
        return "\n".join(f"{name:<50}{number:>14,}" for name, number in rows)
