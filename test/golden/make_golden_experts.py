"""Makes the folders of test/golden/models/ of mixtures of experts and of latent attention, as make_golden.py makes the others; what a folder
holds stands there.  Usage: make_golden_experts.py [NAME ...]

How a folder stores its experts follows a flag, because files of both kinds are in use:
    default     as the models are published: transformers' save_pretrained turns its own names back (a tensor for each expert)
    fused       as transformers holds them in memory: all experts of a layer in one tensor, gate and up one behind the other
    mxfp4       gpt-oss as it is published: blocks of 32 four-bit floats with a power of two each; the reference computes with their values
"""
import json
import os
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from make_golden import BASE as LARGER, DELTA, GAINS_LESS_ONE, HERE, golden, tokenizer

BASE = dict(LARGER, hidden_size=32, intermediate_size=40, head_dim=16)
MIX = dict(moe_intermediate_size=24, num_experts=6, num_experts_per_tok=2)
GPT = dict(num_local_experts=6, num_experts_per_tok=3, sliding_window=33, intermediate_size=40, swiglu_limit=0.8,
           rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
                                original_max_position_embeddings=64))
GLM = dict(moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=1, n_group=4,
           topk_group=2, routed_scaling_factor=1.8, norm_topk_prob=True, num_hidden_layers=2)
HEADS = dict(head_dim=None, num_attention_heads=2, num_key_value_heads=1)  # the width of a head follows from the others
GRANITE = dict(HEADS, num_local_experts=6, num_experts_per_tok=2, intermediate_size=24, embedding_multiplier=3.0, logits_scaling=2.0,
               residual_multiplier=0.4, attention_multiplier=0.2)
MLA = dict(kv_lora_rank=32, q_lora_rank=None, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=24, head_dim=None, num_key_value_heads=4,
           moe_intermediate_size=24, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2)
MSCALE = dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=64,
              mscale=0.707, mscale_all_dim=0.707)
LITE = {k: v for k, v in MLA.items() if k != "head_dim"}

HYBRID = {**DELTA, **MIX, "shared_expert_intermediate_size": 40, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}

# name: (family, dtype, changes to BASE, flags)
VARIANTS = {
    "qwen2_moe": ("Qwen2Moe", "bfloat16", dict(MIX, shared_expert_intermediate_size=40, norm_topk_prob=False), {}),
    "qwen3_moe": ("Qwen3Moe", "bfloat16", dict(MIX, norm_topk_prob=True, mlp_only_layers=[0]), {}),
    "qwen3_moe_fused": ("Qwen3Moe", "bfloat16", dict(MIX, num_experts_per_tok=6, norm_topk_prob=False, decoder_sparse_step=2,
                                                    tie_word_embeddings=True), {"fused": True}),
    "qwen3_moe_all": ("Qwen3Moe", "bfloat16", dict(MIX, norm_topk_prob=True), {}),
    "mixtral": ("Mixtral", "float32", dict(num_local_experts=5, num_experts_per_tok=2, intermediate_size=24), {}),
    "mixtral_one": ("Mixtral", "bfloat16", dict(num_local_experts=1, num_experts_per_tok=1, intermediate_size=24, sliding_window=40), {}),
    "mixtral_fused": ("Mixtral", "bfloat16", dict(num_local_experts=5, num_experts_per_tok=1, intermediate_size=24), {"fused": True}),
    "olmoe": ("Olmoe", "bfloat16", dict(num_experts=6, num_experts_per_tok=2, intermediate_size=24, **HEADS), {}),
    "granitemoe": ("GraniteMoe", "bfloat16", dict(GRANITE, tie_word_embeddings=True), {}),
    "granitemoe_shared": ("GraniteMoeShared", "bfloat16", dict(GRANITE, shared_intermediate_size=40), {}),
    "glm4_moe": ("Glm4Moe", "bfloat16", dict(GLM, use_qk_norm=True, attention_bias=True), {}),
    "glm4_moe_plain": ("Glm4Moe", "bfloat16", dict(GLM, n_group=1, topk_group=1, norm_topk_prob=False, n_shared_experts=2), {}),
    "gpt_oss": ("GptOss", "bfloat16", GPT, {}),
    "gpt_oss_mxfp4": ("GptOss", "bfloat16", dict(GPT, hidden_size=64, intermediate_size=32), {"mxfp4": True}),
    "deepseek_v2": ("DeepseekV2", "bfloat16", dict(MLA, first_k_dense_replace=1, topk_method="greedy", qk_rope_head_dim=8), {}),
    "deepseek_v2_groups": ("DeepseekV2", "bfloat16", dict(MLA, q_lora_rank=20, n_group=3, topk_group=1, topk_method="group_limited_greedy",
                                                         routed_scaling_factor=2.5, rope_parameters=MSCALE), {}),
    "deepseek_v3": ("DeepseekV3", "bfloat16", dict(MLA, q_lora_rank=20, n_routed_experts=8, n_group=4, topk_group=2, first_k_dense_replace=1,
                                                  n_shared_experts=1, routed_scaling_factor=2.5, rope_parameters=MSCALE), {}),
    "deepseek_v3_halves": ("DeepseekV3", "bfloat16", dict(MLA, q_lora_rank=20, n_group=1, topk_group=1, first_k_dense_replace=0,
                                                          rope_interleave=False, attention_bias=True), {}),
    "qwen3_5_moe": ("Qwen3_5Moe", "bfloat16", HYBRID, {}),
    "qwen3_5_moe_fused": ("Qwen3_5Moe", "bfloat16", dict(HYBRID, tie_word_embeddings=True, num_experts_per_tok=1), {"fused": True}),
    "qwen3_next": ("Qwen3Next", "bfloat16", dict(HYBRID, norm_topk_prob=False, mlp_only_layers=[0]), {}),
    "glm4_moe_lite": ("Glm4MoeLite", "bfloat16", dict(LITE, q_lora_rank=20, n_shared_experts=1, routed_scaling_factor=1.8), {}),
    "qwen3_next_all": ("Qwen3Next", "bfloat16", dict(HYBRID, norm_topk_prob=True), {}),
    "gpt_oss_clamped": ("GptOss", "bfloat16", dict(GPT, swiglu_limit=7.0), {"loud": True}),
    "gpt_oss_clamped_mxfp4": ("GptOss", "bfloat16", dict(GPT, swiglu_limit=7.0, hidden_size=64, intermediate_size=32),
                              {"loud": True, "mxfp4": True}),
    # Heads as wide as the CUDA backend has them.
    "qwen3_moe_d64": ("Qwen3Moe", "bfloat16", dict(MIX, norm_topk_prob=True, head_dim=64), {}),
    "gpt_oss_d64": ("GptOss", "bfloat16", dict(GPT, head_dim=64), {}),
    "gpt_oss_mxfp4_d64": ("GptOss", "bfloat16", dict(GPT, head_dim=64, hidden_size=64, intermediate_size=32), {"mxfp4": True}),
    "qwen3_5_moe_d64": ("Qwen3_5Moe", "float16", dict(HYBRID, head_dim=64), {}),
}


def build(family, overrides, seed, loud=False):
    """loud: experts whose gates and ups pass the clamp at 7."""
    settings = {k: v for k, v in {**BASE, **overrides}.items() if v is not None or k == "q_lora_rank"}
    if "rope_parameters" in settings:
        del settings["rope_theta"]
    Config = getattr(transformers, family + "TextConfig", None) or getattr(transformers, family + "Config")
    config = Config(**settings)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, family + "ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + [b for b in model.named_buffers() if "correction" in b[0]]:
            if "norm" in name:
                one = 0 if family in GAINS_LESS_ONE and "linear_attn" not in name else 1
                p.copy_(one + 0.2 * torch.randn_like(p))
            elif name.endswith("A_log"):  # decays from nearly nothing to nearly all in a step
                p.copy_(torch.linspace(-4, 2, p.numel()))
            elif name.endswith("bias") or name.endswith("sinks"):
                p.copy_(0.3 * torch.randn_like(p))
            else:
                wide = "gate.weight" in name or "router" in name  # so that a token's experts differ clearly
                p.copy_((0.4 if wide else 1.5 if loud and "gate_up_proj" in name else 0.15 if p.dim() > 1 else 0.1) * torch.randn_like(p))
    return model


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def to_mxfp4(w):
    """(E, in, out) as transformers holds gpt-oss: blocks (E, out, in / 32, 16) and scales (E, out, in / 32), and the values they mean."""
    rows = w.transpose(1, 2).unflatten(-1, (-1, 32))
    scales = torch.ceil(torch.log2(rows.abs().amax(-1, keepdim=True) / 6)).clamp(-126, 126)
    x = rows / 2.0 ** scales
    codes = (x.abs()[..., None] - FP4).abs().argmin(-1)
    values = FP4[codes] * torch.where(x < 0, -1.0, 1.0)
    codes = codes + 8 * (x < 0)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    return blocks, (scales[..., 0] + 127).to(torch.uint8), (values * 2.0 ** scales).flatten(-2).transpose(1, 2)


def save_weights(model, folder, dtype, flags):
    """Rounds the model's parameters to what the files hold."""
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if p.is_floating_point() and "inv_freq" not in name:
                p.copy_(p.to(dtype).float())
    path = os.path.join(folder, "model.safetensors")
    tied = model.config.tie_word_embeddings
    if flags.get("fused") or flags.get("mxfp4"):
        tensors = {n: p.detach().clone() for n, p in model.state_dict().items() if not (tied and n == "lm_head.weight")}
    else:
        model.save_pretrained(folder)
        tensors = load_file(path)
    blocks = {}
    for name in [n for n in tensors if flags.get("mxfp4") and n.endswith(("gate_up_proj", "down_proj"))]:
        w = model.get_parameter(name)
        blocks[name + "_blocks"], blocks[name + "_scales"], values = to_mxfp4(w.detach())
        with torch.no_grad():
            w.copy_(values)
        del tensors[name]
    tensors = {n: t if "e_score_correction" in n else t.to(dtype) for n, t in tensors.items()}
    save_file({n: t.contiguous() for n, t in {**tensors, **blocks}.items()}, path, metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for i, (name, (family, dtype, overrides, flags)) in enumerate(VARIANTS.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        dtype = getattr(torch, dtype)
        model = build(family, overrides, 2000 + i, flags.get("loud"))
        save_weights(model, folder, dtype, flags)
        model.config.dtype = dtype
        model.config.architectures = [family + "ForCausalLM"]
        if flags.get("mxfp4"):
            model.config.quantization_config = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
                                                "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
        model.config.save_pretrained(folder)
        if os.path.exists(os.path.join(folder, "generation_config.json")):  # save_pretrained's; nothing is in it
            os.remove(os.path.join(folder, "generation_config.json"))
        tokenizer().save(os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}, f)
        golden(model, folder)
        print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), flush=True)


if __name__ == "__main__":
    main()
