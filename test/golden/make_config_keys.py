"""Makes runtime/model/config_keys.h: every key of config.json that transformers knows for the families of kvrt, its default in each family,
and what kvrt does with it.  Usage: make_config_keys.py          (versions in requirements.txt)

transformers is asked, not read: the fields of the config classes and their defaults, and every attribute of a config that it reads while
a tiny model is loaded, run and made to generate. A key of that list is one of
    KEY_READ      config.c computes with it (READ below)
    KEY_HARMLESS  it changes no logit (HARMLESS below, with the reason)
    KEY_DEFAULT   all others: refused by name unless the value is the default
so that a key which a later transformers adds is refused until someone has looked at it.
"""
import dataclasses
import json
import os
import tempfile

import torch
import transformers
from transformers import GenerationConfig

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../runtime/model/config_keys.h")
# Config classes without their "Config"; those that are a text_config inside another end in "Text". Also families that kvrt does not run yet.
FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3_5Text", "Qwen3_5MoeText", "Qwen3Next", "Qwen3Moe", "Mixtral", "GptOss", "Glm4Moe",
            "Glm4MoeLite", "DeepseekV2", "DeepseekV3", "GraniteMoe", "Olmoe", "Gemma2", "Gemma3Text", "Gemma4Text", "Phi3", "SmolLM3",
            "Granite", "Olmo2", "Olmo3", "Ministral3", "Ministral", "Qwen2Moe", "GraniteMoeShared", "GraniteMoeHybrid"]
TINY = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, max_position_embeddings=64, pad_token_id=0)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
DELTA = dict(linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
             layer_types=["linear_attention", "full_attention"])
LATENT = dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=2,
              n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1)
TINY_OF = {
    "Qwen3_5Text": DELTA, "Qwen3_5MoeText": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "Qwen3Next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16}, "Qwen3Moe": EXPERTS, "Olmoe": EXPERTS,
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "GraniteMoeShared": dict(num_local_experts=4, shared_intermediate_size=16),
    "Mixtral": dict(num_local_experts=4), "GraniteMoe": dict(num_local_experts=4), "GptOss": dict(num_local_experts=4),
    "GraniteMoeHybrid": dict(num_local_experts=0, layer_types=["full_attention"] * 2, shared_intermediate_size=16, mamba_n_heads=2),
    "Glm4Moe": dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1),
    "Glm4MoeLite": LATENT, "DeepseekV2": {**LATENT, "first_k_dense_replace": 1, "head_dim": 8},
    "DeepseekV3": {**LATENT, "n_group": 2, "first_k_dense_replace": 1, "head_dim": 8},
    "Gemma4Text": dict(hidden_size_per_layer_input=8, vocab_size_per_layer_input=32, num_kv_shared_layers=0, global_head_dim=8),
}

READ = {"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "rope_scaling",
        "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias",
        "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "bos_token_id", "eos_token_id", "quantization_config",
        "default_theta", "full_attention_interval", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
        "linear_value_head_dim", "linear_conv_kernel_dim", "mtp_num_hidden_layers", "hidden_activation", "sliding_window_pattern", "rope_local_base_freq",
        "no_rope_layers", "no_rope_layer_interval", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling", "use_bidirectional_attention",
        "per_layer_config", "global_head_dim", "num_global_key_value_heads", "num_kv_shared_layers", "hidden_size_per_layer_input",
        "vocab_size_per_layer_input", "attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp", "top_k_experts", "position_embedding_type",
        # experts and latent attention
        "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
        "shared_expert_intermediate_size", "shared_intermediate_size", "n_shared_experts", "n_group", "topk_group", "topk_method",
        "first_k_dense_replace", "decoder_sparse_step", "mlp_only_layers", "mlp_layer_types", "norm_topk_prob", "routed_scaling_factor",
        "qkv_bias", "use_qk_norm", "swiglu_limit", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim",
        "rope_interleave"}
HARMLESS = {
    "output_router_logits", "router_aux_loss_coef", "router_jitter_noise",  # of training
    "qk_head_dim",  # the sum of qk_nope_head_dim and qk_rope_head_dim, which counts
    "scoring_func", "aux_loss_alpha", "seq_aux", "moe_layer_freq", "ep_size",  # of DeepSeek's own code; transformers ignores them
    "num_mtp_layers", "num_nextn_predict_layers",  # layers that predict further tokens and no logit of this one
    # about training, or about Python objects
    "initializer_range", "attention_dropout", "resid_pdrop", "embd_pdrop", "gradient_checkpointing", "problem_type", "id2label", "label2id", "num_labels", "return_dict",
    "output_attentions", "output_hidden_states", "use_cache", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash",
    "auto_map",  # code of the repository's own, which transformers does not run for the families it has
    # where and in which type to compute; kvrt computes in the type of the weights
    "dtype", "torch_dtype", "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "base_model_tp_plan", "base_model_pp_plan",
    "base_model_ep_plan", "base_model_fsdp_plan", "pretraining_tp",
    # read by no code of these families
    "attn_output_gate", "mamba_ssm_dtype", "mtp_use_dedicated_embeddings",
    # of Mamba layers alone, which are refused
    "mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_head", "mamba_d_conv", "mamba_expand", "mamba_chunk_size", "mamba_conv_bias",
    "mamba_proj_bias", "time_step_limit", "output_router_logits", "router_aux_loss_coef",
    "_sliding_window_pattern",  # what layer_types were made of
    "chunk_size_feed_forward", "pad_token_id", "vision_aspect_ratio", "vision_feature_layer", "vision_feature_select_strategy",
    # what people's tools write
    "unsloth_fixed", "unsloth_version", "transformers.js_config", "is_llama_config", "_flash_attn_2_enabled",
}
# Keys that a config class takes from its arguments without a field, with the default there; and keys of published files that transformers ignores.
QWEN3_5 = {"full_attention_interval": 4, "partial_rotary_factor": 0.25, "attn_output_gate": None, "mamba_ssm_dtype": None,
           "mtp_use_dedicated_embeddings": None, "mtp_num_hidden_layers": None}
ARGUMENTS = {"Qwen3_5Text": {**QWEN3_5, "mlp_only_layers": None}, "Qwen3_5MoeText": QWEN3_5, "Qwen3Next": QWEN3_5,
             "Glm4Moe": {"partial_rotary_factor": 0.5}, "DeepseekV3": {"topk_method": None}, "Glm4MoeLite": {"topk_method": None}}
# What a key of getattr(config, KEY, VALUE) means when it is absent, where that is not None.
ABSENT_MEANS = {"is_causal": True}
INTERNAL = {"_heterogeneity_spec", "_output_attentions", "_post_init_done", "is_heterogeneous", "sub_configs", "sub_configs_defaults"}
# Keys that the config classes take out before they become attributes, so that watching attributes does not show them.
TAKEN = {"rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "torch_dtype", "quantization_config",
         "per_layer_config", "model_type", "architectures", "tie_word_embeddings"}
# The same, of one class, with their defaults.
TAKEN_BY = {"Gemma3Text": {"sliding_window_pattern": 6, "rope_local_base_freq": None},
            "Gemma4Text": {"global_head_dim": 512, "num_global_key_value_heads": None}}


def watch(name):
    """Fields of the class with their defaults, and every other attribute that is read of a config in use."""
    Config, Model = getattr(transformers, name + "Config"), getattr(transformers, name.removesuffix("Text") + "ForCausalLM")
    fields = {f.name: f.default if f.default is not dataclasses.MISSING else None for f in dataclasses.fields(Config)}
    fields.update(ARGUMENTS.get(name, {}))
    seen, plain = set(), Config.__getattribute__
    with tempfile.TemporaryDirectory() as folder:
        Model(Config(**{**TINY, **TINY_OF.get(name, {})})).save_pretrained(folder)
        Config.__getattribute__ = lambda self, key: (seen.add(key), plain(self, key))[1]
        for implementation in ("eager", "sdpa") if Model._supports_sdpa else ("eager",):
            model = Model.from_pretrained(folder, attn_implementation=implementation)
            model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=3, do_sample=False)
        del Config.__getattribute__
    seen = {k for k in seen if not k.startswith("__") and not callable(getattr(Config, k, None)) and k not in INTERNAL}
    fields.update(TAKEN_BY.get(name, {}))
    return fields, {k: getattr(Config, k, ABSENT_MEANS.get(k)) for k in seen | TAKEN if k not in fields}


def text_of(value):
    """Default as JSON; what JSON cannot say (a class, a set) counts as null."""
    ids = isinstance(value, (list, tuple)) and all(isinstance(i, int) for i in value)
    return json.dumps(value) if ids or isinstance(value, (bool, int, float, str)) else "null"


def literal(text, columns=60):
    """A C string of several lines where one would be long."""
    return "\n     ".join(json.dumps(text[i:i + columns]) for i in range(0, len(text), columns)) or '""'


def main():
    transformers.logging.set_verbosity_error()
    watched = [watch(f) for f in FAMILIES]
    generation = set(vars(GenerationConfig())) | set(GenerationConfig._get_default_generation_params())
    everywhere = {k: v for _, seen in watched for k, v in seen.items()}
    everywhere.update({k: None for k in HARMLESS | generation if k not in everywhere})
    names = sorted(set(everywhere) | {k for fields, _ in watched for k in fields})
    rows = []
    for name in names:
        fate = "READ" if name in READ else "HARMLESS" if name in HARMLESS | generation else "DEFAULT"
        known = [name in fields or name in everywhere for fields, _ in watched]
        defaults = [text_of(fields.get(name, everywhere.get(name))) for fields, _ in watched]
        if name == "model_type":
            defaults = ["null"] * len(FAMILIES)
        cells = [d if k else "" for d, k in zip(defaults, known)]
        text = cells[0] if len(set(cells)) == 1 else "\t".join(cells)
        rows.append(f'    {{"{name}", KEY_{fate}, {literal(text)}}},')
    types = ",\n    ".join(json.dumps(getattr(transformers, f + "Config").model_type) for f in FAMILIES)
    with open(OUT, "w") as out:
        out.write(f"""/* config_keys.h - made by test/golden/make_config_keys.py from transformers {transformers.__version__}; change that, not this.
 * Keys of config.json and their defaults as JSON text: one for all columns, or one for each, a tab between them; empty: the family does not
 * know the key. */
/* clang-format off */
static const char *const config_columns[] = {{{types}}};
static const config_key config_keys[] = {{
""" + "\n".join(rows) + "\n};\n/* clang-format on */\n")
    print(f"{len(rows)} keys, {sum('KEY_DEFAULT' in r for r in rows)} of them refused unless default")


if __name__ == "__main__":
    main()
