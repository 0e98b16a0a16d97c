/* families.c - the table of families.h. */
#include "families.h"
#include <stddef.h>
#include <string.h>

static const kvi_family families[] = {
    {"LlamaForCausalLM", "llama", .o_bias_follows = true},
    {"MistralForCausalLM", "mistral", .window_by_default = true},
    {"Qwen2ForCausalLM", "qwen2", .qkv_bias = true, .has_use_window = true},
    {"Qwen3ForCausalLM", "qwen3", .o_bias_follows = true, .qk_norm = true, .has_use_window = true},
};

const kvi_family *kvi_family_find(const char *architecture)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].architecture, architecture) == 0) return &families[i];
    return NULL;
}

const char *kvi_family_list(void) { return "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"; }
