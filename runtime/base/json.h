/* json.h - a bounded JSON pull reader (RFC 8259): no tree, no allocation, one pass over a caller's buffer.
 * Owns: tokens, structure, UTF-8 and escape validation. Refuses: depth above KVI_JSON_DEPTH, control characters in
 * strings, lone surrogates, trailing text, numbers out of form. The first error sticks; position is a byte offset.
 *
 *     kvi_json r;  kvi_json_init(&r, text, len);
 *     kvi_json_expect(&r, KVI_JSON_OBJECT);
 *     while (kvi_json_next_key(&r)) {
 *         if (kvi_json_key_is(&r, "dim")) dim = kvi_json_i64(&r);
 *         else kvi_json_skip(&r);
 *     }
 *     if (r.error) return kvi_json_fail(&r, "config.json", error);
 */
#ifndef KVI_JSON_H
#define KVI_JSON_H
#include "mem.h"
#include "status.h"

#define KVI_JSON_DEPTH 64

typedef enum kvi_json_type {
    KVI_JSON_NONE = 0, /* end of document, or an error */
    KVI_JSON_OBJECT,
    KVI_JSON_ARRAY,
    KVI_JSON_STRING,
    KVI_JSON_NUMBER,
    KVI_JSON_TRUE,
    KVI_JSON_FALSE,
    KVI_JSON_NULL
} kvi_json_type;

typedef struct kvi_json {
    const char *text;
    size_t len, pos;
    const char *error; /* static text, NULL while all is well */
    size_t error_pos;
    uint32_t depth;
    uint8_t closer[KVI_JSON_DEPTH];    /* '}' or ']' of each open container */
    uint8_t has_items[KVI_JSON_DEPTH]; /* a comma is due before the next item */
    /* The last string or key as it stands between the quotes (escapes unresolved), and whether it has escapes. */
    const char *str;
    size_t str_len;
    bool str_escaped;
    bool python; /* set after init: NaN, Infinity and numbers beyond a double are numbers, as Python's json has it */
} kvi_json;

void kvi_json_init(kvi_json *r, const char *text, size_t len);

/* Type of the value that comes next, without consuming it. */
kvi_json_type kvi_json_peek(kvi_json *r);

/* Enters the object or array that comes next; a value of another type is an error. */
bool kvi_json_expect(kvi_json *r, kvi_json_type container);
/* Inside an object: reads the next key into str/str_len and leaves the reader before its value. False at '}' (consumed) or on
 * error. */
bool kvi_json_next_key(kvi_json *r);
/* Inside an array: true when another element follows (reader before it). False at ']' (consumed) or on error. */
bool kvi_json_next_item(kvi_json *r);

/* Values. A value of another type is an error and gives 0, false, or an empty string. */
bool kvi_json_string(kvi_json *r); /* into str, str_len, str_escaped */
int64_t kvi_json_i64(kvi_json *r); /* integers only, "1e3" and "2.0" included; out of range is an error */
double kvi_json_f64(kvi_json *r);  /* correctly rounded for up to 17 digits, without the locale */
bool kvi_json_bool(kvi_json *r);
/* True and consumed when the next value is null. */
bool kvi_json_null(kvi_json *r);
/* Consumes any value; start and length of its text may be taken from pos before and after. */
void kvi_json_skip(kvi_json *r);
/* True when only whitespace is left; anything else is an error. */
bool kvi_json_end(kvi_json *r);

/* The last string or key, unescaped: key_is compares, copy appends UTF-8 to `out`, dup gives an owned NUL-terminated copy. */
bool kvi_json_str_is(const kvi_json *r, const char *text);
#define kvi_json_key_is kvi_json_str_is
void kvi_json_str_copy(const kvi_json *r, kvi_buf *out);
/* Unescaped bytes written to dst, which must hold str_len bytes; returns their number. */
size_t kvi_json_str_unescape(const kvi_json *r, char *dst);

/* Sets a caller's error (for semantic checks) if none is set yet. */
void kvi_json_set_error(kvi_json *r, const char *message);
/* KVRT_FORMAT: "<object>: <message> at byte N (line L, column C)". */
kvrt_status kvi_json_fail(const kvi_json *r, const char *object, kvrt_error *error);

/* Parses a decimal number (JSON grammar) without the locale. False when `text` is not exactly one number. */
bool kvi_parse_f64(const char *text, size_t len, double *out);
/* Appends text as a JSON string with quotes; invalid UTF-8 becomes U+FFFD. */
void kvi_json_write_string(kvi_buf *out, const char *text, size_t len);

#endif
