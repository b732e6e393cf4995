"""The append-only file: it continues its own kind of file, and leaves every other one as it is."""

import json
import os

import pytest

from alpaca.row_files import AppendOnlyFile, read_settings_and_rows
from tests.helpers.commands import assert_fails_in_one_line, run_script
from utils import UserError

SETTINGS = {"kind": "judge", "prompt": "ü"}
FIRST_LINE = json.dumps({"settings": SETTINGS}) + "\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def test_rows_are_read_back_whatever_they_hold(path):
    rows = [{"reply": "naïve \ud83d\u2028"}, {"reply": "line\nline"}, {"n": 3}]
    with AppendOnlyFile(path, SETTINGS) as file:
        file.append(rows[0])
        file.append(*rows[1:])
    assert read_settings_and_rows(path) == (SETTINGS, rows)
    with AppendOnlyFile(path, SETTINGS) as file:
        assert file.rows == rows


@pytest.mark.parametrize("size", [*range(len(FIRST_LINE) + 1), len(FIRST_LINE) + 3])
def test_a_kill_at_any_byte_of_the_first_lines_is_no_obstacle(path, size):
    path.write_text((FIRST_LINE + '{"n": 1}\n')[:size])
    with AppendOnlyFile(path, SETTINGS) as file:
        file.append({"n": 2})
    assert read_settings_and_rows(path) == (SETTINGS, [{"n": 2}])


@pytest.mark.parametrize(
    "content",
    [
        "my notes, without an end of line",
        "my notes\n",
        "\n",
        '{"settings": {"theme": "dark"}}',
        '{"settings": {"theme": "dark"}}\n',
        '{"settings": {}}\n{"n": 1}\n',
        '{"settings": 1}\n',
        '{"n": 1}\n',
        '[1]\n{"n',
        "\0\xff",
    ],
)
def test_a_file_of_another_kind_is_refused_untouched(path, content):
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        AppendOnlyFile(path, SETTINGS)
    assert path.read_bytes() == content.encode("latin-1")


def test_judge_and_human_leave_a_users_notes_alone(path, tmp_path):
    path.write_text("my notes, without an end of line")
    predictions = tmp_path / "a.json"
    predictions.write_text('[{"instruction": "Sing.", "output": "La."}]')
    flags = ("--predictions_1", predictions, "--predictions_2", predictions, "--output_path", path)
    for command in (("judge", "--model_name", "m"), ("human",)):
        result = run_script("compare.py", *command, *flags, OPENAI_BASE_URL="http://127.0.0.1:9/v1")
        assert_fails_in_one_line(result, "rows.jsonl: holds something else")
        assert path.read_text() == "my notes, without an end of line"


def test_a_file_that_was_refused_is_not_kept_open_or_locked(path):
    AppendOnlyFile(path, SETTINGS).close()
    with AppendOnlyFile(path, SETTINGS) as file:
        file.append({"n": 1})
    with pytest.raises(UserError, match="made with another prompt") as error:
        AppendOnlyFile(path, {**SETTINGS, "prompt": "other"})
    AppendOnlyFile(path, SETTINGS).close()
    assert error  # whose traceback keeps alive what was opened


def test_a_second_run_is_refused_while_the_first_lives(path):
    with AppendOnlyFile(path, SETTINGS), pytest.raises(UserError, match="another run is at work here"):
        AppendOnlyFile(path, SETTINGS)
    AppendOnlyFile(path, SETTINGS).close()


@pytest.mark.parametrize(
    ("name", "message"), [("missing/rows.jsonl", "no folder"), (".", "a folder"), ("/dev/null", "not a regular")]
)
def test_a_path_where_no_file_can_be_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        AppendOnlyFile(tmp_path / name, SETTINGS)
    assert os.listdir(tmp_path) == []
