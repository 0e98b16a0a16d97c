/* serve_text.h - text that grows, and values written as JSON. A server lives on when memory is out: the text then notes it, takes
 * nothing more, and whoever sends it looks at `failed` once. */
#ifndef KVRT_SERVE_TEXT_H
#define KVRT_SERVE_TEXT_H
#include <stdbool.h>
#include <stddef.h>

typedef struct serve_text {
    char *data; /* (len) and a NUL; NULL while empty */
    size_t len, cap;
    bool failed;
} serve_text;

void serve_put(serve_text *t, const char *data, size_t len);
void serve_puts(serve_text *t, const char *text);
__attribute__((format(printf, 2, 3))) void serve_putf(serve_text *t, const char *format, ...); /* up to 511 bytes */
/* As a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void serve_put_json(serve_text *t, const char *data, size_t len);
void serve_put_json_str(serve_text *t, const char *text);
void serve_text_clear(serve_text *t);
void serve_text_free(serve_text *t);

#endif
