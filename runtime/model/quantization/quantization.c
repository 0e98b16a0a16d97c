/* quantization.c - see quantization.h: which method a configuration is for, and which of its rules is that of a module. */
#include "quantization_impl.h"
#include "../../base/folder.h"

#include <stdio.h>
#include <string.h>

static const kvi_quant_method *const methods[] = {
    &kvi_quant_awq, &kvi_quant_gptq,     &kvi_quant_auto_round, &kvi_quant_compressed_tensors,
    &kvi_quant_fp8, &kvi_quant_modelopt, &kvi_quant_mxfp4,      &kvi_quant_bitsandbytes,
    &kvi_quant_mlx};
#define N_METHODS (sizeof methods / sizeof methods[0])

static const kvi_quant_method *method_named(const char *name)
{
    for (size_t i = 0; i < N_METHODS; i++)
        for (size_t k = 0; k < 3 && methods[i]->names[k]; k++)
            if (strcmp(methods[i]->names[k], name) == 0) return methods[i];
    return NULL;
}

static void out_of_memory(kvi_quantization *q)
{
    if (q->status >= KVRT_OK) q->status = kvi_error_nomem(&q->problem, sizeof(kvi_quant_rule), "quantization rules");
}

/* ------------------------------------------------------------------------------------------------------ values --- */
void kvi_quant_read_text(kvi_json *r, char *out, size_t cap)
{
    char whole[256];
    out[0] = 0;
    if (kvi_json_peek(r) != KVI_JSON_STRING) {
        kvi_json_skip(r);
        return;
    }
    if (!kvi_json_string(r)) return;
    if (r->str_len >= sizeof whole) {
        kvi_json_set_error(r, "string of more than 255 bytes");
        return;
    }
    size_t len = kvi_json_str_unescape(r, whole);
    if (len >= cap) len = cap - 1;
    memcpy(out, whole, len);
    out[len] = 0;
}

int64_t kvi_quant_read_int(kvi_json *r, int64_t absent) { return kvi_json_null(r) ? absent : kvi_json_i64(r); }

void kvi_quant_read_sides(kvi_json *r, kvi_quant_args *args)
{
    int64_t *const sides[2] = {&args->block_rows, &args->block_columns};
    (void)kvi_json_expect(r, KVI_JSON_ARRAY);
    for (uint32_t i = 0; kvi_json_next_item(r); i++)
        if (i < 2) *sides[i] = kvi_json_i64(r);
        else kvi_json_skip(r);
}

bool kvi_quant_read_flag(kvi_json *r) { return !kvi_json_null(r) && kvi_json_bool(r); }

const char *kvi_quant_text(kvi_quantization *q, const kvi_json *r)
{
    char *text = kvi_arena_alloc(&q->arena, r->str_len + 1);
    if (!text) out_of_memory(q);
    else text[kvi_json_str_unescape(r, text)] = 0;
    return text;
}

kvrt_status kvi_quant_refuse(const kvi_quantization *q, const char *key, const char *found, const char *need,
                             kvrt_error *error)
{
    return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: %s.%s is '%s', need %s", q->file, q->key, key, found, need);
}

kvrt_status kvi_quant_refuse_number(const kvi_quantization *q, const char *key, int64_t found, const char *need,
                                    kvrt_error *error)
{
    return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: %s.%s is %lld, need %s", q->file, q->key, key, (long long)found,
                         need);
}

/* ------------------------------------------------------------------------------------------------------- rules --- */
kvi_quant_rule *kvi_quant_add_rule(kvi_quantization *q, const char *pattern, size_t len, kvi_quant_match match,
                                   uint32_t rank, const char *key)
{
    kvi_quant_rule *rule = kvi_arena_alloc(&q->arena, sizeof *rule), **at = &q->rules;
    char *copy = kvi_arena_strndup(&q->arena, pattern, len);
    char owner[96];
    if (!rule || !copy) {
        out_of_memory(q);
        return NULL;
    }
    *rule = (kvi_quant_rule){.pattern = copy, .key = key, .match = match, .rank = rank, .args = q->args};
    (void)snprintf(owner, sizeof owner, "%s: %s.%s", q->file, q->key, key);
    if (match == KVI_MATCH_REGEX && q->status >= KVRT_OK)
        q->status = kvi_regex_compile(copy, len, owner, &rule->regex, &q->problem);
    while (*at && (*at)->rank <= rank) at = &(*at)->next;
    rule->next = *at;
    *at = rule;
    return rule;
}

static const char *class_of(const char *module)
{
    const char *last = strrchr(module, '.');
    return strcmp(last ? last + 1 : module, "embed_tokens") == 0 ? "Embedding" : "Linear";
}

static kvrt_status rule_of(const kvi_quantization *q, const char *module, const kvi_quant_rule **out, kvrt_error *error)
{
    for (const kvi_quant_rule *rule = q->rules; rule; rule = rule->next) {
        bool is = false;
        if (rule->match == KVI_MATCH_REGEX) {
            kvi_regex_scratch scratch = {0};
            kvi_budget budget = {.steps = 1000000, .bytes = 1 << 20};
            size_t start = 1, end = 0;
            const kvrt_status status =
                kvi_regex_find(rule->regex, &scratch, &budget, module, strlen(module), 0, &is, &start, &end, error);
            kvi_regex_scratch_free(&scratch);
            KVI_TRY(status);
            is = is && start == 0;
        } else is = strcmp(rule->match == KVI_MATCH_CLASS ? class_of(module) : module, rule->pattern) == 0;
        if (!is) continue;
        *out = rule;
        return KVRT_OK;
    }
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------- configuration --- */
/* The reader before a value, so that the value can be read more than once. */
typedef struct found_config {
    kvi_json at;
    const char *key; /* NULL: none */
    bool is_mlx;     /* there is one as MLX has it */
} found_config;

/* A configuration may stand for the whole model or for its text part. Of one given twice the last counts. */
static void find_config(kvi_json *r, found_config *out)
{
    static const char *const keys[] = {"quantization_config", "compression_config", "quantization"};
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "text_config") && kvi_json_peek(r) == KVI_JSON_OBJECT) {
            found_config inner = {.key = NULL};
            find_config(r, &inner);
            if (inner.key && !out->key) *out = inner;
            continue;
        }
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
            if (!kvi_json_key_is(r, keys[i])) continue;
            const bool null = kvi_json_peek(r) == KVI_JSON_NULL, known = out->key != NULL;
            out->is_mlx = out->is_mlx || (i == 2 && !null);
            /* MLX folders say the same under two names; the one that transformers knows is the better one. */
            if (i > 0 && known && strcmp(out->key, keys[0]) == 0) break;
            if (null && known && strcmp(out->key, keys[i]) == 0) out->key = NULL;
            if (!null) out->at = *r, out->key = keys[i];
            break;
        }
        kvi_json_skip(r);
    }
}

/* The first pass over a configuration: what names its method. compressed-tensors may keep its own within, beside one about sparsity. */
static void find_method(kvi_quantization *q, kvi_json *at, bool is_mlx)
{
    kvi_json r = *at, inner = {0};
    char sparsity[32] = "";
    bool has_groups = false, has_algorithm = false;
    if (!kvi_json_expect(&r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(&r)) {
        if (kvi_json_key_is(&r, "quant_method")) kvi_quant_read_text(&r, q->name, sizeof q->name);
        else if (kvi_json_key_is(&r, "quantization_config") && kvi_json_peek(&r) == KVI_JSON_OBJECT) {
            inner = r;
            kvi_json_skip(&r);
        } else if (kvi_json_key_is(&r, "sparsity_config") && kvi_json_peek(&r) == KVI_JSON_OBJECT) {
            (void)kvi_json_expect(&r, KVI_JSON_OBJECT);
            while (kvi_json_next_key(&r))
                if (kvi_json_key_is(&r, "format")) kvi_quant_read_text(&r, sparsity, sizeof sparsity);
                else kvi_json_skip(&r);
        } else {
            has_groups = has_groups || kvi_json_key_is(&r, "config_groups");
            has_algorithm = has_algorithm || kvi_json_key_is(&r, "quant_algo");
            kvi_json_skip(&r);
        }
    }
    if (r.error) return;
    if (sparsity[0] && strcmp(sparsity, "dense") != 0 && q->status >= KVRT_OK)
        q->status = kvi_quant_refuse(q, "sparsity_config.format", sparsity, "dense", &q->problem);
    if (inner.text) {
        *at = inner;
        find_method(q, at, is_mlx);
    } else if (!q->name[0] && has_algorithm) (void)snprintf(q->name, sizeof q->name, "modelopt");
    else if (!q->name[0] && has_groups) (void)snprintf(q->name, sizeof q->name, "compressed-tensors");
    else if (!q->name[0] && is_mlx) (void)snprintf(q->name, sizeof q->name, "mlx");
}

static kvrt_status unknown_method(const kvi_quantization *q, kvrt_error *error)
{
    char list[200] = "";
    for (size_t i = 0; i < N_METHODS; i++)
        for (size_t k = 0; k < 3 && methods[i]->names[k]; k++) {
            const size_t len = strlen(list);
            (void)snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "", methods[i]->names[k]);
        }
    if (!q->name[0])
        return kvi_error_set(error, KVRT_UNSUPPORTED, "%s: %s has no quant_method, need one of %s", q->file, q->key,
                             list);
    return kvi_quant_refuse(q, "quant_method", q->name, list, error);
}

static void read_config(kvi_quantization *q, const found_config *found)
{
    kvi_json at = found->at;
    find_method(q, &at, found->is_mlx);
    q->method = method_named(q->name);
    if (q->status >= KVRT_OK && !q->method) q->status = unknown_method(q, &q->problem);
    if (q->status < KVRT_OK) return;
    if (kvi_json_expect(&at, KVI_JSON_OBJECT))
        while (q->status >= KVRT_OK && kvi_json_next_key(&at))
            if (!q->method->read_key(q, &at)) kvi_json_skip(&at);
    if (at.error) q->status = kvi_json_fail(&at, q->file, &q->problem);
    if (q->status >= KVRT_OK) q->status = q->method->check(q, &q->problem);
}

static kvrt_status parse(const char *text, size_t len, const char *file, const char *method, kvi_quantization **out,
                         kvrt_error *error)
{
    found_config found = {.key = NULL};
    kvi_json r;
    *out = NULL;
    kvi_json_init(&r, text, len);
    r.python = true;
    if (method) found.at = r, found.key = "file";
    else find_config(&r, &found);
    if (r.error || !found.key) return KVRT_OK; /* what config.json lacks is not for this page to say */
    kvi_quantization *q = kvi_mem_zalloc(1, sizeof *q);
    if (!q) return kvi_error_nomem(error, sizeof *q, "quantization");
    kvi_arena_init(&q->arena, 4096);
    q->problem.size = sizeof q->problem;
    (void)snprintf(q->file, sizeof q->file, "%s", file);
    (void)snprintf(q->key, sizeof q->key, "%s", found.key);
    (void)snprintf(q->name, sizeof q->name, "%s", method ? method : "");
    q->is_packed_in_words = true;
    read_config(q, &found);
    if (q->status == KVRT_NOMEM_HOST) {
        const kvrt_status status = kvi_quantization_problem(q, error);
        kvi_quantization_free(q);
        return status;
    }
    *out = q;
    return KVRT_OK;
}

kvrt_status kvi_quantization_parse(const char *text, size_t len, const char *file, kvi_quantization **out,
                                   kvrt_error *error)
{
    return parse(text, len, file, NULL, out, error);
}

kvrt_status kvi_quantization_read(const char *dir, kvi_quantization **out, kvrt_error *error)
{
    static const struct {
        const char *file, *method; /* NULL: the file says it */
    } places[] = {{"config.json", NULL},
                  {"quantize_config.json", "gptq"},
                  {"quant_config.json", "awq"},
                  {"hf_quant_config.json", NULL}};
    *out = NULL;
    for (size_t i = 0; i < sizeof places / sizeof places[0] && !*out; i++) {
        kvi_map map = {0};
        bool found = false;
        KVI_TRY(kvi_folder_map(dir, places[i].file, true, &map, &found, error));
        const kvrt_status status =
            found ? parse((const char *)map.data, map.len, places[i].file, places[i].method, out, error) : KVRT_OK;
        kvi_os_unmap(&map);
        KVI_TRY(status);
    }
    return KVRT_OK;
}

void kvi_quantization_free(kvi_quantization *q)
{
    if (!q) return;
    for (kvi_quant_rule *rule = q->rules; rule; rule = rule->next) kvi_regex_free(rule->regex);
    kvi_arena_free(&q->arena);
    kvi_mem_free(q);
}

kvrt_status kvi_quantization_problem(const kvi_quantization *q, kvrt_error *error)
{
    return !q || q->status >= KVRT_OK ? KVRT_OK : kvi_error_set(error, q->status, "%s", q->problem.message);
}

const char *kvi_quantization_method(const kvi_quantization *q) { return q ? q->name : ""; }

/* ----------------------------------------------------------------------------------------------------- weights --- */
const kvi_tensor *kvi_quantization_codes(const kvi_quantization *q, const kvi_checkpoint *checkpoint, const char *name)
{
    static const char weight[] = "weight";
    const size_t len = strlen(name), stem = len - (sizeof weight - 1);
    if (!q || !q->method) return NULL;
    const bool is_weight = len >= sizeof weight - 1 && strcmp(name + stem, weight) == 0;
    for (size_t i = 0; i < 2 && q->method->codes[i]; i++) {
        char codes[224];
        const size_t kept = is_weight ? stem : len;
        if (is_weight == (q->method->codes[i][0] == '_')) continue;
        (void)snprintf(codes, sizeof codes, "%.*s%s", kept < 190 ? (int)kept : 190, name, q->method->codes[i]);
        const kvi_tensor *t = kvi_checkpoint_find(checkpoint, codes);
        if (t) return t;
    }
    return NULL;
}

kvrt_status kvi_quantization_describe(const kvi_quantization *q, const kvi_checkpoint *checkpoint,
                                      const kvi_tensor *codes, kvi_weight_desc *desc, bool *done, kvrt_error *error)
{
    *done = false;
    if (!q || !q->method) return KVRT_OK;
    kvi_quant_weight w = {.q = q,
                          .checkpoint = checkpoint,
                          .codes = codes,
                          .n_out = desc->rows.of ? desc->rows.of : desc->n_out,
                          .n_in = desc->n_in,
                          .args = q->args,
                          .desc = desc,
                          .error = error};
    const char *dot = strrchr(codes->name, '.');
    const size_t stem = dot ? (size_t)(dot - codes->name) : 0;
    if (!stem || stem >= sizeof w.module) return KVRT_OK;
    memcpy(w.module, codes->name, stem);
    KVI_TRY(rule_of(q, w.module, &w.rule, error));
    if (w.rule) w.args = w.rule->args;
    desc->name = codes->name;
    desc->parts[KVI_PART_CODES] = codes->data;
    return q->method->describe(&w, done);
}
