"""The generator as a user runs it, against a local server: what it writes and asks, and the mistakes it names."""

import itertools
import json
import os
import random
import re
import time

import numpy as np
import pytest
from rouge_score import rouge_scorer

from data.openai_server import OpenAIServer, answers_with
from generate_instruction import encode_prompt, generate_instruction_following_data, load_seed_tasks, sample_seed_tasks
from tests.helpers.commands import ROOT, assert_fails_in_one_line, run_script
from tests.helpers.generation_data import (
    COMMAND,
    ONE_BY_ONE,
    arguments,
    assert_orderly_end,
    generate,
    instructions,
    log,
    make_tasks,
    regen,
)
from utils import UserError

# What a run writes


def expected_entries(tasks: list[dict], seed_tasks: list[dict]) -> list[dict]:
    """The entries of regen.json by the definition: rouge-score, one task after the other."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    known, entries = instructions(seed_tasks), []
    for task in tasks:
        scores = [scorer.score(task["instruction"], text)["rougeL"].fmeasure for text in known]
        if max(scores) <= 0.7:
            ten = sorted(range(len(known)), key=lambda i: scores[i], reverse=True)[:10]
            scores_of_ten = {known[i]: scores[i] for i in ten}
            entries.append(
                {**task, "most_similar_instructions": scores_of_ten, "avg_similarity_score": float(np.mean(scores))}
            )
            known.append(task["instruction"])
    return entries


def assert_same_entries(entries: list[dict], expected: list[dict]) -> None:
    """Every field is the same, to the last bit; among ten, and at their end, ties may be others."""
    assert len(entries) == len(expected)
    for entry, other in zip(entries, expected, strict=True):
        assert list(entry) == list(other)
        similar, other_similar = (e["most_similar_instructions"] for e in (entry, other))
        assert list(similar.values()) == list(other_similar.values())
        assert all(other_similar.get(text, score) == score for text, score in similar.items())
        assert {**entry, "most_similar_instructions": 0} == {**other, "most_similar_instructions": 0}


def test_a_run_writes_the_tasks_that_the_definition_gives(folder):
    tasks = make_tasks(60)
    near_copies = [{**task, "instruction": task["instruction"].replace("the", "a")} for task in tasks[:20]]
    tasks = tasks[:30] + near_copies + tasks[30:]
    with OpenAIServer(answers_with(tasks)) as server:
        result = generate(folder, server, num_instructions_to_generate=55, **ONE_BY_ONE)
    assert result.returncode == 0, result.stderr
    assert_same_entries(regen(folder), expected_entries(tasks, load_seed_tasks(folder / "seed_tasks.jsonl"))[:55])
    assert re.search(r"dropped: too similar to a known instruction +20\n", result.stdout)
    assert re.search(r"dropped: beyond the number asked for +5\n", result.stdout)
    assert re.search(r"parsed +80\nkept +55\n", result.stdout)
    assert "out/regen.json holds 55 tasks." in result.stdout


@pytest.mark.parametrize("name", ["regen_reference_128.json", "regen_reference_73.json"])
def test_the_originals_tasks_give_the_originals_file(name, folder, reference_data):
    reference = json.loads((reference_data / name).read_text(encoding="utf-8"))
    with OpenAIServer(answers_with(reference, tasks_per_completion=17)) as server:
        result = generate(
            folder,
            server,
            seed_tasks_path=reference_data / "seed_tasks_reference.jsonl",
            num_instructions_to_generate=len(reference),
            **ONE_BY_ONE,
            drop_malformed=False,
        )
    assert result.returncode == 0, result.stderr
    assert (folder / "out" / "regen.json").read_bytes() == (reference_data / name).read_bytes()


def test_prompt_and_seed_tasks_that_ship_with_the_script_are_found_from_another_folder(tmp_path):
    with OpenAIServer(answers_with(make_tasks(20))) as server:
        result = generate(tmp_path, server, num_instructions_to_generate=10, request_batch_size=1)
    assert result.returncode == 0, result.stderr
    prompt = server.requests[0]["body"]["prompt"]
    assert (prompt if isinstance(prompt, str) else prompt[0]).startswith((ROOT / "prompt.txt").read_text("utf-8"))


def test_the_log_accounts_for_every_request_and_task(folder):
    with OpenAIServer(answers_with(make_tasks(130)), latency_sec=0.05) as server:
        result = generate(folder, server, num_instructions_to_generate=100, request_batch_size=3, seed=5)
    lines = log(folder)
    assert sum(line["kept"] for line in lines) == 100
    for line in lines:
        assert line["parsed"] == line["kept"] + sum(line["dropped"].values()) == 30 or line is lines[-1]
        assert line["prompt_tokens"] > 0 < line["completion_tokens"]
        assert (line["model"], line["api"], line["seed"]) == ("text-davinci-003", "completions", 5)
        assert 0.05 <= line["latency_sec"] < 60
    seed_tasks = load_seed_tasks(folder / "seed_tasks.jsonl")
    for line in lines:
        sampled = [sample_seed_tasks(seed_tasks, 3, 5, index) for index in line["prompt_indices"]]
        assert line["seed_task_ids"] == [[task["id"] for task in tasks] for tasks in sampled]
    num_tokens = sum(line["prompt_tokens"] for line in lines)
    assert re.search(rf"requests +{len(lines)}\nprompt tokens +{num_tokens:,}\n", result.stdout)


# What a run asks


def test_requests_say_exactly_what_the_contract_says(folder):
    with OpenAIServer(answers_with(make_tasks(40))) as server:
        generate(folder, server, num_instructions_to_generate=20, seed=3, temperature=0.5, top_p=0.9)
    body = server.requests[0]["body"]
    seed_tasks = load_seed_tasks(folder / "seed_tasks.jsonl")
    prompts = [encode_prompt(sample_seed_tasks(seed_tasks, 3, 3, k), folder / "prompt.txt") for k in range(5)]
    assert body == {
        "model": "text-davinci-003",
        "prompt": prompts,
        "max_tokens": 3072,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 1,
        "stop": ["###\n21."],
        "logit_bias": {"50256": -100},
    }
    assert server.requests[0]["headers"]["authorization"] == "Bearer test-key"


def prompts_in(server) -> list[str]:
    prompts = [request["body"]["prompt"] for request in server.requests]
    return [p for prompt in prompts for p in ([prompt] if isinstance(prompt, str) else prompt)]


def slowly(answer, latency_sec):
    """answer, after waits of different lengths, so that answers overtake each other."""
    rng = random.Random(0)

    def answer_later(prompt):
        time.sleep(rng.random() * latency_sec)
        return answer(prompt)

    return answer_later


def test_a_seed_fixes_the_prompts_whatever_the_order_of_the_answers(folder):
    asked = []
    for latency_sec in (0.0, 0.1):
        tasks = make_tasks(200)

        with OpenAIServer(slowly(answers_with(tasks, 5), latency_sec)) as server:
            generate(folder, server, num_instructions_to_generate=100, request_batch_size=2, seed=11, output_dir="a")
        os.rename(folder / "a", folder / f"latency_{latency_sec}")
        asked.append(prompts_in(server))
    num_common = min(map(len, asked))
    seed_tasks = load_seed_tasks(folder / "seed_tasks.jsonl")
    expected = [
        encode_prompt(sample_seed_tasks(seed_tasks, 3, 11, k), folder / "prompt.txt") for k in range(num_common)
    ]
    assert all(set(expected[: num_common - 16]) <= set(prompts) for prompts in asked)


def test_many_requests_are_under_way_at_once_and_never_more_than_allowed(folder):
    flags = {"num_instructions_to_generate": 100, "request_batch_size": 1, "max_concurrent_requests": 6}
    with OpenAIServer(answers_with(make_tasks(300), 5), latency_sec=0.4) as server:
        assert generate(folder, server, **flags).returncode == 0
    assert server.most_under_way == 6


def test_no_more_is_asked_for_than_is_likely_to_be_needed(folder):
    with OpenAIServer(answers_with(make_tasks(200), 17), latency_sec=0.1) as server:
        generate(folder, server, num_instructions_to_generate=30, request_batch_size=1)
    assert len(server.requests) == 2


def test_one_prompt_per_request_where_the_server_takes_no_list(folder):
    with OpenAIServer(answers_with(make_tasks(200)), kind="transformers") as server:
        result = generate(folder, server, num_instructions_to_generate=100, seed=1)
    assert result.returncode == 0, result.stderr
    assert len(regen(folder)) == 100
    assert result.stderr.count("one prompt per request") == 1
    # The prompts of the refused batches were all sent again, one by one.
    answered = {request["body"]["prompt"] for request in server.requests if isinstance(request["body"]["prompt"], str)}
    seed_tasks = load_seed_tasks(folder / "seed_tasks.jsonl")
    assert encode_prompt(sample_seed_tasks(seed_tasks, 3, 1, 0), folder / "prompt.txt") in answered
    assert all(len(line["prompt_indices"]) == 1 for line in log(folder))


def test_a_refused_logit_bias_is_left_out(folder):
    with OpenAIServer(answers_with(make_tasks(200)), kind="vllm") as server:
        result = generate(folder, server, num_instructions_to_generate=100)
    assert result.returncode == 0, result.stderr
    assert len(regen(folder)) == 100
    assert result.stderr.count("without logit_bias") == 1


def test_a_chat_only_model_is_noticed(folder):
    tasks = make_tasks(100)
    play = answers_with(tasks)

    def answer(prompt):  # sometimes with the label that the prompt already has
        return random.choice(["", "4. Instruction:", "Sure!\n\n###\n4. Instruction:"]) + play(prompt)

    with OpenAIServer(answer, kind="chat") as server:
        result = generate(folder, server, num_instructions_to_generate=60, model_name="some-chat-model")
    assert result.returncode == 0, result.stderr
    assert len(regen(folder)) == 60
    assert result.stderr.count("going on with the chat API") == 1
    chats = [request["body"] for request in server.requests if request["path"].endswith("chat/completions")]
    assert all("logit_bias" not in body and len(body["messages"]) == 1 for body in chats)


def test_replies_of_todays_chat_models_are_read(folder):
    tasks = make_tasks(60)
    play, number = answers_with(tasks), itertools.count()

    def answer(prompt):
        match next(number) % 4:
            case 0:
                return f"<think>\nI begin with\n4. Instruction: trees ###\n</think>\n\n4. Instruction:{play(prompt)}"
            case 1:
                return re.sub(r"(\d+\. \w+:)", r"**\1**", f"4. Instruction:{play(prompt)}")
            case 2:
                return (400, {"error": {"message": "Filtered.", "code": "content_filter"}})
        return f"```\n{re.sub(r'(?m)^4', '1', f'4. Instruction:{play(prompt)}')}\n```"

    with OpenAIServer(answer) as server:
        flags = {**ONE_BY_ONE, "api": "chat", "max_tokens_per_request": 700}
        result = generate(folder, server, num_instructions_to_generate=60, **flags)
    assert result.returncode == 0, result.stderr
    assert_orderly_end(folder, tasks)
    assert re.search(r"requests +8\nrefused +2\n", result.stdout)
    assert result.stderr.count("passed over: ") == 2
    assert {request["body"]["max_tokens"] for request in server.requests} == {700}


def test_the_chat_api_can_be_chosen(folder):
    with OpenAIServer(answers_with(make_tasks(50))) as server:
        generate(folder, server, num_instructions_to_generate=30, api="chat")
    assert {request["path"] for request in server.requests} == {"/v1/chat/completions"}
    assert not any("logit_bias" in request["body"] for request in server.requests)
    assert len(regen(folder)) == 30


def test_without_auto_a_chat_only_model_is_an_error(folder):
    with OpenAIServer(answers_with(make_tasks(50)), kind="chat") as server:
        result = generate(folder, server, api="completions")
    assert_fails_in_one_line(result, "This is a chat model")


def test_what_a_server_calls_too_long_is_shortened_once_and_later_requests_start_there(folder):
    with OpenAIServer(answers_with(make_tasks(60)), context_tokens=2200) as server:
        result = generate(folder, server, num_instructions_to_generate=30, **ONE_BY_ONE)
    assert result.returncode == 0, result.stderr
    assert [request["body"]["max_tokens"] for request in server.requests] == [3072, 1965, 1965, 1965]


def test_a_prompt_that_never_fits_ends_the_run(folder):
    with OpenAIServer(answers_with(make_tasks(60)), context_tokens=10) as server:
        result = generate(folder, server, request_batch_size=1)
    assert_fails_in_one_line(result, "maximum context length is 10 tokens")


# A user's mistakes


@pytest.mark.parametrize(
    "flags",
    [
        {"num_instructions_to_generate": 0},
        {"num_prompt_instructions": 0},
        {"num_prompt_instructions": 20},
        {"request_batch_size": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"num_cpus": 0},
        {"max_concurrent_requests": 0},
        {"similarity_threshold": 70.0},
        {"max_total_tokens": 0},
        {"max_tokens_per_request": 0},
        {"api": "text"},
    ],
)
def test_a_value_out_of_range_is_named(flags, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=f"^--{next(iter(flags))} "):
        generate_instruction_following_data(**flags)
    assert sorted(os.listdir(folder)) == ["prompt.txt", "seed_tasks.jsonl"]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("{", "line 2, column 2: not JSON"),
        ("[]", "line 2 is not an object but list"),
        ('{"instruction": "a"}', "line 2 has no 'output'"),
        ('{"instruction": "a", "instances": []}', "line 2 has no 'output'"),
        ('{"instruction": "a", "instances": [{"input": ""}]}', "line 2 has no 'output'"),
        ('{"instruction": " ", "instances": [{"input": "", "output": "b"}]}', "line 2 has an empty 'instruction'"),
        ('{"instruction": "a", "instances": [{"input": 1, "output": "b"}]}', "line 2 has a field 'input' that is not"),
    ],
)
def test_a_seed_task_that_cannot_be_used_is_named_with_its_line(line, place, tmp_path):
    path = tmp_path / "seeds.jsonl"
    good = '{"instruction": "a", "instances": [{"input": "", "output": "b"}]}'
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"seeds\.jsonl, {place}"):
        load_seed_tasks(path)
    path.write_text(f"\n{good}\n\n", encoding="utf-8")
    assert load_seed_tasks(path) == [{"id": "line 2", "instruction": "a", "input": "", "output": "b"}]


def test_mistakes_on_the_command_line_are_one_line(folder):
    with OpenAIServer(None) as server:
        assert_fails_in_one_line(generate(folder, server, modelname="x"), "--modelname", "Did you mean --model_name")
        assert_fails_in_one_line(generate(folder, server, seed_tasks_path="no.jsonl"), "no.jsonl: no such file")
        assert_fails_in_one_line(generate(folder, server, prompt_path="no.txt"), "no.txt: no such file")
        assert_fails_in_one_line(generate(folder, server, num_prompt_instructions=13), "has 12 tasks")
    assert server.requests == []
    no_key = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    assert_fails_in_one_line(run_script(*arguments(), cwd=folder, **no_key), "OPENAI_API_KEY")


def test_a_damaged_regen_json_is_reported_with_its_position_and_left_untouched(folder):
    (folder / "out").mkdir()
    path = folder / "out" / "regen.json"
    path.write_text('[\n    {"instruction": "Do', encoding="utf-8")
    with OpenAIServer(None) as server:
        assert_fails_in_one_line(generate(folder, server), "regen.json, line 2, column 21: not JSON")
    assert path.read_text(encoding="utf-8") == '[\n    {"instruction": "Do'


def test_help_lists_every_flag_and_loads_nothing_heavy():
    result = run_script("-X", "importtime", "-m", "generate_instruction", COMMAND, "--help")
    assert result.returncode == 0
    for flag in ("output_dir", "max_concurrent_requests", "drop_malformed", "prompt_path"):
        assert f"--{flag}\n" in result.stdout + result.stderr
    loaded = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "openai", "numpy", "rapidfuzz", "tqdm"}
