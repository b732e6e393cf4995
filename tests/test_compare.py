"""compare.py judge, report and plan: whole runs against a local server, faults, and the statistics."""

import json
import math
import random
import re

import pytest

import compare
from alpaca.evaluation.predictions import Pair, Task, load_pairs
from alpaca.evaluation.results import draw, human_table, judge_table, judged_pairs, verdict_check
from alpaca.row_files import AppendOnlyFile
from compare import judge_prompt, read_verdict
from data.openai_server import OpenAIServer
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line
from tests.helpers.comparisons import FILTERED, TASKS, run_and_kill
from utils import UserError


def write_predictions(path, name, outputs=None, tasks=TASKS):
    outputs = outputs or [f"{name} does {i}" for i in range(len(tasks))]
    entries = [{**task, "output": output, "generator": name} for task, output in zip(tasks, outputs, strict=True)]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def predictions(tmp_path):
    return [write_predictions(tmp_path / f"{name}.json", name) for name in ("ours", "theirs")]


def judge_flags(predictions, tmp_path, *more):
    first, second = predictions
    paths = ("--predictions_1", first, "--predictions_2", second, "--output_path", tmp_path / "verdicts.jsonl")
    return ("compare.py", "judge", "--model_name", "judge", *paths, *more)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


# ---- judge ----


def test_a_judge_that_prefers_the_first_response_gives_position_bias_and_half_the_wins(predictions, tmp_path):
    with OpenAIServer(lambda prompt: "The first.\nVerdict: 1") as server:
        result = forks.run(*judge_flags(predictions, tmp_path), **server.environment)
    assert result.returncode == 0, result.stderr
    assert "ours  against  theirs" in result.stdout
    assert "win rate           50.0%  (95% interval 34.8% to 65.2%)" in result.stdout
    assert "the first response won 80 of 80 verdicts that chose one  (100.0%)" in result.stdout
    assert "orders disagree    40 of 40 pairs  (100.0%); in 40 the first response won twice, in 0 the" in result.stdout
    assert "ties               40  (100.0%)" in result.stdout
    assert all(request["body"]["temperature"] == 0 for request in server.requests)


def prefers_the_first(prompt, first, second):
    return 1


def prefers_the_longer(prompt, first, second):
    return "tie" if len(first) == len(second) else 1 + (len(second) > len(first))


def prefers_model_1_in_80_of_100_verdicts(prompt, first, second, outputs_1):
    is_right = random.Random(prompt).random() < 0.8
    return 1 if (first in outputs_1) == is_right else 2


def length_lines(longer, shorter, controlled):
    return [f"where longer       {longer}", f"where shorter      {shorter}", f"length-controlled  {controlled}"]


@pytest.mark.parametrize(
    ("judge", "lines"),
    [
        (
            prefers_the_first,
            [
                "win rate           50.0%  (95% interval 43.8% to 56.2%)",
                "the first response won 504 of 504",
                "power              too few decided pairs",
                "orders disagree    252 of 252",
            ],
        ),
        (
            prefers_the_longer,
            [
                "losses             59  (23.4%)",
                "ties               17  (6.7%)",
                *length_lines("100.0%  (95% interval 97.8%", "0.0%  (95% interval 0.0% to", "-  (needs wins and"),
            ],
        ),
        (
            prefers_model_1_in_80_of_100_verdicts,
            [
                "win rate           80.0%  (95% interval 76.3% to 83.2%)",
                "mean length        333 and 344 characters",
                *length_lines(
                    "81.8%  (95% interval 77", "80.5%  (95% interval 73", "80.0%  (95% interval 76.3% to 83.2%)"
                ),
                "power              so many pairs show a true win rate of 57.3% or more with 80% power",
            ],
        ),
    ],
)
def test_the_252_pairs_of_two_real_models_show_what_each_judge_prefers(
    judge, lines, reference_data, tmp_path, monkeypatch, capsys
):
    paths = [reference_data / f"predictions_{name}.jsonl" for name in ("text-davinci-003", "davinci-self-instruct")]
    _, pairs = load_pairs(*map(str, paths))
    more = [{pair.outputs[0] for pair in pairs}] if judge is prefers_model_1_in_80_of_100_verdicts else []

    def answer(prompt):
        responses = re.findall(r"<response \d>\n(.*?)\n</response \d>", prompt, re.DOTALL)
        return f"Verdict: {judge(prompt, *responses, *more)}"

    with OpenAIServer(answer) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        compare.judge(*map(str, paths), "judge", str(tmp_path / "verdicts.jsonl"))
    table = capsys.readouterr().out
    assert len(server.requests) == 504
    assert "predictions_text-davinci-003  against  predictions_davinci-self-instruct" in table
    assert "pairs              252" in table
    for line in lines:
        assert line in table


def test_unparsable_verdicts_are_counted_and_their_pairs_left_out(predictions, tmp_path):
    def answer(prompt):
        if "Do thing 7." in prompt:
            return "I would say 1"
        if "Do thing 8." in prompt and prompt.index("ours") < prompt.index("theirs"):
            return "Verdict: 1", "length"
        return "Verdict: 1" if prompt.index("ours") < prompt.index("theirs") else "verdict: **2**"

    with OpenAIServer(answer) as server:
        result = forks.run(*judge_flags(predictions, tmp_path), **server.environment)
    assert "unparsable         3 of 80 verdicts; 2 pairs left out" in result.stdout
    assert "wins               38  (100.0%)" in result.stdout
    assert "the first response won 38 of 77" in result.stdout


def test_a_judge_without_verdicts_is_counted_as_it_goes_and_warned_of(predictions, tmp_path):
    with OpenAIServer(lambda prompt: "Both are fine.") as server:
        result = forks.run(*judge_flags(predictions, tmp_path), **server.environment)
        assert server.requests[0]["body"]["max_tokens"] == 256
    assert "10 replies without exactly one verdict; the last one ends: 'Both are fine.'" in result.stderr
    assert "80 unparsable" in result.stderr


def test_a_judge_that_reasons_refuses_and_says_nothing_is_counted_for_what_it_says(predictions, tmp_path):
    def answer(prompt):
        if "Do thing 7." in prompt:
            return FILTERED
        if "Do thing 8." in prompt:
            return "", "stop"
        return "<think>\nVerdict: 2\nWait, no.\n</think>\n\nThe first is right.\nVerdict: 1"

    with OpenAIServer(answer) as server:
        result = forks.run(*judge_flags(predictions, tmp_path), **server.environment)
        assert result.returncode == 0, result.stderr
        assert "unparsable         4 of 80 verdicts; 2 pairs left out\n  refused            2 of these" in result.stdout
        assert "the first response won 76 of 76" in result.stdout
        assert result.stderr.count("passed over: ") == 2
        num_before = len(server.requests)
        assert forks.run(*judge_flags(predictions, tmp_path), **server.environment).stdout == result.stdout
        assert len(server.requests) == num_before
    refused = [row for row in rows(tmp_path / "verdicts.jsonl") if row["verdict"] == "refused"]
    assert [row["instruction"] for row in refused] == ["Do thing 7."] * 2
    assert all("The prompt was filtered." in row["reply"] for row in refused)


@pytest.mark.parametrize("verdicts", [[], ["unparsable", "unparsable"], ["skip", "skip"], ["refused", "unparsable"]])
def test_without_a_verdict_that_decides_a_pair_there_is_a_table_all_the_same(verdicts):
    given = [
        {"instruction": "a", "input": "", "rater": "r", "first": first, "verdict": verdict}
        for first, verdict in enumerate(verdicts, start=1)
    ]
    for table in (judge_table(("a", "b"), given), human_table(("a", "b"), given)):
        lines = dict(line.split(maxsplit=1) for line in table.replace("win rate", "win_rate").splitlines()[1:])
        assert (lines["pairs"], lines["wins"], lines["win_rate"]) == ("0", "0", "-")
        assert "nan" not in table


def test_a_killed_judge_run_goes_on_without_asking_or_counting_twice(predictions, tmp_path):
    path = tmp_path / "verdicts.jsonl"
    flags = judge_flags(predictions, tmp_path, "--max_concurrent_requests", "4")
    with OpenAIServer(lambda prompt: "Verdict: tie", latency_sec=0.05) as server:
        run_and_kill(flags, server.environment, path, 20)
        with path.open("ab") as f:
            f.write(b'{"instruction": "Do thi')  # as a kill within a write leaves it
        saved = len([line for line in path.read_bytes().split(b"\n")[1:-1] if line])
        num_before = len(server.requests)
        result = forks.run(*flags, **server.environment)
        assert len(server.requests) - num_before == 80 - saved
        assert "win rate           50.0%" in result.stdout
        again = forks.run(*flags, **server.environment)
        assert len(server.requests) - num_before == 80 - saved
        assert again.stdout == result.stdout == forks.run("compare.py", "report", "--verdicts_path", path).stdout
    keys = [(row["instruction"], row["input"], row["first"]) for row in rows(path)]
    assert len(keys) == len(set(keys)) == 80


def test_verdicts_of_other_responses_are_not_mixed_in(predictions, tmp_path):
    with OpenAIServer(lambda prompt: "Verdict: 1") as server:
        forks.run(*judge_flags(predictions, tmp_path), **server.environment)
        other = write_predictions(tmp_path / "other.json", "theirs", [f"new {i}" for i in range(40)])
        result = forks.run(*judge_flags([predictions[0], other], tmp_path), **server.environment)
    assert_fails_in_one_line(result, "verdicts.jsonl was made with another responses")


def test_an_unreachable_judge_is_said_at_once_and_binds_no_later_run(predictions, tmp_path):
    environment = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": ""}
    result = forks.run(*judge_flags(predictions, tmp_path), **environment)
    assert_fails_in_one_line(result, "no server at http://127.0.0.1:9/v1", "OPENAI_BASE_URL")
    with OpenAIServer(lambda prompt: "Verdict: 1") as server:
        flags = judge_flags(predictions, tmp_path, "--prompt_path", tmp_path / "prompt.txt")
        (tmp_path / "prompt.txt").write_text("{task} {first} {second}")
        assert forks.run(*flags, **server.environment).returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop(), "1 are in the first only"),
        (lambda entries: entries.append(entries[3]), "entry 40: the same instruction and input as entry 3."),
        (lambda entries: entries[4].pop("output"), "entry 4 has no 'output'"),
        (lambda entries: entries[4].pop("instruction"), "entry 4 has no 'instruction'"),
        (lambda entries: entries[4].update(instruction=" "), "entry 4 has an empty 'instruction'"),
        (lambda entries: entries[4].update(generator="x"), "2 generators"),
        (lambda entries: entries[4].update(generator=["x"]), "entry 4 has a field 'generator' that is not text"),
        (lambda entries: entries.clear(), "no examples"),
    ],
)
def test_prediction_files_that_cannot_be_compared_are_refused_in_one_line(predictions, tmp_path, change, message):
    entries = json.loads(predictions[1].read_text())
    change(entries)
    predictions[1].write_text(json.dumps(entries))
    with pytest.raises(UserError) as error:
        load_pairs(*map(str, predictions))
    assert message in str(error.value)
    assert "theirs.json" in str(error.value)


def test_a_mistake_in_a_prediction_file_ends_the_command_in_one_line(predictions, tmp_path):
    predictions[1].write_text('[{"instruction": "x"}]')
    assert_fails_in_one_line(forks.run(*judge_flags(predictions, tmp_path)), "theirs.json, entry 0 has no 'output'")


def test_a_judges_prompt_without_a_placeholder_is_refused(predictions, tmp_path):
    (tmp_path / "prompt.txt").write_text("{task} {first}")
    result = forks.run(*judge_flags(predictions, tmp_path, "--prompt_path", tmp_path / "prompt.txt"))
    assert_fails_in_one_line(result, "prompt.txt: the judge's prompt has to hold {second} once")


def test_the_shipped_prompt_is_found_from_another_folder_unless_that_has_its_own(predictions, tmp_path):
    command = (ROOT / "compare.py", *judge_flags(predictions, tmp_path)[1:])
    with OpenAIServer(lambda prompt: "Verdict: 1") as server:
        for text in (None, "{task}|{first}|{second}"):
            (tmp_path / "verdicts.jsonl").unlink(missing_ok=True)
            if text:
                (tmp_path / "judge_prompt.txt").write_text(text)
            result = forks.run(*command, cwd=tmp_path, **server.environment)
            assert result.returncode == 0, result.stderr
    asked = [request["body"]["messages"][-1]["content"] for request in server.requests]
    assert [text.count("|") for text in asked] == [0] * 80 + [2] * 80


def test_braces_in_a_response_are_not_filled_in():
    pair = Pair(Task("{first}", ""), ("{second}", "b"))
    assert judge_prompt("{task}|{first}|{second}", pair, 1) == "{first}|{second}|b"
    assert judge_prompt("{task}|{first}|{second}", pair, 2) == "{first}|b|{second}"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Verdict: 1", "first"),
        ("Because.\n\n**Verdict: Tie**\n", "tie"),
        ("Verdict: 1\nNo, wait.\nVerdict: 2", "unparsable"),
        ("Verdict: 1 (or 2)", "unparsable"),
        ("My verdict: 12", "unparsable"),
        ("", "unparsable"),
    ],
)
def test_a_verdict_is_read_or_not_guessed(reply, verdict):
    assert read_verdict(reply) == verdict


# ---- report and plan ----


def write_verdicts(path, verdicts):
    rows = [
        {"instruction": str(i), "input": "", "first": first, "verdict": verdict, "lengths": [10 + i % 7, 13]}
        for i, verdict in enumerate(verdicts)
        for first in (1, 2)
    ]
    settings = {"kind": "judge", "model_1": "ours", "model_2": "$x_1$"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"settings": settings}, *rows]))
    return path


def test_the_figure_shows_the_rates_of_the_table_and_replaces_only_its_own(tmp_path, capsys):
    verdicts = write_verdicts(tmp_path / "verdicts.jsonl", ["first", "second", "tie"] * 20)
    for suffix in ("png", "svg"):
        figure = tmp_path / f"figure.{suffix}"
        for _ in range(2):
            compare.report(str(verdicts), str(figure))
        assert figure.stat().st_size > 5000
        figure.write_bytes(b"mine")
        with pytest.raises(UserError, match=f"figure.{suffix}: not a figure of this script, so it stays"):
            compare.report(str(verdicts), str(figure))
        assert figure.read_bytes() == b"mine"
    with pytest.raises(UserError, match=r"figure\.pdf: a figure's name ends in \.png or \.svg"):
        compare.report(str(verdicts), str(tmp_path / "figure.pdf"))
    table = capsys.readouterr().out
    axes = draw(("ours", "$x_1$"), judged_pairs(rows(verdicts))).axes[0]
    labels = [label.get_text().split("  ")[0] for label in axes.get_yticklabels()]
    assert labels == ["win rate", "where longer", "where shorter"]
    for label, text in zip(labels, axes.texts, strict=True):
        assert f"  {label:<17}  {text.get_text()}  (95%" in table


@pytest.mark.parametrize("kind", ["judge", "human"])
def test_a_file_without_a_verdict_gives_a_table_of_dashes_and_an_empty_figure(kind, tmp_path):
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps({"settings": {"kind": kind, "model_1": "a", "model_2": "b"}}) + "\n")
    result = forks.run("compare.py", "report", "--verdicts_path", path, "--figure", tmp_path / "figure.svg")
    assert result.returncode == 0, result.stderr
    assert "win rate           -\n  mean length        -\n  where longer       -" in result.stdout


def test_verdicts_of_an_earlier_version_have_all_lines_but_those_on_length(tmp_path, capsys):
    path = write_verdicts(tmp_path / "verdicts.jsonl", ["first"] * 10)
    path.write_text(re.sub(r', "lengths": \[\d+, \d+\]', "", path.read_text()))
    compare.report(str(path))
    assert "win rate           50.0%  (95% interval" in (table := capsys.readouterr().out)
    assert "mean length        -\n  where longer       -\n  where shorter      -" in table


def test_plan_says_how_many_pairs_a_difference_takes(capsys):
    compare.plan(0.6)
    compare.plan(0.6, 0.3)
    assert capsys.readouterr().out.splitlines() == [
        "199 pairs, 0.0% of them tied, show a true win rate of 60.0% with 80% power (sign test at the 5% level).",
        "144 pairs, 30.0% of them tied, show a true win rate of 60.0% with 80% power (sign test at the 5% level).",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5,), "--win_rate 0.5: takes that of the better model, from 0.505 to 1"),
        ((math.nan,), "--win_rate nan"),
        ((0.9, 0.3), "--win_rate 0.9: with 0.3 of the pairs tied, it is at most 0.85"),
        ((0.6, 1.0), "--ties 1.0"),
    ],
)
def test_plan_refuses_what_cannot_be(values, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compare.plan(*values)


# ---- Files that people have edited ----

SETTINGS = {"settings": {"kind": "human", "model_1": "a\x1b[2J", "model_2": "b", "responses": "x", "seed": 0}}
VOTE = {"rater": "anna", "instruction": "Say hi.", "input": "", "first": 1, "verdict": "first"}


def report_of(path, *votes):
    path.write_text("\n".join(json.dumps(row) for row in (SETTINGS, *votes)) + "\n\n")
    compare.report(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 3}, "'first' is 3, and has to be 1 or 2"),
        ({"first": True}, "'first' is True"),
        ({"verdict": "left"}, "'left' is no verdict"),
        ({"verdict": None}, "no 'verdict' that is text"),
        ({"rater": 5}, "no 'rater' that is text"),
        ({}, "a second verdict on the same pair"),
    ],
)
def test_a_vote_that_cannot_be_one_is_named_with_its_line(change, message, tmp_path):
    with pytest.raises(UserError, match=f"votes.jsonl, line 3: .*{message}"):
        report_of(tmp_path / "votes.jsonl", VOTE, {**VOTE, **change})


def test_a_name_in_a_table_cannot_forge_a_line_or_reach_the_terminal(tmp_path, capsys):
    report_of(tmp_path / "votes.jsonl", {**VOTE, "rater": "x\n  win rate  100%\x1b[31m"})
    table = capsys.readouterr().out
    assert "\x1b" not in table
    assert sum(line.lstrip().startswith("win rate") for line in table.splitlines()) == 1


def test_a_verdict_on_a_pair_that_is_not_there_is_refused_where_the_file_goes_on(tmp_path):
    check = verdict_check("judge", {("Say hi.", "")})
    row = {key: VOTE[key] for key in ("instruction", "input", "first", "verdict")}
    assert check(row) is None
    assert check({**row, "first": 2}) is None
    assert "do not have" in check({**row, "instruction": "Say bye."})
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps({"settings": {}}) + "\n" + json.dumps({**row, "first": 0}) + "\n")
    with pytest.raises(UserError, match=r"verdicts.jsonl, line 2: 'first' is 0"):
        AppendOnlyFile(path, {}, check=verdict_check("judge"))


@pytest.mark.parametrize("row", [{"index": 7}, {"index": True}, {"index": 1, "output": 5}, {"output": "x"}])
def test_a_response_that_was_edited_is_named_with_its_line(row, tmp_path):
    path = tmp_path / "ours.json.partial"
    rows = [{"settings": {}}, {"index": 0, "output": "x", "finish_reason": "stop"}, row]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="partial, line 3: "):
        AppendOnlyFile(path, {}, check=compare.response_check(num_tasks=2))


def test_a_vote_that_was_taken_back_can_be_given_again_and_no_other_twice():
    check = verdict_check("human")
    withdrawn = {**VOTE, "verdict": "withdrawn"}
    assert [check(row) for row in (VOTE, withdrawn, VOTE)] == [None, None, None]
    assert "second verdict" in check(VOTE)
    assert "not there" in check({**withdrawn, "rater": "ben"})
