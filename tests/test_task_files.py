"""The files of a run: nothing lost, nothing doubled, nothing damaged made worse."""

import json
import os
import resource

import pytest

from alpaca.generation import task_files
from alpaca.generation.task_files import TaskFiles
from tests.helpers.commands import run_script
from tests.helpers.generation_data import make_tasks
from utils import UserError

TASKS = make_tasks(300)
ENTRY = {"time": "2026", "prompt_indices": [0]}  # of the log


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def written(folder) -> list[dict]:
    return json.loads((folder / "regen.json").read_text(encoding="utf-8"))


def abandon(files: TaskFiles) -> None:
    """End as a kill ends: nothing is written any more, and the system closes the files."""
    files._journal.close()
    files._log.close()


def test_after_an_orderly_end_regen_json_alone_holds_all_tasks(folder):
    files = TaskFiles(folder)
    files.append([TASKS[:3]], ENTRY)
    files.append([[]], ENTRY)
    files.append([TASKS[3:5]], ENTRY)
    files.close()
    assert written(folder) == TASKS[:5]
    assert sorted(os.listdir(folder)) == ["generation_log.jsonl", "regen.json"]


def test_the_file_is_written_as_the_original_wrote_it(folder):
    tasks = [{**TASKS[0], "output": "naïve \ud83d", "most_similar_instructions": {"a": 0.1}}, TASKS[1]]
    for task in tasks:  # in two runs
        files = TaskFiles(folder)
        files.append([[task]], ENTRY)
        files.close()
    assert (folder / "regen.json").read_text(encoding="utf-8") == json.dumps(tasks, indent=4)


@pytest.mark.parametrize("text", ["[]", " [ ]\n", '[{"instruction":"a","input":"b","output":"ü"}]', None])
def test_a_regen_json_of_another_layout_is_continued_as_it_is(folder, text):
    folder.mkdir()
    if text is not None:
        (folder / "regen.json").write_text(text, encoding="utf-8")
    files = TaskFiles(folder)
    files.append([TASKS[:2]], ENTRY)
    files.close()
    assert written(folder) == json.loads(text or "[]") + TASKS[:2]


def test_a_folder_without_new_tasks_is_left_as_it_was(folder):
    folder.mkdir()
    (folder / "regen.json").write_text(json.dumps(TASKS[:2]), encoding="utf-8")
    TaskFiles(folder).close()
    assert (folder / "regen.json").read_text(encoding="utf-8") == json.dumps(TASKS[:2])


def test_tasks_that_are_only_in_the_journal_survive_a_kill(folder):
    files = TaskFiles(folder)
    files.append([TASKS[:3]], ENTRY)
    abandon(files)
    assert not (folder / "regen.json").exists()
    files = TaskFiles(folder)
    assert files.instructions == [task["instruction"] for task in TASKS[:3]]
    files.append([TASKS[3:4]], ENTRY)
    files.close()
    assert written(folder) == TASKS[:4]


def test_a_kill_at_any_byte_of_the_journal_loses_only_the_task_being_written(folder):
    files = TaskFiles(folder)
    files.append([TASKS[:2]], ENTRY)
    abandon(files)
    whole = (folder / "regen_journal.jsonl").read_bytes()
    first_line = whole.index(b"\n") + 1
    for size in [0, 1, first_line - 1, first_line, first_line + 1, len(whole) - 1, len(whole)]:
        (folder / "regen.json").unlink(missing_ok=True)
        (folder / "regen_journal.jsonl").write_bytes(whole[:size])
        files = TaskFiles(folder)
        num_whole = whole[:size].count(b"\n")
        assert len(files.instructions) == num_whole
        files.append([TASKS[num_whole:2]], ENTRY)
        files.close()
        assert written(folder) == TASKS[:2]


def test_a_kill_between_the_new_regen_json_and_the_emptied_journal_doubles_nothing(folder):
    files = TaskFiles(folder)
    files.append([TASKS[:3]], ENTRY)
    abandon(files)
    content = (folder / "regen_journal.jsonl").read_bytes()
    TaskFiles(folder).close()
    (folder / "regen_journal.jsonl").write_bytes(content)
    (folder / "regen.json.123.tmp").write_text("[half", encoding="utf-8")
    TaskFiles(folder).close()
    assert written(folder) == TASKS[:3]
    assert sorted(os.listdir(folder)) == ["generation_log.jsonl", "regen.json"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("regen.json", b'[{"instruction": "a", "input"', r"regen\.json, line 1, column 30: not JSON"),
        ("regen.json", b'[\n{"instruction": "a", "input": "", "output": ""},\n{"instruction": 1}]', "entry 1"),
        ("regen.json", b"{}", "not a list"),
        ("regen.json", b"[\n\xff]", "byte 2: not UTF-8"),
        ("regen_journal.jsonl", b'{"position": 0\n', "line 1, column 15: not JSON"),
        ("regen_journal.jsonl", b"[]\n", "line 1: not a JSON object"),
        ("regen_journal.jsonl", b'{"position": 0, "task": {}}\n', "line 1: no position and task"),
        ("generation_log.jsonl", b'{"prompt_indices": [1]}\nnot a line\n', "line 2, column 1: not JSON"),
        ("generation_log.jsonl", b'{"time": 1}\n', "line 1: no prompt_indices"),
    ],
)
def test_a_damaged_file_is_reported_with_its_place_and_left_untouched(folder, name, content, place):
    folder.mkdir()
    (folder / name).write_bytes(content)
    for _ in range(2):
        with pytest.raises(UserError, match=place):
            TaskFiles(folder)
        assert (folder / name).read_bytes() == content


@pytest.mark.parametrize("name", ["generation_log.jsonl", "regen_journal.jsonl", "regen.json"])
def test_a_file_of_somebody_else_that_has_a_runs_name_is_refused_untouched(folder, name):
    folder.mkdir()
    (folder / name).write_bytes(b"my notes")
    with pytest.raises(UserError, match=r"holds something else|not JSON"):
        TaskFiles(folder)
    assert (folder / name).read_bytes() == b"my notes"


def test_only_temporary_files_of_a_run_are_removed(folder):
    folder.mkdir()
    (folder / "regen.json.old.tmp").write_bytes(b"my notes")
    (folder / "regen.json.123.tmp").write_bytes(b"[half")
    TaskFiles(folder).close()
    assert sorted(os.listdir(folder)) == ["generation_log.jsonl", "regen.json.old.tmp"]


def test_a_line_that_a_kill_cut_off_at_once_is_no_obstacle(folder):
    folder.mkdir()
    (folder / "regen_journal.jsonl").write_bytes(b'{"position": 0, "ta')
    (folder / "generation_log.jsonl").write_bytes(b'{"ti')
    files = TaskFiles(folder)
    files.append([TASKS[:1]], ENTRY)
    files.close()
    assert written(folder) == TASKS[:1]


def test_a_folder_is_free_again_once_a_damaged_file_in_it_is_mended(folder):
    folder.mkdir()
    (folder / "regen.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="not a list") as error:
        TaskFiles(folder)
    (folder / "regen.json").unlink()
    TaskFiles(folder).close()
    assert error  # whose traceback keeps alive what was opened


def test_a_journal_that_belongs_to_another_regen_json_is_reported(folder):
    files = TaskFiles(folder)
    files.append([TASKS[:2]], ENTRY)
    files.close()
    files = TaskFiles(folder)
    files.append([TASKS[2:4]], ENTRY)
    abandon(files)
    for other in (TASKS[:1], TASKS[5:9]):  # shorter; with other tasks in their place
        (folder / "regen.json").write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(UserError, match=r"regen_journal\.jsonl, line 1: this task, number 3, does not fit"):
            TaskFiles(folder)
    (folder / "regen.json").write_text(json.dumps(TASKS[:2]), encoding="utf-8")
    TaskFiles(folder).close()
    assert written(folder) == TASKS[:4]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(folder):
    files = TaskFiles(folder)
    with pytest.raises(UserError, match="another run is at work here"):
        TaskFiles(folder)
    files.append([TASKS[:1]], ENTRY)
    files.close()
    TaskFiles(folder).close()
    assert written(folder) == TASKS[:1]


def test_the_count_of_prompts_goes_on_where_the_log_ends(folder):
    files = TaskFiles(folder)
    assert files.next_prompt_index == 0
    files.append([TASKS[:1], []], {**ENTRY, "prompt_indices": [5, 6]})
    files.append([[], []], {**ENTRY, "prompt_indices": [3, 4]})
    files._log._file.write(b'{"prompt_indices": [7')  # the kill comes here
    abandon(files)
    files = TaskFiles(folder)
    assert files.next_prompt_index == 7
    files.append([[]], {**ENTRY, "prompt_indices": [7]})
    files.close()
    lines = (folder / "generation_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt_indices"] for line in lines] == [[5, 6], [3, 4], [7]]


def test_regen_json_is_rewritten_a_constant_number_of_times_over(folder, monkeypatch):
    monkeypatch.setattr(task_files, "MIN_TASKS_TO_FOLD", 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    num_bytes = []
    monkeypatch.setattr(task_files, "atomic_write", counting(task_files.atomic_write, num_bytes))
    files = TaskFiles(folder)
    for _ in range(10):
        for task in TASKS:
            files.append([[task]], ENTRY)
    assert (folder / "regen_journal.jsonl").read_bytes().count(b"\n") < len(written(folder)) / 2
    files.close()
    final = (folder / "regen.json").stat().st_size
    assert len(written(folder)) == 3000
    assert len(num_bytes) > 10
    assert sum(num_bytes) < 7 * final


def counting(atomic_write, num_bytes):
    """atomic_write, noting the size of each file."""

    def write(path, **options):
        with atomic_write(path, **options) as f:
            yield f
            num_bytes.append(f.tell())

    return task_files.contextlib.contextmanager(write)


@pytest.fixture
def limit_file_size():
    """limit_file_size(n) lets files grow to n bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_one_line_and_loses_no_task_that_counted(folder, limit_file_size):
    files = TaskFiles(folder)
    files.append([TASKS[:5]], ENTRY)
    limit_file_size((folder / "regen_journal.jsonl").stat().st_size + 300)
    with pytest.raises(UserError, match=r"regen_journal\.jsonl: File too large\. Everything before is safe"):
        files.append([TASKS[5:10]], ENTRY)
    assert len(files.instructions) == 5
    limit_file_size(300)
    with pytest.raises(UserError, match=r"regen\.json: File too large\. No task is lost"):
        files.close()
    assert sorted(os.listdir(folder)) == ["generation_log.jsonl", "regen_journal.jsonl"]
    limit_file_size(10**8)
    files = TaskFiles(folder)
    files.append([TASKS[5:10]], ENTRY)
    files.close()
    assert written(folder) == TASKS[:10]


def test_a_full_disk_while_regen_json_is_rewritten_keeps_old_file_and_journal(folder, limit_file_size, monkeypatch):
    files = TaskFiles(folder)
    files.append([TASKS[:5]], ENTRY)
    files.close()
    monkeypatch.setattr(task_files, "MIN_TASKS_TO_FOLD", 1)
    files = TaskFiles(folder)
    limit_file_size((folder / "regen.json").stat().st_size + 100)
    with pytest.raises(UserError, match="No task is lost"):
        files.append([TASKS[5:7]], ENTRY)
    assert written(folder) == TASKS[:5]
    limit_file_size(10**8)
    files.close()
    assert written(folder) == TASKS[:7]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"file: File exists|file: Not a directory"):
        TaskFiles(tmp_path / "file")


@pytest.mark.parametrize("layout", [{"indent": 4}, {}, {"ensure_ascii": False, "separators": (",", ":")}])
@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_a_file_is_read_piece_by_piece_as_a_whole(layout, size, folder, monkeypatch):
    folder.mkdir()
    tasks = [{**task, "output": "naïve 👍 ]},[{"} for task in TASKS[:6]]
    path = folder / "regen.json"
    path.write_text(json.dumps(tasks, **layout) + " \n", encoding="utf-8")
    monkeypatch.setattr(task_files, "READ_AT_ONCE", size)
    assert [task for _, task in task_files.read_regen(path)] == tasks
    files = TaskFiles(folder)
    files.append([TASKS[6:8]], ENTRY)
    files.close()
    assert written(folder) == tasks + TASKS[6:8]


@pytest.mark.slow  # writes 160 MB
def test_a_hundred_thousand_tasks_take_the_memory_of_their_instructions(folder):
    folder.mkdir()
    task = {"input": "", "output": "word " * 300}
    with open(folder / "regen.json", "w", encoding="utf-8") as f:
        for i in range(100_000):
            f.write(task_files.regen_text(i, {"instruction": f"Do the thing number {i}.", **task}))
        f.write("\n]")
    code = "import sys; from alpaca.generation.task_files import TaskFiles; files = TaskFiles(sys.argv[1]); "
    code += "new = {'instruction': 'New.', 'input': '', 'output': 'x'}; "
    code += "files.append([[new]], {'time': '2026', 'prompt_indices': [0]}); files.close(); "
    # Not ru_maxrss, which begins with that of the process that started this one.
    code += "print(len(files.instructions), open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    result = run_script("-c", code, folder, timeout=600)
    num_tasks, peak_kb = map(int, result.stdout.split())
    assert num_tasks == 100_001
    assert peak_kb < 80_000
