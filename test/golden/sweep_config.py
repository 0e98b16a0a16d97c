"""Compares kvrt with transformers over thousands of odd config.json files: every key that transformers knows for the families, with many
values, and pairs of the keys that kvrt computes with.  Usage: sweep_config.py [BUILD_FOLDER] [-v] [llama] [mistral] [qwen2] [qwen3]
Either the logits agree, or one side refuses. A file that both accept and compute differently is a fault, and the exit status is 1.
Too slow for every run of the tests (minutes); what it found is in make_odd.py."""
import ctypes
import itertools
import json
import os
import re
import sys
import tempfile
from collections import Counter

import numpy as np
import torch
import transformers

import odd_models
from odd_models import ABSENT, FAMILIES, Refused

LIMIT = 2e-4  # of the standard deviation of the logits
KEYS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../runtime/model/config_keys.h")

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
ROPES = [{}, {"rope_type": "default"}, {"rope_theta": 777.0}, {"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0},
         {"type": "linear", "rope_type": "default", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0, "rope_theta": 555.0}, LLAMA3,
         {k: v for k, v in LLAMA3.items() if k[0] != "o"}, {**LLAMA3, "rope_theta": 999.0}, {**LLAMA3, "original_max_position_embeddings": 64},
         {"rope_type": "linear"}, {"rope_type": "linear", "factor": 0.5}, {"rope_type": "linear", "factor": 1},
         {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "dynamic", "factor": 4.0}, {"rope_type": "longrope"}, {"rope_type": "mrope"},
         {"rope_type": "default", "partial_rotary_factor": 0.5}, {"rope_type": "default", "mrope_section": [2, 1, 1]},
         {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, {"rope_type": "proportional", "factor": 2.0},
         {"full_attention": {"rope_theta": 7.0}}, {"rope_type": "linear", "factor": "4"}, {"rope_type": None}, {"rope_theta": None},
         {"rope_type": "linear", "factor": 4.0, "attention_factor": 2.0}, {**LLAMA3, "low_freq_factor": 4.0},
         {**LLAMA3, "low_freq_factor": 8.0}, {**LLAMA3, "factor": 1.0}, {"rope_type": "llama3", "factor": 8.0}, {"rope_theta": 1},
         {"rope_theta": float("inf")}, {"rope_type": "linear", "factor": float("inf")}, {"rope_type": "axial"}]
ANY = [ABSENT, None, True, False, 0, 1, -1, 2, 3, 4, 8, 16, 0.5, 2.0, 1e-6, 100000, "silu", "default", "x", [], {}, ["a"], {"a": 1},
       float("inf"), float("nan")]
MORE = {"rope_parameters": ROPES, "rope_scaling": ROPES, "rope_theta": [500.0, 1e6, 1, 0, -1], "partial_rotary_factor": [0.25, 1.0, 1, 0.99],
        "hidden_act": ["swish", "gelu", "relu", "gelu_pytorch_tanh", "SiLU"], "sliding_window": [7, 24, 47, 48, 49, 128, 4096, 2**31, 7.0],
        "use_sliding_window": [], "max_window_layers": [5, 28], "layer_types": [["full_attention"] * 2, ["sliding_attention"] * 2,
        ["sliding_attention", "full_attention"], ["full_attention", "sliding_attention"], ["full_attention"], ["attention"] * 2,
        ["chunked_attention"] * 2, ["full_attention"] * 3], "original_max_position_embeddings": [32, 64],
        "architectures": [[c + s for s in ("ForCausalLM", "Model", "ForSequenceClassification")[i:i + 1]] for c in ("Llama", "Qwen3", "Mixtral")
                          for i in range(3)], "model_type": FAMILIES + ["mixtral", "gemma"], "per_layer_config": [{"0": {"num_key_value_heads": 1}}],
        "rms_norm_eps": [1e-2, 0.1, 1e-12], "quantization_config": [{"quant_method": "gptq", "bits": 4}], "head_dim": [6, 12],
        "quantization": [{"bits": 4, "group_size": 64}], "text_config": [{"hidden_size": 8}]}
UNKNOWN = ["logit_scale", "attn_logit_softcapping", "final_logit_softcapping", "residual_multiplier", "embedding_multiplier", "qk_norm",
           "use_qk_norm", "no_rope_layers", "attention_multiplier", "logits_scaling", "scale_emb", "clip_qkv", "use_bias", "o_bias", "qkv_bias",
           "mlp_bias", "attention_bias", "use_sliding_window", "max_window_layers", "layer_norm_eps", "norm_eps", "n_heads", "rotary_pct",
           "rope_interleaved", "use_parallel_residual", "num_local_experts", "num_experts", "query_pre_attn_scalar", "rope_local_base_freq",
           "use_bidirectional_attention", "is_decoder", "add_cross_attention", "tie_last_hidden_states", "softmax_scale", "window_size"]
PAIRED = {"sliding_window": [ABSENT, None, 7, 24], "use_sliding_window": [ABSENT, True, False], "max_window_layers": [ABSENT, 0, 1],
          "layer_types": [ABSENT, ["full_attention"] * 2, ["sliding_attention"] * 2, ["sliding_attention", "full_attention"]],
          "rope_parameters": [ABSENT, {}, ROPES[2], ROPES[6], LLAMA3, ROPES[8]], "rope_scaling": [ABSENT, None, ROPES[3], LLAMA3, ROPES[8], ROPES[5]],
          "rope_theta": [ABSENT, 333.0], "original_max_position_embeddings": [ABSENT, 16], "max_position_embeddings": [ABSENT, 64],
          "partial_rotary_factor": [ABSENT, 0.5, 1.0], "is_causal": [ABSENT, True, False, None], "head_dim": [ABSENT, None, 8],
          "num_key_value_heads": [ABSENT, None, 2], "attention_bias": [ABSENT, True], "attention_chunk_size": [ABSENT, None, 8]}


class Error(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("code", ctypes.c_int32), ("extended", ctypes.c_int32), ("system_code", ctypes.c_int32),
                ("needed", ctypes.c_uint64), ("available", ctypes.c_uint64), ("message", ctypes.c_char * 512)]


class Kvrt:
    def __init__(self, build):
        self.lib = ctypes.CDLL(os.path.join(build, "libkvrt.so"))
        for name in ("engine_open", "session_create", "engine_close", "session_close", "session_eval"):
            getattr(self.lib, "kvrt_" + name).argtypes = None

    def logits(self, folder, ids):
        """(n, vocab), or the message of the refusal as Refused."""
        lib, error = self.lib, Error(size=ctypes.sizeof(Error))
        options, engine, session = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64()
        lib.kvrt_options_create(ctypes.byref(options), None)
        settings = {"model.path": folder, "device.backend": "cpu", "kv.format": "f32", "cpu.threads": "1", "ctx.size": str(max(64, len(ids)))}
        for key, value in settings.items():
            lib.kvrt_options_set_text(options, key.encode(), value.encode(), None)
        status = lib.kvrt_engine_open(options, None, None, ctypes.byref(engine), ctypes.byref(error))
        lib.kvrt_options_destroy(options)
        if status < 0:
            raise Refused(error.message.decode())
        n = len(ids)
        rows, out = np.arange(n, dtype=np.uint32), np.zeros((n, odd_models.VOCAB), dtype=np.float32)
        ids = np.array(ids, dtype=np.int32)
        assert lib.kvrt_session_create(engine, None, ctypes.byref(session), None) == 0
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (ids, rows, out)]
        status = lib.kvrt_session_eval(session, pointers[0], ctypes.c_uint64(n), pointers[1], ctypes.c_uint64(n), pointers[2], ctypes.byref(error))
        lib.kvrt_session_close(session, None)
        lib.kvrt_engine_close(engine, None)
        if status < 0:
            raise Refused(error.message.decode())
        return out


def cases(family):
    """(what, changes to the base config)"""
    with open(KEYS) as f:
        known = re.findall(r'\{"([^"]+)", KEY_(\w+)', f.read())
    harmless_values = [None, True, False, 0, 1, 2.5, "x", "flash_attention_2", [], {}, float("inf")]
    for key, fate in known:
        for value in harmless_values if fate == "HARMLESS" else ANY + MORE.get(key, []):
            if key == "num_hidden_layers" and value == 100000:
                continue  # transformers would build them all
            yield f"{key}={value}" if value is not ABSENT else f"no {key}", {key: value}
    for key in UNKNOWN + ["quantization"]:
        for value in [None, True, False, 2, 8, 0.5, "x", *MORE.get(key, [])] if key not in dict(known) else []:
            yield f"unknown {key}={value}", {key: value}
    for (a, va), (b, vb) in itertools.combinations(PAIRED.items(), 2):
        for x, y in itertools.product(va, vb):
            yield f"{a}={x} {b}={y}", {a: x, b: y}
    window = [PAIRED[k] for k in ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")]
    for s, u, m, t in itertools.product(*window):
        yield f"window {s} {u} {m} {t}", {"sliding_window": s, "use_sliding_window": u, "max_window_layers": m, "layer_types": t}
    for p, s, t in itertools.product(PAIRED["rope_parameters"], PAIRED["rope_scaling"], [ABSENT, 333.0]):
        yield f"rope {p} {s} {t}", {"rope_parameters": p, "rope_scaling": s, "rope_theta": t}


def outcome(kvrt, folder, ids):
    try:
        want = odd_models.reference(folder, ids).numpy()
    except Refused as problem:
        want, why = None, str(problem)
    try:
        got = kvrt.logits(folder, ids.tolist())
    except Refused as problem:
        return ("both refuse", str(problem)) if want is None else ("kvrt refuses", str(problem))
    if want is None:
        return ("differs" if "prompt and step differ" in why else "transformers refuses"), why
    error = float(np.abs(got - want).max())
    return ("equal" if error <= LIMIT * max(1.0, float(want.std())) else "differs"), f"error {error:.2e}"


def main():
    families = [a for a in sys.argv[1:] if a in FAMILIES] or FAMILIES
    build = next((a for a in sys.argv[1:] if a[0] != "-" and a not in FAMILIES), "build")
    transformers.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    kvrt, total, ids = Kvrt(build), Counter(), odd_models.prompt()
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            odd_models.write_weights(folder, odd_models.build(family, {"attention_bias": False}))
            with open(os.path.join(os.path.dirname(KEYS), "../../test/golden/models/llama_mha/tokenizer.json")) as f:
                tokenizer = f.read()
            with open(os.path.join(folder, "tokenizer.json"), "w") as f:
                f.write(tokenizer)
            for what, changes in cases(family):
                odd_models.write_config(folder, {**odd_models.base_config(family), **changes})
                found, detail = outcome(kvrt, folder, ids)
                total[found] += 1
                if found == "differs" or "-v" in sys.argv and found not in ("equal", "both refuse"):
                    print(f"{family}: {what}: {found}: {detail}", flush=True)
    print(f"{sum(total.values())} configurations: {json.dumps(dict(total))}")
    sys.exit(1 if total["differs"] else 0)


if __name__ == "__main__":
    main()
