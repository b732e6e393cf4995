"""The figure of root verbs and direct objects, and the table of diversity beside it."""

import json
import math
import random
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rouge_score.rouge_scorer import RougeScorer

import plot_diversity
from plot_diversity import FIGURE_HEIGHT, FIGURE_WIDTH, MIN_FONT, RADII, Group
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line, run_script
from utils import UserError, save_figure

VERBS = ["name", "list", "write", "explain", "describe", "find", "count", "compare", "sort", "suggest", "translate"]
NOUNS = ["river", "poem", "recipe", "law", "song", "mistake", "country", "number", "word", "reason", "city", "plan"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """60 tasks, of which 50 have a verb and an object."""
    rng = random.Random(0)
    tasks = [
        {
            "instruction": f"{rng.choice(VERBS).capitalize()} the {rng.choice(NOUNS)} of item {i}.",
            "input": "It is old." if i % 2 else "",
            "output": "Yes.",
        }
        for i in range(50)
    ]
    tasks += [{"instruction": f"Is {i} prime?", "input": "", "output": "No."} for i in range(4, 14)]
    path = tmp_path_factory.mktemp("data") / "tasks.json"
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


# --- data files ---


def task(instruction, input="", output=""):
    return {"instruction": instruction, "input": input, "output": output}


def test_a_json_list_json_lines_and_seed_tasks_give_the_same_tasks(tmp_path):
    tasks = [task("Add the numbers.", "2, 3", "5"), task("Naïve or not?\nSay so.", "", "Not.")]
    seeds = [
        {"id": "seed", "instruction": d["instruction"], "instances": [d, {"input": "?", "output": "?"}]} for d in tasks
    ]
    contents = {
        "list.json": json.dumps(tasks, indent=4),
        "lines.jsonl": "\n".join(map(json.dumps, tasks)) + "\n\n",
        "seeds.jsonl": "\r\n".join(json.dumps(seed, ensure_ascii=False) for seed in seeds),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        assert plot_diversity.load_tasks(str(tmp_path / name)) == tasks


def test_a_missing_input_or_output_is_an_empty_one(tmp_path):
    (tmp_path / "a.json").write_text('[{"instruction": "Sing."}, {"instruction": "Dance.", "input": null}]')
    assert plot_diversity.load_tasks(str(tmp_path / "a.json")) == [task("Sing."), task("Dance.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"instruction": "Sing."},]', "line 1, column 27: not JSON"),
        (b'{"instruction": "Sing."}\nSing.', "line 2, column 1: not JSON"),
        (b'[{"instruction": "Sing."}, {"instructions": "Dance."}]', "entry 1 has no 'instruction'"),
        (
            b'{"instruction": "Sing."}\n\n{"instruction": 3}',
            "line 3 has a field 'instruction' that is not text but int",
        ),
        (b'["Sing."]', "entry 0 is not an object but str"),
        (b'[{"instruction": "Sing.", "input": ["a"]}]', "entry 0 has a field 'input' that is not text but list"),
        (b"[]", "no examples"),
        (b"", "not JSON"),
        (b'[{"instruction": "caf\xe9"}]', "byte 21: not UTF-8"),
    ],
)
def test_a_data_file_that_cannot_be_used_is_an_error_that_says_where(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        plot_diversity.load_tasks(str(path))
    assert str(error.value).startswith(str(path))


# --- what is drawn ---


def test_verbs_and_objects_are_the_most_frequent_ones_ties_in_alphabetical_order():
    pairs = [("write", "poem")] * 2 + [("write", "essay")] * 2 + [("write", x) for x in ("d", "c", "b")]
    pairs += [("add", "salt"), ("zip", "file"), ("write", None), (None, None), ("stop", None)]
    assert plot_diversity.most_frequent(pairs) == [
        ("write", 7, [("essay", 2), ("poem", 2), ("b", 1), ("c", 1)]),
        ("add", 1, [("salt", 1)]),
        ("zip", 1, [("file", 1)]),
    ]


def test_twenty_verbs_are_shown_of_more():
    pairs = [(f"verb{n:02}", "object") for n in range(30) for _ in range(n + 1)]
    shown = [group.verb for group in plot_diversity.most_frequent(pairs)]
    assert shown == [f"verb{n:02}" for n in range(29, 9, -1)]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.5, 4.0)), min_size=1, max_size=80))
def test_angles_fill_the_circle_keep_their_floors_and_are_else_in_proportion(items):
    counts, floors = zip(*items, strict=True)
    angles = plot_diversity._proportional(counts, floors, 360.0)
    assert sum(angles) == pytest.approx(360)
    ratios = [angle / count for angle, count, floor in zip(angles, counts, floors, strict=True) if angle > floor]
    assert all(angle >= floor - 1e-9 for angle, floor in zip(angles, floors, strict=True))
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) if ratios else True


def test_wide_wedges_are_in_proportion_and_each_verb_spans_its_objects():
    inner, outer = plot_diversity.lay_out(
        [Group("write", 99, [("poem", 30), ("essay", 10)]), Group("add", 20, [("salt", 20)])]
    )
    assert [(w.label, w.start, w.end) for w in inner] == [("write 99", 0, pytest.approx(240)), ("add 20", 240, 360)]
    assert [w.label for w in outer] == ["poem 30", "essay 10", "salt 20"]
    assert [w.end - w.start for w in outer] == pytest.approx([180, 60, 120])
    assert outer[0].hue == outer[1].hue == inner[0].hue != outer[2].hue


def groups_of(num_verbs, num_objects, letters):
    """Verbs and objects with labels of some length; the first has a count that leaves little room for the others."""
    return [
        Group(
            f"{v:02}".ljust(letters, "w"),
            10_000,
            [(f"{o}".ljust(letters, "m"), 9000 if v == o == 0 else 1) for o in range(num_objects)],
        )
        for v in range(num_verbs)
    ]


@pytest.mark.parametrize(
    "groups",
    [
        groups_of(20, 4, 8),
        groups_of(20, 1, 11),
        groups_of(20, 4, 60),
        groups_of(1, 1, 1),
        groups_of(3, 2, 30),
    ],
)
def test_every_label_lies_inside_its_wedge_and_the_caption_inside_the_figure(groups):
    figure = plot_diversity.draw(
        groups, plot_diversity.make_caption("$\\frac$" + "d" * 99, [("a", "b")] * 52002, groups)
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    wedges = [wedge for ring in plot_diversity.lay_out(groups) for wedge in ring]
    assert [text.get_text() for text in axes.texts] == [wedge.label for wedge in wedges]
    assert wedges[-1].end == pytest.approx(360)
    for text, wedge, patch in zip(axes.texts, wedges, axes.patches, strict=True):
        x, y = text.get_position()
        text.set_rotation(0)
        width = text.get_window_extent(renderer).width / figure.dpi
        height = text.get_fontsize() / 72  # from the top of a "b" to the bottom of a "g"
        radius = math.hypot(x, y)
        assert patch.r - patch.width < radius - width / 2
        assert radius + width / 2 < patch.r
        # The label is narrowest against its wedge at the inner end.
        assert height <= 2 * (radius - width / 2) * math.tan(min(math.radians(wedge.end - wedge.start), 3) / 2)
    caption = figure.texts[0].get_window_extent(renderer)
    lowest_wedge = (FIGURE_HEIGHT - FIGURE_WIDTH / 2 - RADII[2]) * figure.dpi
    assert caption.x0 > 0
    assert caption.x1 < FIGURE_WIDTH * figure.dpi
    assert 0 < caption.y0 < caption.y1 < lowest_wedge
    assert RADII[2] < FIGURE_WIDTH / 2


def test_labels_of_common_length_are_in_a_font_that_can_be_read():
    figure = plot_diversity.draw(groups_of(20, 4, 9), "")
    assert min(text.get_fontsize() for text in figure.axes[0].texts) > MIN_FONT - 1e-6


# --- the table ---


def test_the_table_counts_what_it_says():
    tasks = [
        task("Name the longest river.", "", "The Nile"),
        task("Name the longest rivers.", "in Asia", "one two three"),
        task("Is it?"),
    ]
    column = plot_diversity.measure(tasks, [("name", "river"), ("name", "river"), (None, None)], num_cpus=1)
    assert column == {
        "tasks": "3",
        "with an input": "33.3%",
        "with a root verb": "66.7%",
        "with a root verb and a direct object": "66.7%",
        "distinct root verbs": "1",
        "distinct verb-object pairs": "1",
        "ROUGE-L to the nearest neighbour, mean / highest": "0.50 / 0.75",
        "words per instruction, 10% / 50% / 90%": "2 / 4 / 4",
        "words per input, 10% / 50% / 90%": "2 / 2 / 2",
        "words per output, 10% / 50% / 90%": "2 / 2 / 3",
    }
    assert plot_diversity.markdown_table({"a.json": {"tasks": "3"}, "b.json": {"tasks": "4"}}) == (
        "|       | a.json | b.json |\n| ----- | -----: | -----: |\n| tasks |      3 |      4 |"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join), max_size=12))
def test_the_nearest_neighbour_is_that_of_the_rouge_score_package(instructions):
    scorer = RougeScorer(["rougeL"])
    expected = [
        max((scorer.score(b, a)["rougeL"].fmeasure for j, b in enumerate(instructions) if j != i), default=0)
        for i, a in enumerate(instructions)
    ]
    assert plot_diversity.nearest_neighbours(instructions) == pytest.approx(np.array(expected), abs=1e-6)


def test_the_nearest_neighbour_may_be_far_away_in_a_long_list():
    instructions = [f"w{i} x{i} y{i}" for i in range(300)]
    instructions[299] = "w0 x0 other"
    nearest = plot_diversity.nearest_neighbours(instructions, num_cpus=2)
    assert nearest[[0, 299]] == pytest.approx(2 / 3)
    assert not nearest[1:299].any()


def test_the_nearest_neighbour_of_a_very_long_instruction_is_found():
    long = " ".join(f"w{i}" for i in range(140))
    nearest = plot_diversity.nearest_neighbours([long, f"{long} more", "other words"])
    assert nearest == pytest.approx(np.array([280 / 281, 280 / 281, 0]))


# --- the command ---


def test_the_command_writes_the_same_bytes_in_every_run_and_prints_the_table(tmp_path, data_path):
    for name, hash_seed in (("a", "1"), ("b", "2")):
        result = run_script(
            *("plot_diversity.py", "plot", "--data_path", data_path),
            *("--output_path", tmp_path / name / "figure", "--compare_paths", data_path),
            PYTHONHASHSEED=hash_seed,
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["figure.png", "figure.svg"]
    for name in ("figure.png", "figure.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert xml.etree.ElementTree.parse(tmp_path / "a" / "figure.svg").getroot().tag.endswith("svg")
    table = re.sub(" +", " ", result.stdout)
    assert f"| {data_path.name} | {data_path} |" in table
    assert "| with a root verb and a direct object | 83.3% | 83.3% |" in table


def test_the_figure_and_the_table_in_the_datasheet_are_those_of_the_data_in_the_repository(tmp_path):
    result = forks.run(
        *("plot_diversity.py", "plot", "--compare_paths", "./seed_tasks.jsonl"),
        *("--output_path", tmp_path / "diversity"),
    )
    assert result.returncode == 0, result.stderr
    for name in ("diversity.png", "diversity.svg"):
        assert (tmp_path / name).read_bytes() == (ROOT / "assets" / name).read_bytes(), "run the README's command"
    table = re.sub(" +", " ", result.stdout)
    rows = [line.removesuffix("|") for line in table.splitlines() if line.startswith("| ")][2:]
    datasheet = (ROOT / "datasheet.md").read_text(encoding="utf-8")
    assert len(rows) == 10
    assert [row for row in rows if row not in datasheet] == []


def test_each_column_is_that_of_its_own_file_in_whatever_order_they_are_named(tmp_path, capsys):
    (tmp_path / "a.json").write_text('[{"instruction": "Name a river."}]')
    (tmp_path / "b.json").write_text('[{"instruction": "Is it so?"}]')
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    plot_diversity.plot(a, str(tmp_path / "figure"), compare_paths=f"{b},{a}")
    assert "| with a root verb | 100.0% | 0.0% | 100.0% |" in re.sub(" +", " ", capsys.readouterr().out)


def test_the_caption_states_the_share_that_could_be_analysed():
    pairs = [("write", "poem")] * 3 + [("write", None), (None, None)]
    caption = plot_diversity.make_caption("my.json", pairs, plot_diversity.most_frequent(pairs))
    assert "Shown: 3 of 5 instructions. A root verb with a direct object was found in 60.0% of them" in caption
    assert "of them, by part-of-speech tags and rules." in caption


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--data_path", "missing.json"], ["missing.json", "no such file"]),
        (["--data_path", "DATA", "--output_path", "taken/figure"], ["taken", "no folder"]),
        (["--data_path", "DATA", "--output_path", "folder"], ["folder", "Name the figure in it"]),
        (["--data_path", "DATA", "--compare_paths", "DATA,missing.json"], ["missing.json", "no such file"]),
        (["--data_pth", "DATA"], ["Did you mean --data_path?"]),
        (["--data_path", "french.json"], ["french.json", "Are the instructions English?"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_figure(tmp_path, data_path, flags, parts):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "french.json").write_text(json.dumps([{"instruction": "今天星期几？"}]))
    flags = [flag.replace("DATA", str(data_path)) for flag in flags]
    result = forks.run(plot_diversity.__file__, "plot", *flags, cwd=tmp_path)
    assert_fails_in_one_line(result, "plot_diversity.py: ", *parts)
    assert result.stdout == ""
    assert not [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.svg"), *tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_file_that_is_no_figure_of_this_script_stays_as_it_is(tmp_path, data_path, suffix):
    path = tmp_path / f"figure{suffix}"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{suffix}: not a figure of this script, so it stays"):
        plot_diversity.plot(str(data_path), str(tmp_path / "figure"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(path.name, b"mine")]


def test_a_figure_of_this_script_is_replaced(tmp_path, data_path):
    for name in (str(data_path), str(ROOT / "seed_tasks.jsonl")):
        plot_diversity.plot(name, str(tmp_path / "figure.svg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure.png", "figure.svg"]


def test_an_earlier_figure_survives_a_disk_that_is_full(tmp_path):
    (tmp_path / "figure.png").write_bytes(b"old")

    class Figure:
        def savefig(self, f, **_):
            f.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"figure\.png: No space left on device"):
        save_figure(Figure(), [tmp_path / "figure.png"], "title")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("figure.png", b"old")]


def test_help_loads_neither_matplotlib_nor_the_tagger():
    code = (
        "import sys, plot_diversity; from utils import run_commands\n"
        "try: run_commands({'plot': plot_diversity.plot}, ['plot', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('matplotlib', 'HanTa', 'rapidfuzz', 'torch') if name in sys.modules])"
    )
    result = run_script("-c", code, PAGER="cat")
    assert result.stdout.endswith("[]\n"), result.stdout + result.stderr


def test_the_reference_sample_is_plotted(reference_data, tmp_path, capsys):
    plot_diversity.plot(str(reference_data / "alpaca_sample.json"), str(tmp_path / "figure"))
    assert "| tasks | 1,989 |" in re.sub(" +", " ", capsys.readouterr().out)
