"""A headless Chromium that a test can ask, over the pipe of its DevTools protocol: no driver, no port, no library.

Reference: https://chromedevtools.github.io/devtools-protocol/, `--remote-debugging-pipe`.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Becomes the browser, which reads from 3 and writes to 4.
_START = "import os, sys; r, w, *run = sys.argv[1:]; os.dup2(int(r), 3); os.dup2(int(w), 4); os.execv(run[0], run)"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1400,1600"),
    *("--remote-debugging-pipe",),
)

# All text that a reader sees, also that of web components, which `innerText` of the page leaves out.
_LIBRARY = """
function all(root) {
  const found = [];
  for (const node of root.querySelectorAll('*')) {
    found.push(node);
    if (node.shadowRoot) found.push(...all(node.shadowRoot));
  }
  return found;
}
function text() {
  const parts = [];
  for (const node of all(document)) {
    if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.tagName)) continue;
    for (const child of node.childNodes) if (child.nodeType === 3) parts.push(child.data);
  }
  return parts.join(' ').replace(/\\s+/g, ' ');
}
function loaded() {
  return all(document).filter(node => node.tagName === 'IMG' && node.complete && node.naturalWidth > 1);
}
"""


class Browser:
    """Chromium with one page.

    Args:
        folder: a folder for its profile.
    """

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # High numbers, so that neither is overwritten on its way to 3 or 4.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 50) for end in (to_browser, from_browser)]
        self.requests: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, high), CHROMIUM, *_FLAGS, f"--user-data-dir={folder}"],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser, from_browser, *high):
            os.close(end)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._target: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._write)
        self._process.terminate()
        self._process.wait(20)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser, and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            # What the page before this one still asks for comes late, under its own session.
            if answer.get("method") == "Network.requestWillBeSent" and answer.get("sessionId") == self._session:
                self.requests.append(answer["params"]["request"]["url"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._read, 1 << 20)
            if not read:
                raise RuntimeError("the browser has ended")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def open(self, url: str) -> None:
        """Load a page in a new tab: another fragment alone would not load it again."""
        self._session = None
        if self._target is not None:
            self.call("Target.closeTarget", targetId=self._target)
        self._target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        self.requests = []
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, in which `all`, `text` and `loaded` can be used."""
        found = self.call(
            "Runtime.evaluate", expression=f"(() => {{{_LIBRARY}; return {expression};}})()", returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", "exception"))
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 90) -> Any:
        """The value of an expression as soon as it is true.

        Raises:
            AssertionError: with the page's text, where it stays false.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := self.ask(expression):
                    return value
            except RuntimeError:
                pass  # between two pages
            time.sleep(0.1)
        raise AssertionError(f"{expression} stayed false; the page says: {self.ask('text()')[:2000]}")

    def screenshot(self, path: Path) -> None:
        """The page as a PNG, for a look when a test fails."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
