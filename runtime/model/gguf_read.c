/* gguf_read.c - one GGUF file: header, metadata, list of tensors, data.
 * To know: nothing is allocated by a number that the file merely claims; lists grow with the bytes actually read. */
#include "gguf_impl.h"

#include <stdlib.h>
#include <string.h>

#define MAX_VALUES 1000000u
#define MAX_TENSORS 1000000u
#define MAX_KEY 65535u /* bytes, as in the specification */
#define MAX_NAME 255u  /* GGML has room for 63 */
#define DEFAULT_ALIGNMENT 32u

typedef struct reader {
    kvi_gguf *g;
    uint32_t part;
    kvi_gguf_meta *meta;
    const char *file;
    const uint8_t *begin, *at, *end;
    char what[220]; /* "key general.name", "tensor blk.0.attn_q.weight", "header": for messages */
    kvrt_error *error;
} reader;

static uint64_t left(const reader *r) { return (uint64_t)(r->end - r->at); }

static void set_what(reader *r, const char *prefix, const char *name)
{
    const size_t n = strlen(prefix), m = strlen(name);
    const size_t room = sizeof r->what - 1 - n, take = m < room ? m : room;
    memcpy(r->what, prefix, n);
    memcpy(r->what + n, name, take);
    r->what[n + take] = 0;
}

static kvrt_status lie(const reader *r, const char *what)
{
    return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: %s", r->file, r->what, what);
}

static kvrt_status truncated(const reader *r, uint64_t need)
{
    return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: %llu bytes left, need %llu (file truncated?)", r->file,
                         r->what, (unsigned long long)left(r), (unsigned long long)need);
}

static kvrt_status take_uint(reader *r, uint32_t n_bytes, uint64_t *out)
{
    *out = 0;
    if (left(r) < n_bytes) return truncated(r, n_bytes);
    for (uint32_t i = 0; i < n_bytes; i++) *out |= (uint64_t)r->at[i] << (8 * i);
    r->at += n_bytes;
    return KVRT_OK;
}

static kvrt_status take_string(reader *r, kvi_gguf_text *out)
{
    uint64_t len = 0;
    *out = (kvi_gguf_text){0};
    KVI_TRY(take_uint(r, 8, &len));
    if (len > left(r)) return truncated(r, len);
    *out = (kvi_gguf_text){.data = (const char *)r->at, .len = (size_t)len};
    r->at += len;
    return KVRT_OK;
}

/* A key or the name of a tensor: 1 to `max` printable ASCII characters. */
static kvrt_status take_name(reader *r, uint32_t max, const char **out)
{
    kvi_gguf_text text = {0};
    KVI_TRY(take_string(r, &text));
    if (text.len == 0 || text.len > max)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: name of %zu bytes, need 1 to %u", r->file, r->what,
                             text.len, max);
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] < 0x20 || text.data[i] > 0x7e)
            return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: name with byte 0x%02x, need printable ASCII", r->file,
                                 r->what, (unsigned)(unsigned char)text.data[i]);
    *out = kvi_arena_strndup(&r->g->arena, text.data, text.len);
    return *out ? KVRT_OK : kvi_error_nomem(r->error, text.len, "names");
}

/* ---------------------------------------------------------------------------------------------------- metadata --- */
static uint32_t kind_bytes(kvi_gguf_kind kind)
{
    static const uint8_t bytes[KVI_GGUF_KIND_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return bytes[kind];
}

static kvrt_status take_kind(reader *r, kvi_gguf_kind *out)
{
    uint64_t kind = 0;
    KVI_TRY(take_uint(r, 4, &kind));
    if (kind >= KVI_GGUF_KIND_COUNT)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: value of kind %llu, need 0 to %d", r->file, r->what,
                             (unsigned long long)kind, KVI_GGUF_KIND_COUNT - 1);
    *out = (kvi_gguf_kind)kind;
    return KVRT_OK;
}

/* Passes over `n` elements of one kind and checks them. */
static kvrt_status pass_elements(reader *r, kvi_gguf_kind kind, uint64_t n)
{
    if (kind == KVI_GGUF_KIND_STRING) {
        kvi_gguf_text unused;
        if (n > left(r) / 8) return truncated(r, n > UINT64_MAX / 8 ? UINT64_MAX : n * 8);
        for (uint64_t i = 0; i < n; i++) KVI_TRY(take_string(r, &unused));
        return KVRT_OK;
    }
    const uint32_t size = kind_bytes(kind);
    if (n > left(r) / size) return truncated(r, n > UINT64_MAX / size ? UINT64_MAX : n * size);
    for (uint64_t i = 0; kind == KVI_GGUF_KIND_BOOL && i < n; i++)
        if (r->at[i] > 1) return lie(r, "a bool that is neither 0 nor 1");
    r->at += n * size;
    return KVRT_OK;
}

static kvrt_status read_value(reader *r, uint64_t index)
{
    kvi_gguf_value value = {.n = 1};
    void *values = r->meta->values;
    set_what(r, "metadata", "");
    if (index >= MAX_VALUES) return lie(r, "more than 1000000 keys");
    KVI_TRY(take_name(r, MAX_KEY, &value.key));
    set_what(r, "key ", value.key);
    KVI_TRY(take_kind(r, &value.kind));
    if (value.kind == KVI_GGUF_KIND_ARRAY) {
        value.is_array = true;
        KVI_TRY(take_kind(r, &value.kind));
        if (value.kind == KVI_GGUF_KIND_ARRAY)
            return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: %s: array of arrays, need an array of plain values",
                                 r->file, r->what);
        KVI_TRY(take_uint(r, 8, &value.n));
    }
    value.at = r->at;
    KVI_TRY(pass_elements(r, value.kind, value.n));
    if (!kvi_mem_grow(&values, &r->meta->cap, r->meta->n + 1, sizeof *r->meta->values))
        return kvi_error_nomem(r->error, r->meta->cap * sizeof *r->meta->values, "metadata");
    r->meta->values = values;
    r->meta->values[r->meta->n++] = value;
    return KVRT_OK;
}

static const char *key_of(const void *list, uint64_t index) { return ((const kvi_gguf_value *)list)[index].key; }

static kvrt_status read_metadata(reader *r, uint64_t n)
{
    uint64_t twice = 0;
    for (uint64_t i = 0; i < n; i++) KVI_TRY(read_value(r, i));
    KVI_TRY(kvi_gguf_index(&r->meta->names, r->meta->n, key_of, r->meta->values, &twice, r->error));
    if (twice == r->meta->n) return KVRT_OK;
    set_what(r, "key ", r->meta->values[twice].key);
    return lie(r, "found twice, need it once");
}

/* ----------------------------------------------------------------------------------------------------- tensors --- */
static kvrt_status take_shape(reader *r, kvi_gguf_tensor *t)
{
    uint64_t n_dims = 0;
    KVI_TRY(take_uint(r, 4, &n_dims));
    if (n_dims == 0 || n_dims > KVI_GGUF_MAX_DIMS)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: %llu dimensions, need 1 to %u", r->file, r->what,
                             (unsigned long long)n_dims, KVI_GGUF_MAX_DIMS);
    t->n_dims = (uint32_t)n_dims;
    for (uint32_t i = t->n_dims; i-- > 0;) KVI_TRY(take_uint(r, 8, &t->shape[i]));
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (t->shape[i] == 0) return lie(r, "a dimension of 0, need 1 or more");
    return KVRT_OK;
}

static kvrt_status take_type(reader *r, kvi_gguf_tensor *t)
{
    uint64_t type = 0, rows = 1;
    KVI_TRY(take_uint(r, 4, &type));
    const kvi_gguf_type_info *info = kvi_gguf_type_at((uint32_t)type);
    if (!info)
        return kvi_error_set(r->error, KVRT_UNSUPPORTED,
                             "%s: %s: element type %llu is unknown, need F32, F16, Q8_0, ...", r->file, r->what,
                             (unsigned long long)type);
    t->type = (kvi_gguf_type)type;
    const uint64_t row = t->shape[t->n_dims - 1];
    if (row % info->block_weights)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: rows of %llu weights, need a multiple of %u for %s",
                             r->file, r->what, (unsigned long long)row, info->block_weights, info->name);
    bool fits = kvi_mul_u64(row / info->block_weights, info->block_bytes, &t->bytes);
    for (uint32_t i = 0; i + 1 < t->n_dims; i++) fits = fits && kvi_mul_u64(rows, t->shape[i], &rows);
    fits = fits && kvi_mul_u64(t->bytes, rows, &t->bytes) && kvi_mul_u64(row, rows, &rows);
    return fits ? KVRT_OK : lie(r, "shape overflows 64 bits");
}

/* A tensor whose data is placed once it is known where the data begins. */
typedef struct placed {
    kvi_gguf_tensor tensor;
    uint64_t offset;
} placed;

static kvrt_status read_tensor(reader *r, uint64_t index, placed *out)
{
    *out = (placed){.tensor.file = r->part};
    set_what(r, "list of tensors", "");
    if (index >= MAX_TENSORS) return lie(r, "more than 1000000 tensors");
    KVI_TRY(take_name(r, MAX_NAME, &out->tensor.name));
    set_what(r, "tensor ", out->tensor.name);
    KVI_TRY(take_shape(r, &out->tensor));
    KVI_TRY(take_type(r, &out->tensor));
    return take_uint(r, 8, &out->offset);
}

static kvrt_status read_alignment(reader *r, uint64_t *out)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    KVI_TRY(kvi_gguf_meta_u32(r->meta, r->file, "general.alignment", KVI_GGUF_OPTIONAL, &alignment, r->error));
    if (alignment == 0 || (alignment & (alignment - 1)) || alignment > 1u << 30)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: key general.alignment: is %u, need a power of two", r->file,
                             alignment);
    *out = alignment;
    return KVRT_OK;
}

/* `data` is what follows the list of tensors and its padding. */
static kvrt_status place_tensor(reader *r, placed *p, const uint8_t *data, uint64_t len, uint64_t alignment)
{
    set_what(r, "tensor ", p->tensor.name);
    if (p->offset % alignment)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: %s: offset %llu, need a multiple of %llu (the alignment)",
                             r->file, r->what, (unsigned long long)p->offset, (unsigned long long)alignment);
    if (p->offset > len || p->tensor.bytes > len - p->offset)
        return kvi_error_set(r->error, KVRT_FORMAT,
                             "%s: %s: %llu bytes at offset %llu, need a range inside the %llu bytes of data (file "
                             "truncated?)",
                             r->file, r->what, (unsigned long long)p->tensor.bytes, (unsigned long long)p->offset,
                             (unsigned long long)len);
    p->tensor.data = data + p->offset;
    return KVRT_OK;
}

static int by_offset(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static kvrt_status place_all(reader *r, placed *list, size_t n)
{
    kvi_gguf *g = r->g;
    uint64_t alignment = 0, used = (uint64_t)(r->at - r->begin), size = (uint64_t)(r->end - r->begin), next = 0;
    KVI_TRY(read_alignment(r, &alignment));
    used += (alignment - used % alignment) % alignment;
    const uint8_t *data = r->begin + (used < size ? used : size);
    for (size_t i = 0; i < n; i++) KVI_TRY(place_tensor(r, &list[i], data, (uint64_t)(r->end - data), alignment));
    if (n) qsort(list, n, sizeof *list, by_offset);
    void *tensors = g->tensors;
    if (!kvi_mem_grow(&tensors, &g->cap_tensors, g->n_tensors + n, sizeof *g->tensors))
        return kvi_error_nomem(r->error, g->cap_tensors * sizeof *g->tensors, "tensor list");
    g->tensors = tensors;
    for (size_t i = 0; i < n; i++) {
        set_what(r, "tensor ", list[i].tensor.name);
        if (list[i].offset < next) return lie(r, "overlaps another tensor");
        next = list[i].offset + list[i].tensor.bytes;
        g->tensors[g->n_tensors++] = list[i].tensor;
    }
    return KVRT_OK;
}

static kvrt_status read_tensors(reader *r, uint64_t n)
{
    placed *list = NULL;
    size_t cap = 0, read = 0;
    kvrt_status status = KVRT_OK;
    for (uint64_t i = 0; status >= KVRT_OK && i < n; i++) {
        placed one;
        void *grown = list;
        status = read_tensor(r, i, &one);
        if (status < KVRT_OK) break;
        if (!kvi_mem_grow(&grown, &cap, read + 1, sizeof *list)) {
            status = kvi_error_nomem(r->error, (read + 1) * sizeof *list, "tensor list");
            break;
        }
        list = grown;
        list[read++] = one;
    }
    if (status >= KVRT_OK) status = place_all(r, list, read);
    kvi_mem_free(list);
    return status;
}

/* ------------------------------------------------------------------------------------------------------ header --- */
static kvrt_status read_version(reader *r)
{
    uint64_t version = 0;
    if (left(r) < 4 || memcmp(r->at, "GGUF", 4) != 0)
        return kvi_error_set(r->error, KVRT_FORMAT, "%s: does not begin with 'GGUF', need a GGUF file", r->file);
    r->at += 4;
    KVI_TRY(take_uint(r, 4, &version));
    if (version == 2 || version == 3) return KVRT_OK;
    const bool swapped = version != 0 && (version & 0xffff) == 0;
    return kvi_error_set(r->error, KVRT_UNSUPPORTED, "%s: version %llu%s, need 2 or 3", r->file,
                         (unsigned long long)(swapped ? version >> 24 : version),
                         swapped ? " in big-endian order" : "");
}

kvrt_status kvi_gguf_read(kvi_gguf *g, uint32_t part, kvi_gguf_meta *meta, kvrt_error *error)
{
    const kvi_map *map = &g->parts[part].map;
    static const uint8_t nothing;
    const uint8_t *begin = map->data ? map->data : &nothing;
    reader r = {.g = g,
                .part = part,
                .meta = meta,
                .file = g->parts[part].name,
                .begin = begin,
                .at = begin,
                .end = begin + map->len,
                .error = error};
    uint64_t n_tensors = 0, n_values = 0;
    set_what(&r, "header", "");
    KVI_TRY(read_version(&r));
    KVI_TRY(take_uint(&r, 8, &n_tensors));
    KVI_TRY(take_uint(&r, 8, &n_values));
    KVI_TRY(read_metadata(&r, n_values));
    return read_tensors(&r, n_tensors);
}
