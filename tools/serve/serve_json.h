/* serve_json.h - a strict reader of JSON (RFC 8259) for bodies of requests: a tree of nodes over the text, which stays where it is, so
 * that a part can be handed on as it stands. Refuses what the RFC does: comments, trailing commas, lone surrogates, bytes that are not
 * UTF-8; and nesting beyond SERVE_JSON_DEPTH and more than SERVE_JSON_NODES values, so that a small body cannot take much memory or
 * stack. A name that stands twice in an object means its last value. */
#ifndef KVRT_SERVE_JSON_H
#define KVRT_SERVE_JSON_H
#include "serve_text.h"

#include <stdint.h>

#define SERVE_JSON_DEPTH 64u
#define SERVE_JSON_NODES (1u << 20)

typedef enum serve_json_type {
    SERVE_NULL,
    SERVE_FALSE,
    SERVE_TRUE,
    SERVE_NUMBER,
    SERVE_STRING,
    SERVE_ARRAY,
    SERVE_OBJECT
} serve_json_type;

typedef struct serve_node {
    uint32_t start, len;         /* of the value in the text; a string with its quotes */
    uint32_t key_start, key_len; /* of its name in an object, without quotes, as spelled */
    uint32_t child, next;        /* nodes; 0: none (node 0 is the root) */
    uint32_t type;               /* serve_json_type */
} serve_node;

typedef struct serve_json {
    const char *text; /* borrowed */
    size_t len;
    serve_node *nodes; /* (n) */
    uint32_t n, cap;
    size_t at;         /* while reading, and where it failed */
    const char *error; /* static: what is wrong at `at`; NULL: nothing */
} serve_json;

/* False: `error` and `at` say what is wrong where. serve_json_free in any case. */
bool serve_json_read(serve_json *json, const char *text, size_t len);
void serve_json_free(serve_json *json);
/* The member of an object, or NULL: also when `of` is NULL or no object, or the value is null. */
const serve_node *serve_json_get(const serve_json *json, const serve_node *of, const char *name);
/* The first member or item, and the next one; NULL: none. */
const serve_node *serve_json_child(const serve_json *json, const serve_node *of);
const serve_node *serve_json_next(const serve_json *json, const serve_node *of);
/* However it is spelled: a client may write "m\u006fdel". */
bool serve_json_key_is(const serve_json *json, const serve_node *node, const char *name);
/* A string's text without escapes, appended. */
void serve_json_string(const serve_json *json, const serve_node *node, serve_text *out);
bool serve_json_is(const serve_json *json, const serve_node *node, const char *text); /* a string of this text */
bool serve_json_f64(const serve_json *json, const serve_node *node, double *out);
bool serve_json_i64(const serve_json *json, const serve_node *node, int64_t *out); /* whole numbers, 1e3 and 4.0 too */
const char *serve_json_type_name(const serve_node *node);
/* Bytes of the UTF-8 character at the beginning, 0 when there is none. */
size_t serve_utf8_length(const char *text, size_t len);

#endif
