/* kv_scales.c - see kv_scales.h. */
#include "kv_scales.h"
#include "weight_codec.h"
#include "weights.h"
#include "../base/folder.h"
#include "../base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SCALES_FILE "kv_cache_scales.json"

/* Numbers of a layer: K and V for each of the most KV heads that a layer has. */
static uint32_t row_of(const kvi_model_config *c)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < c->n_attentions; i++)
        if (c->attention[i].n_kv_heads > most) most = c->attention[i].n_kv_heads;
    return 2 * most;
}

/* ----------------------------------------------------------------------------------------------------- config ----- */
/* What the scales are for: quantization_config.kv_cache_scheme of config.json; F8 without one. KVI_KV_F32: nothing that a cache here honours. */
static kvi_kv_code read_scheme(kvi_json *r)
{
    int64_t bits = 8;
    bool is_int = false, symmetric = true;
    if (kvi_json_null(r)) return KVI_KV_F8;
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return KVI_KV_F32;
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "num_bits")) bits = kvi_json_i64(r);
        else if (kvi_json_key_is(r, "symmetric")) symmetric = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "type")) is_int = kvi_json_string(r) && kvi_json_str_is(r, "int");
        else kvi_json_skip(r);
    }
    return bits != 8 || !symmetric ? KVI_KV_F32 : is_int ? KVI_KV_I8 : KVI_KV_F8;
}

/* The same by the name of an algorithm, as ModelOpt has it; null says nothing. */
static kvi_kv_code read_algorithm(kvi_json *r, kvi_kv_code without)
{
    if (kvi_json_null(r)) return without;
    return !kvi_json_string(r)          ? KVI_KV_F32
           : kvi_json_str_is(r, "FP8")  ? KVI_KV_F8
           : kvi_json_str_is(r, "INT8") ? KVI_KV_I8
                                        : KVI_KV_F32;
}

/* What section `section` of a file says, if it is there. */
static kvrt_status read_type(const char *dir, const char *file, const char *section, kvi_kv_code *out,
                             kvrt_error *error)
{
    kvi_map map;
    bool found;
    kvi_json r;
    KVI_TRY(kvi_folder_map(dir, file, false, &map, &found, error));
    if (!found) return KVRT_OK;
    kvi_json_init(&r, (const char *)map.data, map.len);
    r.python = true;
    (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (!kvi_json_key_is(&r, section) || kvi_json_peek(&r) != KVI_JSON_OBJECT) {
            kvi_json_skip(&r);
            continue;
        }
        (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) {
            if (kvi_json_key_is(&r, "kv_cache_scheme")) *out = read_scheme(&r);
            else if (kvi_json_key_is(&r, "kv_cache_quant_algo")) *out = read_algorithm(&r, *out);
            else kvi_json_skip(&r);
        }
    }
    const kvrt_status status = r.error ? kvi_json_fail(&r, file, error) : KVRT_OK;
    kvi_os_unmap(&map);
    return status;
}

static kvrt_status type_of(const char *dir, kvi_kv_code *out, kvrt_error *error)
{
    *out = KVI_KV_F8;
    KVI_TRY(read_type(dir, "hf_quant_config.json", "quantization", out, error));
    return read_type(dir, "config.json", "quantization_config", out, error);
}

/* ----------------------------------------------------------------------------------------------------- tensors ---- */
static kvrt_status check(const char *name, double scale, kvrt_error *error)
{
    if (scale >= 6.103515625e-05 && scale <= 511) return KVRT_OK;
    return kvi_error_set(error, KVRT_FORMAT, "%s: a scale of the KV cache is %g, need 6.1e-05 to 511", name, scale);
}

/* Names within a layer, of K and of V. */
static const char *const names[][2] = {{"self_attn.k_scale", "self_attn.v_scale"},
                                       {"self_attn.attn.k_scale", "self_attn.attn.v_scale"},
                                       {"attn.k_scale", "attn.v_scale"},
                                       {"self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"},
                                       {"self_attn.k_proj.output_scale", "self_attn.v_proj.output_scale"},
                                       {"self_attn.kv_scale", "self_attn.kv_scale"}};

/* The scales of one side of a layer, one for each KV head: out[0], out[2], ... */
static kvrt_status take(const kvi_tensor *t, uint32_t n_heads, float *out, kvrt_error *error)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) n *= t->shape[i];
    if ((n != 1 && n != n_heads) || !kvi_form_is_plain(t->form))
        return kvi_error_set(error, KVRT_FORMAT,
                             "tensor %s: %llu numbers of %s, need 1 or %u (num_key_value_heads in config.json) in F32, "
                             "F16 or BF16",
                             t->name, (unsigned long long)n, t->dtype, n_heads);
    for (uint32_t h = 0; h < n_heads; h++) {
        out[2 * h] = kvi_plain_at(t->data, kvi_form_dtype(t->form), n == 1 ? 0 : h);
        KVI_TRY(check(t->name, (double)out[2 * h], error));
    }
    return KVRT_OK;
}

static kvrt_status read_layer(const kvi_checkpoint *checkpoint, uint32_t layer, uint32_t n_heads, float *out,
                              bool *found, kvrt_error *error)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const kvi_tensor *side[2];
        char name[2][128];
        for (int s = 0; s < 2; s++) {
            (void)snprintf(name[s], sizeof name[s], KVI_NAME_LAYER, layer, names[i][s]);
            side[s] = kvi_weights_find(checkpoint, name[s]);
        }
        if (!side[0] && !side[1]) continue;
        for (int s = 0; s < 2; s++) {
            if (!side[s])
                return kvi_error_set(error, KVRT_FORMAT, "tensor %s: not found, need it beside %s", name[s],
                                     side[!s]->name);
            KVI_TRY(take(side[s], n_heads, out + s, error));
        }
        *found = true;
        return KVRT_OK;
    }
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------- vLLM's file ------ */
/* {"kv_cache": {"dtype": "float8_e4m3fn", "scaling_factor": {"RANK": {"LAYER": scale}}}}: one scale for K and V of a layer; one device has
 * rank 0 alone. */
static kvrt_status read_factors(kvi_json *r, const kvi_model_config *c, float *out, bool *found, kvrt_error *error)
{
    (void)kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (!kvi_json_key_is(r, "0")) {
            kvi_json_skip(r);
            continue;
        }
        (void)kvi_json_expect(r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(r)) {
            double layer = -1;
            const bool number = kvi_parse_f64(r->str, r->str_len, &layer);
            const double scale = kvi_json_f64(r);
            if (r->error) break;
            if (!number || !(layer >= 0 && layer < c->n_layers) || layer != floor(layer))
                return kvi_error_set(error, KVRT_FORMAT, SCALES_FILE ": a layer is none of the %u of this model",
                                     c->n_layers);
            KVI_TRY(check(SCALES_FILE, scale, error));
            for (uint32_t i = 0; i < row_of(c); i++) out[(uint32_t)layer * row_of(c) + i] = (float)scale;
            *found = true;
        }
    }
    return KVRT_OK;
}

static kvrt_status read_file(const char *dir, const kvi_model_config *c, float *out, bool *found, kvrt_error *error)
{
    kvi_map map;
    bool there;
    kvi_json r;
    kvrt_status status = KVRT_OK;
    KVI_TRY(kvi_folder_map(dir, SCALES_FILE, false, &map, &there, error));
    if (!there) return KVRT_OK;
    kvi_json_init(&r, (const char *)map.data, map.len);
    (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (status >= KVRT_OK && kvi_json_next_key(&r)) {
        if (!kvi_json_key_is(&r, "kv_cache")) {
            kvi_json_skip(&r);
            continue;
        }
        (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (status >= KVRT_OK && kvi_json_next_key(&r)) {
            if (kvi_json_key_is(&r, "scaling_factor")) status = read_factors(&r, c, out, found, error);
            else kvi_json_skip(&r);
        }
    }
    if (status >= KVRT_OK && r.error) status = kvi_json_fail(&r, SCALES_FILE, error);
    kvi_os_unmap(&map);
    return status;
}

kvrt_status kvi_kv_scales_read(const char *dir, const kvi_checkpoint *checkpoint, const kvi_model_config *config,
                               kvi_kv_code code, kvi_kv_scales *out, kvrt_error *error)
{
    const size_t n = (size_t)config->n_layers * row_of(config);
    kvi_kv_code type;
    bool found = false;
    *out = (kvi_kv_scales){0};
    KVI_TRY(type_of(dir, &type, error));
    if (type != code) return KVRT_OK;
    float *scales = kvi_mem_zalloc(n, sizeof *scales);
    if (!scales) return kvi_error_nomem(error, n * sizeof *scales, "scales of the KV cache");
    kvrt_status status = KVRT_OK;
    for (uint32_t i = 0; i < config->n_layers && status >= KVRT_OK; i++)
        status = read_layer(checkpoint, i, kvi_attention_of(config, i)->n_kv_heads, scales + (size_t)i * row_of(config),
                            &found, error);
    if (status >= KVRT_OK && !found && code == KVI_KV_F8) status = read_file(dir, config, scales, &found, error);
    if (status >= KVRT_OK && found) out->by_layer = scales;
    else kvi_mem_free(scales);
    return status;
}

/* ----------------------------------------------------------------------------------------------- a program -------- */
kvrt_status kvi_kv_scales_apply(kvi_kv_scales *scales, const kvi_model_config *config, const kvi_program *program,
                                kvi_cache_group *groups, kvrt_error *error)
{
    const uint32_t row = row_of(config);
    if (!scales->by_layer) return KVRT_OK;
    kvi_mem_free(scales->by_group);
    scales->by_group = kvi_mem_zalloc((size_t)config->n_layers * row, sizeof *scales->by_group);
    if (!scales->by_group)
        return kvi_error_nomem(error, (uint64_t)config->n_layers * row * 4, "scales of the KV cache");
    float *next = scales->by_group;
    for (uint32_t g = 0; g < program->n_groups; g++) {
        const uint32_t per_layer = 2 * groups[g].shape.n_kv_heads;
        for (uint32_t i = 0; i < program->n_ops; i++) {
            const kvi_op *op = &program->ops[i];
            if (op->kind != KVI_OP_ROPE_APPEND || op->group != g) continue;
            memcpy(next + (size_t)op->group_layer * per_layer, scales->by_layer + (size_t)op->layer * row,
                   per_layer * sizeof *next);
        }
        groups[g].scales = next;
        groups[g].rotate = false;
        next += (size_t)groups[g].shape.n_layers * per_layer;
    }
    return KVRT_OK;
}

void kvi_kv_scales_free(kvi_kv_scales *scales)
{
    kvi_mem_free(scales->by_layer);
    kvi_mem_free(scales->by_group);
    *scales = (kvi_kv_scales){0};
}
