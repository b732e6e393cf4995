"""Receipts: the log tells where each task comes from, and any changed byte is found."""

import json
import random
import shutil

import pytest

from alpaca.generation.task_files import TaskFiles
from data.openai_server import answers_with
from generate_instruction import read_batch, trace, write_batch
from tests.helpers.generation_data import make_tasks, play_engine, read_lines, write_inputs, write_lines
from utils import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run with 5 older tasks and 30 new ones, five from each of six answers."""
    folder = tmp_path_factory.mktemp("finished")
    write_inputs(folder)
    flags = {
        name: str(folder / file)
        for name, file in [("seed_tasks_path", "seed_tasks.jsonl"), ("prompt_path", "prompt.txt")]
    }
    write_batch(str(folder / "batch.jsonl"), 6, seed=7, model_name="teacher-1", **flags)
    answers = play_engine(read_lines(folder / "batch.jsonl"), answers_with(make_tasks(30), 5))
    (folder / "out").mkdir()
    (folder / "out" / "regen.json").write_text(json.dumps(make_tasks(5, seed=8), indent=4))
    read_batch([write_lines(folder / "results.jsonl", answers)], str(folder / "out"), **flags)
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def test_a_task_is_traced_to_its_request_and_its_neighbours(finished, capsys):
    trace(str(finished), task=17)
    text = capsys.readouterr().out
    line = read_lines(finished / "generation_log.jsonl")[2]  # tasks 15 to 19
    tasks = json.loads((finished / "regen.json").read_text())
    for words in (
        f"17: {tasks[17]['instruction']}",
        "generation_log.jsonl, line 3",
        "2 of seed 7",
        ", ".join(line["seed_task_ids"][0]),
        "teacher-1 (chat)",
        line["completions_sha256"][0],
        "fits",
        "5 of 5 tasks of the request were kept",
    ):
        assert words in text
    for neighbour, score in tasks[17]["most_similar_instructions"].items():
        assert f"{score:.3f}, " in text
        assert neighbour in text


@pytest.mark.parametrize(("number", "words"), [(3, "older than the log"), (35, "has 35 tasks"), (-1, "no number -1")])
def test_a_task_that_cannot_be_traced_is_said(number, words, finished):
    with pytest.raises(UserError, match=words):
        trace(str(finished), task=number)


def test_the_records_of_an_untouched_folder_fit(finished, capsys):
    trace(str(finished), check=True)
    assert "35 tasks (5 are older than the log), and every record fits" in capsys.readouterr().out


def test_any_changed_byte_of_a_task_or_of_the_log_is_found(out):
    rng = random.Random(0)
    regen, log = out / "regen.json", out / "generation_log.jsonl"
    tasks = json.loads(regen.read_text())
    first_new = regen.read_text().index(tasks[5]["instruction"])
    for path, start in [(regen, first_new), (log, 0)] * 100:
        content = path.read_bytes()
        place = rng.randrange(start, len(content))
        changed = content[:place] + bytes([content[place] ^ (1 << rng.randrange(7))]) + content[place + 1 :]
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"^task \d+: "):
            trace(str(out), check=True)
        path.write_bytes(content)
    trace(str(out), check=True)


@pytest.mark.parametrize("number", [5, 17, 34])
def test_the_first_task_whose_record_does_not_fit_is_named(number, out):
    regen = out / "regen.json"
    output = json.loads(regen.read_text())[number]["output"]
    head, tail = regen.read_text().rsplit(f'"output": "{output}"', 1)
    regen.write_text(f'{head}"output": "{output.replace("Answer", "answer")}"{tail}')
    with pytest.raises(UserError, match=f"^task {number}: it is not as the run wrote it"):
        trace(str(out), check=True)


def test_a_missing_line_or_task_is_named(out):
    log, regen = out / "generation_log.jsonl", out / "regen.json"
    lines, tasks = log.read_bytes().splitlines(True), json.loads(regen.read_text())
    for content, number in [(lines[:2] + lines[3:], 15), (lines[:-1], 30)]:
        log.write_bytes(b"".join(content))
        with pytest.raises(UserError, match=f"^task {number}: "):
            trace(str(out), check=True)
    log.write_bytes(b"".join(lines))
    regen.write_text(json.dumps(tasks[:20], indent=4))
    with pytest.raises(UserError, match=r"^task 20: .* does not hold it"):
        trace(str(out), check=True)


def test_a_kill_between_task_and_record_costs_neither(tmp_path):
    """The journal is on the disk, and the line of the log is not."""
    tasks, entry = make_tasks(4), {"time": "2026", "prompt_indices": [3], "custom_id": "7-3"}
    files = TaskFiles(tmp_path)
    files._write_log = lambda: None
    files.append([tasks[:2], tasks[2:]], entry)
    files._journal.close()
    files._log.close()
    whole = (tmp_path / "regen_journal.jsonl").read_bytes()
    for num_lines, custom_ids in [(4, {"7-3"}), (3, set())]:  # the kill may also cut off the journal
        (tmp_path / "regen.json").unlink(missing_ok=True)
        (tmp_path / "generation_log.jsonl").unlink()
        (tmp_path / "regen_journal.jsonl").write_bytes(b"".join(whole.splitlines(True)[:num_lines]))
        files = TaskFiles(tmp_path)
        assert (files.custom_ids, files.next_prompt_index) == (custom_ids, 4)
        files.close()
        trace(str(tmp_path), check=True)
        assert read_lines(tmp_path / "generation_log.jsonl")[0]["kept"] == num_lines
