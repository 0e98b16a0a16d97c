#!/usr/bin/env python3
"""Bad models, prompts and options: the right exit code, and a message that names object, found and needed. Never a crash."""
import json
import os
import tempfile
from pathlib import Path

from harness import Folder, MODEL, ROOT, kvrt, main, test

HUGE = 1 << 62


def run(model, *args, **more):
    return kvrt("run", model, "-p", "x", "-n", 2, *args, **more)


@test
def not_a_folder():
    run("/nonexistent/model").expect(3, ["/nonexistent/model", "no such file", "need a Hugging Face folder"])
    run(__file__).expect(3, [__file__, "not a directory"])
    with tempfile.TemporaryDirectory() as empty:
        run(empty).expect(3, [empty, "config.json"])


@test
def config():
    with Folder() as m:
        m.config(architectures=["ElmanForCausalLM"], model_type="elman")
        run(m).expect(3, ["config.json", "ElmanForCausalLM", "LlamaForCausalLM"])
    for key, value in (("hidden_size", -1), ("hidden_size", "many"), ("num_hidden_layers", 0), ("num_hidden_layers", HUGE),
                       ("num_attention_heads", 0), ("num_key_value_heads", 3), ("vocab_size", 1 << 40), ("head_dim", 0),
                       ("rms_norm_eps", "x"), ("hidden_act", "sine")):
        with Folder() as m:
            m.config(**{key: value})
            wrong_type = isinstance(value, str) and key != "hidden_act"
            run(m).expect(3, ["config.json", "byte"] if wrong_type else "head" if key == "head_dim" else key)
    for text in ("", "{", "[]", "nul", '{"architectures": ', "{}", "\xff", "[" * 100000):
        with Folder() as m:
            (m.path / "config.json").write_text(text, encoding="latin-1")
            run(m).expect(3, "config.json")


@test
def tensors():
    with Folder() as m:
        m.config(hidden_size=64)
        run(m).expect(3, ["model.embed_tokens.weight", "shape [96, 48]", "need [96, 64]", "hidden_size"])
    with Folder() as m:
        header, data = m.weights()
        header["model.layers.1.mlp.up.weight"] = header.pop("model.layers.1.mlp.up_proj.weight")
        m.write_weights(header, data)
        run(m).expect(3, ["model.layers.1.mlp.up_proj.weight"])
    for dtype in ("I32", "F64", "F8_E4M3", "Q4_K", "", 7):
        with Folder() as m:
            header, data = m.weights()
            header["model.norm.weight"]["dtype"] = dtype
            m.write_weights(header, data)
            run(m).expect(3, ["model.norm.weight" if isinstance(dtype, str) else "safetensors"])


@test
def truncated_anywhere():
    with Folder() as m:
        file = m.path / "model.safetensors"
        whole = file.read_bytes()
        for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:size])
            run(m).expect(3, "model.safetensors")
        file.write_bytes(whole + b"x")  # bytes that no tensor owns
        assert run(m).code in (0, 3)


@test
def header_lies():
    """One lie per entry about the tensor table."""
    name = "model.layers.0.self_attn.q_proj.weight"

    def change(**fields):
        return lambda h: h[name].update(fields)

    lies = [change(data_offsets=o) for o in ([0, HUGE], [-4, 9212], [9216, 0], [0], [0, 1, 2], "ab", None, [0.5, 1], [0, 9215],
                                             [HUGE, HUGE + 9216], [0, (1 << 64) - 1], [1 << 70, 1 << 71])]
    lies += [change(shape=s) for s in ([], [0, 48], [48], [48, 48, 48], [-48, -48], [HUGE, 4], [1 << 32, 1 << 32], "x", [48, "48"],
                                       [1] * 64 + [48, 48], [48.5, 48])]
    lies += [change(dtype=d) for d in ("BF16", "f32", None, ["F32"])]
    lies += [lambda h: h.update({name: []}), lambda h: h.update({name: None}), lambda h: h[name].pop("data_offsets"),
             lambda h: h[name].pop("shape"), lambda h: h[name].pop("dtype"), lambda h: h.update({"": {}}),
             lambda h: h.update({"second": dict(h[name])})]
    for number, lie in enumerate(lies):
        with Folder() as m:
            header, data = m.weights()
            lie(header)
            m.write_weights(header, data)
            result = run(m)
            assert result.code == 3, f"lie {number} gives exit {result.code}: {result.err}"
            assert "model.safetensors" in result.err or name in result.err, f"lie {number}: {result.err}"


@test
def header_text_lies():
    with Folder() as m:
        header, data = m.weights()
        text = json.dumps(header).encode()
        for broken in (text[:-1], b"{}", b"[]", b"", text + b"garbage", text.replace(b"F32", b"F\xff2"), b"{" * 5000,
                       text[:-1] + b"," + text[1:], text.replace(b":", b"", 1)):
            m.write_weights(broken, data)
            run(m).expect(3, "")
        file = m.path / "model.safetensors"
        for length in (0, 1, HUGE, (1 << 64) - 1, (1 << 64) - 8, len(data) + len(text) + 1):
            file.write_bytes(length.to_bytes(8, "little") + text + data)
            run(m).expect(3, "model.safetensors")


@test
def shards_stay_in_the_folder():
    for shard in ("../outside.safetensors", "/etc/passwd", "a/../../x", "missing.safetensors", "", "."):
        with Folder() as m:
            header, _ = m.weights()
            (m.path / "model.safetensors").rename(m.path.parent / "outside.safetensors")
            index = {"metadata": {}, "weight_map": {name: shard for name in header if name != "__metadata__"}}
            (m.path / "model.safetensors.index.json").write_text(json.dumps(index))
            run(m).expect(3, "index.json" if shard != "missing.safetensors" else shard)


@test
def files_of_the_wrong_kind():
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        with Folder() as m:
            (m.path / name).unlink()
            run(m).expect(3, name if name != "model.safetensors" else "safetensors")
            (m.path / name).mkdir()
            run(m).expect(3, name)
        with Folder() as m:
            (m.path / name).unlink()
            os.mkfifo(m.path / name)
            run(m).expect(3, name)
        if os.geteuid() != 0:
            with Folder() as m:
                (m.path / name).chmod(0)
                run(m).expect(3, name)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"


@test
def git_lfs_pointers():
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        with Folder() as m:
            (m.path / name).write_text(POINTER)
            run(m).expect(3, [name, "Git LFS pointer", "12345 bytes", "git lfs pull"])
    with Folder() as m:
        header, _ = m.weights()
        names = [n for n in header if n != "__metadata__"]
        (m.path / "model.safetensors").unlink()
        (m.path / "model-1.safetensors").write_text(POINTER)
        (m.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {n: "model-1.safetensors" for n in names}}))
        run(m).expect(3, ["model-1.safetensors", "Git LFS pointer"])


@test
def other_things_than_a_checkpoint():
    for name, parts in (("pytorch_model.bin", ["found only pytorch_model.bin", "save_pretrained"]), ("consolidated.safetensors", ["consolidated"]),
                        ("adapter_model.safetensors", ["adapter_model.safetensors", "merge the adapter"]), ("x-q4.gguf", ["GGUF file x-q4.gguf"])):
        with Folder() as m:
            (m.path / "model.safetensors").rename(m.path / name)
            run(m).expect(3, [*parts, "need model.safetensors"])
    for name, parts in (("adapter_config.json", ["no config.json", "an adapter (adapter_config.json)", "merged"]),
                        ("params.json", ["no config.json", "params.json", "Hugging Face"]), ("m.gguf", ["m.gguf: does not begin with 'GGUF'"])):
        with Folder() as m:
            (m.path / "config.json").rename(m.path / name)
            run(m).expect(3, parts)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        for content, parts in ((b"GGUF\x01\0\0\0" + bytes(64), ["version 1, need 2 or 3"]), (b"GGUF\x03\0\0\0" + bytes(64), ["general.architecture"]),
                               (b"GGUF\x03\0\0\0" + bytes(12), ["need 8 (file truncated?)"])):
            file.seek(0)
            file.truncate()
            file.write(content)
            file.flush()
            for command in (["run", file.name, "-p", "x"], ["plan", file.name]):
                kvrt(*command).expect(3, [Path(file.name).name, *parts])
    with tempfile.NamedTemporaryFile() as file:
        for command in (["run", file.name, "-p", "x"], ["inspect", file.name], ["plan", file.name]):
            kvrt(*command).expect(3, [file.name, "need a Hugging Face folder", "or a GGUF file"])
    for name in ("tokenizer.model", "vocab.json"):
        with Folder() as m:
            (m.path / "tokenizer.json").rename(m.path / name)
            run(m).expect(3, ["no tokenizer.json", f"found only {name}", "save_pretrained"])
    with Folder() as m:  # Mistral's file, which is read; this is none
        (m.path / "tokenizer.json").rename(m.path / "tekken.json")
        run(m).expect(3, ["tekken.json", "need config (pattern"])


@test
def quantized_folders():
    with Folder() as m:
        m.config(quantization={"group_size": 64, "bits": 4})
        m.config(quantization_config={"quant_method": "a_method"})
        for command in ("run", "plan"):
            kvrt(command, m.path, *(["-p", "x"] if command == "run" else [])).expect(3, ["quantization_config.quant_method is 'a_method'", "gptq"])
        listed = kvrt("inspect", "--tensors", m.path).expect(3).out
        assert b"quantization_config.quant_method is 'a_method'" in listed and b"layers.1.self_attn.q_proj" in listed
    for name in ("quantize_config.json", "quant_config.json"):
        with Folder() as m:
            (m.path / name).write_text('{"bits": 3}')
            run(m).expect(3, [name, "bits is 3", "need 4"])
    with Folder() as m:
        header, data = m.weights()
        header["model.layers.0.self_attn.q_proj.qweight"] = header.pop("model.layers.0.self_attn.q_proj.weight")
        m.write_weights(header, data)
        run(m).expect(3, ["model.layers.0.self_attn.q_proj.qweight", "quantized", "need quantization_config"])


@test
def a_head_that_is_missing():
    with Folder() as m:
        m.config(tie_word_embeddings=False)
        run(m).expect(3, ["lm_head.weight", "not found", "tie_word_embeddings"])


@test
def byte_order_marks():
    """As in transformers, whose json refuses them; the message says what is wrong."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        with Folder() as m:
            text = (m.path / name).read_bytes() if (m.path / name).exists() else b"{}"
            (m.path / name).write_bytes(b"\xef\xbb\xbf" + text)
            run(m).expect(3, [name, "byte order mark"])


@test
def configs_that_transformers_reads_too():
    with Folder() as m:
        config = json.loads((m.path / "config.json").read_text())
        del config["architectures"]
        (m.path / "config.json").write_text(json.dumps({**config, "attention_dropout": float("inf"), "initializer_range": float("nan")}))
        run(m).expect(0)
    with Folder() as m:
        m.config(mystery=5)
        run(m).expect(0, ["unknown to transformers and ignored: mystery"])
        assert kvrt("inspect", m).expect(0).out.count(b"ignored: mystery") == 1
        assert kvrt("inspect", m, "--json").json()["warning"].endswith("ignored: mystery")
    with Folder() as m:
        m.config(is_causal=False)
        run(m).expect(3, ["config.json", "is_causal is false", "need true"])


@test
def inspect_shows_what_an_unsupported_config_says():
    with Folder() as m:
        m.config(architectures=['El"man'], model_type="elman")
        shown = kvrt("inspect", m, "--json").json()
        assert (shown["architecture"], shown["n_layers"], shown["hidden_size"], shown["vocab_size"]) == ('El"man', 2, 48, 96), shown
        assert not shown["supported"] and "LlamaForCausalLM" in shown["problem"]


@test
def optional_files_that_cannot_be_read():
    """Ignored, they would take end tokens and the chat template with them."""
    for name in ("generation_config.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"):
        for kind, make in (("a directory", lambda p: p.mkdir()), ("a FIFO", os.mkfifo), ("a link to a file that is not there",
                                                                                     lambda p: p.symlink_to("/nonexistent/blob"))):
            with Folder() as m:
                (m.path / name).unlink(missing_ok=True)
                make(m.path / name)
                run(m).expect(3, [name, kind])


@test
def tokenizer():
    for text in ("", "{", "{}", "[]", '{"model": {"type": "BPE"}}', '{"model": {"type": "Wavelet", "vocab": {}}}', "\x00"):
        with Folder() as m:
            (m.path / "tokenizer.json").write_text(text)
            run(m).expect(3, "tokenizer.json")


@test
def prompts():
    kvrt("run", MODEL, "-p", "").expect(2, ["prompt", "0 tokens", "need at least 1"])
    kvrt("run", MODEL).expect(2, ["prompt"])
    kvrt("run", MODEL, stdin=b"y" * 40, env={"KVRT_CTX": "8"}).expect(5, ["40 tokens", "at most 8"])
    kvrt("chat", ROOT / "examples/models/storyteller-tiny").expect(2, ["stdin is empty"])
    kvrt("run", MODEL, "-f", "/nonexistent/prompt").expect(1, "/nonexistent/prompt")
    kvrt("run", MODEL, "-f", "/").expect(1, "/")


@test
def options():
    for args, parts in (
        (["--ctx", "0"], ["ctx.size", "'0'", "1..16777216"]),
        (["--ctx", "-5"], ["ctx.size"]),
        (["--temp", "hot"], ["sample.temperature", "'hot'", "0..100"]),
        (["--temp", "nan"], ["sample.temperature"]),
        (["--temp", "1e999"], ["sample.temperature"]),
        (["--top-p", "1.5"], ["sample.top_p"]),
        (["--threads", "0"], ["cpu.threads"]),
        (["--backend", "tpu"], ["device.backend", "'tpu'", "auto|cpu|cuda"]),
        (["--kv", "q9"], ["kv.format", "'q9'"]),
        (["-n", "many"], ["gen.max_tokens", "'many'"]),
        (["--mem-limit", "24GoB"], ["mem.limit", "24GoB"]),
        (["--set", "sample.temperatur=1"], ["sample.temperatur", "did you mean sample.temperature"]),
        (["--set", "=1"], ["KEY=VALUE"]),
        (["--set", "nonsense"], ["KEY=VALUE"]),
        (["--tmp", "1"], ["unknown option --tmp"]),
        (["-Z"], ["unknown option -Z"]),
        (["--temp"], ["--temp", "needs a value"]),
        (["another-prompt"], ["two prompts", "another-prompt"]),
        (["one", "two"], ["3 arguments", "one text in quotes"]),
        (["--tmep", "0"], ["unknown option --tmep, did you mean --temp?"]),
        (["--max-token", "1"], ["did you mean --max-tokens?"]),
        (["--no-json"], ["--json cannot be negated"]),
        (["--card", "rtx4090"], ["--card is one of kvrt plan"]),
        (["--set", "tmep=0"], ["option tmep: unknown, did you mean sample.temperature (--temp)?"]),
        (["--set", "gpu=1"], ["option gpu: unknown"]),
    ):
        run(MODEL, *args).expect(2, parts)
    run(MODEL, env={"KVRT_TEMP": "warm"}).expect(2, ["kvrt: environment KVRT_TEMP: option sample.temperature", "'warm'"])
    for name, right in (("KVRT_TMEP", ", did you mean KVRT_TEMP?"), ("KVRT_MAXTOKENS", ", did you mean KVRT_MAX_TOKENS?"), ("KVRT_FOO_BAR_BAZ", "")):
        assert run(MODEL, "-q", env={name: "1"}).expect(0).err == f"kvrt: environment {name}: no such option{right}\n"
    assert run(MODEL, "-q", env={"KVRT_SOURCE_DIR": "/", "KVRT_CUDA": "0", "KVRT_": ""}).expect(0).err == "", "names of the build are known"
    run(MODEL, "--mem-limit", "1KiB").expect(4, ["MiB"])
    kvrt().expect(2, "")
    kvrt("--frobnicate").expect(2, "unknown option --frobnicate")
    kvrt("frobnicate").expect(2, ["neither a command nor a model folder", "frobnicate"])
    kvrt("./frobnicate").expect(3, "frobnicate")
    for command in ("run", "inspect", "tokenize", "bench", "devices", "plan"):
        result = kvrt(command, "--no-such-option")
        result.expect(2, "unknown option --no-such-option")
        assert b"usage: kvrt " + command.encode() in kvrt(command, "--help").expect(0).out


@test
def commands_that_do_not_exist():
    for typed, meant in (("rn", "run"), ("caht", "chat"), ("plna", "plan"), ("tokenise", "tokenize"), ("device", "devices")):
        kvrt(typed).expect(2, ["neither a command nor a model folder", f"did you mean kvrt {meant}?"])
    assert "did you mean" not in kvrt("frobnicate").expect(2, "frobnicate").err
    kvrt("help", "rn").expect(2, "did you mean kvrt run?")
    for typed, meant in (("show", "inspect"), ("generate", "run"), ("detokenize", "tokenize --decode"), ("man", "--man")):
        kvrt(typed, MODEL).expect(2, f"did you mean kvrt {meant}?")
    for typed, part in (("pull", "hf download"), ("list", "keeps no models"), ("quant", "kvrt quantize")):
        kvrt(typed, "x").expect(2, [f"there is no command {typed}", part])
    kvrt("").expect(2, "the first argument is empty, need a command or a model folder")
    for command in (["run", "", "x"], ["plan", ""], ["tokenize", "", "x"], ["eval", "", "--text", "x"]):
        kvrt(*command).expect(2, f"kvrt {command[0]}: the first argument, the model folder, is empty")  # "$MODEL", not set
    kvrt("--versoin").expect(2, "unknown option --versoin, did you mean --version?")
    kvrt("--model", MODEL).expect(2, "the model folder is the first argument")
    for words in (["help"], ["-h"], ["-help"]):
        assert kvrt(*words).expect(0).out == kvrt("--help").expect(0).out
    assert kvrt("help", "run").expect(0).out == kvrt("run", "-h").expect(0).out
    assert kvrt("version").out == kvrt("-V").out == kvrt("--version").expect(0).out


@test
def a_flag_that_does_not_apply():
    for command, flag, key in (("inspect", "--temp", "sample.temperature"), ("tokenize", "--ctx", "ctx.size"), ("devices", "--kv", "kv.format"),
                               ("plan", "--seed", "sample.seed"), ("bench", "--ctx", "ctx.size"), ("bench", "-n", "gen.max_tokens"), ("eval", "--top-k", "sample.top_k")):
        kvrt(command, MODEL, flag, "1").expect(2, [f"kvrt {command}", key, "has no meaning for this command"])
        assert f"{flag} VALUE" not in kvrt(command, "--help").out.decode(), "nor does the help list it"


@test
def habits_from_elsewhere():
    for args, part in ((["--gpu"], "--backend cuda"), (["-v"], "--log-level"), (["--model", "x"], "the model folder is the first argument"),
                       (["-i"], "kvrt chat"), (["-o", "x"], "> FILE"), (["--stream"], "always streamed"), (["--greedy"], "--temp 0")):
        run(MODEL, *args).expect(2, [f"unknown option {args[0]}: ", part])
    for flag in ("-ctk", "-ctv", "--cache-type-k", "--cache_type_v"):
        run(MODEL, flag, "q8_0").expect(2, "the types of K and V are one name here, --kv f16")
    with tempfile.TemporaryDirectory() as cache:  # a folder of the hub's cache
        snapshot = f"{cache}/snapshots/0123abc"
        os.makedirs(f"{cache}/snapshots")
        os.symlink(os.path.abspath(MODEL), snapshot)
        for command in (["run", cache, "x"], ["tokenize", cache, "x"], ["bench", cache]):
            kvrt(*command).expect(3, f"this is a folder of the hub's cache; the model in it: {snapshot}\n")
        run(snapshot, "-q").expect(0)
        assert "cache" not in run(f"{cache}/snapshots").expect(3, "no config.json").err
    run(MODEL, "--amx=false").expect(2, "--amx=false takes no value, but may begin with no-")
    run(MODEL, "--json", "--ndjson").expect(2, "two forms of output")
    kvrt("run", "-m", MODEL, "-p", "x").expect(2, "no model: its folder is the first argument")
    kvrt("run", "meta-llama/Llama-3.2-1B", "x").expect(3, ["no such file", "kvrt does not download", "hf download meta-llama/Llama-3.2-1B"])
    for path in ("/nonexistent/model", "./nonexistent/model", "nonexistent"):
        assert "download" not in run(path).expect(3, "no such file").err
    for args in (["--seed", "-1"], ["--seed", "random"], ["--threads", "all"], ["--threads", "-1"], ["--mem-limit", "8gb"], ["--mem-limit", "64mib"],
                 ["--min-p", ".05"], ["--temp=.5"], ["--n", "2"]):
        run(MODEL, *args, "-q").expect(0)
    for args in (["--min-p", "."], ["--min-p", ".-1"], ["--temp", ".5.5"], ["--temp", "0,5"], ["--mem-limit", "8gbb"], ["--mem-limit", "gb"], ["--threads", "-2"]):
        run(MODEL, *args).expect(2, "need a")
    for command in ("plan", "bench"):
        kvrt(command, "llama-3.2-1b").expect(2, "did you mean --shape llama-3.2-1b?")
        kvrt(command).expect(2, "need a model folder or --shape NAME")
        kvrt(command, MODEL, "x").expect(2, "one model folder")
    card = kvrt("plan", "--shape", "llama-3.2-1b", "--card", "rtx4090").expect(0).out
    for typed in ("4090", "RTX 4090", "rtx-4090"):
        assert kvrt("plan", "--shape", "llama-3.2-1b", "--card", typed).expect(0).out == card
    assert kvrt("tokenize", MODEL, "hello").expect(0).out == kvrt("tokenize", MODEL, stdin=b"hello").expect(0).out


@test
def generation_config():
    file = "generation_config.json"
    for text, parts in (
        ('{"temperature": -1}', ["temperature is -1", "0..100"]), ('{"temperature": "0.5"}', ['temperature is "0.5"', "0..100"]),
        ('{"temperature": 1e999}', ["temperature is 1e999", "0..100"]), ('{"temperature": true}', ["temperature is true"]), ('{"temperature": []}', ["temperature is []"]),
        ('{"top_k": -1}', ["top_k is -1", "0..1048576"]), ('{"top_k": 2.5}', ["top_k is 2.5"]), ('{"top_k": 99999999999999999999}', ["top_k is 9999"]),
        ('{"top_p": -0.5}', ["top_p is -0.5", "0..1"]), ('{"min_p": 2}', ["min_p is 2", "0..1"]),
        ('{"repetition_penalty": 0.0}', ["repetition_penalty is 0.0"]), ('{"do_sample": false, "repetition_penalty": -1}', ["repetition_penalty is -1"]),
        ('{"do_sample": "false"}', ['do_sample is "false"', "true or false"]), ('{"top_k": {"a": "' + "x" * 300 + '"}}', ["top_k is {"]),
        ('{"eos_token_id": "2"}', ["byte"]), ('{"eos_token_id": [' + "1," * 20 + "1]}", ["16 token ids"]), ("{broken", ["byte"]), ("[]", ["byte"]),
        ("", ["byte"]), ('{"top_k": 5} x', ["byte"]),
    ):
        with Folder() as m:
            (m.path / file).write_text(text)
            run(m).expect(3, [file, *parts])
            result = kvrt("inspect", m, "--json")
            assert result.code == 3 and file in json.loads(result.out)["problem"], (text, result.out)
    with Folder() as m:
        for text, said in (('{"top_p": 1.5}', "top_p is 1.5, which is ignored"), ('{"do_sample": false, "temperature": -1}', ""),
                           ('{"do_sample": false, "top_k": -1}', "top_k is -1, which is ignored"), ('{"num_beams": 4}', "num_beams is 4, which kvrt does not do"),
                           ('{"num_beams": 1, "typical_p": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": null, "suppress_tokens": []}', "")):
            (m.path / file).write_text(text)
            err = run(m, "-q").expect(0).err
            assert (f"kvrt warning: {file}: {said}\n" == err) if said else err == "", (text, err)
            assert kvrt("inspect", m, "--json").expect(0).json()["warning"] == (f"{file}: {said}" if said else "")
        (m.path / file).unlink()
        (m.path / file).mkdir()
        run(m).expect(3, file)


@test
def plan_arguments():
    for args, parts in (([], ["model folder or --shape"]), ([MODEL, MODEL], ["one model folder"]), ([MODEL, "--shape", "llama-3.1-8b"], ["not both"]),
                        ([MODEL, "--card", "voodoo2"], ["voodoo2", "rtx4090"]), ([MODEL, "--vram", "lots"], ["--vram", "24GiB", "'lots'"]),
                        ([MODEL, "--vram", "24"], ["--vram", "24GiB", "'24'"]), ([MODEL, "--vram", "1GiB", "--card", "rtx4090"], ["not both"]),
                        ([MODEL, "--kv", "q8_0"], ["--kv: found 'q8_0', the plan has f16, ", "k4v4", "elastic"]),
                        ([MODEL, "--ctx", "0"], ["ctx.size"]), (["--shape", "llama-9"], ["llama-9", "llama-3.1-8b"])):
        assert kvrt("plan", *args).expect(2, parts).out == b""
    shape = ("plan", "--shape", "llama-3.2-1b", "--card")
    assert kvrt(*shape, "RTX4090").expect(0).out == kvrt(*shape, "rtx4090").expect(0).out
    latents = ROOT / "test/golden/models/deepseek_v2"  # a roped key of 8 dimensions is no packed row: said once, not per format
    assert kvrt("plan", latents, "--card", "rtx4090").expect(0).out.count(b"latent_append") == 1


@test
def measuring_arguments():
    story = ROOT / "examples/models/storyteller-tiny"
    text = ["--text", ROOT / "README.md", "--kv", "i8"]
    for args, parts in (([], ["no model"]), ([story], ["--text FILE or --retrieval FILE"]), ([story, ROOT / "README.md"], ["README.md' as well", "--text FILE"]),
                        ([story, *text, "--mode", "fast"], ["--mode", "decode or prefill", "'fast'"]), ([story, *text, "--tokens", "some"], ["--tokens", "'some'"]),
                        ([story, *text, "--tokens", "0"], ["--tokens", "'0'"]), ([story, *text, "--tokens", "-1"], ["--tokens", "'-1'"]),
                        ([story, *text, "--tokens", "5k"], ["--tokens", "'5k'"]), ([story, "--retrieval", ROOT / "README.md"], ["README.md:1: found '# kvrt'", "need a JSON object"]),
                        ([story, "--retrieval", "/dev/null"], ["is empty", "need lines"])):
        assert kvrt("eval", *args).expect(2, parts).out == b""
    questions = story / "retrieval.jsonl"
    few = ["--retrieval", questions, "--kv", "i8", "--ctx"]
    assert kvrt("eval", story, *few, 20).expect(5, "nothing was asked: all 48 questions are longer than the context of 20 tokens").out == b""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        first = questions.read_text().splitlines()[0]
        file.write(f"\n  \n{first}\n\n")  # blank lines are none
        file.flush()
        assert b"retrieval, exact match" in kvrt("eval", story, "--retrieval", file.name, "--kv", "i8").expect(0).out
        item = json.loads(first)
        file.write("".join(json.dumps({**item, "distance": d}) + "\n" for d in range(1000, 1040)))
        file.flush()
        kvrt("eval", story, "--retrieval", file.name, "--kv", "i8").expect(2, "more than 32 different distances")
    many = ",".join(["1"] * 17)
    kvrt("bench", MODEL, "--depth", many).expect(2, ["--depth: need at most 16 depths", many])
    kvrt("bench", MODEL, "--kv", many.replace("1", "i8")).expect(2, "--kv: need at most 16 formats")
    kvrt("bench", MODEL, "--depth", "0" * 300).expect(2, "--depth")


@test
def a_config_file_is_checked_as_well():
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("# comment\nsample.temperature = hot\n")
        file.flush()
        run(MODEL, "--config", file.name).expect(2, [f"{file.name}:2: ", "sample.temperature", "'hot'"])
    for text, line, parts in (("\n\ntmep = 0\n", 3, ["option tmep: unknown, did you mean sample.temperature (--temp)?"]), ("temp 0", 1, ["'temp 0'", "KEY=VALUE"]),
                              ("top_k=1\r\n[sampling]\r\n", 2, ["'[sampling]'"]), ("kv = f16\n= 3\n", 2, ["KEY=VALUE"]),
                              ("; comment\n# comment\n\n  nonsense-key = 1", 4, ["nonsense-key: unknown"])):
        with tempfile.NamedTemporaryFile("w", suffix=".conf", newline="") as file:
            file.write(text)
            file.flush()
            run(MODEL, "--config", file.name).expect(2, [f"{file.name}:{line}: ", *parts])
    run(MODEL, "--config", "/nonexistent").expect(1, "/nonexistent")


main()
