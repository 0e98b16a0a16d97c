#!/usr/bin/env python3
"""`kvrt quantize`: the folder it writes runs here and, where transformers and compressed-tensors are installed, there with the same logits; what
fails or is interrupted leaves nothing behind."""
import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import ENVIRONMENT, KVRT, MODEL, ROOT, Folder, kvrt, main, test

SHARED = ROOT / "test/golden/models"


def logits(folder, ids, vocab, more={}):
    """Of all positions, by the library itself."""
    lib = ctypes.CDLL(str(Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build")) / "libkvrt.so"))
    options, engine, session = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    n = len(ids)
    out = (ctypes.c_float * (n * vocab))()
    assert lib.kvrt_options_create(ctypes.byref(options), None) == 0
    for key, value in (("model.path", str(folder)), ("device.backend", "cpu"), ("kv.format", "f32"), ("cpu.exact", "true"), *more.items()):
        assert lib.kvrt_options_set_text(options, key.encode(), value.encode(), None) == 0
    assert lib.kvrt_engine_open(options, None, None, ctypes.byref(engine), None) == 0
    assert lib.kvrt_session_create(engine, None, ctypes.byref(session), None) == 0
    assert lib.kvrt_session_eval(session, (ctypes.c_int32 * n)(*ids), ctypes.c_uint64(n), (ctypes.c_uint32 * n)(*range(n)), ctypes.c_uint64(n), out,
                                 None) == 0
    lib.kvrt_engine_close(engine, None)
    lib.kvrt_options_destroy(options)
    return list(out)


@test
def folder_runs():
    with tempfile.TemporaryDirectory() as top:
        for name, flags, bits in (("llama_gqa2", ["--group", "16"], 4), ("qwen3_bf16", ["--weights", "i8", "--head", "i8"], 8),
                                  ("llama_d128", ["--group", "16", "--text", str(ROOT / "README.md"), "--tokens", "512"], 4)):
            out = Path(top) / name
            kvrt("quantize", SHARED / name, out, *flags).expect(0)
            assert {p.name for p in out.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "golden.json"}
            config = json.loads((out / "config.json").read_text())["quantization_config"]
            assert config["quant_method"] == "compressed-tensors" and list(config["config_groups"].values())[-1]["weights"]["num_bits"] == bits
            info = kvrt("inspect", "--json", out).expect(0).json()
            assert info["supported"] and info["quantization"] == "compressed-tensors" and f"i{bits}" in info["forms"]
            assert ("i8" in info["forms"]) == (bits == 8)
            kvrt("run", out, "-p", "ab", "--max-tokens", "4", "--ctx", "64").expect(0)
        assert sorted(p.name for p in Path(top).iterdir()) == ["llama_d128", "llama_gqa2", "qwen3_bf16"]


FUSED = (("phi3", ["--group", "16"]), ("granite4", ["--group", "16", "--head", "i8"]), ("qwen3_5", ["--group", "16"]), ("gemma4_e", ["--group", "8"]))
EXPERTS = (("mixtral", ["--group", "16"]), ("mixtral_fused", ["--group", "24"]), ("qwen3_moe", ["--weights", "i8", "--head", "i8"]),
           ("qwen3_moe_fused", ["--group", "8"]), ("qwen2_moe", ["--group", "32"]), ("qwen3_next", ["--group", "8"]), ("olmoe", ["--head", "i8"]),
           ("glm4_moe", ["--group", "8"]), ("deepseek_v2", ["--group", "8"]))


def widened(name, out):
    """A copy with weights in F32: transformers keeps experts in the type of their scales, others in the one asked for."""
    from safetensors.torch import load_file, save_file
    shutil.copytree(SHARED / name, out)
    for file in out.glob("*.safetensors"):
        save_file({k: v.float() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    return out


@test
def transformers_has_the_same_logits():
    try:
        import compressed_tensors  # noqa: F401
        import torch
        import transformers
    except ImportError:
        print("      without transformers, torch and compressed-tensors: skipped")
        return
    with tempfile.TemporaryDirectory() as top:
        for name, flags in (("llama_gqa2", ["--group", "16"]), ("llama_mha", ["--group", "32"]), ("llama_rope3", ["--weights", "i8", "--head", "i8"]),
                            ("llama_head_only", ["--group", "16", "--head", "i8"]), *FUSED, *EXPERTS):
            out = Path(top) / name
            kvrt("quantize", widened(name, Path(top) / f"{name}_f32"), out, *flags).expect(0)
            model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, experts_implementation="eager")
            ids = json.loads((out / "golden.json").read_text())["prompts"][1]["ids"]
            with torch.no_grad():
                theirs = model(torch.tensor([ids])).logits[0].double()
            error = (torch.tensor(logits(out, ids, theirs.shape[1])).double().reshape(theirs.shape) - theirs).abs().max() / theirs.std()
            assert error < 2e-4, f"{name} {flags}: logits differ by {error} of a standard deviation"


@test
def modules_are_those_of_transformers():
    """Names, and what stays: a matrix that is not rounded is in `ignore`."""
    with tempfile.TemporaryDirectory() as top:
        for name, flags, rounded, kept in (
                ("phi3", ["--group", "16"], ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"], []),
                ("mixtral_fused", ["--group", "8"], ["self_attn.q_proj", "block_sparse_moe.experts.4.w1", "block_sparse_moe.experts.0.w2"], ["mlp.gate"]),
                ("qwen2_moe", ["--group", "8"], ["mlp.experts.3.down_proj", "mlp.shared_expert.up_proj"], ["mlp.gate", "mlp.shared_expert_gate"])):
            kvrt("quantize", SHARED / name, Path(top) / name, *flags).expect(0)
            info = kvrt("inspect", "--json", "--tensors", Path(top) / name).expect(0).json()
            names, config = {t["name"] for t in info["tensors"]}, json.loads((Path(top) / name / "config.json").read_text())["quantization_config"]
            for module in (f"model.layers.1.{m}" for m in rounded):
                assert f"{module}.weight_packed" in names and f"{module}.weight" not in names and module not in config["ignore"], module
            for module in (f"model.layers.1.{m}" for m in kept):
                assert f"{module}.weight" in names and f"{module}.weight_packed" not in names and module in config["ignore"], module
            assert not any("experts.gate_up_proj" in n for n in names) and "model.embed_tokens" not in config["ignore"]
            experts = [t for g in config["config_groups"].values() for t in g["targets"] if "experts" in t]
            assert len(experts) == (name != "phi3") and "Linear" in list(config["config_groups"].values())[-1]["targets"]


@test
def experts_without_modules_are_refused():
    with tempfile.TemporaryDirectory() as top:
        for name, tensor in (("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj"), ("gemma4_moe", "model.layers.0.experts.gate_up_proj"),
                             ("granitemoe_shared", "model.layers.0.block_sparse_moe.input_linear.weight"),
                             ("qwen3_5_moe", "model.layers.0.mlp.experts.0.gate_proj.weight")):
            kvrt("quantize", SHARED / name, Path(top) / "out", "--group", "8").expect(3, [f"tensor {tensor}:", "compressed-tensors cannot express"])
        assert not list(Path(top).iterdir())

def write_gguf(path, config, tensors):
    """A GGUF file of Llama's or Qwen's family as llama.cpp's converter lays it out: rows of q and k with the halves of heads in turns (Llama),
    matrices in Q8_0 whose codes and scales are drawn, so that the numbers are known."""
    import struct

    def text(s):
        return struct.pack("<Q", len(s.encode())) + s.encode()

    def value(v):
        kinds = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
        if isinstance(v, str):
            return struct.pack("<I", 8) + text(v)
        if isinstance(v, list) and (not v or isinstance(v[0], str)):
            return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(text(s) for s in v)
        if isinstance(v, list):
            return struct.pack("<IIQ", 9, 5, len(v)) + struct.pack(f"<{len(v)}i", *v)
        kind, form = kinds[type(v)]
        return struct.pack("<I", kind) + struct.pack(form, v)
    out, data = b"", b""
    for name, (kind, shape, content) in tensors.items():
        out += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(config)) + b"".join(text(k) + value(v) for k, v in config.items()) + out
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def gguf_model(path, family, tied):
    """(the file, its exact weights under the names of transformers); 2 layers, 4 heads of 16, 2 of KV."""
    import random
    import struct
    draw, exact, tensors = random.Random(7), {}, {}

    def put(theirs, ours, shape, turned=0):
        vector = len(shape) == 1
        rows, n = (1, shape[0]) if vector else shape
        values, blocks = [], []
        for _ in range(rows):
            row, block = [], b""
            if vector:
                row = [1 + draw.randrange(-32, 32) / 256 if "norm" in theirs else draw.randrange(-32, 32) / 256 for _ in range(n)]
                block = struct.pack(f"<{n}f", *row)
            for _ in range(0 if vector else n // 32):
                scale = draw.randrange(1, 64) / 16384
                codes = [draw.randrange(-127, 128) for _ in range(32)]
                block += struct.pack("<e32b", scale, *codes)
                row += [scale * c for c in codes]
            values.append(row)
            blocks.append(block)
        if vector:
            values = values[0]
        tensors[theirs] = (0 if vector else 8, shape, b"".join(blocks))
        if turned:  # HF row (head, half, i) stands at (head, i, half)
            half = turned // 2
            values = [values[r // turned * turned + 2 * (r % half) + r % turned // half] for r in range(len(values))]
        exact[ours] = values
    turned = 16 if family == "llama" else 0
    put("token_embd.weight", "model.embed_tokens.weight", (96, 64))
    put("output_norm.weight", "model.norm.weight", (64,))
    if not tied:
        put("output.weight", "lm_head.weight", (96, 64))
    for i in range(2):
        to, of = f"blk.{i}.", f"model.layers.{i}."
        for theirs, ours, shape, turn in (("attn_norm", "input_layernorm", (64,), 0), ("ffn_norm", "post_attention_layernorm", (64,), 0),
                                          ("attn_q", "self_attn.q_proj", (64, 64), turned), ("attn_k", "self_attn.k_proj", (32, 64), turned),
                                          ("attn_v", "self_attn.v_proj", (32, 64), 0), ("attn_output", "self_attn.o_proj", (64, 64), 0),
                                          ("ffn_gate", "mlp.gate_proj", (96, 64), 0), ("ffn_up", "mlp.up_proj", (96, 64), 0),
                                          ("ffn_down", "mlp.down_proj", (64, 96), 0)):
            put(f"{to}{theirs}.weight", f"{of}{ours}.weight", shape, turn)
        if family == "qwen2":
            for kind, n in (("q", 64), ("k", 32), ("v", 32)):
                put(f"{to}attn_{kind}.bias", f"{of}self_attn.{kind}_proj.bias", (n,))
        if family == "qwen3":
            for kind in "qk":
                put(f"{to}attn_{kind}_norm.weight", f"{of}self_attn.{kind}_norm.weight", (16,))
    if family == "llama" and not tied:  # Llama 3's scaling by 8, as llama.cpp's converter writes it
        divisors = []
        for i in range(8):
            turns = 8192 / (2 * math.pi * 50000 ** (i / 8))
            smooth = min(max((turns - 1) / 3, 0), 1)
            divisors.append(1 / ((1 - smooth) / 8 + smooth))
        tensors["rope_freqs.weight"] = (0, (8,), struct.pack("<8f", *divisors))
    ids = json.loads((SHARED / "llama_gqa2" / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(ids, key=ids.get)
    a = family
    write_gguf(path, {"general.architecture": a, f"{a}.block_count": 2, f"{a}.context_length": 256, f"{a}.embedding_length": 64,
                      f"{a}.feed_forward_length": 96, f"{a}.attention.head_count": 4, f"{a}.attention.head_count_kv": 2,
                      f"{a}.attention.key_length": 16, f"{a}.attention.value_length": 16, f"{a}.rope.dimension_count": 16,
                      f"{a}.rope.freq_base": 50000.0, f"{a}.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2",
                      "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [],
                      "tokenizer.ggml.token_type": [3, 3] + [1] * 94, "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}, tensors)
    return exact


GGUF = (("llama", True, ["--group", "32"]), ("llama", False, ["--weights", "i8", "--head", "i8"]), ("qwen2", True, ["--head", "i8", "--group", "16"]),
        ("qwen3", False, ["--group", "64"]))


@test
def folder_from_gguf():
    """The folder has the numbers of the file: what stays exactly, what is rounded within half a step; and it runs."""
    import array
    with tempfile.TemporaryDirectory() as top:
        top = Path(top)
        for i, (family, tied, flags) in enumerate(GGUF):
            file, out = top / f"{i}.gguf", top / f"out{i}"
            exact = gguf_model(file, family, tied)
            kvrt("quantize", file, out, *flags, "--like", SHARED / "llama_gqa2").expect(0)
            raw = (out / "model.safetensors").read_bytes()
            size = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8:8 + size])

            def tensor(name, kind):
                begin, end = header[name]["data_offsets"]
                return array.array(kind, raw[8 + size + begin:8 + size + end])
            for name, values in exact.items():
                rows = values if isinstance(values[0], list) else [values]
                if name in header:
                    assert header[name]["dtype"] == "F32" and list(tensor(name, "f")) == [v for row in rows for v in row], name
                    continue
                n, bits = len(rows[0]), 8 if flags[0] == "--weights" or "lm_head" in name else 4
                packed, scales = tensor(f"{name}_packed", "I"), tensor(f"{name}_scale", "H")
                assert header[f"{name}_scale"]["dtype"] == "BF16" and list(tensor(f"{name}_shape", "q")) == [len(rows), n]
                per, groups = 32 // bits, len(scales) // len(rows)
                for r, row in enumerate(rows):
                    for k, v in enumerate(row):
                        word = packed[(r * n + k) // per]
                        code = (word >> (k % per * bits) & (1 << bits) - 1) - (1 << bits - 1)
                        scale = array.array("f", (scales[r * groups + k * groups // n] << 16).to_bytes(4, "little"))[0]
                        # the scale is rounded to 8 bits, so the largest weight may lie a little outside
                        assert abs(code * scale - v) <= scale * (0.54 if bits == 4 else 1.01), (name, r, k)
            assert ("lm_head.weight_packed" in header) == ("--head" in flags)
            config = json.loads((out / "config.json").read_text())
            assert config["model_type"] == family and config["tie_word_embeddings"] == (tied and "--head" not in flags)
            assert config.get("rope_scaling", {}).get("factor") == (8.0 if family == "llama" and not tied else None)
            assert kvrt("inspect", "--json", out).expect(0).json()["supported"]
        kvrt("quantize", top / "0.gguf", top / "no").expect(2, ["--like"])
        kvrt("quantize", top / "0.gguf", top / "no", "--like", top).expect(2, ["tokenizer.json"])
        # a folder whose last token alone differs
        shutil.copytree(SHARED / "llama_gqa2", top / "near")
        tokenizer = json.loads((top / "near/tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        last = max(vocabulary, key=vocabulary.get)
        vocabulary["zz"] = vocabulary.pop(last)
        (top / "near/tokenizer.json").write_text(json.dumps(tokenizer))
        kvrt("quantize", top / "0.gguf", top / "no", "--like", top / "near").expect(2, ['token 95 is "zz" there', "as in the GGUF file"])
        kvrt("quantize", MODEL, top / "no", "--like", MODEL).expect(2, ["--like is for a GGUF file"])
        vocabulary['!"'] = vocabulary.pop("zz")
        (top / "near/tokenizer.json").write_text(json.dumps(tokenizer))
        kvrt("quantize", ROOT / "test/golden/gguf/models/olmo3.gguf", top / "no", "--like", top / "near").expect(3, ["from GGUF, need llama"])
        assert not (top / "no").exists()


@test
def gguf_and_its_folder_agree():
    """Rounded at open and written and opened again: the same logits, which the order of q's and k's rows decides; and transformers'."""
    with tempfile.TemporaryDirectory() as top:
        top = Path(top)
        ids = [5 + 7 * i % 90 for i in range(40)]
        for i, (family, tied, flags) in enumerate(GGUF):
            file, out = top / f"{i}.gguf", top / f"out{i}"
            gguf_model(file, family, tied)
            kvrt("quantize", file, out, *flags, "--like", SHARED / "llama_gqa2").expect(0)
            options = dict(zip(flags[::2], flags[1::2]))
            at_open = {"weights.type": options.get("--weights", "i4"), "weights.group": options.get("--group", "auto"),
                       "weights.head": options.get("--head", "auto")}
            ours, theirs = logits(out, ids, 96), logits(file, ids, 96, at_open)
            spread = max(theirs) - min(theirs)
            assert max(abs(a - b) for a, b in zip(ours, theirs)) < 1e-5 * spread, (family, tied)
            try:
                import compressed_tensors  # noqa: F401
                import torch
                import transformers
            except ImportError:
                continue
            model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            with torch.no_grad():
                there = model(torch.tensor([ids])).logits[0].double()
            error = (torch.tensor(ours).double().reshape(there.shape) - there).abs().max() / there.std()
            assert error < 2e-4, f"{family} {flags}: logits differ by {error} of a standard deviation"


@test
def at_open():
    kvrt("run", MODEL, "-p", "ab", "--max-tokens", "4", "--ctx", "64", "--weights", "i4", "--group", "32", "--head", "i8").expect(0)
    plain = kvrt("plan", "--json", MODEL).expect(0).json()
    rounded = kvrt("plan", "--json", MODEL, "--weights", "i4", "--group", "16", "--embed", "i8").expect(0).json()
    assert plain["mapped_bytes"] == plain["weight_bytes"] and rounded["weight_bytes"] < plain["weight_bytes"]
    assert rounded["mapped_bytes"] < rounded["weight_bytes"] / 2 and rounded["rows"][0]["weight_bytes"] > plain["rows"][0]["weight_bytes"]
    assert rounded["forms"].startswith("i4 6 bits (tiles") and "; i8 8.667 bits" in rounded["forms"] and "rows" in plain["forms"]
    info = kvrt("inspect", "--json", "--tensors", ROOT / "test/golden/quantized/gptq_sym").expect(0).json()
    assert "tiles" in info["forms"]["i4"]["kernel"] and {t["kernel"] for t in info["tensors"] if t["name"].endswith(".qweight")} == {info["forms"]["i4"]["kernel"]}
    devices = kvrt("devices").expect(0).out.decode()
    kernel = info["forms"]["i4"]["kernel"]
    assert f"{kernel}:" in devices and "decoded row by row" in devices and devices.count(" q4_k") == 1
    assert "mapped from the file, not in the totals" in kvrt("plan", MODEL, "--weights", "i8").expect(0).out.decode()
    kvrt("run", MODEL, "-p", "ab", "--weights", "q4_0").expect(2, ["weights.type", "need i4 or i8"])
    kvrt("run", MODEL, "-p", "ab", "--weights", "i4", "--group", "5").expect(2, ["weights.group", "found 5"])


@test
def nothing_is_left_behind():
    with tempfile.TemporaryDirectory() as top:
        out = Path(top) / "out"
        kvrt("quantize", MODEL, top).expect(2, ["OUT is there already"])
        kvrt("quantize", MODEL, Path(top) / "a" / "b").expect(1, ["cannot be made"])
        kvrt("quantize", MODEL).expect(2, ["need two folders"])
        kvrt("quantize", MODEL, out, "--weights", "i5").expect(2, ["i4 or i8", "i5"])
        kvrt("quantize", MODEL, out, "--method", "gptq").expect(2, ["--text"])
        kvrt("quantize", MODEL, out, "--group", "4").expect(2, ["--group", "found 4"])
        kvrt("quantize", MODEL, out, "--text", Path(top) / "none").expect(1, ["none"])
        kvrt("quantize", ROOT / "test/golden/quantized/gptq_sym", out).expect(3, ["quantized already (gptq)"])
        with Folder() as m:
            header, data = m.weights()
            header["model.layers.0.mlp.up_proj.xeight"] = header.pop("model.layers.0.mlp.up_proj.weight")
            m.write_weights(header, data)
            kvrt("quantize", m, out).expect(3, ["model.layers.0.mlp.up_proj.weight: not found"])
        assert not list(Path(top).iterdir())


@test
def interrupted():
    with tempfile.TemporaryDirectory() as top:
        out = Path(top) / "out"
        process = subprocess.Popen([KVRT, "quantize", str(ROOT / "examples/models/storyteller-8m"), str(out), "--group", "32", "--text",
                                    str(ROOT / "DESIGN.md"), "--tokens", "100000"], env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        while not list(Path(top).iterdir()) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (0, 130), err
        if process.returncode == 130:
            assert b"interrupted" in err and not list(Path(top).iterdir()), (err, list(Path(top).iterdir()))


main()
