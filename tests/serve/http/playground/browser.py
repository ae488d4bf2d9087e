"""`Browser`: a real Chromium without a window, which tests drive over its own protocol.

Commands go over a pipe (`--remote-debugging-pipe`): JSON messages, each of which ends with a zero byte
(https://chromedevtools.github.io/devtools-protocol/). The browser resolves no name, so it reaches the loopback alone.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

__all__ = ["CHROMIUM", "Browser", "Tab"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

#: Seconds that a command, or a condition of a page, may take.
SECONDS = 60.0

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Browser:
    """A running browser. Its methods are for one thread."""

    def __init__(self, profile: Path) -> None:
        """Start it.

        Args:
            profile: folder for its files.
        """
        assert CHROMIUM is not None
        commands_in, self._commands = os.pipe()
        self._answers, answers_out = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # The browser reads commands from descriptor 3 and writes to 4.
        redirect = f'exec "$@" 3<&{commands_in} 4>&{answers_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, "chromium", *command],
            pass_fds=(commands_in, answers_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_in)
        os.close(answers_out)
        self._ids = 0
        self._waiting: dict[int, Queue[dict[str, Any]]] = {}
        self.tabs: dict[str, Tab] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while True:
            part = os.read(self._answers, 1 << 20)
            if not part:
                return
            *messages, rest = (rest + part).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._waiting.pop(message["id"]).put(message)
                elif (tab := self.tabs.get(message.get("sessionId", ""))) is not None:
                    tab.events.append(message)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its answer.

        Raises:
            AssertionError: the browser refuses it, or does not answer.
        """
        self._ids += 1
        answer: Queue[dict[str, Any]] = Queue()
        self._waiting[self._ids] = answer
        message = {"id": self._ids, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        try:
            found = answer.get(timeout=SECONDS)
        except Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        assert "error" not in found, found["error"]
        result: dict[str, Any] = found["result"]
        return result

    @contextmanager
    def tab(self, width: int = 1280, height: int = 900, *, phone: bool = False, dark: bool = False) -> Iterator[Tab]:
        """Open a page of its own, without cookies and storage of others.

        Args:
            width, height: size in CSS pixels.
            phone: whether it is a screen that one touches.
            dark: whether its user prefers dark colors.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        if phone:
            tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        try:
            yield tab
        finally:
            del self.tabs[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        """End the browser."""
        with suppress(AssertionError, OSError):
            self.call("Browser.close")
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        os.close(self._commands)
        os.close(self._answers)


class Tab:
    """A page in a browser.

    Attributes:
        events: events of the page, in order.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self.session = session
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the page."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, url: str) -> None:
        """Load an address, and wait until the page has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events))

    def run(self, script: str) -> Any:
        """Run the body of an asynchronous function in the page, and return its result.

        Raises:
            AssertionError: it throws.
        """
        expression = f"(async () => {{ {script} }})()"
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str | Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Wait until an expression in the page, or a function, is true, and return its value."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(f"return {condition}") if isinstance(condition, str) else condition()
            if value:
                return value
            assert time.monotonic() < end, f"{condition}\n{self.problems()}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return the visible text of the first element that a selector names."""
        return str(self.run(f"return document.querySelector({json.dumps(selector)}).innerText"))

    def fill(self, selector: str, value: str) -> None:
        """Write a value into a field, as typing does."""
        self.run(
            f"const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(value)};"
            "for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true}))"
        )

    def click(self, selector: str) -> None:
        """Click the middle of the first element that a selector names, with the mouse."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        x, y = self.run(
            f"const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str, text: str = "") -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        parameters: dict[str, Any] = {"key": name, "windowsVirtualKeyCode": codes.get(name, 0)}
        if text:
            parameters["text"] = text
        self.call("Input.dispatchKeyEvent", type="keyDown", **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to a file field."""
        document = self.call("DOM.getDocument")
        found = self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=found["nodeId"])

    def screenshot(self) -> bytes:
        """Return what is visible as a PNG file."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        sent = (event["params"] for event in list(self.events) if event["method"] == "Network.requestWillBeSent")
        return [str(event["request"]["url"]) for event in sent]

    def problems(self) -> list[str]:
        """Return the errors of the page's scripts and of its security policy. Refused requests are not among them."""
        found = []
        for event in list(self.events):
            values = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = values["exceptionDetails"]
                found.append(str(details.get("exception", {}).get("description", details["text"])))
            elif event["method"] == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
                found.append(" ".join(str(one.get("description", one.get("value"))) for one in values["args"]))
            elif event["method"] == "Log.entryAdded" and values["entry"]["source"] != "network":
                found.append(str(values["entry"]["text"]))
        return found
