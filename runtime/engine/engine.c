/* engine.c - opening and closing an engine; its facts; tokenize and detokenize. Open is all or nothing. */
#include "draft.h"
#include "step.h"
#include "seat.h"
#include "handle.h"
#include "../template/chat_template.h"
#include "snapshot.h"
#include "../base/checksum.h"
#include "../base/log.h"
#include "../model/generation_config.h"
#include "../model/shapes.h"

#include <stdio.h>
#include <string.h>

/* --------------------------------------------------------------------------------------------------------- open --- */
typedef struct open_context {
    kvi_engine *engine;
    kvrt_event_fn fn;
    void *user;
    uint64_t reported;
    uint64_t available; /* host bytes that were free before the first was taken */
} open_context;

static bool report(open_context *context, const char *stage, uint64_t done, uint64_t total)
{
    kvrt_event event = {
        .type = KVRT_EVENT_LOAD_PROGRESS, .text = stage, .text_len = strlen(stage), .done = done, .total = total};
    return kvi_engine_event(context->engine, context->fn, context->user, &event) != KVRT_STOP;
}

/* At most one event per percent. */
static bool weights_progress(void *user, uint64_t done, uint64_t total)
{
    open_context *context = user;
    if (done < total && done - context->reported < total / 100) return true;
    context->reported = done;
    return report(context, "weights", done, total);
}

static kvrt_status cancelled(kvrt_error *error) { return kvi_error_set(error, KVRT_CANCELLED, "loading cancelled"); }

static bool tokenizer_alone(const kvi_engine *e)
{
    return strcmp(kvi_options_string(e->options, "model.load"), "tokenizer") == 0;
}

static kvrt_status load_tokenizer(open_context *c, kvrt_error *error)
{
    kvi_engine *e = c->engine;
    if (!report(c, "tokenizer", 0, 1)) return cancelled(error);
    KVI_TRY(kvi_model_files_tokenizer(&e->files, &e->tokenizer, error));
    /* Base models have no template; a chat then gets the error. A file that is there and cannot be read is an error now. */
    kvrt_error why = {.size = sizeof why};
    kvrt_status chat = kvi_model_files_template(&e->files, &e->chat, &why);
    if (chat == KVRT_IO || chat == KVRT_NOMEM_HOST) return kvi_error_hand_on(error, &why);
    if (tokenizer_alone(e)) {
        e->config.vocab_size = (uint32_t)kvi_tokenizer_vocab_size(e->tokenizer);
        e->config.bos_id = -1;
    }
    return KVRT_OK;
}

static kvrt_status load_files(open_context *c, bool copy, kvrt_error *error)
{
    kvi_engine *e = c->engine;
    const char *path = kvi_options_string(e->options, "model.path"),
               *shape = kvi_options_string(e->options, "model.shape");
    if (!path[0] == !shape[0])
        return kvi_error_set(error, KVRT_ARG, "engine: need exactly one of model.path and model.shape");
    if (shape[0] && tokenizer_alone(e))
        return kvi_error_set(error, KVRT_ARG,
                             "engine: model.load=tokenizer needs model.path, a shape has no tokenizer");
    const bool ahead =
        kvi_options_bool(e->options, "model.mtp") || strcmp(kvi_options_string(e->options, "draft.type"), "mtp") == 0;
    if (shape[0]) {
        KVI_TRY(kvi_shape_config(shape, &e->config, error));
        return ahead ? kvi_config_look_ahead(&e->config, error) : KVRT_OK;
    }
    KVI_TRY(kvi_model_files_open(path, copy && !tokenizer_alone(e), &e->files, error));
    if (tokenizer_alone(e)) return load_tokenizer(c, error);
    KVI_TRY(kvi_model_files_config(&e->files, &e->config, error));
    if (ahead) KVI_TRY(kvi_config_look_ahead(&e->config, error));
    kvi_generation_notes notes = {.warning = e->config.warning, .cap = sizeof e->config.warning};
    KVI_TRY(kvi_model_files_generation(&e->files, e->options, &notes, error));
    if (!report(c, "tensors", 0, 1)) return cancelled(error);
    KVI_TRY(kvi_model_files_checkpoint(&e->files, copy, &e->checkpoint, error));
    KVI_TRY(load_tokenizer(c, error));
    if (e->config.bos_id < 0) e->config.bos_id = kvi_tokenizer_bos_id(e->tokenizer);
    if (e->config.n_eos == 0 && kvi_tokenizer_eos_id(e->tokenizer) >= 0)
        e->config.eos_ids[e->config.n_eos++] = kvi_tokenizer_eos_id(e->tokenizer);
    return KVRT_OK;
}

kvrt_status kvi_engine_read(kvi_engine *e, bool copy, kvrt_event_fn fn, void *user, kvrt_error *error)
{
    open_context context = {.engine = e, .fn = fn, .user = user};
    kvrt_status status = load_files(&context, copy, error);
    e->loading_bytes = kvi_account_peak(e->account);
    return status;
}

static kvrt_status open_pool(kvi_engine *e, kvrt_error *error)
{
    const uint32_t most = kvi_plan_most_pages(&e->program.program, &e->plan.limits);
    return kvi_store_init(&e->store, e->plan.limits.pool_bytes, most, error);
}

/* Opens the backend that is asked for; for `auto` the first usable one of the build's list from *index on. */
static kvrt_status open_device(kvi_engine *e, uint32_t *index, kvrt_error *error)
{
    const char *want = kvi_options_string(e->options, "device.backend");
    kvi_device_options device_options = kvi_device_options_from(e->options);
    bool is_auto = strcmp(want, "auto") == 0;
    char why[256] = "this build has no such backend";
    for (; kvi_backend_at(*index); ++*index) {
        const kvi_backend *backend = kvi_backend_at(*index);
        if (!is_auto && strcmp(backend->name, want) != 0) continue;
        if (is_auto && kvi_backend_at(*index + 1) && !backend->probe(&device_options, why, sizeof why)) continue;
        e->backend = backend;
        const uint64_t before = kvi_account_bytes(e->account);
        kvrt_status status = backend->open(&device_options, &e->device, error);
        e->device_bytes = kvi_account_bytes(e->account) - before;
        return status;
    }
    return kvi_error_set(error, KVRT_NO_DEVICE, "backend %s: %s", want, why);
}

/* weights.*, and of a shape model.weights. A group is asked for by 0 or 8 and more. */
static kvrt_status weight_wish(const kvi_engine *e, kvi_weight_wish *out, kvrt_error *error)
{
    const kvrt_options *o = e->options;
    const char *type = kvi_options_string(o, "weights.type");
    const kvi_weight_form form = kvi_form_named(type); /* NONE: auto */
    const bool shape = !e->checkpoint, integers = form == KVI_FORM_I4 || form == KVI_FORM_I8;
    const int64_t group = kvi_options_i64(o, "weights.group");
    *out =
        (kvi_weight_wish){.form = form == KVI_FORM_NONE ? kvi_form_named(kvi_options_string(o, "model.weights")) : form,
                          .has_group = group >= 0,
                          .cache = e->has_cache ? (kvi_weight_cache *)(uintptr_t)&e->cache : NULL,
                          .fewer = {.bits = !integers || shape    ? 0
                                            : form == KVI_FORM_I4 ? 4
                                                                  : 8,
                                    .group = group >= 0            ? (uint32_t)group
                                             : form == KVI_FORM_I4 ? 128
                                                                   : 0,
                                    .head_bits = strcmp(kvi_options_string(o, "weights.head"), "i8") == 0 ? 8 : 0,
                                    .embed_bits = strcmp(kvi_options_string(o, "weights.embed"), "i8") == 0 ? 8 : 0}};
    if (group > 0 && group < 8)
        return kvi_error_set(error, KVRT_ARG, "option weights.group: found %lld, need 0 or 8 to 65536",
                             (long long)group);
    if (!shape && form != KVI_FORM_NONE && !integers)
        return kvi_error_set(error, KVRT_ARG,
                             "option weights.type: found %s, need i4 or i8 (or auto) of a model; other forms are for "
                             "model.shape",
                             type);
    return KVRT_OK;
}

static kvi_encode_params encode_params(const kvrt_options *options)
{
    const char *varnorm = kvi_options_string(options, "kv.varnorm"), *range = kvi_options_string(options, "kv.range");
    return (kvi_encode_params){.varnorm = strcmp(varnorm, "off") == 0     ? KVI_VARNORM_OFF
                                          : strcmp(varnorm, "paper") == 0 ? KVI_VARNORM_PAPER
                                                                          : KVI_VARNORM_KVRT,
                               .range = strcmp(range, "minmax") == 0   ? KVI_RANGE_MINMAX
                                        : strcmp(range, "search") == 0 ? KVI_RANGE_SEARCH
                                                                       : KVI_RANGE_UNBIASED};
}

/* Scales of the checkpoint for a cache of 8 bits; empty where the model brings none, or they are not wanted. */
static kvrt_status read_kv_scales(kvi_engine *e, kvrt_error *error)
{
    const kvi_kv_format body = e->format.body;
    kvi_kv_scales_free(&e->kv_scales);
    /* None is of the layer that looks ahead. */
    if ((body != KVI_KV_FMT_F8 && body != KVI_KV_FMT_I8) || !e->checkpoint || e->files.gguf || e->config.n_ahead ||
        strcmp(kvi_options_string(e->options, "kv.scales"), "rows") == 0)
        return KVRT_OK;
    KVI_TRY(kvi_kv_scales_read(e->files.path, e->checkpoint, &e->config, KVI_KV_K_CODE(body), &e->kv_scales, error));
    if (!e->kv_scales.by_layer || e->backend->fixed_kv_scales) return KVRT_OK;
    kvi_log(KVI_LOG_WARN, "kv.scales: the model brings scales of the KV cache, which the backend %s does not use",
            e->backend->name);
    kvi_kv_scales_free(&e->kv_scales);
    return KVRT_OK;
}

/* Whether pages keep queries, in whose metric K is rounded when they are encoded. An elastic cache takes bits off pages long after their queries are
 * gone; the published procedure has no such thing; and of more bits than 4 there is nothing to gain. */
static bool keeps_queries(const kvi_engine *e)
{
    const kvi_kv_code k = KVI_KV_K_CODE(e->format.body);
    return strcmp(kvi_options_string(e->options, "kv.round"), "plain") != 0 && e->backend->rounds_by_queries &&
           !e->format.elastic && k >= KVI_KV_Q4 && encode_params(e->options).varnorm != KVI_VARNORM_PAPER;
}

/* What is asked for by name is done, or refused. */
static kvrt_status check_round(const kvi_engine *e, kvrt_error *error)
{
    const bool asked = strcmp(kvi_options_string(e->options, "kv.round"), "queries") == 0;
    const char *why = !e->backend->rounds_by_queries ? "a backend that does it (cpu)"
                      : e->format.elastic ? "a kv.format other than elastic, whose pages outlive their queries"
                      : encode_params(e->options).varnorm == KVI_VARNORM_PAPER ? "kv.varnorm other than paper"
                                                                               : NULL;
    return asked && why ? kvi_error_set(error, KVRT_UNSUPPORTED, "option kv.round: queries, need %s", why) : KVRT_OK;
}

static kvrt_status record_program(kvi_engine *e, kvi_kv_code plain, kvrt_error *error)
{
    const kvi_record_options record = {.rotate = kvi_options_bool(e->options, "kv.rotate"),
                                       .plain = plain,
                                       .keep_queries = keeps_queries(e),
                                       .head_parts = e->config.vocab_size > 32768 ? 4 : 1,
                                       .disable = kvi_options_string(e->options, "debug.disable")};
    KVI_TRY(kvi_model_record(&e->config, &e->weights, &record, &e->program, error));
    return kvi_kv_scales_apply(&e->kv_scales, &e->config, &e->program.program, e->program.groups, error);
}

static void forget_program(kvi_engine *e)
{
    kvi_model_program_free(&e->program);
    kvi_weights_free(&e->weights);
}

/* Beyond some lengths a model's keys would have to be computed anew. */
static kvrt_status check_ctx(const kvi_engine *e, kvrt_error *error)
{
    const int64_t asked = kvi_options_i64(e->options, "ctx.size");
    const kvi_model_config *c = &e->config;
    if (!c->ctx_limit || asked <= (int64_t)c->ctx_limit) return KVRT_OK;
    return kvi_error_set(error, KVRT_UNSUPPORTED, "option ctx.size: found %lld, need at most %u: %s", (long long)asked,
                         c->ctx_limit, c->limit_why);
}

kvrt_status kvi_engine_outline(kvi_engine *e, kvi_kv_code plain, kvrt_error *error)
{
    KVI_TRY(check_ctx(e, error));
    kvi_weight_wish wish;
    forget_program(e);
    KVI_TRY(weight_wish(e, &wish, error));
    KVI_TRY(kvi_weights_bind(&e->config, e->checkpoint, &wish, e->backend, NULL, NULL, NULL, &e->weights, error));
    return record_program(e, plain, error);
}

kvrt_status kvi_engine_each_weight(kvi_engine *e, kvi_weight_fn fn, void *user, kvrt_error *error)
{
    kvi_weight_wish wish;
    kvi_model_weights weights;
    KVI_TRY(weight_wish(e, &wish, error));
    wish.fn = fn, wish.user = user;
    KVI_TRY(kvi_weights_bind(&e->config, e->checkpoint, &wish, NULL, NULL, NULL, NULL, &weights, error));
    kvi_weights_free(&weights);
    return KVRT_OK;
}

kvrt_status kvi_engine_find_cache(kvi_engine *e, bool check, kvrt_error *error)
{
    const char *folder = kvi_options_string(e->options, "model.cache");
    const uint32_t threads = kvi_device_options_from(e->options).n_threads;
    if (!folder[0] || !e->weights.kept_bytes || e->has_cache) return KVRT_OK;
    const uint64_t facts[] = {kvi_engine_model_fingerprint(e), e->weights.facts, e->backend->kept_version};
    uint64_t key = kvi_checksum(e->backend->name, strlen(e->backend->name), kvi_checksum(facts, sizeof facts, 1));
    KVI_TRY(kvi_weight_cache_open(&e->cache, folder, e->files.path ? e->files.path : "", key, e->checkpoint,
                                  check ? threads : 0, error));
    e->has_cache = true;
    return kvi_engine_outline(e, e->format.plain, error);
}

/* The weights to the open device, and the program over them. */
static kvrt_status import(kvi_engine *e, bool (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                          kvrt_error *error)
{
    kvi_weight_wish wish;
    forget_program(e);
    KVI_TRY(weight_wish(e, &wish, error));
    KVI_TRY(
        kvi_weights_bind(&e->config, e->checkpoint, &wish, e->backend, e->device, progress, user, &e->weights, error));
    return record_program(e, e->format.plain, error);
}

/* Where mem.limit is for several engines. */
static kvrt_status take_share(kvi_engine *e, uint64_t bytes, kvrt_error *error)
{
    const uint64_t limit = kvi_plan_less_reserve(e->options, e->mem_limit);
    if (!limit || !kvi_options_bool(e->options, "mem.shared")) return KVRT_OK;
    if (!e->share.bytes) e->share.of_card = e->backend->own_memory;
    if (kvi_share_set(&e->share, bytes, limit)) return KVRT_OK;
    const uint64_t others = kvi_shared_bytes(e->share.of_card) - e->share.bytes,
                   left = others < limit ? limit - others : 0;
    return kvi_error_memory(error, KVRT_OVER_BUDGET, bytes, left,
                            "engine: needs %llu KiB, others leave %llu KiB of mem.limit (mem.shared)",
                            (unsigned long long)((bytes + 1023) >> 10), (unsigned long long)(left >> 10));
}

static void close_device(kvi_engine *e)
{
    e->backend->close(e->device);
    e->device = NULL;
    e->device_bytes = 0;
    e->ahead = (kvi_ahead_at){0};
    /* Of the host's memory what sessions and tables hold stays. */
    const uint64_t left = e->share.of_card ? 0 : kvi_account_bytes(e->account);
    if (e->share.bytes) (void)kvi_share_set(&e->share, left < e->share.bytes ? left : e->share.bytes, 0);
}

/* The outline stays: page tables refer to its groups. */
kvrt_status kvi_engine_leave_device(kvi_engine *e, kvrt_error *error)
{
    close_device(e);
    const kvrt_status status = kvi_engine_outline(e, e->format.plain, error);
    if (status < KVRT_OK) atomic_store(&e->lost, true);
    return status;
}

kvrt_status kvi_engine_take_device(kvi_engine *e, kvrt_error *error)
{
    kvrt_error ignored = {.size = sizeof ignored};
    const kvi_device_options options = kvi_device_options_from(e->options);
    const uint64_t before = kvi_account_bytes(e->account);
    KVI_TRY(take_share(e, e->plan.total_bytes, error));
    KVI_TRY(e->backend->open(&options, &e->device, error));
    e->device_bytes = kvi_account_bytes(e->account) - before;
    kvrt_status status = import(e, NULL, NULL, error);
    if (status >= KVRT_OK) status = e->backend->load(e->device, &e->program.program, &e->plan.limits, error);
    if (status < KVRT_OK) (void)kvi_engine_leave_device(e, &ignored);
    return status;
}

/* Whether it fits is decided before the first weight is imported. */
static kvrt_status fill_device(open_context *c, kvrt_error *error)
{
    kvi_engine *e = c->engine;
    kvi_plan_input input;
    KVI_TRY(read_kv_scales(e, error));
    KVI_TRY(check_round(e, error));
    if (kvi_plan_most(e->options) && !e->backend->pool_resize)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "option mem.most: the backend %s cannot change its KV pool while it is open",
                             e->backend->name);
    KVI_TRY(kvi_engine_outline(e, e->format.plain, error));
    KVI_TRY(kvi_engine_find_cache(e, true, error));
    kvi_engine_plan_input(
        e, true, e->backend->own_memory ? e->backend->memory_available(e->device) + e->draft_bytes : c->available,
        &input);
    KVI_TRY(e->backend->check(
        input.program, &(kvi_limits){.page_formats = kvi_format_codes(&e->format), .body = e->format.body}, error));
    KVI_TRY(kvi_plan_memory(&input, &e->plan, error));
    KVI_TRY(take_share(e, e->plan.total_bytes, error));
    KVI_TRY(import(e, weights_progress, c, error));
    if (!report(c, "memory", 0, 1)) return cancelled(error);
    KVI_TRY(e->backend->load(e->device, &e->program.program, &e->plan.limits, error));
    KVI_TRY(open_pool(e, error));
    e->encode = encode_params(e->options);
    KVI_TRY(kvi_pace_open(&e->pace, e->program.program.n_step, error));
    KVI_TRY(kvi_events_open(&e->events, error));
    e->flight = kvi_mem_zalloc(1, sizeof *e->flight);
    if (!e->flight) return kvi_error_nomem(error, sizeof *e->flight, "step");
    e->logits = kvi_mem_zalloc(kvi_plan_row_floats(&e->program.program), sizeof *e->logits);
    e->logit_rows = kvi_mem_zalloc(e->plan.limits.max_logit_rows, sizeof *e->logit_rows);
    e->step_ids = kvi_mem_zalloc(e->plan.limits.max_rows, sizeof *e->step_ids);
    /* What looks ahead goes through the rows of one sequence. */
    e->mixes = e->backend->mixes && e->backend->mixes(e->device) && !e->config.n_ahead;
    return e->logits && e->logit_rows && e->step_ids
               ? KVRT_OK
               : kvi_error_nomem(error, (uint64_t)e->config.vocab_size * 4, "logits");
}

static void leave_device(kvi_engine *e)
{
    kvi_pace_close(&e->pace);
    kvi_events_close(&e->events);
    kvi_mem_free(e->flight);
    e->flight = NULL;
    close_device(e);
    forget_program(e);
    kvi_weight_cache_close(&e->cache);
    e->has_cache = false;
}

static bool device_does_not_do(kvrt_status status)
{
    return status == KVRT_UNSUPPORTED || status == KVRT_OVER_BUDGET || status == KVRT_NOMEM_DEVICE ||
           status == KVRT_NO_DEVICE || status == KVRT_DRIVER_TOO_OLD;
}

/* Which backend `auto` means is decided here, once: the first that is usable and takes this model; why one does not is a warning. */
static kvrt_status load_device(open_context *c, kvrt_error *error)
{
    kvi_engine *e = c->engine;
    const bool is_auto = strcmp(kvi_options_string(e->options, "device.backend"), "auto") == 0;
    kvrt_error why = {.size = sizeof why};
    KVI_TRY(kvi_format_named(kvi_options_string(e->options, "kv.format"), &e->format, error));
    for (uint32_t index = 0;; index++) {
        kvrt_status status = open_device(e, &index, &why);
        if (status >= KVRT_OK) status = fill_device(c, &why);
        if (status >= KVRT_OK) return status;
        if (!is_auto || !device_does_not_do(status) || !kvi_backend_at(index) || !kvi_backend_at(index + 1))
            return kvi_error_hand_on(error, &why);
        kvi_log(KVI_LOG_WARN, "backend %s: %s; trying the next one", e->backend->name, why.message);
        leave_device(e);
        c->reported = 0;
    }
}

void kvi_engine_free(kvi_engine *e)
{
    kvi_account *account = e->account;
    (void)kvi_share_set(&e->share, 0, 0);
    while (e->sessions) kvi_session_destroy(e->sessions);
    if (e->draft) (void)kvrt_engine_close(e->draft->handle, NULL);
    kvi_spill_close(e);
    kvi_pace_close(&e->pace);
    kvi_events_close(&e->events);
    kvi_seat_close(&e->seat);
    kvi_mem_free(e->submitted);
    kvi_mem_free(e->suspended.bytes);
    kvi_mem_free(e->suspended.units);
    kvi_mem_free(e->flight);
    kvi_store_free(&e->store);
    if (e->backend) e->backend->close(e->device);
    kvi_model_program_free(&e->program);
    kvi_weights_free(&e->weights);
    kvi_weight_cache_close(&e->cache);
    kvi_kv_scales_free(&e->kv_scales);
    kvi_chat_template_free(e->chat);
    kvi_tokenizer_free(e->tokenizer);
    kvi_checkpoint_close(e->checkpoint);
    kvi_model_files_close(&e->files);
    kvi_mem_free(e->logits);
    kvi_grammars_free(&e->grammars);
    kvi_mem_free(e->logit_rows);
    kvi_mem_free(e->step_ids);
    kvrt_options_destroy(e->options);
    kvi_mem_free(e);
    kvi_account_close(account);
}

kvrt_status kvi_engine_new(const kvrt_options *options, kvi_engine **out, kvi_account **before, kvrt_error *error)
{
    kvi_account *account = kvi_account_open();
    *before = kvi_account_use(account);
    *out = account ? kvi_mem_zalloc(1, sizeof **out) : NULL;
    if (!*out) {
        kvi_account_close(account);
        (void)kvi_account_use(*before);
        return kvi_error_nomem(error, sizeof **out, "engine");
    }
    (*out)->account = account;
    kvi_seat_open(&(*out)->seat);
    kvrt_status status = kvrt_options_clone(options, &(*out)->options, error);
    if (status >= KVRT_OK) {
        (*out)->mem_limit = (uint64_t)kvi_options_i64(options, "mem.limit");
        return status;
    }
    (void)kvi_account_use(*before);
    kvi_engine_free(*out);
    return status;
}

/* Where the budget is of the host's memory it holds from the first byte on: what cannot be computed before it is read (a tokenizer's tables)
 * is refused while it is read. */
static kvrt_status read_within_budget(open_context *c, kvrt_error *error)
{
    kvi_engine *e = c->engine;
    const kvi_backend *backend = kvi_plan_backend(e->options);
    const uint64_t budget = kvi_plan_budget(e->options, c->available);
    kvrt_error why = {.size = sizeof why};
    if (backend && !backend->own_memory) kvi_account_limit(e->account, budget ? budget : 1);
    kvrt_status status =
        kvi_engine_read(e, strcmp(kvi_options_string(e->options, "model.io"), "copy") == 0, c->fn, c->user, &why);
    kvi_account_limit(e->account, 0);
    const uint64_t refused = kvi_account_refused(e->account);
    if (status >= KVRT_OK) return status;
    if (status != KVRT_NOMEM_HOST || !refused) return kvi_error_hand_on(error, &why);
    return kvi_error_memory(error, KVRT_OVER_BUDGET, refused, budget,
                            "model: loading needs %llu KiB or more, the budget is %llu KiB (mem.limit)",
                            (unsigned long long)((refused + 1023) >> 10), (unsigned long long)(budget >> 10));
}

/* What an open has to say although it succeeded. */
static void tell_warnings(const kvi_engine *e)
{
    if (e->config.warning[0]) kvi_log(KVI_LOG_WARN, "%s", e->config.warning);
    if (!e->config.ctx_model || e->plan.ctx_size <= e->config.ctx_model) return;
    kvi_log(KVI_LOG_WARN, "context of %u tokens: the model was trained for %u; text beyond that may make little sense",
            e->plan.ctx_size, e->config.ctx_model);
}

/* A warning while loading is an event where the host listens for them, else a line of the log. */
static void warning_event(const char *line, void *user)
{
    open_context *c = user;
    kvrt_event event = {.type = KVRT_EVENT_WARNING, .text = line, .text_len = strlen(line)};
    (void)kvi_engine_event(c->engine, c->fn, c->user, &event);
}

kvrt_status kvrt_engine_open(const kvrt_options *options, kvrt_event_fn fn, void *user, kvrt_engine *out,
                             kvrt_error *error)
{
    if (!out) return kvi_error_set(error, KVRT_ARG, "kvrt_engine_open: out is NULL");
    *out = NULL;
    kvi_engine *e;
    kvi_account *before;
    KVI_TRY(kvi_engine_new(options, &e, &before, error));
    open_context context = {.engine = e, .fn = fn, .user = user, .available = kvi_os_memory_available()};
    uint64_t start = kvi_os_now_us();
    (void)kvi_account_use(before); /* it has its own */
    kvrt_status status = kvi_draft_open(e, error);
    (void)kvi_account_use(e->account);
    if (fn) kvi_log_warnings_to(warning_event, &context);
    kvi_arithmetic_enter();
    if (status >= KVRT_OK) status = read_within_budget(&context, error);
    if (status >= KVRT_OK && !tokenizer_alone(e)) status = load_device(&context, error);
    if (status >= KVRT_OK && e->draft) status = kvi_draft_check(e, error);
    if (status >= KVRT_OK) status = kvi_spill_open(e, error);
    if (status >= KVRT_OK) {
        e->handle = kvi_handle_new(KVI_HANDLE_ENGINE, e);
        if (!e->handle) status = kvi_error_set(error, KVRT_STATE, "engine: 1024 objects are open, need a free place");
    }
    if (status >= KVRT_OK) kvi_reasoning_find_marks(e);
    if (status >= KVRT_OK) tell_warnings(e);
    kvi_log_warnings_to(NULL, NULL);
    kvi_arithmetic_leave();
    (void)kvi_account_use(before);
    if (status < KVRT_OK) {
        kvi_engine_free(e);
        return status;
    }
    kvi_log(KVI_LOG_INFO, "engine open in %llu us: %s on %s, context %u", (unsigned long long)(kvi_os_now_us() - start),
            e->config.family ? e->config.family : "a tokenizer",
            e->device ? e->backend->describe(e->device) : "no device", e->plan.ctx_size);
    *out = e->handle;
    return KVRT_OK;
}

kvrt_status kvrt_engine_close(kvrt_engine handle, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_engine_enter(handle, KVI_CLOSE, &e, error));
    const void *handles[KVI_MAX_HANDLES];
    uint32_t n = 0;
    handles[n++] = e->handle;
    for (const kvi_session *s = e->sessions; s; s = s->next) handles[n++] = s->handle;
    KVI_TRY(kvi_close_handles(handles, n, e, error));
    kvi_worker_stop(e);
    kvi_engine_free(e);
    return KVRT_OK;
}

/* -------------------------------------------------------------------------------------------------------- facts --- */
kvrt_status kvrt_engine_get_info(kvrt_engine handle, kvrt_engine_info *out, kvrt_error *error)
{
    kvi_engine *e;
    KVI_TRY(kvi_struct_check(out, "kvrt_engine_info", error));
    KVI_TRY(kvi_engine_enter(handle, KVI_READ, &e, error));
    const kvi_model_config *c = &e->config;
    const bool own = e->device && e->backend->own_memory,
               maps = e->checkpoint && strcmp(kvi_options_string(e->options, "model.io"), "map") == 0;
    const uint64_t host = kvi_engine_host_bytes(e), cached = (uint64_t)e->store.idle_units * KVI_KV_UNIT;
    kvrt_engine_info info = {.n_layers = c->n_layers,
                             .n_heads = c->attention[0].n_heads,
                             .n_kv_heads = c->attention[0].n_kv_heads,
                             .head_dim = c->attention[0].head_dim,
                             .hidden_size = c->hidden_size,
                             .ffn_size = c->ffn_size,
                             .vocab_size = c->vocab_size,
                             .ctx_size = e->plan.ctx_size,
                             .ctx_model = c->ctx_model,
                             .n_params = e->weights.n_params,
                             .weight_bytes = e->weights.bytes,
                             .workspace_bytes = e->plan.workspace_bytes,
                             .kv_pool_bytes = e->plan.limits.pool_bytes,
                             .kv_pool_used_bytes = kvi_pool_used_bytes(&e->store.pool) - cached,
                             .kv_pool_cached_bytes = cached,
                             .architecture = c->family ? c->family : "",
                             .backend = e->device ? e->backend->name : "",
                             .device = e->device ? e->backend->describe(e->device) : "",
                             .kv_format = kvi_options_string(e->options, "kv.format"),
                             .weight_dtype = e->device ? kvi_form(e->weights.form)->name : "",
                             .bos_id = c->bos_id,
                             .eos_id = c->n_eos ? c->eos_ids[0] : -1,
                             .n_sessions = e->n_sessions,
                             .resident_bytes = host + (own ? e->plan.total_bytes - e->plan.context_bytes : 0),
                             .weight_read_bytes = e->weights.read_bytes,
                             .mapped_bytes = maps && !own ? e->weights.bytes - e->weights.own_bytes : 0,
                             .host_bytes = host,
                             .planned_bytes = e->plan.total_bytes,
                             .budget_bytes = e->plan.budget_bytes};
    for (uint32_t g = 0; g < e->program.program.n_groups; g++)
        if (!e->program.groups[g].window)
            info.kv_bytes_per_token +=
                (double)kvi_kv_page_bytes(e->format.body, &e->program.groups[g].shape) / KVI_KV_PAGE;
    kvi_struct_write(out, &info, sizeof info);
    kvi_engine_leave(e, KVI_READ);
    return KVRT_OK;
}

uint64_t kvi_engine_host_bytes(const kvi_engine *e)
{
    return kvi_account_bytes(e->account) + (e->draft ? kvi_account_bytes(e->draft->account) : 0);
}

bool kvi_is_eos(const kvi_engine *e, int32_t id)
{
    for (uint32_t i = 0; i < e->config.n_eos; i++)
        if (e->config.eos_ids[i] == id) return true;
    return false;
}

static kvrt_status need_tokenizer(const kvi_engine *e, kvrt_error *error)
{
    return e->tokenizer ? KVRT_OK : kvi_error_set(error, KVRT_STATE, "engine: a synthetic shape has no tokenizer");
}

kvrt_status kvrt_tokenize(kvrt_engine handle, const char *text, int64_t len, uint32_t flags, int32_t *ids, uint64_t cap,
                          uint64_t *n, kvrt_error *error)
{
    kvi_engine *e;
    if (!text || !n || len < -1 || (cap && !ids))
        return kvi_error_set(error, KVRT_ARG, "kvrt_tokenize: text, n or ids is NULL, or len negative");
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvi_ids list = {0};
    kvrt_status status = need_tokenizer(e, error);
    if (status >= KVRT_OK)
        status = kvi_tokenizer_encode(e->tokenizer, text, len < 0 ? strlen(text) : (size_t)len, flags, &list, error);
    if (status >= KVRT_OK) {
        size_t copied = list.len < cap ? list.len : cap;
        if (copied) memcpy(ids, list.data, copied * sizeof *ids);
        *n = list.len;
        status = list.len > cap ? KVRT_PARTIAL : KVRT_OK;
    }
    kvi_ids_free(&list);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}

kvrt_status kvrt_detokenize(kvrt_engine handle, const int32_t *ids, uint64_t n, uint32_t flags, char *text,
                            uint64_t cap, uint64_t *len, kvrt_error *error)
{
    kvi_engine *e;
    if (!len || (n && !ids) || (cap && !text))
        return kvi_error_set(error, KVRT_ARG, "kvrt_detokenize: ids, text or len is NULL");
    KVI_TRY(kvi_engine_enter(handle, KVI_LOOK, &e, error));
    kvi_buf out = {0};
    kvrt_status status = need_tokenizer(e, error);
    for (uint64_t i = 0; i < n && status >= KVRT_OK; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->config.vocab_size)
            status = kvi_error_set(error, KVRT_ARG, "token %llu: id %d, need 0..%u", (unsigned long long)i, ids[i],
                                   e->config.vocab_size - 1);
    if (status >= KVRT_OK) status = kvi_tokenizer_decode(e->tokenizer, ids, n, flags, &out, error);
    if (status >= KVRT_OK) {
        size_t copied = out.len < cap ? out.len : cap;
        if (copied) memcpy(text, out.data, copied);
        *len = out.len;
        status = out.len > cap ? KVRT_PARTIAL : KVRT_OK;
    }
    kvi_buf_free(&out);
    kvi_engine_leave(e, KVI_LOOK);
    return status;
}
