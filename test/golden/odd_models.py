"""Tiny models with odd config.json files: what transformers makes of them. Shared by make_odd.py (the committed cases) and sweep_config.py."""
import json
import os

import torch
import transformers
from safetensors.torch import save_file

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
VOCAB = 40
ABSENT = object()  # as a value: the key is left out
# Sizes are all different, so that no key can stand in for another.
BASE = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu", tie_word_embeddings=False,
            rope_theta=10000.0, bos_token_id=0, eos_token_id=1)
PROMPT = 48


class Refused(Exception):
    """transformers fails, or computes with something that is not in the files, or contradicts itself."""


def base_config(family):
    config = {"architectures": [CLASSES[family] + "ForCausalLM"], "model_type": family, **BASE}
    if family == "mistral":
        config["sliding_window"] = None
    return config


def build(family, overrides=(), seed=7):
    """The weights of the family as a dict of tensors; standard deviations that make every part matter."""
    config = getattr(transformers, CLASSES[family] + "Config")(**{**base_config(family), **dict(overrides)})
    torch.manual_seed(seed)
    model = getattr(transformers, CLASSES[family] + "ForCausalLM")(config)
    tensors = {}
    for name, p in model.state_dict().items():
        scale, offset = (0.2, 1.0) if "norm" in name else (0.3, 0.0)
        tensors[name] = (offset + scale * torch.randn(p.shape)).contiguous()
    return tensors


def write_config(folder, config, text=None):
    with open(os.path.join(folder, "config.json"), "w") as f:
        f.write(text if text is not None else json.dumps({k: v for k, v in config.items() if v is not ABSENT}, indent=1))


def write_weights(folder, tensors, name="model.safetensors"):
    save_file(tensors, os.path.join(folder, name), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, name), 0o644)


def prompt(n=PROMPT):
    return torch.randint(2, VOCAB, (n,), generator=torch.Generator().manual_seed(99))


@torch.no_grad()
def reference(folder, ids, rows=None):
    """Logits (n, vocab) in float32. Refused when transformers fails, when weights are missing or have other shapes (it would fill them at
    random), and when a prompt at once and the same prompt token by token differ, which is to say that it has no answer."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                                        output_loading_info=True)
        model.eval()
        if info["missing_keys"] or info["mismatched_keys"]:
            raise Refused(f"missing {sorted(info['missing_keys'])[:2]} {sorted(map(str, info['mismatched_keys']))[:2]}")
        logits = model(ids[None], use_cache=False).logits[0]
        out = model(ids[None, :-8], use_cache=True)
        for i in range(len(ids) - 8, len(ids)):
            out = model(ids[None, i:i + 1], cache=out.cache, use_cache=True)
            if not torch.allclose(out.logits[0, -1], logits[i], atol=1e-3, equal_nan=False):
                raise Refused("prompt and step differ")
        if not torch.isfinite(logits).all():
            raise Refused("not finite")
        return logits if rows is None else logits[rows]
    except Refused:
        raise
    except Exception as problem:  # whatever it is, it is no answer
        raise Refused(f"{type(problem).__name__}: {str(problem)[:100]}") from problem
