"""Compare two models on the same instructions: collect their responses, have a model or people judge them blindly.

python compare.py generate --model_name_or_path <model folder> --instructions_path eval.jsonl --output_path a.json
python compare.py judge --predictions_1 a.json --predictions_2 b.json --model_name <judge> --output_path verdicts.jsonl
python compare.py human --predictions_1 a.json --predictions_2 b.json --output_path votes.jsonl
python compare.py report --verdicts_path verdicts.jsonl --figure win_rates.png
python compare.py plan --win_rate 0.6 --ties 0.3

`generate` writes <output_path> in AlpacaEval's format; `judge` and `human` append each verdict to <output_path> as it
comes and end with a table. All three continue when started again. `report` prints that table, and draws its win rates
to <figure>. The model behind a server is asked through the OpenAI API at OPENAI_BASE_URL.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import hashlib
import math
import re
import sys
from pathlib import Path

from alpaca.evaluation import results
from alpaca.evaluation.predictions import Pair, Task, load_pairs, load_tasks
from alpaca.evaluation.rating_page import CSS, HEAD, BlindEvaluation, build_page
from alpaca.evaluation.win_rate import num_pairs_needed
from alpaca.inference import local
from alpaca.inference.local import Decoding
from alpaca.inference.refusals import PromptRefused
from alpaca.inference.server import MAX_CONCURRENT_REQUESTS, ServerModel, as_answered, chat_message, check_api
from alpaca.inference.web_page import check_port, serve
from alpaca.row_files import AppendOnlyFile, read_settings_and_rows
from utils import (
    UserError,
    check_figure_path,
    check_output_path,
    check_ranges,
    format_prompt,
    jdump,
    jload,
    printable,
    read_text,
    run_commands,
    save_figure,
    shipped,
    without_secrets,
)

RANGES = {"batch_size": (1, math.inf), "max_concurrent_requests": (1, MAX_CONCURRENT_REQUESTS)}

# ---- Responses ----


def generate(
    instructions_path: str,
    output_path: str,
    model_name_or_path: str | None = None,
    model_name: str | None = None,
    generator: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = 32,
    seed: int | None = None,
    prompt: str = "auto",
    api: str = "auto",
    max_concurrent_requests: int = 8,
    cache_dir: str | None = None,
) -> None:
    """Write a model's responses to all instructions of a file, as a JSON list in AlpacaEval's format.

    Args:
        instructions_path: JSON list or JSON lines of the Self-Instruct evaluation, Alpaca's or AlpacaEval's format.
        output_path: JSON file to write; until it is complete, responses are kept in <output_path>.partial.
        model_name_or_path: local model folder, adapter folder, or name on the Hub.
        model_name: instead, the model of an OpenAI-compatible server.
        generator: what to call the model in the file; its own name, if left out.
        max_new_tokens: longest response, in tokens.
        temperature: 0 always takes the likeliest token.
        top_p: draw from the likeliest tokens that together have this probability.
        batch_size: responses that a local model writes at the same time.
        seed: of a local model's draws; a response depends on it and on the place of its task in the file.
        prompt: how to ask a local model; alpaca, chat (its chat template), or auto: chat where it has one of its own.
        api: how to ask a server; completions, chat, or auto, which begins with chat.
        max_concurrent_requests: requests to a server under way at the same time, at most.
        cache_dir: where models from the Hub are kept.
    """
    check_ranges(locals(), RANGES)
    check_api(api)
    decoding = Decoding(max_new_tokens, temperature, top_p)
    if (model_name_or_path is None) == (model_name is None):
        raise UserError("generate takes either --model_name_or_path (local) or --model_name (on a server).")
    check_output_path(output_path)
    tasks = load_tasks(shipped(instructions_path))
    name = model_name or model_name_or_path
    prompt_form = None  # a server's own affair
    if model_name_or_path:
        prompt_form = local.find_prompt_form(local.load_tokenizer(model_name_or_path, cache_dir), prompt)
    elif prompt != "auto":
        raise UserError("--prompt is about local models; how a server is asked, --api says.")
    generator = generator or name.rstrip("/").rpartition("/")[2]
    settings = {
        "model": name,
        "instructions": digest(task.text for task in tasks),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "prompt": prompt_form,
        "api": api,
    }
    if Path(output_path).exists():
        check_complete(output_path, tasks, generator, prompt_form)
        print(f"{output_path} already holds all {len(tasks):,} responses.")
        return
    partial_path = Path(f"{output_path}.partial")
    with AppendOnlyFile(partial_path, settings, check=response_check(len(tasks))) as file:
        done = {row["index"] for row in file.rows}
        remaining = {i: task for i, task in enumerate(tasks) if i not in done}
        if not remaining:
            responses = iter(())
        elif model_name:
            requests = (
                (i, format_prompt(task.instruction, task.input), chat_message(task.instruction, task.input))
                for i, task in remaining.items()
            )
            responses = ask_concurrently(model_name, api, decoding, requests, max_concurrent_requests)
        else:
            model = local.load_model(model_name_or_path, cache_dir, prompt_form)
            prompts = {i: model.prompt(task.instruction, task.input) for i, task in remaining.items()}
            responses = local.generate(model, prompts, decoding, batch_size, seed)
        for index, output, finish_reason in with_progress(responses, len(tasks), len(done), "responses"):
            output = "" if finish_reason == "refused" else output.strip()
            file.append({"index": index, "output": output, "finish_reason": finish_reason})
        write_predictions(file.rows, tasks, generator, Path(instructions_path).stem, output_path, prompt_form)
        partial_path.unlink()


def response_check(num_tasks: int):
    """A check of the rows of <output_path>.partial, one after the other."""
    seen = set()

    def check(row: dict) -> str | None:
        index = row.get("index")
        if type(index) is not int or not 0 <= index < num_tasks or index in seen:
            return f"'index' is {index!r}: no task, or one that was there before"
        seen.add(index)
        is_response = isinstance(row.get("output"), str) and isinstance(row.get("finish_reason"), str | None)
        return None if is_response else "no response with output and finish_reason"

    return check


def write_predictions(
    rows: list[dict], tasks: list[Task], generator: str, dataset: str, output_path: str, prompt_form: str | None
) -> None:
    """Write the collected responses in the order of their tasks, in AlpacaEval's format."""
    outputs = {row["index"]: row["output"] for row in rows}
    about = {"generator": generator} | ({"prompt": prompt_form} if prompt_form else {})
    entries = [
        {"dataset": dataset, "instruction": task.text, "input": task.input, "output": outputs[i], **about}
        for i, task in enumerate(tasks)
    ]
    jdump(entries, output_path)
    reasons = [row["finish_reason"] for row in rows]
    num_empty = sum(not row["output"] for row in rows)
    empty = (
        f"; {num_empty:,} are empty, {reasons.count('refused'):,} of them refused by the server" if num_empty else ""
    )
    cut = f"{reasons.count('length'):,} were cut off at --max_new_tokens"
    print(f"{output_path} holds {len(tasks):,} responses; {cut}{empty}.")


def check_complete(output_path: str, tasks: list[Task], generator: str, prompt_form: str | None) -> None:
    """Raise UserError where a file that exists is not the complete output of this command."""
    entries = jload(output_path)
    expected = [(task.text, generator) for task in tasks]
    if not isinstance(entries, list) or expected != [
        (entry.get("instruction"), entry.get("generator"))
        for entry in entries
        if isinstance(entry, dict) and entry.get("prompt", prompt_form) == prompt_form
    ]:
        raise UserError(f"{output_path} exists and holds something else. Name another file, or move it away.")


def ask_concurrently(model_name: str, api: str, decoding: Decoding, requests, max_concurrent_requests: int):
    """(item, response, finish reason) for every (item, prompt, chat message) in requests, as a server answers.

    A prompt that the server refuses for good has the refusal for its response, and "refused" for its reason.
    """
    from tqdm import tqdm

    def notice(text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    model = ServerModel(model_name, api, notice)

    async def ask(request) -> tuple[str, str | None]:
        _, prompt, message = request
        try:
            return (await model.complete([prompt], message, **decoding.openai_arguments())).completions[0]
        except PromptRefused as refusal:
            notice(f"passed over: {refusal}")
            return str(refusal), "refused"

    # An event loop that is driven from here, so that the caller's loop is a plain one.
    with asyncio.Runner() as runner:
        runner.run(model.check_reachable())
        answers = as_answered(requests, ask, max_concurrent_requests)
        try:
            while (answer := runner.run(next_or_none(answers))) is not None:
                (item, _, _), (response, finish_reason) = answer
                yield item, response, finish_reason
        finally:
            runner.run(answers.aclose())


async def next_or_none(answers):
    return await anext(answers, None)


def with_progress(items, total: int, initial: int, unit: str):
    from tqdm import tqdm

    return tqdm(items, total=total, initial=initial, unit=f" {unit}")


def digest(texts) -> str:
    """A short fingerprint of texts, by which a run knows its own files again."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


# ---- Verdicts of a model ----

VERDICT = re.compile(r"\W*verdict\W+(1|2|tie)\W*", re.IGNORECASE)
MANY_UNPARSABLE = 10  # after so many, the user hears of it while there is still time
VERDICT_NAMES = {"1": "first", "2": "second", "tie": "tie"}


def judge(
    predictions_1: str,
    predictions_2: str,
    model_name: str,
    output_path: str,
    prompt_path: str = "./judge_prompt.txt",
    api: str = "auto",
    max_new_tokens: int = 256,
    max_concurrent_requests: int = 8,
) -> None:
    """Have a model behind an OpenAI-compatible server compare two models' responses, each pair in both orders.

    Args:
        predictions_1: a model's responses, in AlpacaEval's or Self-Instruct's format.
        predictions_2: the other model's, to the same instructions.
        model_name: the judge, as its server calls it; asked at temperature 0.
        output_path: JSON lines file that gets each verdict, with the judge's whole reply, as it comes.
        prompt_path: text with {task}, {first} and {second}, which asks for a last line such as "Verdict: 1".
        api: how to ask the server; completions, chat, or auto, which begins with chat.
        max_new_tokens: longest reply of the judge, in tokens.
        max_concurrent_requests: requests under way at the same time, at most.
    """
    check_ranges(locals(), RANGES)
    check_api(api)
    decoding = Decoding(max_new_tokens)
    template = load_judge_prompt(shipped(prompt_path))
    names, pairs = load_pairs(predictions_1, predictions_2)
    settings = {**pair_settings("judge", names, pairs), "judge": model_name, "prompt": digest([template])}
    check = results.verdict_check("judge", {pair.task for pair in pairs})
    with AppendOnlyFile(output_path, settings, check=check) as file:
        done = {(row["instruction"], row["input"], row["first"]) for row in file.rows}
        items = [(pair, first) for pair in pairs for first in (1, 2) if (*pair.task, first) not in done]
        requests = ((item, prompt, prompt) for item in items for prompt in [judge_prompt(template, *item)])
        replies = ask_concurrently(model_name, api, decoding, requests, max_concurrent_requests) if items else ()
        num_unparsable = 0
        progress = with_progress(replies, 2 * len(pairs), len(done), "verdicts")
        for (pair, first), reply, finish_reason in progress:
            verdict = {"length": "unparsable", "refused": "refused"}.get(finish_reason) or read_verdict(reply)
            row = {**pair.task._asdict(), "first": first, "verdict": verdict, "lengths": pair.lengths, "reply": reply}
            file.append(row)
            num_unparsable += verdict == "unparsable"
            progress.set_postfix_str(f"{num_unparsable} unparsable")
            if verdict == "unparsable" and num_unparsable == MANY_UNPARSABLE:
                progress.write(many_unparsable(reply, finish_reason), file=sys.stderr)
        print(results.judge_table(names, file.rows))


def many_unparsable(reply: str, finish_reason: str | None) -> str:
    """What to do about a judge whose replies hold no verdict, of which reply is one."""
    advice = "Raise --max_new_tokens." if finish_reason == "length" else "Try another judge, or another --prompt_path."
    end = printable(without_secrets(" ".join(reply.split())))[-100:]
    return f"warning: {MANY_UNPARSABLE} replies without exactly one verdict; the last one ends: {end!r}. {advice}"


def load_judge_prompt(path: str) -> str:
    template = read_text(path)
    for field in ("{task}", "{first}", "{second}"):
        if template.count(field) != 1:
            raise UserError(f"{path}: the judge's prompt has to hold {field} once.")
    return template


def judge_prompt(template: str, pair: Pair, first: int) -> str:
    """The prompt in which model number `first` has the first response. What the texts hold is not filled in again."""
    outputs = pair.outputs if first == 1 else pair.outputs[::-1]
    texts = {"{task}": pair.task.text, "{first}": outputs[0], "{second}": outputs[1]}
    return re.sub(r"{task}|{first}|{second}", lambda match: texts[match[0]], template)


def read_verdict(reply: str) -> str:
    """ "first", "second" or "tie", where the reply's lines give one verdict and no other; else "unparsable".

    >>> read_verdict("The second one is right.\\n**Verdict: 2**"), read_verdict("Verdict: 1 or 2"), read_verdict("2")
    ('second', 'unparsable', 'unparsable')
    """
    found = {match[1].lower() for line in reply.splitlines() if (match := VERDICT.fullmatch(line))}
    return VERDICT_NAMES[found.pop()] if len(found) == 1 else "unparsable"


def pair_settings(kind: str, names: tuple[str, str], pairs: list[Pair]) -> dict:
    """What a file of verdicts begins with: a verdict holds for these responses only."""
    texts = (text for pair in pairs for text in (pair.task.text, *pair.outputs))
    return {"kind": kind, "model_1": names[0], "model_2": names[1], "responses": digest(texts)}


# ---- Verdicts of people ----


def human(
    predictions_1: str,
    predictions_2: str,
    output_path: str,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 7861,
    password: str | None = None,
) -> None:
    """Serve a web page on which people compare two models' responses blindly; Ctrl-C ends and prints the table.

    Args:
        predictions_1: a model's responses, in AlpacaEval's or Self-Instruct's format.
        predictions_2: the other model's, to the same instructions.
        output_path: JSON lines file that gets each vote before the rater sees the next pair.
        seed: of the raters' random orders; each rater has another one.
        host: address to serve at; 0.0.0.0 lets in whoever reaches this machine.
        port: port to serve at.
        password: what raters have to log in with, under any name.
    """
    names, pairs = load_pairs(predictions_1, predictions_2)
    check_port(host, port)
    settings = {**pair_settings("human", names, pairs), "seed": seed}
    check = results.verdict_check("human", {pair.task for pair in pairs})
    with AppendOnlyFile(output_path, settings, check=check) as file:
        serve(build_page(BlindEvaluation(pairs, file, seed)), host, port, CSS, HEAD, password)
        print(results.human_table(names, file.rows))


# ---- Results ----


def report(verdicts_path: str, figure: str | None = None) -> None:
    """Print the table of a file that `judge` or `human` has written, also while it is being written.

    Args:
        verdicts_path: JSON lines file with their verdicts.
        figure: PNG or SVG file that gets a picture of the win rates with their intervals.
    """
    if figure:
        check_figure_path(figure, results.FIGURE_TITLE)
    kinds = {"judge": (results.judge_table, results.judged_pairs), "human": (results.human_table, results.rated_pairs)}

    def check_for(settings: dict):
        are_texts = all(isinstance(settings.get(name), str) for name in ("kind", "model_1", "model_2"))
        if not are_texts or settings["kind"] not in kinds:
            raise UserError(f"{verdicts_path}: not a file of `compare.py judge` or `compare.py human`.")
        return results.verdict_check(settings["kind"])

    settings, rows = read_settings_and_rows(verdicts_path, check_for)
    names = settings["model_1"], settings["model_2"]
    table, pairs = kinds[settings["kind"]]
    print(table(names, rows))
    if figure:
        save_figure(results.draw(names, pairs(rows)), [figure], results.FIGURE_TITLE)
        print(f"Wrote {figure}.")


def plan(win_rate: float, ties: float = 0.0) -> None:
    """Say how many pairs an evaluation takes to show a difference: with 80% power in a sign test at the 5% level.

    Args:
        win_rate: of the better model, ties being half a win: 0.6, say.
        ties: share of pairs that neither model will win.
    """
    if not 0 <= ties < 1:
        raise UserError(f"--ties {ties}: takes a share from 0, below 1.")
    if not 0.505 <= win_rate <= 1:
        raise UserError(f"--win_rate {win_rate}: takes that of the better model, from 0.505 to 1.")
    if win_rate > 1 - ties / 2:
        raise UserError(f"--win_rate {win_rate}: with {ties} of the pairs tied, it is at most {1 - ties / 2:g}.")
    print(
        f"{num_pairs_needed(win_rate, ties):,} pairs, {ties:.1%} of them tied, show a true win rate of {win_rate:.1%} "
        "with 80% power (sign test at the 5% level)."
    )


if __name__ == "__main__":
    run_commands({"generate": generate, "judge": judge, "human": human, "report": report, "plan": plan})
