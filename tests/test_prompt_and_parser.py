"""The generator's prompt, and what its parser reads back from a completion."""

import random
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.generation.chat_replies import strip_repeated_label
from generate_instruction import (
    encode_prompt,
    find_word_in_string,
    parse_completion,
    parse_reply,
    post_process_gpt3_response,
    sample_seed_tasks,
)
from utils import UserError

GOOD = " Name four rivers of Asia.\n4. Input:\n<noinput>\n4. Output:\nMekong, Ob, Lena, Amur\n"
GOOD_TASK = {"instruction": "Name four rivers of Asia.", "input": "", "output": "Mekong, Ob, Lena, Amur"}


def parse(text, finish_reason="stop", num_prompt_instructions=3, drop_malformed=True):
    return parse_completion(num_prompt_instructions, text, finish_reason, drop_malformed)


def test_the_prompt_is_exactly_the_text_the_tasks_and_the_next_label(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Continue the list.", encoding="utf-8")
    tasks = [
        {"instruction": "  Sort\n these\t words: ", "input": "b a", "output": "a b"},
        {"instruction": "Say hi.", "input": "", "output": "hi\nthere"},
    ]
    assert encode_prompt(tasks, path) == (
        "Continue the list.\n"
        "###\n1. Instruction: Sort these words\n1. Input:\nb a\n1. Output:\na b\n"
        "###\n2. Instruction: Say hi.\n2. Input:\n<noinput>\n2. Output:\nhi\nthere\n"
        "###\n3. Instruction:"
    )


def test_a_missing_prompt_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"prompt\.txt: no such file"):
        encode_prompt([], tmp_path / "prompt.txt")


def test_the_seed_tasks_of_a_prompt_depend_on_seed_and_number_alone():
    tasks = [{"id": i} for i in range(30)]
    first = [sample_seed_tasks(tasks, 3, seed=7, prompt_index=k) for k in range(50)]
    random.seed(0)
    assert [sample_seed_tasks(tasks, 3, seed=7, prompt_index=k) for k in reversed(range(50))] == first[::-1]
    assert [sample_seed_tasks(tasks, 3, seed=8, prompt_index=k) for k in range(50)] != first
    assert all(len({task["id"] for task in sampled}) == 3 for sampled in first)
    assert len({task["id"] for sampled in first for task in sampled}) == 30


def test_a_completion_is_read_back_as_tasks():
    text = GOOD + "###\n5. Instruction: Add these numbers now.\n5. Input:  2 3\n\n5. Output:\n 5 \n"
    response = SimpleNamespace(text=text, finish_reason="stop")
    assert post_process_gpt3_response(3, response) == [
        GOOD_TASK,
        {"instruction": "Add these numbers now.", "input": "2 3", "output": "5"},
    ]
    assert post_process_gpt3_response(3, None) == []


def test_the_last_piece_goes_when_the_model_stopped_for_length():
    text = GOOD + "###\n5. Instruction: Add these numbers now.\n5. Input:\n2 3\n5. Output:\n5"
    assert len(parse(text, "stop")[0]) == 2
    assert parse(text, "length") == ([GOOD_TASK], {"cut off by the token limit": 1})
    # Where the text ends with a separator, the piece that was cut off is the empty one behind it.
    assert parse(GOOD + "###", "length") == ([GOOD_TASK], {})


def task(instruction, input="<noinput>", output="Yes.", number=4):
    return f" {instruction}\n{number}. Input:\n{input}\n{number}. Output:\n{output}\n"


@pytest.mark.parametrize(
    "instruction",
    [
        "Too few words",
        "word " * 151,
        "Describe the image in words.",
        "Explain what a GRAPH is for.",
        "Tell me where to go to now.",
        "Find the file, then read it.",
        "Write a program that adds numbers.",
        '"Quoted" words are odd starts.',
        "- a list item of words",
        "Überlege dir einen guten Satz.",
        "日本 is a country in Asia.",
    ],
)
@pytest.mark.parametrize("drop_malformed", [True, False])
def test_instructions_that_do_not_suit_a_text_model_are_dropped(instruction, drop_malformed):
    tasks, dropped = parse(task(instruction), drop_malformed=drop_malformed)
    assert tasks == []
    assert dropped.total() == 1


@pytest.mark.parametrize(
    "instruction",
    [
        "Exactly four words here",
        " ".join(["word"] * 150),
        "Describe the imagery of this poem.",
        "Explain the paragraph about mapping.",
        "write a program that adds numbers.",
        "Please Write a program that adds.",
        "Discuss the musician, not his profile.",
        "Erkläre mir, wie man über Wasser geht.",
    ],
)
def test_instructions_just_inside_the_rules_are_kept(instruction):
    assert [kept["instruction"] for kept in parse(task(instruction))[0]] == [instruction]


@pytest.mark.parametrize("noinput", ["<noinput>", "<NoInput>", " <NOINPUT>\n", ""])
def test_noinput_in_any_case_is_an_empty_input(noinput):
    assert parse(task("Name four rivers of Asia.", noinput))[0][0]["input"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no labels at all, just some words",
        " Name four rivers of Asia.\n4. Output:\nMekong\n",  # no input
        GOOD + "4. Output:\nagain\n",  # a label twice
        task("Name four rivers of Asia.", number=5),  # another number
    ],
)
@pytest.mark.parametrize("drop_malformed", [True, False])
def test_a_piece_without_exactly_its_own_three_labels_is_dropped(text, drop_malformed):
    assert parse(text, drop_malformed=drop_malformed)[0] == []


def test_pieces_are_numbered_by_position():
    second = "###\n6. Instruction: Add these numbers now.\n6. Input:\n2 3\n6. Output:\n5\n"
    third = "###\n6. Instruction: Subtract these numbers now.\n6. Input:\n3 2\n6. Output:\n1\n"
    tasks, dropped = parse(GOOD + second + third)
    assert [kept["output"] for kept in tasks] == ["Mekong, Ob, Lena, Amur", "1"]
    assert dropped == {"not Instruction, Input, Output": 1}


def test_numbers_above_20_are_dropped():
    pieces = [task("Name four rivers of Asia.", number=n) for n in range(4, 24)]
    text = pieces[0] + "".join(f"###\n{n}. Instruction:{piece}" for n, piece in enumerate(pieces[1:], start=5))
    tasks, dropped = parse(text)
    assert len(tasks) == 17
    assert dropped == {"numbered above 20": 3}


@pytest.mark.parametrize(
    ("malformed", "reason"),
    [
        (task("Name four rivers of Asia.", output=""), "empty output"),
        (task("Name four rivers of Asia.", output="Ob\n18. Instruction: Add 2 and 3 now."), "another task inside"),
        (task("Name four rivers of Asia.", input="Ob\n5. Output: 5"), "another task inside"),
        (task("Name four rivers of Asia. 3. Input: x"), "another task inside"),
        (task("Name four rivers of Asia.\n4. Input:\nx").replace("4. Output:", "5. Output:"), None),
        (task("Name four rivers of Asia.").replace("4. Input", "14. Input"), "not Instruction, Input, Output"),
        (task("Name four rivers of Asia.").replace("4. Output", "4. Input"), "not Instruction, Input, Output"),
    ],
)
def test_drop_malformed_drops_what_the_original_let_through(malformed, reason):
    assert parse(malformed, drop_malformed=True)[0] == []
    if reason:
        assert parse(malformed, drop_malformed=True)[1] == {reason: 1}
        assert len(parse(malformed, drop_malformed=False)[0]) == 1


def test_a_chat_reply_may_repeat_the_label_or_not():
    repeated = "Here is the rest of the list.\n\n###\n4. Instruction:" + GOOD
    assert parse(strip_repeated_label(repeated, 4))[0] == parse(strip_repeated_label(GOOD, 4))[0] == [GOOD_TASK]
    assert strip_repeated_label("14. Instruction: no", 4) == "14. Instruction: no"


# Text from the pieces that mean something to the parser, in any order, with arbitrary text between them.
HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(["###", "\n", " ", "<noinput>", "Instruction:", "Output:", "4.", "Write four more words now"]),
        st.builds("{}. {}:".format, st.integers(0, 30), st.sampled_from(["Instruction", "Input", "Output", "output"])),
        st.text(max_size=8),
    ),
    max_size=30,
).map("".join)


def reply_of(*instructions, first=1, **labels) -> str:
    """A list of tasks with these labels, each with {n} for its number."""
    given = {"Instruction": "{n}. Instruction:", "Input": "{n}. Input:", "Output": "{n}. Output:", "between": "###\n"}
    given |= labels
    pieces = [
        f"{given['Instruction']} {instruction}\n{given['Input']}\n<noinput>\n{given['Output']}\nOb, Lena.\n".replace(
            "{n}", str(number)
        )
        for number, instruction in enumerate(instructions, start=first)
    ]
    return given["between"].join(pieces)


THREE = [f"Name {number} rivers of Asia." for number in ("two", "five", "nine")]
BOLD = {name: f"**{{n}}. {name}:**" for name in ("Instruction", "Input", "Output")}
BOLD_WORDS = {name: f"{{n}}. **{name}**:" for name in BOLD}
UNNUMBERED = {name: f"**{name}:**" for name in BOLD}


@pytest.mark.parametrize(
    "reply",
    [
        reply_of(*THREE, first=4),
        reply_of(*THREE, first=4).removeprefix("4. Instruction:"),
        reply_of(*THREE),
        "Here are three:\n\n" + reply_of(*THREE),
        reply_of(*THREE, first=4, **BOLD),
        reply_of(*THREE, first=4, **BOLD).removeprefix("**4. Instruction:**"),
        reply_of(*THREE, first=4, **BOLD_WORDS),
        reply_of(*THREE, between="\n---\n", **UNNUMBERED),
        reply_of(*THREE, between="\n### Task 9\n", **UNNUMBERED),
        f"```text\n{reply_of(*THREE, first=4)}\n```",
        f"Sure:\n```\n{reply_of(*THREE, between='')}```",
        f"```\n{reply_of(*THREE, first=4).removeprefix('4. Instruction:')}\n```",
        reply_of(*THREE, first=4, between=""),
        reply_of(*THREE, first=4, Instruction="### {n}. Instruction:", between=""),
        reply_of(*THREE, first=4, Instruction="{n}) Instruction:", Input="{n}) Input:", Output="{n}) Output:"),
    ],
)
def test_a_chat_reply_in_a_form_of_its_own_is_read_as_what_it_means(reply):
    tasks, _ = parse_reply(3, reply, "stop")
    assert tasks == [{"instruction": text, "input": "", "output": "Ob, Lena."} for text in THREE]


def test_a_chat_reply_keeps_the_code_in_its_outputs_and_loses_its_cut_off_end():
    code = "```python\nprint(1)\n```"
    reply = reply_of(*THREE, **BOLD).replace("Ob, Lena.", code)
    assert [task["output"] for task in parse_reply(3, reply, "stop")[0]] == [code] * 3
    assert [task["output"] for task in parse_reply(3, f"```\n{reply}```", "stop")[0]] == [code] * 3
    assert len(parse_reply(3, reply, "length")[0]) == 2


@settings(max_examples=200, deadline=None)
@given(HOSTILE, st.booleans())
def test_a_chat_reply_never_gives_fewer_tasks_and_as_the_original_exactly_its(text, drop_malformed):
    plain = parse(strip_repeated_label(text, 4), drop_malformed=drop_malformed)[0]
    tasks = parse_reply(3, text, "stop", drop_malformed)[0]
    assert tasks == plain or (drop_malformed and len(tasks) > len(plain))


def test_words_are_found_whole_and_in_any_case():
    assert find_word_in_string("go to", "Where to Go To next?")
    assert not find_word_in_string("map", "mapping of a bitmap")


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(HOSTILE, st.text(), st.none()), st.sampled_from(["stop", "length", None, "content_filter"]), st.booleans()
)
def test_the_parser_never_raises_and_counts_every_piece(text, finish_reason, drop_malformed):
    tasks, dropped = parse(text, finish_reason, drop_malformed=drop_malformed)
    pieces = [piece for piece in f"4. Instruction:{text or ''}".split("###") if piece.strip()]
    assert len(tasks) + dropped.total() == len(pieces)
    for kept in tasks:
        assert set(kept) == {"instruction", "input", "output"}
        assert len(kept["instruction"].split()) > 3


@settings(max_examples=500, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_with_drop_malformed_no_task_is_empty_or_holds_another(instruction, input, output):
    for kept in parse(f"Say this: {instruction}\n4. Input: {input}\n4. Output: {output}")[0]:
        assert kept["output"].strip()
        assert not any(re.search(r"\d+\. (Instruction|Input|Output):", text) for text in kept.values())


@pytest.mark.parametrize(
    "text", ["1" * 200_000, "4. " * 70_000, "###" * 70_000, "4. Input:" * 20_000, "\u2028 " * 99_999]
)
def test_a_long_hostile_text_takes_no_time(text):
    parse(f" Say these words now.\n4. Input:\n{text}\n4. Output:\n{text}")  # the time limit of the tests is the check
