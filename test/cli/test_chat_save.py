#!/usr/bin/env python3
"""Conversations that are kept: /save and /load, --session, /fork and /switch. What is loaded goes on without computing a token again, and says what it
would have said."""
import os
import pathlib
import re
import subprocess
import tempfile

from chat_terminal import Chat, FAST, HANGS, KVRT, MODEL, main


def answer(chat, text):
    """The stats line's (prompt, cached, new) and the text of an answer."""
    chat.ask(text)
    found = chat.expect(r"\x1b\[\?2004l(.*?)\r\n[^\r\n]*prompt (\d+) tokens \((\d+) cached, (\d+) new\)")
    return found.group(1), int(found.group(2)), int(found.group(3)), int(found.group(4))


def test_save_and_load():
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/fox.chat"
        chat = Chat(*FAST)
        answer(chat, "Tell me about a fox.")
        chat.ask(f"/save {path}")
        chat.expect(r"wrote .*fox.chat: \d+ tokens")
        there = answer(chat, "And a bear?")
        chat.ask("/quit")
        assert chat.leave() == 0
        assert os.listdir(folder) == ["fox.chat"]
        chat = Chat(*FAST)
        answer(chat, "Something else first.")
        chat.ask(f"/load {path}")
        tokens, cached = map(int, chat.expect(r"loaded .*: (\d+) tokens, (\d+) of them").groups())
        assert cached >= tokens - 1
        back = answer(chat, "And a bear?")
        assert back == there, (back, there)
        assert back[2] >= cached
        for bad, says in ((folder + "/none", "No such file"), ("", "needs a file name"), (folder, "directory")):
            chat.ask(f"/load {bad}")
            chat.expect(says)
        data = bytearray(pathlib.Path(path).read_bytes())
        for at in (9, 40, len(data) - 100):
            bad = bytearray(data)
            bad[at] ^= 4
            pathlib.Path(path).write_bytes(bad)
            chat.ask(f"/load {path}")
            chat.expect("damaged")
        chat.ask("/save /nowhere/at/all")
        chat.expect("cannot be written")
        chat.ask("/quit")
        assert chat.leave() == 0


def once(folder, *args):
    run = subprocess.run([KVRT, "chat", MODEL, *FAST, "--session", folder + "/s", *args],
                         capture_output=True, timeout=HANGS, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_session_file():
    """Three commands, one message each, say what one conversation says."""
    turns = ["Tell me about a fox.", "And a bear?", "Where is it now?"]
    with tempfile.TemporaryDirectory() as folder:
        apart = [once(folder, text).decode() for text in turns]
        assert os.listdir(folder) == ["s"]
        (pathlib.Path(folder) / "s").write_bytes(b"nothing of the kind")
        run = subprocess.run([KVRT, "chat", MODEL, "--session", folder + "/s", "x"], capture_output=True, timeout=HANGS, stdin=subprocess.DEVNULL)
        assert run.returncode != 0 and b"not a saved conversation" in run.stderr, run
        assert (pathlib.Path(folder) / "s").read_bytes() == b"nothing of the kind"
    chat = Chat(*FAST)
    plain = lambda text: re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)).strip()
    for text, alone in zip(turns, apart):
        said = plain(answer(chat, text)[0].decode(errors="replace"))
        assert plain(alone) in said, (alone, said)
    chat.ask("/quit")
    assert chat.leave() == 0


def test_fork_and_switch():
    chat = Chat(*FAST)
    answer(chat, "Tell me about a fox.")
    chat.ask("/switch")
    chat.expect("no other conversation")
    chat.ask("/fork here")
    chat.expect("kept as here")
    chat.ask("/fork here")
    chat.expect("not taken")
    one = answer(chat, "And a bear?")
    chat.ask("/switch here")
    chat.expect("here is here, 2 messages")
    assert answer(chat, "And a bear?") == one
    chat.ask("/switch nowhere")
    chat.expect("no conversation nowhere")
    chat.expect("here: 4 messages")
    chat.ask("/quit")
    assert chat.leave() == 0


if __name__ == "__main__":
    main(globals())
