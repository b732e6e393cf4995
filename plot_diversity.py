"""Plot what the instructions of a data file ask for: root verbs, inside, and their direct objects, outside.

Run:
    python plot_diversity.py plot --data_path ./alpaca_data.json --output_path ./assets/diversity
    python plot_diversity.py plot --data_path ./regen.json --output_path ./out/regen --compare_paths ./seed_tasks.jsonl
Written: the figure as <output_path>.png and .svg. Printed: a Markdown table of diversity, one column per data file.

A data file is a JSON list, JSON lines or Parquet, such as alpaca_data.json, regen.json or seed_tasks.jsonl, or the
name of a dataset on the Hub, such as tatsu-lab/alpaca.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import functools
import itertools
import math
import os
import typing
from pathlib import Path

import numpy as np

from alpaca.examples import FIELDS, read_entries
from alpaca.generation.novelty import nearest_neighbours
from alpaca.generation.root_verbs import Pair, root_verbs
from utils import UserError, check_figure_path, os_errors_in_one_line, run_commands, save_figure

NUM_VERBS = 20
NUM_OBJECTS = 4  # per verb

# In inches. A README shows the figure about 830 pixels wide, where a point of text is about 1.3 pixels high.
FIGURE_WIDTH, FIGURE_HEIGHT = 9.0, 9.7
RADII = 0.75, 2.35, 4.3  # where the verbs start, where they end and the objects start, where these end
MIN_FONT, MAX_FONT = 8.0, 13.0  # in points
LINE_HEIGHT = 1.15  # of a label, in units of its font size
MARGIN = 0.1  # between a label and the ends of its ring
MAX_LETTERS = 24
WEIGHTS = "bold", "normal"  # of the labels of the inner and the outer ring

QUANTILES = 0.1, 0.5, 0.9

TITLE = "Root verbs and direct objects of instructions"  # in the files' metadata, which shows whose they are


class Group(typing.NamedTuple):
    """A root verb, how many instructions have it with a direct object, and its most frequent objects with counts."""

    verb: str
    count: int
    objects: list[tuple[str, int]]


class Wedge(typing.NamedTuple):
    label: str
    start: float  # in degrees, clockwise from the top
    end: float
    hue: float  # 0 to 1, that of its verb


def load_tasks(data_path: str) -> list[dict[str, str]]:
    """Instruction, input and output of each task of a file or a dataset on the Hub; of seed tasks, the first instance
    counts. Raises UserError for a file that cannot be read, or an entry without an instruction."""
    return [example for _, _, example in read_entries(data_path, optional=("input", "output"))]


def most_frequent(pairs: list[Pair]) -> list[Group]:
    """The root verbs that have objects most often, each with its most frequent ones."""
    counts = collections.Counter((verb, obj) for verb, obj in pairs if obj is not None)
    verbs = collections.Counter(verb for verb, obj in pairs if obj is not None)
    # Equal counts in alphabetical order: the figure is the same in every run.
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    chosen = sorted(verbs, key=lambda verb: (-verbs[verb], verb))[:NUM_VERBS]
    return [Group(v, verbs[v], [(obj, n) for (verb, obj), n in order if verb == v][:NUM_OBJECTS]) for v in chosen]


def lay_out(groups: list[Group]) -> tuple[list[Wedge], list[Wedge]]:
    """The wedges of the inner ring and of the outer one.

    Angles are in proportion to the objects' counts, but none is narrower than a label in the smallest font.
    """
    counts = [count for group in groups for _, count in group.objects]
    floors = [
        max(_min_angle(_label(obj, n), ring=1), _min_angle(_label(verb, count), ring=0) / len(objects))
        for verb, count, objects in groups
        for obj, n in objects
    ]
    angles = iter(_proportional(counts, floors, 360.0))
    inner, outer, start = [], [], 0.0
    for verb, verb_count, objects in groups:
        ends = list(itertools.accumulate(itertools.islice(angles, len(objects)), initial=start))
        hue = (start + ends[-1]) / 2 / 360  # verbs side by side differ the more, the wider they are
        inner.append(Wedge(_label(verb, verb_count), start, ends[-1], hue))
        for (obj, count), edges in zip(objects, itertools.pairwise(ends), strict=True):
            outer.append(Wedge(_label(obj, count), *edges, hue))
        start = ends[-1]
    return inner, outer


def _label(word: str, count: int) -> str:
    return f"{_shorten(word, MAX_LETTERS)} {count:,}"


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _min_angle(label: str, ring: int) -> float:
    """The angle in degrees that a label takes in the smallest font."""
    inner_end = max(_outer_end(ring) - _text_width(label, ring) * MIN_FONT / 72, RADII[ring] + MARGIN)
    return math.degrees(MIN_FONT * LINE_HEIGHT / 72 / inner_end)


def _outer_end(ring: int) -> float:
    """The radius where labels end: near the outer edge, where the ring is wider."""
    return RADII[ring + 1] - MARGIN


def _proportional(counts: list[int], floors: list[float], total: float) -> list[float]:
    """Numbers with the given sum, each in proportion to its count where that is not below its floor.

    >>> _proportional([8, 4, 1], [2.0, 2.0, 2.0], 14.0)
    [8.0, 4.0, 2.0]
    """
    at_floor = [False] * len(counts)
    while True:
        rest = total - sum(floor for floor, low in zip(floors, at_floor, strict=True) if low)
        scale = rest / max(1, sum(count for count, low in zip(counts, at_floor, strict=True) if not low))
        below = [low or n * scale < f for n, f, low in zip(counts, floors, at_floor, strict=True)]
        if below == at_floor:
            return [f if low else n * scale for n, f, low in zip(counts, floors, at_floor, strict=True)]
        at_floor = below


def draw(groups: list[Group], caption: str):
    """The figure: a matplotlib Figure with both rings and the caption under them."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Wedge as WedgePatch

    figure = Figure(figsize=(FIGURE_WIDTH, FIGURE_HEIGHT), facecolor="white")
    axes = figure.add_axes((0, 1 - FIGURE_WIDTH / FIGURE_HEIGHT, 1, FIGURE_WIDTH / FIGURE_HEIGHT))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-FIGURE_WIDTH / 2, FIGURE_WIDTH / 2)  # so that a unit is an inch
    axes.set_ylim(-FIGURE_WIDTH / 2, FIGURE_WIDTH / 2)
    for ring, wedges in enumerate(lay_out(groups)):
        for wedge in wedges:
            width = RADII[ring + 1] - RADII[ring]
            patch = WedgePatch((0, 0), RADII[ring + 1], 90 - wedge.end, 90 - wedge.start, width=width)
            patch.set(facecolor=_color(wedge.hue, ring), edgecolor="white", linewidth=0.8)
            axes.add_patch(patch)
            _write_label(axes, wedge, ring)
    style = {"fontsize": 9.5, "color": "#333333", "linespacing": 1.4, "parse_math": False}  # a "$" is a "$"
    figure.text(0.5, 0.012, caption, ha="center", va="bottom", **style)
    return figure


def _color(hue: float, ring: int) -> tuple[float, ...]:
    """All hues are of about the same lightness; the outer ring is paler."""
    middle, spread = (0.72, 0.24) if ring == 0 else (0.87, 0.12)
    return tuple(middle + spread * math.cos(2 * math.pi * (hue + third / 3)) for third in range(3))


def _write_label(axes, wedge: Wedge, ring: int) -> None:
    """The label of a wedge, along its radius, in the largest font that fits it."""
    angle = math.radians(wedge.end - wedge.start)
    width = _text_width(wedge.label, ring)
    font_size = min(
        MAX_FONT,
        (RADII[ring + 1] - RADII[ring] - 2 * MARGIN) * 72 / width,
        72 * angle * _outer_end(ring) / (LINE_HEIGHT + width * angle),  # as high as the wedge at the label's inner end
    )
    radius = _outer_end(ring) - width * font_size / 72 / 2
    middle = 90 - (wedge.start + wedge.end) / 2  # counter-clockwise from the right, as matplotlib has it
    axes.text(
        radius * math.cos(math.radians(middle)),
        radius * math.sin(math.radians(middle)),
        wedge.label,
        rotation=middle if middle >= -90 else middle + 180,  # never upside down
        rotation_mode="anchor",
        ha="center",
        va="center_baseline",
        fontsize=font_size,
        fontweight=WEIGHTS[ring],
        color="#1a1a1a",
    )


@functools.cache
def _text_width(text: str, ring: int) -> float:
    """In units of the font size."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=100, prop=FontProperties(weight=WEIGHTS[ring])).get_extents().width / 100


def check_paths(output_path: str) -> list[Path]:
    """The paths of the figure, as PNG and as SVG, in a folder that is made where there is none.

    Raises UserError where one cannot be written, or is there and is no figure of this script's making.
    """
    output = Path(output_path.removesuffix(".png").removesuffix(".svg"))
    if output.is_dir():
        raise UserError(f"--output_path {output}: a folder. Name the figure in it, such as {output / 'diversity'}.")
    with os_errors_in_one_line(output.parent, "There is no folder there, and none can be made."):
        output.parent.mkdir(parents=True, exist_ok=True)
    paths = [output.with_name(output.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        check_figure_path(path, TITLE)
    return paths


def measure(tasks: list[dict[str, str]], pairs: list[Pair], num_cpus: int) -> dict[str, str]:
    """The rows of the table of diversity for one data file."""
    nearest = nearest_neighbours([task["instruction"] for task in tasks], num_cpus)
    rows = {
        "tasks": f"{len(tasks):,}",
        "with an input": _percent(sum(bool(task["input"]) for task in tasks), len(tasks)),
        "with a root verb": _percent(sum(verb is not None for verb, _ in pairs), len(tasks)),
        "with a root verb and a direct object": _percent(sum(obj is not None for _, obj in pairs), len(tasks)),
        "distinct root verbs": f"{len({verb for verb, _ in pairs if verb}):,}",
        "distinct verb-object pairs": f"{len({pair for pair in pairs if pair[1]}):,}",
        "ROUGE-L to the nearest neighbour, mean / highest": f"{nearest.mean():.2f} / {nearest.max():.2f}",
    }
    for part in FIELDS:
        lengths = [len(task[part].split()) for task in tasks if task[part]]
        name = f"words per {part}, " + " / ".join(f"{q:.0%}" for q in QUANTILES)
        rows[name] = " / ".join(f"{quantile:.0f}" for quantile in np.quantile(lengths, QUANTILES)) if lengths else "-"
    return rows


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


def markdown_table(columns: dict[str, dict[str, str]]) -> str:
    """Measures as rows, files as columns, aligned for a terminal."""
    names = list(next(iter(columns.values())))
    lines = [["", *columns], *[[name, *[column[name] for column in columns.values()]] for name in names]]
    first, *others = (max(map(len, cells)) for cells in zip(*lines, strict=True))
    rule = ["-" * first, *["-" * (width - 1) + ":" for width in others]]
    lines = [
        [line[0].ljust(first), *[cell.rjust(width) for cell, width in zip(line[1:], others, strict=True)]]
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def make_caption(name: str, pairs: list[Pair], groups: list[Group]) -> str:
    num_shown = sum(count for group in groups for _, count in group.objects)
    num_pairs = sum(obj is not None for _, obj in pairs)
    return (
        f"Root verbs and direct objects of the instructions in {_shorten(name, 40)}\n"
        f"Inside: the {len(groups)} most frequent root verbs that have a direct object. Outside: the most frequent "
        f"objects of each, up to {NUM_OBJECTS}.\n"
        f"Shown: {num_shown:,} of {len(pairs):,} instructions. A root verb with a direct object was found in "
        f"{_percent(num_pairs, len(pairs))} of them, by part-of-speech tags and rules.\n"
        "Numbers count instructions. The outer angles are in proportion to them, but none is narrower than its label."
    )


def plot(
    data_path: str = "./alpaca_data.json",
    output_path: str = "./assets/diversity",
    compare_paths: str | None = None,
) -> None:
    """Draw the root verbs and direct objects of a data file, and print a table of its diversity.

    Args:
        data_path: JSON list, JSON lines or Parquet with an "instruction" in each entry, or a dataset on the Hub.
        output_path: the figure is written there, with .png and .svg added.
        compare_paths: further data files, with commas between, as further columns of the table.
    """
    written = check_paths(output_path)
    num_cpus = os.cpu_count() or 1
    paths = [data_path, *filter(None, map(str.strip, (compare_paths or "").split(",")))]
    files = [load_tasks(path) for path in paths]
    pairs = [root_verbs([task["instruction"] for task in tasks], num_cpus) for tasks in files]
    groups = most_frequent(pairs[0])
    if not groups:
        raise UserError(f"{data_path}: no instruction has a verb with a direct object. Are the instructions English?")
    figure = draw(groups, make_caption(Path(data_path).name, pairs[0], groups))
    save_figure(figure, written, TITLE)
    print(f"Wrote {written[0]} and {written[1]}.")

    columns = {}
    for path, tasks, pairs_of_file in zip(paths, files, pairs, strict=True):
        name = Path(path).name
        columns[path if name in columns else name] = measure(tasks, pairs_of_file, num_cpus)
    print("\n" + markdown_table(columns))


if __name__ == "__main__":
    run_commands({"plot": plot})
