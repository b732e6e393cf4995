"""Talk to an instruction-following model, in the terminal or on a web page.

python demo.py chat --model_name_or_path <model folder, adapter folder or Hub name>
python demo.py web --model_name_or_path <model> --port 7860
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

from alpaca.inference.local import Decoding, load_model, stream
from alpaca.inference.refusals import PromptRefused
from alpaca.inference.server import ServerModel, chat_message, check_api
from utils import UserError, check_ranges, format_prompt, printable, run_commands

NOTICE = (
    "This model makes things up, repeats prejudices of its training data, and has no safety training. "
    "For research only: the instruction data is licensed CC BY-NC 4.0, so commercial use is not allowed."
)


EXAMPLES = [
    ["Explain to a ten-year-old why the sky is blue.", ""],
    ["Turn the sentence into a question.", "The train to Lisbon leaves at nine."],
    ["Write a short thank-you note to a neighbour who watered the plants.", ""],
    ["Sort the words by the number of their letters.", "fig, pineapple, pear, cherry"],
]
MAX_CHARS = 4000  # of instruction and input each, on the web page
MAX_WAITING = 32  # further requests are turned away
CSS = """
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
    decoding.check()
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
        model_name: instead, the model of an OpenAI-compatible server.
        max_new_tokens: the longest response that a user can ask for, in tokens.
        temperature: where the page's slider begins; 0 always takes the likeliest token.
        top_p: where the page's slider begins; draw from the likeliest tokens that together have this probability.
        max_concurrent_generations: responses written at the same time; other users wait in line.
        host: address to serve at; 0.0.0.0 lets in whoever reaches this machine.
        port: port to serve at.
        prompt: how to ask a local model; alpaca, chat (its chat template), or auto: chat where it has one of its own.
        password: what visitors have to log in with, under any name.
        api: how to ask a server; completions, chat, or auto, which begins with chat.
        cache_dir: where models from the Hub are kept.
    """
    from alpaca.inference.web_page import check_port, serve

    Decoding(max_new_tokens, temperature, top_p).check()
    check_ranges({"max_concurrent_generations": max_concurrent_generations}, {"max_concurrent_generations": (1, 1000)})
    check_port(host, port)
    about, respond = responder(model_name_or_path, model_name, api, cache_dir, prompt)
    defaults = Decoding(max_new_tokens, temperature, top_p)
    serve(build_page(about, respond, defaults, max_concurrent_generations), host, port, CSS, password=password)


def build_page(about: str, respond, defaults: Decoding, max_concurrent_generations: int):
    """The page: instruction, input, the response as it is written, and how it is decoded."""
    from alpaca.inference.web_page import import_gradio

    gr = import_gradio()
    places = asyncio.Semaphore(max_concurrent_generations)  # here, whichever way a request has come

    async def answer(instruction: str, input: str, temperature: float, top_p: float, max_new_tokens: float):
        # No text at all, or half a surrogate pair, may come from elsewhere than the page.
        texts = [(text or "").encode("utf-8", "replace").decode().strip() for text in (instruction, input)]
        instruction, input = texts
        if not instruction:
            raise gr.Error("Please write an instruction first.", print_exception=False)
        # The page limits these too, but what arrives need not come from the page.
        if max(len(instruction), len(input)) > MAX_CHARS:
            raise gr.Error(f"Instruction and input can have {MAX_CHARS:,} characters each.", print_exception=False)
        decoding = Decoding(int(min(defaults.max_new_tokens, max_new_tokens)), temperature, top_p)
        try:
            decoding.check()
            yield "", gr.update(interactive=False)
            async with places, contextlib.aclosing(respond(instruction, input, decoding)) as responses:
                async for response, ended in responses:
                    cut = f", cut off after {decoding.max_new_tokens:,} tokens" if ended == "length" else ""
                    # Not the button again: such a piece could arrive after a press of Stop, and lock it for good.
                    yield gr.update(value=response, label=f"Response{cut}"), gr.skip()
            yield gr.skip(), gr.update(interactive=True)
        except UserError as error:
            yield gr.skip(), gr.update(interactive=True)
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    with gr.Blocks(title="Alpaca", analytics_enabled=False) as page:
        gr.Markdown("# Talk to an instruction-following model")
        gr.HTML(f'<div class="notice">Model: {html.escape(about)}</div><div class="notice">{html.escape(NOTICE)}</div>')
        # Text boxes show a response as text, whatever is in it.
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
            stop = gr.Button("Stop", elem_id="stop", min_width=120)
        response = gr.Textbox(
            label="Response", lines=6, max_lines=30, interactive=False, buttons=["copy"], elem_id="response"
        )
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
        examples = gr.Dataset(components=[instruction, input], samples=EXAMPLES, label="Examples")
        # In the browser alone: gr.Examples would ask the server past the queue, which is closed.
        pick = f"(i) => {json.dumps(EXAMPLES)}[i]"
        examples.click(None, examples, [instruction, input], js=pick, api_visibility="private")
        page.queue(max_size=MAX_WAITING, default_concurrency_limit=max_concurrent_generations)
        options = {"api_visibility": "private", "concurrency_id": "responses", "show_progress": "minimal"}
        options["concurrency_limit"] = max_concurrent_generations
        triggers = [run.click, instruction.submit, input.submit]
        # One event for all three, so that none is taken while a response is written.
        event = gr.on(
            triggers, answer, [instruction, input, *settings], [response, run], trigger_mode="once", **options
        )
        unlock = "() => ({__type__: 'update', interactive: true})"
        stop.click(None, None, run, cancels=event, js=unlock, api_visibility="private")
    return page


if __name__ == "__main__":
    run_commands({"chat": chat, "web": web})
