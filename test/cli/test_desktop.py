#!/usr/bin/env python3
"""examples/desktop under Xvfb: text comes, the button cancels, a typed question is answered, closing the window ends the program. Looks at
pixels, through libX11. KVRT_SCREENSHOT=FILE.png keeps a picture of the running answer, KVRT_DESKTOP_MODEL is another model to show."""
import ctypes as c
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time
import zlib

BUILD = pathlib.Path(os.environ.get("KVRT_BUILD_DIR", "build"))
ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = os.environ.get("KVRT_DESKTOP_MODEL", str(ROOT / "examples/models/storyteller-8m"))
PROGRAM = BUILD / "examples/desktop"
WIDTH, HEIGHT = 720, 400
RUNS, IDLE, INK = 0xC05030, 0xB9BFC6, 0x202428


class Key(c.Structure):
    _fields_ = [("type", c.c_int), ("serial", c.c_ulong), ("send_event", c.c_int), ("display", c.c_void_p), ("window", c.c_ulong),
                ("root", c.c_ulong), ("subwindow", c.c_ulong), ("time", c.c_ulong), ("x", c.c_int), ("y", c.c_int), ("x_root", c.c_int),
                ("y_root", c.c_int), ("state", c.c_uint), ("code", c.c_uint), ("same_screen", c.c_int)]


class Message(c.Structure):
    _fields_ = [("type", c.c_int), ("serial", c.c_ulong), ("send_event", c.c_int), ("display", c.c_void_p), ("window", c.c_ulong),
                ("message_type", c.c_ulong), ("format", c.c_int), ("data", c.c_long * 5)]


class Screen:
    """What is shown, and what a hand would do."""

    def __init__(self, name):
        self.x = c.CDLL("libX11.so.6")
        for f, kind in (("XOpenDisplay", c.c_void_p), ("XDefaultRootWindow", c.c_ulong), ("XGetImage", c.c_void_p), ("XGetPixel", c.c_ulong),
                        ("XStringToKeysym", c.c_ulong), ("XKeysymToKeycode", c.c_ubyte), ("XInternAtom", c.c_ulong)):
            getattr(self.x, f).restype = kind
        self.display = c.c_void_p(self.x.XOpenDisplay(name.encode()))
        assert self.display.value, "no display " + name
        self.root = c.c_ulong(self.x.XDefaultRootWindow(self.display))

    def window(self):
        root, parent, n, children = c.c_ulong(), c.c_ulong(), c.c_uint(), c.POINTER(c.c_ulong)()
        self.x.XQueryTree(self.display, self.root, c.byref(root), c.byref(parent), c.byref(children), c.byref(n))
        return children[0] if n.value else 0

    def pixels(self, x, y, width, height):
        image = c.c_void_p(self.x.XGetImage(self.display, self.root, x, y, width, height, c.c_ulong(0xFFFFFFFF), 2))
        found = [[self.x.XGetPixel(image, i, j) & 0xFFFFFF for i in range(width)] for j in range(height)]
        self.x.XDestroyImage(image)
        return found

    def send(self, event, mask):
        room = c.create_string_buffer(192)
        c.memmove(room, c.byref(event), c.sizeof(event))
        self.x.XSendEvent(self.display, c.c_ulong(self.window()), 0, c.c_long(mask), room)
        self.x.XFlush(self.display)

    def press(self, name):
        code = self.x.XKeysymToKeycode(self.display, c.c_ulong(self.x.XStringToKeysym(name.encode())))
        self.send(Key(type=2, window=self.window(), root=self.root.value, code=code, same_screen=1), 1)

    def click(self, x, y):
        self.send(Key(type=4, window=self.window(), root=self.root.value, x=x, y=y, code=1, same_screen=1), 4)

    def close_window(self):
        atom = lambda name: self.x.XInternAtom(self.display, name, 0)
        data = (c.c_long * 5)(atom(b"WM_DELETE_WINDOW"), 0, 0, 0, 0)
        self.send(Message(type=33, window=self.window(), message_type=atom(b"WM_PROTOCOLS"), format=32, data=data), 0)

    def button(self):
        return self.pixels(16, HEIGHT - 38, 1, 1)[0][0]

    def ink(self):
        return sum(row.count(INK) for row in self.pixels(0, 0, WIDTH, HEIGHT - 90))

    def save(self, path):
        rows = b"".join(b"\0" + b"".join(struct.pack(">I", p)[1:] for p in row) for row in self.pixels(0, 0, WIDTH, HEIGHT))
        part = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        pathlib.Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)) +
                                       part(b"IDAT", zlib.compress(rows, 9)) + part(b"IEND", b""))


def comes(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def until(what, condition):
    assert comes(condition, 120), "waited in vain for " + what


def main():
    if not PROGRAM.exists() or not shutil.which("Xvfb"):
        print("skipped: libx11-dev or Xvfb is not here")
        return 77
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp"], pass_fds=[write],
                              stderr=subprocess.DEVNULL)
    program = None
    try:
        name = ":" + os.read(read, 16).decode().strip()
        env = {**os.environ, "DISPLAY": name}
        assert subprocess.run([PROGRAM, "/nonexistent"], env=env, capture_output=True).returncode == 1
        assert subprocess.run([PROGRAM], env=env, capture_output=True).returncode == 2
        assert subprocess.run([PROGRAM, MODEL], env={**env, "DISPLAY": ":9999"}, capture_output=True).returncode == 1
        program = subprocess.Popen([PROGRAM, MODEL, os.environ.get("KVRT_DESKTOP_PROMPT", "One day, a girl named Lily")], env=env)
        screen = Screen(name)
        until("the window", screen.window)
        until("an answer", lambda: screen.button() == RUNS or screen.ink() > 1500)
        for _ in range(20):  # one that was over before anybody looked is asked for again
            if comes(lambda: screen.button() == RUNS, 3):
                break
            for key in ("x", "Return"):
                screen.press(key)
        else:
            raise AssertionError("no answer is seen to run")
        until("text", lambda: screen.ink() > 1500)
        if os.environ.get("KVRT_SCREENSHOT"):
            until("more text", lambda: screen.ink() > 9000 or screen.button() == IDLE)
            screen.save(os.environ["KVRT_SCREENSHOT"])
        if screen.button() == RUNS:
            screen.click(40, HEIGHT - 30)
        until("the end", lambda: screen.button() == IDLE)
        before = screen.ink()
        time.sleep(0.3)
        assert screen.ink() == before, "text comes after a cancel"
        for key in ("o", "n", "c", "e", "space", "x", "BackSpace", "Return"):
            screen.press(key)
        until("another answer", lambda: screen.button() == RUNS or screen.ink() != before)
        screen.press("Escape")
        until("its end", lambda: screen.button() == IDLE)
        screen.close_window()
        assert program.wait(timeout=120) == 0
    finally:
        for process in (program, server):
            if process and process.poll() is None:
                process.kill()
                process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
