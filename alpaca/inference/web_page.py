"""How the web pages are served: with Gradio, from this machine alone, for the people who can reach it and nobody else.

No analytics, no fonts or scripts from elsewhere, no tunnel, no API for programs, no uploads, no requests by the pages
of other sites, and the loopback interface unless another one is named.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import functools
import hmac
import html
import ipaddress
import os
import re
import signal
import socket
import sys
import threading
import typing

from utils import UserError, check_ranges

if typing.TYPE_CHECKING:
    import gradio
    import markdown_it

CSS = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important;
                    padding: 0 !important; box-sizing: border-box; }
.gradio-container .main { padding: 0 !important; }
.gradio-container main { padding: 12px 14px !important; box-sizing: border-box; }
.gradio-container .html-container { padding: 0 !important; }
footer { display: none !important; }
.notice { font-size: 0.9em; line-height: 1.45; }
.card { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 14px; margin-bottom: 10px;
        background: var(--background-fill-secondary); box-sizing: border-box; }
.card > b { display: block; margin-bottom: 4px; }
.responses { gap: 12px !important; align-items: stretch !important; }
.responses > * { flex: 1 1 300px !important; min-width: min(300px, 100%) !important; }
.responses > * > *, .responses .html-container, .responses .prose, .responses .card { height: 100%; }
.text, .markdown { overflow-wrap: anywhere; line-height: 1.5; }
.text, .markdown pre { white-space: pre-wrap; }
.markdown > :first-child { margin-top: 0 !important; }
.markdown h1, .markdown h2, .markdown h3 { font-size: 1.15em !important; margin: 0.8em 0 0.3em !important; }
.markdown pre, .markdown code { background: var(--background-fill-primary); font-size: 0.95em; }
.markdown pre { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 8px 10px; }
.markdown pre code { border: 0; padding: 0; white-space: inherit; }
.markdown table { display: block; overflow-x: auto; border: 0 !important; padding: 0 !important; }
.markdown th, .markdown td { border: 1px solid var(--border-color-primary) !important; padding: 4px 8px !important; }
.card summary { cursor: pointer; font-size: 0.9em; margin-top: 8px; }
.gradio-container [class*="info"], .gradio-container ::placeholder { color: var(--body-text-color-subdued) !important; }
h1 { font-size: 1.5em !important; margin: 0.2em 0 !important; }
"""
NEW_LINE = re.compile(r"\n( *)")
MAX_MARKDOWN_CHARS = 20_000  # longer texts stay as they are: parsing some takes time quadratic in their length
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


# What the pages ask for; Gradio's other addresses (uploads, runs past the queue, proxies, monitoring) are closed.
OPEN_PATHS = re.compile(
    r"/|/(config|login|logout|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon.*)|/gradio_api/"
    r"(queue/(join|data)|cancel|reset|startup-events|theme\.css|heartbeat/\w+)"
)
OPEN_FOLDERS = ("/assets/", "/static/", "/svelte/")


class SameSiteOnly:
    """ASGI middleware that lets through what the pages themselves ask for, and answers 403, 404 or 413 to the rest.

    A page of another site reaches a server on the visitor's machine by a name of its own that resolves to this machine
    (DNS rebinding: another Host) or by its address (another Origin). Where a password is asked for, any name will do,
    as that of a proxy: the other site has no session.
    """

    def __init__(self, app, host: str, has_password: bool):
        self.app, self.has_password = app, has_password
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin, path = headers.get(b"host", ""), headers.get(b"origin"), scope["path"].rstrip("/") or "/"
        if not self.is_own(host) or (origin is not None and origin.partition("://")[2] != host):
            status = 403
        elif not OPEN_PATHS.fullmatch(path) and not path.startswith(OPEN_FOLDERS):
            status = 404
        elif b"transfer-encoding" in headers or not re.fullmatch(r"\d{1,6}", headers.get(b"content-length", "0")):
            status = 413  # browsers say how long a body is, and what is typed into a page is shorter than a megabyte
        else:
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def is_own(self, host: str) -> bool:
        """Whether a Host header may name this server: by a name of its own, or by any address."""
        name = re.sub(r":\d+$", "", host).strip("[]")
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return self.has_password or name in self.names


def check_port(host: str, port: int) -> None:
    """Raise UserError where the page cannot be served, before a model is loaded for it."""
    check_ranges({"port": port}, {"port": (1, 65535)})
    try:
        with socket.socket() as s:  # IPv4: at an address such as ::1 Gradio cannot serve
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}, port {port} ({reason}). Name another --port or --host.") from None


def import_gradio():
    """Gradio, told not to report its use to anybody; it reads these when it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio


@functools.cache
def markdown_parser() -> "markdown_it.MarkdownIt":
    """A parser of Markdown in which HTML, links and images are text: what it makes loads nothing and leads nowhere.
    Models write code and formulas without marking them: escapes, entities and underscores are text as well, and the
    lines of a paragraph keep their spaces."""
    import markdown_it
    from markdown_it.rules_inline import emphasis

    def stars(state, silent: bool) -> bool:
        return state.src[state.pos] == "*" and emphasis.tokenize(state, silent)

    def new_line(state, silent: bool) -> bool:
        found = NEW_LINE.match(state.src, state.pos)
        if found and not silent:
            state.push("softbreak", "br", 0)
            state.pending = "\u00a0" * len(found[1])
        state.pos = found.end() if found else state.pos
        return bool(found)

    as_written = ["link", "image", "autolink", "reference", "escape", "entity", "lheading"]
    parser = markdown_it.MarkdownIt("js-default", {"breaks": True}).disable(as_written)
    parser.inline.ruler.at("emphasis", stars)
    parser.inline.ruler.at("newline", new_line)
    return parser


def show_text(text: str) -> str:
    """HTML in which a text stays text, character for character, whatever is in it."""
    return f'<div class="text">{html.escape(text)}</div>'


def show_markdown(text: str) -> str:
    """HTML of a model's response: headings, lists, tables, emphasis and code as Markdown means them, and beneath, to be
    unfolded, the text as it was written. A text without Markdown is shown as it was written alone.

    >>> show_markdown("2 < 3")
    '<div class="text">2 &lt; 3</div>'
    """
    if len(text) > MAX_MARKDOWN_CHARS:
        return show_text(text)
    parser = markdown_parser()
    tokens = [inner for token in parser.parse(text) for inner in (token.children or [token])]
    if {token.type for token in tokens} <= {"paragraph_open", "paragraph_close", "text", "softbreak"}:
        return show_text(text)
    as_written = f"<details><summary>As it was written</summary>{show_text(text)}</details>"
    return f'<div class="markdown">{parser.render(text)}</div>{as_written}'


def card(title: str, body: str) -> str:
    """A title, a text, above HTML in a frame."""
    return f'<div class="card"><b>{html.escape(title)}</b>{body}</div>'


def serve(
    page: "gradio.Blocks", host: str, port: int, css: str = "", head: str = "", password: str | None = None
) -> None:
    """Serve a page until Ctrl-C or SIGTERM; with a password, to those who log in with it under any name."""
    import gradio
    from starlette.middleware import Middleware

    def knows_password(name: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(**READABLE)
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
        auth=knows_password if password else None,
        app_kwargs={"middleware": [Middleware(SameSiteOnly, host=host, has_password=bool(password))]},
    )
    if not password and host not in ("localhost", "127.0.0.1"):
        print("warning: whoever reaches this machine can use the page; --password asks for one.", file=sys.stderr)
    shown_host = "127.0.0.1" if host == "0.0.0.0" else host
    print(f"open http://{shown_host}:{port} in a browser; Ctrl-C ends", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    page.close(verbose=False)
