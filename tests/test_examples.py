"""Files as other tools, systems and languages write them: read as what they mean, or refused in one line."""

import codecs
import json

import pyarrow
import pyarrow.parquet
import pytest

from alpaca.evaluation.predictions import load_tasks
from alpaca.examples import load_examples
from alpaca.generation.task_files import TaskFiles
from alpaca.row_files import read_settings_and_rows
from tests.helpers import training
from utils import UserError, jdump, read_text

EXAMPLES = [
    {"instruction": "Name three colours.", "input": "", "output": "Red, green, blue."},
    {"instruction": "Übersetze.", "input": "summer", "output": "été"},
]
LIST, LINES = json.dumps(EXAMPLES, ensure_ascii=False), "\n".join(map(json.dumps, EXAMPLES)) + "\n"
PRETTY = "\n".join(json.dumps(example, indent=2) for example in EXAMPLES)


@pytest.fixture
def read(tmp_path):
    def read(content: bytes | str) -> list[dict]:
        (tmp_path / "data.json").write_bytes(content.encode() if isinstance(content, str) else content)
        return load_examples(tmp_path / "data.json")

    return read


def test_json_lines_parquet_and_a_list_hold_the_same_examples(tmp_path):
    rows = [{**e, "most_similar_instructions": {"a": 0.5}, "avg_similarity_score": 0.1} for e in training.EXAMPLES]
    jdump(rows, tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.json", "a.jsonl", "a.parquet"):
        assert load_examples(str(tmp_path / name)) == training.EXAMPLES


def test_a_missing_input_is_an_empty_one(tmp_path):
    jdump([{"instruction": "Say hi.", "output": "Hi."}], tmp_path / "a.json")
    assert load_examples(str(tmp_path / "a.json"))[0]["input"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"instruction": "a", "output": "b"}\n\xff\n', "line 2"), (b'"text"', "str, not a list"), (b"PAR1x", "Parquet")],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_examples(str(tmp_path / "a.json"))


@pytest.mark.parametrize("text", [LIST, LINES, PRETTY, f"\n\n{LIST}"], ids=["list", "lines", "pretty", "late list"])
def test_every_form_is_read_with_and_without_a_byte_order_mark_and_as_utf_16(text, read):
    encoded = [
        text.encode(),
        codecs.BOM_UTF8 + text.encode(),
        text.encode("utf-16"),
        text.replace("\n", "\r\n").encode(),
    ]
    encoded.append(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
    assert [read(data) for data in encoded] == [EXAMPLES] * 5


@pytest.mark.parametrize("name", ["data", "examples", "train"])
def test_a_list_within_an_object_is_read(name, read):
    for indent in (None, 2):
        assert read(json.dumps({"version": "1.0", name: EXAMPLES}, indent=indent)) == EXAMPLES


@pytest.mark.parametrize("missing", ["null", "NaN"])
def test_a_missing_input_of_another_tool_is_an_empty_one(missing, read, tmp_path):
    text = f'{{"instruction": "Add.", "input": {missing}, "output": "3"}}'
    assert read(text) == read(f"[{text}]") == [{"instruction": "Add.", "input": "", "output": "3"}]
    (tmp_path / "eval.jsonl").write_text(f'{{"instruction": "Add.", "input": {missing}}}')
    assert [task.input for task in load_tasks(tmp_path / "eval.jsonl")] == [""]


def test_missing_inputs_of_a_table_are_empty_ones(tmp_path):
    columns = {"instruction": ["a", "b"], "output": ["c", "d"]}
    nan = float("nan")
    for missing, inputs in [([None, "x"], ["", "x"]), ([None, None], ["", ""]), ([nan, nan], ["", ""])]:
        pyarrow.parquet.write_table(pyarrow.table({**columns, "input": missing}), tmp_path / "a.parquet")
        assert [example["input"] for example in load_examples(tmp_path / "a.parquet")] == inputs


def test_the_context_of_dolly_is_the_input(read):
    row = {"instruction": "When?", "context": "It was in 2000.", "response": "2000", "category": "closed_qa"}
    assert read(json.dumps(row)) == [{"instruction": "When?", "input": "It was in 2000.", "output": "2000"}]


def test_half_a_surrogate_pair_of_another_language_becomes_a_question_mark(read):
    assert read('[{"instruction": "Say \\ud83d", "output": "\\ud83d\\ude00"}]')[0] == {
        "instruction": "Say ?",
        "input": "",
        "output": "😀",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LIST.encode("cp1252"), "byte 102: not UTF-8 text. Save it as UTF-8, or convert it"),
        (LINES.replace("\\u00e9", "é").encode("cp1252"), "line 2, byte 65: not UTF-8 text. Save it as UTF-8"),
        (LIST[:-1] + ",]", "line 1, column 15"),
        ('[{"instruction": "a", "output": 144}]', "entry 0 has a field 'output' that is not text but int"),
        ('[{"instruction": "a", "output": ["a"]}]', "entry 0 has a field 'output' that is not text but list"),
        ("instruction,output\na,b\n", "line 1, column 1: not JSON"),
        ('{\n"instruction": "a",\n"output": }', "line 3, column 11: not JSON"),
        ("[" * 100_000, "not JSON that can be read, since it is nested too deeply."),
        ('{"a": ' + "[" * 100_000, "not JSON that can be read, since it is nested too deeply."),
        (
            f'[{{"instruction": "a", "output": "b", "id": {"9" * 5000}}}]',
            "not JSON that can be read, since it holds a number that is too long.",
        ),
        (
            f'{{"instruction": "a", "output": "b", "id": {"9" * 5000}}}',
            "not JSON that can be read, since it holds a number that is too long.",
        ),
        ('{"prompts": 1}', "line 1 has no 'instruction'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(content, message, read):
    with pytest.raises(UserError) as error:
        read(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_with_a_byte_order_mark_are_read_too(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_bytes(codecs.BOM_UTF8 + "Wähle.\r\n".encode())
    assert read_text(path) == "Wähle.\n"
    path.write_bytes(codecs.BOM_UTF8 + b'{"settings": {"kind": "judge"}}\r\n{"n": 1}\r\n')
    assert read_settings_and_rows(path) == ({"kind": "judge"}, [{"n": 1}])


def test_a_regen_json_with_a_byte_order_mark_is_continued(tmp_path):
    (tmp_path / "regen.json").write_bytes(codecs.BOM_UTF8 + LIST.encode())
    files = TaskFiles(tmp_path)
    files.append([[{"instruction": "Add.", "input": "", "output": "3"}]], {"prompt_indices": [0]})
    files.close()
    assert len(load_examples(tmp_path / "regen.json")) == 3
