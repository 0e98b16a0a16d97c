/* sections.c - see sections.h. */
#include "sections.h"

#include <string.h>

bool kvi_known_marks(uint32_t index, kvi_marks *out)
{
    static const char *const known[][2] = {{"<think>", "</think>"},
                                           {"<|START_THINKING|>", "<|END_THINKING|>"},
                                           {"[THINK]", "[/THINK]"},
                                           {"<seed:think>", "</seed:think>"},
                                           {"<|begin_of_thought|>", "<|end_of_thought|>"},
                                           {"<thinking>", "</thinking>"},
                                           {"<reasoning>", "</reasoning>"},
                                           {"<thought>", "</thought>"}};
    if (index >= sizeof known / sizeof known[0]) return false;
    *out = (kvi_marks){.open = known[index][0], .close = known[index][1], .open_id = -1, .close_id = -1};
    return true;
}

kvrt_status kvi_sections_reserve(kvi_sections *s, size_t max_bytes, kvrt_error *error)
{
    void *data = s->out.data;
    const bool ok = kvi_mem_grow(&data, &s->out.cap, max_bytes + KVI_MARK_BYTES + 1, 1);
    s->out.data = data;
    return ok ? KVRT_OK : kvi_error_nomem(error, max_bytes, "reasoning sections");
}

void kvi_sections_free(kvi_sections *s)
{
    kvi_buf_free(&s->out);
    memset(s, 0, sizeof *s);
}

/* Takes one byte. What is held is always a proper prefix of the mark: bytes leave at its front until that is true again. */
static bool take_byte(kvi_sections *s, const char *mark, size_t mark_len, char byte)
{
    s->held[s->n_held++] = byte;
    while (s->n_held && memcmp(s->held, mark, s->n_held) != 0) {
        kvi_buf_append_byte(&s->out, s->held[0]);
        memmove(s->held, s->held + 1, --s->n_held);
    }
    return s->n_held == mark_len;
}

bool kvi_sections_push(kvi_sections *s, const char *bytes, size_t len, size_t *used)
{
    const char *mark = s->reasoning ? s->marks.close : s->marks.open;
    const bool in_bytes = mark && s->marks.open_id < 0;
    const size_t mark_len = in_bytes ? strlen(mark) : 0;
    kvi_buf_clear(&s->out);
    if (!in_bytes) kvi_buf_append(&s->out, bytes, len);
    for (*used = in_bytes ? 0 : len; *used < len;)
        if (take_byte(s, mark, mark_len, bytes[(*used)++])) {
            s->n_held = 0;
            return true;
        }
    return false;
}

void kvi_sections_finish(kvi_sections *s)
{
    kvi_buf_clear(&s->out);
    kvi_buf_append(&s->out, s->held, s->n_held);
    s->n_held = 0;
}

void kvi_sections_turn(kvi_sections *s)
{
    s->reasoning = !s->reasoning;
    s->n_held = 0;
}
