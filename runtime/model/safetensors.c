/* safetensors.c - reader of safetensors files and of the shard index. */
#include "safetensors.h"
#include "../base/folder.h"
#include "../base/json.h"
#include "../base/mem.h"
#include "../base/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_CAP 100000000u /* bytes, as the reference library */
#define MAX_SHARDS 4096u
#define MAX_TENSORS 1000000u
#define INDEX_NAME "model.safetensors.index.json"

typedef struct shard {
    char *name; /* base name, in the arena */
    kvi_map map;
} shard;

typedef struct folder {
    kvi_checkpoint base;
    kvi_arena arena;     /* names */
    shard *shards;       /* base.n_files */
    kvi_tensor *tensors; /* base.n_tensors */
    size_t cap_tensors;
    uint32_t *slots; /* open addressing: tensor index + 1, 0 empty */
    uint64_t n_slots;
} folder;

/* The closed list of element types. Those kvrt cannot compute with are readable too, so that `inspect` can name them. */
static const struct dtype_row {
    const char *name;
    uint32_t bytes;
    kvi_weight_form form;
} dtypes[] = {
    {"F32", 4, KVI_FORM_F32},         {"F16", 2, KVI_FORM_F16},      {"BF16", 2, KVI_FORM_BF16},
    {"F64", 8, KVI_FORM_F64},         {"I8", 1, KVI_FORM_I8},        {"F8_E4M3", 1, KVI_FORM_F8_E4M3},
    {"F8_E5M2", 1, KVI_FORM_F8_E5M2}, {"F8_E8M0", 1, KVI_FORM_NONE}, {"U8", 1, KVI_FORM_NONE},
    {"BOOL", 1, KVI_FORM_NONE},       {"I16", 2, KVI_FORM_NONE},     {"U16", 2, KVI_FORM_NONE},
    {"I32", 4, KVI_FORM_NONE},        {"U32", 4, KVI_FORM_NONE},     {"I64", 8, KVI_FORM_NONE},
    {"U64", 8, KVI_FORM_NONE},
};

/* ------------------------------------------------------------------------------------------------------- names --- */
static uint64_t hash_name(const char *text)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

static const kvi_tensor *find(const kvi_checkpoint *checkpoint, const char *name)
{
    const folder *c = (const folder *)checkpoint;
    if (!c->n_slots) return NULL;
    for (uint64_t i = hash_name(name) & (c->n_slots - 1);; i = (i + 1) & (c->n_slots - 1)) {
        if (!c->slots[i]) return NULL;
        const kvi_tensor *tensor = &c->tensors[c->slots[i] - 1];
        if (strcmp(tensor->name, name) == 0) return tensor;
    }
}

/* Rebuilds the name table; a name that occurs twice is an error. */
static kvrt_status index_names(folder *c, kvrt_error *error)
{
    uint64_t n = 16;
    while (n < c->base.n_tensors * 2) n *= 2;
    c->slots = kvi_mem_zalloc(n, sizeof *c->slots);
    if (!c->slots) return kvi_error_nomem(error, n * sizeof *c->slots, "tensor names");
    c->n_slots = n;
    for (size_t t = 0; t < c->base.n_tensors; t++) {
        uint64_t i = hash_name(c->tensors[t].name) & (n - 1);
        for (; c->slots[i]; i = (i + 1) & (n - 1)) {
            const kvi_tensor *other = &c->tensors[c->slots[i] - 1];
            if (strcmp(other->name, c->tensors[t].name) == 0)
                return kvi_error_set(error, KVRT_FORMAT, "tensor %.200s: found twice (%s and %s), need one",
                                     other->name, c->shards[other->file].name, c->shards[c->tensors[t].file].name);
        }
        c->slots[i] = (uint32_t)t + 1;
        c->base.bytes += c->tensors[t].bytes;
    }
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------ header --- */
/* Where one file is being read. */
typedef struct header_reader {
    folder *c;
    kvi_json json;
    const char *file;
    uint32_t file_index;
    const uint8_t *buffer; /* tensor data */
    uint64_t buffer_len;
    kvrt_error *error;
} header_reader;

static kvrt_status lie(header_reader *h, const char *tensor, const char *what)
{
    return kvi_error_set(h->error, KVRT_FORMAT, "%s: tensor %.200s: %s", h->file, tensor, what);
}

/* The row of the element type, in *row. */
static kvrt_status read_dtype(header_reader *h, kvi_tensor *tensor, const struct dtype_row **row)
{
    if (!kvi_json_string(&h->json)) return kvi_json_fail(&h->json, h->file, h->error);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (kvi_json_str_is(&h->json, dtypes[i].name)) {
            *row = &dtypes[i];
            tensor->dtype = dtypes[i].name;
            tensor->form = dtypes[i].form;
            return KVRT_OK;
        }
    return kvi_error_set(h->error, KVRT_FORMAT,
                         "%s: tensor %.200s: dtype '%.*s' is unknown, need one of F32, F16, BF16, ...", h->file,
                         tensor->name, (int)(h->json.str_len < 32 ? h->json.str_len : 32), h->json.str);
}

static kvrt_status read_shape(header_reader *h, kvi_tensor *tensor)
{
    if (!kvi_json_expect(&h->json, KVI_JSON_ARRAY)) return kvi_json_fail(&h->json, h->file, h->error);
    while (kvi_json_next_item(&h->json)) {
        if (tensor->n_dims == KVI_TENSOR_MAX_DIMS) return lie(h, tensor->name, "more than 8 dimensions");
        int64_t dim = kvi_json_i64(&h->json);
        if (!h->json.error && dim < 0) return lie(h, tensor->name, "negative dimension");
        tensor->shape[tensor->n_dims++] = (uint64_t)dim;
    }
    return h->json.error ? kvi_json_fail(&h->json, h->file, h->error) : KVRT_OK;
}

static kvrt_status read_offsets(header_reader *h, const char *name, uint64_t offsets[2])
{
    uint32_t n = 0;
    if (!kvi_json_expect(&h->json, KVI_JSON_ARRAY)) return kvi_json_fail(&h->json, h->file, h->error);
    while (kvi_json_next_item(&h->json)) {
        int64_t value = kvi_json_i64(&h->json);
        if (h->json.error) break;
        if (n == 2 || value < 0) return lie(h, name, "data_offsets: need two non-negative integers");
        offsets[n++] = (uint64_t)value;
    }
    if (h->json.error) return kvi_json_fail(&h->json, h->file, h->error);
    return n == 2 ? KVRT_OK : lie(h, name, "data_offsets: need two non-negative integers");
}

/* Shape times element size must equal the span, and the span must be inside the buffer. */
static kvrt_status check_span(header_reader *h, kvi_tensor *tensor, uint32_t element_bytes, const uint64_t offsets[2])
{
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (!kvi_mul_u64(elements, tensor->shape[i], &elements)) return lie(h, tensor->name, "shape overflows 64 bits");
    uint64_t need;
    if (!kvi_mul_u64(elements, element_bytes, &need)) return lie(h, tensor->name, "shape overflows 64 bits");
    if (offsets[0] > offsets[1] || offsets[1] > h->buffer_len)
        return kvi_error_set(
            h->error, KVRT_FORMAT,
            "%s: tensor %.200s: data_offsets [%llu, %llu], need an ordered range inside the %llu bytes of data (file "
            "truncated?)",
            h->file, tensor->name, (unsigned long long)offsets[0], (unsigned long long)offsets[1],
            (unsigned long long)h->buffer_len);
    if (offsets[1] - offsets[0] != need)
        return kvi_error_set(h->error, KVRT_FORMAT,
                             "%s: tensor %.200s: data_offsets span %llu bytes, need %llu (shape times %s)", h->file,
                             tensor->name, (unsigned long long)(offsets[1] - offsets[0]), (unsigned long long)need,
                             tensor->dtype);
    tensor->data = h->buffer + offsets[0];
    tensor->bytes = need;
    return KVRT_OK;
}

static kvrt_status read_tensor(header_reader *h, const char *name)
{
    folder *c = h->c;
    void *tensors = c->tensors;
    if (c->base.n_tensors >= MAX_TENSORS) return lie(h, name, "more than 1000000 tensors");
    if (!kvi_mem_grow(&tensors, &c->cap_tensors, c->base.n_tensors + 1, sizeof *c->tensors))
        return kvi_error_nomem(h->error, c->cap_tensors * sizeof *c->tensors, "tensor list");
    c->tensors = tensors;
    kvi_tensor tensor = {.name = name, .file = h->file_index};
    const struct dtype_row *dtype = NULL;
    uint64_t offsets[2] = {0, 0};
    uint32_t seen = 0;
    if (!kvi_json_expect(&h->json, KVI_JSON_OBJECT)) return kvi_json_fail(&h->json, h->file, h->error);
    while (kvi_json_next_key(&h->json)) {
        uint32_t bit = kvi_json_key_is(&h->json, "dtype")          ? 1
                       : kvi_json_key_is(&h->json, "shape")        ? 2
                       : kvi_json_key_is(&h->json, "data_offsets") ? 4
                                                                   : 0;
        if (!bit) return lie(h, name, "unknown key, need dtype, shape and data_offsets");
        if (seen & bit) return lie(h, name, "duplicate key");
        seen |= bit;
        KVI_TRY(bit == 1   ? read_dtype(h, &tensor, &dtype)
                : bit == 2 ? read_shape(h, &tensor)
                           : read_offsets(h, name, offsets));
    }
    if (h->json.error) return kvi_json_fail(&h->json, h->file, h->error);
    if (seen != 7) return lie(h, name, "need dtype, shape and data_offsets");
    KVI_TRY(check_span(h, &tensor, dtype->bytes, offsets));
    c->tensors[c->base.n_tensors++] = tensor;
    return KVRT_OK;
}

static kvrt_status read_metadata(header_reader *h)
{
    if (!kvi_json_expect(&h->json, KVI_JSON_OBJECT)) return kvi_json_fail(&h->json, h->file, h->error);
    while (kvi_json_next_key(&h->json)) kvi_json_string(&h->json);
    return h->json.error ? kvi_json_fail(&h->json, h->file, h->error) : KVRT_OK;
}

static int by_offset(const void *a, const void *b)
{
    const kvi_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Tensors of one file, in order of their data, must cover the buffer without overlap or hole. */
static kvrt_status check_cover(header_reader *h, size_t first)
{
    folder *c = h->c;
    if (c->base.n_tensors > first) qsort(c->tensors + first, c->base.n_tensors - first, sizeof *c->tensors, by_offset);
    const uint8_t *at = h->buffer;
    for (size_t i = first; i < c->base.n_tensors; i++) {
        if (c->tensors[i].data < at) return lie(h, c->tensors[i].name, "overlaps another tensor");
        if (c->tensors[i].data > at) return lie(h, c->tensors[i].name, "unused bytes before its data");
        at += c->tensors[i].bytes;
    }
    if (at != h->buffer + h->buffer_len)
        return kvi_error_set(h->error, KVRT_FORMAT, "%s: %llu unused bytes after the last tensor", h->file,
                             (unsigned long long)(uint64_t)(h->buffer + h->buffer_len - at));
    return KVRT_OK;
}

static kvrt_status read_file(folder *c, uint32_t file_index, kvrt_error *error)
{
    const kvi_map *map = &c->shards[file_index].map;
    header_reader h = {.c = c, .file = c->shards[file_index].name, .file_index = file_index, .error = error};
    if (map->len < 8)
        return kvi_error_set(error, KVRT_FORMAT, "%s: %llu bytes, need at least 8 (header length)", h.file,
                             (unsigned long long)map->len);
    uint64_t header_len = 0;
    for (uint32_t i = 0; i < 8; i++) header_len |= (uint64_t)map->data[i] << (8 * i);
    if (header_len > HEADER_CAP || header_len > map->len - 8)
        return kvi_error_set(error, KVRT_FORMAT,
                             "%s: header of %llu bytes, need at most %llu (file size less 8, or 100 MB)", h.file,
                             (unsigned long long)header_len, (unsigned long long)(map->len - 8));
    h.buffer = map->data + 8 + header_len;
    h.buffer_len = map->len - 8 - header_len;
    kvi_json_init(&h.json, (const char *)map->data + 8, header_len);
    size_t first = c->base.n_tensors;
    bool metadata = false;
    if (!kvi_json_expect(&h.json, KVI_JSON_OBJECT)) return kvi_json_fail(&h.json, h.file, error);
    while (kvi_json_next_key(&h.json)) {
        if (kvi_json_key_is(&h.json, "__metadata__")) {
            if (metadata) return lie(&h, "__metadata__", "duplicate key");
            metadata = true;
            KVI_TRY(read_metadata(&h));
            continue;
        }
        char *name = kvi_arena_alloc(&c->arena, h.json.str_len + 1);
        if (!name) return kvi_error_nomem(error, h.json.str_len, "tensor name");
        size_t len = kvi_json_str_unescape(&h.json, name);
        if (len == 0 || memchr(name, 0, len)) return lie(&h, name, "empty name, or a NUL byte in it");
        KVI_TRY(read_tensor(&h, name));
    }
    if (h.json.error || !kvi_json_end(&h.json)) return kvi_json_fail(&h.json, h.file, error);
    return check_cover(&h, first);
}

/* ------------------------------------------------------------------------------------------------------ shards --- */
/* A shard name is a plain file name: no separator, no parent, nothing hidden. */
static bool plain_name(const char *name, size_t len)
{
    return len > 12 && len < 256 && name[0] != '.' && !memchr(name, '/', len) && !memchr(name, '\\', len) &&
           !memchr(name, 0, len) && memcmp(name + len - 12, ".safetensors", 12) == 0;
}

static kvrt_status add_shard(folder *c, const char *name, size_t len, uint32_t *index, kvrt_error *error)
{
    for (uint32_t i = 0; i < c->base.n_files; i++)
        if (strlen(c->shards[i].name) == len && memcmp(c->shards[i].name, name, len) == 0) {
            *index = i;
            return KVRT_OK;
        }
    if (c->base.n_files == MAX_SHARDS) return kvi_error_set(error, KVRT_FORMAT, INDEX_NAME ": more than 4096 shards");
    shard *shards = kvi_mem_realloc(c->shards, (c->base.n_files + 1) * sizeof *shards);
    if (shards) c->shards = shards;
    char *copy = kvi_arena_strndup(&c->arena, name, len);
    if (!shards || !copy) return kvi_error_nomem(error, sizeof *shards, "shard list");
    c->shards[c->base.n_files] = (shard){.name = copy};
    *index = c->base.n_files++;
    return KVRT_OK;
}

/* One entry of weight_map, kept until the shards are read. */
typedef struct claim {
    const char *tensor;
    uint32_t file;
} claim;

static kvrt_status read_weight_map(folder *c, kvi_json *json, claim **claims, size_t *n, size_t *cap, kvrt_error *error)
{
    const char *object = INDEX_NAME;
    if (!kvi_json_expect(json, KVI_JSON_OBJECT)) return kvi_json_fail(json, object, error);
    while (kvi_json_next_key(json)) {
        char *tensor = kvi_arena_alloc(&c->arena, json->str_len + 1);
        void *grown = *claims;
        if (!tensor || !kvi_mem_grow(&grown, cap, *n + 1, sizeof **claims))
            return kvi_error_nomem(error, json->str_len, "weight map");
        *claims = grown;
        kvi_json_str_unescape(json, tensor);
        char file[256];
        if (!kvi_json_string(json)) break;
        size_t len = json->str_len < sizeof file ? kvi_json_str_unescape(json, file) : sizeof file;
        if (!plain_name(file, len))
            return kvi_error_set(error, KVRT_FORMAT,
                                 "%s: shard name of %.200s: need a plain file name ending in .safetensors", object,
                                 tensor);
        (*claims)[*n].tensor = tensor;
        KVI_TRY(add_shard(c, file, len, &(*claims)[*n].file, error));
        if (++*n > MAX_TENSORS) return kvi_error_set(error, KVRT_FORMAT, "%s: more than 1000000 tensors", object);
    }
    return json->error ? kvi_json_fail(json, object, error) : KVRT_OK;
}

static kvrt_status read_index(folder *c, const kvi_map *map, claim **claims, size_t *n, kvrt_error *error)
{
    const char *object = INDEX_NAME;
    kvi_json json;
    size_t cap = 0;
    bool found = false;
    kvi_json_init(&json, (const char *)map->data, map->len);
    if (!kvi_json_expect(&json, KVI_JSON_OBJECT)) return kvi_json_fail(&json, object, error);
    while (kvi_json_next_key(&json)) {
        if (!kvi_json_key_is(&json, "weight_map")) {
            kvi_json_skip(&json);
            continue;
        }
        if (found) return kvi_error_set(error, KVRT_FORMAT, "%s: weight_map found twice", object);
        found = true;
        KVI_TRY(read_weight_map(c, &json, claims, n, &cap, error));
    }
    if (json.error || !kvi_json_end(&json)) return kvi_json_fail(&json, object, error);
    return found && *n > 0 ? KVRT_OK : kvi_error_set(error, KVRT_FORMAT, "%s: no weight_map, or an empty one", object);
}

static kvrt_status open_shards(folder *c, const char *dir, bool copy, kvrt_error *error)
{
    for (uint32_t i = 0; i < c->base.n_files; i++) {
        KVI_TRY(kvi_folder_map(dir, c->shards[i].name, copy, &c->shards[i].map, NULL, error));
        c->base.file_bytes += c->shards[i].map.len;
        KVI_TRY(read_file(c, i, error));
    }
    return KVRT_OK;
}

/* Names what the folder holds instead. */
static kvrt_status no_weights(const char *dir, kvrt_error *error)
{
    static const char *const others[] = {"pytorch_model.bin",
                                         "pytorch_model.bin.index.json",
                                         "adapter_model.safetensors",
                                         "adapter_model.bin",
                                         "consolidated.safetensors",
                                         "consolidated.00.pth",
                                         "tf_model.h5",
                                         "flax_model.msgpack"};
    static const char need[] = "need model.safetensors, or model.safetensors.index.json with its shards";
    char gguf[256];
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (!kvi_folder_has(dir, others[i])) continue;
        const char *hint = strncmp(others[i], "pytorch", 7) == 0 ? " (convert it with save_pretrained of transformers)"
                           : strncmp(others[i], "adapter", 7) == 0 ? " (merge the adapter into its model first)"
                                                                   : "";
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: found only %s, %s%s", dir, others[i], need, hint);
    }
    if (kvi_os_find_suffix(dir, ".gguf", gguf, sizeof gguf))
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: found only the GGUF file %s, %s", dir, gguf, need);
    return kvi_error_set(error, KVRT_IO,
                         "%s: found neither model.safetensors nor model.safetensors.index.json, need one (a Hugging "
                         "Face folder)",
                         dir);
}

static kvrt_status open_folder(folder *c, const char *dir, bool copy, claim **claims, kvrt_error *error)
{
    size_t n_claims = 0;
    uint32_t shard_index = 0;
    /* Where both are, transformers reads the single file. */
    if (kvi_folder_has(dir, "model.safetensors")) {
        KVI_TRY(add_shard(c, "model.safetensors", 17, &shard_index, error));
    } else {
        kvi_map index;
        bool found;
        KVI_TRY(kvi_folder_map(dir, INDEX_NAME, true, &index, &found, error));
        kvrt_status status = found ? read_index(c, &index, claims, &n_claims, error) : no_weights(dir, error);
        kvi_os_unmap(&index);
        KVI_TRY(status);
    }
    KVI_TRY(open_shards(c, dir, copy, error));
    KVI_TRY(index_names(c, error));
    for (size_t i = 0; i < n_claims; i++) {
        const kvi_tensor *tensor = find(&c->base, (*claims)[i].tensor);
        if (!tensor || tensor->file != (*claims)[i].file)
            return kvi_error_set(error, KVRT_FORMAT, INDEX_NAME ": tensor %.200s: not found in %s", (*claims)[i].tensor,
                                 c->shards[(*claims)[i].file].name);
    }
    return KVRT_OK;
}

static const kvi_tensor *at(const kvi_checkpoint *checkpoint, uint64_t index)
{
    return &((const folder *)checkpoint)->tensors[index];
}

static const char *file(const kvi_checkpoint *checkpoint, uint32_t index)
{
    return ((const folder *)checkpoint)->shards[index].name;
}

static void folder_close(kvi_checkpoint *checkpoint)
{
    folder *c = (folder *)checkpoint;
    for (uint32_t i = 0; i < c->base.n_files; i++) kvi_os_unmap(&c->shards[i].map);
    kvi_mem_free(c->shards);
    kvi_mem_free(c->tensors);
    kvi_mem_free(c->slots);
    kvi_arena_free(&c->arena);
    kvi_mem_free(c);
}

static const kvi_checkpoint_reader reader = {.settings = "config.json",
                                             .types = "F64, F32, F16 or BF16",
                                             .find = find,
                                             .at = at,
                                             .file = file,
                                             .close = folder_close};

kvrt_status kvi_safetensors_open(const char *dir, bool copy, kvi_checkpoint **out, kvrt_error *error)
{
    *out = NULL;
    folder *c = kvi_mem_zalloc(1, sizeof *c);
    if (!c) return kvi_error_nomem(error, sizeof *c, "checkpoint");
    c->base.reader = &reader;
    kvi_arena_init(&c->arena, 64 * 1024);
    claim *claims = NULL;
    kvrt_status status = open_folder(c, dir, copy, &claims, error);
    kvi_mem_free(claims);
    if (status < KVRT_OK) {
        folder_close(&c->base);
        return status;
    }
    *out = &c->base;
    return KVRT_OK;
}

kvrt_status kvi_safetensors_check(const uint8_t *data, uint64_t len, const char *name, uint64_t *n_tensors,
                                  kvrt_error *error)
{
    shard one = {.map = {.data = data, .len = len}};
    folder c = {.shards = &one, .base = {.n_files = 1}};
    kvi_arena_init(&c.arena, 4096);
    one.name = kvi_arena_strndup(&c.arena, name, strlen(name));
    kvrt_status status = one.name ? read_file(&c, 0, error) : kvi_error_nomem(error, 1, "name");
    if (status >= KVRT_OK) status = index_names(&c, error);
    if (n_tensors) *n_tensors = c.base.n_tensors;
    kvi_mem_free(c.tensors);
    kvi_mem_free(c.slots);
    kvi_arena_free(&c.arena);
    return status;
}
