/* measure.c - the measurement section of kvrt.h: synthetic fill, operation times, devices, copy bandwidth. */
#include "seat.h"
#include "session.h"
#include "../base/lcg.h"
#include "../model/synthetic.h"

#include <stdio.h>
#include <string.h>

void kvrt_measure_devices(kvrt_line_fn fn, void *user)
{
    if (!fn) return;
    bool cuda = false;
    char text[256];
    for (uint32_t i = 0; kvi_backend_at(i); i++) {
        bool usable = kvi_backend_at(i)->probe(NULL, text, sizeof text);
        cuda = cuda || strcmp(kvi_backend_at(i)->name, "cuda") == 0;
        fn(kvi_backend_at(i)->name, text, usable, user);
    }
    if (!cuda) fn("cuda", "not in this build", 0, user);
}

/* A weight of the form, large enough for every kernel. */
static kvi_weight_desc example_of(kvi_weight_form form)
{
    static const uint8_t there;
    kvi_weight_desc desc = {.name = "example", .form = form, .n_out = 256, .n_in = 1024};
    (void)kvi_synthetic_shape(&desc);
    for (int part = 0; part < KVI_WEIGHT_PARTS; part++)
        if (part == KVI_PART_CODES || (kvi_form(form)->needs >> part & 1u)) desc.parts[part] = &there;
    return desc;
}

kvrt_status kvrt_measure_forms(const char *name, kvrt_line_fn fn, void *user, kvrt_error *error)
{
    const kvi_device_options options = {.amx = true};
    const kvi_backend *backend = NULL;
    char why[256], kernels[KVI_FORM_COUNT][64] = {{0}}, forms[400];
    if (!name || !fn) return kvi_error_set(error, KVRT_ARG, "kvrt_measure_forms: backend or fn is NULL");
    for (uint32_t i = 0; kvi_backend_at(i); i++)
        if (strcmp(kvi_backend_at(i)->name, name) == 0) backend = kvi_backend_at(i);
    if (!backend) return kvi_error_set(error, KVRT_ARG, "backend %.40s: not in this build", name);
    if (!backend->probe(NULL, why, sizeof why))
        return kvi_error_set(error, KVRT_NO_DEVICE, "backend %s: %s", name, why);
    for (int f = 0; f < KVI_FORM_COUNT; f++) {
        const kvi_weight_desc desc = example_of((kvi_weight_form)f);
        if (f != KVI_FORM_F64) (void)backend->kernel_of(&desc, &options, kernels[f], sizeof kernels[f]);
    }
    for (int f = 0; f < KVI_FORM_COUNT; f++) {
        size_t len = 0;
        bool told = !kernels[f][0];
        for (int k = 0; k < f; k++) told = told || strcmp(kernels[k], kernels[f]) == 0;
        for (int k = f; !told && k < KVI_FORM_COUNT && len < sizeof forms; k++)
            if (strcmp(kernels[k], kernels[f]) == 0)
                len += (size_t)snprintf(forms + len, sizeof forms - len, "%s%s", len ? " " : "",
                                        kvi_form((kvi_weight_form)k)->name);
        if (!told) fn(forms, kernels[f], 1, user);
    }
    return KVRT_OK;
}

/* Plain values: numbers near +-1, different everywhere; words of base | (random & mask). Any format built from a page starts from such
 * rows. */
static void synthetic_words(kvi_kv_code plain, uint32_t *base, uint32_t *mask)
{
    *base = plain == KVI_KV_F32 ? 0x3e800000u : plain == KVI_KV_BF16 ? 0x3e803e80u : 0x34003400u;
    *mask = plain == KVI_KV_F32 ? 0x80ffffffu : plain == KVI_KV_BF16 ? 0x80ff80ffu : 0x8bff8bffu;
}

static void synthetic_record(uint8_t *bytes, uint64_t len, kvi_kv_code plain, uint64_t *state)
{
    uint32_t base, mask;
    synthetic_words(plain, &base, &mask);
    for (uint64_t i = 0; i + 4 <= len; i += 4) {
        (void)kvi_lcg(state);
        const uint32_t word = base | ((uint32_t)(*state >> 33) & mask) | ((uint32_t)(*state >> 32) << 31 & mask);
        memcpy(bytes + i, &word, 4);
    }
}

static kvrt_status fill_page(kvi_session *s, uint32_t group, uint32_t page, uint8_t *record, uint64_t *state,
                             kvrt_error *error)
{
    kvi_engine *e = s->engine;
    const kvi_cache_group *g = &e->program.groups[group];
    const kvi_page_ref ref = kvi_pages_at(&s->pages, group, page);
    const uint64_t bytes = kvi_kv_shape_record_bytes(ref.format, &g->shape), at = (uint64_t)ref.unit * KVI_KV_UNIT;
    const uint32_t n_records = g->shape.n_layers * g->shape.n_kv_heads;
    if (ref.unit == KVI_KV_NO_EXTENT) return KVRT_OK;
    if (e->backend->pool_fill) {
        uint32_t base, mask;
        synthetic_words(g->plain, &base, &mask);
        (void)kvi_lcg(state);
        return e->backend->pool_fill(e->device, at, n_records * bytes, base, mask, *state, error);
    }
    for (uint32_t i = 0; i < n_records; i++) {
        synthetic_record(record, bytes, g->plain, state);
        KVI_TRY(e->backend->pool_write(e->device, at + i * bytes, record, bytes, error));
    }
    for (uint32_t i = 0; g->n_queries && i < n_records; i++) {
        const uint64_t n = (uint64_t)g->n_queries * g->shape.head_dim,
                       to = at + kvi_group_queries_off(g, i / g->shape.n_kv_heads, i % g->shape.n_kv_heads);
        for (uint64_t k = 0; k < n; k++) record[k] = (uint8_t)(kvi_lcg(state) >> 56);
        KVI_TRY(e->backend->pool_write(e->device, to, record, n, error));
    }
    return KVRT_OK;
}

static kvrt_status fill(kvi_session *s, uint32_t n, uint64_t seed, kvrt_error *error)
{
    kvi_engine *e = s->engine;
    uint64_t largest = 0, state = seed * 2 + 1;
    for (uint32_t g = 0; g < s->pages.n_groups; g++) {
        uint64_t bytes = kvi_kv_shape_record_bytes(kvi_group_plain(&e->program.groups[g]), &e->program.groups[g].shape);
        if (bytes > largest) largest = bytes;
    }
    uint8_t *record = kvi_mem_alloc(largest);
    if (!record) return kvi_error_nomem(error, largest, "synthetic record");
    kvrt_status status = KVRT_OK;
    /* Page by page, encoding on the way, so that the pool is used exactly as in generation. */
    for (uint32_t done = s->n_cached, end = s->n_cached + n; done < end && status >= KVRT_OK;) {
        uint32_t page = done / KVI_KV_PAGE, next = (page + 1) * KVI_KV_PAGE < end ? (page + 1) * KVI_KV_PAGE : end;
        status = kvi_session_reserve(s, next, error);
        if (status < KVRT_OK) break;
        for (uint32_t g = 0; g < s->pages.n_groups && status >= KVRT_OK; g++)
            status = fill_page(s, g, page, record, &state, error);
        for (uint32_t i = done; i < next; i++) s->tokens[i] = (int32_t)(i % e->config.vocab_size);
        if (status >= KVRT_OK) s->n_cached = s->n_tokens = done = next;
        if (status >= KVRT_OK) status = kvi_session_settle(s, error);
    }
    kvi_mem_free(record);
    return status;
}

kvrt_status kvrt_measure_fill(kvrt_session handle, uint64_t n, uint64_t seed, kvrt_error *error)
{
    kvi_session *s;
    KVI_TRY(kvi_session_enter_compute(handle, &s, error));
    kvrt_status status = KVRT_OK;
    if (s->n_cached != s->n_tokens)
        status = kvi_error_set(error, KVRT_STATE, "fill: the session has tokens that are not computed yet");
    else if (n > s->ctx_size - s->n_tokens)
        status = kvi_error_set(error, KVRT_CTX_FULL, "fill: %llu positions, need at most %u", (unsigned long long)n,
                               s->ctx_size - s->n_tokens);
    if (status >= KVRT_OK) kvi_generation_break(&s->gen, s->n_tokens);
    if (status >= KVRT_OK) status = fill(s, (uint32_t)n, seed, error);
    kvi_session_leave(s, KVI_DRIVE);
    return status;
}

kvrt_status kvrt_measure_ops(kvrt_engine handle, int32_t enable, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    e->backend->time_ops(e->device, enable != 0);
    kvi_engine_leave(e, KVI_DRIVE);
    return KVRT_OK;
}

kvrt_status kvrt_measure_op_at(kvrt_engine handle, uint32_t index, kvrt_op_time *out, kvrt_error *error)
{
    kvi_engine *e;
    kvi_op_time time;
    KVI_TRY(kvi_struct_check(out, "kvrt_op_time", error));
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    bool found = e->backend->op_time_at(e->device, index, &time);
    kvi_engine_leave(e, KVI_DRIVE);
    if (!found) return KVRT_DONE;
    const kvrt_op_time full = {
        .op = time.op, .kernel = time.kernel, .calls = time.calls, .total_us = time.total_us, .bytes = time.bytes};
    kvi_struct_write(out, &full, sizeof full);
    return KVRT_OK;
}

kvrt_status kvrt_measure_copy(kvrt_engine handle, double *gbps, kvrt_error *error)
{
    kvi_engine *e;
    if (!gbps) return kvi_error_set(error, KVRT_ARG, "kvrt_measure_copy: gbps is NULL");
    KVI_TRY(kvi_engine_enter(handle, KVI_DRIVE, &e, error));
    kvrt_status status = KVRT_OK;
    if (e->sessions)
        status = kvi_error_set(error, KVRT_STATE, "copy bandwidth: sessions are open, and their cache would be lost");
    else if (!e->backend->copy_bandwidth)
        status = kvi_error_set(error, KVRT_UNSUPPORTED,
                               "copy bandwidth: not measured on backend %s; kvrt_bandwidth_* measures the machine",
                               e->backend->name);
    if (status >= KVRT_OK) status = e->backend->copy_bandwidth(e->device, gbps, error);
    kvi_engine_leave(e, KVI_DRIVE);
    return status;
}
