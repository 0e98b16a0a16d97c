#!/usr/bin/env python3
"""Ctrl-C while `kvrt chat` loads and while it reads a long prompt, on a terminal. The bundled models are too fast to be caught there, so
this makes a wide model of zeros (121 M parameters, a sparse file) that takes seconds for what is sent to it."""
import contextlib
import json
import os
import pathlib
import shutil
import struct
import tempfile
import time

from chat_terminal import Chat, HANGS, KVRT, MODEL, main, stats

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 1024, 4096, 8, 16, 4, 64
SLOW = ["--temp", "0", "-n", "4", "--no-amx", "--ignore-eos"]
COPY = ["--set", "model.io=copy"]  # reads the whole file, so that loading takes time
PROMPT_TOKENS = 12000              # at least; seconds of prefill on a fast machine


@contextlib.contextmanager
def slow_model():
    with tempfile.TemporaryDirectory(prefix="kvrt-slow-") as folder:
        config = json.loads(pathlib.Path(MODEL, "config.json").read_text())
        config.update(hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                      num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, max_position_embeddings=32768)
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{MODEL}/{name}", folder)
        shapes = {"model.embed_tokens.weight": [config["vocab_size"], HIDDEN], "model.norm.weight": [HIDDEN]}
        for i in range(LAYERS):
            layer = f"model.layers.{i}."
            shapes |= {layer + "input_layernorm.weight": [HIDDEN], layer + "post_attention_layernorm.weight": [HIDDEN],
                       layer + "self_attn.q_proj.weight": [HEADS * HEAD_DIM, HIDDEN],
                       layer + "self_attn.k_proj.weight": [KV_HEADS * HEAD_DIM, HIDDEN],
                       layer + "self_attn.v_proj.weight": [KV_HEADS * HEAD_DIM, HIDDEN],
                       layer + "self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD_DIM], layer + "mlp.gate_proj.weight": [FFN, HIDDEN],
                       layer + "mlp.up_proj.weight": [FFN, HIDDEN], layer + "mlp.down_proj.weight": [HIDDEN, FFN]}
        header, at = {}, 0
        for name, shape in shapes.items():
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        with open(f"{folder}/model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)
        pathlib.Path(folder, "long.txt").write_text("The quick brown fox. " * (PROMPT_TOKENS // 10))
        yield folder


def loads(pid):
    """Whether the command has its own handler for Ctrl-C: it installs that before it opens the model."""
    # In this order: until exec it is a fork of this script, which has a handler of its own.
    if os.path.realpath(f"/proc/{pid}/exe") != os.path.realpath(KVRT):
        return False
    caught = next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 2)


def interrupted_while_loading(folder, keys):
    """A chat that got the keys while it loaded, and its exit code: looked at while it stands still, once more if it was too fast."""
    for _ in range(20):
        chat, sent = Chat(*SLOW, *COPY, model=folder), False
        end = time.monotonic() + HANGS
        while not sent and b"context" not in chat.seen and time.monotonic() < end:  # what it says of the model
            with chat.stopped():
                if loads(chat.pid) and b"context" not in chat.seen:
                    sent = chat.send(keys) is None
            time.sleep(0.001)
        while sent and b"leaves)" not in chat.seen[-100:] and time.monotonic() < end:  # the hint at a prompt: Ctrl-C came behind the loading
            code = chat.gone(0.1)
            if code is not None:
                return chat, code
        chat.send("/quit\r")
        chat.leave()
    raise AssertionError("no handler for Ctrl-C, or it is never met while it loads")


def test_interrupt_while_loading(folder):
    for keys in ("\x03", "\x03\x03"):
        chat, code = interrupted_while_loading(folder, keys)
        assert code == 130 and b"> " not in chat.seen, (code, chat.seen)
        assert len(keys) > 1 or b"loading cancelled" in chat.seen, chat.seen


def spent(pid):
    """CPU seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_interrupt_in_a_long_prompt(folder):
    chat = Chat(*SLOW, model=folder)
    chat.ask(f"/read {folder}/long.txt")
    found = chat.expect(r"prompt \[[#.]{24}\] (\d+) of (\d+) tokens, \d+ tokens/s")
    reached, total = int(found.group(1)), int(found.group(2))
    assert total > PROMPT_TOKENS, total
    start = spent(chat.pid)
    chat.send("\x03")
    chat.expect(r"\(cancelled\)")
    took = spent(chat.pid) - start
    assert took < start * (total - reached) / reached / 2, f"cancelled after {took:.1f} s of work, behind {reached} tokens in {start:.1f} s"
    # What was cancelled is not part of the conversation, and the next message is answered.
    chat.ask("Hi")
    tokens, cached, new = stats(chat)
    assert tokens < 100 and tokens == cached + new, (tokens, cached, new)
    chat.prompt()
    chat.send(f"/export json {folder}/chat.json\r")
    chat.expect("wrote")
    messages = json.loads(pathlib.Path(folder, "chat.json").read_text())
    assert [m["role"] for m in messages] == ["user", "assistant"] and messages[0]["content"] == "Hi", messages
    # At an empty prompt Ctrl-C is a hint, more than a second after the last.
    chat.prompt()
    time.sleep(1.1)
    chat.send("\x03")
    chat.expect("Ctrl-D or /quit leaves")
    chat.prompt()
    chat.send("\x04")
    assert chat.leave() == 0
    print(f"  cancelled in {took * 1000:.0f} ms, after {reached} of {total} tokens")


def test_twice_in_a_long_prompt_leaves(folder):
    chat = Chat(*SLOW, model=folder, shell="trap : INT; {} ; echo code $?; stty -a")
    for _ in range(5):  # a machine that stands still for a moment makes one of the two
        chat.ask(f"/read {folder}/long.txt")
        chat.expect(r"prompt \[")
        chat.send("\x03")
        time.sleep(0.05)
        chat.send("\x03")
        end = time.monotonic() + 10
        while b"code 130" not in chat.seen and time.monotonic() < end:
            chat.pump(0.02)
        if b"code 130" in chat.seen:
            break
    chat.expect("code 130")
    chat.expect(r"[ ;]icanon.*[ ;]echo ")
    chat.leave()


def test_interrupt_with_a_plain_terminal(folder):
    """No progress bar, no escape sequence; the rest is the same."""
    chat = Chat(*SLOW, model=folder, env={"TERM": "dumb"})
    chat.prompt()
    start = spent(chat.pid)
    chat.send(f"/read {folder}/long.txt\r")
    while spent(chat.pid) < start + 0.5:
        chat.pump(0.01)
    chat.send("\x03")
    chat.expect(r"\(cancelled\)")
    chat.ask("/quit")
    assert chat.leave() == 0
    assert b"\x1b" not in chat.seen and b"prompt [" not in chat.seen, chat.seen


if __name__ == "__main__":
    with slow_model() as made:
        main({name: (lambda test=value: test(made)) for name, value in list(globals().items()) if name.startswith("test_")})
