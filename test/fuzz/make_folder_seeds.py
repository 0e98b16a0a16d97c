#!/usr/bin/env python3
"""Writes test/fuzz/corpus/folder: small model folders as fuzz_folder.c reads them, one of each family. Their tokenizers are those of the golden
models; weights are not in them, fuzz_folder.c makes some from the header."""
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden" / "models"
TEMPLATE = ("{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
            "{% if tools %}{{ tools | tojson }}{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}")


def header(config, dtype="BF16", head=False):
    """The safetensors header of a model of this shape."""
    d, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    dim = config.get("head_dim", d // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shapes = {"model.embed_tokens.weight": [vocab, d], "model.norm.weight": [d]}
    if head:
        shapes["lm_head.weight"] = [vocab, d]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes.update({p + "input_layernorm.weight": [d], p + "post_attention_layernorm.weight": [d], p + "self_attn.q_proj.weight": [q, d],
                       p + "self_attn.k_proj.weight": [kv, d], p + "self_attn.v_proj.weight": [kv, d], p + "self_attn.o_proj.weight": [d, q],
                       p + "mlp.gate_proj.weight": [ffn, d], p + "mlp.up_proj.weight": [ffn, d], p + "mlp.down_proj.weight": [d, ffn]})
        if config["model_type"] == "qwen2":
            shapes.update({p + f"self_attn.{x}_proj.bias": [n] for x, n in (("q", q), ("k", kv), ("v", kv))})
        if config["model_type"] == "qwen3":
            shapes.update({p + f"self_attn.{x}_norm.weight": [dim] for x in "qk"})
    out, at = {}, 0
    for name, shape in shapes.items():
        size = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
        for n in shape:
            size *= n
        out[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return json.dumps(out, separators=(",", ":"))


def seed(name, golden, config, options, dtype="BF16", prompt="Once upon a time", **parts):
    base = json.loads((GOLDEN / golden / "config.json").read_text())
    base.update({"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
                 "max_position_embeddings": 300, "layer_types": None, **config})
    base = {key: value for key, value in base.items() if value is not None}
    text = {"c": json.dumps(base), "t": (GOLDEN / golden / "tokenizer.json").read_text(),
            "k": (GOLDEN / golden / "tokenizer_config.json").read_text(), "s": header(base, dtype, not base.get("tie_word_embeddings")),
            "o": "\n".join(options), "p": prompt, **parts}
    data = b"".join(b"\x1e" + key.encode() + value.encode() for key, value in text.items())
    (HERE / "corpus" / "folder").mkdir(parents=True, exist_ok=True)
    (HERE / "corpus" / "folder" / name).write_bytes(data)


def quantized(name, room="quantized", options="kv.format=f16"):
    """A golden folder as it is, without its data."""
    folder = GOLDEN.parent / room / name
    raw = (folder / "model.safetensors").read_bytes()
    text = {"c": json.dumps(json.loads((folder / "config.json").read_text())), "t": (folder / "tokenizer.json").read_text(),
            "s": raw[8:8 + int.from_bytes(raw[:8], "little")].decode().strip(), "o": options, "p": "Once"}
    for letter, file in (("h", "hf_quant_config.json"), ("v", "kv_cache_scales.json")):
        if (folder / file).exists():
            text[letter] = (folder / file).read_text()
    (HERE / "corpus" / "folder" / (name if room == "quantized" else f"{room}_{name}")).write_bytes(
        b"".join(b"\x1e" + key.encode() + value.encode() for key, value in text.items()))


def main():
    for name in ("gptq_dynamic", "awq_gemv", "mixed_precision", "fp8_block", "float_mixed", "modelopt_file", "bnb_nf4_nested", "mlx_mixed"):
        quantized(name)
    for name, options in (("f8", "kv.format=f8"), ("i8", "kv.format=i8"), ("file", "kv.format=f8")):
        quantized(name, "kv_scales", options)
    messages = json.dumps([{"role": "user", "content": "a cat"}, {"role": "assistant", "content": [{"type": "text", "text": "ran"}]}])
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}])
    seed("llama", "llama_gqa2", {}, ["kv.format=k4v4", "ctx.size=200", "sample.temperature=0"])
    seed("llama_copy", "llama_gqa2", {}, ["model.io=copy", "kv.format=elastic", "ctx.chunk=7", "mem.limit=4MiB"], dtype="F16", m=messages, j=TEMPLATE)
    seed("qwen2_chat", "qwen2", {"head_dim": None, "num_attention_heads": 1}, ["kv.format=i8", "gen.token_events=true"], dtype="F32", m=messages, x=tools,
         j=TEMPLATE, a=TEMPLATE)
    seed("qwen3", "qwen3", {}, ["kv.format=k2v2", "kv.tail=0", "sample.repeat_penalty=1.3", "gen.stop=e"],
         g=json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [1, 2]}))
    seed("mistral_window", "mistral_window", {"sliding_window": 8}, ["kv.format=f16", "sample.seed=7", "ctx.sessions=2"])
    seed("tokenizer_only", "qwen2", {}, ["model.load=tokenizer"], n=json.dumps({"eos_token": "</s>", "pad_token": {"content": "<pad>"}}), m=messages,
         j=TEMPLATE)


main()
