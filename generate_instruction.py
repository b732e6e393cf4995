"""Grow a set of instruction-following tasks from seed tasks with a teacher model (Self-Instruct, arXiv 2212.10560).

python -m generate_instruction generate_instruction_following_data --num_instructions_to_generate 20
python -m generate_instruction generate_instruction_following_data --api chat --model_name <model> --output_dir out

Writes <output_dir>/regen.json, and continues from it when started again.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import collections
import datetime
import math
import os
import random
import re
import signal
import statistics
import string
import sys
import time
import types

from alpaca.examples import read_entries
from alpaca.generation.task_files import TaskFiles
from alpaca.inference.server import MAX_CONCURRENT_REQUESTS, Answer, OnePromptPerRequest, ServerModel, check_api
from utils import ROOT, UserError, check_ranges, read_text, run_commands, shipped

PROMPT_PATH = ROOT / "prompt.txt"
LAST_TASK_NUMBER = 20  # prompt.txt asks for a list of twenty tasks, the sampled seed tasks included
# What a text-only model cannot see or make. Matched as whole words, in any case.
UNSUITABLE_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram"),
)
FOREIGN_LABEL = re.compile(r"\d\.\s*(?:Instruction|Input|Output)\s*:", re.IGNORECASE)

MAX_TOKENS = 3072
# Where task 21 would begin. A shorter text, such as "21.", would cut an answer at "in 2021."
STOP = [f"###\n{LAST_TASK_NUMBER + 1}."]
# OpenAI's completions models whose end-of-text token is 50256: they are kept from ending the list early. To other
# tokenizers, those of gpt-3.5-turbo-instruct and davinci-002 included, the id means another token or none.
END_OF_TEXT_IS_50256 = re.compile(r"text-(davinci|curie|babbage|ada)-00[123]|davinci|curie|babbage|ada|gpt2")
MAX_PROMPTS_PER_REQUEST = 2048  # what OpenAI's servers take
MAX_FRUITLESS_REQUESTS = 20  # in a row without a task kept; more would burn money for nothing


# ---- The prompt ----


def sample_seed_tasks(seed_tasks: list[dict], num_prompt_instructions: int, seed: int, prompt_index: int) -> list[dict]:
    """The seed tasks of the prompt_index-th prompt of a run (from 0), drawn without replacement.

    They depend on the arguments alone, not on earlier calls: a prompt can be computed without the run that sends it.
    """
    return random.Random(f"{seed} {prompt_index}").sample(seed_tasks, num_prompt_instructions)


def load_seed_tasks(path: str) -> list[dict]:
    """The seed tasks as {"id", "instruction", "input", "output"}, from the first instance of each.

    Raises UserError with the line of the first one that cannot be used.
    """
    entries = read_entries(path)
    for place, _, example in entries:
        if not example["instruction"].strip():
            raise UserError(f"{path}, {place} has an empty 'instruction'.")
    return [{"id": entry.get("id", place), **example} for place, entry, example in entries]


def encode_prompt(prompt_instructions: list[dict], prompt_path: str | os.PathLike = PROMPT_PATH) -> str:
    """The request to the teacher: the text of prompt_path, the given tasks, and the label of the next one."""
    prompt = read_text(prompt_path) + "\n"
    for number, task in enumerate(prompt_instructions, start=1):
        instruction = re.sub(r"\s+", " ", task["instruction"]).strip().rstrip(":")
        prompt += f"###\n{number}. Instruction: {instruction}\n"
        prompt += f"{number}. Input:\n{task['input'] or '<noinput>'}\n"
        prompt += f"{number}. Output:\n{task['output']}\n"
    return prompt + f"###\n{len(prompt_instructions) + 1}. Instruction:"


def decoding_arguments(model_name: str, temperature: float, top_p: float) -> dict:
    """How completions are decoded, in the terms of the API."""
    arguments = {"max_tokens": MAX_TOKENS, "temperature": temperature, "top_p": top_p, "n": 1, "stop": STOP}
    if END_OF_TEXT_IS_50256.fullmatch(model_name):
        arguments["logit_bias"] = {"50256": -100}
    return arguments


# ---- The parser ----


def post_process_gpt3_response(num_prompt_instructions: int, response, drop_malformed: bool = True) -> list[dict]:
    """The usable tasks in a completion (with .text and .finish_reason), as {"instruction", "input", "output"}.

    Any text is accepted, and what is not a usable task is left out. With drop_malformed False, exactly what the
    original generator let through is let through.
    """
    if response is None:
        return []
    return parse_completion(num_prompt_instructions, response.text, response.finish_reason, drop_malformed)[0]


def parse_completion(
    num_prompt_instructions: int, text: str | None, finish_reason: str | None, drop_malformed: bool = True
) -> tuple[list[dict], collections.Counter]:
    """The usable tasks in a completion, and how many pieces were dropped for which reason."""
    first_number = num_prompt_instructions + 1
    pieces = f"{first_number}. Instruction:{text or ''}".split("###")
    tasks, dropped = [], collections.Counter()
    for number, piece in enumerate(pieces, start=first_number):
        if not piece.strip():
            continue
        if number == first_number + len(pieces) - 1 and finish_reason == "length":
            dropped["cut off by the token limit"] += 1
        elif isinstance(task := _parse_piece(number, piece, drop_malformed), str):
            dropped[task] += 1
        else:
            tasks.append(task)
    return tasks, dropped


def _parse_piece(number: int, piece: str, drop_malformed: bool) -> dict | str:
    """The task in one piece of a completion, or the reason why there is none."""
    if number > LAST_TASK_NUMBER:
        return f"numbered above {LAST_TASK_NUMBER}"
    # Without drop_malformed, "14. Input:" also ends in the label "4. Input:", as in the original.
    not_after_digit = r"(?<!\d)" if drop_malformed else ""
    parts = re.split(rf"{not_after_digit}{number}\.\s+(Instruction|Input|Output):", piece)
    if len(parts) != 7 or (drop_malformed and parts[1::2] != ["Instruction", "Input", "Output"]):
        return "not Instruction, Input, Output"
    instruction, input, output = (part.strip() for part in parts[2::2])
    if input.lower() == "<noinput>":
        input = ""
    if drop_malformed and not output:
        return "empty output"
    if drop_malformed and any(map(FOREIGN_LABEL.search, (instruction, input, output))):
        return "another task inside"
    if reason := _why_unsuitable(instruction):
        return reason
    return {"instruction": instruction, "input": input, "output": output}


def _why_unsuitable(instruction: str) -> str | None:
    """The reason to drop an instruction whatever else there is, or None."""
    num_words = len(instruction.split())
    if num_words <= 3:
        return "instruction of 3 words or fewer"
    if num_words > 150:
        return "instruction of more than 150 words"
    if any(find_word_in_string(word, instruction) for word in UNSUITABLE_WORDS):
        return "about images, sound or files"
    # Teachers like to put this before a task that needs no program.
    if instruction.startswith("Write a program"):
        return 'starts with "Write a program"'
    if instruction[0] in string.punctuation:
        return "starts with punctuation"
    if not instruction[0].isascii():
        return "starts with a non-ASCII character"
    return None


def find_word_in_string(w: str, s: str) -> re.Match | None:
    """The first place where s contains w as whole words, in any case.

    >>> find_word_in_string("map", "Read the Map aloud.").group(), find_word_in_string("map", "Draw a mapping.")
    ('Map', None)
    """
    return re.search(rf"\b({re.escape(w)})\b", s, flags=re.IGNORECASE)


def strip_repeated_label(text: str, number: int) -> str:
    """A chat reply without its own `{number}. Instruction:`, and whatever it says before, where it begins so.

    >>> strip_repeated_label("Sure!\\n\\n4. Instruction: Sort.\\n4. Input: 2 1", 4)
    ' Sort.\\n4. Input: 2 1'
    """
    first_label = re.search(rf"(?<!\d){number}\.\s+(Instruction|Input|Output):", text)
    return text[first_label.end() :] if first_label and first_label[1] == "Instruction" else text


# ---- The loop ----


class Interrupted(Exception):
    """Ctrl-C, or a scheduler's SIGTERM: the number of the signal."""


class Generation:
    """One run: the requests under way, their answers in the order in which they arrive, and the counts.

    The server works while answers are parsed and judged. At most max_concurrent_requests are under way or wait to be
    judged, and no more than are likely to be needed: near the end, others would be paid for and thrown away.
    """

    def __init__(self, flags: dict, seed_tasks: list[dict], teacher: ServerModel, novelty_filter, files, progress_bar):
        self.flags = types.SimpleNamespace(**flags)
        self.seed_tasks, self.teacher, self.novelty_filter = seed_tasks, teacher, novelty_filter
        self.decoding = decoding_arguments(self.flags.model_name, self.flags.temperature, self.flags.top_p)
        self.files, self.progress_bar = files, progress_bar
        self.counts, self.dropped = collections.Counter(), collections.Counter()
        self.num_fruitless_requests = 0
        self.next_prompt_index = files.next_prompt_index
        self.returned_prompts: list[int] = []  # indices of prompts in batches that the server did not take
        self.requests: set[asyncio.Task] = set()
        self.num_open_requests = 0
        self.arrived: asyncio.Queue = asyncio.Queue()
        self.yields: collections.deque[float] = collections.deque(maxlen=20)  # tasks per prompt in the last answers

    @property
    def num_missing(self) -> int:
        return self.flags.num_instructions_to_generate - len(self.files.instructions)

    @property
    def prompts_per_request(self) -> int:
        return self.flags.request_batch_size if self.teacher.takes_several_prompts else 1

    @property
    def budget_is_used_up(self) -> bool:
        return self.flags.max_total_tokens is not None and self.counts["tokens"] >= self.flags.max_total_tokens

    async def run(self) -> None:
        """Ask, judge and store until there are enough tasks or the budget of tokens is used up."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self.arrived.put_nowait, Interrupted(number))
        try:
            while self.num_missing > 0:
                self.start_requests()
                if not self.num_open_requests:
                    return
                arrival = await self.arrived.get()
                if isinstance(arrival, Interrupted):
                    raise arrival
                await self.take(*arrival)
        finally:
            for request in self.requests:
                request.cancel()
            await asyncio.gather(*self.requests, return_exceptions=True)

    def start_requests(self, num_being_judged: int = 0) -> None:
        """Start as many requests as there is room and need for."""
        # Before the first answer, as many tasks per prompt as there can be.
        best_yield = LAST_TASK_NUMBER - self.flags.num_prompt_instructions
        tasks_per_prompt = statistics.mean(self.yields) if self.yields else best_yield
        tasks_per_request = max(tasks_per_prompt, 0.1) * self.prompts_per_request
        num_needed = math.ceil(self.num_missing / tasks_per_request) - num_being_judged
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

    def sample(self, prompt_index: int) -> list[dict]:
        return sample_seed_tasks(self.seed_tasks, self.flags.num_prompt_instructions, self.flags.seed, prompt_index)

    async def request(self, prompt_indices: list[int]) -> None:
        """Put the answer, or the exception in its place, into the queue of arrivals."""
        start = time.perf_counter()
        try:
            prompts = [encode_prompt(self.sample(index), self.flags.prompt_path) for index in prompt_indices]
            answer = await self.teacher.complete(prompts, **self.decoding)
        except Exception as error:
            answer = error
        self.arrived.put_nowait((prompt_indices, time.perf_counter() - start, answer))

    async def take(self, prompt_indices: list[int], latency_sec: float, answer: Answer | Exception) -> None:
        """Parse, judge, store and log the tasks of an answer."""
        self.num_open_requests -= 1
        if isinstance(answer, OnePromptPerRequest):
            self.returned_prompts = sorted(self.returned_prompts + prompt_indices)
            return
        if isinstance(answer, Exception):
            raise answer
        self.count_tokens(answer)
        self.start_requests(num_being_judged=1)
        tasks, dropped = self.parse(answer)
        # In a thread, so that other answers can arrive meanwhile.
        verdicts = await asyncio.to_thread(self.novelty_filter.judge, [task["instruction"] for task in tasks])
        kept = []
        for task, verdict in zip(tasks, verdicts, strict=True):
            if not verdict.is_novel:
                dropped["too similar to a known instruction"] += 1
            elif len(kept) == self.num_missing:
                dropped["beyond the number asked for"] += 1
            else:
                scores = {"most_similar_instructions": verdict.most_similar, "avg_similarity_score": verdict.average}
                kept.append({**task, **scores})
        self.files.append(kept)
        self.files.log(
            {
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "latency_sec": round(latency_sec, 3),
                "prompt_indices": prompt_indices,
                "seed_task_ids": [[task["id"] for task in self.sample(index)] for index in prompt_indices],
                "seed": self.flags.seed,
                "api": answer.api,
                "model": answer.model,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "parsed": len(kept) + dropped.total(),
                "kept": len(kept),
                "dropped": dropped,
            }
        )
        self.count(len(prompt_indices), len(kept), dropped)

    def parse(self, answer: Answer) -> tuple[list[dict], collections.Counter]:
        """The usable tasks in all completions of an answer, and how many were dropped for which reason."""
        num_given = self.flags.num_prompt_instructions
        tasks, dropped = [], collections.Counter()
        for text, finish_reason in answer.completions:
            if answer.api == "chat":
                text = strip_repeated_label(text, num_given + 1)
            usable, reasons = parse_completion(num_given, text, finish_reason, self.flags.drop_malformed)
            tasks += usable
            dropped += reasons
        return tasks, dropped

    def count_tokens(self, answer: Answer) -> None:
        if self.flags.max_total_tokens is not None and None in (answer.prompt_tokens, answer.completion_tokens):
            raise UserError("the server does not report its tokens, so --max_total_tokens cannot be kept.")
        self.counts["prompt tokens"] += answer.prompt_tokens or 0
        self.counts["completion tokens"] += answer.completion_tokens or 0
        self.counts["tokens"] = self.counts["prompt tokens"] + self.counts["completion tokens"]

    def count(self, num_prompts: int, num_kept: int, dropped: collections.Counter) -> None:
        self.counts.update({"requests": 1, "kept": num_kept, "parsed": num_kept + dropped.total()})
        self.dropped += dropped
        self.yields.append(num_kept / num_prompts)
        per_request = self.counts["kept"] / self.counts["requests"]
        self.progress_bar.set_postfix_str(
            f"{self.counts['requests']:,} requests, {self.counts['tokens']:,} tokens, {per_request:.1f} kept/request"
        )
        self.progress_bar.update(num_kept)
        self.num_fruitless_requests = 0 if num_kept else self.num_fruitless_requests + 1
        if self.num_fruitless_requests == MAX_FRUITLESS_REQUESTS:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in self.dropped.most_common(4))
            raise UserError(
                f"{MAX_FRUITLESS_REQUESTS} requests in a row brought no task that could be kept. "
                f"Dropped so far: {reasons or 'nothing, the answers were empty'}."
            )

    def table(self) -> str:
        """What the run asked for, got, kept, and dropped for which reason."""
        rows = [
            (name, self.counts[name]) for name in ("requests", "prompt tokens", "completion tokens", "parsed", "kept")
        ]
        rows += [(f"dropped: {reason}", number) for reason, number in self.dropped.most_common()]
        return "\n".join(f"{name:<50}{number:>14,}" for name, number in rows)


# ---- The command ----


def generate_instruction_following_data(
    output_dir: str = "./",
    seed_tasks_path: str = "./seed_tasks.jsonl",
    num_instructions_to_generate: int = 100,
    model_name: str = "text-davinci-003",
    num_prompt_instructions: int = 3,
    request_batch_size: int = 5,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_cpus: int = 16,
    prompt_path: str = "./prompt.txt",
    max_concurrent_requests: int = 8,
    similarity_threshold: float = 0.7,
    api: str = "auto",
    max_total_tokens: int | None = None,
    seed: int | None = None,
    drop_malformed: bool = True,
) -> None:
    """Ask a teacher model for new tasks until <output_dir>/regen.json holds num_instructions_to_generate.

    The server and the key come from OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_ORG_ID. Started again after an end of
    whatever kind, even a kill, it continues. <output_dir>/generation_log.jsonl gets one line per request.

    Args:
        output_dir: Folder for regen.json and the log; made if needed.
        seed_tasks_path: JSON lines with id, instruction and instances.
        num_instructions_to_generate: Tasks in regen.json at the end, those of earlier runs included.
        model_name: Teacher, as its server calls it.
        num_prompt_instructions: Seed tasks shown in each prompt, 1 to 19.
        request_batch_size: Prompts per request of the completions API.
        temperature: Of the sampling, 0 to 2.
        top_p: Share of the probability mass to sample from.
        num_cpus: Threads of the novelty filter.
        prompt_path: Text that opens each prompt.
        max_concurrent_requests: Requests under way at the same time, at most.
        similarity_threshold: Highest ROUGE-L F-measure that a task kept may have with a known instruction.
        api: completions, chat, or auto, which begins with completions and notices a chat-only model.
        max_total_tokens: Budget of this run, prompts and completions together; once reached, no request starts.
        seed: Fixes which seed tasks the k-th request shows; drawn, and written to the log, where None.
        drop_malformed: Also drop tasks with an empty output or with another task inside, which the original kept.
    """
    flags = dict(locals())
    _check_flags(flags)
    flags["prompt_path"] = prompt_path = shipped(prompt_path)
    seed_tasks = load_seed_tasks(shipped(seed_tasks_path))
    if len(seed_tasks) < num_prompt_instructions:
        raise UserError(f"{seed_tasks_path} has {len(seed_tasks)} tasks, fewer than --num_prompt_instructions.")
    encode_prompt(seed_tasks[:num_prompt_instructions], prompt_path)  # can it be read?
    if seed is None:
        flags["seed"] = random.SystemRandom().randrange(2**32)
    files = TaskFiles(output_dir)
    try:
        if len(files.instructions) < num_instructions_to_generate:
            _generate(flags, seed_tasks, files)
    except Interrupted as interrupted:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        raise SystemExit(128 + interrupted.args[0]) from None  # as the shell reports a signal
    finally:
        files.close()
        print(f"{files.regen_path} holds {len(files.instructions):,} tasks.", flush=True)


def _generate(flags: dict, seed_tasks: list[dict], files: TaskFiles) -> None:
    """Run a Generation with its progress bar, and print its table whatever its end."""
    from tqdm import tqdm

    from alpaca.generation.novelty import NoveltyFilter

    def notice(text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    teacher = ServerModel(flags["model_name"], flags["api"], notice, auto_apis=("completions", "chat"))
    known = [task["instruction"] for task in seed_tasks] + files.instructions
    novelty_filter = NoveltyFilter(known, flags["similarity_threshold"], min(flags["num_cpus"], os.cpu_count()))
    target = flags["num_instructions_to_generate"]
    with tqdm(total=target, initial=len(files.instructions), desc="tasks", unit="task") as progress_bar:
        generation = Generation(flags, seed_tasks, teacher, novelty_filter, files, progress_bar)
        try:
            asyncio.run(generation.run())
        finally:
            progress_bar.close()
            print(generation.table(), flush=True)
    if generation.num_missing > 0:
        notice(
            f"stopped at --max_total_tokens {flags['max_total_tokens']:,}; {generation.num_missing:,} tasks are missing"
        )


def _check_flags(flags: dict) -> None:
    """Raise UserError for a value out of its range."""
    ranges = {
        "num_instructions_to_generate": (1, math.inf),
        "num_prompt_instructions": (1, LAST_TASK_NUMBER - 1),
        "request_batch_size": (1, MAX_PROMPTS_PER_REQUEST),
        "temperature": (0, 2),
        "top_p": (0, 1),
        "num_cpus": (1, math.inf),
        "max_concurrent_requests": (1, MAX_CONCURRENT_REQUESTS),
        "similarity_threshold": (0, 1),
        "max_total_tokens": (1, math.inf),
    }
    check_ranges(flags, ranges)
    check_api(flags["api"])


if __name__ == "__main__":
    run_commands({"generate_instruction_following_data": generate_instruction_following_data})
