/* families.c - the table of families.h. */
#include "families.h"
#include <stddef.h>
#include <string.h>

/* In the order of the columns of config_keys.h. */
static const kvi_family families[] = {
    {0, "LlamaForCausalLM", "llama", .window = KVI_WINDOW_NEVER},
    {1, "MistralForCausalLM", "mistral", .window = KVI_WINDOW_ALL},
    {2, "Qwen2ForCausalLM", "qwen2", .qkv_bias = true, .window = KVI_WINDOW_IF_USED},
    {3, "Qwen3ForCausalLM", "qwen3", .qk_norm = true, .window = KVI_WINDOW_IF_USED},
};
#define N_FAMILIES (sizeof families / sizeof families[0])

/* "LlamaForCausalLM", or "LlamaModel": the same without a head of its own. */
const kvi_family *kvi_family_find(const char *architecture)
{
    for (size_t i = 0; i < N_FAMILIES; i++) {
        size_t stem = strlen(families[i].architecture) - strlen("ForCausalLM");
        if (strcmp(families[i].architecture, architecture) == 0) return &families[i];
        if (strncmp(families[i].architecture, architecture, stem) == 0 && strcmp(architecture + stem, "Model") == 0)
            return &families[i];
    }
    return NULL;
}

const kvi_family *kvi_family_of_type(const char *model_type)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].name, model_type) == 0) return &families[i];
    return NULL;
}

const char *kvi_family_list(void) { return "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"; }
