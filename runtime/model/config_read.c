/* config_read.c - see config_raw.h: the keys of config.json, each computed with, harmless, refused or unknown as config_keys.h says. */
#include "config_raw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum key_fate { KEY_READ, KEY_HARMLESS, KEY_DEFAULT /* refused unless it is the default */ } key_fate;
typedef struct config_key {
    const char *name;
    key_fate fate;
    const char *defaults; /* as JSON: one for all columns of config_columns, or one for each with tabs between */
} config_key;
#include "config_keys.h"
#define N_KEYS (sizeof config_keys / sizeof config_keys[0])
#define N_COLUMNS (sizeof config_columns / sizeof config_columns[0])

/* A pass over one config.json. */
typedef struct pass {
    kvi_json json;
    const kvi_family *family; /* NULL: unknown */
    size_t column;            /* of the family */
    kvi_model_config *out;
    kvi_raw_config *raw;
    size_t refused_at[N_KEYS]; /* where the value of a refused key stands, plus one; 0: none */
} pass;

/* The default of a key in a column, NULL when the family of the column does not know it. */
static const char *default_in(const config_key *key, size_t column, size_t *len)
{
    const char *at = key->defaults;
    if (strchr(at, '\t'))
        for (size_t i = 0; i < column; i++) at += strcspn(at, "\t") + 1;
    *len = strcspn(at, "\t");
    return *len ? at : NULL;
}

static const config_key *find_key(const pass *p)
{
    size_t len;
    for (size_t i = 0; i < N_KEYS; i++)
        if (kvi_json_key_is(&p->json, config_keys[i].name))
            return !p->family || default_in(&config_keys[i], p->column, &len) ? &config_keys[i] : NULL;
    return NULL;
}

/* A string that is too long to be one we know is cut, never dropped: dropped, it would pass for an absent key. */
static void text_value(kvi_json *r, char *out, size_t cap)
{
    out[0] = 0;
    if (!kvi_json_string(r)) return;
    char whole[256];
    if (r->str_len >= sizeof whole) {
        kvi_json_set_error(r, "string of more than 255 bytes");
        return;
    }
    size_t len = kvi_json_str_unescape(r, whole);
    if (memchr(whole, 0, len)) kvi_json_set_error(r, "NUL character in a string");
    if (len >= cap) len = cap - 1;
    memcpy(out, whole, len);
    out[len] = 0;
}

/* An integer key may be null. */
static int64_t int_or_null(kvi_json *r) { return kvi_json_null(r) ? KVI_NO_INT : kvi_json_i64(r); }

/* {"__float__": "Infinity"}: how transformers writes what JSON cannot say. */
static double tagged_number(kvi_json *r)
{
    double value = NAN;
    char word[16] = "";
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (!kvi_json_key_is(r, "__float__")) kvi_json_set_error(r, "need a number");
        else text_value(r, word, sizeof word);
    }
    if (strcmp(word, "Infinity") == 0) value = HUGE_VAL;
    else if (strcmp(word, "-Infinity") == 0) value = -HUGE_VAL;
    else if (strcmp(word, "NaN") != 0) kvi_json_set_error(r, "need a number");
    return value;
}

/* NAN marks what is absent, and nothing can be computed with one. */
static double number(kvi_json *r)
{
    double value = kvi_json_peek(r) == KVI_JSON_OBJECT ? tagged_number(r) : kvi_json_f64(r);
    if (isnan(value)) kvi_json_set_error(r, "NaN, need a number");
    return value;
}

static void warn_unknown(pass *p, const char *object)
{
    kvi_model_config *out = p->out;
    const char *head = "config.json: unknown to transformers and ignored: ";
    const kvi_json *r = &p->json;
    if (!out->warning[0]) (void)snprintf(out->warning, sizeof out->warning, "%s", head);
    size_t used = strlen(out->warning);
    const char *comma = used > strlen(head) ? ", " : "";
    int n = r->str_len < 60 ? (int)r->str_len : 60;
    if (used + strlen(object) + (size_t)n + 8 < sizeof out->warning)
        (void)snprintf(out->warning + used, sizeof out->warning - used, "%s%s%.*s", comma, object, n, r->str);
    else if (strcmp(out->warning + used - 3, "...") != 0)
        (void)snprintf(out->warning + used, sizeof out->warning - used, "%s...", comma);
}

static const kvi_raw_rope no_rope = {.theta = NAN,
                                     .factor = NAN,
                                     .low_freq = NAN,
                                     .high_freq = NAN,
                                     .partial_rotary = NAN,
                                     .attention_factor = NAN,
                                     .beta_fast = NAN,
                                     .beta_slow = NAN,
                                     .mscale = NAN,
                                     .mscale_all_dim = NAN,
                                     .q_growth = NAN,
                                     .original_ctx = KVI_NO_INT};

/* A list of numbers: how many there are, the first of them into out (KVI_MAX_HEAD_DIM / 2) unless that is NULL. */
static uint32_t read_factors(kvi_json *r, float *out)
{
    uint32_t n = 0;
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_ARRAY)) return 0;
    for (; kvi_json_next_item(r); n++) {
        const double value = number(r);
        if (out && n < KVI_MAX_HEAD_DIM / 2) out[n] = (float)value;
    }
    return n;
}

static bool read_rope_number(kvi_json *r, kvi_raw_rope *rope)
{
    const struct {
        const char *key;
        double *value;
    } numbers[] = {{"rope_theta", &rope->theta},
                   {"factor", &rope->factor},
                   {"low_freq_factor", &rope->low_freq},
                   {"high_freq_factor", &rope->high_freq},
                   {"partial_rotary_factor", &rope->partial_rotary},
                   {"attention_factor", &rope->attention_factor},
                   {"beta_fast", &rope->beta_fast},
                   {"beta_slow", &rope->beta_slow},
                   {"mscale", &rope->mscale},
                   {"mscale_all_dim", &rope->mscale_all_dim},
                   {"llama_4_scaling_beta", &rope->q_growth}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (kvi_json_key_is(r, numbers[i].key))
            return *numbers[i].value = kvi_json_null(r) ? (double)NAN : number(r), true;
    return false;
}

static void read_rope(pass *p, const char *object, kvi_raw_rope *rope)
{
    kvi_json *r = &p->json;
    *rope = no_rope;
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        rope->filled = true;
        if (read_rope_number(r, rope)) continue;
        if (kvi_json_key_is(r, "rope_type")) text_value(r, rope->rope_type, sizeof rope->rope_type);
        else if (kvi_json_key_is(r, "type")) text_value(r, rope->type, sizeof rope->type);
        else if (kvi_json_key_is(r, "truncate")) rope->no_truncate = !kvi_json_bool(r);
        else if (kvi_json_key_is(r, "short_factor")) rope->n_short = read_factors(r, rope->short_factor);
        else if (kvi_json_key_is(r, "long_factor")) rope->n_long = read_factors(r, NULL);
        else if (kvi_json_key_is(r, "original_max_position_embeddings")) rope->original_ctx = int_or_null(r);
        else if (p->family && p->family->mrope &&
                 (kvi_json_key_is(r, "mrope_section") || kvi_json_key_is(r, "mrope_interleaved")))
            kvi_json_skip(r);
        else if (kvi_json_key_is(r, "full_attention") && rope == &p->raw->parameters)
            rope->nested = true, read_rope(p, object, &p->raw->full);
        else if (kvi_json_key_is(r, "sliding_attention") && rope == &p->raw->parameters)
            rope->nested = true, read_rope(p, object, &p->raw->sliding);
        else {
            warn_unknown(p, object);
            if (kvi_json_peek(r) == KVI_JSON_OBJECT) rope->nested = true;
            kvi_json_skip(r);
        }
    }
}

static void read_layer_types(kvi_json *r, kvi_raw_config *raw)
{
    static const char *const names[KVI_LAYER_TYPES] = {"full_attention", "sliding_attention", "linear_attention"};
    raw->has_layer_types = !kvi_json_null(r);
    raw->n_layer_types = 0;
    raw->layer_type_problem[0] = 0;
    if (!raw->has_layer_types || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (kvi_json_next_item(r)) {
        char type[48];
        text_value(r, type, sizeof type);
        uint8_t kind = 0;
        while (kind < KVI_LAYER_TYPES && strcmp(type, names[kind]) != 0) kind++;
        if (strcmp(type, "attention") == 0) kind = KVI_LAYER_FULL; /* as transformers 4 called it */
        if (kind == KVI_LAYER_TYPES && !raw->layer_type_problem[0])
            memcpy(raw->layer_type_problem, type[0] ? type : "(empty)", type[0] ? sizeof type : 8);
        if (raw->n_layer_types < KVI_MAX_LAYERS) raw->layer_types[raw->n_layer_types++] = kind;
        else kvi_json_set_error(r, "more than 1024 layer_types");
    }
}

static void read_mlp_layer_types(kvi_json *r, kvi_raw_config *raw)
{
    raw->has_mlp_layer_types = !kvi_json_null(r);
    raw->n_mlp_layer_types = 0;
    raw->mlp_type_problem[0] = 0;
    if (!raw->has_mlp_layer_types || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (kvi_json_next_item(r)) {
        char type[48];
        text_value(r, type, sizeof type);
        const bool sparse = strcmp(type, "sparse") == 0;
        if (!sparse && strcmp(type, "dense") != 0 && !raw->mlp_type_problem[0])
            memcpy(raw->mlp_type_problem, type[0] ? type : "(empty)", type[0] ? sizeof type : 8);
        if (raw->n_mlp_layer_types < KVI_MAX_LAYERS) raw->sparse_layers[raw->n_mlp_layer_types++] = sparse;
        else kvi_json_set_error(r, "more than 1024 mlp_layer_types");
    }
}

static void read_mlp_only_layers(kvi_json *r, kvi_raw_config *raw)
{
    raw->n_mlp_only_layers = 0;
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (kvi_json_next_item(r)) {
        const int64_t layer = kvi_json_i64(r);
        if (layer < 0) continue;
        if (raw->n_mlp_only_layers == KVI_MAX_LAYERS) kvi_json_set_error(r, "more than 1024 mlp_only_layers");
        else raw->mlp_only_layers[raw->n_mlp_only_layers++] = layer > UINT32_MAX ? UINT32_MAX : (uint32_t)layer;
    }
}

/* A dropped end token would make a model talk on, so too many of them is an error. Negative: none. */
void kvi_config_read_ids(kvi_json *r, int32_t *ids, uint32_t *n)
{
    *n = 0;
    if (kvi_json_null(r)) return;
    bool list = kvi_json_peek(r) == KVI_JSON_ARRAY;
    if (list && !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (!list || kvi_json_next_item(r)) {
        int64_t id = kvi_json_i64(r);
        if (id > INT32_MAX) kvi_json_set_error(r, "token id above 2147483647");
        else if (id >= 0 && *n == KVI_MAX_EOS) kvi_json_set_error(r, "more than 16 token ids");
        else if (id >= 0) ids[(*n)++] = (int32_t)id;
        if (!list || r->error) return;
    }
}

/* 1 where a layer has RoPE, despite the name. */
static void read_no_rope(kvi_json *r, kvi_raw_config *raw)
{
    raw->has_no_rope_layers = !kvi_json_null(r);
    raw->n_no_rope_layers = 0;
    if (!raw->has_no_rope_layers || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    while (kvi_json_next_item(r)) {
        const bool rope = kvi_json_i64(r) != 0;
        if (raw->n_no_rope_layers < KVI_MAX_LAYERS) raw->rope_layers[raw->n_no_rope_layers++] = rope;
        else kvi_json_set_error(r, "more than 1024 no_rope_layers");
    }
}

/* {"5": {"head_dim": 512, "num_key_value_heads": 1}, ...}, with the same figures everywhere. */
static void read_per_layer(kvi_json *r, kvi_raw_config *raw)
{
    raw->has_per_layer = !kvi_json_null(r);
    raw->per_layer_problem = false;
    raw->layer_head_dim = raw->layer_kv = KVI_NO_INT;
    memset(raw->per_layer, 0, sizeof raw->per_layer);
    if (!raw->has_per_layer || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    for (bool first = true; kvi_json_next_key(r); first = false) {
        uint64_t layer = r->str_len ? 0 : KVI_MAX_LAYERS;
        for (size_t i = 0; i < r->str_len && layer < KVI_MAX_LAYERS; i++)
            layer = r->str[i] >= '0' && r->str[i] <= '9' ? 10 * layer + (uint64_t)(r->str[i] - '0') : KVI_MAX_LAYERS;
        int64_t dim = KVI_NO_INT, kv = KVI_NO_INT;
        if (layer < KVI_MAX_LAYERS) raw->per_layer[layer] = 1;
        else raw->per_layer_problem = true;
        if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
        while (kvi_json_next_key(r)) {
            if (kvi_json_key_is(r, "head_dim")) dim = int_or_null(r);
            else if (kvi_json_key_is(r, "num_key_value_heads")) kv = int_or_null(r);
            else raw->per_layer_problem = true, kvi_json_skip(r);
        }
        if (first) raw->layer_head_dim = dim, raw->layer_kv = kv;
        raw->per_layer_problem = raw->per_layer_problem || dim != raw->layer_head_dim || kv != raw->layer_kv;
    }
}

/* A flag in some families, "all" or "vision" in others. */
static void read_bidirectional(kvi_json *r, char *out, size_t cap)
{
    out[0] = 0;
    if (kvi_json_null(r)) return;
    if (kvi_json_peek(r) == KVI_JSON_STRING) text_value(r, out, cap);
    else (void)snprintf(out, cap, "%s", kvi_json_bool(r) ? "true" : "");
}

/* The first of the list; the others are other heads on the same model. */
static void read_architectures(kvi_json *r, char *out, size_t cap)
{
    out[0] = 0;
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_ARRAY)) return;
    bool first = true;
    while (kvi_json_next_item(r)) {
        if (first) text_value(r, out, cap);
        else kvi_json_skip(r);
        first = false;
    }
}

static bool read_typed_key(kvi_json *r, kvi_raw_config *raw)
{
#define INT(key)                                                                                                       \
    if (kvi_json_key_is(r, #key)) return raw->key = int_or_null(r), true;
#define NUMBER(key)                                                                                                    \
    if (kvi_json_key_is(r, #key)) return raw->key = number(r), true;
#define NUMBER_OR_NULL(key)                                                                                            \
    if (kvi_json_key_is(r, #key)) return raw->key = kvi_json_null(r) ? (double)NAN : number(r), true;
#define FLAG(key)                                                                                                      \
    if (kvi_json_key_is(r, #key)) return raw->key = kvi_json_bool(r), true;
    KVI_CONFIG_INTS(INT)
    KVI_CONFIG_NUMBERS(NUMBER)
    KVI_CONFIG_NUMBERS_OR_NULL(NUMBER_OR_NULL)
    KVI_CONFIG_FLAGS(FLAG)
    return false;
#undef INT
#undef NUMBER
#undef NUMBER_OR_NULL
#undef FLAG
}

static void read_key(pass *p)
{
    kvi_json *r = &p->json;
    uint32_t n_bos = 0;
    int32_t bos[KVI_MAX_EOS];
    if (read_typed_key(r, p->raw)) return;
    /* One attribute of transformers' configs under three names; a file may use any. */
    if (kvi_json_key_is(r, "num_local_experts") || kvi_json_key_is(r, "n_routed_experts")) {
        p->raw->num_experts = int_or_null(r);
        return;
    }
    if (kvi_json_key_is(r, "rope_scaling")) read_rope(p, "rope_scaling.", &p->raw->scaling);
    else if (kvi_json_key_is(r, "rope_parameters")) read_rope(p, "rope_parameters.", &p->raw->parameters);
    else if (kvi_json_key_is(r, "layer_types")) read_layer_types(r, p->raw);
    else if (kvi_json_key_is(r, "no_rope_layers")) read_no_rope(r, p->raw);
    else if (kvi_json_key_is(r, "position_embedding_type")) {
        p->raw->position_type[0] = 0;
        if (!kvi_json_null(r)) text_value(r, p->raw->position_type, sizeof p->raw->position_type);
    } else if (kvi_json_key_is(r, "per_layer_config")) read_per_layer(r, p->raw);
    else if (kvi_json_key_is(r, "mlp_only_layers")) read_mlp_only_layers(r, p->raw);
    else if (kvi_json_key_is(r, "mlp_layer_types")) read_mlp_layer_types(r, p->raw);
    else if (kvi_json_key_is(r, "topk_method") && !kvi_json_null(r))
        text_value(r, p->raw->topk_method, sizeof p->raw->topk_method);
    else if (kvi_json_key_is(r, "use_bidirectional_attention"))
        read_bidirectional(r, p->raw->bidirectional, sizeof p->raw->bidirectional);
    else if (kvi_json_key_is(r, "hidden_act") || kvi_json_key_is(r, "hidden_activation"))
        text_value(r, p->raw->act, sizeof p->raw->act);
    else if (kvi_json_key_is(r, "eos_token_id")) kvi_config_read_ids(r, p->out->eos_ids, &p->out->n_eos);
    else if (kvi_json_key_is(r, "bos_token_id")) {
        kvi_config_read_ids(r, bos, &n_bos);
        p->out->bos_id = n_bos ? bos[0] : -1;
    } else kvi_json_skip(r); /* architectures, model_type: read by the first pass */
}

/* The value that comes next is the same as `json`: the same word, string or number. */
static bool value_is(kvi_json *r, const char *json, size_t json_len)
{
    kvi_json other;
    kvi_json_init(&other, json, json_len);
    bool numbers = kvi_json_peek(r) == KVI_JSON_NUMBER && kvi_json_peek(&other) == KVI_JSON_NUMBER;
    if (numbers) return number(r) == number(&other);
    size_t start = r->pos;
    kvi_json_skip(r);
    size_t len = r->pos - start;
    return !r->error && len == json_len && memcmp(r->text + start, json, len) == 0;
}

/* Every key that is computed with gets the family's default by being read from it, as from a file. */
static void fill_defaults(pass *p)
{
    kvi_raw_config *raw = p->raw;
    memset(raw, 0, sizeof *raw);
    raw->scaling = raw->parameters = raw->full = raw->sliding = no_rope;
#define INT(key) raw->key = KVI_NO_INT;
#define NUMBER(key) raw->key = NAN;
    KVI_CONFIG_INTS(INT)
    KVI_CONFIG_NUMBERS(NUMBER)
    KVI_CONFIG_NUMBERS_OR_NULL(NUMBER)
#undef INT
#undef NUMBER
    p->out->bos_id = -1;
    for (size_t i = 0; p->family && i < N_KEYS; i++) {
        size_t len;
        const char *text = config_keys[i].fate == KEY_READ ? default_in(&config_keys[i], p->column, &len) : NULL;
        if (!text || strncmp(text, "null", 4) == 0) continue;
        kvi_json_init(&p->json, text, len);
        p->json.str = config_keys[i].name, p->json.str_len = strlen(config_keys[i].name);
        read_key(p);
    }
}

/* Of a model that also sees only what is said of the text model is read, and what counts for the whole (its quantization: quantization/). */
static bool counts_for_the_whole(const kvi_json *r) { return kvi_json_key_is(r, "tie_word_embeddings"); }

static void read_object(pass *p, bool outer)
{
    kvi_json *r = &p->json;
    if (!kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r)) {
        const config_key *key = find_key(p);
        size_t len;
        if (kvi_json_key_is(r, "text_config") && (outer || !p->family) && kvi_json_peek(r) == KVI_JSON_OBJECT)
            read_object(p, false);
        else if (outer && !counts_for_the_whole(r)) kvi_json_skip(r);
        /* What quantization/ reads: MLX, and old folders of compressed-tensors. */
        else if (kvi_json_key_is(r, "quantization") || kvi_json_key_is(r, "compression_config")) kvi_json_skip(r);
        else if (!key) {
            warn_unknown(p, "");
            kvi_json_skip(r);
        } else if (key->fate == KEY_READ) read_key(p);
        else if (key->fate == KEY_HARMLESS || !p->family) kvi_json_skip(r);
        else {
            size_t at = (kvi_json_peek(r), r->pos + 1);
            const char *text = default_in(key, p->column, &len);
            p->refused_at[key - config_keys] = value_is(r, text, len) ? 0 : at;
        }
    }
}

static kvrt_status refuse_keys(const pass *p, kvrt_error *error)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        if (!p->refused_at[i]) continue;
        kvi_json value;
        kvi_json_init(&value, p->json.text + p->refused_at[i] - 1, p->json.len - (p->refused_at[i] - 1));
        value.python = true;
        kvi_json_skip(&value);
        int len = value.pos < 40 ? (int)value.pos : 40;
        size_t need;
        const char *text = default_in(&config_keys[i], p->column, &need);
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: %s is %.*s, need %.*s (the default of %s)",
                             config_keys[i].name, len, value.text, (int)need, text, p->family->name);
    }
    return KVRT_OK;
}

/* The sizes of the text model stand in an object of their own. */
static bool is_outer(const char *text, size_t len)
{
    kvi_json r;
    bool found = false;
    kvi_json_init(&r, text, len);
    r.python = true;
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        found = found || (kvi_json_key_is(&r, "text_config") && kvi_json_peek(&r) == KVI_JSON_OBJECT);
        kvi_json_skip(&r);
    }
    return found;
}

kvrt_status kvi_config_read_keys(const char *text, size_t len, const kvi_family *family, kvi_model_config *out,
                                 kvi_raw_config *raw, kvrt_error *error)
{
    pass p = {.family = family, .out = out, .raw = raw};
    while (family && p.column < N_COLUMNS && strcmp(config_columns[p.column], family->name) != 0) p.column++;
    if (p.column == N_COLUMNS) return kvi_error_set(error, KVRT_INTERNAL, "config_keys.h: no column %s", family->name);
    fill_defaults(&p);
    kvi_json_init(&p.json, text, len);
    p.json.python = true;
    read_object(&p, family && family->outer && is_outer(text, len));
    if (!kvi_json_end(&p.json)) return kvi_json_fail(&p.json, "config.json", error);
    return refuse_keys(&p, error);
}

/* What the text model inside another calls itself. */
static void read_inner_type(kvi_json *r, char *out, size_t cap)
{
    if (kvi_json_null(r) || !kvi_json_expect(r, KVI_JSON_OBJECT)) return;
    while (kvi_json_next_key(r))
        if (kvi_json_key_is(r, "model_type") && kvi_json_peek(r) == KVI_JSON_STRING) text_value(r, out, cap);
        else kvi_json_skip(r);
}

kvrt_status kvi_config_find_family(const char *text, size_t len, kvi_model_config *out, const kvi_family **family,
                                   kvrt_error *error)
{
    kvi_json r;
    char model_type[64] = "", inner_type[64] = "";
    *family = NULL;
    kvi_json_init(&r, text, len);
    r.python = true;
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r))
        if (kvi_json_key_is(&r, "architectures")) read_architectures(&r, out->architecture, sizeof out->architecture);
        else if (kvi_json_key_is(&r, "model_type")) {
            model_type[0] = 0;
            if (!kvi_json_null(&r)) text_value(&r, model_type, sizeof model_type);
        } else if (kvi_json_key_is(&r, "text_config") && kvi_json_peek(&r) == KVI_JSON_OBJECT)
            read_inner_type(&r, inner_type, sizeof inner_type);
        else kvi_json_skip(&r);
    if (!kvi_json_end(&r)) return kvi_json_fail(&r, "config.json", error);
    const kvi_family *by_type = kvi_family_of_type(model_type);
    *family = out->architecture[0] ? kvi_family_find(out->architecture) : by_type;
    if (!out->architecture[0] && by_type)
        (void)snprintf(out->architecture, sizeof out->architecture, "%s", by_type->architecture);
    if (*family && model_type[0] && *family != by_type)
        return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: model_type is '%s', need '%s' for %s", model_type,
                             (*family)->name, out->architecture);
    /* Several text models may stand inside the same one that sees. */
    const kvi_family *inner = inner_type[0] ? kvi_family_of_type(inner_type) : NULL;
    if (*family && (*family)->outer && inner && inner->outer && strcmp(inner->outer, (*family)->outer) == 0)
        *family = inner;
    if (*family) return KVRT_OK;
    if (!out->architecture[0] && !model_type[0])
        return kvi_error_set(error, KVRT_FORMAT, "config.json: neither architectures nor model_type, need one of %s",
                             kvi_family_list());
    if (!out->architecture[0]) memcpy(out->architecture, model_type, sizeof out->architecture);
    return kvi_error_set(error, KVRT_UNSUPPORTED, "config.json: architecture %s, need one of %s", out->architecture,
                         kvi_family_list());
}
