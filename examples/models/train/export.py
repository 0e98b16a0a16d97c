"""Writes a training state as a standard Hugging Face folder (BF16 safetensors, LlamaForCausalLM) and proves it: transformers must
compute the logits of the trainer's own model on the rounded weights, both in float32.

    export.py --state WORK/state.pt --tokenizer DIR --out FOLDER
Files of weights stay under 15 MB: a larger model is written as shards with an index.
"""
import argparse
import json
import os
import shutil

import torch
import transformers
from safetensors.torch import save_file

from model import DemoModel, Shape
from tokenizer import CHAT_TEMPLATE

SHARD_BYTES = 14_900_000
# Of float32 logits, times their standard deviation where that exceeds 1. transformers computes the angles of RoPE in float32, 6e-5 radians
# off at position 1,000, and attention that looks up one line out of many turns on such angles.
TOLERANCE = 1e-3
CONTEXT = 4096    # positions promised by the folder; a shape with less promises less


def load_rounded(path):
    """The trainer's model with its weights rounded to BF16 and computed in float32; and the shape and progress of the state."""
    state = torch.load(path, weights_only=False, map_location="cpu")
    shape = Shape(**state["shape"])
    model = DemoModel(shape)
    model.load_state_dict({name: t.to(torch.bfloat16).float() for name, t in state["model"].items()})
    return model.eval(), shape, {k: state[k] for k in ("step", "seen", "spent")}


def config_of(s: Shape):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "vocab_size": s.vocab, "hidden_size": s.dim, "intermediate_size": s.ffn, "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads, "num_key_value_heads": s.n_kv_heads, "head_dim": s.head_dim, "hidden_act": "silu",
        "max_position_embeddings": min(CONTEXT, s.ctx), "rms_norm_eps": s.eps, "rope_theta": s.theta,
        "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
    }


def save_weights(model, folder):
    for old in os.listdir(folder):
        if ".safetensors" in old:
            os.remove(os.path.join(folder, old))
    tensors = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in model.state_dict().items()}
    shards, size = [{}], 0
    for name, t in tensors.items():
        n_bytes = t.numel() * t.element_size()
        if shards[-1] and size + n_bytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = t
        size += n_bytes
    if len(shards) == 1:
        save_file(shards[0], os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        return
    weight_map = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, os.path.join(folder, file), metadata={"format": "pt"})
        weight_map.update({name: file for name in shard})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(os.path.join(folder, "model.safetensors.index.json"), {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, ensure_ascii=False)
        f.write("\n")


def check(folder, model, shape):
    """Largest difference of logits between transformers and the trainer's model."""
    torch.manual_seed(7)
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    for n in (1, 17, 300, 1000):
        ids = torch.randint(0, shape.vocab, (1, n))
        with torch.no_grad():
            ours, theirs = model(ids), other(ids).logits
        limit = TOLERANCE * max(1.0, float(theirs.std()))
        error = float((ours - theirs).abs().max())
        if not error <= limit:
            raise SystemExit(f"{folder}: logits of {n} tokens differ by {error:.3g}, limit {limit:.3g}")
        worst = max(worst, error)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) != shape.vocab:
        raise SystemExit(f"{folder}: tokenizer has {len(tokenizer)} entries, the model {shape.vocab}")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    if prompt != "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n":
        raise SystemExit(f"{folder}: chat template gives {prompt!r}")
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--state", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    model, shape, progress = load_rounded(args.state)
    os.makedirs(args.out, exist_ok=True)
    save_weights(model, args.out)
    write_json(os.path.join(args.out, "config.json"), config_of(shape))
    write_json(os.path.join(args.out, "generation_config.json"),
               {"bos_token_id": 0, "eos_token_id": [0, 2], "pad_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.9})
    shutil.copy(os.path.join(args.tokenizer, "tokenizer.json"), os.path.join(args.out, "tokenizer.json"))
    with open(os.path.join(args.tokenizer, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config.update(model_max_length=min(CONTEXT, shape.ctx), chat_template=CHAT_TEMPLATE)
    write_json(os.path.join(args.out, "tokenizer_config.json"), config)
    for file in os.listdir(args.out):
        os.chmod(os.path.join(args.out, file), 0o644)  # safetensors writes 0600
    error = check(args.out, model, shape)
    print(json.dumps({"out": args.out, "params": sum(p.numel() for p in model.parameters()), "max_logit_error": error, **progress}))


if __name__ == "__main__":
    main()
