/* chat_wrap.c - an answer on a terminal, broken at spaces instead of in the middle of words. A word is held until it is known to end, which
 * is one token later. Wide characters (Chinese, Japanese, Korean) may break anywhere but before closing and behind opening marks. Never used
 * for pipes: what is added here is not the model's text. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "chat.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#define TAB 8u

/* Asked for every word, so that a new window size counts at once. 0: nobody knows. */
static unsigned columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* The character at the beginning of valid UTF-8. */
static uint32_t character(const char *text, size_t len, size_t *bytes)
{
    const unsigned char *c = (const unsigned char *)text;
    *bytes = c[0] < 0x80 ? 1 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : 4;
    if (*bytes > len) *bytes = len;
    uint32_t cp = *bytes == 1 ? c[0] : c[0] & (0x7fu >> *bytes);
    for (size_t i = 1; i < *bytes; i++) cp = cp << 6 | (c[i] & 63u);
    return cp;
}

static unsigned width_of(uint32_t cp)
{
    if (cp < 0x20 || cp == 0x7f) return 0;
    const int width = wcwidth((wchar_t)cp);
    return width < 0 ? 1 : (unsigned)width;
}

static bool is_one_of(uint32_t cp, const wchar_t *marks) { return cp && wcschr(marks, (wchar_t)cp) != NULL; }

static bool breaks_between(uint32_t before, uint32_t cp)
{
    if (!before || width_of(cp) == 0 || (width_of(before) < 2 && width_of(cp) < 2)) return false;
    return !is_one_of(cp, L"、。，．：；！？）］｝」』】〉》〕ー々…—,.:;!?)]}") &&
           !is_one_of(before, L"（［｛「『【〈《〔([{");
}

static void advance(chat_wrap *w, const char *text, size_t len, unsigned edge)
{
    for (size_t i = 0, bytes; i < len; i += bytes) {
        const uint32_t cp = character(text + i, len - i, &bytes);
        const unsigned width = cp == '\t' ? TAB - w->column % TAB : width_of(cp);
        w->column = edge && w->column + width > edge ? width : w->column + width;
    }
}

static void emit(chat_wrap *w, const chat_text *text, unsigned edge)
{
    chat_append(&w->out, text->data, text->len);
    advance(w, text->data, text->len, edge);
}

/* The gap and what is held of the word go out, on the next row when they do not fit on this one. `more`: the word goes on. */
static void flush_word(chat_wrap *w, bool more)
{
    const unsigned edge = columns();
    if (w->word.len && !w->begun) {
        chat_wrap ahead = {.column = w->column};
        advance(&ahead, w->gap.data, w->gap.len, 0);
        if (edge && w->column && ahead.column + w->width > edge) {
            chat_append(&w->out, "\n", 1);
            w->column = 0;
        } else emit(w, &w->gap, edge);
        chat_clear(&w->gap);
    }
    if (w->word.len) emit(w, &w->word, edge);
    if (w->word.len) chat_clear(&w->word);
    w->width = 0;
    w->begun = more;
    if (!more) w->before = 0;
}

static void end_row(chat_wrap *w)
{
    flush_word(w, false);
    if (w->gap.len) chat_clear(&w->gap); /* spaces at the end of a row */
    chat_append(&w->out, "\n", 1);
    w->column = 0;
}

bool chat_wrap_text(chat_wrap *w, const char *text, size_t len)
{
    for (size_t i = 0, bytes; i < len; i += bytes) {
        const uint32_t cp = character(text + i, len - i, &bytes);
        if (cp == '\n') end_row(w);
        else if (cp == ' ' || cp == '\t') {
            flush_word(w, false);
            chat_append(&w->gap, text + i, 1);
        } else {
            if (breaks_between(w->before, cp)) flush_word(w, false);
            chat_append(&w->word, text + i, bytes);
            w->width += width_of(cp);
            if (width_of(cp)) w->before = cp;
            const unsigned edge = columns();
            if (edge && w->width >= edge) flush_word(w, true); /* longer than a row: the terminal breaks it */
        }
    }
    return chat_wrap_write(w);
}

bool chat_wrap_write(chat_wrap *w)
{
    bool good = !w->out.len || command_write(w->out.data, w->out.len);
    if (w->out.len) chat_clear(&w->out);
    return good;
}

bool chat_wrap_flush(chat_wrap *w)
{
    flush_word(w, false);
    if (w->gap.len) {
        emit(w, &w->gap, columns());
        chat_clear(&w->gap);
    }
    return chat_wrap_write(w);
}

void chat_wrap_free(chat_wrap *w)
{
    chat_free(&w->gap);
    chat_free(&w->word);
    chat_free(&w->out);
    *w = (chat_wrap){.column = 0};
}
