"""A headless Chromium, told over a pipe what to do (the DevTools protocol)."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WAIT_S = 60


class Page:
    """A page in a browser of its own."""

    def __init__(self, folder):
        self._folder = folder

    def __enter__(self):
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        arguments = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            f"--user-data-dir={self._folder}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        script = f'exec "$@" 3<&{their_in} 4>&{their_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *arguments],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        told = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = told["sessionId"]
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method, **parameters):
        """A command of the protocol, and its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline_s = time.monotonic() + WAIT_S
        while True:
            told = self._receive(deadline_s)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]

    def _receive(self, deadline_s):
        while b"\0" not in self._rest:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, "the browser does not answer"
            if select.select([self._in], [], [], left_s)[0]:
                piece = os.read(self._in, 2**16)
                assert piece, "the browser has ended"
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    # ---- what a person does ----------------------------------------------------------------------

    def open(self, url, *, width=1000, is_dark=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def tell(self, script):
        """The value of an expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script):
        deadline_s = time.monotonic() + WAIT_S
        while not self.tell(f"Boolean({script})"):
            assert time.monotonic() < deadline_s, self.tell("document.body.innerText")
            time.sleep(0.05)

    def type(self, text):
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def press_ctrl_enter(self):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def click(self, name):
        self.tell(f"document.getElementById({name!r}).click()")

    def picture(self):
        """PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
