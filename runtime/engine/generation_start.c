/* generation_start.c - a request from options: sampler, random numbers, stop strings, limits. What fails here leaves the session as it was. */
#include "generation_parts.h"
#include "../base/json.h"

#include <string.h>

#define PUSH_BYTES 1024u /* of one token; a longer one makes buffers grow in a step */

/* ------------------------------------------------------------------------------------------------------- sampler --- */
static bool parse_bias(const char *item, kvi_logit_bias *out)
{
    const char *equals = strchr(item, '=');
    double id, bias;
    bool banned = equals && strcmp(equals + 1, "-inf") == 0;
    if (!equals || !kvi_parse_f64(item, (size_t)(equals - item), &id)) return false;
    if (!banned && !kvi_parse_f64(equals + 1, strlen(equals + 1), &bias)) return false;
    if (id < 0 || id > 2147483647.0 || id != (double)(int32_t)id) return false;
    *out = (kvi_logit_bias){(int32_t)id, banned ? -__builtin_inff() : (float)bias};
    return true;
}

static kvrt_status start_sampler(kvi_session *s, const kvrt_options *o, kvi_sampler *sampler, kvrt_error *error)
{
    uint32_t n_bias = kvi_options_list_len(o, "sample.logit_bias");
    kvi_logit_bias *bias = kvi_mem_zalloc(n_bias + 1u, sizeof *bias);
    if (!bias) return kvi_error_nomem(error, n_bias * sizeof *bias, "logit bias");
    kvrt_status status = KVRT_OK;
    for (uint32_t i = 0; i < n_bias && status >= KVRT_OK; i++) {
        const char *item = kvi_options_list_item(o, "sample.logit_bias", i, NULL);
        if (!parse_bias(item, &bias[i]))
            status =
                kvi_error_set(error, KVRT_ARG,
                              "option sample.logit_bias: found '%.60s', need ID=BIAS such as 42=-5 or 42=-inf", item);
    }
    kvi_sampler_params params = {.temperature = (float)kvi_options_f64(o, "sample.temperature"),
                                 .top_k = (uint32_t)kvi_options_i64(o, "sample.top_k"),
                                 .top_p = (float)kvi_options_f64(o, "sample.top_p"),
                                 .min_p = (float)kvi_options_f64(o, "sample.min_p"),
                                 .repeat_penalty = (float)kvi_options_f64(o, "sample.repeat_penalty"),
                                 .frequency_penalty = (float)kvi_options_f64(o, "sample.frequency_penalty"),
                                 .presence_penalty = (float)kvi_options_f64(o, "sample.presence_penalty"),
                                 .repeat_last = (uint32_t)kvi_options_i64(o, "sample.repeat_last"),
                                 .bias = bias,
                                 .n_bias = n_bias};
    if (status >= KVRT_OK)
        status = kvi_sampler_init(sampler, &params, (int32_t)s->engine->config.vocab_size, &s->gen.luck.random, error);
    kvi_mem_free(bias);
    return status;
}

/* Random numbers go on from call to call. They begin anew with a seed that was not given before; without one, with a random seed
 * whenever the generation does not continue the text of the last one. */
static void start_luck(kvi_luck *luck, const kvrt_options *o, bool goes_on)
{
    const int64_t asked = kvi_options_i64(o, "sample.seed");
    const bool given = asked >= 0;
    if (given ? luck->given && luck->seed == (uint64_t)asked : luck->begun && !luck->given && goes_on) return;
    *luck = (kvi_luck){.seed = given ? (uint64_t)asked : kvi_os_random() >> 11, .begun = true, .given = given};
    kvi_random_seed(&luck->random, luck->seed);
}

/* ---------------------------------------------------------------------------------------------------------- text --- */
static kvrt_status start_stream(const kvi_generation *gen, const kvrt_options *o, kvi_stream *stream, kvrt_error *error)
{
    uint32_t n = kvi_options_list_len(o, "gen.stop");
    kvi_stop *stops = kvi_mem_zalloc(n + 1u, sizeof *stops);
    if (!stops) return kvi_error_nomem(error, n * sizeof *stops, "stop strings");
    for (uint32_t i = 0; i < n; i++) {
        uint64_t len;
        stops[i].text = kvi_options_list_item(o, "gen.stop", i, &len);
        stops[i].len = len;
    }
    kvrt_status status = kvi_stream_init(stream, stops, n, error);
    kvi_mem_free(stops);
    if (status >= KVRT_OK && gen->goes_on) status = kvi_stream_take(stream, &gen->stream, error);
    if (status >= KVRT_OK) status = kvi_stream_reserve(stream, PUSH_BYTES + stream->pending.len, error);
    return status;
}

/* ------------------------------------------------------------------------------------------------------- request --- */
kvrt_status kvi_generation_start(kvi_session *s, const kvrt_options *options, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    kvrt_options *o = NULL;
    kvi_sampler sampler = {0};
    kvi_stream stream = {0};
    bool inside = gen->sections.reasoning;
    kvi_channel_state channel = gen->channel;
    kvi_constraint constraint = {0};
    kvi_draft draft;
    kvi_arena arena;
    const kvi_json_value *tools = NULL;
    KVI_TRY(kvi_options_check_scope(options, s->options, KVRT_SCOPE_CALL, error));
    KVI_TRY(kvrt_options_clone(s->options, &o, error));
    kvrt_status status = kvi_options_merge(o, options, error);
    if (status >= KVRT_OK) status = kvi_draft_begin(s, o, &draft, error);
    if (status >= KVRT_OK) status = start_sampler(s, o, &sampler, error);
    if (status >= KVRT_OK) status = start_stream(gen, o, &stream, error);
    if (status >= KVRT_OK) status = kvi_sections_reserve(&gen->sections, PUSH_BYTES, error);
    if (status >= KVRT_OK && !gen->goes_on) status = kvi_reasoning_begins(s, &inside, &channel, error);
    if (status >= KVRT_OK) status = kvi_tool_calls_read(o, &arena, &tools, error);
    if (status >= KVRT_OK) {
        status = kvi_constraint_make(s, o, &constraint, error);
        if (status < KVRT_OK) kvi_arena_free(&arena);
    }
    if (status < KVRT_OK) {
        kvi_sampler_free(&sampler);
        kvi_stream_free(&stream);
    } else {
        start_luck(&gen->luck, o, gen->goes_on);
        kvi_stream_free(&gen->stream);
        gen->stream = stream;
        if (!gen->goes_on) gen->decode = (kvi_decode_start){.started = true};
        const bool sections = kvi_options_bool(o, "gen.reasoning");
        gen->sections.marks = sections ? s->engine->marks : (kvi_marks){0};
        gen->sections.reasoning = sections && inside;
        gen->channels = sections ? s->engine->channels : (kvi_channels){0};
        gen->channel = channel;
        kvi_tool_calls_begin(s, &arena, tools, gen->goes_on);
        kvi_constraint_free(&gen->constraint);
        gen->constraint = constraint;
        if (!gen->goes_on) gen->n_settled = s->n_tokens;
        gen->sampler = sampler;
        gen->draft = draft;
        kvi_generation_renew(s);
        gen->max_tokens = kvi_options_i64(o, "gen.max_tokens");
        if (gen->max_tokens < 0) gen->max_tokens = INT64_MAX;
        gen->ignore_eos = kvi_options_bool(o, "gen.ignore_eos");
        gen->token_events = kvi_options_bool(o, "gen.token_events");
        gen->top_wanted = gen->token_events ? (int32_t)kvi_options_i64(o, "gen.top_logprobs") : 0;
        gen->n_top = 0;
    }
    kvrt_options_destroy(o);
    return status;
}
