"""compare.py generate: responses of a server and of a local model, after kills and refusals, and what it reads."""

import json

import pytest

from alpaca.evaluation.predictions import Task, load_predictions, load_tasks
from data.openai_server import OpenAIServer
from tests.helpers import forks
from tests.helpers.commands import assert_fails_in_one_line
from tests.helpers.comparisons import FILTERED, TASKS, kill_at, run_and_kill
from utils import PROMPT_DICT


def write_tasks(path, tasks=TASKS):
    path.write_text(json.dumps(tasks))
    return path


def test_a_servers_responses_are_written_in_alpacaevals_format_and_read_back(tmp_path):
    tasks, output = write_tasks(tmp_path / "eval.json"), tmp_path / "out.json"
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--output_path", output, "--model_name", "m")
    with OpenAIServer(lambda prompt: f" re: {prompt} ", faults=lambda n: "rate limit" if n == 3 else None) as server:
        result = forks.run(*flags, **server.environment)
    assert result.returncode == 0, result.stderr
    entries = json.loads(output.read_text())
    assert entries[1] == {
        "dataset": "eval",
        "instruction": "Do thing 1.\n\npart 1",
        "input": "part 1",
        "output": "re: Do thing 1.\n\n### Input:\npart 1",
        "generator": "m",
    }
    assert list(load_predictions(str(output))[1]) == [Task(t["instruction"], t["input"]) for t in TASKS]
    assert list(tmp_path.glob("*.partial")) == []


def test_a_server_without_chat_gets_the_training_prompt(tmp_path):
    tasks, output = write_tasks(tmp_path / "eval.json", TASKS[:2]), tmp_path / "out.json"
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--output_path", output, "--model_name", "m")
    no_chat = (404, {"error": {"message": "This is not a chat model"}})
    with OpenAIServer(lambda prompt: prompt, faults=lambda n: no_chat if n == 0 else None) as server:
        result = forks.run(*flags, "--max_concurrent_requests", "1", **server.environment)
    assert "going on with the completions API" in result.stderr
    outputs = [entry["output"] for entry in json.loads(output.read_text())]
    assert outputs[1] == PROMPT_DICT["prompt_input"].format(**TASKS[1])


def test_a_server_with_a_short_context_answers_with_as_many_tokens_as_fit(tmp_path):
    tasks, output = write_tasks(tmp_path / "eval.json"), tmp_path / "out.json"
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--output_path", output, "--model_name", "m")
    with OpenAIServer(lambda prompt: "hi", context_tokens=300) as server:
        result = forks.run(*flags, "--max_concurrent_requests", "1", **server.environment)
    assert result.returncode == 0, result.stderr
    assert [request["body"]["max_tokens"] for request in server.requests] == [512] + [261] * 40


def test_a_prompt_that_a_server_refuses_and_an_empty_response_are_recorded_and_counted(tmp_path):
    def answer(prompt):
        if "Do thing 7." in prompt:
            return FILTERED
        return ("", "length") if "Do thing 8." in prompt else "<think>\nSo be it.\n</think>\n\nDone."

    tasks, output = write_tasks(tmp_path / "eval.json"), tmp_path / "out.json"
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--output_path", output, "--model_name", "m")
    with OpenAIServer(answer) as server:
        result = forks.run(*flags, **server.environment)
    assert result.returncode == 0, result.stderr
    outputs = [entry["output"] for entry in json.loads(output.read_text())]
    assert outputs == ["" if i in (7, 8) else "Done." for i in range(40)]
    assert "holds 40 responses; 1 were cut off at --max_new_tokens; 2 are empty, 1 of them refused" in result.stdout
    assert result.stderr.count("passed over: ") == 1


def test_a_killed_generate_run_loses_and_doubles_nothing(tmp_path):
    tasks, output = write_tasks(tmp_path / "eval.json"), tmp_path / "out.json"
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--output_path", output, "--model_name", "m")
    flags += ("--max_concurrent_requests", "2")
    with OpenAIServer(lambda prompt: f"re: {prompt}", latency_sec=0.05) as server:
        saved = run_and_kill(flags, server.environment, tmp_path / "out.json.partial", 10) - 1
        assert not output.exists()
        num_before = len(server.requests)
        result = forks.run(*flags, **server.environment)
        assert result.returncode == 0, result.stderr
        assert len(server.requests) - num_before == 40 - saved
        assert "already holds all 40" in forks.run(*flags, **server.environment).stdout
    assert [e["output"][:16].split(".")[0] for e in json.loads(output.read_text())] == [
        f"re: Do thing {i}" for i in range(40)
    ]


def test_a_local_models_responses_go_on_after_a_kill_and_are_those_of_one_run(tiny_llama, tmp_path):
    tasks = write_tasks(tmp_path / "eval.json")
    flags = ("compare.py", "generate", "--instructions_path", tasks, "--model_name_or_path", tiny_llama)
    flags += ("--max_new_tokens", "60", "--batch_size", "4", "--temperature", "1")
    first = (*flags, "--output_path", tmp_path / "a.json")
    flags += ("--seed", "0")
    process = forks.Forks(forks.python(*first, "--seed", "0"))
    kill_at(process, tmp_path / "a.json.partial", 6)
    process.close()
    assert_fails_in_one_line(forks.run(*first, "--seed", "1"), "a.json.partial was made with another seed")
    assert_fails_in_one_line(forks.run(*first, "--seed=0", "--api=chat"), "a.json.partial was made with another api")
    for name in ("a.json", "b.json"):
        result = forks.run(*flags, "--output_path", tmp_path / name)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert " were cut off at --max_new_tokens" in result.stdout


def test_the_self_instruct_evaluation_is_read(reference_data):
    tasks = load_tasks(str(reference_data / "user_oriented_instructions.jsonl"))
    predicted = load_predictions(str(reference_data / "predictions_text-davinci-003.jsonl"))[1]
    assert len(tasks) == 252
    assert tasks == list(predicted)


def test_instruction_files_of_all_three_formats_give_the_same_tasks(tmp_path):
    self_instruct = [
        {"id": f"x{i}", "instruction": t["instruction"], "instances": [{"input": t["input"], "output": "o"}]}
        for i, t in enumerate(TASKS)
    ]
    lines = tmp_path / "eval.jsonl"
    lines.write_text("\n".join(map(json.dumps, self_instruct)))
    assert load_tasks(str(lines)) == load_tasks(str(write_tasks(tmp_path / "eval.json")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "either --model_name_or_path (local) or --model_name"),
        (("--model_name", "m", "--batch_size", "0"), "--batch_size 0"),
        (("--model_name", "m", "--api", "text"), "--api text"),
        (("--model_name", "m", "--instructions_path", "nowhere.json"), "nowhere.json: no such file"),
        (("--model_name", "m", "--output_path", "nowhere/out.json"), "nowhere/out.json: there is no folder nowhere"),
    ],
)
def test_flags_of_generate_that_cannot_work_are_refused_in_one_line(tmp_path, flags, message):
    given = {"--instructions_path": write_tasks(tmp_path / "eval.json"), "--output_path": tmp_path / "out.json"}
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    arguments = [part for flag in given.items() for part in flag]
    assert_fails_in_one_line(forks.run("compare.py", "generate", *arguments, OPENAI_BASE_URL=""), message)
