/* reasoning.c - which marks a model puts around its reasoning, and whether a text begins inside. Models with channels have no other marks. */
#include "session.h"
#include "../template/chat_template.h"

#include <string.h>

#define TAIL_TOKENS 64u /* enough for a mark and white space, spelled in single bytes */

/* A model has channels when all of their marks are tokens. */
static kvi_channels find_channels(const kvi_engine *e)
{
    const char *spelled[4];
    for (uint32_t i = 0; e->tokenizer && kvi_known_channels(i, spelled); i++) {
        int32_t ids[4] = {-1, -1, -1, -1};
        bool all = true;
        for (int k = 0; k < 4; k++) {
            if (spelled[k]) ids[k] = kvi_tokenizer_token_to_id(e->tokenizer, spelled[k], strlen(spelled[k]));
            all = all && (!spelled[k] || ids[k] >= 0);
        }
        if (all) return (kvi_channels){true, ids[0], ids[1], ids[2], ids[3]};
    }
    return (kvi_channels){0};
}

/* Marks are tokens when the vocabulary has both; else what the chat template writes. */
void kvi_reasoning_find_marks(kvi_engine *e)
{
    kvi_marks marks;
    e->channels = find_channels(e);
    e->call_format = kvi_tool_calls_format(e);
    if (e->channels.on) return;
    for (uint32_t i = 0; e->tokenizer && kvi_known_marks(i, &marks); i++) {
        marks.open_id = kvi_tokenizer_token_to_id(e->tokenizer, marks.open, strlen(marks.open));
        marks.close_id = kvi_tokenizer_token_to_id(e->tokenizer, marks.close, strlen(marks.close));
        if (marks.open_id < 0 || marks.close_id < 0) marks.open_id = marks.close_id = -1;
        const bool in_template = e->chat && kvi_chat_template_mentions(e->chat, marks.open) &&
                                 kvi_chat_template_mentions(e->chat, marks.close);
        if (marks.open_id < 0 && !in_template) continue;
        e->marks = marks;
        return;
    }
}

/* The last mark since the last end of a text or turn decides. */
static bool tokens_end_inside(const kvi_session *s)
{
    const kvi_engine *e = s->engine;
    for (uint32_t i = s->n_tokens; i-- > 0;) {
        const int32_t id = s->tokens[i];
        if (id == e->marks.open_id) return true;
        if (id == e->marks.close_id || kvi_is_eos(e, id)) return false;
    }
    return false;
}

/* Text may spell a mark anywhere, so only one that ends the prompt counts: that is where templates open a section for the model. */
static kvrt_status text_ends_inside(const kvi_session *s, bool *inside, kvrt_error *error)
{
    const kvi_engine *e = s->engine;
    const uint32_t n = s->n_tokens < TAIL_TOKENS ? s->n_tokens : TAIL_TOKENS;
    const size_t mark = strlen(e->marks.open);
    kvi_buf text = {0};
    kvrt_status status =
        kvi_tokenizer_decode(e->tokenizer, s->tokens + s->n_tokens - n, n, KVRT_DETOKENIZE_KEEP_SPECIAL, &text, error);
    size_t len = text.len;
    while (len && strchr(" \t\r\n", text.data[len - 1])) len--;
    *inside = len >= mark && memcmp(text.data + len - mark, e->marks.open, mark) == 0;
    kvi_buf_free(&text);
    return status;
}

/* The tokens since the last mark that begins something are taken again. */
static void replay_channels(const kvi_session *s, bool *inside, kvi_channel_state *channel)
{
    const kvi_channels *c = &s->engine->channels;
    uint32_t i = s->n_tokens;
    *channel = (kvi_channel_state){0};
    while (i > 0 && s->tokens[i - 1] != c->channel && s->tokens[i - 1] != c->end &&
           (c->start < 0 || s->tokens[i - 1] != c->start))
        i--;
    for (i -= i > 0; i < s->n_tokens; i++) {
        const char *bytes;
        size_t len, used;
        kvi_tokenizer_token_bytes(s->engine->tokenizer, NULL, s->tokens[i], 0, &bytes, &len);
        (void)kvi_channels_take(c, channel, s->tokens[i], bytes, len, &used, inside);
    }
}

kvrt_status kvi_reasoning_begins(const kvi_session *s, bool *inside, kvi_channel_state *channel, kvrt_error *error)
{
    *inside = false;
    if (s->engine->channels.on) return replay_channels(s, inside, channel), KVRT_OK;
    if (!s->engine->marks.open) return KVRT_OK;
    if (s->engine->marks.open_id < 0) return text_ends_inside(s, inside, error);
    *inside = tokens_end_inside(s);
    return KVRT_OK;
}
