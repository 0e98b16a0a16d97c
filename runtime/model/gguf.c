/* gguf.c - the files of a GGUF model put together, and what is asked of them; gguf_read.c reads each. */
#include "gguf.h"
#include "gguf_impl.h"
#include "../base/folder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_PARTS 4096u

/* ------------------------------------------------------------------------------------------------------- names --- */
const kvi_gguf_type_info *kvi_gguf_type_at(uint32_t type)
{
    static const kvi_gguf_type_info types[KVI_GGUF_TYPE_END] = {
#define ROW(name, number, weights, bytes) [number] = {#name, weights, bytes},
        KVI_GGUF_TYPES(ROW)
#undef ROW
    };
    return type < KVI_GGUF_TYPE_END && types[type].name ? &types[type] : NULL;
}

const char *kvi_gguf_kind_name(kvi_gguf_kind kind)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return kind < KVI_GGUF_KIND_COUNT ? names[kind] : "unknown";
}

static uint64_t hash_name(const char *text)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

uint64_t kvi_gguf_index_find(const kvi_gguf_names *names, const char *name,
                             const char *(*name_of)(const void *list, uint64_t index), const void *list)
{
    if (!names->n) return UINT64_MAX;
    for (uint64_t i = hash_name(name) & (names->n - 1); names->slots[i]; i = (i + 1) & (names->n - 1))
        if (strcmp(name_of(list, names->slots[i] - 1), name) == 0) return names->slots[i] - 1;
    return UINT64_MAX;
}

kvrt_status kvi_gguf_index(kvi_gguf_names *names, uint64_t n, const char *(*name_of)(const void *list, uint64_t index),
                           const void *list, uint64_t *twice, kvrt_error *error)
{
    uint64_t size = 16;
    while (size < n * 2) size *= 2;
    names->slots = kvi_mem_zalloc(size, sizeof *names->slots);
    if (!names->slots) return kvi_error_nomem(error, size * sizeof *names->slots, "names");
    names->n = size;
    *twice = n;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t i = hash_name(name_of(list, k)) & (size - 1);
        for (; names->slots[i]; i = (i + 1) & (size - 1))
            if (strcmp(name_of(list, names->slots[i] - 1), name_of(list, k)) == 0) *twice = k;
        names->slots[i] = (uint32_t)k + 1;
    }
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------------- metadata --- */
static const char *key_of(const void *list, uint64_t index) { return ((const kvi_gguf_value *)list)[index].key; }

const kvi_gguf_value *kvi_gguf_meta_find(const kvi_gguf_meta *meta, const char *key)
{
    const uint64_t index = kvi_gguf_index_find(&meta->names, key, key_of, meta->values);
    return index == UINT64_MAX ? NULL : &meta->values[index];
}

const kvi_gguf_value *kvi_gguf_find(const kvi_gguf *g, const char *key) { return kvi_gguf_meta_find(g->meta, key); }

uint64_t kvi_gguf_n_values(const kvi_gguf *g) { return g->meta->n; }
const kvi_gguf_value *kvi_gguf_value_at(const kvi_gguf *g, uint64_t index) { return &g->meta->values[index]; }

/* KVRT_OK with *out == NULL when an optional key is absent. */
static kvrt_status look_up(const kvi_gguf_meta *meta, const char *file, const char *key, kvi_gguf_need need,
                           const char *what, const kvi_gguf_value **out, kvrt_error *error)
{
    *out = kvi_gguf_meta_find(meta, key);
    if (*out || need == KVI_GGUF_OPTIONAL) return KVRT_OK;
    return kvi_error_set(error, KVRT_FORMAT, "%s: key %.100s: not found, need %s", file, key, what);
}

static kvrt_status other_kind(const kvi_gguf_value *v, const char *file, const char *what, kvrt_error *error)
{
    return kvi_error_set(error, KVRT_FORMAT, "%s: key %.100s: is %s%s, need %s", file, v->key,
                         v->is_array ? "an array of " : "", kvi_gguf_kind_name(v->kind), what);
}

static uint64_t bits_at(const uint8_t *at, uint32_t n_bytes)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < n_bytes; i++) bits |= (uint64_t)at[i] << (8 * i);
    return bits;
}

/* Any integer that fits into 64 bits with a sign. */
static bool integer_of(const kvi_gguf_value *v, int64_t *out)
{
    if (v->is_array) return false;
    switch (v->kind) {
    case KVI_GGUF_KIND_U8: return *out = (int64_t)bits_at(v->at, 1), true;
    case KVI_GGUF_KIND_I8: return *out = (int8_t)bits_at(v->at, 1), true;
    case KVI_GGUF_KIND_U16: return *out = (int64_t)bits_at(v->at, 2), true;
    case KVI_GGUF_KIND_I16: return *out = (int16_t)bits_at(v->at, 2), true;
    case KVI_GGUF_KIND_U32: return *out = (int64_t)bits_at(v->at, 4), true;
    case KVI_GGUF_KIND_I32: return *out = (int32_t)bits_at(v->at, 4), true;
    case KVI_GGUF_KIND_I64: return *out = (int64_t)bits_at(v->at, 8), true;
    case KVI_GGUF_KIND_U64: return *out = (int64_t)bits_at(v->at, 8), *out >= 0;
    default: return false;
    }
}

kvrt_status kvi_gguf_meta_u32(const kvi_gguf_meta *meta, const char *file, const char *key, kvi_gguf_need need,
                              uint32_t *out, kvrt_error *error)
{
    static const char what[] = "an integer from 0 to 4294967295";
    const kvi_gguf_value *v;
    int64_t value;
    KVI_TRY(look_up(meta, file, key, need, what, &v, error));
    if (!v) return KVRT_OK;
    if (!integer_of(v, &value)) return other_kind(v, file, what, error);
    if (value < 0 || value > UINT32_MAX)
        return kvi_error_set(error, KVRT_FORMAT, "%s: key %.100s: is %lld, need %s", file, key, (long long)value, what);
    *out = (uint32_t)value;
    return KVRT_OK;
}

kvrt_status kvi_gguf_u32(const kvi_gguf *g, const char *key, kvi_gguf_need need, uint32_t *out, kvrt_error *error)
{
    return kvi_gguf_meta_u32(g->meta, g->parts[0].name, key, need, out, error);
}

static float f32_from(const uint8_t *at)
{
    const uint32_t bits = (uint32_t)bits_at(at, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

kvrt_status kvi_gguf_f64(const kvi_gguf *g, const char *key, kvi_gguf_need need, double *out, kvrt_error *error)
{
    const char *file = g->parts[0].name;
    const kvi_gguf_value *v;
    int64_t whole;
    double value;
    KVI_TRY(look_up(g->meta, file, key, need, "a number", &v, error));
    if (!v) return KVRT_OK;
    if (integer_of(v, &whole)) value = (double)whole;
    else if (!v->is_array && v->kind == KVI_GGUF_KIND_F32) value = (double)f32_from(v->at);
    else if (!v->is_array && v->kind == KVI_GGUF_KIND_F64) {
        const uint64_t bits = bits_at(v->at, 8);
        memcpy(&value, &bits, sizeof value);
    } else return other_kind(v, file, "a number", error);
    if (!isfinite(value))
        return kvi_error_set(error, KVRT_FORMAT, "%s: key %.100s: not finite, need a number", file, key);
    *out = value;
    return KVRT_OK;
}

kvrt_status kvi_gguf_bool(const kvi_gguf *g, const char *key, kvi_gguf_need need, bool *out, kvrt_error *error)
{
    const kvi_gguf_value *v;
    KVI_TRY(look_up(g->meta, g->parts[0].name, key, need, "a bool", &v, error));
    if (!v) return KVRT_OK;
    if (v->is_array || v->kind != KVI_GGUF_KIND_BOOL) return other_kind(v, g->parts[0].name, "a bool", error);
    *out = v->at[0] != 0;
    return KVRT_OK;
}

kvrt_status kvi_gguf_string(const kvi_gguf *g, const char *key, kvi_gguf_need need, kvi_gguf_text *out,
                            kvrt_error *error)
{
    const kvi_gguf_value *v;
    KVI_TRY(look_up(g->meta, g->parts[0].name, key, need, "a string", &v, error));
    if (!v) return KVRT_OK;
    if (v->is_array || v->kind != KVI_GGUF_KIND_STRING) return other_kind(v, g->parts[0].name, "a string", error);
    const uint8_t *at = v->at;
    *out = kvi_gguf_next_string(&at);
    return KVRT_OK;
}

kvrt_status kvi_gguf_array(const kvi_gguf *g, const char *key, kvi_gguf_kind kind, kvi_gguf_need need,
                           const kvi_gguf_value **out, kvrt_error *error)
{
    const char *file = g->parts[0].name, *what = kind == KVI_GGUF_KIND_STRING ? "an array of strings"
                                                 : kind == KVI_GGUF_KIND_F32  ? "an array of f32"
                                                                              : "an array of i32";
    KVI_TRY(look_up(g->meta, file, key, need, what, out, error));
    if (!*out) return KVRT_OK;
    const bool same = (*out)->kind == kind || (kind == KVI_GGUF_KIND_I32 && (*out)->kind == KVI_GGUF_KIND_U32);
    return (*out)->is_array && same ? KVRT_OK : other_kind(*out, file, what, error);
}

kvi_gguf_text kvi_gguf_next_string(const uint8_t **at)
{
    const uint64_t len = bits_at(*at, 8);
    const kvi_gguf_text text = {.data = (const char *)*at + 8, .len = (size_t)len};
    *at += 8 + len;
    return text;
}

int32_t kvi_gguf_i32_at(const kvi_gguf_value *array, uint64_t index)
{
    return (int32_t)(uint32_t)bits_at(array->at + 4 * index, 4);
}

float kvi_gguf_f32_at(const kvi_gguf_value *array, uint64_t index) { return f32_from(array->at + 4 * index); }

/* ------------------------------------------------------------------------------------------------------- files --- */
/* NAME-00002-of-00003.gguf: the length of NAME and the number of files; false for any other name. */
static bool split_name(const char *name, size_t *stem, uint32_t *count)
{
    static const char form[] = "-#####-of-#####.gguf"; /* # is a digit */
    const size_t len = strlen(name), tail = sizeof form - 1;
    if (len <= tail) return false;
    const char *at = name + len - tail;
    *count = 0;
    for (size_t i = 0; i < tail; i++) {
        const bool digit = at[i] >= '0' && at[i] <= '9';
        if (form[i] == '#' ? !digit : at[i] != form[i]) return false;
        if (form[i] == '#' && i > 6) *count = *count * 10 + (uint32_t)(at[i] - '0');
    }
    *stem = len - tail;
    return true;
}

static kvrt_status add_part(kvi_gguf *g, const char *name, const kvi_map *map, kvrt_error *error)
{
    kvi_gguf_part *parts = kvi_mem_realloc(g->parts, (g->n_parts + 1) * sizeof *parts);
    if (parts) g->parts = parts;
    const char *copy = kvi_arena_strndup(&g->arena, name, strlen(name));
    if (!parts || !copy) return kvi_error_nomem(error, sizeof *parts, "files");
    g->parts[g->n_parts++] = (kvi_gguf_part){.name = copy, .map = *map};
    return KVRT_OK;
}

static void free_meta(kvi_gguf_meta *meta)
{
    if (!meta) return;
    kvi_mem_free(meta->values);
    kvi_mem_free(meta->names.slots);
    kvi_mem_free(meta);
}

/* A file's place in the split is what its name says; n_parts == 1: not split. */
static kvrt_status check_split(const kvi_gguf *g, const kvi_gguf_meta *meta, uint32_t part, uint32_t n_parts,
                               kvrt_error *error)
{
    const char *file = g->parts[part].name;
    uint32_t count = 1, number = 0;
    const kvi_gguf_need need = n_parts > 1 ? KVI_GGUF_REQUIRED : KVI_GGUF_OPTIONAL;
    KVI_TRY(kvi_gguf_meta_u32(meta, file, "split.count", need, &count, error));
    KVI_TRY(kvi_gguf_meta_u32(meta, file, "split.no", need, &number, error));
    if (count <= 1 && n_parts == 1) return KVRT_OK;
    if (count != n_parts)
        return kvi_error_set(error, KVRT_FORMAT,
                             "%s: key split.count: is %u, need %u as its name says (NAME-00001-of-%05u.gguf)", file,
                             count, n_parts, count);
    if (number != part)
        return kvi_error_set(error, KVRT_FORMAT, "%s: key split.no: is %u, need %u as its name says", file, number,
                             part);
    return KVRT_OK;
}

/* Reads the last part that was added; the first one's metadata is kept. */
static kvrt_status read_part(kvi_gguf *g, uint32_t n_parts, kvrt_error *error)
{
    const uint32_t part = g->n_parts - 1;
    kvi_gguf_meta *meta = kvi_mem_zalloc(1, sizeof *meta);
    if (!meta) return kvi_error_nomem(error, sizeof *meta, "metadata");
    kvrt_status status = kvi_gguf_read(g, part, meta, error);
    if (status >= KVRT_OK) status = check_split(g, meta, part, n_parts, error);
    if (part == 0) g->meta = meta;
    else free_meta(meta);
    return status;
}

static const char *tensor_name(const void *list, uint64_t index) { return ((const kvi_gguf_tensor *)list)[index].name; }

static kvrt_status finish(kvi_gguf *g, kvrt_error *error)
{
    const char *file = g->parts[0].name;
    uint64_t twice = 0;
    uint32_t n_tensors = (uint32_t)g->n_tensors;
    if (g->n_parts > 1) KVI_TRY(kvi_gguf_u32(g, "split.tensors.count", KVI_GGUF_REQUIRED, &n_tensors, error));
    if (n_tensors != g->n_tensors)
        return kvi_error_set(error, KVRT_FORMAT,
                             "%s: key split.tensors.count: is %u, need %zu, as many as the files hold", file, n_tensors,
                             g->n_tensors);
    KVI_TRY(kvi_gguf_index(&g->names, g->n_tensors, tensor_name, g->tensors, &twice, error));
    if (twice < g->n_tensors)
        return kvi_error_set(error, KVRT_FORMAT, "%s: tensor %.200s: found twice, need it once",
                             g->parts[g->tensors[twice].file].name, g->tensors[twice].name);
    for (size_t i = 0; i < g->n_tensors; i++) g->bytes += g->tensors[i].bytes;
    return KVRT_OK;
}

static kvrt_status open_files(kvi_gguf *g, const char *path, bool copy, kvrt_error *error)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    char *dir = slash ? kvi_arena_strndup(&g->arena, path, slash == path ? 1 : (size_t)(slash - path))
                      : kvi_arena_strndup(&g->arena, ".", 1);
    char name[512];
    size_t stem = 0;
    uint32_t n_parts = 1;
    if (!dir) return kvi_error_nomem(error, strlen(path), "path");
    const bool split = split_name(base, &stem, &n_parts) && n_parts > 1;
    if (!split) n_parts = 1;
    if (n_parts > MAX_PARTS || strlen(base) >= sizeof name)
        return kvi_error_set(error, KVRT_UNSUPPORTED,
                             "%.100s: in %u files or with a name of %zu bytes, need at most %u and %zu", base, n_parts,
                             strlen(base), MAX_PARTS, sizeof name - 1);
    for (uint32_t i = 0; i < n_parts; i++) {
        kvi_map map;
        if (split) (void)snprintf(name, sizeof name, "%.*s-%05u-of-%05u.gguf", (int)stem, base, i + 1, n_parts);
        else (void)snprintf(name, sizeof name, "%s", base);
        KVI_TRY(kvi_folder_map(dir, name, copy, &map, NULL, error));
        kvrt_status status = add_part(g, name, &map, error);
        if (status < KVRT_OK) kvi_os_unmap(&map);
        KVI_TRY(status);
        KVI_TRY(read_part(g, n_parts, error));
    }
    return finish(g, error);
}

static kvi_gguf *new_gguf(kvrt_error *error)
{
    kvi_gguf *g = kvi_mem_zalloc(1, sizeof *g);
    if (!g) (void)kvi_error_nomem(error, sizeof *g, "GGUF");
    else kvi_arena_init(&g->arena, 64 * 1024);
    return g;
}

static kvrt_status hand_over(kvi_gguf *g, kvrt_status status, kvi_gguf **out)
{
    *out = status < KVRT_OK ? NULL : g;
    if (status < KVRT_OK) kvi_gguf_close(g);
    return status;
}

kvrt_status kvi_gguf_open(const char *path, bool copy, kvi_gguf **out, kvrt_error *error)
{
    *out = NULL;
    kvi_gguf *g = new_gguf(error);
    return g ? hand_over(g, open_files(g, path, copy, error), out) : KVRT_NOMEM_HOST;
}

kvrt_status kvi_gguf_parse(const uint8_t *data, uint64_t len, const char *name, kvi_gguf **out, kvrt_error *error)
{
    *out = NULL;
    kvi_gguf *g = new_gguf(error);
    if (!g) return KVRT_NOMEM_HOST;
    const kvi_map map = {.data = data, .len = len};
    g->borrowed = true;
    kvrt_status status = add_part(g, name, &map, error);
    if (status >= KVRT_OK) status = read_part(g, 1, error);
    if (status >= KVRT_OK) status = finish(g, error);
    return hand_over(g, status, out);
}

void kvi_gguf_close(kvi_gguf *g)
{
    if (!g) return;
    for (uint32_t i = 0; i < g->n_parts && !g->borrowed; i++) kvi_os_unmap(&g->parts[i].map);
    kvi_mem_free(g->parts);
    free_meta(g->meta);
    kvi_mem_free(g->tensors);
    kvi_mem_free(g->names.slots);
    kvi_arena_free(&g->arena);
    kvi_mem_free(g);
}

const kvi_gguf_tensor *kvi_gguf_tensor_find(const kvi_gguf *g, const char *name)
{
    const uint64_t index = kvi_gguf_index_find(&g->names, name, tensor_name, g->tensors);
    return index == UINT64_MAX ? NULL : &g->tensors[index];
}

uint64_t kvi_gguf_count(const kvi_gguf *g) { return g->n_tensors; }
const kvi_gguf_tensor *kvi_gguf_tensor_at(const kvi_gguf *g, uint64_t index) { return &g->tensors[index]; }
uint32_t kvi_gguf_files(const kvi_gguf *g) { return g->n_parts; }
const char *kvi_gguf_file(const kvi_gguf *g, uint32_t index) { return g->parts[index].name; }
uint64_t kvi_gguf_bytes(const kvi_gguf *g) { return g->bytes; }
uint64_t kvi_gguf_file_bytes(const kvi_gguf *g)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) bytes += g->parts[i].map.len;
    return bytes;
}
