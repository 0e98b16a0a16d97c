/* channels.c - see channels.h. */
#include "channels.h"

#include <string.h>

bool kvi_known_channels(uint32_t index, const char *spelled[4])
{
    static const char *const known[][4] = {{"<|start|>", "<|channel|>", "<|message|>", "<|end|>"},
                                           {NULL, "<|channel>", NULL, "<channel|>"}};
    if (index >= sizeof known / sizeof known[0]) return false;
    for (int i = 0; i < 4; i++) spelled[i] = known[index][i];
    return true;
}

static bool is_reasoning(const kvi_channel_state *s)
{
    return (s->n == 8 && memcmp(s->name, "analysis", 8) == 0) || (s->n == 7 && memcmp(s->name, "thought", 7) == 0);
}

/* Bytes of a header: the name is its first word. True when the header ends among them, behind *used. */
static bool take_header(const kvi_channels *channels, kvi_channel_state *s, const char *bytes, size_t len, size_t *used)
{
    for (*used = 0; *used < len;) {
        const char byte = bytes[(*used)++];
        if (s->n_header < sizeof s->text) s->text[s->n_header++] = byte;
        if (byte == '\n' && channels->message < 0) return true;
        if (byte == ' ' || byte == '\n') s->in_name = s->in_name && s->n == 0;
        else if (s->in_name && s->n < sizeof s->name) s->name[s->n++] = byte;
    }
    return false;
}

bool kvi_channels_take(const kvi_channels *channels, kvi_channel_state *s, int32_t id, const char *bytes, size_t len,
                       size_t *used, bool *reasoning)
{
    *used = len;
    if (id == channels->channel || (channels->start >= 0 && id == channels->start)) {
        if (id == channels->channel && s->header)
            s->in_name = true, s->n = 0; /* what stands before it stays: "to=..." may */
        else *s = (kvi_channel_state){.header = true, .in_name = id == channels->channel};
        return true;
    }
    if (id == channels->end) {
        *s = (kvi_channel_state){.header = channels->start >= 0};
        *reasoning = false;
        return true;
    }
    if (!s->header) return false;
    if (channels->message >= 0 ? id == channels->message : take_header(channels, s, bytes, len, used)) {
        s->header = false;
        *reasoning = is_reasoning(s);
    } else if (channels->message >= 0) (void)take_header(channels, s, bytes, len, used);
    return true;
}
