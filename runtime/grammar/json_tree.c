/* json_tree.c - see json_tree.h. */
#include "json_tree.h"
#include "decimal.h"

#include <string.h>

typedef struct maker {
    kvi_json reader;
    kvi_arena *arena;
    bool no_memory;
} maker;

static kvi_json_value *new_value(maker *m)
{
    kvi_json_value *v = kvi_arena_alloc(m->arena, sizeof *v);
    if (!v) m->no_memory = true;
    return v;
}

static const char *keep(maker *m, size_t *len)
{
    char *text = kvi_arena_alloc(m->arena, m->reader.str_len + 1);
    if (!text) return m->no_memory = true, "";
    *len = kvi_json_str_unescape(&m->reader, text);
    return text;
}

/* One value; its children by the caller's loop in kvi_json_tree, which needs no stack. */
static void read_scalar(maker *m, kvi_json_value *v)
{
    kvi_json *r = &m->reader;
    v->type = kvi_json_peek(r);
    if (v->type == KVI_JSON_STRING) {
        if (kvi_json_string(r)) v->text = keep(m, &v->len);
        return;
    }
    while (r->pos < r->len && strchr(" \t\r\n", r->text[r->pos])) r->pos++;
    const size_t from = r->pos;
    kvi_json_skip(r);
    v->len = r->pos - from;
    char *text = kvi_arena_strndup(m->arena, r->text + from, v->len);
    if (!text) m->no_memory = true;
    else v->text = text;
}

static void read_tree(maker *m, kvi_json_value *root)
{
    kvi_json *r = &m->reader;
    kvi_json_value *at = NULL, *v = root; /* v is to be read, a child of `at` */
    while (v && !r->error && !m->no_memory) {
        v->parent = at;
        const kvi_json_type type = kvi_json_peek(r);
        if (type == KVI_JSON_OBJECT || type == KVI_JSON_ARRAY) {
            v->type = type;
            (void)kvi_json_expect(r, type);
            at = v;
        } else read_scalar(m, v);
        /* The next child of the innermost container that has one. */
        v = NULL;
        while (at && !v && !r->error) {
            const bool object = at->type == KVI_JSON_OBJECT;
            if (!(object ? kvi_json_next_key(r) : kvi_json_next_item(r))) {
                at = at->parent;
                continue;
            }
            v = new_value(m);
            if (!v) return;
            if (object) v->key = keep(m, &v->key_len);
            v->index = at->n++;
            if (at->last) at->last->next = v;
            else at->first = v;
            at->last = v;
        }
    }
}

kvrt_status kvi_json_tree(const char *text, size_t len, const char *name, kvi_arena *arena, kvi_json_value **out,
                          kvrt_error *error)
{
    maker m = {.arena = arena};
    kvi_json_init(&m.reader, text, len);
    kvi_json_value *root = new_value(&m);
    if (root) read_tree(&m, root);
    if (!m.no_memory && !m.reader.error) (void)kvi_json_end(&m.reader);
    if (m.no_memory) return kvi_error_nomem(error, len, name);
    if (m.reader.error) {
        kvrt_error why = {.size = sizeof why};
        (void)kvi_json_fail(&m.reader, name, &why);
        return kvi_error_set(error, KVRT_GRAMMAR, "%s", why.message);
    }
    *out = root;
    return KVRT_OK;
}

kvi_json_value *kvi_json_get_n(const kvi_json_value *object, const char *key, size_t len)
{
    kvi_json_value *found = NULL;
    if (!object || object->type != KVI_JSON_OBJECT) return NULL;
    for (kvi_json_value *v = object->first; v; v = v->next) /* the last one of a name counts */
        if (v->key_len == len && memcmp(v->key, key, len) == 0) found = v;
    return found;
}
kvi_json_value *kvi_json_get(const kvi_json_value *object, const char *key)
{
    return kvi_json_get_n(object, key, strlen(key));
}

bool kvi_json_is_text(const kvi_json_value *v, const char *text)
{
    return v && v->type == KVI_JSON_STRING && v->len == strlen(text) && memcmp(v->text, text, v->len) == 0;
}

void kvi_json_pointer(const kvi_json_value *value, kvi_buf *out)
{
    const kvi_json_value *way[KVI_JSON_DEPTH + 1];
    size_t n = 0;
    for (; value && value->parent && n < KVI_JSON_DEPTH; value = value->parent) way[n++] = value;
    while (n-- > 0) {
        kvi_buf_append_byte(out, '/');
        if (way[n]->parent->type == KVI_JSON_ARRAY) {
            char digits[12];
            size_t k = sizeof digits;
            uint32_t index = way[n]->index;
            do digits[--k] = (char)('0' + index % 10);
            while (index /= 10);
            kvi_buf_append(out, digits + k, sizeof digits - k);
            continue;
        }
        for (size_t i = 0; i < way[n]->key_len; i++) {
            const char c = way[n]->key[i];
            if (c == '~' || c == '/') kvi_buf_append_str(out, c == '~' ? "~0" : "~1");
            else kvi_buf_append_byte(out, c);
        }
    }
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    const char small = (char)(c | 32);
    return small >= 'a' && small <= 'f' ? small - 'a' + 10 : -1;
}

kvi_json_value *kvi_json_at(kvi_json_value *v, const char *p, size_t len)
{
    const char *end = p + len;
    kvi_buf part = {0};
    while (v && p < end && *p == '/') {
        kvi_buf_clear(&part);
        for (p++; p < end && *p != '/'; p++) {
            char c = *p;
            if (c == '~' && p + 1 < end) c = *++p == '0' ? '~' : '/';
            else if (c == '%' && end - p > 2 && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
                c = (char)(hex(p[1]) * 16 + hex(p[2]));
                p += 2;
            }
            kvi_buf_append_byte(&part, c);
        }
        if (v->type != KVI_JSON_ARRAY) {
            v = kvi_json_get_n(v, part.data ? part.data : "", part.len);
            continue;
        }
        uint32_t index = 0;
        bool ok = part.len > 0 && part.len < 9;
        for (size_t i = 0; i < part.len && ok; i++) {
            ok = part.data[i] >= '0' && part.data[i] <= '9';
            index = index * 10 + (uint32_t)(part.data[i] - '0');
        }
        v = ok ? v->first : NULL;
        while (v && v->index != index) v = v->next;
    }
    kvi_buf_free(&part);
    return p == end ? v : NULL;
}

bool kvi_json_equal(const kvi_json_value *x, const kvi_json_value *y)
{
    if (x->type != y->type || x->n != y->n) return false;
    if (x->type == KVI_JSON_STRING) return x->len == y->len && memcmp(x->text, y->text, x->len) == 0;
    if (x->type == KVI_JSON_NUMBER) return kvi_decimal_compare(x->text, x->len, y->text, y->len) == 0;
    if (x->type == KVI_JSON_ARRAY) {
        const kvi_json_value *b = y->first;
        for (const kvi_json_value *a = x->first; a; a = a->next, b = b->next)
            if (!kvi_json_equal(a, b)) return false;
    } else if (x->type == KVI_JSON_OBJECT) {
        for (const kvi_json_value *a = x->first; a; a = a->next) {
            const kvi_json_value *b = kvi_json_get_n(y, a->key, a->key_len);
            if (!b || !kvi_json_equal(a, b)) return false;
        }
    }
    return true;
}
