#!/usr/bin/env python3
"""Records a short terminal session with the real program as an animated SVG: examples/record.py > examples/recording.svg
Each command runs on a pseudo-terminal; every piece of output appears at the time at which it came, pauses longer than half a second cut."""
import html
import os
import pty
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS, CHAR, LINE = 104, 34, 8.4, 19
MODEL = next(str(p.relative_to(ROOT)) for p in sorted((ROOT / "examples/models").iterdir()) if (p / "config.json").exists())
COMMANDS = [
    ["kvrt", "plan", "--shape", "llama-3.1-8b", "--card", "rtx4090", "--weights", "bf16"],
    ["kvrt", "run", MODEL, "-p", "Once upon a time there was a little girl who", "-n", "120", "--temp", "0.9", "--min-p", "0.1",
     "--repeat-penalty", "1.1", "--seed", "5", "--stats"],
]


def run(arguments):
    """Yields (seconds, text) of what the command shows."""
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(ROOT / "build/kvrt", arguments, {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS)})
    start, waiting = time.monotonic(), b""
    while True:
        try:
            piece = os.read(fd, 4096)
        except OSError:
            break
        if not piece:
            break
        waiting += piece
        try:
            text, waiting = waiting.decode(), b""
        except UnicodeDecodeError:
            continue
        yield time.monotonic() - start, text
    os.waitpid(pid, 0)


class Screen:
    """Cells with the time at which each appeared. Understands newline, carriage return, erase to end of line, dim and reset."""

    def __init__(self):
        self.lines, self.column, self.dim = [[]], 0, False

    def write(self, when, text):
        i = 0
        while i < len(text):
            if text[i] == "\x1b":
                end = next(k for k in range(i + 2, len(text)) if text[k].isalpha())
                code, i = text[i + 2:end + 1], end + 1
                if code == "K":
                    del self.lines[-1][self.column:]
                elif code.endswith("m"):
                    self.dim = code == "2m"
                continue
            if text[i] == "\n" or self.column == COLUMNS:
                self.lines.append([])
                self.column = 0
            if text[i] == "\r":
                self.column = 0
            elif text[i] != "\n":
                line = self.lines[-1]
                line[self.column:self.column + 1] = [(text[i], when, self.dim)]
                self.column += 1
            i += 1


def play():
    screen, clock = Screen(), 0.5
    for arguments in COMMANDS:
        shown = " ".join(f'"{a}"' if " " in a else a for a in arguments)
        for text in ["$ ", *shown]:
            screen.write(clock, text)
            clock += 0.02
        screen.write(clock, "\n")
        before = 0.0
        for when, text in run(arguments):
            clock += min(when - before, 0.5)
            before = when
            screen.write(clock, text)
        clock += 1.5
    return screen.lines, clock


def svg(lines, end):
    lines = lines[-ROWS:]
    width, height = COLUMNS * CHAR + 32, len(lines) * LINE + 28
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
          f'aria-label="kvrt plan and kvrt run in a terminal"><rect width="100%" height="100%" rx="8" fill="#16181d"/>'
          f'<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" fill="#e4e6eb" xml:space="preserve">')
    for row, line in enumerate(lines):
        column = 0
        while column < len(line):
            _, when, dim = line[column]
            stop = column
            while stop < len(line) and line[stop][1:] == (when, dim):
                stop += 1
            text = "".join(cell[0] for cell in line[column:stop])
            if text.strip():
                x, y = 16 + column * CHAR, 28 + row * LINE
                colour = ' fill="#8b919c"' if dim else ""
                print(f'<text x="{x:.1f}" y="{y}" textLength="{(stop - column) * CHAR:.1f}"{colour} opacity="0">{html.escape(text)}'
                      f'<set attributeName="opacity" to="1" begin="{when:.2f}s" fill="freeze"/></text>')
            column = stop
    print("</g></svg>")
    print(f"{len(lines)} lines, {end:.1f} seconds", file=sys.stderr)


if __name__ == "__main__":
    svg(*play())
