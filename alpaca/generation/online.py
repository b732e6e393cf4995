"""Answers of a server: requests under way at the same time, and no more of them than are likely to be needed."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import math
import signal
import sys
import time
import types

from alpaca.generation.task_pool import Interrupted, Script, TaskPool
from alpaca.inference.answers import Answer
from alpaca.inference.refusals import PromptRefused
from alpaca.inference.server import OnePromptPerRequest, ServerModel
from utils import UserError


def generate(flags: dict, script: Script, pool: TaskPool) -> None:
    """Run a Generation with its progress bar, and print its table whatever its end."""
    from tqdm import tqdm

    def notice(text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    teacher = ServerModel(flags["model_name"], flags["api"], notice, auto_apis=("completions", "chat"))
    target = flags["num_instructions_to_generate"]
    with tqdm(total=target, initial=len(pool.files.instructions), desc="tasks", unit="task") as progress_bar:
        generation = Generation(flags, script, teacher, pool, progress_bar)
        try:
            asyncio.run(generation.run())
        finally:
            progress_bar.close()
            print(pool.table(), flush=True)
            if pool.num_missing > 0:
                print(f"still needed for {pool.num_missing:,} tasks: {generation.still_needed()}", flush=True)
    if pool.num_missing > 0:
        notice(f"stopped at --max_total_tokens {flags['max_total_tokens']:,}; {pool.num_missing:,} tasks are missing")


class Generation:
    """One run: the requests under way, and their answers in the order in which they arrive.

    The server works while answers are parsed and judged. At most max_concurrent_requests are under way or wait to be
    judged, and no more than are likely to be needed: near the end, others would be paid for and thrown away.
    """

    def __init__(self, flags: dict, script: Script, teacher: ServerModel, pool: TaskPool, progress_bar):
        self.flags, self.script = types.SimpleNamespace(**flags), script
        self.teacher, self.pool, self.progress_bar = teacher, pool, progress_bar
        self.next_prompt_index = pool.files.next_prompt_index
        self.returned_prompts: list[int] = []  # indices of prompts in batches that the server did not take
        self.requests: set[asyncio.Task] = set()
        self.num_open_requests = 0
        self.last_answer_at = time.monotonic()
        self.arrived: asyncio.Queue = asyncio.Queue()

    @property
    def prompts_per_request(self) -> int:
        return self.flags.request_batch_size if self.teacher.takes_several_prompts else 1

    @property
    def budget_is_used_up(self) -> bool:
        return self.flags.max_total_tokens is not None and self.pool.counts["tokens"] >= self.flags.max_total_tokens

    async def run(self) -> None:
        """Ask, judge and store until there are enough tasks or the budget of tokens is used up."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.arrived.put_nowait, Interrupted(number))
        clock = asyncio.create_task(self.show_life())
        try:
            while self.pool.num_missing > 0:
                self.start_requests()
                if not self.num_open_requests:
                    return
                arrival = await self.arrived.get()
                if isinstance(arrival, Interrupted):
                    raise arrival
                await self.take(*arrival)
        finally:
            for task in (clock, *self.requests):
                task.cancel()
            await asyncio.gather(clock, *self.requests, return_exceptions=True)

    async def show_life(self) -> None:
        """Say beside the bar what is under way; on a terminal every second, elsewhere, where it stays, every minute."""
        while True:
            await asyncio.sleep(1 if sys.stderr.isatty() else 60)
            self.show_progress()

    def start_requests(self, num_being_judged: int = 0) -> None:
        """Start as many requests as there is room and need for."""
        if need := self.pool.need():
            # Rounded, since one more can still follow, and one too many is paid for.
            num_needed = max(1, round(need.prompts / self.prompts_per_request))
        else:
            num_needed = math.ceil(self.pool.num_missing / (self.script.most_tasks * self.prompts_per_request))
        num_needed -= num_being_judged
        while self.num_open_requests < min(self.flags.max_concurrent_requests, num_needed):
            if self.budget_is_used_up:
                return
            request = asyncio.create_task(self.request(self.take_prompt_indices()))
            self.requests.add(request)
            request.add_done_callback(self.requests.discard)
            self.num_open_requests += 1

    def take_prompt_indices(self) -> list[int]:
        while len(self.returned_prompts) < self.prompts_per_request:
            self.returned_prompts.append(self.next_prompt_index)
            self.next_prompt_index += 1
        indices = self.returned_prompts[: self.prompts_per_request]
        del self.returned_prompts[: self.prompts_per_request]
        return indices

    async def request(self, prompt_indices: list[int]) -> None:
        """Put the answer, or the exception in its place, into the queue of arrivals."""
        start = time.perf_counter()
        try:
            prompts = [self.script.encode(self.script.sample(self.flags.seed, index)) for index in prompt_indices]
            answer = await self.teacher.complete(prompts, **self.script.decoding)
        except Exception as error:
            answer = error
        self.arrived.put_nowait((prompt_indices, time.perf_counter() - start, answer))

    async def take(self, prompt_indices: list[int], latency_sec: float, answer: Answer | Exception) -> None:
        """Parse, judge, store and log the tasks of an answer."""
        self.num_open_requests -= 1
        self.last_answer_at = time.monotonic()
        if isinstance(answer, OnePromptPerRequest):
            self.returned_prompts = sorted(self.returned_prompts + prompt_indices)
            return
        if isinstance(answer, PromptRefused):  # these seed tasks, or their length; others will do
            self.progress_bar.write(f"passed over: {answer}", file=sys.stderr)
            self.pool.count_refused(str(answer))
            self.after_answer()
            return
        if isinstance(answer, Exception):
            raise answer
        if self.flags.max_total_tokens is not None and None in (answer.prompt_tokens, answer.completion_tokens):
            raise UserError("the server does not report its tokens, so --max_total_tokens cannot be kept.")
        self.pool.count_tokens(len(prompt_indices), answer)
        self.start_requests(num_being_judged=1)
        request = {"latency_sec": round(latency_sec, 3), "seed": self.flags.seed, "prompt_indices": prompt_indices}
        # In a thread, so that other answers can arrive meanwhile.
        await asyncio.to_thread(self.pool.add, answer, request)
        self.after_answer()

    def after_answer(self) -> None:
        self.show_progress()
        if reason := self.pool.why_fruitless():
            raise UserError(reason)

    def show_progress(self) -> None:
        counts, silent_sec = self.pool.counts, time.monotonic() - self.last_answer_at
        text = f"{self.num_open_requests} under way, last answer {silent_sec:.0f} s ago; "
        text += f"{counts['requests']:,} requests, {counts['tokens']:,} tokens"
        text += f", {counts['kept'] / max(1, counts['requests']):.1f} kept/request"
        self.progress_bar.set_postfix_str(f"{text}; {self.still_needed()}" if self.pool.num_missing else text)
        self.progress_bar.update(len(self.pool.files.instructions) - self.progress_bar.n)

    def still_needed(self) -> str:
        """What the missing tasks take, in words."""
        need = self.pool.need()
        return need.text(self.prompts_per_request, self.flags.price_per_million) if need else "nothing kept yet"
