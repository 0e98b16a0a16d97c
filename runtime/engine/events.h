/* events.h - news of submitted requests, from whoever drives to whoever polls. Of bounded size: a session is not computed for while there is no room
 * for what its next step may say, so that a host that does not poll stops its engine and loses nothing. A token longer than KVI_EVENT_TEXT may
 * make it grow. Everything here may be called from any thread; one at a time polls. */
#ifndef KVI_EVENTS_H
#define KVI_EVENTS_H
#include "../base/mem.h"
#include "../base/os.h"

#define KVI_EVENTS_BYTES (128u << 10) /* what a step of KVI_BATCH_ROWS sessions may say fits in it */
#define KVI_EVENT_TEXT 1024u          /* bytes of a token that are reckoned with */

typedef struct kvi_events {
    kvi_mutex lock;
    char *data; /* records [first, end) of `cap` bytes: a kvrt_event, its text, NUL */
    size_t first, end, cap;
    char *current; /* text of the event that was polled last */
    size_t cap_current;
    bool is_news; /* something came since the last kvi_events_news */
} kvi_events;

kvrt_status kvi_events_open(kvi_events *events, kvrt_error *error);
void kvi_events_close(kvi_events *events); /* zeroes are fine */
uint64_t kvi_events_host_bytes(void);

/* Bytes that may be added before the host polls. `text_bytes` of text in `n` events take kvi_events_need of them. */
size_t kvi_events_room(kvi_events *events);
size_t kvi_events_need(uint32_t n, size_t text_bytes);
/* A kvrt_event_fn whose user is the queue: adds a copy. */
int32_t kvi_events_push(const kvrt_event *event, void *events);
/* The oldest event; its text is valid until the next call. DONE: there is none. */
kvrt_status kvi_events_poll(kvi_events *events, kvrt_event *out, kvrt_error *error);
/* Whether anything came since this was asked last. */
bool kvi_events_news(kvi_events *events);

#endif
