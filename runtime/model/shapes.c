/* shapes.c - the table of shapes.h, from the models' published config.json files. */
#include "shapes.h"
#include "families.h"
#include <stdio.h>
#include <string.h>

typedef struct shape_row {
    const char *name, *family;
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab, ctx;
    double theta;
    bool tied;
    double llama3_factor; /* of the llama3 scaling of RoPE; 0: none */
} shape_row;

static const shape_row rows[] = {
    /* name            family  L  hidden  H  KV   D    ffn   vocab     ctx    theta  tied   llama3 */
    {"llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 500000, true, 32},
    {"llama-3.2-3b", "llama", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 500000, true, 32},
    {"llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 500000, false, 8},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 10000, false, 0},
    {"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1000000, false, 0},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1000000, true, 0},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, 1000000, true, 0},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1000000, false, 0},
    {"qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 128, 13824, 152064, 32768, 1000000, false, 0},
    {"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1000000, true, 0},
    {"qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, 1000000, true, 0},
    {"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, 1000000, true, 0},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1000000, false, 0},
};
#define N_ROWS (sizeof rows / sizeof rows[0])

const char *kvi_shape_name(uint32_t index) { return index < N_ROWS ? rows[index].name : NULL; }
const char *kvrt_shape_name(uint32_t index) { return kvi_shape_name(index); }

static void from_row(const shape_row *row, kvi_model_config *c)
{
    memset(c, 0, sizeof *c);
    kvi_family_apply(kvi_family_of_type(row->family), c);
    c->n_attentions = c->n_ropes = 1;
    (void)snprintf(c->architecture, sizeof c->architecture, "%s", row->name);
    c->n_layers = row->n_layers, c->hidden_size = row->hidden,
    c->attention[0] =
        (kvi_attention){.n_heads = row->n_heads, .n_kv_heads = row->n_kv_heads, .head_dim = row->head_dim};
    c->ffn_size = row->ffn, c->vocab_size = row->vocab, c->ctx_model = row->ctx;
    c->rms_eps = 1e-5, c->ropes[0].theta = row->theta, c->ropes[0].n_dims = row->head_dim,
    c->tied_embeddings = row->tied;
    c->bos_id = -1;
    if (!(row->llama3_factor > 0)) return;
    c->ropes[0].scaling = KVI_ROPE_LLAMA3;
    c->ropes[0].factor = row->llama3_factor;
    c->ropes[0].low_freq_factor = 1, c->ropes[0].high_freq_factor = 4, c->ropes[0].original_ctx = 8192;
}

kvrt_status kvi_shape_config(const char *name, kvi_model_config *out, kvrt_error *error)
{
    char known[400] = "";
    for (size_t i = 0; i < N_ROWS; i++) {
        if (strcmp(rows[i].name, name) == 0) return from_row(&rows[i], out), KVRT_OK;
        size_t len = strlen(known);
        (void)snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", rows[i].name);
    }
    return kvi_error_set(error, KVRT_ARG, "option model.shape: found '%s', need one of %s", name, known);
}
