"""A `kvrt serve` of its own for a test, and asking it."""
import http.client
import json
import re
import signal
import subprocess
import time

from harness import ENVIRONMENT, KVRT, MODEL, ROOT, kvrt

STORY = str(ROOT / "examples/models/storyteller-tiny")
ENDLESS = ["--ctx", "2000000", "--reserve", "0"]  # with `endless` bodies: enough to be met in the middle, on any machine
HANGS = 120  # seconds: limits only end what hangs
STORY_MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]


def has_http():
    return "libmicrohttpd" not in kvrt("serve", MODEL, "--port", "99999").err


class Server:
    def __init__(self, *args, model=STORY, **popen):
        self.process = subprocess.Popen([KVRT, "serve", model, "--port", "0", *map(str, args)], stderr=subprocess.PIPE,
                                        env=ENVIRONMENT, text=True, **popen)
        self.said = ""
        while "listening on" not in self.said:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line
        self.port = int(re.search(r"http://.*:(\d+)", self.said)[1])

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if failed[0] else signal.SIGTERM)
        try:
            code = self.process.wait(HANGS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        assert failed[0] or code == 0, f"exit {code}: {self.said}"

    def connect(self, timeout=HANGS):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, expect=200):
        """The answer as (headers, JSON or text)."""
        connection = self.connect()
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == expect, f"{method} {path}: expected {expect}, found {answer.status}: {text[:500]}"
        return answer.headers, json.loads(text) if "json" in answer.getheader("Content-Type", "") else text

    def get(self, path, **more):
        return self.ask("GET", path, **more)[1]

    def post(self, path, body, **more):
        return self.ask("POST", path, body, **more)[1]

    def chat(self, messages, **more):
        return self.post("/v1/chat/completions", {"messages": messages, **more})

    def stream(self, path, body):
        """The events of a stream, as (event, JSON)."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.getheader("Content-Type").startswith("text/event-stream")
        events = []
        for block in answer.read().decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                events.append((fields.get("event"), fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])))
        connection.close()
        return events

    def metric(self, name):
        return int(re.search(rf"^kvrt_{re.escape(name)} (\d+)$", self.get("/metrics"), re.M)[1])

    def until(self, name, value):
        """Looks from time to time, so what is waited for must stay: a counter, or what an endless request makes so."""
        end = time.monotonic() + HANGS
        while (found := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, expected {value}"
            time.sleep(0.02)

    def begin(self, body, path="/v1/completions"):
        """A request whose answer nobody has read yet."""
        connection = self.connect()
        connection.request("POST", path, json.dumps(body))
        return connection


def endless(**more):
    return {"prompt": "abc", "max_tokens": 1000000, "ignore_eos": True, **more}


def run_chat(messages, seed, n, *args):
    text = json.dumps(messages).encode()
    return kvrt("run", STORY, "-m", "-", "--seed", seed, "-n", n, "--json", *args, stdin=text).expect(0).json()


def text_of(answer):
    return answer["choices"][0]["message"]["content"]
