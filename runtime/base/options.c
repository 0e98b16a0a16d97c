/* options.c - the options object: one slot per line of options_table.h. Strings are copied; numbers are parsed without the locale. */
#include "options.h"
#include "json.h"
#include "mem.h"

#include <stdio.h>
#include <string.h>

static const kvrt_option_info table[] = {
#define OPTION(key, flag, type, scope, defaults, min, max, range, help)                                                \
    {sizeof(kvrt_option_info), KVRT_OPTION_##type, key, flag, defaults, range, help, NULL, min, max,                   \
     KVRT_SCOPE_##scope},
#include "options_table.h"
#undef OPTION
};
#define N_OPTIONS (sizeof table / sizeof table[0])

typedef struct option_slot {
    bool set;
    int64_t i64; /* BOOL, I64, BYTES */
    double f64;
    char *string; /* STRING, CHOICE; owned */
    char **items; /* LIST; owned */
    uint64_t *item_len;
    uint32_t n_items;
} option_slot;

struct kvrt_options {
    option_slot slots[N_OPTIONS];
};

/* ------------------------------------------------------------------------------------------------------ finding --- */
/* Levenshtein distance, bounded to short keys: one row is enough. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t row[65];
    size_t la = strlen(a), lb = strlen(b);
    if (la > 64 || lb > 64) return 1000;
    for (uint32_t j = 0; j <= lb; j++) row[j] = j;
    for (uint32_t i = 1; i <= la; i++) {
        uint32_t diagonal = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= lb; j++) {
            uint32_t up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[lb];
}

/* A key is meant when its last part matches too: "temperature" finds "sample.temperature". */
static const char *nearest(const char *key)
{
    const char *best = table[0].key;
    uint32_t best_distance = UINT32_MAX;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const char *last = strrchr(table[i].key, '.');
        uint32_t d = distance(key, table[i].key), short_d = distance(key, last ? last + 1 : table[i].key);
        if (short_d < d) d = short_d;
        if (d < best_distance) best_distance = d, best = table[i].key;
    }
    return best;
}

static int32_t find(const char *key)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (strcmp(table[i].key, key) == 0) return (int32_t)i;
    return -1;
}

static kvrt_status lookup(const char *key, int32_t *index, kvrt_error *error)
{
    if (!key) return kvi_error_set(error, KVRT_ARG, "option: key is NULL");
    *index = find(key);
    if (*index < 0) return kvi_error_set(error, KVRT_ARG, "option %s: unknown, did you mean %s?", key, nearest(key));
    return KVRT_OK;
}

uint32_t kvrt_option_count(void) { return (uint32_t)N_OPTIONS; }

kvrt_status kvrt_option_at(uint32_t index, kvrt_option_info *out, kvrt_error *error)
{
    /* Group names are the part before the dot; static strings because they leave the library. */
    static const char *const groups[] = {"model", "weights", "device", "cpu", "ctx",    "kv",  "grammar",
                                         "draft", "mem",     "sched",  "gen", "sample", "log", "debug"};
    KVI_TRY(kvi_struct_check(out, "kvrt_option_info", error));
    if (index >= N_OPTIONS)
        return kvi_error_set(error, KVRT_ARG, "option index %u: need 0..%u", index, (unsigned)N_OPTIONS - 1);
    kvrt_option_info info = table[index];
    for (size_t g = 0; g < sizeof groups / sizeof groups[0]; g++) {
        size_t n = strlen(groups[g]);
        if (strncmp(info.key, groups[g], n) == 0 && info.key[n] == '.') info.group = groups[g];
    }
    kvi_struct_write(out, &info, sizeof info);
    return KVRT_OK;
}

/* ----------------------------------------------------------------------------------------------------- lifetime --- */
static void clear_slot(option_slot *slot)
{
    kvi_mem_free(slot->string);
    for (uint32_t i = 0; i < slot->n_items; i++) kvi_mem_free(slot->items[i]);
    kvi_mem_free(slot->items);
    kvi_mem_free(slot->item_len);
    memset(slot, 0, sizeof *slot);
}

kvrt_status kvrt_options_create(kvrt_options **out, kvrt_error *error)
{
    if (!out) return kvi_error_set(error, KVRT_ARG, "kvrt_options_create: out is NULL");
    *out = kvi_mem_zalloc(1, sizeof **out);
    return *out ? KVRT_OK : kvi_error_nomem(error, sizeof **out, "options");
}

void kvrt_options_destroy(kvrt_options *options)
{
    if (!options) return;
    for (size_t i = 0; i < N_OPTIONS; i++) clear_slot(&options->slots[i]);
    kvi_mem_free(options);
}

static kvrt_status append_item(option_slot *slot, const char *text, uint64_t len, kvrt_error *error)
{
    char *copy = kvi_mem_strndup(text, len);
    char **items = kvi_mem_realloc(slot->items, (slot->n_items + 1u) * sizeof *items);
    if (items) slot->items = items;
    uint64_t *lens = kvi_mem_realloc(slot->item_len, (slot->n_items + 1u) * sizeof *lens);
    if (lens) slot->item_len = lens;
    if (!copy || !items || !lens) {
        kvi_mem_free(copy);
        return kvi_error_nomem(error, len, "option value");
    }
    slot->items[slot->n_items] = copy;
    slot->item_len[slot->n_items++] = len;
    slot->set = true;
    return KVRT_OK;
}

static kvrt_status set_copy(option_slot *slot, const char *text, uint64_t len, kvrt_error *error)
{
    char *copy = kvi_mem_strndup(text, len);
    if (!copy) return kvi_error_nomem(error, len, "option value");
    kvi_mem_free(slot->string);
    slot->string = copy;
    slot->set = true;
    return KVRT_OK;
}

kvrt_status kvi_options_merge(kvrt_options *into, const kvrt_options *from, kvrt_error *error)
{
    for (size_t i = 0; from && i < N_OPTIONS; i++) {
        const option_slot *source = &from->slots[i];
        option_slot *slot = &into->slots[i];
        if (!source->set) continue;
        clear_slot(slot);
        slot->i64 = source->i64;
        slot->f64 = source->f64;
        slot->set = true;
        if (source->string) KVI_TRY(set_copy(slot, source->string, strlen(source->string), error));
        for (uint32_t k = 0; k < source->n_items; k++)
            KVI_TRY(append_item(slot, source->items[k], source->item_len[k], error));
    }
    return KVRT_OK;
}

kvrt_status kvrt_options_clone(const kvrt_options *options, kvrt_options **out, kvrt_error *error)
{
    KVI_TRY(kvrt_options_create(out, error));
    kvrt_status status = kvi_options_merge(*out, options, error);
    if (status < KVRT_OK) {
        kvrt_options_destroy(*out);
        *out = NULL;
    }
    return status;
}

kvrt_status kvrt_options_clear(kvrt_options *options, const char *key, kvrt_error *error)
{
    int32_t i;
    if (!options) return kvi_error_set(error, KVRT_ARG, "options: NULL");
    KVI_TRY(lookup(key, &i, error));
    clear_slot(&options->slots[i]);
    return KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------------ parsing --- */
/* Whether small letters are written for a unit: "8gb". */
static bool is_unit(const char *text, const char *unit)
{
    for (; *text && *unit; text++, unit++)
        if (*text != (*unit >= 'A' && *unit <= 'Z' ? *unit + 32 : *unit)) return false;
    return *text == *unit;
}

bool kvi_parse_bytes(const char *text, int64_t *out)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},
                 {"B", 1},
                 {"k", 1024},
                 {"K", 1024},
                 {"M", 1048576},
                 {"G", 1073741824.0},
                 {"T", 1099511627776.0},
                 {"KiB", 1024},
                 {"MiB", 1048576},
                 {"GiB", 1073741824.0},
                 {"TiB", 1099511627776.0},
                 {"kB", 1e3},
                 {"KB", 1e3},
                 {"MB", 1e6},
                 {"GB", 1e9},
                 {"TB", 1e12}};
    size_t n = 0;
    while ((text[n] >= '0' && text[n] <= '9') || text[n] == '.') n++;
    double value;
    if (!kvi_parse_f64(text, n, &value)) return false;
    const char *unit = text + n;
    while (*unit == ' ') unit++;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(unit, units[i].unit) == 0 || is_unit(unit, units[i].unit)) {
            value *= units[i].factor;
            if (!(value <= 9.2e18)) return false;
            *out = (int64_t)value;
            return true;
        }
    return false;
}

static bool in_choices(const char *range, const char *text, size_t len)
{
    for (const char *at = range; *at;) {
        size_t n = strcspn(at, "|");
        if (n == len && memcmp(at, text, n) == 0) return true;
        at += n + (at[n] == '|');
    }
    return false;
}

static bool parse_bool(const char *text, int64_t *out)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0) return *out = 1, true;
        if (strcmp(text, no[i]) == 0) return *out = 0, true;
    }
    return false;
}

static bool has_auto(const kvrt_option_info *info)
{
    return strncmp(info->range, "auto", 4) == 0 && info->type == KVRT_OPTION_I64;
}

static const char *type_name(int32_t type)
{
    static const char *const names[] = {
        "",        "a boolean", "an integer", "a number", "a string", "one of", "an amount of memory such as 24GiB",
        "a string"};
    return names[type];
}

static kvrt_status refuse(const kvrt_option_info *info, const char *found, kvrt_error *error)
{
    return kvi_error_set(error, KVRT_ARG, "option %s: found '%.100s', need %s%s%s", info->key, found,
                         type_name(info->type), info->range[0] ? " " : "", info->range);
}

/* ------------------------------------------------------------------------------------------------------ setters --- */
static kvrt_status begin_set(kvrt_options *options, const char *key, option_slot **slot, const kvrt_option_info **info,
                             kvrt_error *error)
{
    int32_t i;
    if (!options) return kvi_error_set(error, KVRT_ARG, "options: NULL");
    KVI_TRY(lookup(key, &i, error));
    *slot = &options->slots[i];
    *info = &table[i];
    return KVRT_OK;
}

static kvrt_status wrong_type(const kvrt_option_info *info, const char *given, kvrt_error *error)
{
    return kvi_error_set(error, KVRT_ARG, "option %s: set as %s, but it is %s %s", info->key, given,
                         type_name(info->type), info->range);
}

kvrt_status kvrt_options_set_bool(kvrt_options *options, const char *key, int32_t value, kvrt_error *error)
{
    option_slot *slot = NULL;
    const kvrt_option_info *info = NULL;
    KVI_TRY(begin_set(options, key, &slot, &info, error));
    if (info->type != KVRT_OPTION_BOOL) return wrong_type(info, "a boolean", error);
    slot->i64 = value != 0;
    slot->set = true;
    return KVRT_OK;
}

kvrt_status kvrt_options_set_i64(kvrt_options *options, const char *key, int64_t value, kvrt_error *error)
{
    option_slot *slot = NULL;
    const kvrt_option_info *info = NULL;
    KVI_TRY(begin_set(options, key, &slot, &info, error));
    if (info->type == KVRT_OPTION_F64) return kvrt_options_set_f64(options, key, (double)value, error);
    if (info->type != KVRT_OPTION_I64 && info->type != KVRT_OPTION_BYTES) return wrong_type(info, "an integer", error);
    bool is_auto = value == -1 && has_auto(info);
    bool inside =
        info->type == KVRT_OPTION_BYTES ? value >= 0 : (double)value >= info->min && (double)value <= info->max;
    if (!is_auto && !inside) {
        char found[32];
        (void)snprintf(found, sizeof found, "%lld", (long long)value);
        return refuse(info, found, error);
    }
    slot->i64 = value;
    slot->set = true;
    return KVRT_OK;
}

kvrt_status kvrt_options_set_f64(kvrt_options *options, const char *key, double value, kvrt_error *error)
{
    option_slot *slot = NULL;
    const kvrt_option_info *info = NULL;
    KVI_TRY(begin_set(options, key, &slot, &info, error));
    if (info->type != KVRT_OPTION_F64) return wrong_type(info, "a number", error);
    if (!(value >= info->min && value <= info->max)) return refuse(info, "a number outside", error);
    slot->f64 = value;
    slot->set = true;
    return KVRT_OK;
}

kvrt_status kvrt_options_set_string(kvrt_options *options, const char *key, const char *text, int64_t len,
                                    kvrt_error *error)
{
    option_slot *slot = NULL;
    const kvrt_option_info *info = NULL;
    KVI_TRY(begin_set(options, key, &slot, &info, error));
    if (!text || len < -1) return kvi_error_set(error, KVRT_ARG, "option %s: text is NULL or its length negative", key);
    uint64_t n = len < 0 ? strlen(text) : (uint64_t)len;
    if (info->type == KVRT_OPTION_LIST) return append_item(slot, text, n, error);
    if (info->type != KVRT_OPTION_STRING && info->type != KVRT_OPTION_CHOICE)
        return wrong_type(info, "a string", error);
    if (memchr(text, 0, n)) return kvi_error_set(error, KVRT_ARG, "option %s: text contains a NUL byte", key);
    if (info->type == KVRT_OPTION_CHOICE && !in_choices(info->range, text, n)) {
        char found[101];
        size_t shown = n < 100 ? n : 100;
        memcpy(found, text, shown);
        found[shown] = 0;
        return refuse(info, found, error);
    }
    return set_copy(slot, text, n, error);
}

/* ".5", as people write it. */
static kvrt_status set_short_number(kvrt_options *options, const kvrt_option_info *info, const char *text,
                                    kvrt_error *error)
{
    char number[32];
    double f64;
    const size_t n = (size_t)snprintf(number, sizeof number, "0%s", text);
    if (n >= sizeof number || !kvi_parse_f64(number, n, &f64) || !(f64 >= info->min && f64 <= info->max))
        return refuse(info, text, error);
    return kvrt_options_set_f64(options, info->key, f64, error);
}

kvrt_status kvrt_options_set_text(kvrt_options *options, const char *key, const char *text, kvrt_error *error)
{
    option_slot *slot = NULL;
    const kvrt_option_info *info = NULL;
    KVI_TRY(begin_set(options, key, &slot, &info, error));
    if (!text) return kvi_error_set(error, KVRT_ARG, "option %s: text is NULL", key);
    int64_t i64;
    double f64;
    switch (info->type) {
    case KVRT_OPTION_BOOL:
        if (!parse_bool(text, &i64)) return refuse(info, text, error);
        return kvrt_options_set_bool(options, key, (int32_t)i64, error);
    case KVRT_OPTION_BYTES:
        if (!kvi_parse_bytes(text, &i64)) return refuse(info, text, error);
        return kvrt_options_set_i64(options, key, i64, error);
    case KVRT_OPTION_I64: {
        if (has_auto(info) && strcmp(text, "auto") == 0) return kvrt_options_set_i64(options, key, -1, error);
        kvi_json number;
        kvi_json_init(&number, text, strlen(text));
        i64 = kvi_json_i64(&number);
        /* -1 is the stored form of "auto", not a spelling of it. */
        if (!kvi_json_end(&number) || (i64 == -1 && info->min >= 0)) return refuse(info, text, error);
        kvrt_status status = kvrt_options_set_i64(options, key, i64, NULL);
        return status < KVRT_OK ? refuse(info, text, error) : status;
    }
    case KVRT_OPTION_F64:
        if (text[0] == '.') return set_short_number(options, info, text, error);
        if (!kvi_parse_f64(text, strlen(text), &f64) || !(f64 >= info->min && f64 <= info->max))
            return refuse(info, text, error);
        return kvrt_options_set_f64(options, key, f64, error);
    default: return kvrt_options_set_string(options, key, text, -1, error);
    }
}

/* ------------------------------------------------------------------------------------------------------ getters --- */
static int64_t effective_i64(const option_slot *slot, const kvrt_option_info *info)
{
    int64_t value = 0;
    if (slot && slot->set) return slot->i64;
    if (info->type == KVRT_OPTION_BOOL) return (void)parse_bool(info->defaults, &value), value;
    if (strcmp(info->defaults, "auto") == 0) return -1;
    if (info->type == KVRT_OPTION_BYTES) return (void)kvi_parse_bytes(info->defaults, &value), value;
    double number = 0;
    (void)kvi_parse_f64(info->defaults, strlen(info->defaults), &number);
    return (int64_t)number;
}

static double effective_f64(const option_slot *slot, const kvrt_option_info *info)
{
    double value = 0;
    if (slot && slot->set) return slot->f64;
    (void)kvi_parse_f64(info->defaults, strlen(info->defaults), &value);
    return value;
}

static const option_slot *slot_of(const kvrt_options *options, int32_t i)
{
    return options ? &options->slots[i] : NULL;
}

bool kvi_options_bool(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    return i >= 0 && effective_i64(slot_of(options, i), &table[i]) != 0;
}
int64_t kvi_options_i64(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    return i >= 0 ? effective_i64(slot_of(options, i), &table[i]) : 0;
}
double kvi_options_f64(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    return i >= 0 ? effective_f64(slot_of(options, i), &table[i]) : 0;
}
const char *kvi_options_string(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    const option_slot *slot = i >= 0 ? slot_of(options, i) : NULL;
    return slot && slot->set && slot->string ? slot->string : i >= 0 ? table[i].defaults : "";
}
uint32_t kvi_options_list_len(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    return i >= 0 && options ? options->slots[i].n_items : 0;
}
const char *kvi_options_list_item(const kvrt_options *options, const char *key, uint32_t index, uint64_t *len)
{
    if (index >= kvi_options_list_len(options, key)) return NULL;
    const option_slot *slot = &options->slots[find(key)];
    if (len) *len = slot->item_len[index];
    return slot->items[index];
}
const char *kvi_option_range(const char *key)
{
    int32_t i = find(key);
    return i >= 0 ? table[i].range : "";
}
int32_t kvrt_options_is_set(const kvrt_options *options, const char *key)
{
    return key && kvi_options_is_set(options, key);
}
bool kvi_options_is_set(const kvrt_options *options, const char *key)
{
    int32_t i = find(key);
    return i >= 0 && options && options->slots[i].set;
}

static kvrt_status begin_get(const void *out, const char *key, int32_t want, int32_t also, int32_t *index,
                             kvrt_error *error)
{
    if (!out) return kvi_error_set(error, KVRT_ARG, "option %s: out is NULL", key ? key : "?");
    KVI_TRY(lookup(key, index, error));
    int32_t type = table[*index].type;
    if (type != want && type != also)
        return kvi_error_set(error, KVRT_ARG, "option %s: read as %s, but it is %s", key, type_name(want),
                             type_name(type));
    return KVRT_OK;
}

kvrt_status kvrt_options_get_bool(const kvrt_options *options, const char *key, int32_t *out, kvrt_error *error)
{
    int32_t i;
    KVI_TRY(begin_get(out, key, KVRT_OPTION_BOOL, KVRT_OPTION_BOOL, &i, error));
    *out = kvi_options_bool(options, key);
    return KVRT_OK;
}
kvrt_status kvrt_options_get_i64(const kvrt_options *options, const char *key, int64_t *out, kvrt_error *error)
{
    int32_t i;
    KVI_TRY(begin_get(out, key, KVRT_OPTION_I64, KVRT_OPTION_BYTES, &i, error));
    *out = kvi_options_i64(options, key);
    return KVRT_OK;
}
kvrt_status kvrt_options_get_f64(const kvrt_options *options, const char *key, double *out, kvrt_error *error)
{
    int32_t i;
    KVI_TRY(begin_get(out, key, KVRT_OPTION_F64, KVRT_OPTION_F64, &i, error));
    *out = kvi_options_f64(options, key);
    return KVRT_OK;
}
kvrt_status kvrt_options_get_string(const kvrt_options *options, const char *key, const char **out, kvrt_error *error)
{
    int32_t i;
    KVI_TRY(begin_get(out, key, KVRT_OPTION_STRING, KVRT_OPTION_CHOICE, &i, error));
    *out = kvi_options_string(options, key);
    return KVRT_OK;
}

/* --------------------------------------------------------------------------------------------------------- scope --- */
/* A value as text, for messages. */
static void show_value(const kvrt_options *options, size_t i, char out[64])
{
    const kvrt_option_info *info = &table[i];
    const int64_t value = effective_i64(&options->slots[i], info);
    if (info->type == KVRT_OPTION_STRING || info->type == KVRT_OPTION_CHOICE)
        (void)snprintf(out, 64, "%.60s", kvi_options_string(options, info->key));
    else if (info->type == KVRT_OPTION_BOOL) (void)snprintf(out, 64, "%s", value ? "true" : "false");
    else if (value == -1 && has_auto(info)) (void)snprintf(out, 64, "auto");
    else (void)snprintf(out, 64, "%lld", (long long)value);
}

/* No list and no F64 belongs to more than a call. */
static bool same_value(const kvrt_options *a, const kvrt_options *b, size_t i)
{
    const kvrt_option_info *info = &table[i];
    if (info->type == KVRT_OPTION_STRING || info->type == KVRT_OPTION_CHOICE)
        return strcmp(kvi_options_string(a, info->key), kvi_options_string(b, info->key)) == 0;
    return effective_i64(&a->slots[i], info) == effective_i64(&b->slots[i], info);
}

kvrt_status kvi_options_check_scope(const kvrt_options *given, const kvrt_options *owner, int32_t scope,
                                    kvrt_error *error)
{
    for (size_t i = 0; given && i < N_OPTIONS; i++) {
        char found[64], need[64];
        if (!given->slots[i].set || table[i].scope >= scope || same_value(given, owner, i)) continue;
        show_value(given, i, found);
        show_value(owner, i, need);
        return kvi_error_set(error, KVRT_ARG, "option %s: found %s, need %s: it belongs to the %s and cannot vary here",
                             table[i].key, found, need, table[i].scope == KVRT_SCOPE_ENGINE ? "engine" : "session");
    }
    return KVRT_OK;
}
