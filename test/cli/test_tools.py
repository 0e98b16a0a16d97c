#!/usr/bin/env python3
"""tokenize, inspect, devices, plan, bench, completions and the manual page, each as a script sees them."""
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from harness import ENVIRONMENT, Folder, MODEL, ROOT, kvrt, main, test


ODD_LATENTS = str(ROOT / "test/golden/models/deepseek_v2")  # roped keys of 8 dimensions, which are no packed row on a card


def encode(data, *args):
    result = kvrt("tokenize", MODEL, *args, stdin=data).expect(0)
    assert result.out.endswith(b"]\n") and result.out.count(b"\n") == 1, result.out[:200]
    return json.loads(result.out)


def decode(ids, *args):
    return kvrt("tokenize", MODEL, "--decode", *args, stdin=ids if isinstance(ids, bytes) else json.dumps(ids).encode()).expect(0).out


@test
def tokenize_there_and_back():
    for text in (b"hello,world!", b"", b"a" * 5000):  # this vocabulary has printable ASCII only
        assert decode(encode(text)) == text
    assert encode(b"<s>") == encode(b"<s>", "--special")[-3:], "text never becomes a special token"
    assert encode(b"<s>", "--parse-special") == [0]
    for data in (b"\xff\xfe", b"\x00", bytes(range(256))):
        encode(data)  # any bytes are fine
    for ids in (b"38 39 40", b" 38,39\n40 ", b"[38,39,40]\n", b" [ 38 , 39,40 ] ", b"38 , 39 , 40"):
        assert decode(ids) == decode([38, 39, 40]), ids
    assert decode(b"") == decode(b"[]") == decode(b" \n") == b""


@test
def embed_pools_as_asked_and_as_the_folder_says():
    def rows(*args, stdin=b"hello\nworld, w\r\n", model=MODEL):
        return [json.loads(line) for line in kvrt("embed", model, *args, stdin=stdin).expect(0).out.splitlines()]

    every, mean, last = (rows("--pooling", how, "--no-normalize", "--raw") for how in ("tokens", "mean", "last"))
    assert [len(r["embedding"]) for r in every] == [r["n_tokens"] for r in mean] == [5, 7], (every, mean)
    for e, m, l in zip(every, mean, last):
        e, m, l = e["embedding"], m["embedding"], l["embedding"]
        assert all(abs(x - y) < 1e-5 for x, y in zip(l, e[-1])) and all(abs(x - sum(r[i] for r in e) / len(e)) < 1e-4 for i, x in enumerate(m))
    plain, = rows("hello", "--raw", "--no-normalize", stdin=None)
    assert plain["embedding"] == last[0]["embedding"], "without --pooling the last token's"
    unit, = rows("hello", "--raw", stdin=None)
    norm = sum(x * x for x in plain["embedding"]) ** 0.5
    assert all(abs(u - x / norm) < 1e-6 for u, x in zip(unit["embedding"], plain["embedding"]))
    with Folder() as m:
        (m.path / "1_Pooling").mkdir()
        config = m.path / "1_Pooling/config.json"
        for said, expected in (('{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens" : true}', mean), ('{"pooling_mode_lasttoken":true}', last)):
            config.write_text(said)
            assert rows("--raw", "--no-normalize", model=m) == expected
        config.write_text('{"pooling_mode_cls_token": true}')
        kvrt("embed", m, "x").expect(3, ["1_Pooling/config.json", "--pooling"])
        assert rows("--raw", "--no-normalize", "--pooling", "mean", model=m) == mean
    kvrt("embed", MODEL, "x", "--pooling", "max").expect(2, ["--pooling", "max"])
    kvrt("embed", MODEL, "--raw", "", stdin=None).expect(2, "0 tokens")


@test
def tokenize_rejects_what_is_no_id():
    for ids in (b"[1,2", b"[", b"]", b"1,2]", b"[1,,2]", b"[1,]", b"[1 2]", b"[1,2] 3", b"[1,2]]", b"[[1]]", b",", b"1,", b"1x2", b"+1", b"[1e1]", b"[1\x00,2]"):
        kvrt("tokenize", MODEL, "--decode", stdin=ids).expect(1, ["kvrt tokenize: ", "need"], out=b"")
    for ids, code in ((b"[1, x]", 1), (b"[1.5]", 1), (b"[99999999999]", 1), (b"[96]", 2), (b"[-1]", 2)):
        result = kvrt("tokenize", MODEL, "--decode", stdin=ids)
        assert result.code in (1, 2) and result.err.startswith("kvrt") and result.out == b"", (ids, result.code, result.err)


@test
def tokenize_needs_tokenizer_files_only():
    with Folder() as m:
        for name in ("config.json", "model.safetensors"):
            (m.path / name).unlink()
        for data in (b"hello", b"", b"<s>x"):
            ids = kvrt("tokenize", m, "--special", stdin=data).expect(0).out
            assert ids == kvrt("tokenize", MODEL, "--special", stdin=data).expect(0).out and decode(ids) == kvrt("tokenize", m, "--decode", stdin=ids).expect(0).out
        kvrt("tokenize", m, "--decode", stdin=b"[96]").expect(2, "id 96, need 0..95")
        kvrt("run", m, "x").expect(3, "config.json")
        (m.path / "tokenizer_config.json").unlink()
        kvrt("tokenize", m, stdin=b"hello").expect(0)
        (m.path / "tokenizer.json").unlink()
        kvrt("tokenize", m, stdin=b"hello").expect(3, "tokenizer.json")


def sampling(*args, **more):
    """{key: (value, where it comes from)} of `kvrt inspect`, whose text and JSON must agree."""
    out = kvrt("inspect", *args, "--json", **more).expect(0).json()
    text = kvrt("inspect", *args, **more).expect(0).out.decode()
    for key, found in out["sampling"].items():
        assert re.search(rf"^  {key} +{re.escape(str(found['value']))} \({re.escape(found['from'])}\)$", text, re.M), (key, found, text)
    return {key: (found["value"], found["from"]) for key, found in out["sampling"].items()}


@test
def generation_config_gives_the_defaults_of_a_model():
    file = "generation_config.json"
    with Folder() as m:
        def say(**values):
            (m.path / file).write_text(json.dumps(values))

        assert sampling(m)["temperature"] == (0.8, "default")
        say(temperature=0.25, top_k=7, top_p=0.5, min_p=0.125, repetition_penalty=1.5, do_sample=True, max_length=9, transformers_version="5")
        found = sampling(m)
        assert found == {"temperature": (0.25, file), "top_k": (7, file), "top_p": (0.5, file), "min_p": (0.125, file), "repeat_penalty": (1.5, file),
                         "repeat_last": (1048576, file), "frequency_penalty": (0, "default"), "presence_penalty": (0, "default")}, found
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            config.write("top_k = 9\n")
            config.flush()
            found = sampling(m, "--config", config.name, "--set", "temp=2", env={"KVRT_TOP_P": "0.75"})
        assert (found["temperature"], found["top_k"], found["top_p"]) == ((2, "option"), (9, "config file"), (0.75, "environment")), found
        # The values are those that a run samples with: as if they had been given.
        given = ["--temp", "0.25", "--top-k", "7", "--top-p", "0.5", "--min-p", "0.125", "--repeat-penalty", "1.5", "--repeat-last", "1048576"]
        same = ["-p", "hello", "-n", "40", "--seed", "3", "--ignore-eos"]
        by_file, by_flags, plain = (kvrt("run", *a).expect(0).out for a in ((m, *same), (MODEL, *same, *given), (MODEL, *same)))
        assert by_file == by_flags != plain, (by_file, by_flags, plain)
        above = kvrt("run", m, *same, "--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--repeat-penalty", "1").expect(0).out
        assert above == kvrt("run", MODEL, *same, "--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0").expect(0).out
        for greedy in ({"do_sample": False}, {"do_sample": False, "temperature": 0.7}, {"do_sample": 0, "top_k": -1}):
            say(**greedy)
            assert kvrt("run", m, *same, "-q").expect(0).out == kvrt("run", MODEL, *same, "--temp", "0").expect(0).out, greedy
        say(do_sample=None, temperature=None, top_k=None)  # null is absent
        assert sampling(m)["temperature"] == (0.8, "default") and kvrt("run", m, *same).expect(0).out == plain


@test
def end_tokens_of_generation_config_replace_those_of_config():
    text = kvrt("run", MODEL, "-p", "hello", "--temp", 0, "-n", 40, "--ignore-eos", "--json").expect(0).json()
    third = text["ids"][3]
    first = text["ids"].index(third)
    with Folder() as m:
        for said, eos, finish, n in (({"eos_token_id": [95, third]}, [95, third], "eos", first + 1), ({"eos_token_id": third}, [third], "eos", first + 1),
                                     ({"top_k": 3}, [third], "eos", first + 1), ({"eos_token_id": None}, [third], "eos", first + 1)):
            m.config(eos_token_id=94 if "eos_token_id" in said and said["eos_token_id"] else third)
            (m.path / "generation_config.json").write_text(json.dumps(said))
            out = kvrt("run", m, "-p", "hello", "--temp", 0, "-n", 40, "--json").expect(0).json()
            assert (out["finish_reason"], out["n_generated"]) == (finish, n), (said, out)
            assert kvrt("inspect", m, "--json").expect(0).json()["eos_ids"] == eos
            assert f"end tokens       {','.join(map(str, eos))} (" in kvrt("inspect", m).out.decode()


@test
def inspect_as_text_and_json():
    text = kvrt("inspect", MODEL).expect(0).out.decode()
    for part in ("llama", "layers", "F32", "supported      yes"):
        assert part in text, text
    out = kvrt("inspect", MODEL, "--json", "--tensors").expect(0).json()
    assert out["supported"] is True and out["n_layers"] == 2 and out["hidden_size"] == 48 and out["vocab_size"] == 96, out
    assert len(out["tensors"]) == out["n_tensors"] and sum(t["bytes"] for t in out["tensors"]) == out["bytes"], out
    assert sum(out["dtypes"].values()) == out["bytes"]


@test
def inspect_reports_what_is_unsupported():
    with Folder() as m:
        m.config(architectures=["ElmanForCausalLM"], model_type="elman")
        result = kvrt("inspect", m, "--json")
        out = json.loads(result.out)
        assert result.code == 3 and out["supported"] is False and "ElmanForCausalLM" in out["problem"], out
        assert out["n_tensors"] > 0, "the tensors are listed all the same"


@test
def devices_name_every_backend():
    out = kvrt("devices").expect(0).out.decode()
    assert {line.split()[0] for line in out.splitlines() if line[0] != " "} == {"cpu", "cuda"}, out


PARTS = ("kv_bytes", "weight_bytes", "table_bytes", "workspace_bytes", "session_bytes", "context_bytes")


def check_row(row, budget):
    """A total is the sum of its parts, and the columns agree with each other."""
    assert row["total_bytes"] == sum(row[part] for part in PARTS), row
    assert not row["fits"] or row["total_bytes"] <= budget, (row, budget)
    assert row["problem"] or row["fits"] == (row["ctx"] <= row["max_ctx"]), row
    assert row["fits"] == (row["max_sessions"] > 0), row


@test
def plan_says_what_is_mapped_and_what_is_taken():
    for io, where in (("map", "mapped from the file, not in the totals"), ("copy", "MiB in memory")):
        out = kvrt("plan", MODEL, "--backend", "cpu", "--io", io, "--json").expect(0).json()
        assert out["backend"] == "cpu" and out["mapped_bytes"] == (out["weight_bytes"] if io == "map" else 0), out
        for row in out["rows"]:
            check_row(row, out["budget_bytes"])
            assert (row["weight_bytes"] >= out["weight_bytes"]) == (io == "copy"), row
        assert where in kvrt("plan", MODEL, "--backend", "cpu", "--io", io).expect(0).out.decode(), io


@test
def plan_for_a_card_is_the_cards():
    """Whatever this machine has: CUDA's workspace, its context as an assumption that an option sets; the CPU when it is named."""
    args = ("plan", "--shape", "llama-3.2-1b", "--vram", "8GiB", "--json")
    card = kvrt(*args).expect(0).json()
    assert card["backend"] == "cuda" and card == kvrt(*args, "--backend", "cuda").expect(0).json()
    less = kvrt(*args, "--mem-context", "200MiB").expect(0).json()
    assert card["device_context_bytes"] - less["device_context_bytes"] == 250 << 20
    cpu = kvrt(*args, "--backend", "cpu").expect(0).json()
    assert cpu["backend"] == "cpu" and cpu["device_context_bytes"] == 0 and all(r["problem"] == "" for r in cpu["rows"]), cpu
    table = kvrt(*args[:-1]).expect(0).out.decode()
    assert "450 MiB, an assumption (--mem-context sets it)" in table and "Not on cuda:" not in table, table
    latents = kvrt("plan", ODD_LATENTS, "--vram", "24GiB").expect(0).out.decode()
    assert "Not on cuda:" in latents and "latent" in latents, latents
    assert max(map(len, table.splitlines() + latents.splitlines())) <= 80, table + latents


@test
def plan_of_one_format():
    rows = kvrt("plan", MODEL, "--json").expect(0).json()["rows"]
    for kv in ("f16", "i8", "elastic"):
        assert [r["kv"] for r in kvrt("plan", MODEL, "--json", "--kv", kv).expect(0).json()["rows"]] == [kv]
        assert [r["kv"] for r in kvrt("plan", MODEL, "--json", env={"KVRT_KV": kv}).expect(0).json()["rows"]] == [r["kv"] for r in rows]
    card = ("plan", "--shape", "llama-3.1-8b", "--card", "rtx4090", "--ctx", 120000)  # whether it fits is then said of that format
    kvrt(*card, "--kv", "f16").expect(4)
    kvrt(*card, "--kv", "k4v4").expect(0)
    with tempfile.TemporaryDirectory() as folder:
        drawn = {}
        for kv in ("f16", "k4v4"):  # of one context, so that only the bytes differ
            kvrt("plan", ROOT / "examples/models/storyteller-8m", "--mem-limit", "1GiB", "--threads", 2, "--kv", kv, "--plot", f"{folder}/a.svg").expect(0)
            drawn[kv] = Path(folder, "a.svg").read_text()
        assert "k4v4" in drawn["k4v4"] and "f16" not in drawn["k4v4"]
        ticks = {kv: re.findall(r"<text[^>]*>([0-9.]+)<", svg) for kv, svg in drawn.items()}
        assert len(ticks["f16"]) > 4 and ticks["f16"] != ticks["k4v4"], "a format's line shows its own bytes"


@test
def plan_and_run_give_the_same_answer_under_a_limit():
    for limit in range(1, 30, 3):
        for extra in ([], ["--ctx", "400"], ["--io", "copy"]):
            args = ["--mem-limit", f"{limit * 512}KiB", "--kv", "k4v4", *extra]
            rows = {row["kv"]: row for row in kvrt("plan", MODEL, *args, "--json").json()["rows"]}
            ran = kvrt("run", MODEL, "-p", "x", "-n", 1, *args)
            assert ran.code == (0 if rows["k4v4"]["fits"] else 4), (limit, extra, rows["k4v4"], ran.err)


@test
def contexts_beyond_the_trained_length_are_warned_about():
    trained = kvrt("plan", MODEL, "--json").expect(0).json()["ctx_model"]
    for ctx in (trained, trained + 1, 3 * trained):
        warning = f"context of {ctx} tokens: the model was trained for {trained}"
        for command in (["run", MODEL, "-p", "x", "-n", 1], ["plan", MODEL]):
            result = kvrt(*command, "--ctx", ctx).expect(0)
            assert result.err.count(warning) == (1 if ctx > trained else 0), (command, ctx, result.err)
        for row in kvrt("plan", MODEL, "--ctx", ctx, "--json").expect(0).json()["rows"]:
            assert row["fits"] and row["ctx"] == ctx <= row["max_ctx"], row
            assert row["capped_by"] == ("request" if ctx > trained else "model"), row


@test
def plan_rows():
    out = kvrt("plan", "--shape", "llama-3.1-8b", "--card", "rtx4090", "--weights", "bf16", "--json").expect(0).json()
    rows = {row["kv"]: row for row in out["rows"]}
    assert {"f16", "i8", "k4v4", "k4v2"} <= set(rows), rows
    assert rows["f16"]["bytes_per_token"] == 32 * 2 * 8 * 128 * 2
    # Bits per element at head dimension 128: codes, and 16-bit side vectors: three of 128 values for 128 x 128 codes, in i8 one for K and two for V.
    for kv, bits in (("i8", 8 + 24 / 128), ("k4v4", 4.375), ("k4v2", 3.375), ("k3v3", 3.375), ("t3", 3.375), ("k2v2", 2.375), ("t2", 2.375)):
        assert rows[kv]["bytes_per_token"] == 32 * 2 * 8 * 128 * bits / 8 and rows[kv]["bits_per_element"] == round(bits, 4), rows[kv]
    assert rows["f16"]["max_ctx"] < rows["i8"]["max_ctx"] < rows["k4v4"]["max_ctx"], rows
    assert out["backend"] == "cuda" and out["device_context_bytes"] == 450 << 20 and out["mapped_bytes"] == 0, out
    for row in rows.values():
        check_row(row, out["budget_bytes"])
        assert row["problem"] == "" and row["capped_by"] in ("memory", "model"), row
        assert row["weight_bytes"] >= out["weight_bytes"] and row["table_bytes"] == 0, row
    # What the CUDA backend does not read is no choice for a card.
    for row in kvrt("plan", ODD_LATENTS, "--card", "rtx4090", "--json").expect(0).json()["rows"]:
        assert (row["kv"] in ("f16", "bf16")) == (row["problem"] == ""), row
        assert row["capped_by"] in (("memory", "model") if not row["problem"] else ("backend",)), row
    kvrt("plan", "--shape", "llama-3.1-8b", "--vram", "4GiB").expect(4)
    kvrt("plan", "--shape", "llama-3.1-8b", "--card", "voodoo2").expect(2, "voodoo2")
    kvrt("plan", "--shape", "llama-9").expect(2, "llama-9")


@test
def plan_table_is_for_people_and_fits_a_terminal():
    out = kvrt("plan", "--shape", "llama-3.1-8b", "--card", "rtx4090", "--weights", "bf16", "--ctx", 65536).expect(0).out.decode()
    for part in ("8.03 G parameters", "weights 15317.0 MiB", "device context", "the context asked for", "23540.0 MiB of the card, 1024 MiB kept free"):
        assert part in out, out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "no fit" in rows["f16"] and "61312 memory" in rows["f16"], out
    assert "no fit" not in rows["k4v4"] and "131072 model" in rows["k4v4"], out
    assert max(map(len, out.splitlines())) <= 80, out


@test
def every_format_of_the_plan_is_in_the_build():
    for row in kvrt("plan", MODEL, "--json").expect(0).json()["rows"]:
        kvrt("run", MODEL, "-p", "x", "-n", 1, "--kv", row["kv"]).expect(0)


@test
def plan_plot_is_a_picture_of_the_table():
    svg = "{http://www.w3.org/2000/svg}"
    with tempfile.TemporaryDirectory() as folder:
        for args, limit in ((["--shape", "llama-3.1-8b", "--card", "rtx4090"], "rtx4090: 22.99 GiB"),
                            (["--shape", "deepseek-v2-lite", "--weights", "i4", "--card", "rtx4090"], "rtx4090: 22.99 GiB"),
                            ([ODD_LATENTS, "--card", "rtx4090"], "above the picture"),
                            (["--shape", "llama-3.1-8b", "--vram", "16GiB", "--reserve", "0", "--ctx", "5000"], "card: 16 GiB"),
                            (["--shape", "llama-3.1-8b", "--vram", "4GiB"], "card: 3 GiB"), ([MODEL], "above the picture")):
            path = f"{folder}/plan.svg"
            result = kvrt("plan", *args, "--json", "--plot", path)
            assert result.code == (4 if "4GiB" in args else 0), result.err
            rows, text = result.json()["rows"], Path(path).read_text()
            root = ElementTree.fromstring(text)
            words = [t.text or "" for t in root.iter(svg + "text")]
            assert root.tag == svg + "svg" and "href" not in text and "http" not in text.replace(svg[1:-1], ""), "self-contained"
            assert {"context (tokens)", "KV format: longest context"} <= set(words) and any(w.startswith("memory (") for w in words), words
            assert any(limit in w for w in words), (limit, words)
            assert (root.find(".//*[@id='limit']") is not None) == ("above" not in limit), text
            assert (root.find(".//*[@id='request']") is not None) == ("--ctx" in args)
            lines = root.findall(svg + "polyline")
            refused = [row["kv"] for row in rows if row["problem"]]
            assert all(f"{kv}: not on cuda" in words for kv in refused) and bool(refused) == (ODD_LATENTS in args), words
            rows = [row for row in rows if not row["problem"]]
            assert len(lines) == len(rows)
            for row, line in zip(rows, lines):
                shown = f"{row['kv']}: {row['max_ctx']} tokens" if row["max_ctx"] else f"{row['kv']}: does not fit"
                assert shown in words, (shown, words)
                points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
                assert len(points) > (3 if args[0] in (MODEL, ODD_LATENTS) else 14) and all(a[0] < b[0] and a[1] >= b[1] for a, b in zip(points, points[1:])), (args, points)
            heights = {row["kv"]: float(line.get("points").split(",")[-1]) for row, line in zip(rows, lines)}
            higher = [heights[kv] for kv in ("f16", "i8", "k4v4", "k4v2") if kv in heights]
            assert args[0] in (MODEL, ODD_LATENTS) or sorted(set(higher)) == higher, "more bits stand higher (y points down)"
    kvrt("plan", MODEL, "--plot", "/nonexistent/plan.svg").expect(1, ["kvrt plan: /nonexistent/plan.svg", "No such file"])


@test
def what_does_not_fit_is_answered_with_the_plan():
    for command in (["run", MODEL, "-p", "x"], ["chat", MODEL], ["bench", MODEL], ["eval", MODEL, "--text", __file__]):
        result = kvrt(*command, "--mem-limit", "64KiB", stdin=b"x").expect(4, ["needs", "budget", "max ctx", "k4v4"])
        assert result.out == b"" and result.err.count("no fit") >= 8, result.err
    # The table is the one of `kvrt plan`, for the device that was to be used.
    fits_less = kvrt("run", MODEL, "-p", "x", "--ctx", 512, "--mem-limit", "700KiB").expect(4, "512 tokens").err
    table = kvrt("plan", MODEL, "--ctx", 512, "--mem-limit", "700KiB", "--backend", "cpu")
    assert table.code == 4 and fits_less.split("\n\n", 1)[1] == table.out.decode(), (fits_less, table.out)


@test
def eval_says_when_nothing_was_packed():
    """Page 1 is packed behind its 128 positions and 128 newer ones: token 384 is the first that sees a packed page."""
    story = ROOT / "examples/models/storyteller-tiny"
    def measure(tokens, *args):
        command = ["eval", story, "--text", ROOT / "README.md", "--ctx", 900, "--tokens", tokens, *args]
        return {f["kv"]: f for f in kvrt(*command, "--json").expect(0).json()["formats"]}, kvrt(*command).expect(0).out.decode()
    rows, text = measure(384, "--kv", "i8,f16,k4v4,elastic")
    for kv in ("i8", "k4v4", "elastic"):
        assert rows[kv]["n_after_packing"] == 0 and rows[kv]["ppl"] is rows[kv]["kld_mean"] is rows[kv]["top1"] is None and rows[kv]["buckets"] == [], rows
    assert rows["f16"]["kld_mean"] == 0 and text.count("nothing was packed: the text needs more than 384 tokens\n") == 2, text
    assert "nothing was packed: the pool had room" in text and "-nan" not in text and "+0.000%" in text.split("f16 ")[-1], text
    rows, text = measure(400, "--kv", "i8,k4v4")
    assert all(r["n_after_packing"] == 16 and r["kld_mean"] > 0 for r in rows.values()) and "nothing" not in text, (rows, text)
    rows, text = measure(511, "--kv", "k4v4", "--tail", 200)  # rounded up to 256
    assert rows["k4v4"]["ppl"] is None and "more than 512 tokens" in text, text
    assert measure(513, "--kv", "k4v4", "--tail", 200)[0]["k4v4"]["n_after_packing"] == 1
    assert "more than 1024 tokens" in measure(600, "--kv", "k4v4", "--mode", "prefill", "--chunk", 1024)[1]
    with tempfile.TemporaryDirectory() as folder:  # only what was measured is drawn
        measure(384, "--kv", "k4v4,f16", "--plot", f"{folder}/a.svg")
        assert Path(folder, "a.svg").read_text().count("<circle") == 1


@test
def eval_measures_windows_calls_and_generation():
    story = ROOT / "examples/models/storyteller-tiny"
    def measure(*args):
        return kvrt("eval", story, "--text", ROOT / "README.md", "--ctx", 900, *args, "--json").expect(0).json()
    two = measure("--windows", 2, "--tokens", 400, "--kv", "k4v4,k4v4:kv.round=plain,f16", "--generate", 6)
    one = measure("--tokens", 400, "--kv", "k4v4")["formats"][0]
    queries, plain, f16 = two["formats"]
    assert two["n_windows"] == 2 and plain["kv"] == "k4v4:kv.round=plain" and plain["kld_mean"] != queries["kld_mean"], two
    first, second = (w["kld_mean"] for w in queries["windows"])
    assert first == one["kld_mean"] and one["kld_half_interval"] is None and abs((first + second) / 2 / queries["kld_mean"] - 1) < 1e-4, (one, queries)
    assert abs(queries["kld_half_interval"] / (12.71 * abs(first - second) / 2) - 1) < 1e-3, queries  # Student's t of one degree of freedom
    assert [w["agreed"] for w in f16["windows"]] == [6, 6] and f16["kld_half_interval"] == 0, f16
    # 400 positions: pages 0, 2 and 3 are plain, page 1 is packed; plain ones also hold 64 queries of 16, in whole units of 256 bytes.
    shape = json.loads((story / "config.json").read_text())
    layers, heads, dim = shape["num_hidden_layers"], shape["num_key_value_heads"], shape["hidden_size"] // shape["num_attention_heads"]
    units = lambda record: -(-layers * heads * record // 256) * 256
    side = 128 * dim // 2
    packed = units(2 * side + 2 * (2 * dim + 128) + 2 * (2 * 128 + dim))
    bits = lambda n_bytes: 8 * n_bytes / (2 * layers * heads * dim * 400)
    assert abs(f16["allocated_bits"] - bits(4 * units(512 * dim))) < 1e-3, (f16, shape)
    assert abs(plain["allocated_bits"] - bits(3 * units(512 * dim) + packed)) < 1e-3, plain
    assert abs(queries["allocated_bits"] - bits(3 * units(512 * dim + 64 * dim) + packed)) < 1e-3, queries
    # A call that is what the model itself would say is right, another one wrong, and neither is when it does not fit.
    said = kvrt("run", story, "Once upon a time", "--temp", 0, "-n", 8, "--json").expect(0).json()["text"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "calls.jsonl")
        lines = [{"start": True, "text": "Once upon a time", "call": said}, {"start": True, "text": "Once upon a time", "call": "zq" + said},
                 {"start": True, "text": "word " * 2000, "call": "x"}]
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
        result = kvrt("eval", story, "--calls", file, "--ctx", 300, "--kv", "i8,f16", "--json").expect(0).json()
        assert result["reference"]["ppl"] is None
        for row in (result["reference"], *result["formats"]):
            calls = row["calls"]
            assert (calls["n"], calls["right"], calls["right_in_both"], calls["change"]) == (2, 1, 1, 0), result
        assert b"tool calls, teacher-forced: 2, f16 has 50.0% of them right" in kvrt("eval", story, "--calls", file, "--ctx", 300, "--kv", "i8").expect(0).out
        kvrt("eval", story, "--calls", ROOT / "README.md").expect(3, "calls: a line lacks text or call")
        file.write_text('{"text": "a", "call": "b"}\n')
        kvrt("eval", story, "--calls", file, "--kv", "i8").expect(2, "no call was asked for")
    for args, message in ((("--windows", 0), "--windows"), (("--windows", 65), "from 1 to 64"), (("--generate", "x"), "--generate"),
                          (("--kv", "k4v4:kv.nothing=1"), "kv.nothing"), (("--windows", 64, "--tokens", 900), "fewer than 2")):
        result = kvrt("eval", story, "--text", ROOT / "LICENSE" if "--tokens" not in args else "/dev/null", *args)
        assert result.code in (2, 3) and message in result.err, (args, result.err)


@test
def bench_of_several_sessions():
    args = ["bench", MODEL, "--together", 4, "--depth", 130, "--prompt", 64, "--gen", 6, "--reps", 2]
    out = kvrt(*args, "--json").expect(0).json()
    assert out["sessions"] == 4 and out["depth"] == 130 and 0 < out["ratio_low"] <= out["ratio"] <= out["ratio_high"], out
    assert out["one_tps"] > 0 and out["all_tps"] > 0 and 0 < out["beside_prompts_ms"] <= out["beside_prompts_p99_ms"], out
    assert b"times one" in kvrt(*args).expect(0).out
    kvrt("bench", MODEL, "--together", 17).expect(2)
    kvrt("bench", MODEL, "--together", 4).expect(2)  # two depths
    kvrt("bench", MODEL, "--together", 4, "--depth", 0, "--kv", "f16,i8").expect(2)


@test
def bench_json():
    out = kvrt("bench", MODEL, "--prompt", 16, "--gen", 4, "--depth", "0,130", "--kv", "f16,f32", "--reps", 2, "--json", "--ops").expect(0).json()
    machine, rows = out["machine"], out["rows"]
    assert machine["read_gbps"] > 0 and machine["threads"] >= 1 and machine["cpu"], machine
    assert [(r["kv"], r["depth"]) for r in rows] == [("f16", 0), ("f16", 130), ("f32", 0), ("f32", 130)], rows
    for row in rows:
        for key in ("weights", "n_prompt", "n_gen", "prefill_tps", "decode_tps", "decode_gbps", "roofline_pct", "attn_us"):
            assert key in row, (key, row)
        # A model this small lives in the caches, so its share of the memory bandwidth may pass 100%.
        assert row["prefill_tps"] > 0 and row["decode_tps"] > 0 and row["roofline_pct"] > 0, row
        assert {"attention", "head"} <= {op["op"] for op in row["ops"]}, row["ops"]
    for args in (["--gen", "0"], ["--reps", "0"], ["--depth", "x"], ["--kv", ""], ["--fill", "magic"], ["--shape", "llama-9"]):
        result = kvrt("bench", MODEL, *args)
        assert result.code == 2, (args, result.code, result.err)


@test
def completions_and_manual():
    bash = kvrt("--completions", "bash").expect(0).out
    script = bash.decode() + """
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kvrt; printf '%s\\n' "${COMPREPLY[@]}"; }
ask kvrt to; ask kvrt run --te; ask kvrt run m --backend ''; ask kvrt bench --rep
"""
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd="/")
    assert not shown.stderr and shown.stdout.split() == ["tokenize", "--temp", "auto", "cpu", "cuda", "--reps"], shown
    kvrt("--completions", "tcsh").expect(2, "tcsh")
    kvrt("--completions").expect(2, "nothing")
    page = kvrt("--man").expect(0).out.decode()
    assert "AMX tiles" in page and "Default: true." in page.split("cpu.amx", 1)[1].split(".TP")[0], "the default of the command, as in its help"
    for part in (".TH KVRT 1", "sample.temperature", "\\-\\-top\\-k", "EXIT STATUS"):
        assert part in page, part
    if shutil.which("groff"):
        lint = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page.encode(), stderr=subprocess.PIPE)
        assert lint.returncode == 0 and not lint.stderr, lint.stderr.decode()


@test
def bash_completes_files_where_a_file_is_wanted():
    bash = kvrt("--completions", "bash").expect(0).out.decode()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "two words.txt").touch()
        Path(folder, "two folder").mkdir()
        for words, found in ((["run", "m", "-f"], ["two folder", "two words.txt"]), (["./m", "--messages"], ["two folder", "two words.txt"]),
                             (["plan", "--plot"], ["two folder", "two words.txt"]), (["eval", "m", "--text"], ["two folder", "two words.txt"]),
                             (["run"], ["two folder"]), (["plan", "--vram"], ["two folder"])):
            script = bash + f"""
COMP_WORDS=(kvrt {' '.join(words)} tw); COMP_CWORD={len(words) + 1}; _kvrt; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
            shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=folder)
            assert not shown.stderr and sorted(shown.stdout.splitlines()) == found, (words, shown)


CARDS = ["rtx3060", "rtx3090", "rtx4060ti", "rtx4070", "rtx4080", "rtx4090", "rtx5090"]


@test
def bash_completes_words_where_one_of_some_is_wanted():
    bash = kvrt("--completions", "bash").expect(0).out.decode()
    for words, found in ((["plan", "--card", ""], CARDS), (["plan", "m", "--card", "rtx40"], [c for c in CARDS if c.startswith("rtx40")]),
                         (["eval", "m", "--mode", "p"], ["prefill"]), (["plan", "--weights", "bf"], ["bf16"]), (["./m", "--backend", "c"], ["cpu", "cuda"])):
        asked = " ".join(f"'{w}'" for w in words)
        script = bash + f"""
COMP_WORDS=(kvrt {asked}); COMP_CWORD={len(words)}; _kvrt; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd="/")
        assert not shown.stderr and shown.stdout.split() == found, (words, shown)
    for card in CARDS:
        kvrt("plan", "--shape", "llama-3.2-1b", "--card", card, "--json").expect(0)


def flags_of_help(command):
    """--name and -n of a command as its help lists them."""
    out = kvrt(command, "--help").expect(0).out.decode()
    return {word.rstrip(",") for line in out.splitlines() if line.startswith("  ") for word in line.split()[:2] if re.fullmatch(r"--?[\w-]+,?", word)}


@test
def zsh_and_fish_completions_are_sound():
    """Their own parsers where the shells are there; and what any machine can tell: quotes, blocks, every flag of every command."""
    scripts = {shell: kvrt("--completions", shell).expect(0).out.decode() for shell in ("zsh", "fish")}
    for shell, text in scripts.items():
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=text.encode(), check=True)
        # Both shells quote '...' as sh does, but fish writes \\' inside; comments hold no quotes.
        lines = text.splitlines() if shell == "zsh" else [line.replace("\\'", "") for line in text.splitlines()]
        for line in lines:
            shlex.split(line.rstrip("\\"))  # raises on an open quote
    zsh, fish = scripts["zsh"].splitlines(), scripts["fish"].splitlines()
    assert zsh[0] == "#compdef kvrt" and zsh[-1] == '_kvrt "$@"', zsh[:2]
    for opened, closed in ((" case ", " esac"), ("    if ", "    fi"), (" in\n", "    esac\n"), ("{\n", "}\n")):
        assert scripts["zsh"].count(opened) == scripts["zsh"].count(closed), (opened, closed)
    arms = scripts["zsh"].split("    case $words[2] in\n")[1].split(" ;;\n")
    for command in ("chat", "run", "plan", "inspect", "tokenize", "bench", "eval", "devices"):
        arm = next(a for a in arms if a.lstrip().startswith(f"{command}) "))
        specs = shlex.split(arm.replace("\\\n", " "))
        assert specs[1:6] == ["shift", "words;", "((", "CURRENT--", "));"] and specs[-1] == "*:model folder:_files -/", arm
        spelled = {re.match(r"\*(--?[\w-]+)\[", s).group(1) for s in specs[8:-1]}
        flags = flags_of_help(command)
        assert len(flags) > (20 if command in ("chat", "run", "plan", "bench", "eval") else 4) and flags <= spelled, (command, flags - spelled)
        mine = [shlex.split(line.replace("\\'", "")) for line in fish if f"'__fish_seen_subcommand_from {command}'" in line]
        said = {("--" if kind == "-l" else "-") + name for words in mine for kind, name in zip(words, words[1:]) if kind in ("-l", "-s")}
        assert all(words[:4] == ["complete", "-c", "kvrt", "-n"] and words[-2] == "-d" for words in mine), command
        assert flags <= said, (command, flags - said)
        offered = [spec for spec in specs if spec.startswith("*--card[")], [words for words in mine if "card" in words]
        if command == "plan":
            assert offered[0][0].endswith(f":value:({' '.join(CARDS)})") and offered[1][0][offered[1][0].index("-a") + 1] == " ".join(CARDS), offered
        else:
            assert offered == ([], []), (command, offered)
    if shutil.which("fish"):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kvrt.fish").write_text(scripts["fish"])
            ask = f"source {folder}/kvrt.fish; complete -C 'kvrt run --temp'; complete -C 'kvrt tok'; complete -C 'kvrt run m --backend '"
            shown = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, cwd="/",
                                   env={**ENVIRONMENT, "HOME": folder, "TERM": "dumb"}).stdout
            words = {line.split("\t")[0] for line in shown.splitlines()}
            assert {"--temp", "tokenize", "auto", "cpu", "cuda"} <= words, shown


@test
def help_and_version_go_to_stdout():
    out = kvrt("--help").expect(0).out.decode()
    for name in ("run", "plan", "inspect", "tokenize", "bench", "devices"):
        assert f"  {name} " in out, out
    header = (ROOT / "runtime/kvrt.h").read_text()
    version = ".".join(header.split(f"#define KVRT_VERSION_{part} ")[1].split()[0] for part in ("MAJOR", "MINOR", "PATCH"))
    assert kvrt("--version").expect(0).out.decode() == f"kvrt {version}\n"


main()
