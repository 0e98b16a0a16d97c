/* format.c - see format.h. */
#include "format.h"
#include <string.h>

static const struct {
    const char *name;
    kvi_kv_format format;
} named[] = {{"f32", KVI_KV_FMT_F32}, {"f16", KVI_KV_FMT_F16},   {"bf16", KVI_KV_FMT_BF16}, {"i8", KVI_KV_FMT_I8},
             {"f8", KVI_KV_FMT_F8},   {"k4v4", KVI_KV_FMT_K4V4}, {"k4v2", KVI_KV_FMT_K4V2}, {"k3v3", KVI_KV_FMT_K3V3},
             {"t3", KVI_KV_FMT_T3},   {"k2v2", KVI_KV_FMT_K2V2}, {"t2", KVI_KV_FMT_T2}};
#define N_NAMED (sizeof named / sizeof named[0])

const char *kvi_kv_format_at(uint32_t index, kvi_kv_format *out)
{
    if (index >= N_NAMED) return NULL;
    if (out) *out = named[index].format;
    return named[index].name;
}

/* Reads "16", "8", "4", "3", "2", "t3" or "t2"; returns the characters used. */
static size_t parse_side(const char *text, size_t len, kvi_kv_code *code)
{
    if (len >= 2 && text[0] == '1' && text[1] == '6') return *code = KVI_KV_F16, 2;
    if (len >= 2 && text[0] == 't' && (text[1] == '2' || text[1] == '3'))
        return *code = text[1] == '2' ? KVI_KV_T2 : KVI_KV_T3, 2;
    if (len < 1) return 0;
    switch (text[0]) {
    case '8': *code = KVI_KV_I8; return 1;
    case '4': *code = KVI_KV_Q4; return 1;
    case '3': *code = KVI_KV_Q3; return 1;
    case '2': *code = KVI_KV_Q2; return 1;
    default: return 0;
    }
}

bool kvi_kv_format_parse(const char *text, size_t len, kvi_kv_format *out)
{
    for (size_t i = 0; i < N_NAMED; i++)
        if (strlen(named[i].name) == len && memcmp(named[i].name, text, len) == 0) return *out = named[i].format, true;
    kvi_kv_code k, v;
    if (len < 4 || text[0] != 'k') return false;
    size_t at = 1 + parse_side(text + 1, len - 1, &k);
    if (at == 1 || at >= len || text[at] != 'v') return false;
    size_t n = parse_side(text + at + 1, len - at - 1, &v);
    if (n == 0 || at + 1 + n != len) return false;
    *out = KVI_KV_FORMAT(k, v);
    return true;
}

/* "?" for what is no code, as a snapshot may have it that tells lies. */
static const char *digits_of(kvi_kv_code code)
{
    static const char *const digits[KVI_KV_CODES] = {"32", "16", "16", "8", "8", "4", "3", "2", "t3", "t2"};
    return code < KVI_KV_CODES ? digits[code] : "?";
}

const char *kvi_kv_format_name(kvi_kv_format format, char buffer[8])
{
    for (size_t i = 0; i < N_NAMED; i++)
        if (named[i].format == format) return named[i].name;
    buffer[0] = 'k';
    buffer[1] = 0;
    strcat(buffer, digits_of(KVI_KV_K_CODE(format)));
    strcat(buffer, "v");
    strcat(buffer, digits_of(KVI_KV_V_CODE(format)));
    return buffer;
}
