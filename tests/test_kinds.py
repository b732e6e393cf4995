"""Each check of data/kinds.py finds its flaw, and lets a good example through."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import kinds, verify


def prose(num_words: int) -> str:
    """Words that repeat nothing and are no names, 20 to a line."""
    words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}o" for i in range(num_words)]
    return "\n".join(" ".join(words[i : i + 20]) for i in range(0, num_words, 20))


NOTES = (
    "The garden club of Ashford met on 14 May with 23 members. Rosa Lindqvist reported that the greenhouse needs new "
    "panes, which will cost 480 pounds. The club agreed to pay from its savings. Tomas offered to fit them in June, "
    "together with two neighbours. The plant sale earned 1,250 pounds, more than ever before. Next time, the stall "
    "will open an hour earlier because many visitors came before nine."
)
LONG_NOTES = f"{NOTES} {prose(70)}"
SUMMARY = (
    "The greenhouse will be mended for 480 pounds, as Rosa Lindqvist asked; Tomas does the work in June. Plants "
    "brought in 1,250 pounds."
)
TABLE = "| what | price |\n| --- | ---: |\n| new panes | 480 pounds |\n| plant sale | 1,250 pounds |"
CODE = f"```python\ndef double(n):\n    return 2 * n\n```\n{prose(40)}"
OUTPUTS = {"message": prose(60), "rewriting": NOTES, "summary": SUMMARY, "extraction": TABLE, "code": CODE}
OUTPUTS |= {
    "classification": "Praise",
    "passage": "The panes cost 480 pounds.",
    "ideas": "- tea: hot\n- cake\n" + prose(60),
}
OUTPUTS |= {"false_premise": prose(40), "refusal": prose(60), "recommendation": "1. Tea\n2) cake\n" + prose(90)}
INPUTS = {"message": NOTES, "rewriting": NOTES, "summary": LONG_NOTES, "extraction": LONG_NOTES, "passage": NOTES}
LINES = {
    "classification": {"labels": ["praise", "blame"]},
    "passage": {"span": "480 pounds"},
    "recommendation": {"count": 2},
    "ideas": {"count": 2},
    "code": {"language": "python"},
    "comparison": {"sides": ["aao", "ABO"]},
    "constraints": {"checks": ["'aao' in output"] * 3},
}


def findings(kind: str, line: dict | None = None, **changes: str) -> list[str]:
    """What check_kind finds in a good example of a kind with these changes."""
    example = {
        "instruction": "Is it praise or blame?",
        "input": INPUTS.get(kind, ""),
        "output": OUTPUTS.get(kind, prose(160)),
    }
    return kinds.check_kind({**example, **changes}, {"kind": kind, **LINES.get(kind, {}), **(line or {})})


@pytest.mark.parametrize("kind", kinds.OUTPUT_WORDS)
def test_a_good_example_of_each_kind_is_let_through(kind):
    assert findings(kind) == []


@pytest.mark.parametrize("kind", kinds.OUTPUT_WORDS)
def test_each_kind_has_a_least_and_a_greatest_length(kind):
    for num_words in (kinds.OUTPUT_WORDS[kind][0] - 1, kinds.OUTPUT_WORDS[kind][1] + 1):
        assert any(
            text.startswith(f"{num_words} words in the output") for text in findings(kind, output=prose(num_words))
        )


@pytest.mark.parametrize("kind", kinds.INPUT_WORDS)
def test_some_kinds_need_an_input_of_a_certain_length(kind):
    assert any("0 words in the input" in text for text in findings(kind, input=""))


@pytest.mark.parametrize(
    ("kind", "changes", "line", "finding"),
    [
        ("poem", {}, {}, "there is no kind 'poem'"),
        ("story", {"output": f"{prose(160)}\n{prose(9)}"}, {}, "it repeats 'aao abo aco ado aeo afo ago aho'"),
        ("story", {"output": prose(160) + "\n| a | b |\n| c |"}, {}, "a table with rows of different length"),
        ("story", {"instruction": "Write a story in under 150 words."}, {}, "160 words, where the instruction says"),
        ("how_to", {"output": prose(160).replace("\n", " ")}, {}, "1 paragraphs or steps"),
        ("message", {"output": f"{prose(60)} for 490 pounds"}, {}, "numbers that the user did not give: 490"),
        ("message", {"output": f"{prose(60)} from Miriam"}, {}, "names that the user did not give: Miriam"),
        ("message", {"output": f"{prose(60)}, on Rosa's and Miriam's behalf"}, {}, "did not give: Miriam"),
        ("rewriting", {"output": NOTES.replace("Lindqvist ", "")}, {}, "lost from the input: lindqvist"),
        ("rewriting", {"output": NOTES.replace("480", "some")}, {}, "lost from the input: 480"),
        ("rewriting", {"output": f"{NOTES} {prose(100)}"}, {}, "2.4 times the words of the input"),
        ("summary", {"output": NOTES}, {}, "copied: 'the garden club of ashford met on 14'"),
        ("summary", {"output": SUMMARY.replace("480", "490")}, {}, "did not give: 490"),
        ("extraction", {"output": TABLE.replace("480", "490")}, {}, "no piece of the input: '490 pounds'"),
        ("extraction", {"output": TABLE + "\n- when: July"}, {}, "no piece of the input: 'july'"),
        ("classification", {"output": "Neither"}, {}, "no label in 'Neither'"),
        ("classification", {"output": "praise\nappraised"}, {}, "no label in 'appraised'"),
        ("classification", {}, {"labels": ["praise", "spam"]}, "labels that the task does not name: spam"),
        ("passage", {"output": "They cost a good deal of money."}, {}, "the span '480 pounds' is not in the output"),
        ("passage", {}, {"span": "490 pounds"}, "the span '490 pounds' is not in the input"),
        ("passage", {"output": "Rosa Lindqvist drove the van herself."}, {"span": None}, "it does not say that"),
        ("recommendation", {}, {"count": 3}, "2 list items, not 3"),
        ("ideas", {"output": "- Tea: hot\n- *tea*\n" + prose(60)}, {}, "an item twice: 'tea'"),
        ("code", {"output": CODE.replace("python", "")}, {}, "no block of python"),
        ("comparison", {}, {"sides": ["aao", "trains"]}, "not there: trains"),
        ("constraints", {}, {"checks": ["True", "True"]}, "fewer than three constraints"),
    ],
)
def test_each_flaw_is_found(kind, changes, line, finding):
    assert any(finding in text for text in findings(kind, line, **changes)), findings(kind, line, **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("message", {"output": f"Dear Tomas,\n{prose(60)}: 1250 pounds, on 14 May\nKind regards,\nRosa"}, {}),
        ("message", {"output": f"Subject: Help\n\nHi!\n{prose(60)}. Many of us. I'm sure; I'd say OK on Monday"}, {}),
        ("rewriting", {"output": NOTES.replace(" of Ashford", "")}, {"dropped": ["Ashford"]}),
        (
            "extraction",
            {"output": '```json\n{"who": ["Rosa Lindqvist", "Tomas"], "paid": true}\n```' + "\n- June" * 9},
            {},
        ),
        ("extraction", {"output": TABLE + "\n- when: 2026-05-14"}, {"written": ["2026-05-14"]}),
        ("extraction", {"output": TABLE + "\n- who: Rosa Lindqvist and Tomas; two neighbours"}, {}),
        ("extraction", {"output": TABLE + "\n- van: not given"}, {}),
        ("classification", {"output": "1. Praise\n\n2. **Blame**"}, {}),
        ("passage", {"output": "The notes don't say who drove the van."}, {"span": None}),
        ("passage", {"output": "The year isn't mentioned in the notes."}, {"span": None}),
        ("ideas", {"output": prose(60)}, {"count": None}),
        ("code", {"output": CODE + "\nreturn 2 * n for n of aao abo aco ado aeo afo ago aho"}, {}),
        ("story", {"instruction": "Write two letters of under 90 words each."}, {}),
    ],
)
def test_what_only_looks_like_a_flaw_is_let_through(kind, changes, line):
    assert findings(kind, line, **changes) == []


@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [
        ("in under ten words", 0, 9),
        ("in no more than 10 words", 0, 10),
        ("of at most 10 words", 0, 10),
        ("of at least ten words", 10, 1000),
        ("in more than 10 words", 11, 1000),
        ("of no less than 10 words", 10, 1000),
        ("in exactly 10 words", 10, 10),
        ("of about 10 words", 8, 12),
        ("as a 10-word slogan", 8, 12),
        ("without words", 0, 1000),
    ],
)
def test_limits_in_the_instruction_are_kept(limit, least, most):
    def is_kept(num_words):
        return kinds.word_limits({"instruction": f"Describe it {limit}.", "output": "word " * num_words}) is None

    for num_words, kept in ((least, True), (most, True), (least - 1, least == 0), (most + 1, most == 1000)):
        assert is_kept(max(0, num_words)) is kept, num_words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a": ["x", 1.5], "b": {"c": null, "d": true}}', ["x", "1.5"]),
        ('```json\n["x"]\n```', ["x"]),
        ("```csv\nname,price\nTea,3\n```", ["Tea", "3"]),
        ("| name | price |\n|:---|---:|\n| Tea | 3 |", ["Tea", "3"]),
        ("Drinks:\n- Tea\n* price: 3\n2) hot", ["Tea", "3", "hot"]),
        ("", []),
    ],
)
def test_values_are_read_from_json_csv_tables_and_lists(text, values):
    assert kinds.values_of(text) == values


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I met Rosa, and Tomas's dog. Later we left.", ["Rosa", "Tomas's"]),
        ("Best wishes,\nRosa", []),
        ("on Monday, in May, with Mr Okoro", ["Okoro"]),
    ],
)
def test_names_are_words_with_a_capital_within_a_sentence(text, names):
    assert kinds.names_in(text) == names


ANY_EXAMPLE = st.fixed_dictionaries({part: st.text(max_size=60) for part in ("instruction", "input", "output")})
ANY_MARKUP = st.text(alphabet='ab1 ,.|-*"`:{}[]\n', max_size=60)


@given(ANY_EXAMPLE, ANY_MARKUP, st.sampled_from([*kinds.OUTPUT_WORDS]))
def test_any_text_can_be_checked(example, markup, kind):
    for output in (example["output"], markup, f"```json\n{markup}\n```", f"```csv\n{markup}\n```"):
        found = kinds.check_kind({**example, "output": output}, {"kind": kind, **LINES.get(kind, {})})
        assert all(isinstance(finding, str) for finding in found)


@given(st.lists(st.sampled_from(["one", "two", "three", "four"]), max_size=30))
def test_a_run_is_repeated_where_a_search_finds_it_again(words):
    runs = [words[i : i + kinds.REPEATED_WORDS] for i in range(len(words) - kinds.REPEATED_WORDS + 1)]
    assert bool(kinds.repeated_runs(" ".join(words))) is any(runs.count(run) > 1 for run in runs)


def test_kinds_and_examples_belong_together():
    examples = [{"instruction": "Add 1 and 1.", "input": "", "output": "2"}]
    lines = {"Add 1 and 1.": {"kind": "mathematics"}, "Add 2 and 2.": {"kind": "mathematics"}}
    assert kinds.unlike_their_kind(examples, lines) == [
        "a kind of no example: Add 2 and 2.",
        "mathematics: 1 words in the output, not 60 to 200: Add 1 and 1.",
    ]


def test_constraints_and_computed_answers_are_verified():
    examples = [
        {"instruction": "Use the word sea twice.", "input": "", "output": "The sea, the sea."},
        {"instruction": "Use the word sky.", "input": "", "output": 'The "sea" isn\'t blue.\n'},
        {"instruction": "Add 1 and 1.", "input": "", "output": "It is 3."},
    ]
    lines = {
        "Use the word sea twice.": {"kind": "constraints", "checks": ["output.count('sea') == 2"]},
        "Use the word sky.": {"kind": "constraints", "checks": ["'blue' in output", "'sky' in output"]},
        "Add 1 and 1.": {"kind": "mathematics", "code": "expected = [str(1 + 1)]"},
        "Sum it.": {"kind": "mathematics"},
    }
    messages, _ = verify.unverified(examples, kinds.codes(lines))
    assert [message.split(":")[-1].strip() for message in messages] == ["Use the word sky.", "Add 1 and 1."]


PROGRAMS = {  # language: code that doubles, a test of it, the program that runs it
    "python": ("def double(n):\n    return 2 * n", "assert python(output)['double'](4) == 8", "true"),
    "sql": (
        "SELECT 2 * n FROM t;",
        "assert sql('create table t (n); insert into t values (4)', output) == [(8,)]",
        "true",
    ),
    "javascript": ("const double = n => 2 * n;", "assert javascript(output, 'double(4)') == 8", "node"),
    "bash": ("echo $((2 * 4))", "assert shell(output) == '8'", "bash"),
    "c": ("int twice(int n) { return 2 * n; }", "assert c(output, 'printf(\"%d\", twice(4));') == '8'", "cc"),
    "regex": ("^8$", "assert re.search(code(output).strip(), '8')", "true"),
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_code_is_run_with_its_test_where_its_language_is_installed(language):
    program, test, needed = PROGRAMS[language]
    right = {"instruction": "Double it.", "input": "", "output": f"```{language}\n{program}\n```\nThat is all."}
    wrong = {**right, "instruction": "Double it again.", "output": right["output"].replace("2", "3").replace("8", "9")}
    lines = {e["instruction"]: {"kind": "code", "language": language, "test": test} for e in (right, wrong)}
    messages, missing = verify.unverified([right, wrong], kinds.tests_of_code(lines))
    if shutil.which(needed) is None:
        assert (messages, missing) == ([], {needed})
    else:
        assert (len(messages), missing) == (1, set())
        assert messages[0].endswith(": Double it again.")


def test_a_language_whose_program_is_missing_is_left_out_and_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    example = {"instruction": "Double it.", "input": "", "output": PROGRAMS["javascript"][0]}
    lines = {"Double it.": {"kind": "code", "language": "javascript", "test": PROGRAMS["javascript"][1]}}
    assert verify.unverified([example], kinds.tests_of_code(lines)) == ([], {"node"})
