#!/usr/bin/env python3
"""kvrt serve beside another server with OpenAI's API (llama-server, ollama), the same model and questions, in alternating rounds: time to the first token
of a long first turn and of the second turn, tokens per second of one stream and of N at once. Prints a table of medians and ranges, as lines of README's
table; what is under way stands on stderr.

  compare_serve.sh MODEL PEER [ARGUMENTS OF THE PEER...]     PEER: path of the peer's binary; {model} and {port} are filled in

The peer's arguments default to llama-server's: -m {model} --port {port} -c CONTEXT -np STREAMS --jinja. Settings by environment: KVRT (build/kvrt),
KVRT_ARGS, ROUNDS (3), STREAMS (8), TOKENS (96, per answer), WORDS (500, of the first prompt, about 1,700 tokens). kvrt's cache has its default format."""
import http.client
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, STREAMS = int(os.environ.get("ROUNDS", "3")), int(os.environ.get("STREAMS", "8"))
TOKENS, WORDS = int(os.environ.get("TOKENS", "96")), int(os.environ.get("WORDS", "500"))
CONTEXT = 4096
BEGUN = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Server:
    def __init__(self, command):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([part.replace("{port}", str(self.port)) for part in command], stdout=self.log, stderr=self.log)
        for _ in range(1200):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", "/v1/models")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None:
                self.give_up(f"{command[0]} ended with {self.process.returncode}")
            time.sleep(0.1)
        self.give_up(f"{command[0]} does not answer")

    def give_up(self, why):
        self.process.kill()
        self.log.seek(0)
        sys.exit(f"{why}; it said last:\n" + self.log.read().decode(errors="replace")[-2000:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, messages, n=TOKENS):
        """(seconds to the first text, seconds in all, tokens, text, usage)."""
        body = {"model": "any", "messages": messages, "max_tokens": n, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1200)
        begun, first, text, usage = time.monotonic(), None, "", {}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read()[:300]}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event.get("choices", []):
                piece = choice["delta"].get("content") or choice["delta"].get("reasoning_content") or ""
                if piece and first is None:
                    first = time.monotonic() - begun
                text += piece
        return first, time.monotonic() - begun, usage.get("completion_tokens", n), text, usage


def measure(server, salt):
    words = " ".join(f"{salt}-{i} apple" for i in range(WORDS // 2))
    talk = [{"role": "user", "content": f"Here is a list: {words}. What is it about?"}]
    first, total, n, text, usage = server.ask(talk)
    say(f"  turn 1: {usage.get('prompt_tokens')} tokens, first token after {first:.1f} s, {n} tokens in {total - first:.1f} s")
    row = {"first token, turn 1 (ms)": first * 1000, "one stream (tok/s)": (n - 1) / (total - first)}
    talk += [{"role": "assistant", "content": text}, {"role": "user", "content": "And what is missing?"}]
    first, _, _, _, usage = server.ask(talk, 16)
    row["first token, turn 2 (ms)"] = first * 1000
    say(f"  turn 2: first token after {first:.2f} s")
    row["cached tokens, turn 2"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    done = []

    def stream(i):
        done.append(server.ask([{"role": "user", "content": f"{salt}: tell me story number {i}."}])[2])
    threads = [threading.Thread(target=stream, args=(i,)) for i in range(STREAMS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    if len(done) < STREAMS:
        raise RuntimeError(f"{len(done)} of {STREAMS} streams were answered")
    say(f"  {STREAMS} streams: {sum(done)} tokens in {took:.1f} s")
    row[f"{STREAMS} streams (tok/s)"] = sum(done) / took
    return row


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model, peer = sys.argv[1], sys.argv[2]
    arguments = sys.argv[3:] or ["-m", "{model}", "--port", "{port}", "-c", str(CONTEXT * STREAMS), "-np", str(STREAMS), "--jinja"]
    commands = {"kvrt": [os.environ.get("KVRT", str(ROOT / "build/kvrt")), "serve", model, "--port", "{port}", "--sessions", str(STREAMS), "--ctx", str(CONTEXT),
                         *shlex.split(os.environ.get("KVRT_ARGS", ""))],
                Path(peer).name: [peer, *(a.replace("{model}", model) for a in arguments)]}
    rows = {name: [] for name in commands}
    for i in range(ROUNDS):
        for name in list(commands) if i % 2 == 0 else reversed(list(commands)):
            say(f"round {i + 1} of {ROUNDS}, {name}")
            with Server(commands[name]) as server:
                server.ask([{"role": "user", "content": "Hello."}], 4)  # the first answer pays for what is loaded late
                rows[name].append(measure(server, f"round{i}"))
    width = max(len(k) for k in rows["kvrt"][0])
    print(f"| {'':{width}} | " + " | ".join(f"{name:>24}" for name in rows) + " | kvrt / peer |\n|" + "---|" * (len(rows) + 2))
    for key in rows["kvrt"][0]:
        values = [[row[key] for row in of] for of in rows.values()]
        cells = [f"{statistics.median(v):.1f} ({min(v):.1f}..{max(v):.1f})" for v in values]
        pairs = [a / b for a, b in zip(*values) if b]
        print(f"| {key:{width}} | " + " | ".join(f"{c:>24}" for c in cells) + f" | {statistics.median(pairs):.2f} |" if pairs else " | |")


main()
