/* test_gguf_model.c - whole models from GGUF files: the golden models written as llama.cpp writes them (its names, the rows of q and k of
 * Llama's family in its order, Llama 3's frequencies as divisors) must give transformers' logits; and what would be computed wrongly is
 * refused by name. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "golden_model.h"
#include "gguf_writer.h"
#include "../../runtime/model/checkpoint.h"
#include "../../runtime/kv/half.h"
#include "../../runtime/model/families.h"
#include "../../runtime/model/gguf_model.h"
#include "../../runtime/model/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct gguf_file {
    kvi_buf keys, infos, data;
    uint64_t n_keys, n_tensors;
} gguf_file;

static char folder[] = "/tmp/kvrt_gguf_model_XXXXXX", path[256];

/* ------------------------------------------------------------------------------------------------------ writing --- */
static void put_u32(gguf_file *f, const char *key, uint32_t value) { gguf_key_u32(&f->keys, key, value), f->n_keys++; }
static void put_f32(gguf_file *f, const char *key, double v) { gguf_key_f32(&f->keys, key, (float)v), f->n_keys++; }
static void put_text(gguf_file *f, const char *key, const char *text)
{
    gguf_key_text(&f->keys, key, text);
    f->n_keys++;
}

static void put_tensor(gguf_file *f, const char *name, uint64_t n_0, uint64_t n_1, uint32_t type, const void *bytes,
                       size_t len)
{
    gguf_pad(&f->data, 32);
    gguf_tensor(&f->infos, name, n_0, n_1, type, f->data.len);
    kvi_buf_append(&f->data, bytes, len);
    f->n_tensors++;
}

static void save(const gguf_file *f)
{
    kvi_buf all = {0};
    gguf_header(&all, 3, f->n_tensors, f->n_keys);
    kvi_buf_append(&all, f->keys.data, f->keys.len);
    if (f->infos.len) kvi_buf_append(&all, f->infos.data, f->infos.len);
    gguf_pad(&all, 32);
    if (f->data.len) kvi_buf_append(&all, f->data.data, f->data.len);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(all.data, 1, all.len, file), all.len);
    assert_int_equal(fclose(file), 0);
    kvi_buf_free(&all);
}

static void free_file(gguf_file *f)
{
    kvi_buf_free(&f->keys);
    kvi_buf_free(&f->infos);
    kvi_buf_free(&f->data);
}

static void put_config(gguf_file *f, const kvi_model_config *c, const char *arch)
{
    static const struct {
        const char *name;
        size_t offset;
    } ints[] = {{"block_count", offsetof(kvi_model_config, n_layers)},
                {"embedding_length", offsetof(kvi_model_config, hidden_size)},
                {"feed_forward_length", offsetof(kvi_model_config, ffn_size)},
                {"context_length", offsetof(kvi_model_config, ctx_model)},
                {"attention.head_count", offsetof(kvi_model_config, attention[0].n_heads)},
                {"attention.head_count_kv", offsetof(kvi_model_config, attention[0].n_kv_heads)},
                {"attention.key_length", offsetof(kvi_model_config, attention[0].head_dim)},
                {"attention.value_length", offsetof(kvi_model_config, attention[0].head_dim)}};
    char key[100];
    put_text(f, "general.architecture", arch);
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        uint32_t value;
        memcpy(&value, (const char *)c + ints[i].offset, sizeof value);
        (void)snprintf(key, sizeof key, "%s.%s", arch, ints[i].name);
        put_u32(f, key, value);
    }
    (void)snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    put_f32(f, key, c->ropes[0].theta);
    (void)snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    put_f32(f, key, c->rms_eps);
}

/* One token for every id; the golden prompts are ids. */
static void put_tokenizer(gguf_file *f, uint32_t n)
{
    put_text(f, "tokenizer.ggml.model", "gpt2");
    put_text(f, "tokenizer.ggml.pre", "gpt-2");
    gguf_key_array(&f->keys, "tokenizer.ggml.tokens", 8, n), f->n_keys++;
    for (uint32_t i = 0; i < n; i++) {
        char text[16];
        (void)snprintf(text, sizeof text, "t%u", i);
        gguf_text(&f->keys, text);
    }
    gguf_key_array(&f->keys, "tokenizer.ggml.merges", 8, 0), f->n_keys++;
    put_u32(f, "tokenizer.ggml.eos_token_id", 1);
}

/* Row of q or k in a Hugging Face file that llama.cpp puts at `row`: halves of a head become neighbours. */
static uint64_t row_from(uint64_t row, uint32_t head_dim)
{
    const uint64_t head = row / head_dim, in_head = row % head_dim;
    return head * head_dim + in_head % 2 * (head_dim / 2) + in_head / 2;
}

/* Keys of single families, as llama.cpp's converter writes them. */
static void put_special(gguf_file *f, const kvi_model_config *c, const char *arch)
{
    const kvi_rope_spec *rope = &c->ropes[0];
    const bool yarn = rope->scaling == KVI_ROPE_YARN, longrope = rope->scaling == KVI_ROPE_DIVISORS,
               granite = strcmp(arch, "granite") == 0;
    bool windowed = false;
    for (uint32_t i = 0; i < c->n_layers; i++) windowed = windowed || kvi_attention_of(c, i)->window;
    const struct {
        bool on;
        const char *name;
        uint32_t value;
    } ints[] = {{windowed, "attention.sliding_window", c->attention[1].window},
                {rope->n_dims != c->attention[0].head_dim, "rope.dimension_count", rope->n_dims},
                {yarn, "rope.scaling.original_context_length", rope->original_ctx},
                {longrope, "rope.scaling.original_context_length", c->ctx_limit},
                {c->experts.n_experts > 0, "expert_count", c->experts.n_experts},
                {c->experts.n_experts > 0, "expert_used_count", c->experts.route.top_k},
                {strcmp(arch, "qwen3moe") == 0, "expert_feed_forward_length", c->experts.width}};
    const struct {
        bool on;
        const char *name;
        double value;
    } numbers[] = {{c->score_softcap > 0, "attn_logit_softcapping", (double)c->score_softcap},
                   {c->logit_softcap > 0, "final_logit_softcapping", (double)c->logit_softcap},
                   {granite, "embedding_scale", (double)c->embedding_scale},
                   {granite, "residual_scale", (double)c->residual_scale},
                   {granite, "attention.scale", (double)c->score_scale},
                   {granite, "logit_scale", 1 / (double)c->logit_scale},
                   {yarn, "rope.scaling.factor", rope->factor},
                   {yarn && rope->magnitude == 1.0f, "rope.scaling.yarn_log_multiplier", 1},
                   {longrope, "rope.scaling.attn_factor", (double)rope->magnitude},
                   {c->q_growth > 0, "attention.temperature_scale", (double)c->q_growth}};
    char key[100];
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        (void)snprintf(key, sizeof key, "%s.%s", arch, ints[i].name);
        if (ints[i].on) put_u32(f, key, ints[i].value);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        (void)snprintf(key, sizeof key, "%s.%s", arch, numbers[i].name);
        if (numbers[i].on) put_f32(f, key, numbers[i].value);
    }
    (void)snprintf(key, sizeof key, "%s.rope.scaling.finetuned", arch);
    if (granite) gguf_key_bool(&f->keys, key, c->attention[0].rope != KVI_NO_ROPE), f->n_keys++;
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (yarn) put_text(f, key, "yarn");
    if (!longrope) return;
    put_tensor(f, "rope_factors_short.weight", rope->n_dims / 2, 0, 0, rope->divisors,
               rope->n_dims / 2 * sizeof(float));
    put_tensor(f, "rope_factors_long.weight", rope->n_dims / 2, 0, 0, rope->divisors, rope->n_dims / 2 * sizeof(float));
}

/* Gains that llama.cpp holds with the one that the family leaves out. */
static void copy_raised(gguf_file *f, const kvi_tensor *t, const char *name)
{
    float gains[128];
    assert_true(strcmp(t->dtype, "BF16") == 0 && t->shape[0] <= 128);
    for (uint64_t i = 0; i < t->shape[0]; i++) {
        uint16_t bits;
        memcpy(&bits, t->data + 2 * i, 2);
        gains[i] = 1.0f + kvi_bf16_to_f32(bits);
    }
    put_tensor(f, name, t->shape[0], 0, 0, gains, t->shape[0] * sizeof(float));
}

static void copy_tensor(gguf_file *f, const kvi_checkpoint *c, const kvi_family *family, const char *layer,
                        const char *ours, uint32_t permuted_head)
{
    char name[128], full[160], theirs[128];
    kvi_family_rename(family, ours, theirs, sizeof theirs);
    (void)snprintf(full, sizeof full, "%s%s", layer, theirs);
    const kvi_tensor *t = kvi_checkpoint_find(c, full);
    if (!t) return;
    (void)snprintf(full, sizeof full, "%s%s", layer, ours);
    assert_true(kvi_gguf_tensor_name(full, 0, name, sizeof name));
    if (family->gain_add > 0 && strstr(ours, "norm")) {
        copy_raised(f, t, name);
        return;
    }
    const uint64_t rows = t->shape[0], row_bytes = t->bytes / rows;
    uint8_t *bytes = malloc(t->bytes);
    for (uint64_t row = 0; row < rows; row++)
        memcpy(bytes + row * row_bytes, t->data + (permuted_head ? row_from(row, permuted_head) : row) * row_bytes,
               row_bytes);
    const uint32_t type = strcmp(t->dtype, "F32") == 0 ? 0 : strcmp(t->dtype, "F16") == 0 ? 1 : 30;
    put_tensor(f, name, t->n_dims == 2 ? t->shape[1] : rows, t->n_dims == 2 ? rows : 0, type, bytes, t->bytes);
    free(bytes);
}

/* One matrix of every expert, in one tensor, as llama.cpp's converter stacks them. */
static void stack_experts(gguf_file *f, const kvi_checkpoint *c, uint32_t layer, const char *matrix, uint32_t n_experts)
{
    char name[128], theirs[128];
    uint64_t dims[3] = {0, 0, n_experts};
    gguf_pad(&f->data, 32);
    const uint64_t offset = f->data.len;
    for (uint32_t e = 0; e < n_experts; e++) {
        (void)snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s.weight", layer, e, matrix);
        const kvi_tensor *t = kvi_checkpoint_find(c, name);
        assert_true(t && strcmp(t->dtype, "BF16") == 0);
        dims[0] = t->shape[1], dims[1] = t->shape[0];
        kvi_buf_append(&f->data, t->data, t->bytes);
    }
    (void)snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%s.weight", layer, matrix);
    assert_true(kvi_gguf_tensor_name(name, 0, theirs, sizeof theirs));
    gguf_tensor_3(&f->infos, theirs, dims, 30, offset);
    f->n_tensors++;
}

static void put_divisors(gguf_file *f, const kvi_model_config *c)
{
    double scaled[128], bare[128];
    float divisors[128];
    kvi_rope_spec without = c->ropes[0];
    without.scaling = KVI_ROPE_NONE;
    kvi_rope_frequencies(&c->ropes[0], scaled);
    kvi_rope_frequencies(&without, bare);
    for (uint32_t i = 0; i < c->attention[0].head_dim / 2; i++) divisors[i] = (float)(bare[i] / scaled[i]);
    put_tensor(f, "rope_freqs.weight", c->attention[0].head_dim / 2, 0, 0, divisors,
               c->attention[0].head_dim / 2 * sizeof(float));
}

/* The golden folder as a GGUF file. */
static gguf_file converted(const char *dir, const char *arch)
{
    static const char *const parts[] = {
        "input_layernorm.weight",    "self_attn.q_proj.weight", "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",   "self_attn.q_proj.bias",   "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",     "self_attn.q_norm.weight", "self_attn.k_norm.weight",
        "self_attn.o_proj.weight",   "self_attn.o_proj.bias",   "post_attention_layernorm.weight",
        "mlp.gate_proj.weight",      "mlp.up_proj.weight",      "mlp.down_proj.weight",
        "mlp.gate_proj.bias",        "mlp.up_proj.bias",        "mlp.down_proj.bias",
        "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight", "self_attn.post_norm.weight",
        "mlp.post_norm.weight",      "mlp.gate.weight"};
    static const char *const matrices[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const neighbours[] = {"llama", "smollm3", "granite", "mistral3"};
    gguf_file f = {0};
    kvi_model_config config;
    kvi_checkpoint *c;
    kvrt_error error = {.size = sizeof error};
    if (kvi_config_read(dir, &config, &error) < KVRT_OK) fail_msg("%s", error.message);
    if (kvi_checkpoint_open(dir, false, &c, &error) < KVRT_OK) fail_msg("%s", error.message);
    const kvi_family *family = kvi_family_of_type(config.family);
    bool permuted = false;
    for (size_t i = 0; i < 4; i++) permuted = permuted || strcmp(arch, neighbours[i]) == 0;
    put_config(&f, &config, arch);
    put_special(&f, &config, arch);
    put_tokenizer(&f, config.vocab_size);
    copy_tensor(&f, c, family, "", "model.embed_tokens.weight", 0);
    copy_tensor(&f, c, family, "", "model.norm.weight", 0);
    if (!config.tied_embeddings) copy_tensor(&f, c, family, "", "lm_head.weight", 0);
    for (uint32_t layer = 0; layer < config.n_layers; layer++)
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            char name[100];
            const bool q_or_k = strstr(parts[i], "q_proj") || strstr(parts[i], "k_proj");
            (void)snprintf(name, sizeof name, "model.layers.%u.", layer);
            copy_tensor(&f, c, family, name, parts[i], permuted && q_or_k ? config.attention[0].head_dim : 0);
        }
    for (uint32_t layer = 0; config.experts.n_experts && layer < config.n_layers; layer++)
        for (size_t i = 0; i < 3; i++) stack_experts(&f, c, layer, matrices[i], config.experts.n_experts);
    if (config.ropes[0].scaling == KVI_ROPE_LLAMA3) put_divisors(&f, &config);
    kvi_checkpoint_close(c);
    return f;
}

/* ------------------------------------------------------------------------------------------------------- logits --- */
static const struct {
    const char *golden, *arch;
} models[] = {{"llama_gqa2", "llama"},    {"llama_bias", "llama"},       {"llama_d80", "llama"},
              {"llama_rope3", "llama"},   {"mistral", "llama"},          {"qwen2", "qwen2"},
              {"qwen3", "qwen3"},         {"qwen3_bf16", "qwen3"},       {"llama_yarn", "llama"},
              {"gemma2_plain", "gemma2"}, {"gemma3_global", "gemma3"},   {"phi3", "phi3"},
              {"phi3_window", "phi3"},    {"phi3_longrope", "phi3"},     {"smollm3", "smollm3"},
              {"granite", "granite"},     {"granite_bias", "granite"},   {"granite4_nope", "granite"},
              {"olmo2", "olmo2"},         {"olmo2_gqa", "olmo2"},        {"olmo3", "olmo2"},
              {"ministral3", "mistral3"}, {"qwen3_moe_all", "qwen3moe"}, {"olmoe", "olmoe"}};

static void logits_are_those_of_the_folder(void **state)
{
    static const char *const ways[][5] = {{"kv.format", "f32", NULL}, {"kv.format", "f32", "model.io", "copy", NULL}};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        golden_model m;
        assert_true(golden_load(models[i].golden, &m));
        gguf_file f = converted(m.dir, models[i].arch);
        save(&f);
        free_file(&f);
        (void)snprintf(m.dir, sizeof m.dir, "%s", path);
        for (size_t way = 0; way < 2; way++) {
            kvrt_engine engine = golden_open(&m, ways[way]);
            const double error = golden_logit_error(engine, &m, NULL), most = golden_limit(&m, GOLDEN_F32_CACHE);
            if (!(error <= most)) fail_msg("%s: logit error %g, need at most %g", models[i].golden, error, most);
            kvrt_engine_close(engine, NULL);
        }
        golden_free(&m);
    }
}

/* ----------------------------------------------------------------------------------------------------- refusals --- */
enum { NOTHING, U32, F32, TEXT, BOOL, ARRAY, TENSOR };
static const struct {
    int kind;
    const char *name; /* of a key behind "llama.", or of a tensor of 8 times `value`, F32 */
    double value;
    const char *text;
    kvrt_status status;
    const char *named;
} changes[] = {
    {NOTHING, "", 0, NULL, KVRT_OK, ""},
    {U32, "rope.dimension_count", 8, NULL, KVRT_UNSUPPORTED, "rope.dimension_count is 8, need 16"},
    {U32, "expert_count", 8, NULL, KVRT_FORMAT, "llama.expert_used_count: not found"},
    {U32, "expert_count", 0, NULL, KVRT_OK, ""},
    {F32, "logit_scale", 0.5, NULL, KVRT_UNSUPPORTED, "llama.logit_scale: need 1"},
    {F32, "final_logit_softcapping", 30, NULL, KVRT_UNSUPPORTED, "llama.final_logit_softcapping: need 0"},
    {BOOL, "attention.causal", 0, NULL, KVRT_UNSUPPORTED, "llama.attention.causal: need true"},
    {BOOL, "attention.causal", 1, NULL, KVRT_OK, ""},
    {U32, "attention.sliding_window", 64, NULL, KVRT_UNSUPPORTED,
     "attention.sliding_window: is 64, need 0 or at least 512"},
    {U32, "attention.sliding_window", 512, NULL, KVRT_OK, ""},
    {U32, "attention.sliding_window", -1, "x", KVRT_FORMAT, "llama.attention.sliding_window: is string"},
    {TEXT, "rope.scaling.type", 0, "yarn", KVRT_FORMAT, "rope.scaling of yarn: factor 0"},
    {TEXT, "rope.scaling.type", 0, "longrope", KVRT_UNSUPPORTED, "is 'longrope', need none, linear or yarn"},
    {TEXT, "rope.scaling.type", 0, "none", KVRT_OK, ""},
    {F32, "rope.scale_linear", 0.5, NULL, KVRT_FORMAT, "below 1"},
    {U32, "vocab_size", 0, NULL, KVRT_FORMAT, "vocab_size: is 0"},
    {U32, "vocab_size", 97, NULL, KVRT_FORMAT, "token_embd.weight: shape [96, 48], need [97, 48]"},
    {TENSOR, "blk.0.ffn_gate.bias", 1, NULL, KVRT_UNSUPPORTED, "blk.0.ffn_gate.bias: has no place"},
    {TENSOR, "blk.2.attn_norm.weight", 1, NULL, KVRT_UNSUPPORTED, "blk.2.attn_norm.weight: has no place"},
    {TENSOR, "blk.0.attn_q_norm.weight", 1, NULL, KVRT_UNSUPPORTED, "blk.0.attn_q_norm.weight: has no place"},
    {TENSOR, "blk..attn_norm.weight", 1, NULL, KVRT_UNSUPPORTED, "has no place"},
    {TENSOR, "rope_factors_long.weight", 1, NULL, KVRT_UNSUPPORTED, "rope_factors_long.weight: has no place"},
    {TENSOR, "rope_freqs.weight", 2, NULL, KVRT_FORMAT, "rope_freqs.weight: F32 of 16, need F32 of 8"},
    {TENSOR, "rope_freqs.weight", 1, NULL, KVRT_FORMAT, "rope_freqs.weight: element 0 not above 0"},
};

static void change(gguf_file *f, size_t i)
{
    static const float zeros[64];
    char key[80];
    (void)snprintf(key, sizeof key, "llama.%s", changes[i].name);
    const char *text = changes[i].text;
    if (changes[i].kind == TENSOR)
        put_tensor(f, changes[i].name, (uint64_t)changes[i].value * 8, 0, 0, zeros, (size_t)changes[i].value * 32);
    else if (text) put_text(f, key, text);
    else if (changes[i].kind == U32) put_u32(f, key, (uint32_t)changes[i].value);
    else if (changes[i].kind == F32) put_f32(f, key, changes[i].value);
    else if (changes[i].kind == BOOL) gguf_key_bool(&f->keys, key, changes[i].value != 0), f->n_keys++;
}

/* With nth > 0 that allocation of the open fails. */
static kvrt_status try_open(uint64_t nth, kvrt_error *error)
{
    kvrt_options *options;
    kvrt_engine engine = NULL;
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    kvrt_options_set_string(options, "model.path", path, -1, NULL);
    kvrt_options_set_text(options, "device.backend", "cpu", NULL);
    kvi_mem_fail_nth(nth);
    const kvrt_status status = kvrt_engine_open(options, NULL, NULL, &engine, error);
    kvi_mem_fail_nth(0);
    kvrt_options_destroy(options);
    if (engine) kvrt_engine_close(engine, NULL);
    return status;
}

static void what_would_be_wrong_is_refused(void **state)
{
    uint64_t before, after;
    kvi_mem_stats(&before, NULL, NULL);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        kvrt_error error = {.size = sizeof error};
        gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "llama");
        change(&f, i);
        save(&f);
        free_file(&f);
        const kvrt_status status = try_open(0, &error);
        if (status != changes[i].status) fail_msg("%s: status %d, %s", changes[i].name, (int)status, error.message);
        if (status < KVRT_OK && !strstr(error.message, changes[i].named))
            fail_msg("%s: '%s' without '%s'", changes[i].name, error.message, changes[i].named);
    }
    kvi_mem_stats(&after, NULL, NULL);
    assert_int_equal(before, after);
}

static void other_architectures_are_named_and_shown(void **state)
{
    kvrt_error error = {.size = sizeof error};
    gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "gemma9");
    save(&f);
    free_file(&f);
    assert_int_equal(try_open(0, &error), KVRT_UNSUPPORTED);
    assert_non_null(
        strstr(error.message, "general.architecture: is 'gemma9', need one of llama, qwen2, qwen3, gemma2"));
    kvrt_inspect_info info = {.size = sizeof info};
    assert_int_equal(kvrt_inspect(path, &info, NULL, NULL, &error), KVRT_OK);
    assert_string_equal(info.architecture, "gemma9");
    assert_int_equal(info.n_layers, 2);
    assert_int_equal(info.hidden_size, 48);
    assert_non_null(strstr(info.problem, "gemma9"));
}

/* A field of a matrix as the file has it: u64 columns, u64 rows, u32 type, behind a name and the number of dimensions. */
static void patch(gguf_file *f, const char *name, size_t offset, uint64_t value, size_t n_bytes)
{
    const size_t len = strlen(name);
    size_t at = 0;
    while (memcmp(f->infos.data + at, name, len) != 0) at++;
    memcpy(f->infos.data + at + len + 4 + offset, &value, n_bytes);
}

static void tensors_are_refused_in_words_of_the_file(void **state)
{
    static const struct {
        size_t offset, n_bytes;
        uint64_t value;
        const char *named;
    } lies[] = {{16, 4, 24,
                 "blk.1.ffn_gate.weight: dtype I8, need F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, "
                 "Q4_K, Q5_K, "
                 "Q6_K, IQ4_NL, IQ4_XS, MXFP4 or NVFP4"},
                {0, 8, 24,
                 "blk.1.ffn_gate.weight: shape [80, 24], need [80, 48] (intermediate_size, hidden_size in the file's "
                 "metadata)"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        kvrt_error error = {.size = sizeof error};
        gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "llama");
        patch(&f, "blk.1.ffn_gate.weight", lies[i].offset, lies[i].value, lies[i].n_bytes);
        save(&f);
        free_file(&f);
        assert_true(try_open(0, &error) < KVRT_OK);
        if (!strstr(error.message, lies[i].named)) fail_msg("'%s' without '%s'", error.message, lies[i].named);
    }
}

static void open_folder(kvrt_status want, const char *named)
{
    kvrt_options *options;
    kvrt_engine engine;
    kvrt_error error = {.size = sizeof error};
    assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
    kvrt_options_set_string(options, "model.path", folder, -1, NULL);
    kvrt_options_set_text(options, "device.backend", "cpu", NULL);
    const kvrt_status status = kvrt_engine_open(options, NULL, NULL, &engine, &error);
    kvrt_options_destroy(options);
    if (status != want || (named && !strstr(error.message, named)))
        fail_msg("status %d, '%s'", (int)status, error.message);
    if (status >= KVRT_OK) kvrt_engine_close(engine, NULL);
}

/* Files that people keep beside: of a split model the rest, the projector of pictures, notes. */
static void a_folder_with_one_model_is_that_model(void **state)
{
    static const char *const beside[] = {"mmproj-model.gguf", "model-00002-of-00003.gguf", "README.md", "zz.gguf"};
    char other[300];
    gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "llama");
    save(&f);
    free_file(&f);
    for (size_t i = 0; i < 4; i++) {
        open_folder(KVRT_OK, NULL);
        (void)snprintf(other, sizeof other, "%s/%s", folder, beside[i]);
        FILE *file = fopen(other, "wb");
        assert_non_null(file);
        (void)fclose(file);
    }
    open_folder(KVRT_UNSUPPORTED, "2 GGUF models and no config.json, need one: name the file (model.gguf)");
    for (size_t i = 0; i < 4; i++) {
        (void)snprintf(other, sizeof other, "%s/%s", folder, beside[i]);
        assert_int_equal(unlink(other), 0);
    }
}

static void unknown_keys_are_a_warning(void **state)
{
    kvrt_error error = {.size = sizeof error};
    gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "llama");
    put_u32(&f, "llama.attention.new_thing", 3);
    save(&f);
    free_file(&f);
    kvrt_inspect_info info = {.size = sizeof info};
    assert_int_equal(kvrt_inspect(path, &info, NULL, NULL, &error), KVRT_OK);
    assert_non_null(strstr(info.warning, "llama.attention.new_thing"));
    assert_string_equal(info.problem, "");
}

/* What a plan says is what an open takes, mapped and copied: blocks are read where they lie. */
static void the_plan_is_what_is_taken(void **state)
{
    static const char *const ways[] = {"map", "copy"};
    gguf_file f = converted(KVRT_TEST_DIR "/golden/models/qwen3_bf16", "qwen3");
    save(&f);
    free_file(&f);
    for (size_t way = 0; way < 2; way++) {
        kvrt_options *options;
        kvrt_engine engine;
        kvrt_error error = {.size = sizeof error};
        kvrt_plan_row row = {.size = sizeof row};
        kvrt_engine_info info = {.size = sizeof info};
        uint64_t n;
        assert_int_equal(kvrt_options_create(&options, NULL), KVRT_OK);
        kvrt_options_set_string(options, "model.path", path, -1, NULL);
        kvrt_options_set_text(options, "device.backend", "cpu", NULL);
        kvrt_options_set_text(options, "model.io", ways[way], NULL);
        kvrt_options_set_text(options, "kv.format", "k4v4", NULL);
        if (kvrt_plan(options, "k4v4", NULL, &row, 1, &n, &error) < KVRT_OK) fail_msg("%s", error.message);
        if (kvrt_engine_open(options, NULL, NULL, &engine, &error) < KVRT_OK) fail_msg("%s", error.message);
        assert_int_equal(kvrt_engine_get_info(engine, &info, &error), KVRT_OK);
        if (info.resident_bytes != row.total_bytes - row.session_bytes)
            fail_msg("%s: %llu bytes taken, %llu planned", ways[way], (unsigned long long)info.resident_bytes,
                     (unsigned long long)(row.total_bytes - row.session_bytes));
        kvrt_engine_close(engine, NULL);
        kvrt_options_destroy(options);
    }
}

static void every_allocation_may_fail(void **state)
{
    gguf_file f = converted(KVRT_TEST_DIR "/golden/models/llama_gqa2", "llama");
    put_text(&f, "tokenizer.chat_template", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}");
    put_text(&f, "tokenizer.chat_template.tool_use", "{{ eos_token }}");
    save(&f);
    free_file(&f);
    kvrt_status status = KVRT_NOMEM_HOST;
    uint64_t before, after, n = 0;
    (void)try_open(0, NULL); /* what the first open of a process sets up once */
    kvi_mem_stats(&before, NULL, NULL);
    while (status < KVRT_OK) {
        kvrt_error error = {.size = sizeof error};
        status = try_open(++n, &error);
        if (status < KVRT_OK && status != KVRT_NOMEM_HOST && status != KVRT_OVER_BUDGET)
            fail_msg("allocation %u: status %d, %s", (unsigned)n, (int)status, error.message);
        kvi_mem_stats(&after, NULL, NULL);
        assert_int_equal(before, after);
    }
    assert_true(n > 100);
}

static int make_folder(void **state)
{
    if (!mkdtemp(folder)) return -1;
    (void)snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int drop_folder(void **state) { return unlink(path) | rmdir(folder); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_the_folder),
                                       cmocka_unit_test(what_would_be_wrong_is_refused),
                                       cmocka_unit_test(other_architectures_are_named_and_shown),
                                       cmocka_unit_test(tensors_are_refused_in_words_of_the_file),
                                       cmocka_unit_test(a_folder_with_one_model_is_that_model),
                                       cmocka_unit_test(unknown_keys_are_a_warning),
                                       cmocka_unit_test(the_plan_is_what_is_taken),
                                       cmocka_unit_test(every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
