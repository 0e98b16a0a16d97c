"""What sweep_config.py does for the plain families, for hybrids, experts, Gemma and latent attention: every key of the golden models' config.json,
with odd values, against transformers.  Usage: sweep_families.py [BUILD_FOLDER] [-v] [NAME ...], names of test/golden/models
Weights stay those of the golden model, so most values of sizes end in a refusal on both sides; the rest must agree."""
import json
import os
import sys
import tempfile
from collections import Counter

import torch
import transformers
from safetensors.torch import load_file

import odd_models
from odd_models import ABSENT
from sweep_config import Kvrt, outcome

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
NAMES = ["qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen3_moe", "qwen2_moe", "mixtral", "olmoe", "granitemoe_shared", "glm4_moe", "gpt_oss",
         "gemma2", "gemma3", "gemma4", "gemma4_e", "gemma4_moe", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "phi3", "smollm3", "granite",
         "granite4", "olmo2", "olmo3", "ministral3"]
VALUES = [ABSENT, None, True, False, 0, 1, 2, 3, 7, 0.5, 2.0, "x", [], {}, float("nan")]
MORE = {"layer_types": [["full_attention"] * 2, ["sliding_attention"] * 2, ["linear_attention"] * 2, ["sliding_attention", "full_attention"]],
        "sliding_window": [24, 47, 48, 4096], "hidden_act": ["gelu", "gelu_pytorch_tanh"], "hidden_activation": ["silu", "gelu"],
        "mlp_layer_types": [["dense"] * 2, ["sparse"] * 2, ["sparse", "dense"], ["x"] * 2], "mlp_only_layers": [[0], [1], [0, 1], [5], [-1]],
        "topk_method": ["greedy", "group_limited_greedy", "noaux_tc"], "scoring_func": ["sigmoid", "softmax"],
        "no_rope_layers": [[0, 1, 1, 1], [1, 1, 1, 1], [0] * 4], "rope_parameters": [
            {"rope_type": "default", "rope_theta": 500.0}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4, "mscale_all_dim": 1.0},
            {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}]}


def main():
    words = [a for a in sys.argv[1:] if a[0] != "-"]
    names = [a for a in words if a in NAMES] or NAMES
    build = next((a for a in words if a not in NAMES), "build")
    odd_models.VOCAB = 96
    transformers.logging.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    kvrt, total, ids = Kvrt(build), Counter(), odd_models.prompt()
    for name in names:
        with open(os.path.join(MODELS, name, "config.json")) as f:
            base = {**json.load(f), "dtype": "float32"}
        with tempfile.TemporaryDirectory() as folder:
            tensors = load_file(os.path.join(MODELS, name, "model.safetensors"))
            odd_models.write_weights(folder, {n: t.float() for n, t in tensors.items()})
            with open(os.path.join(MODELS, name, "tokenizer.json")) as f, open(os.path.join(folder, "tokenizer.json"), "w") as to:
                to.write(f.read())
            for key in ["transformers_version", *base]:
                for value in VALUES + MORE.get(key, []):
                    odd_models.write_config(folder, {**base, key: value})
                    found, detail = outcome(kvrt, folder, ids)
                    total[found] += 1
                    if found == "differs" or "-v" in sys.argv and found not in ("equal", "both refuse"):
                        print(f"{name}: {key}={'absent' if value is ABSENT else value}: {found}: {detail}", flush=True)
    print(f"{sum(total.values())} configurations: {json.dumps(dict(total))}")
    sys.exit(1 if total["differs"] else 0)


if __name__ == "__main__":
    main()
