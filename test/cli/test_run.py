#!/usr/bin/env python3
"""`kvrt run` as a filter: exact bytes on stdout, everything else on stderr; JSON; configuration; interrupts; closed pipes."""
import json
import os
import pty
import resource
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import ENVIRONMENT, Folder, KVRT, MODEL, ROOT, kvrt, main, test

STORY = ROOT / "examples/models/storyteller-tiny"
GREEDY = ["--temp", "0", "--ignore-eos"]
# Enough work to be interrupted in the middle, on any machine.
ENDLESS = ["-n", "1000000", "--ctx", "2000000", "--ignore-eos", "--reserve", "0"]


def text_of(prompt, *args):
    return kvrt("run", MODEL, "-p", prompt, *GREEDY, *args).expect(0).out


@test
def stdout_is_model_text_only():
    result = kvrt("run", MODEL, "-p", "hello", "-n", 20, *GREEDY, "-q").expect(0)
    assert len(result.out) > 0 and result.err == "", result.err
    assert result.out == text_of("hello", "-n", 20), "two runs are equal"


@test
def piped_text_goes_before_the_prompt():
    whole = text_of("abcdef", "-n", 12)
    kvrt("run", MODEL, "-p", "def", "-n", 12, *GREEDY, stdin=b"abc").expect(0, out=whole)
    kvrt("run", MODEL, "-n", 12, *GREEDY, stdin=b"abcdef").expect(0, out=whole)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"abcdef")
        file.flush()
        kvrt("run", MODEL, "-f", file.name, "-n", 12, *GREEDY).expect(0, out=whole)
        kvrt("run", MODEL, "-f", "-", "-n", 12, *GREEDY, stdin=b"abcdef").expect(0, out=whole)
        kvrt(MODEL, "-p", "abcdef", "-n", 12, *GREEDY).expect(0, out=whole)  # a bare model runs when nobody watches


@test
def json_envelope():
    out = kvrt("run", MODEL, "-p", "hello", "-n", 20, *GREEDY, "--json").expect(0).json()
    for key in ("text", "ids", "finish_reason", "n_prompt", "n_generated", "prefill_tps", "decode_tps", "kv_bytes"):
        assert key in out, f"{key} is missing from {out}"
    assert out["text"].encode() == text_of("hello", "-n", 20)
    assert out["n_prompt"] == 5 and out["n_generated"] == 20 == len(out["ids"]) and out["finish_reason"] == "length"
    ids = json.dumps(out["ids"]).encode()
    assert kvrt("tokenize", MODEL, "--decode", stdin=ids).expect(0).out == out["text"].encode()


@test
def ndjson_is_an_event_per_line():
    result = kvrt("run", MODEL, "-p", "hello", "-n", 20, *GREEDY, "--ndjson", "--set", "gen.token_events=true").expect(0)
    events = [json.loads(line) for line in result.out.splitlines()]
    assert "".join(e["text"] for e in events if e["event"] == "text").encode() == text_of("hello", "-n", 20)
    assert [e["event"] for e in events].count("token") == 20
    assert events[-1]["event"] == "done" and events[-1]["finish_reason"] == "length"


@test
def a_full_context_drops_its_middle():
    args = ["run", MODEL, "-p", "hello", "-n", 700, *GREEDY, "--ctx", 384]
    assert kvrt(*args, "--json").expect(5).json()["n_generated"] == 379
    result = kvrt(*args, "--ctx-full", "shift", "--ndjson").expect(0)
    events = [json.loads(line) for line in result.out.splitlines()]
    dropped = [e for e in events if e["event"] == "ctx_shifted"]
    assert [e["dropped"] for e in dropped] == [128] * 3 and dropped[-1]["total"] == 384, dropped
    assert events[-1]["finish_reason"] == "length", events[-1]
    kvrt(*args, "--ctx-full", "demote").expect(2)
    out = kvrt(*args, "--ctx-full", "shift", "--json").expect(0).json()
    assert out["n_generated"] == 700 == len(out["ids"]), len(out["ids"])


@test
def nothing_to_generate_and_stop_strings():
    kvrt("run", MODEL, "-p", "hello", "-n", 0).expect(0, out=b"")
    text = text_of("hello", "-n", 30).decode()
    stop = text[4:6]
    out = kvrt("run", MODEL, "-p", "hello", "-n", 30, *GREEDY, "--stop", stop, "--json").expect(0).json()
    assert out["finish_reason"] == "stop" and out["text"] == text[:text.index(stop)], out


@test
def context_full_is_exit_5():
    out = kvrt("run", MODEL, "-p", "hello", "--ctx", 16, *GREEDY, "--json").expect(5).json()
    assert out["finish_reason"] == "ctx_full" and out["n_prompt"] + out["n_generated"] <= 17, out


@test
def an_answer_ends_with_the_text_or_says_why_it_does_not():
    whole = kvrt("run", MODEL, "-p", "hello", *GREEDY, "--ctx", 600, "--json").expect(5).json()
    assert whole["n_generated"] > 500 and whole["finish_reason"] == "ctx_full", "no limit of tokens by default"
    assert whole["text"] == kvrt("run", MODEL, "-p", "hello", *GREEDY, "--ctx", 600, "-n", -1, "--json").expect(5).json()["text"]
    cut = kvrt("run", MODEL, "-p", "hello", "-n", 7, *GREEDY).expect(0)
    assert cut.err == "kvrt: ended after 7 tokens, as -n asks (-n -1: until the end of text)\n", cut.err
    kvrt("run", MODEL, "-p", "hello", *GREEDY, "--ctx", 16).expect(5, ["the context is full", "--ctx"])
    assert kvrt("run", MODEL, "-p", "hello", "-n", 7, *GREEDY, "--json").expect(0).err == "", "JSON tells it by itself"
    eos = whole["ids"][3]
    with Folder() as m:  # a model that ends its text has nothing to explain
        m.config(eos_token_id=eos)
        ended = kvrt("run", m, "-p", "hello", "--temp", 0).expect(0)
        assert ended.err == "" and len(ended.out) < 30, ended.err
    with Folder() as m:  # unless there is no text
        m.config(eos_token_id=whole["ids"][0])
        kvrt("run", m, "-p", "hello", "--temp", 0).expect(0, ["ended the text at once", "-s ''"], b"")
        assert kvrt("run", m, "-p", "hello", "--temp", 0, "-q").expect(0).err == ""
    both = subprocess.run([KVRT, "run", MODEL, "-p", "hello", "-n", "7", *GREEDY], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=ENVIRONMENT)
    assert b"\nkvrt: ended after 7" in both.stdout, "a log of both streams keeps lines apart"


@test
def the_rendered_prompt_can_be_seen():
    model = ROOT / "examples/models/storyteller-tiny"
    wanted = b"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    messages = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]).encode()
    for args, stdin in ((["chat", model, "Hi", "--system", "Be brief."], b""), (["chat", model, "--system", "Be brief."], b"Hi"),
                        (["chat", model, "--system", "Be brief."], b"Hi\n"), (["run", model, "--system", "Be brief."], b"Hi\r\n"),
                        (["chat", model, "-s", "Be brief.", "-p", "i"], b"H"), (["run", model, "-s", "Be brief.", "Hi"], b""),
                        (["run", model, "--messages", "-"], messages)):
        assert kvrt(*args, "--render", stdin=stdin).expect(0, out=wanted).err == ""
    assert kvrt("run", model, "--raw", *GREEDY, "-n", 5, "--messages", "-", stdin=messages).out == kvrt("chat", model, "Hi", *GREEDY, "-n", 5, "-s", "Be brief.").out
    with tempfile.TemporaryDirectory() as folder:  # it is text work: no weights are needed
        for name in ("tokenizer.json", "tokenizer_config.json"):
            os.symlink(model / name, f"{folder}/{name}")
        kvrt("chat", folder, "Hi", "--system", "Be brief.", "--render").expect(0, out=wanted)
    kvrt("run", model, "Hi", "--render").expect(2, ["--render needs --messages or --system"])
    kvrt("chat", MODEL, "Hi", "--render").expect(6, "chat template")
    kvrt("chat", model, "--render").expect(2, "stdin is empty")


@test
def a_seed_is_random_and_told():
    def sampled(*args):
        return kvrt("run", MODEL, "-p", "hello", "-n", 40, "--temp", 1, "--ignore-eos", *args).expect(0)
    first, second = (sampled("--json").json() for _ in range(2))
    assert first["seed"] != second["seed"] and first["text"] != second["text"] and 0 <= first["seed"] < 1 << 53, (first, second)
    again = sampled("--json", "--seed", first["seed"]).json()
    assert again["seed"] == first["seed"] and again["text"] == first["text"], (first, again)
    done = json.loads(sampled("--ndjson", "--seed", 7).out.splitlines()[-1])
    assert done["event"] == "done" and done["seed"] == 7, done
    assert "| seed 8\n" in sampled("--stats", "--seed", 8).err


@test
def seeds():
    def sample(seed):
        return kvrt("run", MODEL, "-p", "hello", "-n", 40, "--temp", 1, "--ignore-eos", "--seed", seed).expect(0).out
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


@test
def options_come_from_file_environment_and_flags_in_this_order():
    def count(*args, **env):
        return kvrt("run", MODEL, "-p", "hello", *GREEDY, "--json", *args, env=env).expect(0).json()["n_generated"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("# how long\n\n  gen.max_tokens = 3  \n")
        file.flush()
        assert count("--config", file.name) == 3
        assert count("--config", file.name, KVRT_N="4") == 4
        assert count("-n", "5", "--config", file.name, KVRT_N="4") == 5
        assert count("--set", "gen.max_tokens=6") == 6
        assert count(KVRT_CONFIG=file.name) == 3


@test
def one_vocabulary():
    """An option by every name it goes by, in every place: the same text."""
    def said(*args, env=None, **more):
        return kvrt("run", MODEL, "-p", "hello", "--ignore-eos", "--seed", 1, *args, env=env, **more).expect(0).out
    for value, names in (("0", ["temp", "temperature", "sample.temperature", "sample_temperature"]), ("5", ["n", "max-tokens", "max_tokens", "gen.max_tokens", "n-predict"]),
                         ("3", ["top-k", "top_k", "TOP_K", "sample.top_k"])):
        also = [] if value == "5" else ["-n", "12"]
        wanted = said(f"--{names[0]}" if len(names[0]) > 1 else f"-{names[0]}", value, *also)
        assert wanted != said("-n", "13", "--top-k", "0")
        for name in names:
            assert said("--set", f"{name}={value}", *also) == wanted, name
            assert said(*also, env={"KVRT_" + name.upper().replace("-", "_").replace(".", "_"): value}) == wanted, name
            for line in (f"{name}={value}", f"  {name} = {value}  ", f'{name} = "{value}"', f"--{name} = {value}\r"):
                with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
                    file.write(line)
                    file.flush()
                    assert said("--config", file.name, *also) == wanted, line
        for flag in ("--" + names[1], "-" + names[1]):  # the second is a name of other programs, with one dash as well
            assert said(flag, value, *also) == wanted, flag
    assert said("-c", "20", "-t", "1", "-n", "9", "-ngl", "0") == said("--ctx", "20", "--threads", "1", "-n", "9", "--backend", "cpu")
    assert "a model is whole on one device" in kvrt("run", MODEL, "x", "-ngl", "99", "-n", 1).expect(0).err
    kvrt("run", MODEL, "-p", "hello", "-c", "20", "--ignore-eos").expect(5)


@test
def the_prompt_may_stand_behind_the_model():
    whole = text_of("abcdef", "-n", 12)
    kvrt("run", MODEL, "abcdef", "-n", 12, *GREEDY).expect(0, out=whole)
    kvrt("run", "-n", 12, *GREEDY, MODEL, "def", stdin=b"abc").expect(0, out=whole)
    kvrt(MODEL, "abcdef", "-n", 12, *GREEDY).expect(0, out=whole)
    kvrt("run", MODEL, "-n", 12, *GREEDY, "--", "abcdef").expect(0, out=whole)


# ---- closed pipes, interrupts ----------------------------------------------------------------------------------------------------------
@test
def a_reader_that_leaves():
    for extra in ([], ["--ndjson"]):
        process = subprocess.Popen([KVRT, "run", MODEL, "-p", "hello", *GREEDY, *extra, *ENDLESS],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
        process.stdout.read(1)
        process.stdout.close()
        err = process.stderr.read().decode()
        assert process.wait(120) == 1 and "stdout" in err, (extra, process.returncode, err)
    ours, theirs = os.pipe()
    os.close(ours)  # --json writes once, at the end: nobody must be left to read it
    kvrt("run", MODEL, "-p", "hello", *GREEDY, "-n", 5, "--json", stdout=theirs).expect(1, "stdout")
    os.close(theirs)


@test
def a_closed_or_full_stdout():
    result = subprocess.run(f'"{KVRT}" run "{MODEL}" -p hello -n 3 </dev/null >&-', shell=True, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert result.returncode == 1 and b"stdout" in result.stderr, result
    with open("/dev/full", "wb") as full:
        for command in (["run", MODEL, "-p", "hello", "-n", 3], ["run", MODEL, "-p", "hello", "-n", 3, "--json"], ["inspect", MODEL],
                        ["devices"], ["tokenize", MODEL], ["run", "--help"], ["--version"]):
            result = kvrt(*command, stdin=b"x", stdout=full)
            assert result.expect(1).err == "kvrt: stdout: No space left on device\n", (command, result.err)
        for command in (["chat", STORY, "x", "-n", 3], ["eval", STORY, "--text", ROOT / "README.md", "--tokens", 8, "--kv", "i8"]):
            assert kvrt(*command, stdout=full).expect(1).err == "kvrt: stdout: No space left on device\n", command


@test
def a_closed_stdin():
    """As cron and daemons leave it: no prompt comes from there, which is a fault only where one is needed."""
    def closed(*args):
        command = " ".join(f"'{a}'" for a in (KVRT, *args))
        return subprocess.run(f"{command} <&-", shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    for command in ("run", "chat"):
        result = closed(command, STORY, "hello", "-n", 3, *GREEDY)
        assert result.returncode == 0 and result.stdout and b"descriptor" not in result.stderr, result
        assert closed(command, STORY).returncode == 2
    for args in (["tokenize", STORY], ["run", STORY, "-f", "-"]):
        result = closed(*args)
        assert result.returncode == 1 and result.stderr == b"kvrt: stdin: Bad file descriptor\n", result


def spent(pid):
    """CPU seconds: how far a command is that says nothing, on a machine that others use as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def interrupted(args, stdin=b"", after=None):
    """Starts kvrt, waits for the first output (or `after` CPU seconds), sends Ctrl-C; returns (code, out, err, CPU seconds it took to end)."""
    process = subprocess.Popen([KVRT, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    process.stdin.write(stdin)
    process.stdin.close()
    first = b""
    if after is None:
        first = process.stdout.read(8)
    else:
        while process.poll() is None and spent(process.pid) < after:
            time.sleep(0.01)
    start, before = spent(process.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    process.send_signal(signal.SIGINT)
    out = first + process.stdout.read()
    err = process.stderr.read().decode()
    code = process.wait(120)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return code, out, err, now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime - start


@test
def interrupt_keeps_the_partial_text():
    code, out, err, seconds = interrupted(["run", MODEL, "-p", "hello", *GREEDY, *ENDLESS])
    assert code == 130 and "interrupted" in err and seconds < 4, (code, err, seconds)
    # As much as was written by then, which a busy machine may make a lot: compared as far as the model's own context goes.
    assert out[:300].startswith(text_of("hello", "-n", 300)[:len(out[:300])]) and len(out) >= 8, out[:80]


@test
def interrupt_in_json_still_prints_the_envelope():
    code, out, err, seconds = interrupted(["run", MODEL, "-p", "hello", *GREEDY, *ENDLESS, "--json"], after=1.0)
    answer = json.loads(out)
    assert code == 130 and answer["finish_reason"] == "cancelled" and answer["n_generated"] > 0, (code, err, seconds)


@test
def interrupt_in_prefill():
    code, out, err, seconds = interrupted(["run", MODEL, *GREEDY, *ENDLESS], stdin=b"x" * 1500000, after=5.0)
    assert code == 130 and out == b"" and seconds < 5, (code, out[:80], err, seconds)


# ---- on a terminal -----------------------------------------------------------------------------------------------------------------------
def on_terminal(args, **env):
    """Runs kvrt with all three streams on a pseudo-terminal; returns (code, everything it showed)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(KVRT, [KVRT, *args], {**ENVIRONMENT, "TERM": "xterm", **env})
    shown, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 1)[0]:
            continue
        try:
            piece = os.read(fd, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    return code, shown


@test
def a_terminal_gets_stats_and_colour():
    code, shown = on_terminal(["run", MODEL, "-p", "hello", "-n", "10", *GREEDY])
    assert code == 0 and b"tok/s" in shown and b"\x1b[2m" in shown, shown
    code, shown = on_terminal(["run", MODEL, "-p", "hello", "-n", "10", *GREEDY, "-q"])
    assert code == 0 and b"tok/s" not in shown, shown
    code, shown = on_terminal(["run", MODEL])
    assert code == 2 and b"prompt" in shown, shown


@test
def no_colour_and_dumb_terminals():
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, shown = on_terminal(["run", MODEL, "-p", "hello", "-n", "10", *GREEDY], **env)
        assert code == 0 and b"tok/s" in shown and b"\x1b[2m" not in shown, shown
        assert env != {"TERM": "dumb"} or b"\x1b" not in shown, shown


@test
def guesses_change_the_figures_alone():
    prompt = "Once upon a time there was a dog. The dog saw a cat. Once upon a time there was a dog. The dog"
    def answer(*args):
        return kvrt("run", STORY, "-p", prompt, "-n", 60, *GREEDY, "--ctx", 256, "--json", *args).expect(0).json()
    plain = answer()
    assert plain["n_drafted"] == plain["n_accepted"] == 0
    for args in (["lookup"], ["model", "--draft-model", STORY], ["lookup", "--draft-max", 2]):
        out = answer("--draft", *args)
        assert out["ids"] == plain["ids"] and out["text"] == plain["text"], args
        assert 0 < out["n_accepted"] <= out["n_drafted"], (args, out)
    kvrt("run", STORY, "-p", prompt, "--draft", "model").expect(2, err="draft.model")
    kvrt("run", STORY, "-p", prompt, "--draft", "some").expect(2, err="lookup")
    out = kvrt("bench", STORY, "--draft", "lookup", "--prompt", 96, "--gen", 16, "--reps", 2, "--json").expect(0).json()
    copying, other = out["rows"]
    assert copying["n_gen"] == other["n_gen"] == 16 and copying["decode_tps"] > 0 and copying["draft_tps"] > 0, out


main()
