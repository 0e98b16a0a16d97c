"""Makes the models of test/golden/models/ that come from families beyond Llama, Mistral and Qwen, and the kinds of RoPE: tiny random ones, with
what transformers computes for them.  Usage: make_golden_families.py [NAME ...]       (versions in requirements.txt; format: make_golden.py)

Weights are BF16, so that folders stay small, and the reference computes in float32 on the rounded weights. What a family multiplies its
embeddings with is rounded to the type of the weights, as transformers does when it loads such a folder.
The parts that mutation tests switch off (debug.disable) are made to matter: caps are near the values they cap, multipliers far from one.
"""
import json
import os
import sys

import torch
import transformers

from make_golden import HERE, VOCAB, golden, save_weights, tokenizer

BASE = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, pad_token_id=None)
NO_HEAD_DIM = {"Phi3", "Granite", "GraniteMoeHybrid", "Olmo2", "Olmo3", "SmolLM3"}  # hidden_size / num_attention_heads
TWO_HEADS = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1)
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA3 = dict(num_hidden_layers=3, layer_types=[SLIDING, SLIDING, FULL], sliding_window=40, query_pre_attn_scalar=11,
              rope_parameters={FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                               SLIDING: {"rope_type": "default", "rope_theta": 100.0}})
GEMMA4 = dict(num_hidden_layers=4, layer_types=[SLIDING, FULL, SLIDING, FULL], sliding_window=40, global_head_dim=32,
              hidden_size_per_layer_input=0)
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5], "long_factor": [1.0, 1.5, 2.5, 4.0, 8.0, 8.0]}
MINISTRAL = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 16.0, "original_max_position_embeddings": 64, "beta_fast": 32.0,
             "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}

# name: (class, changes to BASE)
VARIANTS = {
    "gemma2": ("Gemma2", dict(sliding_window=40, query_pre_attn_scalar=11, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    # What a GGUF file can say: scores by the root of head_dim, a root of hidden_size that BF16 holds.
    "gemma2_plain": ("Gemma2", dict(hidden_size=16, query_pre_attn_scalar=16, num_key_value_heads=4, attn_logit_softcapping=None,
                                    final_logit_softcapping=None, sliding_window=200)),
    "gemma3": ("Gemma3", GEMMA3),
    "gemma3_global": ("Gemma3", dict(hidden_size=16, query_pre_attn_scalar=16, num_hidden_layers=1, num_key_value_heads=1,
                                     layer_types=[FULL], final_logit_softcapping=3.0)),
    "gemma3_hub": ("Gemma3", dict(num_hidden_layers=3, sliding_window=20, num_key_value_heads=1)),
    "gemma4": ("Gemma4", dict(GEMMA4, attention_k_eq_v=True, num_global_key_value_heads=1, final_logit_softcapping=4.0)),
    "gemma4_e": ("Gemma4", dict(GEMMA4, num_hidden_layers=6, layer_types=[SLIDING, FULL] * 3, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCAB, num_kv_shared_layers=2,
                                use_double_wide_mlp=True, num_key_value_heads=1)),
    "gemma4_moe": ("Gemma4", dict(GEMMA4, num_hidden_layers=2, layer_types=[SLIDING, FULL], enable_moe_block=True, num_experts=5,
                                  top_k_experts=2, moe_intermediate_size=16, attention_k_eq_v=True, num_global_key_value_heads=2)),
    "gemma4_hub": ("Gemma4", dict(GEMMA4, num_hidden_layers=2, layer_types=[SLIDING, FULL], attention_k_eq_v=True, num_global_key_value_heads=1)),
    "phi3": ("Phi3", dict(TWO_HEADS, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    "phi3_longrope": ("Phi3", dict(hidden_size=64, intermediate_size=48, max_position_embeddings=4096, num_key_value_heads=1,
                                   original_max_position_embeddings=512, rope_parameters=LONGROPE, tie_word_embeddings=True)),
    "phi3_window": ("Phi3", dict(TWO_HEADS, num_key_value_heads=2, sliding_window=40,
                                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})),
    "smollm3": ("SmolLM3", dict(TWO_HEADS, num_hidden_layers=4)),
    "smollm3_untied": ("SmolLM3", dict(TWO_HEADS, num_hidden_layers=2, no_rope_layers=[0, 1], num_key_value_heads=2,
                                       attention_bias=True, mlp_bias=True, tie_word_embeddings=False)),
    "granite": ("Granite", dict(TWO_HEADS, embedding_multiplier=6.0, attention_multiplier=0.6, residual_multiplier=0.4,
                                logits_scaling=3.0, tie_word_embeddings=True)),
    "granite_bias": ("Granite", dict(TWO_HEADS, embedding_multiplier=2.5, attention_multiplier=0.3,
                                     residual_multiplier=1.5, logits_scaling=0.5, attention_bias=True, mlp_bias=True)),
    "granite4": ("GraniteMoeHybrid", dict(TWO_HEADS, layer_types=[FULL] * 2, num_local_experts=0, shared_intermediate_size=40, mamba_n_heads=2,
                                          position_embedding_type="rope", embedding_multiplier=6.0, attention_multiplier=0.6,
                                          residual_multiplier=0.4, logits_scaling=3.0, tie_word_embeddings=True)),
    "granite4_nope": ("GraniteMoeHybrid", dict(TWO_HEADS, layer_types=[FULL] * 2, num_local_experts=0, shared_intermediate_size=40,
                                               mamba_n_heads=2, attention_multiplier=0.3, attention_bias=True)),
    "olmo2": ("Olmo2", dict(TWO_HEADS, num_key_value_heads=2)),
    "olmo2_gqa": ("Olmo2", dict(TWO_HEADS, tie_word_embeddings=True, attention_bias=True)),
    "olmo3": ("Olmo3", dict(TWO_HEADS, num_hidden_layers=4, sliding_window=40,
                            rope_parameters={FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 10000.0}})),
    "ministral3": ("Ministral3", dict(rope_parameters=MINISTRAL, max_position_embeddings=1024)),
    "ministral3_hub": ("Ministral3", dict(rope_parameters=MINISTRAL, max_position_embeddings=1024, num_key_value_heads=1,
                                          tie_word_embeddings=True)),
    "llama_gelu": ("Llama", dict(mlp_bias=True, hidden_act="gelu")),
    "llama_gelu_tanh": ("Llama", dict(hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True)),
    "llama_yarn": ("Llama", dict(rope_parameters=YARN)),
    "llama_yarn_all": ("Llama", dict(rope_parameters={**YARN, "beta_fast": 16.0, "beta_slow": 0.5, "truncate": False, "mscale": 0.7,
                                                      "mscale_all_dim": 0.4})),
    "llama_yarn_factor": ("Llama", dict(rope_parameters={**YARN, "attention_factor": 1.5}, head_dim=48)),
    "llama_dynamic": ("Llama", dict(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})),
    "llama_longrope": ("Llama", dict(rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0,
                                                      "original_max_position_embeddings": 512,
                                                      "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 2.2, 3.0], "long_factor": [4.0] * 8},
                                     max_position_embeddings=4096)),
    "llama_linear": ("Llama", dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0})),
}


def build(family, overrides, seed):
    base = {k: v for k, v in BASE.items() if k != "head_dim" or family not in NO_HEAD_DIM}
    text = "Text" if family in ("Gemma3", "Gemma4") else ""
    config = getattr(transformers, family + text + "Config")(**{**base, **overrides})
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, family + "ForCausalLM")(config).float().eval()
    plus_one = family in ("Gemma2", "Gemma3")  # gains are stored as w - 1
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n.endswith("layer_scalar")]:
            if name.endswith("layer_scalar"):
                p.copy_(0.6 + 0.4 * torch.rand_like(p))
            elif name.endswith(("router.scale", "per_expert_scale")):
                p.copy_(1 + 0.4 * torch.randn_like(p))
            elif family == "Gemma4" and "q_norm" in name:  # scores are not divided by anything
                p.copy_(0.4 + 0.1 * torch.randn_like(p))
            elif "norm" in name:
                p.copy_((0 if plus_one else 1) + 0.3 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            elif "embed_tokens" in name:
                p.copy_(0.4 * torch.randn_like(p))
            else:
                p.copy_((0.25 if config.num_hidden_layers < 4 else 0.2) * torch.randn_like(p))
    return model


def round_to(model, dtype):
    """The model as a folder of this type says it, in float32."""
    with torch.no_grad():
        for module in model.modules():
            for tensor in list(module.parameters(recurse=False)) + [module._buffers[n] for n in ("layer_scalar", "embed_scale")
                                                                    if n in module._buffers]:
                tensor.copy_(tensor.to(dtype).float())


def hub_folder(folder, name, text_config):
    """The multimodal layout of the Hub: nested text_config, keys of transformers 4, tensors behind a prefix, a tower beside them."""
    path = os.path.join(folder, "model.safetensors")
    from safetensors.torch import load_file, save_file
    before = "model.language_model." if name == "gemma4_hub" else "language_model.model."
    tensors = {n.replace("model.", before, 1) if n.startswith("model.") else "language_model." + n: t for n, t in load_file(path).items()}
    tensors["vision_tower.patch_conv.weight"] = torch.ones(2, 3)
    tensors["multi_modal_projector.linear_1.weight"] = torch.ones(4, 2)
    save_file(tensors, path, metadata={"format": "pt"})
    for key in ("architectures", "transformers_version", "layer_types"):
        text_config.pop(key, None)
    if name == "gemma3_hub":
        text_config.pop("rope_parameters")
        text_config.update(rope_theta=1000000.0, rope_local_base_freq=100.0, rope_scaling={"factor": 8.0, "rope_type": "linear"},
                           sliding_window_pattern=3)
        whole = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "mm_tokens_per_image": 256,
                 "image_token_index": 95, "boi_token_index": 93, "eoi_token_index": 94,
                 "vision_config": {"hidden_size": 2, "model_type": "siglip_vision_model"}}
    elif name == "gemma4_hub":
        text_config.pop("per_layer_config")
        text_config.update(global_head_dim=32, num_global_key_value_heads=1, layer_types=[SLIDING, FULL], use_bidirectional_attention="vision")
        whole = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "image_token_id": 95, "audio_token_id": 94,
                 "audio_config": {"hidden_size": 2, "model_type": "gemma4_audio"},
                 "vision_config": {"hidden_size": 2, "model_type": "gemma4_vision"}}
    else:
        whole = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 10,
                 "spatial_merge_size": 2, "vision_feature_layer": -1, "projector_hidden_act": "gelu", "multimodal_projector_bias": False,
                 "vision_config": {"hidden_size": 2, "model_type": "pixtral"}}
    whole.update(text_config=text_config, eos_token_id=[1], dtype="bfloat16", transformers_version="4.57.0",
                 tie_word_embeddings=text_config.get("tie_word_embeddings", False))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(whole, f, indent=2)
    # The keys as they stand there must mean the model that made the golden logits.
    kind = {"gemma3_hub": "Gemma3TextConfig", "gemma4_hub": "Gemma4TextConfig", "ministral3_hub": "Ministral3Config"}[name]
    return getattr(transformers, kind)(**text_config)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for i, (name, (family, overrides)) in enumerate(VARIANTS.items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        folder = os.path.join(HERE, name)
        os.makedirs(folder, exist_ok=True)
        if name == "gemma3_hub":
            overrides = dict(overrides, layer_types=[SLIDING, SLIDING, FULL], rope_parameters={
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 100.0}})
        model = build(family, overrides, 2000 + i)
        save_weights(model, folder, torch.bfloat16, {})
        round_to(model, torch.bfloat16)
        model.config.dtype = torch.bfloat16
        model.config.architectures = [family + "ForCausalLM"]
        model.config.save_pretrained(folder)
        tokenizer().save(os.path.join(folder, "tokenizer.json"))
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}, f)
        if name.endswith("_hub"):
            with open(os.path.join(folder, "config.json")) as f:
                again = hub_folder(folder, name, json.load(f))
            for key in ("rope_parameters", "layer_types", "sliding_window", "tie_word_embeddings") + (("num_key_value_heads",) if name != "gemma4_hub" else ()):
                if getattr(again, key, None) != getattr(model.config, key, None):
                    raise SystemExit(f"{name}: {key} is {getattr(again, key, None)}, need {getattr(model.config, key, None)}")
            if name == "gemma4_hub" and [again.per_layer_config[k].head_dim for k in range(2)] != [16, 32]:
                raise SystemExit(f"{name}: heads of {again.per_layer_config}")
        golden(model, folder)
        print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), flush=True)


if __name__ == "__main__":
    main()
