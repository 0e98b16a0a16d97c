/* events.c - see events.h. */
#include "events.h"

#include <string.h>

#define ROUND(n) (((n) + 7u) & ~(size_t)7u)

uint64_t kvi_events_host_bytes(void) { return KVI_EVENTS_BYTES + 2 * KVI_EVENT_TEXT; }

kvrt_status kvi_events_open(kvi_events *q, kvrt_error *error)
{
    kvi_mutex_init(&q->lock);
    q->cap = KVI_EVENTS_BYTES;
    q->cap_current = 2 * KVI_EVENT_TEXT;
    q->data = kvi_mem_alloc(q->cap);
    q->current = kvi_mem_alloc(q->cap_current);
    return q->data && q->current ? KVRT_OK : kvi_error_nomem(error, kvi_events_host_bytes(), "event queue");
}

void kvi_events_close(kvi_events *q)
{
    if (q->cap) kvi_mutex_destroy(&q->lock);
    kvi_mem_free(q->data);
    kvi_mem_free(q->current);
    memset(q, 0, sizeof *q);
}

size_t kvi_events_need(uint32_t n, size_t text_bytes) { return n * (ROUND(sizeof(kvrt_event)) + 8u) + text_bytes; }

size_t kvi_events_room(kvi_events *q)
{
    kvi_mutex_lock(&q->lock);
    const size_t used = q->end - q->first, room = used < KVI_EVENTS_BYTES ? KVI_EVENTS_BYTES - used : 0;
    kvi_mutex_unlock(&q->lock);
    return room;
}

static bool make_room(kvi_events *q, size_t bytes)
{
    if (q->cap - q->end >= bytes) return true;
    memmove(q->data, q->data + q->first, q->end - q->first);
    q->end -= q->first;
    q->first = 0;
    void *data = q->data;
    const bool made = kvi_mem_grow(&data, &q->cap, q->end + bytes, 1);
    q->data = data;
    return made;
}

int32_t kvi_events_push(const kvrt_event *event, void *events)
{
    kvi_events *q = events;
    const size_t head = ROUND(sizeof *event), bytes = head + ROUND(event->text_len + 1);
    int32_t answer = KVRT_STOP; /* without memory for what was said the text would have a hole */
    kvi_mutex_lock(&q->lock);
    if (make_room(q, bytes)) {
        memcpy(q->data + q->end, event, sizeof *event);
        memcpy(q->data + q->end + head, event->text, event->text_len);
        q->data[q->end + head + event->text_len] = 0;
        q->end += bytes;
        q->is_news = true;
        answer = KVRT_CONTINUE;
    }
    kvi_mutex_unlock(&q->lock);
    return answer;
}

/* The event at q->first, whose text becomes the current one. */
static kvrt_status take_first(kvi_events *q, kvrt_event *event, kvrt_error *error)
{
    if (q->first == q->end) return KVRT_DONE;
    memcpy(event, q->data + q->first, sizeof *event);
    const size_t head = ROUND(sizeof *event), len = event->text_len + 1;
    void *current = q->current;
    const bool fits = kvi_mem_grow(&current, &q->cap_current, len, 1);
    q->current = current;
    if (!fits) return kvi_error_nomem(error, len, "text of an event");
    memcpy(q->current, q->data + q->first + head, len);
    event->text = q->current;
    q->first += head + ROUND(len);
    if (q->first == q->end) q->first = q->end = 0;
    return KVRT_OK;
}

kvrt_status kvi_events_poll(kvi_events *q, kvrt_event *out, kvrt_error *error)
{
    kvrt_event event;
    kvi_mutex_lock(&q->lock);
    const kvrt_status status = take_first(q, &event, error);
    kvi_mutex_unlock(&q->lock);
    if (status == KVRT_OK) kvi_struct_write(out, &event, sizeof event);
    return status;
}

bool kvi_events_news(kvi_events *q)
{
    kvi_mutex_lock(&q->lock);
    const bool is_news = q->is_news;
    q->is_news = false;
    kvi_mutex_unlock(&q->lock);
    return is_news;
}
