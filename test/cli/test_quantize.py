#!/usr/bin/env python3
"""`kvrt quantize`: the folder it writes runs here and, where transformers and compressed-tensors are installed, there with the same logits; what
fails or is interrupted leaves nothing behind."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import ENVIRONMENT, KVRT, MODEL, ROOT, Folder, kvrt, main, test

SHARED = ROOT / "test/golden/models"


def logits(folder, ids, vocab):
    """Of all positions, by the library itself."""
    lib = ctypes.CDLL(str(Path(os.environ.get("KVRT_BUILD_DIR", ROOT / "build")) / "libkvrt.so"))
    options, engine, session = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    n = len(ids)
    out = (ctypes.c_float * (n * vocab))()
    assert lib.kvrt_options_create(ctypes.byref(options), None) == 0
    for key, value in (("model.path", str(folder)), ("device.backend", "cpu"), ("kv.format", "f32"), ("cpu.exact", "true")):
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
