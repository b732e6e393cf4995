"""A blind evaluation on a web page: people say which of two responses is better, without knowing who wrote which.

What the browser gets of a pair is its position in the rater's own random order and the texts, nothing of the models.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import html
import json
import random
import re
import threading
import typing

from alpaca.evaluation.predictions import Pair, Task
from alpaca.evaluation.results import WITHDRAWN, last_votes
from alpaca.inference.web_page import card, import_gradio, show_markdown, show_text
from alpaca.row_files import AppendOnlyFile
from utils import UserError, printable

if typing.TYPE_CHECKING:
    import gradio

MAX_NAME_LENGTH = 40
# The verdict, what its button says, and its keys.
BUTTONS = {
    "first": ("1 is better", ["1", "ArrowLeft"]),
    "tie": ("Equally good", ["0", "t"]),
    "second": ("2 is better", ["2", "ArrowRight"]),
    "skip": ("Skip", ["s"]),
    WITHDRAWN: ("Back", ["b", "Backspace"]),
}
PAUSE_MS = 500  # after a pair shows, in which no press counts: it was meant for the one before
CSS = """
#task, #left, #right, #task *, #left *, #right * { min-width: 0; }
/* Always in reach, however long the responses are. */
.votes { position: fixed; bottom: 0; left: 0; right: 0; z-index: 5; max-width: 1036px; margin: 0 auto;
         padding: 8px 14px; gap: 8px !important; flex-wrap: nowrap !important; box-sizing: border-box;
         background: var(--body-background-fill); align-items: stretch !important; }
.gradio-container main { padding-bottom: 76px !important; }
.votes button { flex: 1 1 0 !important; min-width: 0 !important; padding: 6px 2px !important; line-height: 1.2; }
@media (max-width: 600px) {
  .card { padding: 8px 10px; }
  .votes { padding: 5px; gap: 4px !important; }
  .votes button { font-size: 14px !important; }
}
"""
# The script that presses the buttons when their keys are pressed, and lets no press count twice.
KEYS = {key: verdict for verdict, (_, keys) in BUTTONS.items() for key in keys}
SCRIPT = """
let pressed = -Infinity, shown = 0;  // when the last press counted, and when its pair showed
const showed = () => { shown = performance.now(); window.scrollTo(0, 0); };
document.addEventListener("click", (event) => {
  if (!event.target.closest || !event.target.closest(".votes button")) return;
  const now = performance.now(), isWaiting = shown < pressed && now - pressed < 10000;
  if (isWaiting || now - shown < PAUSE_MS) { event.preventDefault(); event.stopImmediatePropagation(); return; }
  pressed = now;
}, true);
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const button = document.getElementById("vote-" + KEYS[event.key]);
  if (button && button.offsetParent && !button.disabled) { event.preventDefault(); button.click(); }
});
"""
HEAD = f"<script>const PAUSE_MS = {PAUSE_MS}, KEYS = {json.dumps(KEYS)};{SCRIPT}</script>"


class BlindEvaluation:
    """The pairs, the votes on disk, and who sees what next; any number of raters and threads at once."""

    def __init__(self, pairs: list[Pair], file: AppendOnlyFile, seed: int):
        self.pairs, self._file, self._seed = pairs, file, seed
        self._lock = threading.Lock()
        self._voted: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
        for row in last_votes(file.rows):
            self._voted[row["rater"]].add((row["instruction"], row["input"]))

    def order(self, rater: str) -> list[tuple[Pair, int]]:
        """The pairs in this rater's order, each with the number of the model on the left. It depends on seed, rater
        and instructions alone, so that it is the same after a restart."""
        drawn = []
        for pair in self.pairs:
            draw = random.Random(f"{self._seed}\0{rater}\0{pair.task.text}")
            drawn.append((draw.random(), pair, draw.choice((1, 2))))
        return [(pair, first) for _, pair, first in sorted(drawn, key=lambda entry: entry[0])]

    def next_view(self, rater: str) -> tuple[int, Task, tuple[str, str]] | None:
        """The first pair in the rater's order without a vote, as its position there, the task, and the responses on
        the left and on the right; None when all have one."""
        for position, (pair, first) in enumerate(self.order(rater)):
            if pair.task not in self._voted[rater]:
                return position, pair.task, pair.outputs if first == 1 else pair.outputs[::-1]
        return None

    def vote(self, rater: str, position: int, verdict: str) -> bool:
        """Save a vote; it is on disk when this returns. WITHDRAWN takes back the last one in the rater's order,
        whatever position says. False, and nothing saved, where there is none, or where the rater has voted on that
        pair already, as with a double click or in a second window."""
        order, is_back = self.order(rater), verdict == WITHDRAWN
        with self._lock:
            voted = self._voted[rater]
            if is_back:
                position = max((i for i, (pair, _) in enumerate(order) if pair.task in voted), default=-1)
            if not 0 <= position < len(order) or (order[position][0].task in voted) != is_back:
                return False
            pair, first = order[position]
            row = {"rater": rater, **pair.task._asdict(), "first": first, "verdict": verdict, "lengths": pair.lengths}
            self._file.append(row)
            voted ^= {pair.task}
        return True


def build_page(evaluation: BlindEvaluation) -> "gradio.Blocks":
    """The page: a name to begin with, then pair after pair, then thanks."""
    gr = import_gradio()

    def show(rater: str) -> dict:
        view, num_pairs = evaluation.next_view(rater), len(evaluation.pairs)
        groups = {
            start_group: gr.update(visible=False),
            rating_group: gr.update(visible=view is not None),
            done_group: gr.update(visible=view is None),
        }
        if view is None:
            thanks = f"All {num_pairs} pairs are done. Thank you! You can close this page."
            return {**groups, position: str(num_pairs), message: thanks}
        shown_position, shown_task, responses = view
        texts = {"Instruction": shown_task.instruction, "Input": shown_task.input}
        return {
            **groups,
            position: str(shown_position),
            message: f"Pair {shown_position + 1} of {num_pairs}",
            task: "".join(card(title, show_text(text)) for title, text in texts.items() if text),
            left: card("Response 1", show_markdown(responses[0])),
            right: card("Response 2", show_markdown(responses[1])),
        }

    def start(name: str | None) -> dict:
        rater = clean(name)
        return show(rater) if rater else {message: "Please enter a name first."}

    def vote(name: str | None, shown_position: str | None, verdict: str) -> dict:
        rater = clean(name)
        if not rater or not re.fullmatch(r"\d{1,9}", shown_position or ""):
            return {message: "Please reload the page and enter your name again."}
        try:
            evaluation.vote(rater, int(shown_position), verdict)
        except UserError as error:  # a full disk: the pair stays until its vote is saved
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        return show(rater)

    with gr.Blocks(title="Which response is better?", analytics_enabled=False) as page:
        gr.Markdown("# Which response is better?")
        message = gr.Markdown("Two responses to the same instruction; say which one you would rather have.")
        with gr.Column() as start_group:
            name = gr.Textbox(
                label="Your name, or any word that is yours alone",
                info="Come back with the same one to go on where you stopped.",
                max_length=MAX_NAME_LENGTH,
                autofocus=True,
            )
            start_button = gr.Button("Start", variant="primary", elem_id="start")
        with gr.Column(visible=False) as rating_group:
            task = gr.HTML(elem_id="task")
            with gr.Row(elem_classes="responses"):
                left, right = gr.HTML(elem_id="left"), gr.HTML(elem_id="right")
            with gr.Row(elem_classes="votes"):
                buttons = {
                    verdict: gr.Button(f"{label} ({keys[0]})", elem_id=f"vote-{verdict}", min_width=120)
                    for verdict, (label, keys) in BUTTONS.items()
                }
            gr.Markdown(
                "Keys: 1 or ← for the first response, 2 or → for the second, 0 or T for a tie, S to skip, B to go back "
                "to the last pair and vote again.",
                elem_classes="notice",
            )
        with gr.Column(visible=False) as done_group:
            last_back = gr.Button("Back to the last pair", elem_id="back-from-end")
        position = gr.Textbox(visible="hidden", elem_id="position")
        options = {
            "outputs": [start_group, rating_group, done_group, position, message, task, left, right],
            "api_visibility": "private",
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        start_button.click(start, name, **options)
        name.submit(start, name, **options)
        for verdict, button in [*buttons.items(), (WITHDRAWN, last_back)]:
            event = button.click(
                lambda name, position, verdict=verdict: vote(name, position, verdict), [name, position], **options
            )
            event.then(None, js="() => showed()", api_visibility="private")
    return page


def clean(name: str | None) -> str:
    return " ".join(printable(name or "").split())[:MAX_NAME_LENGTH]
