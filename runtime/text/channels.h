/* channels.h - models that write messages with a header, which names a channel: what stands in the channel "analysis" or "thought" is reasoning,
 * everything else text; headers are neither and vanish.
 *   gpt-oss   <|start|>assistant<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
 *   Gemma 4   <|channel>thought NEWLINE ...<channel|>...
 * The one thing to know: all marks are single tokens, so that text which spells one is no mark. */
#ifndef KVI_CHANNELS_H
#define KVI_CHANNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The marks of a model, as ids. */
typedef struct kvi_channels {
    bool on;
    int32_t start;   /* a header begins, before the channel's name; -1: none */
    int32_t channel; /* the name begins */
    int32_t message; /* the header ends; -1: it ends with its line */
    int32_t end;     /* the message ends: of those with `start` a header follows, else text */
} kvi_channels;

/* The spellings of the marks of one kind of model, in the order of kvi_channels; NULL: none. `index` 0 and up; false past the end. */
bool kvi_known_channels(uint32_t index, const char *spelled[4]);

typedef struct kvi_channel_state {
    bool header, in_name;
    char name[12];
    uint32_t n, n_header;
    char text[96]; /* (n_header) the header as it stands, for who it is to */
} kvi_channel_state;

/* Takes one token. True: it is (up to *used of its len bytes) part of marks and headers; what follows belongs to reasoning or not. False: all of
 * it is of the message. */
bool kvi_channels_take(const kvi_channels *channels, kvi_channel_state *state, int32_t id, const char *bytes,
                       size_t len, size_t *used, bool *reasoning);

#endif
