"""Talk to an instruction-following model, in the terminal or on a web page.

python demo.py chat --model_name_or_path <model folder, adapter folder or Hub name>
python demo.py web --model_name_or_path <model> --port 7860
python demo.py web --model_name_or_path <model> --other_model_name_or_path <base>    # side by side
python demo.py chat --model_name <model of the OpenAI-compatible server at OPENAI_BASE_URL>
echo "Name three colours." | python demo.py chat --model_name_or_path <model>

`chat` asks for an instruction and, if you like, an input. Where its standard input is no terminal, every line of it is
an instruction, or instruction, tab, input; instruction and response are printed. Nothing is written to disk.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import contextlib
import html
import json
import sys
from dataclasses import dataclass

from alpaca.inference.local import Decoding, load_model, stream
from alpaca.inference.refusals import PromptRefused
from alpaca.inference.server import ServerModel, chat_message, check_api
from alpaca.inference.web_page import card, check_port, import_gradio, serve, show_markdown, show_text
from utils import UserError, check_ranges, format_prompt, printable, run_commands

NOTICE = (
    "This model makes things up, repeats prejudices of its training data, and has no safety training. "
    "For research only: the instruction data is licensed CC BY-NC 4.0, so commercial use is not allowed."
)
NO_MEMORY = (
    "Each instruction is answered by itself: the model was trained on single instructions, and has not learnt to go on "
    "from earlier ones. What you asked in this visit is listed below, for you alone, and gone with this page."
)

EXAMPLES = [
    ["Explain to a ten-year-old why the sky is blue.", ""],
    ["Turn the sentence into a question.", "The train to Lisbon leaves at nine."],
    ["Write a short thank-you note to a neighbour who watered the plants.", ""],
    ["Sort the words by the number of their letters.", "fig, pineapple, pear, cherry"],
]
MAX_CHARS = 4000  # of instruction and input each, on the web page
MAX_WAITING = 32  # further requests are turned away
MAX_EARLIER = 50  # instructions of a visit that the page keeps
CSS = """
.earlier { margin: 8px 0; }
.earlier summary { cursor: pointer; }
.buttons { gap: 8px !important; flex-wrap: wrap !important; }
.buttons button { flex: 1 1 120px !important; }
"""


# ---- The model ----


def responder(
    model_name_or_path: str | None, model_name: str | None, api: str, cache_dir: str | None, prompt: str = "auto"
):
    """What is asked and how, in words, and respond(instruction, input, decoding, seed): an async iterator of the
    growing response and why it ended, "stop" or "length", or "" before it has. The model is loaded."""
    if (model_name_or_path is None) == (model_name is None):
        raise UserError("name either --model_name_or_path (local) or --model_name (on a server).")
    if model_name is None:
        local = load_model(model_name_or_path, cache_dir, prompt)

        async def respond(instruction: str, input: str, decoding: Decoding, seed: int | None = None):
            responses = stream(local, local.prompt(instruction, input), decoding, seed)
            # In a thread, so that the event loop stays free for other users.
            while (part := await asyncio.to_thread(next, responses, None)) is not None:
                yield part

        form = "the Alpaca prompt" if local.prompt_form == "alpaca" else "its own chat template"
        return f"{model_name_or_path}, asked with {form}", respond

    if prompt != "auto":
        raise UserError("--prompt is about local models; how a server is asked, --api says.")
    check_api(api)
    model = ServerModel(model_name, api, notice=lambda text: print(text, file=sys.stderr))
    asyncio.run(model.check_reachable())

    def respond(instruction: str, input: str, decoding: Decoding, seed: int | None = None):
        prompt, message = format_prompt(instruction, input), chat_message(instruction, input)
        return model.stream(prompt, message, **decoding.openai_arguments())

    return f"{model_name}, on a server, asked in the form that the server's API has", respond


# ---- In the terminal ----


def chat(
    model_name_or_path: str | None = None,
    model_name: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.9,
    seed: int | None = None,
    prompt: str = "auto",
    api: str = "auto",
    cache_dir: str | None = None,
) -> None:
    """Answer instructions in the terminal, one after the other.

    Args:
        model_name_or_path: a model folder, an adapter folder, or a name on the Hub.
        model_name: instead, the model of an OpenAI-compatible server.
        max_new_tokens: longest response, in tokens.
        temperature: 0 always takes the likeliest token; higher is more varied.
        top_p: draw from the likeliest tokens that together have this probability.
        seed: makes the responses of a local model repeatable.
        prompt: how to ask a local model; alpaca, chat (its chat template), or auto: chat where it has one of its own.
        api: how to ask a server; completions, chat, or auto, which begins with chat.
        cache_dir: where models from the Hub are kept.
    """
    decoding = Decoding(max_new_tokens, temperature, top_p)
    about, respond = responder(model_name_or_path, model_name, api, cache_dir, prompt)
    with asyncio.Runner() as runner:

        def answer(instruction: str, input: str) -> None:
            runner.run(show(respond(instruction, input, decoding, seed)))

        if sys.stdin.isatty():
            converse(answer, about)
        else:
            answer_lines(sys.stdin.buffer, answer)


def answer_lines(lines, answer) -> None:
    """Print instruction and response for every line, in bytes, `instruction` or `instruction<tab>input`."""
    for number, line in enumerate(lines, start=1):
        try:
            line = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"standard input, line {number}, byte {error.start}: not UTF-8 text.") from None
        instruction, _, input = (part.strip() for part in line.partition("\t"))
        if not instruction:
            continue
        print(f"Instruction: {printable(instruction)}" + (f"\nInput: {printable(input)}" if input else ""))
        try:
            print("Response: ", end="", flush=True)
            answer(instruction, input)
        except PromptRefused as error:
            print(f"[{error}]")
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
        print()


def converse(answer, about: str) -> None:
    """Ask for an instruction and an input, show the response, and so on until the end of the input (Ctrl-D)."""
    import readline  # noqa: F401  gives input() its line editing and history

    print(f"{NOTICE}\n\nModel: {about}.")
    print("Ctrl-C stops a response or drops a line that you have begun, Ctrl-D ends the conversation.")
    while True:
        try:
            print()
            instruction = input("Instruction: ").strip()
            if not instruction:
                continue
            context = input("Input (Enter for none): ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            print("[not UTF-8 text]")
            continue
        print("Response: ", end="", flush=True)
        try:
            answer(instruction, context)
        except UserError as error:
            print(f"[{error}]")
        except KeyboardInterrupt:
            print(" [stopped]")


async def show(responses) -> None:
    """Print a growing response as it grows."""
    shown = ""
    async with contextlib.aclosing(responses):  # stopped, it closes its connection at once
        async for response, ended in responses:
            text = printable(response, keep="\n\t")
            if not text.startswith(shown):  # what was shown has turned out to be the model's reasoning
                print("\n\n", end="")
                shown = ""
            print(text[len(shown) :], end="", flush=True)
            shown = text
            if ended == "length":
                print(" [cut off at --max_new_tokens]", end="")
    print()


# ---- On a web page ----


def web(
    model_name_or_path: str | None = None,
    other_model_name_or_path: str | None = None,
    model_name: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_concurrent_generations: int = 2,
    host: str = "127.0.0.1",
    port: int = 7860,
    prompt: str = "auto",
    password: str | None = None,
    api: str = "auto",
    cache_dir: str | None = None,
) -> None:
    """Answer instructions on a web page, for several people at once.

    Args:
        model_name_or_path: a model folder, an adapter folder, or a name on the Hub.
        other_model_name_or_path: a second one, in memory as well, whose responses stand beside the first one's.
        model_name: instead of the first, the model of an OpenAI-compatible server.
        max_new_tokens: the longest response that a user can ask for, in tokens.
        temperature: where the page's slider begins; 0 always takes the likeliest token.
        top_p: where the page's slider begins; draw from the likeliest tokens that together have this probability.
        max_concurrent_generations: instructions answered at the same time; other users wait in line.
        host: address to serve at; 0.0.0.0 lets in whoever reaches this machine.
        port: port to serve at.
        prompt: how to ask a local model; alpaca, chat (its chat template), or auto: chat where it has one of its own.
        password: what visitors have to log in with, under any name.
        api: how to ask a server; completions, chat, or auto, which begins with chat.
        cache_dir: where models from the Hub are kept.
    """
    defaults = Decoding(max_new_tokens, temperature, top_p)
    check_ranges({"max_concurrent_generations": max_concurrent_generations}, {"max_concurrent_generations": (1, 1000)})
    check_port(host, port)
    models = [responder(model_name_or_path, model_name, api, cache_dir, prompt)]
    if other_model_name_or_path is not None:
        local_prompt = prompt if model_name is None else "auto"
        models.append(responder(other_model_name_or_path, None, api, cache_dir, local_prompt))
    serve(build_page(models, defaults, max_concurrent_generations), host, port, CSS, password=password)


async def in_turns(streams: list):
    """What all streams of (response, why it ended) have come to, a list of the same length, whenever one has grown. A
    stream that fails with a UserError ends with it in brackets; the others go on."""
    latest = [("", "")] * len(streams)
    async with contextlib.AsyncExitStack() as stack:
        running = {i: await stack.enter_async_context(contextlib.aclosing(s)) for i, s in enumerate(streams)}
        while running:
            for i, stream in list(running.items()):
                try:
                    latest[i] = await anext(stream)
                except StopAsyncIteration:
                    del running[i]
                    continue
                except UserError as error:
                    del running[i]
                    latest[i] = (f"{latest[i][0]}\n\n[{error}]".strip(), "error")
                yield list(latest)


@dataclass
class Answered:
    """An instruction of a visit, and the response of each model, as far as it has come."""

    instruction: str
    input: str
    cards: list[str]  # HTML


def response_cards(responses: list[tuple[str, str]], max_new_tokens: int) -> list[str]:
    """The HTML of each (response, why it ended)."""
    cards = []
    for number, (response, ended) in enumerate(responses, start=1):
        title = "Response" if len(responses) == 1 else f"Response of model {number}"
        cut = f", cut off after {max_new_tokens:,} tokens" if ended == "length" else ""
        cards.append(card(title + cut, show_markdown(response)))
    return cards


def show_earlier(visit: list[Answered]) -> str:
    """The HTML of what was answered in a visit, the latest first, to be unfolded."""
    folded = []
    for answered in reversed(visit):
        beginning = html.escape(" ".join(answered.instruction.split())[:80])
        asked = show_text("\n\n".join(filter(None, (answered.instruction, answered.input))))
        body = card("Instruction", asked) + "".join(answered.cards)
        folded.append(f"<details class='earlier'><summary>{beginning}</summary>{body}</details>")
    return f"<b>Earlier in this visit</b>{''.join(folded)}" if folded else ""


def build_page(models: list[tuple], defaults: Decoding, max_concurrent_generations: int):
    """The page: instruction, input, the responses of one or two models as they are written, how they are decoded, and
    what was asked before. models: what responder() returns for each."""
    gr = import_gradio()
    places = asyncio.Semaphore(max_concurrent_generations)  # here, whichever way a request has come

    async def answer(instruction, input, temperature, top_p, max_new_tokens, visit, event: gr.EventData):
        if event.target is again and visit:
            instruction, input = visit[-1].instruction, visit[-1].input
        # What arrives need not come from the page: it may be too long, no text at all, or half a surrogate pair.
        asked = [(text or "").encode("utf-8", "replace").decode().strip() for text in (instruction, input)]
        try:
            if not asked[0]:
                raise UserError("Please write an instruction first.")
            if max(map(len, asked)) > MAX_CHARS:
                raise UserError(f"Instruction and input can have {MAX_CHARS:,} characters each.")
            decoding = Decoding(int(min(defaults.max_new_tokens, max_new_tokens)), temperature, top_p)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        answered = Answered(*asked, response_cards([("", "")] * len(models), 0))
        yield [*answered.cards, show_earlier(visit), *[gr.update(interactive=False)] * 2]
        # Before it is complete, so that a response that is stopped is kept as far as it has come.
        visit.append(answered)
        del visit[:-MAX_EARLIER]
        streams = [respond(*asked, decoding) for _, respond in models]
        async with places, contextlib.aclosing(in_turns(streams)) as turns:
            async for turn in turns:
                answered.cards = response_cards(turn, decoding.max_new_tokens)
                # Not the buttons again: such a piece could arrive after a press of Stop, and lock them for good.
                yield [*answered.cards, *[gr.skip()] * 3]
        yield [*answered.cards, gr.skip(), *[gr.update(interactive=True)] * 2]

    with gr.Blocks(title="Alpaca", analytics_enabled=False) as page:
        gr.Markdown("# Talk to an instruction-following model")
        labels = ["Model"] if len(models) == 1 else ["Model 1", "Model 2"]
        abouts = [f"{label}: {about}" for label, (about, _) in zip(labels, models, strict=True)]
        gr.HTML("".join(f'<div class="notice">{html.escape(text)}</div>' for text in (*abouts, NOTICE, NO_MEMORY)))
        instruction = gr.Textbox(
            label="Instruction",
            info="Enter begins a new line, Shift+Enter asks for the response.",
            lines=2,
            max_length=MAX_CHARS,
            autofocus=True,
            elem_id="instruction",
        )
        input = gr.Textbox(label="Input (optional)", lines=2, max_length=MAX_CHARS, elem_id="input")
        with gr.Row(elem_classes="buttons"):
            run = gr.Button("Respond", variant="primary", elem_id="run", min_width=120)
            again = gr.Button("Regenerate", elem_id="again", min_width=120, interactive=False)
            stop = gr.Button("Stop", elem_id="stop", min_width=120)
        with gr.Row(elem_classes="responses"):
            responses = [gr.HTML(elem_id=f"response-{number}") for number in range(1, len(models) + 1)]
        with gr.Row():
            settings = [
                gr.Slider(0, 2, defaults.temperature, step=0.05, label="Temperature", min_width=200),
                gr.Slider(0.05, 1, max(0.05, defaults.top_p), step=0.05, label="Top-p", min_width=200),
                gr.Slider(
                    1,
                    defaults.max_new_tokens,
                    defaults.max_new_tokens,
                    step=1,
                    label="Longest response (tokens)",
                    min_width=200,
                ),
            ]
        earlier = gr.HTML(elem_id="earlier")
        examples = gr.Dataset(components=[instruction, input], samples=EXAMPLES, label="Examples")
        # In the browser alone: gr.Examples would ask the server past the queue, which is closed.
        pick = f"(i) => {json.dumps(EXAMPLES)}[i]"
        examples.click(None, examples, [instruction, input], js=pick, api_visibility="private")
        visit = gr.State([])
        page.queue(max_size=MAX_WAITING, default_concurrency_limit=max_concurrent_generations)
        options = {"api_visibility": "private", "concurrency_id": "responses", "show_progress": "minimal"}
        options |= {"concurrency_limit": max_concurrent_generations, "show_progress_on": responses}
        triggers = [run.click, again.click, instruction.submit, input.submit]
        outputs = [*responses, earlier, run, again]
        # One event for all, so that none is taken while a response is written.
        event = gr.on(triggers, answer, [instruction, input, *settings, visit], outputs, trigger_mode="once", **options)
        unlock = "() => Array(2).fill({__type__: 'update', interactive: true})"
        stop.click(None, None, [run, again], cancels=event, js=unlock, api_visibility="private")
    return page


if __name__ == "__main__":
    run_commands({"chat": chat, "web": web})
