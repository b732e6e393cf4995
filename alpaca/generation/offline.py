"""Batches of prompts in files, and the files of their answers: the format of OpenAI's Batch API and `vllm run-batch`.

A request is a line {"custom_id", "method", "url", "body"}, an answer a line {"custom_id", "response": {"status_code",
"body"}, "error"}, in any order. A custom_id is "<seed>-<index of the prompt>", from which the prompt can be made again.
Files of answers are read twice, line by line: first where each prompt's answer is, then the answers in their order.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

from alpaca.examples import parse_json_line
from alpaca.generation.task_pool import Interrupted, Script, TaskPool, signals_between
from alpaca.inference.answers import UnusableAnswer, read_answer
from alpaca.inference.refusals import Refusal
from utils import UserError, atomic_write, check_output_path, check_regular, os_errors_in_one_line

CUSTOM_ID = re.compile(r"(-?\d+)-(\d+)")
URLS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
Prompt = tuple[int, int]  # index, seed: in the order in which answers are read


def custom_id(index: int, seed: int) -> str:
    return f"{seed}-{index}"


def batch_request(index: int, seed: int, script: Script, flags: dict) -> dict:
    """The line of one prompt. flags: model_name, api."""
    prompt, body = script.encode(script.sample(seed, index)), {"model": flags["model_name"], **script.decoding}
    if flags["api"] == "completions":
        body["prompt"] = prompt
    else:
        body.pop("logit_bias", None)  # its ids are those of completions models
        body["messages"] = [{"role": "user", "content": prompt}]
    return {"custom_id": custom_id(index, seed), "method": "POST", "url": URLS[flags["api"]], "body": body}


def part_paths(output_path: str, parts: int) -> list[Path]:
    """Where the parts of a batch go.

    >>> [str(path) for path in part_paths("out/batch.jsonl", 2)]
    ['out/batch-1-of-2.jsonl', 'out/batch-2-of-2.jsonl']
    """
    path = Path(output_path)
    if parts == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{part}-of-{parts}{path.suffix}") for part in range(1, parts + 1)]


def write_requests(requests: Iterable[dict], path: Path) -> None:
    with atomic_write(path) as f:
        f.writelines(json.dumps(request) + "\n" for request in requests)


def read_requests(path: Path) -> dict[str, dict]:
    """The requests in a file of a batch by their custom_id; none where there is no file.

    Raises UserError where there is another file, which may not be replaced.
    """
    check_output_path(path)
    if not path.exists():
        return {}
    requests = {}
    with os_errors_in_one_line(path), open(path, "rb") as f:
        for line in f:
            with contextlib.suppress(UserError):
                request = parse_json_line(line, str(path))
                if isinstance(request, dict) and {"custom_id", "method", "url", "body"} == request.keys():
                    requests[request["custom_id"]] = request
                    continue
            raise UserError(f"{path}: holds something else than a batch. Name another file, or move this one away.")
    return requests


@dataclasses.dataclass
class BatchAnswers:
    """Where the answers are, by prompt: (number of the path, offset in bytes); and what else was in the files."""

    paths: list[str]
    places: dict[Prompt, tuple[int, int]] = dataclasses.field(default_factory=dict)
    refused: dict[Prompt, str] = dataclasses.field(default_factory=dict)  # and why
    model: str | None = None  # of the first answer, as its api
    api: str | None = None
    num_repeated: int = 0
    num_foreign: int = 0
    first_foreign: str = ""
    num_read: int = 0
    num_read_before: int = 0

    def summary(self, retry_path: Path) -> str:
        """What was found, in one line."""
        parts = [f"{self.num_read:,} answers read"]
        if self.num_read_before:
            parts.append(f"{self.num_read_before:,} passed over, since they were read before")
        if self.refused:
            prompt, reason = next(iter(self.refused.items()))
            parts.append(f"{len(self.refused):,} refused, to send again: {retry_path} ({custom_id(*prompt)}: {reason})")
        if self.num_repeated:
            parts.append(f"{self.num_repeated:,} came twice")
        last_index: dict[int, int] = {}
        for index, seed in sorted({*self.places, *self.refused}):
            last_index[seed] = index
        if num_absent := sum(index + 1 for index in last_index.values()) - len({*self.places, *self.refused}):
            parts.append(f"{num_absent:,} prompts before the last have no answer")
        if self.num_foreign:
            parts.append(f"{self.num_foreign:,} of another batch passed over (first: {self.first_foreign})")
        return "; ".join(parts) + "."


def find_answers(paths: list[str]) -> BatchAnswers:
    """Where each prompt's answer is; the first good one counts.

    Raises UserError with the line for one that is damaged, before anything is stored.
    """
    from tqdm import tqdm

    found = BatchAnswers(paths)
    for path in paths:
        check_regular(path)
    for number, path in enumerate(paths):
        offset = 0
        with os_errors_in_one_line(path), open(path, "rb") as f:
            for line_number, line in enumerate(tqdm(f, desc="looking through", unit="line"), start=1):
                if line.strip():
                    _take_line(found, line, (number, offset), f"{path}, line {line_number}")
                offset += len(line)
    if not found.places and not found.refused:
        raise UserError(f"{', '.join(paths)}: no answer to a batch of write_batch. {found.first_foreign}".strip())
    found.refused = {prompt: reason for prompt, reason in found.refused.items() if prompt not in found.places}
    return found


def add_answers(found: BatchAnswers, pool: TaskPool) -> None:
    """Add the answers that were not read before to the pool, in the order of their prompts; those that turn out to be
    none go to found.refused."""
    from tqdm import tqdm

    read_before = pool.files.custom_ids
    prompts = [prompt for prompt in sorted(found.places) if custom_id(*prompt) not in read_before]
    found.num_read_before = len(found.places) - len(prompts)
    with signals_between() as arrived, contextlib.ExitStack() as opened:
        files = [opened.enter_context(open(path, "rb")) for path in found.paths]
        for prompt in tqdm(prompts, desc="answers", unit="answer"):
            if arrived:
                raise Interrupted(arrived[0])
            number, offset = found.places[prompt]
            files[number].seek(offset)
            body = json.loads(files[number].readline())["response"]["body"]
            try:
                asked = {"model": "unknown", **({"messages": []} if is_chat(body) else {})}
                answer = read_answer(json.dumps(body), asked, found.paths[number])
            except (UnusableAnswer, Refusal) as error:
                found.refused[prompt] = str(error)
                continue
            index, seed = prompt
            pool.count_tokens(1, answer)
            pool.add(answer, {"custom_id": custom_id(*prompt), "seed": seed, "prompt_indices": [index]})
            found.num_read += 1


def _take_line(found: BatchAnswers, line: bytes, offset: tuple[int, int], place: str) -> None:
    advice = "Nothing was stored. Get the file again, or take the line out."
    try:
        row = parse_json_line(line, place)
    except UserError as error:
        raise UserError(f"{error} {advice}") from None
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str) or not {"response", "error"} & row.keys():
        raise UserError(f"{place}: not an answer with custom_id, response and error. {advice}")
    match = CUSTOM_ID.fullmatch(row["custom_id"])
    if not match:
        found.num_foreign += 1
        found.first_foreign = found.first_foreign or f"{place}: custom_id {row['custom_id'][:80]!r}"
        return
    prompt = int(match[2]), int(match[1])
    if reason := why_refused(row):
        found.refused.setdefault(prompt, reason)
    else:
        found.num_repeated += prompt in found.places
        found.places.setdefault(prompt, offset)
        body = row["response"]["body"]
        found.model = found.model or body.get("model")
        found.api = found.api or ("chat" if is_chat(body) else "completions")


def why_refused(row: dict) -> str | None:
    """What a line says instead of an answer; None for an answer.

    >>> why_refused({"response": {"status_code": 429, "body": {"error": {"message": "Rate limit reached."}}}})
    '429: Rate limit reached.'
    """
    response = row.get("response") if isinstance(row.get("response"), dict) else {}
    status, body, error = response.get("status_code", 200), response.get("body"), row.get("error")
    if isinstance(body, dict) and not error and status == 200:
        return None
    message = error or body or "no response"
    while isinstance(message, dict):
        message = message.get("error") or message.get("message") or json.dumps(message)
    return ("" if status == 200 else f"{status}: ") + " ".join(str(message).split())[:200]


def is_chat(body: dict) -> bool:
    """Is it the chat API's answer?"""
    choices = body.get("choices")
    return bool(isinstance(choices, list) and choices and isinstance(choices[0], dict) and "message" in choices[0])


def update_retry(path: Path, refused: list[dict], read: set[str]) -> None:
    """Leave at path the requests to send again: those there before and those refused, without those read by now."""
    requests = read_requests(path)
    requests.update((request["custom_id"], request) for request in refused)
    requests = {name: request for name, request in requests.items() if name not in read}
    if requests:
        write_requests(requests.values(), path)
    elif path.exists():
        path.unlink()
