/* chat_view.c - an answer on the screen: reasoning between <think> and </think> dimmed or hidden, the rest as it is, rows
 * broken between words. Never colours or breaks what goes to a pipe. */
#include "chat.h"

#include <string.h>

static void put(chat_view *v, const char *text, size_t len, bool thinking)
{
    if (!len || v->closed || (thinking && v->hide_thinking)) return;
    if (v->colour && thinking != v->dim) {
        v->dim = thinking;
        if (v->wraps && !chat_wrap_flush(&v->wrap)) v->closed = true;
        if (!command_write(thinking ? "\033[2m" : "\033[0m", 4)) v->closed = true;
    }
    if (!(v->wraps ? chat_wrap_text(&v->wrap, text, len) : command_write(text, len))) v->closed = true;
}

void chat_view_start(chat_view *v, bool in_thinking)
{
    chat_clear(&v->pending);
    v->in_thinking = in_thinking;
    v->dim = false;
    chat_wrap_free(&v->wrap);
    if (in_thinking && v->hide_thinking && command_is_terminal(stderr)) fprintf(stderr, "(thinking)\n");
}

/* Length of the longest end of text that begins `marker`. */
static size_t overlap(const chat_text *t, const char *marker)
{
    size_t n = strlen(marker) - 1;
    if (n > t->len) n = t->len;
    while (n && memcmp(t->data + t->len - n, marker, n) != 0) n--;
    return n;
}

void chat_view_text(chat_view *v, const char *text, size_t len)
{
    chat_append(&v->pending, text, len);
    for (;;) {
        const char *marker = v->in_thinking ? "</think>" : "<think>";
        char *at = strstr(v->pending.data, marker);
        size_t n = at ? (size_t)(at - v->pending.data) : v->pending.len - overlap(&v->pending, marker);
        bool thinking = v->in_thinking;
        if (at && thinking) n += strlen(marker); /* the markers belong to the reasoning */
        put(v, v->pending.data, n, thinking);
        if (at && !thinking) v->in_thinking = true;
        if (at && thinking) v->in_thinking = false;
        memmove(v->pending.data, v->pending.data + n, v->pending.len - n + 1);
        v->pending.len -= n;
        if (at && !thinking) { /* show the opening marker as reasoning, then go on behind it */
            put(v, v->pending.data, strlen(marker), true);
            memmove(v->pending.data, v->pending.data + strlen(marker), v->pending.len - strlen(marker) + 1);
            v->pending.len -= strlen(marker);
        }
        if (!at) return;
    }
}

void chat_view_end(chat_view *v)
{
    if (v->pending.len) put(v, v->pending.data, v->pending.len, v->in_thinking);
    chat_clear(&v->pending);
    if (v->wraps && !v->closed) v->closed = !chat_wrap_flush(&v->wrap);
    if (v->dim && !v->closed) v->closed = !command_write("\033[0m", 4);
    v->dim = false;
    command_progress_clear(&v->progress);
}
