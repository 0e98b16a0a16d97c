"""Makes the folders of test/golden/quantized/ whose experts are quantized, as make_quantized.py makes the others: every matrix of every expert is a
module of its own, as GPTQModel, AutoAWQ, llm-compressor and the published FP8 models write them; routers stay as they are. The reference is
transformers' Qwen3-MoE with the dequantized weights.  Usage: make_quantized_experts.py [NAME ...]"""
import json
import os
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from make_golden import tokenizer
from make_quantized import G32, HERE, VOCAB, Random, awq, args, gptq, gptq_config, groups_of, packed

BASE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, max_position_embeddings=256,
            rms_norm_eps=1e-5, rope_theta=10000.0, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True)
NVFP4 = dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)
PER_CHANNEL = args(8, strategy="channel")


def tiny_blocks(r, n_out, n_in):
    """FP8 with blocks that end inside of matrices."""
    return floats().fp8(r, n_out, n_in, block=(24, 48))


def floats():
    import make_quantized_floats  # wants mlx and bitsandbytes, which the variants of integers do without
    return make_quantized_floats


def tiny_down(r, module, n_out, n_in):
    """Experts of one layer with groups of another size than the rest."""
    return packed(r, n_out, n_in, G32 if "down_proj" in module else args(group_size=16))


# name: quantization_config, a weight of a module (r, module, n_out, n_in)
VARIANTS = {
    "experts_gptq": (gptq_config(), lambda r, m, o, i: gptq(r, o, i)),
    "experts_gptq_desc_act": (gptq_config(group=16, desc_act=True), lambda r, m, o, i: gptq(r, o, i, group=16, scattered=True)),
    "experts_awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm",
                     "modules_to_not_convert": ["gate"]}, lambda r, m, o, i: awq(r, o, i)),
    "experts_packed": (groups_of("pack-quantized", (["re:.*down_proj$"], G32, {}), (["re:.*(gate|up|q|k|v|o)_proj$"], args(group_size=16), {}),
                                 ignore=("lm_head", "re:.*mlp.gate$")), tiny_down),
    "experts_packed_g_idx": (groups_of("pack-quantized", (["re:.*_proj$"], dict(args(group_size=16), actorder="group"), {}),
                                       ignore=("lm_head", "re:.*mlp.gate$")),
                             lambda r, m, o, i: packed(r, o, i, args(group_size=16), g_idx=True)),
    "experts_int": (groups_of("int-quantized", (["re:.*_proj$"], PER_CHANNEL, {}), ignore=("lm_head", "re:.*mlp.gate$")),
                    lambda r, m, o, i: packed(r, o, i, PER_CHANNEL, "int-quantized")),
    "experts_fp8_block": ({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [24, 48],
                           "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]}, lambda r, m, o, i: tiny_blocks(r, o, i)),
    "experts_nvfp4": (groups_of("nvfp4-pack-quantized", (["re:.*_proj$"], NVFP4, {}), ignore=("lm_head", "re:.*mlp.gate$")),
                      lambda r, m, o, i: floats().nvfp4(r, o, i)),
    "experts_modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "*mlp.gate"],
                          "producer": {"name": "modelopt", "version": "0.40.0"}}, lambda r, m, o, i: floats().nvfp4(r, o, i, divides=False)),
}


def matrices(model):
    """(module, the parameter or a part of it) of everything that is quantized."""
    for module, layer in model.named_modules():
        if module.endswith("_proj") and "self_attn" in module:
            yield module, layer.weight
        if module.endswith("mlp.experts"):
            width = layer.down_proj.shape[2]
            for e in range(layer.down_proj.shape[0]):
                yield f"{module}.{e}.gate_proj", layer.gate_up_proj[e, :width]
                yield f"{module}.{e}.up_proj", layer.gate_up_proj[e, width:]
                yield f"{module}.{e}.down_proj", layer.down_proj[e]


@torch.no_grad()
def write(name, seed):
    quantization, weight_of = VARIANTS[name]
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    config = transformers.Qwen3MoeConfig(**BASE)
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    torch.manual_seed(seed)
    model, r, tensors = transformers.Qwen3MoeForCausalLM(config).float().eval(), Random(seed), {}
    for n, p in model.named_parameters():
        wide = 0.4 if "mlp.gate" in n else 0.15
        p.copy_((1 + 0.2 * torch.randn_like(p) if "norm" in n else wide * torch.randn_like(p)).bfloat16().float())
    for module, part in matrices(model):
        w = weight_of(r, module, *part.shape)
        part.copy_(torch.tensor(w.w32))
        tensors.update({f"{module}.{k}": v.contiguous() for k, v in w.tensors.items()})
    for n, p in model.named_parameters():
        if not n.endswith("_proj.weight") and "experts" not in n and n != "lm_head.weight":
            tensors[n] = p.bfloat16()
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config.architectures, config.dtype = ["Qwen3MoeForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    path = os.path.join(folder, "config.json")
    with open(path) as f:
        written = json.load(f)
    written["quantization_config"] = quantization
    with open(path, "w") as f:
        json.dump(written, f, indent=1)
    tokenizer().save(os.path.join(folder, "tokenizer.json"))
    ids = torch.randint(2, VOCAB, (20,), generator=torch.Generator().manual_seed(seed))
    rows = [0, 1, 7, 8, 19]
    logits = model(ids[None]).logits[0][rows].numpy().astype(np.float32)
    logits.tofile(os.path.join(folder, "golden.bin"))
    prompt = {"n": len(ids), "ids": ids.tolist(), "rows": rows, "greedy": [], "margin": []}
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"vocab": VOCAB, "std": float(logits.std()), "prompts": [prompt]}, f, indent=0)


def main():
    torch.set_num_threads(1)
    for i, name in enumerate(VARIANTS):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        write(name, 5000 + i)
        print(name, sum(os.path.getsize(os.path.join(HERE, name, f)) for f in os.listdir(os.path.join(HERE, name))))


if __name__ == "__main__":
    main()
