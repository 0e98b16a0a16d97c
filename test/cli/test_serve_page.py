#!/usr/bin/env python3
"""The page of `kvrt serve` in headless Chromium, by its debugging protocol: a conversation streams, stops, goes on and is listed; bars move; nothing but the
server is asked. Skipped where there is no Chromium. KVRT_SCREENSHOT=FILE.png KVRT_PAGE_MODEL=MODEL also keeps a picture."""
import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from harness import main, test
from server import HANGS, STORY, Server, has_http, text_of

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


class Browser:
    """A tab, and calls of the protocol over a web socket (RFC 6455) of its own."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
                                         "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--window-size=1100,700",
                                         "--remote-allow-origins=*", f"--user-data-dir={self.folder.name}", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        active = Path(self.folder.name) / "DevToolsActivePort"
        end = time.monotonic() + HANGS
        pages = []
        while not pages and time.monotonic() < end:
            time.sleep(0.1)
            if active.exists() and active.read_text().count("\n") >= 1:
                port = int(active.read_text().split("\n")[0])
                pages = [p for p in json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")) if p["type"] == "page"]
        url = urllib.parse.urlparse(pages[0]["webSocketDebuggerUrl"])
        self.socket = socket.create_connection((url.hostname, url.port), timeout=HANGS)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                             "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.socket.recv(4096)
        self.data = self.data.split(b"\r\n\r\n", 1)[1]
        self.n, self.events = 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def take(self, n):
        while len(self.data) < n:
            more = self.socket.recv(1 << 20)
            assert more, "the browser ended"
            self.data += more
        taken, self.data = self.data[:n], self.data[n:]
        return taken

    def receive(self):
        text = b""
        while True:
            first, size = self.take(2)
            size &= 127
            if size > 125:
                size = struct.unpack(">H" if size == 126 else ">Q", self.take(2 if size == 126 else 8))[0]
            text += self.take(size)
            if first & 128:
                return json.loads(text)

    def call(self, method, **parameters):
        self.n += 1
        data = json.dumps({"id": self.n, "method": method, "params": parameters}).encode()
        size = bytes([128 | len(data)]) if len(data) < 126 else bytes([128 | 126]) + struct.pack(">H", len(data))
        mask = os.urandom(4)
        self.socket.sendall(b"\x81" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        while True:
            said = self.receive()
            if said.get("id") == self.n:
                assert "error" not in said, said
                return said["result"]
            self.events.append(said)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script):
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            try:
                value = self.run(script)
            except AssertionError as problem:
                if "context" not in str(problem) and "navigat" not in str(problem):  # of a page that is left for another
                    raise
                value = None
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {HANGS} s: {script}; the page: {self.run('document.body.innerText')[-2000:]}")

    def open(self, s):
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=f"http://127.0.0.1:{s.port}/")
        self.until("document.readyState === 'complete' && (document.getElementById('model')?.textContent ?? 'kvrt') !== 'kvrt'")

    def say(self, text):
        self.run(f"document.getElementById('say').value = {json.dumps(text)}; document.getElementById('form').requestSubmit(); 1")


IDLE = "!document.getElementById('send').hidden && document.querySelectorAll('.assistant .facts').length === %d && [...document.querySelectorAll('.facts')].at(-1).textContent"
ANSWERS = "[...document.querySelectorAll('.assistant .text')].map(e => e.textContent)"


@test
def a_conversation_in_a_browser():
    with Server("--seed", 7, "--max-tokens", 60, model=os.environ.get("KVRT_PAGE_MODEL", STORY)) as s, Browser() as b:
        b.open(s)
        assert b.run("document.getElementById('model').textContent") == s.get("/v1/models")["data"][0]["id"]
        ask = "Tell me a story about a fox. <b>&amp;"
        b.say(ask)
        facts = b.until(IDLE % 1)
        assert "prompt tokens" in facts and "first after" in facts, facts
        said = b.run(ANSWERS)[0]
        messages = [{"role": "user", "content": ask}]
        assert said == text_of(s.chat(messages)) and said, "the page shows the answer, character by character"
        assert b.run("document.querySelector('.user .text').textContent") == ask and not b.run("document.querySelectorAll('.said b').length")
        b.say("And then?")
        facts = b.until(IDLE % 2)
        assert int(facts.split(" prompt tokens, ")[1].split(" cached")[0]) > 0, facts
        b.until(f"document.getElementById('hit').textContent === '{s.metric('prompt_tokens_cached_total')} of {s.metric('prompt_tokens_total')}'")
        assert b.run("document.querySelector('#kv-bar i').getBoundingClientRect().width") > 0
        if os.environ.get("KVRT_SCREENSHOT"):
            Path(os.environ["KVRT_SCREENSHOT"]).write_bytes(base64.b64decode(b.call("Page.captureScreenshot", format="png")["data"]))
        # Another conversation beside it, and back; a new load of the page has what was said.
        b.run("document.getElementById('new').click(); 1")
        assert b.run("document.querySelectorAll('#list div').length") == 2 and b.run(ANSWERS) == []
        b.run("document.querySelectorAll('#list div button')[2].click(); 1")
        assert b.run(ANSWERS)[0] == said
        b.run("window.before = 1")
        b.call("Page.reload")
        b.until("!window.before && document.readyState === 'complete' && document.querySelectorAll('.assistant .text').length === 2")
        assert b.run(ANSWERS)[0] == said
        for event in b.events:
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                assert url.startswith(f"http://127.0.0.1:{s.port}/") or url.startswith("data:"), url
            assert event["method"] not in ("Runtime.exceptionThrown",) and not (event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"), event


@test
def an_answer_can_be_stopped():
    with Server("--ctx", 400000, "--reserve", 0, "--set", "gen.ignore_eos=true") as s, Browser() as b:
        b.open(s)
        b.say("Tell me everything.")
        b.until("document.querySelector('.assistant .text')?.textContent.length > 40")
        assert s.metric("requests_running") == 1
        b.run("document.getElementById('stop').click(); 1")
        assert b.until(IDLE % 1) == "stopped"
        s.until("requests_running", 0)
        assert len(b.run(ANSWERS)[0]) > 40, "what was said stays"


@test
def errors_are_shown_and_a_key_helps():
    with Server("--api-key", "sesame") as s, Browser() as b:
        for domain in ("Page", "Runtime"):
            b.call(f"{domain}.enable")
        b.call("Page.navigate", url=f"http://127.0.0.1:{s.port}/")
        b.until("document.readyState === 'complete' && typeof ask === 'function'")
        b.say("Hello.")
        assert "key" in b.until("document.querySelector('.error')?.textContent")
        b.run("document.getElementById('key').value = 'sesame'; document.getElementById('key').onchange(); 1")
        b.until("document.getElementById('model').textContent !== 'kvrt'")
        b.say("Hello.")
        b.until("document.querySelectorAll('.assistant .text')[1]?.textContent && !document.getElementById('send').hidden")


if __name__ == "__main__":
    if not has_http() or not CHROMIUM:
        print("skipped: no libmicrohttpd, or no Chromium")
        sys.exit(77)
    main()
