"""`kvrt chat` on a pseudo-terminal, for the tests that drive it. What must happen during an answer is made so: the answer is endless, or the
command stands still meanwhile (`stopped`). Limits of time only end what hangs."""
import contextlib
import fcntl
import os
import pathlib
import pty
import re
import select
import shlex
import signal
import struct
import sys
import termios
import time

KVRT = os.environ.get("KVRT", "build/kvrt")
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "examples/models/storyteller-tiny")
FAST = ["--temp", "0", "-n", "24"]
ENDLESS = ["--temp", "0", "-n", "1000000", "--ctx", "2000000", "--ignore-eos", "--reserve", "0", "--no-stats"]
HANGS = 120  # seconds
EDITS = b"kvrt-paste" in pathlib.Path(KVRT).read_bytes()  # built with libedit


class Chat:
    """The command on a terminal of its own; what it prints collects in `seen`."""

    def __init__(self, *args, model=MODEL, env=None, size=(24, 100), shell=None, bare=False):
        self.seen = b""
        self.mark = 0
        self.capable = (env or {}).get("TERM") != "dumb"
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", **(env or {})})
            for name in ("NO_COLOR",) if not env or "NO_COLOR" not in env else ():
                os.environ.pop(name, None)
            command = [KVRT, *([] if bare else ["chat"]), str(model), *args]
            if shell:
                command = ["/bin/sh", "-c", shell.format(shlex.join(command))]
            os.execv(command[0], command)
        self.resize(size)

    def resize(self, size):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[0], size[1], 0, 0))

    def pump(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if ready:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            self.seen += data
            return bool(data)
        return True

    def expect(self, pattern, seconds=HANGS):
        """Waits for a pattern behind the last match."""
        end = time.monotonic() + seconds
        alive = True
        while True:
            found = re.compile(pattern.encode(), re.S).search(self.seen, self.mark)
            if found:
                self.mark = found.end()
                return found
            if time.monotonic() > end or not alive:
                raise AssertionError(f"no {pattern!r} in {self.seen[self.mark:][-1500:]!r}")
            alive = self.pump(0.05)

    def send(self, text):
        os.write(self.fd, text.encode())

    def ask(self, text):
        self.prompt()
        self.send(text + "\r")

    def answer_to(self, text):
        """Waits for the beginning of an answer: behind the echo of the question, and more than what switches the terminal's modes."""
        self.expect(re.escape(text))
        self.expect(r"\n.{20}")

    def prompt(self):
        """Waits for the prompt, and until keys go to the editor: the terminal would echo them itself before. (A dumb terminal stays as it is.)"""
        self.expect(r"> ")
        end = time.monotonic() + HANGS
        while self.capable and EDITS and termios.tcgetattr(self.fd)[3] & termios.ICANON and time.monotonic() < end:
            self.pump(0.01)

    @contextlib.contextmanager
    def stopped(self):
        """What is done inside is done during whatever the command was at; all that it had printed is in `seen`."""
        os.kill(self.pid, signal.SIGSTOP)
        while pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "TZ":
            self.pump(0.001)
        while select.select([self.fd], [], [], 0.02)[0] and self.pump(0):
            pass
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def gone(self, seconds):
        """Exit code, None if it is still there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        return None

    def leave(self):
        """Exit code."""
        code = self.gone(HANGS)
        if code is not None:
            return code
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"still running: {self.seen[-800:]!r}")


def stats(chat):
    found = chat.expect(r"prompt (\d+) tokens \((\d+) cached, (\d+) new\)")
    return tuple(int(g) for g in found.groups())


def main(tests):
    """Runs the functions named test_*, or those named on the command line."""
    for name in sys.argv[1:] or [n for n in tests if n.startswith("test_")]:
        start = time.monotonic()
        tests[name]()
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
