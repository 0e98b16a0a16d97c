/* json_tree.h - a JSON text as a tree that knows where everything in it stands, so that messages can say so. */
#ifndef KVI_JSON_TREE_H
#define KVI_JSON_TREE_H
#include "../base/json.h"

typedef struct kvi_json_value {
    kvi_json_type type;
    const char *text; /* STRING: unescaped; NUMBER: as it is written */
    size_t len;
    uint32_t n;      /* children */
    const char *key; /* within an object: unescaped */
    size_t key_len;
    uint32_t index; /* within an array */
    uint32_t note;  /* for whoever works with the tree; 0 at first */
    struct kvi_json_value *parent, *first, *last, *next;
} kvi_json_value;

/* `name` is the text's in messages. Everything lives in the arena. Errors: FORMAT-like ones as KVRT_GRAMMAR, NOMEM_HOST. */
kvrt_status kvi_json_tree(const char *text, size_t len, const char *name, kvi_arena *arena, kvi_json_value **out,
                          kvrt_error *error);
/* A member of an object; NULL: none, or no object. */
kvi_json_value *kvi_json_get(const kvi_json_value *object, const char *key);
kvi_json_value *kvi_json_get_n(const kvi_json_value *object, const char *key, size_t len);
bool kvi_json_is_text(const kvi_json_value *value, const char *text);
/* Appends the JSON pointer of a value: "/properties/a~1b/0"; of the whole text "". */
void kvi_json_pointer(const kvi_json_value *value, kvi_buf *out);
/* The value at a pointer; NULL: there is none. */
kvi_json_value *kvi_json_at(kvi_json_value *root, const char *pointer, size_t len);
/* Equal as JSON values: numbers by value, objects in any order. */
bool kvi_json_equal(const kvi_json_value *x, const kvi_json_value *y);

#endif
