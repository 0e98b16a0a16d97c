/* serve_text.c - see serve_text.h. */
#include "serve_text.h"
#include "serve_json.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void serve_put(serve_text *t, const char *data, size_t len)
{
    if (t->failed) return;
    if (t->len + len + 1 > t->cap) {
        const size_t cap = (t->len + len + 1) * 2;
        char *grown = realloc(t->data, cap);
        if (!grown) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->cap = cap;
    }
    if (len) memcpy(t->data + t->len, data, len);
    t->len += len;
    t->data[t->len] = 0;
}

void serve_puts(serve_text *t, const char *text) { serve_put(t, text, strlen(text)); }

void serve_putf(serve_text *t, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof line) t->failed = true;
    else serve_put(t, line, (size_t)n);
}

void serve_put_json(serve_text *t, const char *data, size_t len)
{
    size_t plain = 0; /* where what is not yet written begins */
    serve_put(t, "\"", 1);
    for (size_t i = 0; i < len;) {
        const unsigned char c = (unsigned char)data[i];
        const size_t n = serve_utf8_length(data + i, len - i);
        if (n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            i += n;
            continue;
        }
        serve_put(t, data + plain, i - plain);
        if (!n) serve_puts(t, "\xef\xbf\xbd");
        else if (c == '"' || c == '\\') serve_putf(t, "\\%c", c);
        else if (c == '\n') serve_puts(t, "\\n");
        else if (c == '\t') serve_puts(t, "\\t");
        else serve_putf(t, "\\u%04x", c);
        plain = ++i;
    }
    serve_put(t, data + plain, len - plain);
    serve_put(t, "\"", 1);
}

void serve_put_json_str(serve_text *t, const char *text) { serve_put_json(t, text, strlen(text)); }

void serve_text_clear(serve_text *t)
{
    t->len = 0;
    if (t->data) t->data[0] = 0;
}

void serve_text_free(serve_text *t)
{
    free(t->data);
    *t = (serve_text){0};
}
