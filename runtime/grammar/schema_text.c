/* schema_text.c - strings and numbers of a schema as expressions. Content of strings is what stands between the quotes: where a pattern or format is
 * given, only what JSON requires is escaped; a free string may escape as it likes. */
#include "schema_impl.h"

#include <string.h>

/* Formats as RFC 3339, 5321, 1123, 2673, 4291, 4122, 3986 and 6901 have them, less what takes more than a pattern (the length of a whole e-mail
 * address). */
#define YEAR                                                                                                           \
    "(000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})" /* RFC 3339 has a year 0; validators made of calendars have none */
#define DATE                                                                                                           \
    "((" YEAR "-(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01]))|(" YEAR "-(0[469]|11)-(0[1-9]|[12]\\d|30))|(" YEAR            \
    "-02-(0[1-9]|"                                                                                                     \
    "1\\d|2[0-8]))|((\\d\\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29))"
#define TIME                                                                                                           \
    "(([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)|23:59:60(\\.\\d{1,9})?Z)"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(\\." LABEL ")*"
#define OCTET "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4 OCTET "(\\." OCTET "){3}"
#define H16 "[0-9a-fA-F]{1,4}"
#define LS32 "(" H16 ":" H16 "|" IPV4 ")"
#define IPV6                                                                                                           \
    "((" H16 ":){6}" LS32 "|::(" H16 ":){5}" LS32 "|(" H16 ")?::(" H16 ":){4}" LS32 "|((" H16 ":){0,1}" H16            \
    ")?::(" H16 ":){3}" LS32 "|((" H16 ":){0,2}" H16 ")?::(" H16 ":){2}" LS32 "|((" H16 ":){0,3}" H16 ")?::" H16       \
    ":" LS32 "|((" H16 ":){0,4}" H16 ")?::" LS32 "|((" H16 ":){0,5}" H16 ")?::" H16 "|((" H16 ":){0,6}" H16 ")?::)"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define PCHAR "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define AUTHORITY                                                                                                      \
    "(([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?(\\[" IPV6                                                      \
    "\\]|([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:\\d*)?"
#define QUERY "(\\?(" PCHAR "|[/?])*)?(#(" PCHAR "|[/?])*)?"
#define URI                                                                                                            \
    "[A-Za-z][A-Za-z0-9+.-]*:(//" AUTHORITY "(/" PCHAR "*)*|/(" PCHAR "+(/" PCHAR "*)*)?|" PCHAR "+(/" PCHAR           \
    "*)*)?" QUERY
#define RELATIVE                                                                                                       \
    "(//" AUTHORITY "(/" PCHAR "*)*|/(" PCHAR "+(/" PCHAR                                                              \
    "*)*)?|([A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+(/" PCHAR "*)*)?" QUERY
#define POINTER "(/([^~/]|~[01])*)*"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P((\\d+D|\\d+M(\\d+D)?|\\d+Y(\\d+M(\\d+D)?)?)(T(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S))?|T(\\d+H("
                 "\\d+M(\\d+S)?"
                 ")?|\\d+M(\\d+S)?|\\d+S)|\\d+W)"},
    {"email", ATOM "(\\." ATOM ")*@(" HOST "|\\[" IPV4 "\\])"},
    {"idn-email", ATOM "(\\." ATOM ")*@(" HOST ")"},
    {"hostname", "(?=.{1,253}$)" HOST},
    {"ipv4", IPV4},
    {"ip-address", IPV4},
    {"ipv6", IPV6},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"uri", URI},
    {"iri", URI},
    {"uri-reference", "(" URI ")|(" RELATIVE ")"},
    {"iri-reference", "(" URI ")|(" RELATIVE ")"},
    {"json-pointer", POINTER},
    {"relative-json-pointer", "(0|[1-9]\\d*)(#|" POINTER ")"},
};
/* Names that say how a value is to be shown or stored, not what it is. */
static const char *const notes[] = {"int32", "int64",  "uint32",   "uint64",   "float",        "double",
                                    "byte",  "binary", "password", "textarea", "int-or-string"};

/* ---------------------------------------------------------------------------------------------------------- pieces --- */
kvi_expr kvi_schema_space(kvi_schema *s)
{
    kvi_exprs *p = &s->g->exprs;
    if (s->quote) return KVI_EXPR_VOID;
    const kvi_byte_set blank = {{1ull << ' ' | 1ull << '\t', 0, 0, 0}};
    const kvi_expr line =
        kvi_expr_then(p, kvi_expr_bytes(p, '\n', '\n'), kvi_expr_repeat(p, kvi_expr_byte_set(p, &blank), 0, 64));
    return kvi_expr_or(p, (kvi_expr[]){KVI_EXPR_VOID, kvi_expr_bytes(p, ' ', ' '), line}, 3);
}

kvi_expr kvi_schema_bare_names(kvi_schema *s)
{
    static const char whole[] = "[A-Za-z0-9_$.-]+";
    size_t at = 0;
    return kvi_pattern_parse(&s->g->exprs, whole, sizeof whole - 1, KVI_PATTERN_PLAIN, true, &at);
}

static kvi_expr hex_bytes(kvi_exprs *p, const char *allowed)
{
    kvi_byte_set set = {{0}};
    for (; *allowed; allowed++) set.bits[*allowed >> 6] |= 1ull << (*allowed & 63);
    return kvi_expr_byte_set(p, &set);
}

/* One code point of a free string: as it is, or escaped in any way that JSON has. A pair of surrogates is one. */
static kvi_expr free_character(kvi_exprs *p)
{
    const kvi_expr hex = hex_bytes(p, "0123456789abcdefABCDEF"), hex2 = kvi_expr_repeat(p, hex, 2, 2);
    const kvi_expr hex3 = kvi_expr_then(p, hex, hex2), d = hex_bytes(p, "dD");
    const kvi_expr low = kvi_expr_then(p, kvi_expr_text(p, "\\u", 2),
                                       kvi_expr_then(p, d, kvi_expr_then(p, hex_bytes(p, "cdefCDEF"), hex2)));
    const kvi_expr unit = kvi_expr_or(
        p,
        (kvi_expr[]){kvi_expr_then(p, hex_bytes(p, "0123456789abcefABCEF"), hex3),
                     kvi_expr_then(p, d, kvi_expr_then(p, hex_bytes(p, "01234567"), hex2)),
                     kvi_expr_then(p, d, kvi_expr_then(p, hex_bytes(p, "89abAB"), kvi_expr_then(p, hex2, low)))},
        3);
    const kvi_expr escape =
        kvi_expr_then(p, kvi_expr_bytes(p, '\\', '\\'),
                      kvi_expr_or2(p, hex_bytes(p, "\"\\/bfnrt"), kvi_expr_then(p, kvi_expr_bytes(p, 'u', 'u'), unit)));
    return kvi_expr_or(p,
                       (kvi_expr[]){kvi_expr_bytes(p, 0x20, 0x21), kvi_expr_bytes(p, 0x23, 0x5b),
                                    kvi_expr_code_points(p, 0x5d, 0x10ffff), escape},
                       4);
}

void kvi_schema_begin_texts(kvi_schema *s)
{
    s->character = free_character(&s->g->exprs);
    s->plain = kvi_pattern_characters(&s->g->exprs, 0, 0x10ffff, KVI_PATTERN_JSON);
    kvi_expr_count_unit(&s->g->exprs, s->plain);
}

/* --------------------------------------------------------------------------------------------------------- strings --- */
kvi_expr kvi_schema_pattern(kvi_schema *s, const kvi_json_value *where, const char *keyword, const char *text,
                            size_t len)
{
    kvi_exprs *p = &s->g->exprs;
    size_t at = 0;
    const kvi_expr e = kvi_pattern_parse(p, text, len, KVI_PATTERN_JSON, false, &at);
    if (p->why && *p->why && !s->failed) (void)kvi_schema_fail(s, where, keyword, p->why);
    return e;
}

static void both_texts(kvi_schema *s, kvi_shape *shape, kvi_expr e)
{
    shape->text = shape->has_text ? kvi_expr_and2(&s->g->exprs, shape->text, e) : e;
    shape->has_text = true;
}

static void add_format(kvi_schema *s, const kvi_json_value *schema, const kvi_json_value *format, kvi_shape *shape)
{
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++)
        if (kvi_json_is_text(format, notes[i])) return;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!kvi_json_is_text(format, formats[i].name)) continue;
        kvi_exprs *p = &s->g->exprs;
        size_t at = 0;
        const kvi_expr e =
            kvi_pattern_parse(p, formats[i].pattern, strlen(formats[i].pattern), KVI_PATTERN_JSON, true, &at);
        both_texts(s, shape, e);
        return;
    }
    (void)kvi_schema_fail(s, schema, "format", "an unknown format");
}

void kvi_schema_text(kvi_schema *s, const kvi_json_value *schema, kvi_shape *shape)
{
    const kvi_json_value *pattern = kvi_json_get(schema, "pattern"), *format = kvi_json_get(schema, "format");
    if (pattern && pattern->type != KVI_JSON_STRING) (void)kvi_schema_fail(s, schema, "pattern", "need a string");
    else if (pattern) both_texts(s, shape, kvi_schema_pattern(s, schema, "pattern", pattern->text, pattern->len));
    if (format && format->type != KVI_JSON_STRING) (void)kvi_schema_fail(s, schema, "format", "need a string");
    else if (format && shape->types & KVI_IS_STRING) add_format(s, schema, format, shape);
}

kvi_expr kvi_schema_string(kvi_schema *s, const kvi_shape *shape)
{
    kvi_exprs *p = &s->g->exprs;
    const kvi_expr quote = kvi_expr_bytes(p, '"', '"');
    const bool lengths = shape->min_length > 0 || shape->max_length != KVI_NO_LIMIT;
    if (shape->min_length > shape->max_length) return KVI_EXPR_NONE;
    if (s->quote) {
        const kvi_expr raw = kvi_schema_raw_string(s, shape, s->stop);
        return raw == KVI_EXPR_NONE ? raw : kvi_expr_then(p, s->quote, kvi_expr_then(p, raw, s->quote));
    }
    kvi_expr e = shape->text;
    if (!shape->has_text) e = kvi_expr_repeat(p, s->character, shape->min_length, shape->max_length);
    else if (lengths) e = kvi_expr_and2(p, e, kvi_expr_repeat(p, s->plain, shape->min_length, shape->max_length));
    if (!kvi_expr_holds_any(p, e)) return KVI_EXPR_NONE;
    return kvi_expr_then(p, quote, kvi_expr_then(p, e, quote));
}

/* Texts of e in which `stop` does not stand. */
static kvi_expr without(kvi_schema *s, kvi_expr e, const char *stop)
{
    kvi_exprs *p = &s->g->exprs;
    const kvi_expr any = kvi_expr_anything(p), found = kvi_expr_then(p, kvi_expr_text(p, stop, strlen(stop)), any);
    e = kvi_expr_and2(p, e, kvi_expr_not(p, kvi_expr_then(p, any, found)));
    return kvi_expr_holds_any(p, e) ? e : KVI_EXPR_NONE;
}

kvi_expr kvi_schema_raw_string(kvi_schema *s, const kvi_shape *shape, const char *stop)
{
    kvi_exprs *p = &s->g->exprs;
    if (shape->min_length > shape->max_length) return KVI_EXPR_NONE;
    /* Of a text that JSON would not escape both spellings are the same. */
    const kvi_expr one = shape->has_text
                             ? kvi_expr_or(p,
                                           (kvi_expr[]){kvi_expr_bytes(p, 0x20, 0x21), kvi_expr_bytes(p, 0x23, 0x5b),
                                                        kvi_expr_code_points(p, 0x5d, 0x10ffff)},
                                           3)
                             : kvi_expr_code_points(p, 0, 0x10ffff);
    kvi_expr e = kvi_expr_repeat(p, one, shape->min_length, shape->max_length);
    if (shape->has_text) e = kvi_expr_and2(p, e, shape->text);
    return without(s, e, stop);
}

kvi_expr kvi_schema_raw_text(kvi_schema *s, const char *text, size_t len, const char *stop)
{
    return without(s, kvi_expr_text(&s->g->exprs, text, len), stop);
}

/* --------------------------------------------------------------------------------------------------------- numbers --- */
kvi_expr kvi_schema_number(kvi_schema *s, const kvi_shape *shape)
{
    kvi_exprs *p = &s->g->exprs;
    kvi_expr e = kvi_decimal_expr(p, &shape->number);
    const kvi_json_value *const of[2] = {shape->multiple, shape->multiple2};
    for (int i = 0; i < 2; i++)
        if (of[i]) e = kvi_expr_and2(p, e, kvi_decimal_multiples(p, of[i]->text, of[i]->len));
    if (p->why && *p->why && !s->failed) (void)kvi_schema_fail(s, shape->schema, NULL, p->why);
    return kvi_expr_holds_any(p, e) ? e : KVI_EXPR_NONE;
}

/* -------------------------------------------------------------------------------------------------------- literals --- */
static kvi_expr quoted(kvi_schema *s, const char *text, size_t len)
{
    kvi_exprs *p = &s->g->exprs;
    if (s->quote) {
        const kvi_expr raw = kvi_schema_raw_text(s, text, len, s->stop);
        return raw == KVI_EXPR_NONE ? raw : kvi_expr_then(p, s->quote, kvi_expr_then(p, raw, s->quote));
    }
    const kvi_expr quote = kvi_expr_bytes(p, '"', '"');
    return kvi_expr_then(p, quote, kvi_expr_then(p, kvi_pattern_literal(p, text, len, KVI_PATTERN_JSON), quote));
}

/* As it is written, or with the digits that it needs: 2.0 is 2. */
static kvi_expr number(kvi_schema *s, const kvi_json_value *v)
{
    kvi_exprs *p = &s->g->exprs;
    const kvi_expr written = kvi_expr_text(p, v->text, v->len);
    kvi_decimal d;
    if (!kvi_decimal_read(v->text, v->len, &d) || d.n_whole > 20 || d.n_fraction > 20) return written;
    kvi_expr e = d.n_fraction
                     ? kvi_expr_then(p, kvi_expr_bytes(p, '.', '.'), kvi_expr_text(p, d.fraction, d.n_fraction))
                     : KVI_EXPR_VOID;
    e = kvi_expr_then(p, d.n_whole ? kvi_expr_text(p, d.whole, d.n_whole) : kvi_expr_text(p, "0", 1), e);
    return kvi_expr_or2(p, written, d.negative ? kvi_expr_then(p, kvi_expr_bytes(p, '-', '-'), e) : e);
}

kvi_expr kvi_schema_literal(kvi_schema *s, const kvi_json_value *v)
{
    kvi_exprs *p = &s->g->exprs;
    if (v->type == KVI_JSON_STRING) return quoted(s, v->text, v->len);
    if (v->type == KVI_JSON_NUMBER) return number(s, v);
    if (v->type != KVI_JSON_ARRAY && v->type != KVI_JSON_OBJECT) return kvi_expr_text(p, v->text, v->len);
    const bool object = v->type == KVI_JSON_OBJECT;
    const kvi_expr space = kvi_schema_space(s);
    kvi_expr e = kvi_expr_bytes(p, object ? '{' : '[', object ? '{' : '[');
    e = kvi_expr_then(p, e, space);
    for (const kvi_json_value *c = v->first; c; c = c->next) {
        if (c != v->first) e = kvi_expr_then(p, e, kvi_expr_then(p, kvi_expr_bytes(p, ',', ','), space));
        if (object) {
            const kvi_expr key = s->quote ? kvi_expr_text(p, c->key, c->key_len) : quoted(s, c->key, c->key_len);
            e = kvi_expr_then(p, e, kvi_expr_then(p, key, kvi_expr_then(p, kvi_expr_bytes(p, ':', ':'), space)));
        }
        e = kvi_expr_then(p, e, kvi_schema_literal(s, c));
    }
    if (v->first) e = kvi_expr_then(p, e, space);
    return kvi_expr_then(p, e, kvi_expr_bytes(p, object ? '}' : ']', object ? '}' : ']'));
}
