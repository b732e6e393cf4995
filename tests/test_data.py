import ast
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.examples import FIELDS
from data import build, check, kinds, overlap, verify
from data.code_verifications import EXAMPLES
from data.execution import ToolMissing, python
from data.verifications import SEED_TASKS
from generate_instruction import encode_prompt, load_seed_tasks, sample_seed_tasks
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line, run_script
from utils import UserError, jdump, jload


@pytest.fixture(scope="module")
def examples() -> list[dict]:
    return jload(ROOT / "alpaca_data.json")


@pytest.fixture(scope="module")
def seed_tasks() -> list[dict]:
    return [json.loads(line) for line in (ROOT / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory) -> tuple:
    """The path of freshly built data, and what the build printed."""
    path = tmp_path_factory.mktemp("build") / "alpaca_data.json"
    result = run_script("-m", "data.build", "alpaca_data", "--data_path", path)
    assert result.returncode == 0, result.stderr
    return path, result.stdout


def good_example(**changes) -> dict:
    return {"instruction": "Name the capital of France.", "input": "", "output": "Paris", **changes}


# The recordings and the build -----------------------------------------------------------------------------------------
def test_the_data_is_rebuilt_byte_for_byte(rebuilt):
    assert rebuilt[0].read_bytes() == (ROOT / "alpaca_data.json").read_bytes()


def test_at_least_two_thousand_tasks_of_each_run_survive(examples):
    num_of_second_run = len({example["instruction"] for example in examples} & set(kinds.load_kinds()))
    assert min(num_of_second_run, len(examples) - num_of_second_run) >= 2000


def test_the_datasheet_shows_the_generators_tables_of_this_build(rebuilt):
    datasheet = (ROOT / "datasheet.md").read_text(encoding="utf-8")
    table = [line for line in rebuilt[1].splitlines() if line[50:].strip().replace(",", "").isdigit()]
    assert len(table) >= 5
    assert [line for line in table if line not in datasheet] == []


def test_each_recording_holds_the_prompt_that_its_seed_tasks_make():
    seed_tasks = load_seed_tasks(str(build.SEED_TASKS_PATH))
    for k, recording in enumerate(build.load_recordings()):
        sampled = sample_seed_tasks(seed_tasks, build.NUM_PROMPT_INSTRUCTIONS, build.SEED, k)
        assert (recording["seed_task_ids"], recording["prompt"]) == (
            [task["id"] for task in sampled],
            encode_prompt(sampled),
        )
        assert recording["prompt"].endswith(f"###\n{build.NUM_PROMPT_INSTRUCTIONS + 1}. Instruction:")


def test_a_hundred_tasks_can_be_replayed_for_the_quick_start(tmp_path, examples):
    result = forks.run(
        "-m", "data.build", "replay", "--output_dir", tmp_path, "--num_instructions_to_generate", 100, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert len(jload(tmp_path / "regen.json")) == 100


def test_a_build_from_changed_seed_tasks_ends_in_one_line_and_leaves_the_old_data(tmp_path):
    for name in ("alpaca", "data"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "prompt.txt", ROOT / "alpaca_data.json"]:
        shutil.copy(path, tmp_path)
    text = (ROOT / "seed_tasks.jsonl").read_text(encoding="utf-8")
    (tmp_path / "seed_tasks.jsonl").write_text(text.replace("the", "a"), encoding="utf-8")
    result = run_script("-m", "data.build", "alpaca_data", cwd=tmp_path)
    assert_fails_in_one_line(result, "generate_instruction.py ended with exit code 1")
    assert (tmp_path / "alpaca_data.json").read_bytes() == (ROOT / "alpaca_data.json").read_bytes()


@pytest.mark.parametrize(
    ("data_path", "message"),
    [
        ("nowhere/x.json", "x.json: there is no folder"),
        ("mine.json", "mine.json: not made by this command, so it stays"),
        ("notes.txt", "notes.txt: not made by this command, so it stays"),
    ],
)
def test_a_path_that_data_cannot_have_is_refused_before_any_work(tmp_path, monkeypatch, data_path, message):
    jdump([good_example()], tmp_path / "mine.json")
    (tmp_path / "notes.txt").write_text("notes")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(build, "replay", lambda folder: pytest.fail("refused only after the work"))
    with pytest.raises(UserError, match=message):
        build.alpaca_data(str(tmp_path / data_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_data_made_before_is_replaced(tmp_path, examples):
    jdump(examples[:100], tmp_path / "data.json")
    assert build.is_from_recordings(str(tmp_path / "data.json"))
    assert build.is_from_recordings(str(build.DATA_PATH))


def test_the_modules_of_the_repository_come_before_installed_ones_of_the_same_names(tmp_path):
    for name in ("alpaca", "benchmarks", "configs", "data", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the installed one')")
    for module in ("data.build", "data.check", "configs.make_tiny_llama"):
        result = run_script("-m", module, "--help", PYTHONPATH=str(tmp_path), PAGER="cat")
        assert result.returncode == 0, result.stderr


def test_each_correction_has_a_reason_and_changes_something():
    corrections = jload(build.CORRECTIONS_PATH)
    for correction in corrections:
        assert list(correction) == ["instruction", "reason", "replacement"]
        assert len(correction["reason"].split()) >= 3
        replacement = correction["replacement"]
        assert replacement is None or (replacement and set(replacement) <= set(FIELDS))


def test_a_correction_replaces_parts_or_removes_the_example():
    tasks = [good_example(), good_example(instruction="Add 1 and 1.", output="3"), good_example(instruction="Sum it.")]
    corrections = [
        {"instruction": "Add 1 and 1.", "reason": "wrong sum", "replacement": {"output": "2"}},
        {"instruction": "Sum it.", "reason": "sum what?", "replacement": None},
    ]
    assert build.apply_corrections(tasks, corrections) == [
        good_example(),
        good_example(instruction="Add 1 and 1.", output="2"),
    ]


@pytest.mark.parametrize(
    ("corrections", "message"),
    [
        ([{"instruction": "Add 2 and 2.", "reason": "", "replacement": None}], "no task has the instruction"),
        ([{"instruction": "Name the capital of France.", "reason": "", "replacement": None}] * 2, "two corrections"),
    ],
)
def test_a_correction_that_does_not_fit_is_refused(corrections, message):
    with pytest.raises(UserError, match=message):
        build.apply_corrections([good_example()], corrections)


# The shipped data -----------------------------------------------------------------------------------------------------
def test_the_report_on_the_shipped_data_has_no_findings(examples):
    result = forks.run("-m", "data.check", "report")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("no findings\n")
    numbers = {line[:40].strip(): line[40:].strip() for line in result.stdout.splitlines()}
    assert numbers["examples"] == f"{len(examples):,}"
    assert int(numbers["answers computed and compared"]) >= 500
    assert int(numbers["outputs whose code was run"]) >= len(EXAMPLES)
    assert int(numbers["seed tasks computed and compared"]) == len(SEED_TASKS)


def test_between_35_and_50_percent_of_the_examples_have_an_input(examples):
    assert 0.35 <= sum(bool(example["input"]) for example in examples) / len(examples) <= 0.5


def test_no_instruction_occurs_twice(examples):
    assert len({example["instruction"].casefold() for example in examples}) == len(examples)


def test_near_copies_of_the_original_examples_are_rare(examples, reference_data):
    reference = [example["instruction"] for example in jload(reference_data / "alpaca_sample.json")]
    scores, _ = overlap.highest_scores([example["instruction"] for example in examples], reference)
    assert (scores > 0.7).mean() < 0.01


def test_near_copies_of_the_reference_seed_tasks_are_rare(examples, reference_data):
    reference = [task["instruction"] for task in load_seed_tasks(str(reference_data / "seed_tasks_reference.jsonl"))]
    scores, _ = overlap.highest_scores([example["instruction"] for example in examples], reference)
    assert (scores > 0.7).mean() < 0.01


# The seed tasks -------------------------------------------------------------------------------------------------------
def test_there_are_175_seed_tasks_with_unique_ids_names_and_instructions(seed_tasks):
    assert len(seed_tasks) == 175
    for key in ("id", "name", "instruction"):
        assert len({task[key] for task in seed_tasks}) == 175
    for task in seed_tasks:
        assert list(task) == ["id", "name", "instruction", "instances", "is_classification"]
        assert len(task["instances"]) == 1


def test_about_a_third_of_the_seed_tasks_are_classification(seed_tasks):
    assert 0.3 <= sum(task["is_classification"] for task in seed_tasks) / len(seed_tasks) <= 0.37


def test_the_seed_tasks_pass_the_checks_on_the_data(seed_tasks):
    tasks = [{"instruction": task["instruction"], **task["instances"][0]} for task in seed_tasks]
    assert check.check_examples(tasks) == []
    assert [finding for finding in check.check_sizes(tasks) if "share with an input" not in finding] == []


def test_no_seed_task_is_a_near_copy_of_a_reference_seed_task(seed_tasks, reference_data):
    reference = [task["instruction"] for task in load_seed_tasks(str(reference_data / "seed_tasks_reference.jsonl"))]
    assert max(overlap.highest_scores([task["instruction"] for task in seed_tasks], reference)[0]) <= 0.7


def test_no_output_of_the_reference_seed_tasks_occurs_in_ours(seed_tasks, reference_data):
    theirs = load_seed_tasks(str(reference_data / "seed_tasks_reference.jsonl"))
    long_outputs = {task["output"] for task in theirs if len(task["output"].split()) > 5}
    assert not long_outputs & {task["instances"][0]["output"] for task in seed_tasks}


# The checks themselves ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"output": ""}, "form: an empty output"),
        ({"output": "Paris "}, "form: white space around the output"),
        ({"input": None}, "form: it is not exactly"),
        ({"source": "web"}, "form: it is not exactly"),
        ({"output": "Par\u200bis"}, "characters: the character U+200B"),
        ({"output": "Par\x07is"}, "characters: the character U+0007"),
        ({"output": "Par\u00adis"}, "characters: the character U+00AD"),
        ({"output": "Cafe\u0301"}, "characters: a letter and its accent apart"),
        ({"output": "Paris \nis it."}, "characters: a stray space"),
        ({"output": "Paris\n###"}, "markers: the marker '###'"),
        ({"input": "<noinput>"}, "markers: the marker '<noinput>'"),
        ({"input": "NoInput"}, "markers: the marker 'NoInput'"),
        ({"output": "Paris\n18. Instruction: Name it."}, "markers: the marker"),
        ({"instruction": "Draw the city of Paris."}, "can be read back"),
        ({"instruction": "Name Paris."}, "can be read back"),
        ({"output": "See https://example.com."}, "things not there: 'https://'"),
        ({"instruction": "Summarise the attached document for me."}, "things not there: 'attached document'"),
        (
            {"instruction": "Summarise the following text for me."},
            "things not there: 'the following text', but no input",
        ),
        ({"output": "N/A"}, "placeholders: the output 'N/A'"),
        ({"output": "..."}, "placeholders: the output '...'"),
        ({"output": "Dear [Your Name], welcome."}, "placeholders: '[Your Name]'"),
        ({"input": "None"}, "placeholders: the input 'None'"),
        ({"output": "As an AI language model, I know Paris."}, "refusals: 'As an AI"),
        ({"output": "```python\nprint(\n```"}, "code blocks: python that cannot be read"),
        ({"output": "```json\n{'a': 1}\n```"}, "code blocks: json that cannot be read"),
        ({"output": "3 × 1.50 + 2 = 6.60 euros"}, "arithmetic: 3 × 1.50 + 2 is 6.5, not 6.60"),
        ({"output": "So 2,000 / 3 ≈ 666.6."}, "arithmetic: 2,000 / 3 is 666.667, not 666.6"),
        ({"output": "1 / 8 = 14%"}, "arithmetic: 1 / 8 is 12.5, not 14%"),
        ({"output": "```\nParis"}, "code blocks: a code fence that is not closed"),
    ],
)
def test_each_flaw_is_found(changes, finding):
    findings = check.check_examples([good_example(**changes)])
    assert any(text.startswith(f"example 0: {finding}") for text in findings), findings


def test_a_good_example_has_no_findings_of_its_own():
    good = [good_example(output="```python\nprint(1)\n```\nBonjour, café №1.\n\n1. Paris"), good_example(input="x")]
    assert check.check_examples(good[:1]) == []


def test_lengths_and_the_share_with_an_input_are_those_that_the_shipped_data_was_to_have():
    assert check.check_sizes([good_example(output="Paris " * 111 + ".")]) == [
        "example 0: length: 112 words in the output",
        "share with an input: 0.0%, not 35% to 50%",
    ]


def test_a_file_of_ones_own_may_have_other_lengths_and_shares_than_the_shipped_one(tmp_path):
    jdump([good_example(output="Paris. " * 200 + "Paris.")], tmp_path / "data.json")
    result = forks.run("-m", "data.check", "report", "--data_path", tmp_path / "data.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("no findings\n")


def test_the_table_is_left_out_where_the_form_is_wrong_and_for_no_other_finding(tmp_path):
    for example, has_table in (
        (good_example(output="For more information see https://example.com."), True),
        (good_example(output=" information"), False),
    ):
        jdump([example], tmp_path / "data.json")
        flags = ("--data_path", tmp_path / "data.json", "--reference_path", ROOT / "alpaca_data.json")
        result = forks.run("-m", "data.check", "report", *flags)
        assert_fails_in_one_line(result, "data.json: 1 finding, listed above")
        assert ("different first words" in result.stdout) is has_table


@pytest.mark.parametrize(
    "output",
    [
        "2 + 3 × 4 = 14",
        "x = 7 - 9 = -2",
        "1/3 ≈ 0.333",
        "(1 + 2) × 3 + 1 = 10",
        "19 ÷ 24 = 0, remainder 19",
        "10 / 3 = 3.33...",
    ],
)
def test_right_equations_and_those_in_longer_expressions_are_let_through(output):
    assert check.arithmetic(good_example(output=output)) is None


def test_a_repeated_instruction_is_found_in_any_spelling():
    examples = [good_example(), good_example(instruction="name the capital of France!")]
    assert "example 1: uniqueness: its instruction is that of example 0" in check.check_examples(examples)


def test_a_near_copy_of_a_reference_file_is_a_finding(tmp_path):
    data, reference = tmp_path / "data.json", tmp_path / "reference.json"
    jdump([good_example()], data)
    jdump([good_example(instruction="Name the old capital of France.")], reference)
    result = forks.run("-m", "data.check", "report", "--data_path", data, "--reference_path", reference)
    assert_fails_in_one_line(result, "data.json", "finding")
    assert "near copies: 100.00% of the examples" in result.stdout


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", "[", ""])
def test_a_file_without_data_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    assert_fails_in_one_line(
        forks.run("-m", "data.check", "report", "--data_path", tmp_path / "data.json"), "data.json"
    )


@given(st.text(max_size=30))
def test_any_text_can_be_checked(text):
    findings = check.check_examples([good_example(output=text)])
    assert all(isinstance(finding, str) for finding in findings)


# The verifications ----------------------------------------------------------------------------------------------------
def test_a_wrong_answer_fails_its_verification():
    wrong = [good_example(instruction="Add 1 and 1.", output="3")]
    messages, _ = verify.unverified(wrong, {"Add 1 and 1.": "expected = [str(1 + 1)]"})
    assert messages == ["the output lacks '2': Add 1 and 1."]


def test_a_verification_without_its_example_is_reported():
    messages, _ = verify.unverified([], {"Add 1 and 1.": "expected = ['2']"})
    assert messages == ["a verification of no example: Add 1 and 1."]


def test_a_verification_that_fails_is_reported():
    examples = [good_example(instruction=name) for name in ("Add.", "Sum.", "Set.")]
    codes = {"Add.": "raise ValueError('no')", "Sum.": "expected = ['Paris']", "Set.": "pass"}
    assert verify.unverified(examples, codes)[0] == [
        "its verification fails (ValueError: no): Add.",
        "its verification fails (KeyError: 'expected'): Set.",
    ]


def test_code_that_does_not_do_what_was_asked_is_reported():
    verifications = {"Double it.": lambda t: python(t.output)["double"](4) == 8}
    wrong = [good_example(instruction="Double it.", output="def double(n):\n    return n * n")]
    assert verify.unverified(wrong, verifications) == (["the output lacks False: Double it."], set())
    assert verify.unverified([], verifications)[0] == ["a verification of no example: Double it."]


def test_a_verification_whose_program_is_not_installed_is_left_out():
    def needs_a_program(t):
        raise ToolMissing("node")

    examples = [good_example()]
    assert verify.unverified(examples, {examples[0]["instruction"]: needs_a_program}) == ([], {"node"})


def test_every_verification_computes_something():
    for instruction, code in verify.load_verifications().items():
        nodes = {type(node) for node in ast.walk(ast.parse(code))}
        assert nodes & {ast.Call, ast.BinOp, ast.Compare}, instruction


@pytest.mark.parametrize(
    ("expected", "output", "occurs"),
    [
        ("12", "It is 12.", True),
        ("12", "In 2012.", False),
        ("12", "It is 12.5.", False),
        ("= 3", "x = 3", True),
        (0.125, "about 0.13", True),
        (0.125, "about 0.12", True),
        (0.125, "about 0.14", False),
        (110.25, "exactly 110", False),
        (1200, "1,200 g", True),
        (True, "", True),
        (False, "", False),
    ],
)
def test_texts_and_numbers_are_looked_up_as_wholes(expected, output, occurs):
    assert (verify.missing([expected], output) == []) is occurs
