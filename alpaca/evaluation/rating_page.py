"""A blind evaluation on a web page: people say which of two responses is better, without knowing who wrote which.

What the browser gets of a pair is its position in the rater's own random order and the texts, nothing of the models.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import html
import random
import re
import threading
import typing
from dataclasses import dataclass

from alpaca.evaluation.predictions import Pair
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
HEAD = """<script>
let pressed = -Infinity, shown = 0;  // when the last press counted, and when its pair showed
const showed = () => { shown = performance.now(); window.scrollTo(0, 0); };
document.addEventListener("click", (event) => {
  if (!event.target.closest || !event.target.closest(".votes button")) return;
  const now = performance.now(), isWaiting = shown < pressed && now - pressed < 10000;
  if (isWaiting || now - shown < %d) { event.preventDefault(); event.stopImmediatePropagation(); return; }
  pressed = now;
}, true);
document.addEventListener("keydown", (event) => {
  const keys = %s;
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const button = document.getElementById("vote-" + keys[event.key]);
  if (button && button.offsetParent && !button.disabled) { event.preventDefault(); button.click(); }
});
</script>"""


@dataclass(frozen=True)
class View:
    """What a rater sees: the position of the pair in this rater's order, how many there are, and the texts."""

    position: int
    total: int
    instruction: str
    input: str
    responses: tuple[str, str]  # left, right


class BlindEvaluation:
    """The pairs, the votes on disk, and who sees what next; any number of raters and threads at once."""

    def __init__(self, pairs: list[Pair], file: AppendOnlyFile, seed: int):
        self._pairs, self._file, self._seed = pairs, file, seed
        self._lock = threading.Lock()
        self._orders: dict[str, list[tuple[Pair, int]]] = {}
        self._voted: dict[str, set[str]] = {}
        for row in last_votes(file.rows):
            self._voted.setdefault(row["rater"], set()).add((row["instruction"], row["input"]))

    def order(self, rater: str) -> list[tuple[Pair, int]]:
        """The pairs in this rater's order, each with the number of the model on the left. It depends on seed, rater
        and instructions alone, so that it is the same after a restart."""
        if rater not in self._orders:
            drawn = []
            for pair in self._pairs:
                draw = random.Random(f"{self._seed}\0{rater}\0{pair.task.text}")
                drawn.append((draw.random(), pair, draw.choice((1, 2))))
            self._orders[rater] = [(pair, first) for _, pair, first in sorted(drawn, key=lambda entry: entry[0])]
        return self._orders[rater]

    def next_view(self, rater: str) -> View | None:
        """The first pair in the rater's order without a vote; None when all have one."""
        order, voted = self.order(rater), self._voted.get(rater, set())
        for position, (pair, first) in enumerate(order):
            if (pair.task.instruction, pair.task.input) not in voted:
                responses = pair.outputs if first == 1 else pair.outputs[::-1]
                return View(position, len(order), pair.task.instruction, pair.task.input, responses)
        return None

    def withdraw(self, rater: str) -> bool:
        """Take back the rater's vote on the last pair that has one, in the file as well; False where there is none."""
        with self._lock:
            voted = self._voted.get(rater, set())
            for pair, first in reversed(self.order(rater)):
                if (key := (pair.task.instruction, pair.task.input)) in voted:
                    self._append(rater, pair, first, WITHDRAWN)
                    voted.remove(key)
                    return True
        return False

    def _append(self, rater: str, pair: Pair, first: int, verdict: str) -> None:
        task = {"instruction": pair.task.instruction, "input": pair.task.input}
        self._file.append({"rater": rater, **task, "first": first, "verdict": verdict, "lengths": pair.lengths})

    def vote(self, rater: str, position: int, verdict: str) -> bool:
        """Save a vote; it is on disk when this returns. False, and nothing saved, where the rater has voted on that
        pair already, as with a double click or in a second window."""
        order = self.order(rater)
        if verdict not in BUTTONS or verdict == WITHDRAWN or not 0 <= position < len(order):
            return False
        pair, first = order[position]
        key = (pair.task.instruction, pair.task.input)
        with self._lock:
            if key in self._voted.setdefault(rater, set()):
                return False
            self._append(rater, pair, first, verdict)
            self._voted[rater].add(key)
        return True


def build_page(evaluation: BlindEvaluation) -> "gradio.Blocks":
    """The page: a name to begin with, then pair after pair, then thanks."""
    gr = import_gradio()

    def show(rater: str) -> dict:
        view = evaluation.next_view(rater)
        if view is None:
            thanks = f"All {len(evaluation.order(rater))} pairs are done. Thank you! You can close this page."
            groups = {start_group: gr.update(visible=False), rating_group: gr.update(visible=False)}
            return {**groups, done_group: gr.update(visible=True), message: thanks}
        return {
            start_group: gr.update(visible=False),
            rating_group: gr.update(visible=True),
            done_group: gr.update(visible=False),
            position: str(view.position),
            message: f"Pair {view.position + 1} of {view.total}",
            task: "".join(
                card(title, show_text(text))
                for title, text in (("Instruction", view.instruction), ("Input", view.input))
                if text
            ),
            left: card("Response 1", show_markdown(view.responses[0])),
            right: card("Response 2", show_markdown(view.responses[1])),
        }

    def start(name: str | None) -> dict:
        rater = clean(name)
        return show(rater) if rater else {message: "Please enter a name first."}

    def vote(name: str | None, shown_position: str | None, verdict: str) -> dict:
        rater = clean(name)
        if not rater or not (re.fullmatch(r"\d{1,9}", shown_position or "") or verdict == WITHDRAWN):
            return {message: "Please reload the page and enter your name again."}
        try:
            if verdict == WITHDRAWN:
                evaluation.withdraw(rater)
            else:
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
        outputs = [start_group, rating_group, done_group, position, message, task, left, right]
        options = {
            "outputs": outputs,
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


def keyboard() -> str:
    """The script that presses the buttons when their keys are pressed."""
    import json

    return HEAD % (PAUSE_MS, json.dumps({key: verdict for verdict, (_, keys) in BUTTONS.items() for key in keys}))
