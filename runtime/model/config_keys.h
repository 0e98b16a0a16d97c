/* config_keys.h - made by test/golden/make_config_keys.py from transformers 5.24.0; change that, not this.
 * Keys of config.json and their defaults as JSON text: one for all columns, or one for each, a tab between them; empty: the family does not
 * know the key. */
/* clang-format off */
static const char *const config_columns[] = {"llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "qwen3_next",
    "qwen3_moe",
    "mixtral",
    "gpt_oss",
    "glm4_moe",
    "glm4_moe_lite",
    "deepseek_v2",
    "deepseek_v3",
    "granitemoe",
    "olmoe",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "phi3",
    "smollm3",
    "granite",
    "olmo2",
    "olmo3",
    "ministral3",
    "ministral",
    "qwen2_moe",
    "granitemoeshared",
    "granitemoehybrid"};
static const config_key config_keys[] = {
    {"_attn_implementation", KEY_HARMLESS, "null"},
    {"_attn_implementation_autoset", KEY_HARMLESS, "null"},
    {"_attn_implementation_internal", KEY_HARMLESS, "null"},
    {"_commit_hash", KEY_HARMLESS, "null"},
    {"_experts_implementation", KEY_HARMLESS, "null"},
    {"_experts_implementation_internal", KEY_HARMLESS, "null"},
    {"_flash_attn_2_enabled", KEY_HARMLESS, "null"},
    {"_from_model_config", KEY_HARMLESS, "null"},
    {"_name_or_path", KEY_HARMLESS, "null"},
    {"_rope_type_labels", KEY_DEFAULT, "null"},
    {"_sliding_window_pattern", KEY_HARMLESS, "null"},
    {"allow_global_per_layer_attribute_access", KEY_DEFAULT, "null"},
    {"architectures", KEY_READ, "null"},
    {"assistant_confidence_threshold", KEY_HARMLESS, "null"},
    {"assistant_early_exit", KEY_HARMLESS, "null"},
    {"assistant_ensemble_weight", KEY_HARMLESS, "null"},
    {"assistant_lookbehind", KEY_HARMLESS, "null"},
    {"attention_bias", KEY_READ, "false\t\t\tfalse\tfalse\tfalse\tfalse\tfalse\t\ttrue\tfalse\tfalse\tfals"
     "e\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\t\tfalse\tfalse\tfalse\tfal"
     "se\t\t\t\tfalse\tfalse"},
    {"attention_chunk_size", KEY_DEFAULT, "null"},
    {"attention_dropout", KEY_HARMLESS, "0.0"},
    {"attention_k_eq_v", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\t\t\t\t\t"},
    {"attention_multiplier", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t1.0\t\t\t\t\t\t\t1.0\t\t\t\t\t\t1.0\t1.0"},
    {"attn_implementation", KEY_HARMLESS, "null"},
    {"attn_logit_softcapping", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t50.0\tnull\t\t\t\t\t\t\t\t\t\t\t"},
    {"attn_output_gate", KEY_HARMLESS, "null"},
    {"auto_map", KEY_HARMLESS, "null"},
    {"aux_loss_alpha", KEY_HARMLESS, "null"},
    {"bad_words_ids", KEY_HARMLESS, "null"},
    {"base_model_ep_plan", KEY_HARMLESS, "null"},
    {"base_model_fsdp_plan", KEY_HARMLESS, "null"},
    {"base_model_pp_plan", KEY_HARMLESS, "null"},
    {"base_model_tp_plan", KEY_HARMLESS, "null"},
    {"begin_suppress_tokens", KEY_HARMLESS, "null"},
    {"bos_token_id", KEY_READ, "1\t1\tnull\tnull\tnull\tnull\tnull\tnull\t1\tnull\tnull\t0\t1\t0\t1\tnull\t2"
     "\t2\t2\t1\t128000\t1\tnull\tnull\t1\t1\tnull\t1\t1"},
    {"cache_config", KEY_HARMLESS, "null"},
    {"cache_implementation", KEY_HARMLESS, "null"},
    {"chunk_size_feed_forward", KEY_HARMLESS, "0"},
    {"clip_qkv", KEY_DEFAULT, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"compile_config", KEY_HARMLESS, "null"},
    {"constraints", KEY_HARMLESS, "null"},
    {"continuous_batching_config", KEY_HARMLESS, "null"},
    {"decoder", KEY_DEFAULT, "null"},
    {"decoder_sparse_step", KEY_READ, "\t\t\t\t\t\t1\t1\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t1\t\t"},
    {"decoder_start_token_id", KEY_HARMLESS, "null"},
    {"default_rope_type", KEY_DEFAULT, "\"default\""},
    {"default_theta", KEY_READ, "10000.0"},
    {"disable_compile", KEY_HARMLESS, "null"},
    {"diversity_penalty", KEY_HARMLESS, "null"},
    {"do_sample", KEY_HARMLESS, "null"},
    {"dola_layers", KEY_HARMLESS, "null"},
    {"dtype", KEY_HARMLESS, "null"},
    {"early_stopping", KEY_HARMLESS, "null"},
    {"embd_pdrop", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\t0.0\tnull\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\tnull"},
    {"embedding_multiplier", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t1.0\t\t\t\t\t\t\t1.0\t\t\t\t\t\t1.0\t1.0"},
    {"enable_moe_block", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\t\t\t\t\t"},
    {"encoder_no_repeat_ngram_size", KEY_HARMLESS, "null"},
    {"encoder_repetition_penalty", KEY_HARMLESS, "null"},
    {"eos_token_id", KEY_READ, "2\t2\tnull\tnull\tnull\tnull\tnull\tnull\t2\tnull\tnull\t1\t2\t1\t2\t50279\t"
     "1\t1\t1\t32000\t128001\t2\t50279\t50279\t2\t2\tnull\t2\t2"},
    {"ep_size", KEY_HARMLESS, "null"},
    {"epsilon_cutoff", KEY_HARMLESS, "null"},
    {"eta_cutoff", KEY_HARMLESS, "null"},
    {"experts_implementation", KEY_HARMLESS, "null"},
    {"exponential_decay_length_penalty", KEY_HARMLESS, "null"},
    {"final_logit_softcapping", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t30.0\tnull\tnull\t\t\t\t\t\t\t\t\t\t"},
    {"first_k_dense_replace", KEY_READ, "\t\t\t\t\t\t\t\t\t\t1\t\t0\t3\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"force_words_ids", KEY_HARMLESS, "null"},
    {"forced_bos_token_id", KEY_HARMLESS, "null"},
    {"forced_eos_token_id", KEY_HARMLESS, "null"},
    {"full_attention_interval", KEY_READ, "\t\t\t\t4\t4\t4\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"fusion_config", KEY_DEFAULT, "null"},
    {"generator", KEY_DEFAULT, "null"},
    {"gguf_file", KEY_DEFAULT, "null"},
    {"global_head_dim", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t512\t\t\t\t\t\t\t\t\t\t"},
    {"gradient_checkpointing", KEY_HARMLESS, "null"},
    {"guidance_scale", KEY_HARMLESS, "null"},
    {"head_dim", KEY_READ, "null\tnull\tnull\t128\t256\t256\t256\tnull\tnull\t64\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\t256\t256\t256\tnull\tnull\tnull\tnull\tnull\t128\tnull\t"
     "null\tnull\tnull"},
    {"hidden_act", KEY_READ, "\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"sil"
     "u\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\t\t\t\"silu"
     "\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"silu\"\t\"s"
     "ilu\""},
    {"hidden_activation", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\"gelu_pytorch_tanh\"\t\"gelu_pytorch_tanh\"\t\"gel"
     "u_pytorch_tanh\"\t\t\t\t\t\t\t\t\t\t"},
    {"hidden_size", KEY_READ, "4096\t4096\t4096\t4096\t4096\t2048\t2048\t2048\t4096\t2880\t4096\t2048\t"
     "4096\t7168\t4096\t2048\t2304\t2304\t2304\t3072\t2048\t4096\t4096\t4096\t"
     "4096\t4096\t2048\t4096\t4096"},
    {"hidden_size_per_layer_input", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t256\t\t\t\t\t\t\t\t\t\t"},
    {"id2label", KEY_HARMLESS, "null"},
    {"ignore_keys_at_rope_validation", KEY_DEFAULT, "null"},
    {"initializer_range", KEY_HARMLESS, "0.02"},
    {"intermediate_size", KEY_READ, "11008\t14336\t22016\t22016\t12288\tnull\t5632\t6144\t14336\t2880\t1094"
     "4\t10240\t11008\t18432\t11008\t2048\t9216\t9216\t9216\t8192\t11008\t110"
     "08\t11008\t11008\t14336\t14336\t5632\t11008\t11008"},
    {"is_assistant", KEY_HARMLESS, "null"},
    {"is_causal", KEY_DEFAULT, "true"},
    {"is_encoder_decoder", KEY_DEFAULT, "false"},
    {"is_llama_config", KEY_HARMLESS, "null"},
    {"kv_lora_rank", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t512\t512\t512\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"kv_sharing_modes", KEY_DEFAULT, "null"},
    {"label2id", KEY_HARMLESS, "null"},
    {"layer_types", KEY_READ, "null"},
    {"layers_block_type", KEY_DEFAULT, "null"},
    {"length_penalty", KEY_HARMLESS, "null"},
    {"linear_conv_kernel_dim", KEY_READ, "\t\t\t\t4\t4\t4\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"linear_key_head_dim", KEY_READ, "\t\t\t\t128\t128\t128\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"linear_num_key_heads", KEY_READ, "\t\t\t\t16\t16\t16\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"linear_num_value_heads", KEY_READ, "\t\t\t\t32\t32\t32\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"linear_value_head_dim", KEY_READ, "\t\t\t\t128\t128\t128\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"logits_scaling", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t1.0\t\t\t\t\t\t\t1.0\t\t\t\t\t\t1.0\t1.0"},
    {"low_memory", KEY_HARMLESS, "null"},
    {"mamba_chunk_size", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t256"},
    {"mamba_conv_bias", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\ttrue"},
    {"mamba_d_conv", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t4"},
    {"mamba_d_head", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t\"auto\""},
    {"mamba_d_state", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t256"},
    {"mamba_expand", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t2"},
    {"mamba_n_groups", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t1"},
    {"mamba_n_heads", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\t128"},
    {"mamba_proj_bias", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tfalse"},
    {"mamba_ssm_dtype", KEY_HARMLESS, "null"},
    {"max_cache_len", KEY_HARMLESS, "null"},
    {"max_length", KEY_HARMLESS, "null"},
    {"max_matching_ngram_size", KEY_HARMLESS, "null"},
    {"max_new_tokens", KEY_HARMLESS, "null"},
    {"max_position_embeddings", KEY_READ, "2048\t131072\t32768\t32768\t32768\t32768\t32768\t32768\t131072\t13107"
     "2\t131072\t202752\t2048\t4096\t2048\t4096\t8192\t131072\t131072\t4096\t"
     "32768\t2048\t2048\t2048\t262144\t131072\t32768\t2048\t2048"},
    {"max_time", KEY_HARMLESS, "null"},
    {"max_window_layers", KEY_READ, "\t\t28\t28\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t28\t\t"},
    {"min_length", KEY_HARMLESS, "null"},
    {"min_new_tokens", KEY_HARMLESS, "null"},
    {"min_p", KEY_HARMLESS, "null"},
    {"mlp_bias", KEY_READ, "false\t\t\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\t\t\tfalse\tfalse\t\t\t\t\t\t\t"},
    {"mlp_layer_types", KEY_READ, "null"},
    {"mlp_only_layers", KEY_READ, "\t\t\t\tnull\t\tnull\tnull\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t"},
    {"model_type", KEY_READ, "null"},
    {"moe_intermediate_size", KEY_READ, "null\tnull\tnull\tnull\tnull\t512\t512\t768\tnull\tnull\t1408\t1536\t140"
     "7\t2048\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnul"
     "l\tnull\t1408\tnull\tnull"},
    {"moe_layer_freq", KEY_HARMLESS, "null"},
    {"mtp_layer_types", KEY_DEFAULT, "null"},
    {"mtp_num_hidden_layers", KEY_READ, "\t\t\t\tnull\tnull\tnull\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"mtp_use_dedicated_embeddings", KEY_HARMLESS, "null"},
    {"n_group", KEY_READ, "\t\t\t\t\t\t\t\t\t\t1\t1\tnull\t8\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"n_routed_experts", KEY_READ, "\t\t\t\t\t\t\t\t\t\t128\t64\t64\t256\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"n_shared_experts", KEY_READ, "\t\t\t\t\t\t\t\t\t\t1\t1\t2\t1\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"name_or_path", KEY_HARMLESS, "null"},
    {"no_repeat_ngram_size", KEY_HARMLESS, "null"},
    {"no_rope_layer_interval", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t4\t\t\t\t\t\t\t\t"},
    {"no_rope_layers", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t\t\t\t\t\t\t"},
    {"norm_topk_prob", KEY_READ, "\t\t\t\t\t\ttrue\tfalse\t\t\ttrue\ttrue\tfalse\ttrue\t\tfalse\t\t\t\t\t\t\t\t\t\t\tfal"
     "se\t\t"},
    {"num_assistant_tokens", KEY_HARMLESS, "null"},
    {"num_assistant_tokens_schedule", KEY_HARMLESS, "null"},
    {"num_attention_heads", KEY_READ, "32\t32\t32\t32\t16\t16\t16\t32\t32\t64\t96\t20\t32\t128\t32\t16\t8\t8\t8\t32\t16"
     "\t32\t32\t32\t32\t32\t16\t32\t32"},
    {"num_beam_groups", KEY_HARMLESS, "null"},
    {"num_beams", KEY_HARMLESS, "null"},
    {"num_experts", KEY_READ, "null\tnull\tnull\tnull\tnull\t256\t512\t128\tnull\tnull\tnull\tnull\tnul"
     "l\tnull\tnull\t64\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\t60\tnull\tnull"},
    {"num_experts_per_tok", KEY_READ, "\t\t\t\t\t8\t10\t8\t2\t4\t8\t4\tnull\t8\t2\t8\t\t\t\t\t\t\t\t\t\t\t4\t2\t2"},
    {"num_global_key_value_heads", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t\t\t\t\t\t\t\t\t"},
    {"num_heads", KEY_DEFAULT, "null"},
    {"num_hidden_layers", KEY_READ, "32\t32\t32\t32\t32\t40\t48\t24\t32\t36\t46\t47\t32\t61\t32\t16\t26\t26\t30\t32\t"
     "36\t32\t32\t32\t34\t32\t24\t32\t32"},
    {"num_key_value_heads", KEY_READ, "null\t8\t32\t32\t4\t2\t2\t4\t8\t8\t8\t20\tnull\t128\tnull\tnull\t4\t4\t4\tnull\t"
     "4\tnull\tnull\tnull\t8\t8\t16\tnull\tnull"},
    {"num_kv_shared_layers", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t0\t\t\t\t\t\t\t\t\t\t"},
    {"num_labels", KEY_HARMLESS, "null"},
    {"num_local_experts", KEY_READ, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t8\t128\tnull\tnull\tnull"
     "\tnull\t8\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnu"
     "ll\tnull\t8\t8"},
    {"num_mtp_layers", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t1\tnull\tnul"
     "l\t1\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull"},
    {"num_nextn_predict_layers", KEY_HARMLESS, "null"},
    {"num_return_sequences", KEY_HARMLESS, "null"},
    {"number_of_conv_states", KEY_DEFAULT, "null"},
    {"original_max_position_embeddings", KEY_READ, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\t4096\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull"},
    {"output_attentions", KEY_HARMLESS, "null"},
    {"output_hidden_states", KEY_HARMLESS, "false"},
    {"output_logits", KEY_HARMLESS, "null"},
    {"output_router_logits", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse"
     "\tfalse\tfalse\tfalse\tfalse\tfalse\tnull\tnull\tnull\tnull\tnull\tnull"
     "\tnull\tnull\tnull\tnull\tfalse\tfalse\tfalse"},
    {"output_scores", KEY_HARMLESS, "null"},
    {"pad_token_id", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\t1\t0\t0\t0\t32000\t128004\tnull\t1\t1\t11\tnull\tnull\tnu"
     "ll\tnull"},
    {"partial_rotary_factor", KEY_READ, "null\tnull\tnull\tnull\t0.25\t0.25\t0.25\tnull\tnull\tnull\t0.5\tnull\tn"
     "ull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\tnull"},
    {"penalty_alpha", KEY_HARMLESS, "null"},
    {"per_layer_attributes", KEY_DEFAULT, "null"},
    {"per_layer_config", KEY_READ, "null"},
    {"position_embedding_type", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull"},
    {"prefill_chunk_size", KEY_HARMLESS, "null"},
    {"pretraining_tp", KEY_HARMLESS, "1\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t1\t1\t1\tnu"
     "ll\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnu"
     "ll\tnull\tnull"},
    {"problem_type", KEY_HARMLESS, "null"},
    {"prompt_lookup_num_tokens", KEY_HARMLESS, "null"},
    {"q_lora_rank", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t768\t1536\t1536\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"qk_head_dim", KEY_HARMLESS, "null"},
    {"qk_nope_head_dim", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t192\t128\t128\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"qk_rope_head_dim", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t64\t64\t64\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"qkv_bias", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\ttrue\t\t"},
    {"quantization_config", KEY_READ, "null"},
    {"query_pre_attn_scalar", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t256\t256\t\t\t\t\t\t\t\t\t\t\t"},
    {"remove_invalid_values", KEY_HARMLESS, "null"},
    {"renormalize_logits", KEY_HARMLESS, "null"},
    {"repetition_penalty", KEY_HARMLESS, "null"},
    {"resid_pdrop", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t"
     "null\tnull\tnull\tnull\tnull\tnull\tnull\t0.0\tnull\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\tnull"},
    {"residual_multiplier", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t1.0\t\t\t\t\t\t\t1.0\t\t\t\t\t\t1.0\t1.0"},
    {"return_dict", KEY_HARMLESS, "true"},
    {"return_dict_in_generate", KEY_HARMLESS, "null"},
    {"rms_norm_eps", KEY_READ, "1e-06\t1e-06\t1e-06\t1e-06\t1e-06\t1e-06\t1e-06\t1e-06\t1e-05\t1e-05\t"
     "1e-05\t1e-05\t1e-06\t1e-06\t1e-06\t1e-05\t1e-06\t1e-06\t1e-06\t1e-05\t"
     "1e-06\t1e-06\t1e-05\t1e-05\t1e-05\t1e-06\t1e-06\t1e-06\t1e-06"},
    {"rope_interleave", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\ttrue\t\ttrue\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"rope_local_base_freq", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t\t\t\t\t\t\t\t\t\t"},
    {"rope_parameters", KEY_READ, "null"},
    {"rope_scaling", KEY_READ, "null"},
    {"rope_theta", KEY_READ, "null"},
    {"routed_scaling_factor", KEY_READ, "\t\t\t\t\t\t\t\t\t\t1.0\t1.8\t1.0\t2.5\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"router_aux_loss_coef", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\t0.001\t0.001\t0.001\t0.001\t0.001\tnull\t"
     "null\tnull\tnull\t0.001\t0.01\tnull\tnull\tnull\tnull\tnull\tnull\tnull"
     "\tnull\tnull\tnull\t0.001\t0.001\t0.001"},
    {"router_jitter_noise", KEY_HARMLESS, "null\tnull\tnull\tnull\tnull\tnull\tnull\tnull\t0.0\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\tnull"},
    {"scoring_func", KEY_HARMLESS, "null"},
    {"seq_aux", KEY_HARMLESS, "null"},
    {"sequence_bias", KEY_HARMLESS, "null"},
    {"serialize_explicit_per_layer_config", KEY_DEFAULT, "null"},
    {"shared_expert_intermediate_size", KEY_READ, "\t\t\t\t\t512\t512\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t5632\t\t"},
    {"shared_intermediate_size", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t0\t1024"},
    {"sliding_window", KEY_READ, "null\t4096\t4096\t4096\tnull\tnull\tnull\t4096\tnull\t128\tnull\tnull\tn"
     "ull\tnull\tnull\tnull\t4096\t4096\t512\tnull\tnull\tnull\tnull\t4096\tnu"
     "ll\t4096\t4096\tnull\tnull"},
    {"sliding_window_pattern", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t6\t\t\t\t\t\t\t\t\t\t\t"},
    {"speculation_type", KEY_HARMLESS, "null"},
    {"stop_strings", KEY_HARMLESS, "null"},
    {"suppress_tokens", KEY_HARMLESS, "null"},
    {"swiglu_alpha", KEY_DEFAULT, "\t\t\t\t\t\t\t\t\t1.702\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"swiglu_limit", KEY_READ, "\t\t\t\t\t\t\t\t\t7.0\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"target_lookbehind", KEY_HARMLESS, "null"},
    {"temperature", KEY_HARMLESS, "null"},
    {"text_config", KEY_DEFAULT, "null"},
    {"tie_word_embeddings", KEY_READ, "false\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\t"
     "false\tfalse\tfalse\tfalse\tfalse\tfalse\ttrue\ttrue\ttrue\tfalse\ttru"
     "e\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse\tfalse"},
    {"time_step_limit", KEY_HARMLESS, "null"},
    {"token_healing", KEY_HARMLESS, "null"},
    {"top_h", KEY_HARMLESS, "null"},
    {"top_k", KEY_HARMLESS, "null"},
    {"top_k_experts", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\t\t\t\t\t\t\t\t\t\t"},
    {"top_p", KEY_HARMLESS, "null"},
    {"topk_group", KEY_READ, "\t\t\t\t\t\t\t\t\t\t1\t1\tnull\t4\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"topk_method", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\tnull\t\"greedy\"\tnull\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"torch_dtype", KEY_HARMLESS, "null"},
    {"transformers.js_config", KEY_HARMLESS, "null"},
    {"transformers_version", KEY_HARMLESS, "null"},
    {"transformers_weights", KEY_DEFAULT, "null"},
    {"typical_p", KEY_HARMLESS, "null"},
    {"unsloth_fixed", KEY_HARMLESS, "null"},
    {"unsloth_version", KEY_HARMLESS, "null"},
    {"use_bidirectional_attention", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tnull\tfalse\tnull\t\t\t\t\t\t\t\t\t\t"},
    {"use_cache", KEY_HARMLESS, "true"},
    {"use_double_wide_mlp", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\t\t\t\t\t"},
    {"use_mtp", KEY_HARMLESS, "null"},
    {"use_qk_norm", KEY_READ, "\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"use_sliding_window", KEY_READ, "\t\tfalse\tfalse\t\t\t\tfalse\t\t\t\t\t\t\t\t\t\t\t\t\tfalse\t\t\t\t\t\tfalse\t\t"},
    {"v_head_dim", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t256\t128\t128\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t"},
    {"vision_aspect_ratio", KEY_HARMLESS, "null"},
    {"vision_feature_layer", KEY_HARMLESS, "null"},
    {"vision_feature_select_strategy", KEY_HARMLESS, "null"},
    {"vocab_size", KEY_READ, "32000\t32000\t151936\t151936\t248320\t248320\t151936\t151936\t32000\t"
     "201088\t151552\t154880\t102400\t129280\t32000\t50304\t256000\t262208"
     "\t262144\t32064\t128256\t32000\t50304\t50304\t131072\t32000\t151936\t3"
     "2000\t32000"},
    {"vocab_size_per_layer_input", KEY_READ, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t262144\t\t\t\t\t\t\t\t\t\t"},
    {"watermarking_config", KEY_HARMLESS, "null"},
};
/* clang-format on */
