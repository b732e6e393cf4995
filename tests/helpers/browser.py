"""Chromium without a screen, for tests of the web pages; skips where Debian's chromium and chromium-driver are not."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)


@contextlib.contextmanager
def browser(profile_dir: Path, width: int = 1280, height: int = 900) -> Iterator:
    """A selenium driver with an empty profile."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver: make browser, as root")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={profile_dir}", f"--window-size={width},{height}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver, width: int, height: int) -> None:
    """Give the page this width, as a telephone would; a window itself cannot be as narrow."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


LOW_CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((x) => x / 255);
};
const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const background = (element) => {
  if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [1, 1, 1, 1];
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] > 0.99 ? own : over(own, background(element.parentElement));
};
const luminance = (color) => color.slice(0, 3)
  .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
  .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!(text || element.value) || !element.checkVisibility({visibilityProperty: true}) || element.disabled) continue;
  if (["SCRIPT", "STYLE", "INPUT"].includes(element.tagName) && element.type !== "text") continue;
  const below = background(element);
  const [a, b] = [luminance(over(rgba(getComputedStyle(element).color), below)), luminance(below)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.tagName} ${(text || element.value).slice(0, 40)}`);
}
return low;
"""


def low_contrast(driver) -> list[str]:
    """Visible texts, in light and in dark, whose contrast to what is behind them is below WCAG 2's 4.5, with it."""
    found = []
    for scheme in ("dark", "light"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.execute_script("document.body.classList.toggle('dark', arguments[0])", scheme == "dark")
        time.sleep(0.4)  # colours change slowly
        found += [f"{scheme}: {text}" for text in driver.execute_script(LOW_CONTRAST)]
    return found


def wait_for(condition, timeout_sec: float = 30):
    """What condition() returns, once that is true; elements that come and go meanwhile are waited for."""
    from selenium.common.exceptions import WebDriverException

    deadline = time.monotonic() + timeout_sec
    while True:
        with contextlib.suppress(WebDriverException):
            if value := condition():
                return value
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def wait_for_port(port: int, process) -> None:
    def is_open():
        assert process.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    wait_for(is_open, 60)


class Recorder:
    """A relay to a local port that keeps every byte that passes; it asks the server not to compress."""

    def __init__(self, port: int):
        self.target, self.recorded = port, bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source, sink) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                data = data.replace(b"gzip, deflate, br, zstd", b"identity               ")
                self.recorded += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
