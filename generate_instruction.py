"""Grow a set of instruction-following tasks from seed tasks with a teacher model (Self-Instruct, arXiv 2212.10560).

python -m generate_instruction generate_instruction_following_data --num_instructions_to_generate 20
python -m generate_instruction generate_instruction_following_data --api chat --model_name <model> --output_dir out
python -m generate_instruction write_batch --model_name <model> --num_requests 200 --output_path batch.jsonl
python -m generate_instruction read_batch --responses_path results.jsonl --output_dir out
python -m generate_instruction trace --output_dir out --task 17

Writes <output_dir>/regen.json, and continues from it when started again.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import functools
import math
import os
import random
import re
import string

from alpaca.examples import read_entries
from alpaca.generation import offline
from alpaca.generation.chat_replies import as_completion, strip_repeated_label
from alpaca.generation.online import generate
from alpaca.generation.task_pool import Script, TaskPool, task_files
from alpaca.generation.trace import check_records, describe
from alpaca.inference.answers import Answer
from alpaca.inference.server import MAX_CONCURRENT_REQUESTS, check_api
from utils import ROOT, UserError, check_ranges, printable, read_text, run_commands, shipped

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


def decoding_arguments(model_name: str, temperature: float, top_p: float, max_tokens: int = MAX_TOKENS) -> dict:
    """How completions are decoded, in the terms of the API."""
    arguments = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "n": 1, "stop": STOP}
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


def parse_reply(
    num_prompt_instructions: int, text: str, finish_reason: str | None, drop_malformed: bool = True
) -> tuple[list[dict], collections.Counter]:
    """parse_completion for a chat model's reply, which may repeat the prompt's last label.

    A reply in a form of its own (bold labels, code fences, numbers from 1) is read as what it means where that gives
    more tasks, unless drop_malformed is False.
    """
    number = num_prompt_instructions + 1
    texts = [strip_repeated_label(text, number), *([as_completion(text, number)] if drop_malformed else [])]
    readings = [parse_completion(num_prompt_instructions, t, finish_reason, drop_malformed) for t in texts]
    return max(readings, key=lambda reading: len(reading[0]))  # of equals the first


# ---- The commands ----


def _script(flags: dict, seed_tasks: list[dict]) -> Script:
    """What the modules of alpaca/generation need of this file."""
    number = flags["num_prompt_instructions"]

    def parse(answer: Answer) -> list[tuple[list[dict], collections.Counter]]:
        read = parse_reply if answer.api == "chat" else parse_completion
        return [read(number, *completion, flags.get("drop_malformed", True)) for completion in answer.completions]

    return Script(
        sample=functools.partial(sample_seed_tasks, seed_tasks, number),
        encode=functools.partial(encode_prompt, prompt_path=flags["prompt_path"]),
        decoding=decoding_arguments(
            flags["model_name"] or "",
            flags["temperature"],
            flags["top_p"],
            flags.get("max_tokens_per_request", MAX_TOKENS),
        ),
        parse=parse,
        most_tasks=LAST_TASK_NUMBER - number,
    )


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
    max_tokens_per_request: int = MAX_TOKENS,
    seed: int | None = None,
    drop_malformed: bool = True,
    price_per_million: list[float] | None = None,
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
        max_tokens_per_request: Longest completion of a prompt, in tokens; fewer where a server answers slowly.
        seed: Fixes which seed tasks the k-th request shows; drawn, and written to the log, where None.
        drop_malformed: Also drop tasks with an empty output or with another task inside, which the original kept.
        price_per_million: Two prices, of a million prompt and completion tokens, for the forecast of the cost.
    """
    flags = dict(locals())
    seed_tasks = _check_flags(flags)
    with task_files(output_dir) as files:
        if len(files.instructions) < num_instructions_to_generate:
            script = _script(flags, seed_tasks)
            generate(flags, script, TaskPool(files, seed_tasks, script, flags, num_instructions_to_generate))


def write_batch(
    output_path: str = "./batch.jsonl",
    num_requests: int = 200,
    seed_tasks_path: str = "./seed_tasks.jsonl",
    model_name: str = "text-davinci-003",
    num_prompt_instructions: int = 3,
    temperature: float = 1.0,
    top_p: float = 1.0,
    prompt_path: str = "./prompt.txt",
    api: str = "chat",
    seed: int | None = None,
    parts: int = 1,
) -> None:
    """Write prompts to a file for a batch API or an engine, one per line; read_batch takes the answers.

    Args:
        output_path: JSON lines in the format of OpenAI's Batch API, which `vllm run-batch` reads, too.
        num_requests: Number of prompts.
        seed_tasks_path: JSON lines with id, instruction and instances.
        model_name: Teacher, as its server calls it.
        num_prompt_instructions: Seed tasks shown in each prompt, 1 to 19.
        temperature: Of the sampling, 0 to 2.
        top_p: Share of the probability mass to sample from.
        prompt_path: Text that opens each prompt.
        api: chat or completions.
        seed: Fixes which seed tasks the k-th prompt shows, and begins each custom_id; drawn where None.
        parts: Number of files to spread the requests over: batch-1-of-8.jsonl, ...
    """
    flags = dict(locals())
    seed_tasks = _check_flags(flags)
    paths = offline.part_paths(output_path, parts)
    for path in paths:
        offline.read_requests(path)  # no other file's place is taken
    script = _script(flags, seed_tasks)
    for part, path in enumerate(paths):
        indices = range(num_requests * part // parts, num_requests * (part + 1) // parts)
        offline.write_requests((offline.batch_request(i, flags["seed"], script, flags) for i in indices), path)
        print(f"{path}: {len(indices):,} requests")


def read_batch(
    responses_path: list[str],
    output_dir: str = "./",
    seed_tasks_path: str = "./seed_tasks.jsonl",
    model_name: str | None = None,
    num_prompt_instructions: int = 3,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_cpus: int = 16,
    prompt_path: str = "./prompt.txt",
    similarity_threshold: float = 0.7,
    api: str = "chat",
    drop_malformed: bool = True,
) -> None:
    """Keep what is new in the answers to a batch of write_batch, as if a server had given them in its order.

    Answers read before are passed over: after a kill, or with further files, the same command goes on. Requests that
    were refused are left in <output_dir>/retry.jsonl. Repeat the flags that write_batch was given.

    Args:
        responses_path: One or more files of answers, their lines in any order.
        output_dir: Folder for regen.json and the log, new or of an earlier run.
        seed_tasks_path: JSON lines with id, instruction and instances, as of write_batch.
        model_name: Of retry.jsonl; where None, the model that the answers name.
        num_prompt_instructions: As of write_batch.
        temperature: Of retry.jsonl.
        top_p: Of retry.jsonl.
        num_cpus: Threads of the novelty filter.
        prompt_path: Of retry.jsonl.
        similarity_threshold: Highest ROUGE-L F-measure that a task kept may have with a known instruction.
        api: Of retry.jsonl, where there is no answer that shows it.
        drop_malformed: Also drop tasks with an empty output or with another task inside, which the original kept.
    """
    flags = dict(locals())
    seed_tasks = _check_flags(flags)
    found = offline.find_answers(responses_path)
    flags.update(model_name=model_name or found.model, api=found.api or api)
    if found.refused and flags["model_name"] is None:
        raise UserError("every request was refused, and no answer names the model: name it with --model_name.")

    script = _script(flags, seed_tasks)
    with task_files(output_dir, answers_per_sync=32) as files:
        retry_path = files.output_dir / "retry.jsonl"
        offline.read_requests(retry_path)  # no other file's place is taken
        pool = TaskPool(files, seed_tasks, script, flags)
        try:
            offline.add_answers(found, pool)
        finally:
            print(pool.table(), flush=True)
        refused = [offline.batch_request(*prompt, script, flags) for prompt in found.refused]
        offline.update_retry(retry_path, refused, files.custom_ids)
        print(printable(found.summary(retry_path)))


def trace(output_dir: str = "./", task: int | None = None, check: bool = False) -> None:
    """Say where a task comes from and what it was kept beside, or check that every record in the folder fits.

    Args:
        output_dir: Folder with regen.json and generation_log.jsonl.
        task: Index in regen.json, from 0.
        check: Go through all tasks, and name the first one whose record does not fit.
    """
    if check == (task is not None):
        raise UserError("trace takes either --task 17 or --check True.")
    print(check_records(output_dir) if check else describe(output_dir, task))


def _check_flags(flags: dict) -> list[dict]:
    """The seed tasks; paths in flags become whole, and a seed that is None is drawn. Raises UserError for a value out
    of its range."""
    ranges = {
        "num_instructions_to_generate": (1, math.inf),
        "num_requests": (1, math.inf),
        "parts": (1, flags.get("num_requests")),
        "num_prompt_instructions": (1, LAST_TASK_NUMBER - 1),
        "request_batch_size": (1, MAX_PROMPTS_PER_REQUEST),
        "temperature": (0, 2),
        "top_p": (0, 1),
        "num_cpus": (1, math.inf),
        "max_concurrent_requests": (1, MAX_CONCURRENT_REQUESTS),
        "similarity_threshold": (0, 1),
        "max_total_tokens": (1, math.inf),
        "max_tokens_per_request": (1, math.inf),
    }
    check_ranges(flags, ranges)
    check_api(flags["api"])
    if "max_concurrent_requests" not in flags and flags["api"] == "auto":
        raise UserError("--api auto: of a file, it has to be completions or chat.")
    prices = flags.get("price_per_million")
    if prices is not None and (len(prices) != 2 or not all(0 <= price < math.inf for price in prices)):
        raise UserError("--price_per_million takes two prices, of prompt and completion tokens: 0.15 0.60.")
    path, number = flags["seed_tasks_path"], flags["num_prompt_instructions"]
    seed_tasks = load_seed_tasks(shipped(path))
    if len(seed_tasks) < number:
        raise UserError(f"{path} has {len(seed_tasks)} tasks, fewer than --num_prompt_instructions.")
    flags["prompt_path"] = shipped(flags["prompt_path"])
    encode_prompt(seed_tasks[:number], flags["prompt_path"])  # can it be read?
    if flags.get("seed") is None:
        flags["seed"] = random.SystemRandom().randrange(2**32)
    return seed_tasks


if __name__ == "__main__":
    run_commands(
        {
            "generate_instruction_following_data": generate_instruction_following_data,
            "write_batch": write_batch,
            "read_batch": read_batch,
            "trace": trace,
        }
    )
