/* embed.h - requests for hidden states: a generation (generation.h) that generates nothing, of whose prompt the rows behind the final norm are taken.
 *
 *     PREFILL: steps without logits, wide to the last token -> norm of the step's residual -> rows to the host's memory -> DONE
 *
 * The one thing to know: hidden states are not kept, so whoever wants those of all tokens computes all of them. */
#ifndef KVI_EMBED_H
#define KVI_EMBED_H
#include "../base/status.h"

struct kvi_session;
struct kvi_want;

typedef struct kvi_embed {
    float *out; /* of the host; NULL: the request is no embedding */
    int32_t pooling;
    bool normalize;
    uint32_t first;  /* position of the first row of the step under way */
    uint32_t n_done; /* positions whose rows were taken: a step may come again */
} kvi_embed;

/* Begins a request, as kvi_generation_begin does. */
kvrt_status kvi_embed_begin(struct kvi_session *session, const kvrt_embed_params *params, kvrt_event_fn fn, void *user,
                            kvrt_error *error);
struct kvi_want kvi_embed_want(struct kvi_session *session);
/* Of a step that was computed: its rows. With the last one out is what was asked for. */
kvrt_status kvi_embed_take(struct kvi_session *session, kvrt_error *error);

#endif
