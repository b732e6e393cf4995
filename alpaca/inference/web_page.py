"""How the web pages are served: with Gradio, from this machine alone, for the people who can reach it and nobody else.

No analytics, no fonts or scripts from elsewhere, no tunnel, no API for programs, and the loopback interface unless
another one is named.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import os
import socket
import typing

from utils import UserError

if typing.TYPE_CHECKING:
    import gradio

CSS = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important;
                    padding: 0 !important; box-sizing: border-box; }
.gradio-container .main { padding: 0 !important; }
.gradio-container main { padding: 12px 14px !important; box-sizing: border-box; }
footer { display: none !important; }
.notice { font-size: 0.9em; line-height: 1.45; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; }
.gradio-container [class*="info"], .gradio-container ::placeholder { color: var(--body-text-color-subdued) !important; }
h1 { font-size: 1.5em !important; margin: 0.2em 0 !important; }
"""
# Texts on their backgrounds have a contrast of at least 4.5, as WCAG 2 asks; Gradio's own colours have not.
READABLE = {
    f"{name}{scheme}": color
    for scheme, text, panel in (("", "#3f3f46", "#fafafa"), ("_dark", "#d4d4d8", "#27272a"))
    for name, color in {
        "body_text_color_subdued": text,
        "block_label_text_color": text,
        "block_label_background_fill": panel,
        "block_title_text_color": text,
        "block_title_background_fill": panel,
        "block_info_text_color": text,
        "button_primary_background_fill": "#b93815",
        "button_primary_background_fill_hover": "#9a2f10",
        "button_primary_text_color": "#ffffff",
    }.items()
}


def check_port(host: str, port: int) -> None:
    """Raise UserError where the page cannot be served, before a model is loaded for it."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port}: takes a number from 1 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(address)
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}, port {port} ({error.strerror or error}). Name another --port or --host."
        ) from None


def import_gradio():
    """Gradio, told not to report its use to anybody; it reads these when it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio


def serve(page: "gradio.Blocks", host: str, port: int, css: str = "", head: str = "") -> None:
    """Serve a page until Ctrl-C or SIGTERM."""
    import signal
    import threading

    import gradio

    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(**READABLE)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            theme=theme,
            css=CSS + css,
            head=head,
            footer_links=[],
            run_history=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise UserError(f"cannot serve at {host}, port {port} ({error}). Name another --port or --host.") from None
    print(f"open http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port} in a browser; Ctrl-C ends", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    page.close(verbose=False)
