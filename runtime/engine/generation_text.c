/* generation_text.c - tokens to text, and text and news to the host. */
#include "generation_parts.h"
#include "seat.h"

#include <string.h>

/* -------------------------------------------------------------------------------------------------------- events --- */
int32_t kvi_generation_tell(kvi_session *s, kvrt_event event)
{
    event.request = s->gen.request;
    return kvi_engine_event(s->engine, s->gen.fn, s->gen.user, &event);
}

void kvi_generation_ask(kvi_session *s, kvrt_event event)
{
    const int32_t answer = kvi_generation_tell(s, event);
    if (answer == KVRT_STOP) s->gen.finish = KVRT_FINISH_CALLBACK;
    if (answer == KVRT_PAUSE) s->gen.finish = KVRT_FINISH_PAUSED;
}

void kvi_generation_tell_demotions(kvi_session *s)
{
    for (uint32_t level = 1; level < KVI_ELASTIC_LEVELS; level++) {
        char name[8];
        if (!s->demoted[level].n_pages) continue;
        kvrt_event event = {.type = KVRT_EVENT_KV_DEMOTED,
                            .done = s->demoted[level].n_pages,
                            .total = s->demoted[level].bytes,
                            .text = kvi_kv_format_name(kvi_elastic_format(level), name)};
        event.text_len = strlen(event.text);
        s->demoted[level].n_pages = 0, s->demoted[level].bytes = 0;
        kvi_generation_ask(s, event);
    }
}

void kvi_generation_tell_shift(kvi_session *s)
{
    const uint32_t n = s->shift.n_untold;
    s->shift.n_untold = 0;
    if (n) kvi_generation_ask(s, (kvrt_event){.type = KVRT_EVENT_CTX_SHIFTED, .done = n, .total = s->shift.n_dropped});
}

void kvi_generation_tell_done(kvi_session *s)
{
    kvi_generation *gen = &s->gen;
    kvrt_event event = {.type = KVRT_EVENT_DONE, .finish = gen->finish};
    size_t len = 0;
    /* What waits, for a host that does not go on. */
    if (!kvi_generation_text_is_over(gen->finish) && !gen->sections.reasoning)
        (void)kvi_stream_peek(&gen->stream, gen->sections.held, gen->sections.n_held, &event.text, &len, NULL);
    event.text_len = len;
    (void)kvi_generation_tell(s, event);
}

void kvi_generation_tell_error(kvi_session *s)
{
    const kvi_generation *gen = &s->gen;
    (void)kvi_generation_tell(s, (kvrt_event){.type = KVRT_EVENT_ERROR,
                                              .status = gen->status,
                                              .finish = gen->finish,
                                              .text = gen->error.message,
                                              .text_len = strlen(gen->error.message)});
}

/* ---------------------------------------------------------------------------------------------------------- text --- */
bool kvi_generation_text_is_over(int32_t finish)
{
    return finish == KVRT_FINISH_EOS || finish == KVRT_FINISH_STOP || finish == KVRT_FINISH_CTX_FULL ||
           finish == KVRT_FINISH_GRAMMAR;
}

/* Text of the open section. */
static void send_text(kvi_session *s, const char *text, size_t len)
{
    const int32_t type = s->gen.sections.reasoning ? KVRT_EVENT_REASONING : KVRT_EVENT_TEXT;
    if (len && type == KVRT_EVENT_TEXT && s->gen.tools.on) (void)kvi_calls_push(&s->gen.tools.calls, text, len);
    else if (len) kvi_generation_ask(s, (kvrt_event){.type = type, .text = text, .text_len = len});
}

/* The text, or this section of it, is over: what is held of a call is told. */
static kvrt_status end_calls(kvi_session *s, kvrt_error *error)
{
    kvi_tool_calls *t = &s->gen.tools;
    if (t->on && !s->gen.sections.reasoning) (void)kvi_calls_finish(&t->calls);
    const bool failed = t->calls.held.failed || t->calls.arguments.failed || t->calls.name.failed || t->out.failed;
    return failed ? kvi_error_nomem(error, t->calls.held.len, "a call of a tool") : KVRT_OK;
}

kvrt_status kvi_generation_flush(kvi_session *s, bool *stopped, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    const char *text;
    size_t len;
    kvi_sections_finish(&gen->sections);
    KVI_TRY(kvi_stream_push(&gen->stream, gen->sections.out.data, gen->sections.out.len, &text, &len, stopped, error));
    send_text(s, text, len);
    if (*stopped) return end_calls(s, error);
    KVI_TRY(kvi_stream_finish(&gen->stream, &text, &len, stopped, error));
    send_text(s, text, len);
    return end_calls(s, error);
}

/* The other section begins; what the open one withheld goes out before. */
static kvrt_status turn(kvi_session *s, bool *stopped, kvrt_error *error)
{
    KVI_TRY(kvi_generation_flush(s, stopped, error));
    kvi_sections_turn(&s->gen.sections);
    return KVRT_OK;
}

/* The bytes of one token: marks end sections, the rest is text of the one that is open. */
static kvrt_status stream_bytes(kvi_session *s, const char *bytes, size_t len, bool *stopped, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    while (len > 0 && !*stopped) {
        const char *text;
        size_t n_text, used;
        const bool mark = kvi_sections_push(&gen->sections, bytes, len, &used);
        bytes += used, len -= used;
        KVI_TRY(kvi_stream_push(&gen->stream, gen->sections.out.data, gen->sections.out.len, &text, &n_text, stopped,
                                error));
        send_text(s, text, n_text);
        if (mark && !*stopped) KVI_TRY(turn(s, stopped, error));
    }
    return KVRT_OK;
}

/* The text of an event ends in NUL; the bytes of a token, one among many in the tokenizer, do not. */
static kvrt_status tell_token(kvi_session *s, int32_t id, const char *bytes, size_t len, float logprob,
                              kvrt_error *error)
{
    kvi_buf *text = &s->gen.sections.out;
    kvi_buf_clear(text);
    kvi_buf_append(text, bytes, len);
    if (text->failed) return kvi_error_nomem(error, len, "text of a token");
    kvi_generation_ask(
        s,
        (kvrt_event){
            .type = KVRT_EVENT_TOKEN, .token = id, .text = len ? text->data : "", .text_len = len, .logprob = logprob});
    return KVRT_OK;
}

static kvrt_status tell_alternatives(kvi_session *s, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    kvi_buf *text = &gen->sections.out;
    for (int32_t i = 0; i < gen->n_top; i++) {
        const char *bytes = "";
        size_t len = 0;
        if (s->engine->tokenizer) kvi_tokenizer_token_bytes(s->engine->tokenizer, NULL, gen->top[i], 0, &bytes, &len);
        kvi_buf_clear(text);
        kvi_buf_append(text, bytes, len);
        if (text->failed) return kvi_error_nomem(error, len, "text of a token");
        kvi_generation_ask(s, (kvrt_event){.type = KVRT_EVENT_ALTERNATIVE,
                                           .token = gen->top[i],
                                           .text = len ? text->data : "",
                                           .text_len = len,
                                           .done = (uint64_t)i,
                                           .logprob = gen->top_logprobs[i]});
    }
    gen->n_top = 0;
    return KVRT_OK;
}

kvrt_status kvi_generation_put(kvi_session *s, int32_t id, float logprob, bool eos, bool *stopped, kvrt_error *error)
{
    kvi_generation *gen = &s->gen;
    const kvi_tokenizer *tokenizer = s->engine->tokenizer;
    const kvi_marks *marks = &gen->sections.marks;
    const char *bytes = "";
    size_t len = 0;
    *stopped = false;
    if (tokenizer && !eos) kvi_tokenizer_token_bytes(tokenizer, &gen->decode, id, 0, &bytes, &len);
    KVI_TRY(tell_alternatives(s, error));
    if (gen->token_events) KVI_TRY(tell_token(s, id, bytes, len, logprob, error));
    if (gen->tools.on && !eos && len == 0) kvi_tool_calls_mark(s, id, &bytes, &len);
    if (gen->channels.on) {
        bool reasoning = gen->sections.reasoning;
        size_t used;
        const bool header = gen->channel.header;
        const bool mark = kvi_channels_take(&gen->channels, &gen->channel, id, bytes, len, &used, &reasoning);
        if (mark && reasoning != gen->sections.reasoning) KVI_TRY(turn(s, stopped, error));
        if (gen->tools.on && header != gen->channel.header && !gen->sections.reasoning) (void)kvi_tool_calls_header(s);
        if (mark) bytes += used, len -= used;
    }
    if (marks->open && id == (gen->sections.reasoning ? marks->close_id : marks->open_id))
        return turn(s, stopped, error);
    return stream_bytes(s, bytes, len, stopped, error);
}
