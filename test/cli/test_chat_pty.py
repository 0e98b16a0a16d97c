#!/usr/bin/env python3
"""Drives the real `kvrt chat` through a pseudo-terminal: typing, blocks, paste, history, completion, Ctrl-C in decode and idle,
Ctrl-D, unknown commands, resize, NO_COLOR, dumb terminals, a closed pipe; and what a turn computes. Ctrl-C in load and prefill needs a
slower model: test_chat_slow.py."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unicodedata

from chat_terminal import Chat, ENDLESS, FAST, HANGS, KVRT, MODEL, ROOT, main, stats


TURNS = ["Tell me about a fox.", "And a bear?", "Where is it now?", "Who is its friend?", "What do they eat?", "Was it cold?", "Did they sing?",
         "What happened then?", "Who came home?", "How does it end?"]


def converse(*args):
    """All turns; per turn (tokens, cached, new, generated), and the messages at the end."""
    chat, figures = Chat(*args, *FAST), []
    for text in TURNS:
        chat.ask(text)
        found = chat.expect(r"prompt (\d+) tokens \((\d+) cached, (\d+) new\).*?\| (\d+) tokens, ")
        figures.append(tuple(int(g) for g in found.groups()))
    chat.prompt()
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/chat.json"
        chat.send(f"/export json {path}\r")
        chat.expect("wrote")
        messages = json.load(open(path, encoding="utf-8"))
    chat.ask("/quit")
    assert chat.leave() == 0
    assert [m["role"] for m in messages] == ["user", "assistant"] * len(TURNS)
    return figures, messages


def test_turns_compute_only_what_is_new():
    for args in ([], ["--kv", "f16"]):
        figures, _ = converse(*args)
        for turn, (before, now) in enumerate(zip(figures, figures[1:]), 2):
            held = before[0] + before[3]  # the prompt and the answer; the last token of the answer has not been computed
            assert now[0] == now[1] + now[2] and now[1] >= held - 1, f"turn {turn}: {now} after {before}"
            assert now[2] <= 40, f"turn {turn} computes {now[2]} of {now[0]} tokens"


def test_turn_ten_equals_a_fresh_session_given_everything():
    # Without AMX, which rounds activations in prefill alone; f16, because pages of other formats are encoded when an answer has grown
    # over them, in one long prompt after the chunk that holds them.
    exact = ["--kv", "f16", "--no-amx"]
    figures, messages = converse(*exact)
    for turn in (1, 3, len(TURNS)):
        given, answer = messages[:2 * turn - 1], messages[2 * turn - 1]["content"]
        run = subprocess.run([KVRT, "run", MODEL, *exact, *FAST, "--messages", "-", "--json"], capture_output=True, timeout=HANGS,
                             input=json.dumps(given).encode())
        fresh = json.loads(run.stdout)
        assert fresh["text"] == answer, f"turn {turn}: {fresh['text']!r}, in the chat {answer!r}"
        assert fresh["n_generated"] == figures[turn - 1][3], (turn, fresh, figures)


def test_commands():
    chat = Chat(*FAST)
    chat.ask("/frobnicate")
    chat.expect(r"unknown command /frobnicate \(see /help\)")
    chat.ask("/sytem")
    chat.expect(r"unknown command /sytem, did you mean /system\?")
    chat.ask("/?")
    chat.expect("/regen")
    chat.ask("/help")
    chat.expect("/regen")
    chat.ask("/system Be brief.")
    chat.ask("/show")
    chat.expect("system: Be brief.")
    chat.ask("/set temperature 0.5")
    chat.ask("/show")
    chat.expect(r"sample.temperature 0\.5")
    chat.ask("/set temperature nonsense")
    chat.expect("temperature")
    chat.ask("/set top-k 7")
    chat.ask("/show")
    chat.expect("sample.top_k 7")
    chat.ask("/set ctx 5")
    chat.expect("ctx.size is fixed when the model is loaded")
    chat.ask("/stats")
    chat.expect("no answer yet")
    chat.ask("/set temp=0")
    chat.ask("/show")
    for line in (r"sample.temperature 0 \(option\)", r"sample.top_k 7 \(option\)", r"sample.top_p 0.9 \(generation_config.json\)", r"sample.min_p 0.05 \(default\)", r"sample.seed random \(default\)"):
        chat.expect(line)
    chat.ask("/set tmep 1")
    chat.expect(r"option tmep: unknown, did you mean sample.temperature")
    chat.ask("/set temp")
    chat.expect("needs KEY VALUE")
    chat.ask("/set seed 12")
    chat.ask("/show")
    chat.expect(r"sample.seed 12 \(option\)")
    for blank in ("", "   ", " \t "):  # no message
        chat.ask(blank)
    chat.ask("/undo")
    chat.expect("no exchange")
    chat.ask("Hello")
    stats(chat)
    chat.ask("/regen")
    total, cached, new = stats(chat)
    assert new <= 2, (total, cached, new)
    for command, text in (("/mem", "MiB"), ("/kv", "bytes per token"), ("/ctx", r"context \d+ of"), ("/stats", "cached"), ("/undo", "took back"),
                          ("/reset", "empty")):
        chat.ask(command)
        chat.expect(text)
    chat.ask("/read " + __file__ + ".missing")
    chat.expect("No such file")
    chat.ask("/system Grüße, 世界")
    chat.ask("/system")
    chat.expect("Grüße, 世界")
    chat.prompt()
    chat.send("\x04")
    assert chat.leave() == 0


def test_regen_goes_on_in_the_stream_of_a_seed():
    """Three answers to one message: all different, and the same three whenever the seed is the same; told by /stats and /show."""
    def answers(seed, *args):
        chat = Chat("--temp", "1.5", "-n", "12", "--ignore-eos", *args)
        said = []
        for line in ("Tell me a story.", "/regen", "/regen"):
            chat.ask(line)
            said.append(chat.expect(r"\x1b\[\?2004l(.*?)kvrt: ended").group(1))
            told = chat.expect(r"\| seed (\d+)").group(1)
            assert seed is None or told == seed, (told, seed)
        chat.ask("/stats")
        assert chat.expect(r"\| seed (\d+)").group(1) == told
        chat.ask("/show")
        chat.expect(r"sample.seed %s \(option\)" % seed.decode() if seed else r"sample.seed random, %s in the last answer \(default\)" % told.decode())
        chat.ask("/bye")
        assert chat.leave() == 0
        return said
    first, again, other, free = answers(b"5", "--seed", "5"), answers(b"5", "--seed", "5"), answers(b"6", "--seed", "6"), answers(None)
    assert first == again and len(set(first + other + free)) == 9, (first, again, other, free)


def test_a_first_message_on_the_command_line():
    chat = Chat("Tell me a story.", *FAST)
    stats(chat)
    chat.ask("/export md /dev/stdout")
    chat.expect("## user\r\n\r\nTell me a story.\r\n\r\n## assistant")
    chat.ask("/quit")
    assert chat.leave() == 0
    chat = Chat("-p", "Tell me a story.", *FAST)
    stats(chat)
    chat.ask("/quit")
    assert chat.leave() == 0


def test_editing():
    chat = Chat(*FAST, "--no-stats")
    chat.prompt()
    chat.send("/he\t\r")
    chat.expect("/regen")
    chat.prompt()
    chat.send('"""first line\r')
    chat.expect(r"\.\.\. ")
    chat.send('second line"""\r')
    chat.prompt()
    chat.send("\x1b[200~pasted one\npasted two\n/quit\x1b[201~")
    chat.expect(r"\[pasted 4? ?\d* ?lines #1\]")
    chat.send("\r")
    chat.prompt()
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/out.json"
        chat.send(f"/export json {folder}/ou\t")
        chat.send("t.json\r")
        chat.expect("wrote")
        messages = json.load(open(path, encoding="utf-8"))
        users = [m["content"] for m in messages if m["role"] == "user"]
        assert users == ["first line\nsecond line", "pasted one\npasted two\n/quit"], users
        chat.prompt()
        chat.send("\x1b[A\r")  # Up: the last line again
        chat.expect("wrote")
        chat.resize((30, 40))
        chat.ask("/read " + folder + "/out.js\t\r")
        chat.prompt()
    chat.send("/quit\r")
    assert chat.leave() == 0


def test_completion_of_files():
    with tempfile.TemporaryDirectory() as folder:
        for name in ("two words.txt", "two wings.txt", "ein Bär.txt", "ein Bör.txt", "a folder/inner.txt"):
            path = pathlib.Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"text of {name}")
        chat = Chat(*FAST, "--no-stats", env={"HOME": folder})
        for keys, name in ((f"/read {folder}/two wo\t", "two words.txt"), ("/read ~/tw\ti\t", "two wings.txt"),
                           ("/read ~/a f\ti\t", "a folder/inner.txt"), (f"/read {folder}/ein\tö\t", "ein Bör.txt"),
                           (f"/read '{folder}/two words.txt'", "two words.txt")):
            chat.prompt()
            chat.send(keys + "\r")
        chat.prompt()
        chat.send("/export json ~/out put.json\r")
        chat.expect("wrote")
        chat.ask("/read ~/two\t\t")
        chat.expect("two wings.txt  two words.txt")
        chat.ask("/quit")
        assert chat.leave() == 0
        messages = json.loads(pathlib.Path(folder, "out put.json").read_text())
        users = [m["content"] for m in messages if m["role"] == "user"]
        assert users == [f"text of {name}" for name in ("two words.txt", "two wings.txt", "a folder/inner.txt", "ein Bör.txt", "two words.txt")], users


def test_interrupts():
    chat = Chat(*ENDLESS)
    chat.prompt()
    chat.send("\x03")
    chat.expect("Ctrl-D or /quit")
    time.sleep(1.1)
    chat.ask("Tell me a story.")
    chat.expect(r"\n.{40}")
    chat.send("\x03")
    chat.expect("stopped")
    time.sleep(1.1)
    chat.ask("/export md /dev/null")
    chat.expect("wrote")
    for _ in range(5):  # a machine that stands still for a moment makes one of the two, or a second between them
        chat.ask("Go on.")
        chat.answer_to("on.")
        chat.send("\x03")
        time.sleep(0.2)
        chat.send("\x03")
        code = chat.gone(10)
        if code is not None:
            break
    assert code == 130, chat.seen[-500:]


def test_leaving_twice_when_idle_restores_the_terminal():
    chat = Chat(*FAST, shell="trap : INT; {} ; echo code $?; stty -a")
    chat.prompt()
    for hints in range(5):  # more than one where the machine stood still for a second
        chat.send("\x03")
        if chat.expect("code 130|Ctrl-D or /quit").group(0) == b"code 130":
            break
    assert hints, "once is not enough"
    assert chat.seen.count(b"code 130") == 1, chat.seen
    chat.expect(r"[ ;]icanon.*[ ;]echo ")
    chat.leave()


def test_a_context_that_fills_up():
    chat = Chat("--ctx", "200", "--temp", "0", "-n", "4", "--ignore-eos")
    chat.prompt()
    warnings = []  # (tokens, percent that was said)
    for _ in range(60):
        chat.send("Yes\r")
        found = chat.expect(r"context (\d+)/200 \| KV [\d.]+ MiB(.*?)> |need at most 200[^\n]*\n([^\n]*)\r\n.*?> ")
        if found.group(3) is not None:
            break
        warnings += [(int(found.group(1)), int(percent)) for percent in re.findall(rb"the context is (\d+)% full", found.group(2))]
    assert found.group(3) == b"/reset or /undo make room", found
    # One warning when 80% are passed, one at 95% unless an answer filled the rest at once.
    assert 1 <= len(warnings) <= 2 and all(tokens * 100 // 200 == said for tokens, said in warnings), warnings
    assert 80 <= warnings[0][1] < 95 and (len(warnings) == 1 or warnings[1][1] >= 95), warnings
    chat.send("/reset\r")
    chat.ask("Hello")
    total, cached, new = stats(chat)
    assert total < 40, (total, cached, new)
    chat.ask("/quit")
    assert chat.leave() == 0


def test_a_bare_model_and_a_tiny_terminal():
    chat = Chat(*FAST, size=(2, 8), shell="{} ; echo code $?")
    chat.ask("Tell me a story about a fox and a bear")
    stats(chat)
    chat.resize((1, 3))
    chat.ask("/help")
    chat.expect("/export")
    chat.ask("/quit")
    chat.expect("code 0")
    chat.leave()
    bare = Chat(*FAST, bare=True)
    bare.ask("/ctx")
    bare.expect("context 0 of")
    bare.ask("/quit")
    assert bare.leave() == 0


def test_colours():
    for env, args in (({"NO_COLOR": "1"}, FAST), ({"TERM": "dumb"}, FAST)):
        chat = Chat(*args, env=env)
        chat.ask("Hello")
        stats(chat)
        chat.ask("/quit")
        assert chat.leave() == 0
        assert b"\x1b[2m" not in chat.seen, chat.seen
        if env.get("TERM") == "dumb":
            assert b"\x1b" not in chat.seen, chat.seen


def test_reasoning_is_dimmed_or_hidden():
    with tempfile.TemporaryDirectory() as folder:
        for file in pathlib.Path(MODEL).iterdir():
            shutil.copy(file, folder)
        config = json.loads(pathlib.Path(MODEL, "tokenizer_config.json").read_text())
        think = "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>\n' }}{% endif %}"
        config["chat_template"] = config["chat_template"].replace("assistant\n' }}", "assistant\n' }}" + think)
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        for args, env, dim, text in (([], {}, True, True), ([], {"NO_COLOR": "1"}, False, True), (["--hide-thinking"], {}, False, False),
                                     (["--no-think"], {}, False, True)):
            chat = Chat(*FAST, *args, "--no-stats", model=folder, env=env)
            chat.ask("Hello")
            answer = chat.expect(r"\x1b\[\?2004l(.*?)kvrt: ended after 24 tokens, as -n asks \(/set n -1: until the end of text\)").group(1)
            assert (b"\x1b[2m" in answer and answer.rstrip().endswith(b"\x1b[0m")) == dim, (args, env, answer)
            assert (len(answer.strip()) > 20) == text and (b"(thinking)" in answer) == ("--hide-thinking" in args), (args, env, answer)
            chat.ask("/quit")
            assert chat.leave() == 0


STORY = ROOT / "examples/models/storyteller-8m"


def during_an_answer(chat, message, do):
    """Asks, and does something while the answer comes."""
    for _ in range(10):
        chat.ask(message)
        chat.answer_to(message)
        with chat.stopped():
            if b"kvrt: ended" not in chat.seen[chat.mark:]:
                return do()
    raise AssertionError("no answer was met in the middle")


def test_typing_during_an_answer_waits_for_the_prompt():
    for env in ({}, {"TERM": "dumb"}):
        chat = Chat("--temp", "0", "-n", "150", "--ignore-eos", "--ctx", "4000", model=STORY, env=env)
        during_an_answer(chat, "Tell me a story.", lambda: chat.send("/ctx\r/he"))  # a whole line, and the beginning of one
        answer = chat.expect(r"(.*?)kvrt: ended after 150").group(1)
        assert b"/ctx" not in answer and b"/he" not in answer and len(answer) > 100, (env, answer)
        stats(chat)
        chat.expect(r"> .*/ctx.*context \d+ of \d+ tokens")
        chat.expect(r"> .*/he")
        chat.send("lp\r")
        chat.expect("/regen")
        during_an_answer(chat, "Tell me more.", lambda: chat.send("x\x03"))  # Ctrl-C is a signal still, and takes back what was typed before it
        chat.expect(r"\(stopped\)")
        time.sleep(1.1)
        during_an_answer(chat, "Again.", lambda: chat.send("\x04"))  # Ctrl-D leaves, as soon as there is a prompt
        assert chat.leave() == 0


def test_the_terminal_is_as_it_was():
    """After an end from outside, during an answer and at the prompt."""
    for number, during in ((signal.SIGTERM, True), (signal.SIGHUP, True), (signal.SIGTERM, False)):
        chat = Chat("--temp", "0", "-n", "100000", "--ctx", "100000", "--ignore-eos", "--reserve", "0", model=STORY,
                    shell="trap : HUP; {} ; echo code $?; stty -a")
        chat.prompt()
        if during:
            chat.send("Tell me a story.\r")
            chat.answer_to("story.")
        os.kill(int(pathlib.Path(f"/proc/{chat.pid}/task/{chat.pid}/children").read_text()), number)
        chat.expect(r"code 1\d\d")
        chat.expect(r"[ ;]icanon.*[ ;]echo ")
        chat.leave()


def width(c):
    return 0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1


def wrapped(text, columns):
    """Rows by the rule: as much as fits, breaks at spaces and beside wide characters, not before marks that close."""
    rows = []
    for paragraph in text.split("\n"):
        # Units that hold together, each with the spaces before it.
        units = re.findall(r" *[^ ]+", paragraph)
        units = [part for unit in units for part in re.findall(r" *(?:[世界](?:[。\u0301])*|(?:[^ 世界。]\u0301?)+[。]*|[。])", unit)]
        assert "".join(units) == paragraph.rstrip(" "), (units, paragraph)
        row, used = "", 0
        for unit in units:
            word = unit.lstrip(" ")
            n, gap = sum(map(width, word)), len(unit) - len(word)
            if used and used + gap + n > columns:
                rows.append(row)
                row, used, gap = "", 0, 0
            row, used = row + " " * gap + word, used + gap + n
        rows.append(row)
    return rows


def test_words_are_not_broken_at_the_edge():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(MODEL, folder, dirs_exist_ok=True)
        json_file = pathlib.Path(folder, "tokenizer.json")
        wide = json.loads(json_file.read_text(encoding="utf-8"))
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in printable]
        letters = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}
        replace = [{"type": "Replace", "pattern": {"String": old}, "content": "".join(letters[b] for b in new.encode())}
                   for old, new in (("th", "世界"), ("e", "e\u0301"), (",", "。"))]
        wide["decoder"] = {"type": "Sequence", "decoders": [*replace, wide["decoder"]]}
        json_file.write_text(json.dumps(wide), encoding="utf-8")
        for model in (MODEL, folder):
            args = ["--temp", "0.9", "--seed", "11", "-n", "300", "--ignore-eos"]
            piped = subprocess.run([KVRT, "chat", model, "Tell me a story.", *args], capture_output=True, timeout=HANGS, stdin=subprocess.DEVNULL)
            text = piped.stdout.decode()
            assert text.count(" ") > 50 and max(map(len, text.split("\n"))) > 100, text  # a pipe gets no rows
            assert model == MODEL or ("世界" in text and "e\u0301" in text and "。" in text), text
            for columns in (100, 40, 23, 9):
                chat = Chat(*args, model=model, size=(24, columns))
                chat.ask("Tell me a story.")
                shown = chat.expect(r"\x1b\[\?2004l(.*?)\r\nkvrt: ended").group(1).decode()
                rows, wanted = shown.split("\r\n"), wrapped(text, columns)
                longest = max(sum(map(width, u)) for u in text.split())
                if columns > longest:
                    assert [r.rstrip(" ") for r in rows] == wanted, (columns, rows, wanted)
                    assert all(sum(map(width, r)) <= columns for r in rows), (columns, rows)
                assert "".join(shown.split()) == "".join(text.split()), (columns, shown, text)  # nothing but spaces changes
                chat.ask("/quit")
                assert chat.leave() == 0


def test_rows_follow_a_new_window_size():
    chat = Chat("--temp", "0", "-n", "400", "--ignore-eos", "--ctx", "4000", model=STORY, size=(24, 100))
    for _ in range(10):
        chat.resize((24, 100))
        during_an_answer(chat, "Tell me a story.", lambda: (setattr(chat, "mark", len(chat.seen)), chat.resize((24, 30))))
        shown = chat.expect(r"(.*?)kvrt: ended").group(1).decode()
        rows = shown.split("\r\n")[:-1]
        if len(rows) > 10:  # it was early enough
            break
    narrow = [len(r) <= 30 for r in rows]
    assert len(rows) > 10 and all(narrow[3:]), rows
    chat.ask("/quit")
    assert chat.leave() == 0


def test_pipes():
    run = subprocess.run([KVRT, "chat", MODEL, *FAST], input=b"Hello", capture_output=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr
    assert run.stdout and b"\x1b" not in run.stdout and b">" not in run.stdout[:2]
    again = subprocess.run([KVRT, "run", MODEL, "--messages", "-", *FAST], capture_output=True, timeout=HANGS,
                           input=json.dumps([{"role": "user", "content": "Hello"}]).encode())
    assert again.returncode == 0, again.stderr
    assert again.stdout == run.stdout, (again.stdout, run.stdout)
    closed = subprocess.run(f"printf Hello | {KVRT} chat {MODEL} --temp 0 -n 2000 --ignore-eos | head -c 1 > /dev/null; echo ${{PIPESTATUS[1]}}",
                            shell=True, executable="/bin/bash", capture_output=True, timeout=HANGS)
    assert closed.stdout.strip() == b"1", closed
    bare = subprocess.run([KVRT, "chat", str(ROOT / "test/golden/models/llama_gqa2")], input=b"x", capture_output=True, timeout=HANGS)
    assert bare.returncode == 6 and b"chat template" in bare.stderr, bare


if __name__ == "__main__":
    main(globals())
