"""utils.py: JSON in and out, the Alpaca prompt, the command line."""

import os
import subprocess
import sys

import pytest

import utils
from tests.helpers.commands import ROOT, assert_fails_in_one_line

SCRIPT = '''"""Copy a file.

python script.py copy --path a.txt --times 2
"""

from utils import UserError, run_commands

def copy(path: str, times: int = 1, rate: float = 1.0, loud: bool = False, limit: int | None = None):
    """Copy it.

    Args:
        path: the file,
            which stays.
        times: how often.
    """
    print("ran", repr((path, times, rate, loud, limit)))

def fail():
    raise UserError("no such thing. Bring one.")

def look(path: str):
    open(path)

def stop(noisy: bool = True, number: int | None = None):
    print("ran", (noisy, number))
    raise KeyboardInterrupt

run_commands({"copy": copy, "fail": fail, "stop": stop, "look": look})
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda *arguments: subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--path", "2024"], ("2024", 1, 1.0, False, None)),
        (["--path=a b", "--rate", "1e-5", "--loud"], ("a b", 1, 1e-5, True, None)),
        (["x", "3", "--limit", "4", "--loud", "true"], ("x", 3, 1.0, True, 4)),
        (["-p", "x", "--times", "-1", "--limit", "None"], ("x", -1, 1.0, False, None)),
        (["2", "-p=None", "--noloud"], ("None", 2, 1.0, False, None)),
    ],
)
def test_values_are_read_as_the_signature_says(script, arguments, expected):
    assert script("copy", *arguments).stdout.strip() == f"ran {expected!r}"


def test_a_flag_that_begins_with_no_is_not_taken_for_another_ones_negation(script):
    assert script("stop", "--noisy").stdout.strip() == "ran (True, None)"
    assert script("stop", "--nonoisy").stdout.strip() == "ran (False, None)"


def test_a_reader_of_the_output_that_leaves_is_no_error(script, tmp_path):
    command = f"{sys.executable} {tmp_path / 'script.py'} copy x | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert result.stderr == ""


def test_an_interrupted_command_ends_in_one_line(script):
    result = script("stop")
    assert (result.returncode, result.stderr) == (130, "script.py: interrupted.\n")


COPY_HELP = """python script.py copy --path a.txt --times 2

Copy it.

Needed:
  --path
      the file, which stays.

Flags, with their defaults:
  --times
      how often. (1)
"""


@pytest.mark.parametrize("arguments", [["copy", "--help"], ["copy", "--path", "x", "-h"], ["copy", "--", "--help"]])
def test_help_shows_an_example_then_the_flags_and_runs_nothing(script, arguments):
    result = script(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(COPY_HELP)
    assert result.stdout.endswith("  --limit\n\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_help_shows_the_examples_and_the_commands(script, arguments):
    result = script(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Copy a file.\n\npython script.py copy --path a.txt --times 2\n")
    assert "\n  copy         Copy it.\n  fail" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["cpy", "--path", "x"], ["no command 'cpy'", "Did you mean copy?"]),
        (["--path", "x"], ["no command '--path'"]),
        (["copy", "--pth", "x"], ["no flag --pth", "Did you mean --path?"]),
        (["copy", "x", "--path", "y", "--pth"], ["no flag --pth"]),
        (["copy", "x", "-q", "3"], ["no flag --q"]),
        (["copy"], ["needs --path"]),
        (["copy", "x", "1", "1", "True", "1", "y"], ["cannot place 'y'"]),
        (["copy", "x", "--times", "2.5"], ["--times takes int, not '2.5'"]),
        (["copy", "x", "--times", "1e5"], ["--times takes int, not '1e5'"]),
        (["copy", "x", "--limit", "all"], ["--limit takes int or None, not 'all'"]),
        (["copy", "x", "--loud", "maybe"], ["--loud takes bool, not 'maybe'"]),
        (["fail"], ["no such thing. Bring one."]),
    ],
)
def test_a_mistyped_command_line_fails_before_any_work(script, arguments, parts):
    result = script(*arguments)
    assert_fails_in_one_line(result, *parts)
    assert "ran" not in result.stdout


def test_json_that_was_written_is_read_back_as_it_was(tmp_path):
    obj = [{"instruction": "Übersetze {x}.", "input": "", "output": "\u2028"}]
    utils.jdump(obj, tmp_path / "a.json")
    assert utils.jload(tmp_path / "a.json") == obj
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    utils.jdump([1], tmp_path / "a.json")
    with pytest.raises(TypeError):
        utils.jdump([object()], tmp_path / "a.json")
    assert utils.jload(tmp_path / "a.json") == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[1,\n 2,, 3]", "line 2, column 4: not JSON"), (b"\xff\xfe", "byte 0: not UTF-8")],
)
def test_a_damaged_file_is_reported_with_its_position(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(utils.UserError, match=message):
        utils.jload(tmp_path / "a.json")


def test_the_prompt_has_the_released_form_with_and_without_input():
    assert utils.format_prompt("Add {a}.", "1") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd {a}.\n\n### Input:\n1\n\n### Response:"
    )
    assert utils.format_prompt("Add {a}.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd {a}.\n\n### Response:"
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--paths", "a", "b", "--prices", "0.15", "1", "--n", "2"], (["a", "b"], [0.15, 1.0], 2)),
        (["--paths=a", "b"], (["a", "b"], None, 1)),
        (["a", "--prices", "None"], (["a"], None, 1)),
    ],
)
def test_a_flag_can_take_several_values(argv, expected):
    def command(paths: list[str], prices: list[float] | None = None, n: int = 1):
        given.append((paths, prices, n))

    given = []
    utils.run_commands({"command": command}, ["command", *argv])
    assert given == [expected]


def test_what_the_system_refuses_anywhere_is_one_line(script, tmp_path):
    result = script("look", str(tmp_path))
    assert_fails_in_one_line(result, f"script.py: {tmp_path}: Is a directory")


def test_what_could_be_read_for_ever_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("/dev/zero", tmp_path, tmp_path / "link"):
        with pytest.raises(utils.UserError, match=r"not a regular file|a folder"):
            utils.read_text(path)
    assert utils.check_regular(tmp_path / "missing") is None
