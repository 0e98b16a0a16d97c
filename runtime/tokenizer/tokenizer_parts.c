/* tokenizer_parts.c - the components of tokenizer.json: normalizer, pre-tokenizer, decoder, post-processor.
 * Refuses, by name, each component and setting it does not know. To know: a component is read twice, first for its
 * "type", which need not be its first key. */
#include "normalize_parts.h"
#include "tokenizer_impl.h"
#include "../base/utf8.h"

#include <string.h>

typedef struct reader {
    kvi_tokenizer *tok;
    kvi_json *r;
    kvrt_error *error;
    const char *part; /* "normalizer", ... for messages */
    char type[48];
} reader;

static kvrt_status malformed(reader *in) { return kvi_json_fail(in->r, in->tok->name, in->error); }
static kvrt_status no_memory(reader *in) { return kvi_error_nomem(in->error, 0, "tokenizer"); }

static kvrt_status unsupported(reader *in, const char *what)
{
    return kvi_error_set(in->error, KVRT_UNSUPPORTED, "%s: %s %s: %s is not supported", in->tok->name, in->part,
                         in->type, what);
}

/* Reads ahead for "type" and leaves r before the object. */
static kvrt_status peek_type(reader *in)
{
    kvi_json ahead = *in->r;
    in->type[0] = 0;
    kvi_json_expect(&ahead, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&ahead)) {
        if (!kvi_json_key_is(&ahead, "type")) {
            kvi_json_skip(&ahead);
        } else if (kvi_json_string(&ahead)) {
            if (ahead.str_len >= sizeof in->type || ahead.str_escaped)
                return kvi_error_set(in->error, KVRT_UNSUPPORTED, "%s: %s with a type of %zu bytes is not supported",
                                     in->tok->name, in->part, ahead.str_len);
            memcpy(in->type, ahead.str, ahead.str_len);
            in->type[ahead.str_len] = 0;
        }
    }
    if (ahead.error) return kvi_json_fail(&ahead, in->tok->name, in->error);
    if (!in->type[0]) return kvi_error_set(in->error, KVRT_FORMAT, "%s: %s without \"type\"", in->tok->name, in->part);
    return KVRT_OK;
}

static bool is_type(const reader *in, const char *type) { return strcmp(in->type, type) == 0; }

static kvrt_status read_text(reader *in, kvi_bytes *out)
{
    if (!kvi_json_string(in->r)) return malformed(in);
    *out = kvi_load_string(in->tok, in->r);
    return out->data ? KVRT_OK : no_memory(in);
}

kvrt_status kvi_load_regex(kvi_tokenizer *tok, const char *text, size_t len, kvi_regex **out, kvrt_error *error)
{
    KVI_TRY(kvi_regex_compile(text, len, tok->name, out, error));
    *kvi_regex_next(*out) = tok->regexes;
    tok->regexes = *out;
    return KVRT_OK;
}

/* {"String": "..."} or {"Regex": "..."}; exactly one of *literal, *regex is set. */
static kvrt_status read_pattern(reader *in, kvi_bytes *literal, kvi_regex **regex)
{
    kvi_bytes text = {0};
    bool is_regex = false, any = false;
    kvi_json_expect(in->r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(in->r)) {
        is_regex = kvi_json_key_is(in->r, "Regex");
        if (!is_regex && !kvi_json_key_is(in->r, "String")) return unsupported(in, "this kind of pattern");
        if (any) return unsupported(in, "more than one pattern");
        any = true;
        KVI_TRY(read_text(in, &text));
    }
    if (in->r->error) return malformed(in);
    if (!any || (!is_regex && text.len == 0)) return unsupported(in, "an empty pattern");
    if (!is_regex) {
        *literal = text;
        return KVRT_OK;
    }
    return kvi_load_regex(in->tok, text.data, text.len, regex, in->error);
}

/* Calls `one` for each object of the array that is the value of `list_key` in the object that comes next. */
static kvrt_status read_sequence(reader *in, const char *list_key, kvrt_status (*one)(reader *))
{
    kvi_json *r = in->r;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (!kvi_json_key_is(r, list_key)) {
            kvi_json_skip(r);
            continue;
        }
        kvi_json_expect(r, KVI_JSON_ARRAY);
        while (kvi_json_next_item(r)) KVI_TRY(one(in));
    }
    return r->error ? malformed(in) : KVRT_OK;
}

/* ------------------------------------------------------------------------------------------------- normalizers --- */
static bool norm_kind(const char *type, kvi_norm_kind *out)
{
    static const struct {
        const char *type;
        kvi_norm_kind kind;
    } kinds[] = {{"NFC", KVI_NORM_NFC},
                 {"NFD", KVI_NORM_NFD},
                 {"NFKC", KVI_NORM_NFKC},
                 {"NFKD", KVI_NORM_NFKD},
                 {"Lowercase", KVI_NORM_LOWERCASE},
                 {"Strip", KVI_NORM_STRIP},
                 {"StripAccents", KVI_NORM_STRIP_ACCENTS},
                 {"Replace", KVI_NORM_REPLACE},
                 {"Prepend", KVI_NORM_PREPEND},
                 {"Precompiled", KVI_NORM_PRECOMPILED},
                 {"Nmt", KVI_NORM_NMT},
                 {"ByteLevel", KVI_NORM_BYTE_LEVEL}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        *out = kinds[i].kind;
        return true;
    }
    return false;
}

static kvrt_status read_charsmap(reader *in, kvi_norm_op *op)
{
    if (kvi_json_null(in->r)) return KVRT_OK;
    kvi_bytes base64;
    KVI_TRY(read_text(in, &base64));
    return kvi_charsmap_load(&in->tok->arena, base64.data, base64.len, in->tok->name, op, in->error);
}

static kvrt_status read_normalizer(reader *in)
{
    KVI_TRY(peek_type(in));
    if (is_type(in, "Sequence")) return read_sequence(in, "normalizers", read_normalizer);
    kvi_tokenizer *tok = in->tok;
    if (tok->n_norm == KVI_NORM_MAX) return unsupported(in, "a sequence of more than 32 normalizers");
    kvi_norm_op op = {.left = true, .right = true};
    if (!norm_kind(in->type, &op.kind)) return unsupported(in, "this normalizer");
    kvi_json *r = in->r;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "strip_left")) op.left = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "strip_right")) op.right = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "prepend") || kvi_json_key_is(r, "content")) KVI_TRY(read_text(in, &op.content));
        else if (kvi_json_key_is(r, "pattern")) KVI_TRY(read_pattern(in, &op.pattern, &op.regex));
        else if (kvi_json_key_is(r, "precompiled_charsmap")) KVI_TRY(read_charsmap(in, &op));
        else kvi_json_skip(r);
    }
    if (r->error) return malformed(in);
    if (op.kind == KVI_NORM_REPLACE && !op.regex && op.pattern.len == 0) return unsupported(in, "an empty pattern");
    tok->norm[tok->n_norm++] = op;
    return KVRT_OK;
}

kvrt_status kvi_load_normalizer(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    reader in = {.tok = tok, .r = r, .error = error, .part = "normalizer"};
    return kvi_json_null(r) ? KVRT_OK : read_normalizer(&in);
}

/* ---------------------------------------------------------------------------------------------- pre-tokenizers --- */
static kvrt_status read_behavior(reader *in, kvi_behavior *out)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    if (!kvi_json_string(in->r)) return malformed(in);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!kvi_json_str_is(in->r, names[i])) continue;
        *out = (kvi_behavior)i;
        return KVRT_OK;
    }
    return unsupported(in, "this behavior");
}

static kvrt_status read_scheme(reader *in, kvi_prepend *out)
{
    if (!kvi_json_string(in->r)) return malformed(in);
    if (kvi_json_str_is(in->r, "always")) *out = KVI_PREPEND_ALWAYS;
    else if (kvi_json_str_is(in->r, "first")) *out = KVI_PREPEND_FIRST;
    else if (kvi_json_str_is(in->r, "never")) *out = KVI_PREPEND_NEVER;
    else return unsupported(in, "this prepend_scheme");
    return KVRT_OK;
}

static bool pre_kind(const char *type, kvi_pre_op *op)
{
    static const struct {
        const char *type;
        kvi_pre_kind kind;
    } kinds[] = {{"Split", KVI_PRE_SPLIT},
                 {"ByteLevel", KVI_PRE_BYTE_LEVEL},
                 {"Metaspace", KVI_PRE_METASPACE},
                 {"WhitespaceSplit", KVI_PRE_WHITESPACE_SPLIT},
                 {"Whitespace", KVI_PRE_WHITESPACE},
                 {"Punctuation", KVI_PRE_PUNCTUATION},
                 {"Digits", KVI_PRE_DIGITS},
                 {"CharDelimiterSplit", KVI_PRE_SPLIT},
                 {"UnicodeScripts", KVI_PRE_SCRIPTS},
                 {"FixedLength", KVI_PRE_FIXED_LENGTH}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        op->kind = kinds[i].kind;
        return true;
    }
    return false;
}

/* Settings of all kinds; `prepend_given` tells whether prepend_scheme outranks the older add_prefix_space. */
static kvrt_status read_pre_settings(reader *in, kvi_pre_op *op, bool *use_regex)
{
    kvi_json *r = in->r;
    bool prepend_given = false;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "pattern")) KVI_TRY(read_pattern(in, &op->literal, &op->regex));
        else if (kvi_json_key_is(r, "behavior")) KVI_TRY(read_behavior(in, &op->behavior));
        else if (kvi_json_key_is(r, "invert")) op->invert = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "use_regex")) *use_regex = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "individual_digits")) op->individual = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "split")) op->split = kvi_json_bool(r);
        else if (kvi_json_key_is(r, "length") && op->kind == KVI_PRE_FIXED_LENGTH) {
            int64_t length = kvi_json_i64(r);
            if (!r->error && length < 1) return unsupported(in, "a length below 1");
            op->length = (size_t)length;
        } else if (kvi_json_key_is(r, "replacement") || kvi_json_key_is(r, "delimiter"))
            KVI_TRY(read_text(in, &op->literal));
        else if (kvi_json_key_is(r, "add_prefix_space")) {
            op->add_prefix_space = kvi_json_bool(r);
            if (!prepend_given && !op->add_prefix_space) op->prepend = KVI_PREPEND_NEVER;
        } else if (kvi_json_key_is(r, "prepend_scheme")) {
            KVI_TRY(read_scheme(in, &op->prepend));
            prepend_given = true;
        } else kvi_json_skip(r);
    }
    return r->error ? malformed(in) : KVRT_OK;
}

/* One character; U+2581 where none is given. */
static kvrt_status check_replacement(reader *in, kvi_bytes *replacement)
{
    uint32_t cp;
    if (replacement->len == 0) *replacement = (kvi_bytes){.data = "\xe2\x96\x81", .len = 3};
    if (kvi_utf8_decode(replacement->data, replacement->len, &cp) == replacement->len) return KVRT_OK;
    return unsupported(in, "a replacement that is not one character");
}

static kvrt_status read_pre_tokenizer(reader *in)
{
    KVI_TRY(peek_type(in));
    if (is_type(in, "Sequence")) return read_sequence(in, "pretokenizers", read_pre_tokenizer);
    kvi_tokenizer *tok = in->tok;
    if (tok->n_pre == KVI_PRE_MAX) return unsupported(in, "a sequence of more than 16 pre-tokenizers");
    kvi_pre_op op = {.behavior = KVI_SPLIT_ISOLATED, .add_prefix_space = true, .split = true, .length = 5};
    if (!pre_kind(in->type, &op)) return unsupported(in, "this pre-tokenizer");
    bool use_regex = true;
    if (is_type(in, "CharDelimiterSplit")) op.behavior = KVI_SPLIT_REMOVED;
    KVI_TRY(read_pre_settings(in, &op, &use_regex));
    if (op.kind == KVI_PRE_BYTE_LEVEL && use_regex)
        KVI_TRY(kvi_load_regex(tok, KVI_GPT2_REGEX, sizeof KVI_GPT2_REGEX - 1, &op.regex, in->error));
    if (op.kind == KVI_PRE_METASPACE) KVI_TRY(check_replacement(in, &op.literal));
    if (op.kind == KVI_PRE_SPLIT && !op.regex && op.literal.len == 0) return unsupported(in, "an empty pattern");
    tok->pre[tok->n_pre++] = op;
    return KVRT_OK;
}

kvrt_status kvi_load_pre_tokenizer(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    reader in = {.tok = tok, .r = r, .error = error, .part = "pre_tokenizer"};
    return kvi_json_null(r) ? KVRT_OK : read_pre_tokenizer(&in);
}

/* ----------------------------------------------------------------------------------------------------- decoders --- */
static kvrt_status read_strip(reader *in, kvi_dec_op *op)
{
    kvi_json *r = in->r;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "content")) KVI_TRY(read_text(in, &op->content));
        else if (kvi_json_key_is(r, "start") || kvi_json_key_is(r, "stop")) {
            bool start = kvi_json_key_is(r, "start");
            int64_t n = kvi_json_i64(r);
            if (n < 0 || n > 1000) return unsupported(in, "this number of characters");
            *(start ? &op->start : &op->stop) = (uint32_t)n;
        } else kvi_json_skip(r);
    }
    if (r->error) return malformed(in);
    return op->content.len ? KVRT_OK : unsupported(in, "an empty content");
}

static kvrt_status read_metaspace_decoder(reader *in, kvi_dec_op *op)
{
    kvi_pre_op settings = {0};
    bool unused;
    KVI_TRY(read_pre_settings(in, &settings, &unused));
    KVI_TRY(check_replacement(in, &settings.literal));
    op->pattern = settings.literal;
    op->content = (kvi_bytes){.data = " ", .len = 1};
    op->first_gone = settings.prepend != KVI_PREPEND_NEVER;
    return KVRT_OK;
}

static kvrt_status read_replace(reader *in, kvi_dec_op *op)
{
    kvi_json *r = in->r;
    kvi_json_expect(r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(r)) {
        if (kvi_json_key_is(r, "pattern")) KVI_TRY(read_pattern(in, &op->pattern, &op->regex));
        else if (kvi_json_key_is(r, "content")) KVI_TRY(read_text(in, &op->content));
        else kvi_json_skip(r);
    }
    if (r->error) return malformed(in);
    return op->regex || op->pattern.len ? KVRT_OK : unsupported(in, "an empty pattern");
}

static kvrt_status read_decoder(reader *in)
{
    KVI_TRY(peek_type(in));
    if (is_type(in, "Sequence")) return read_sequence(in, "decoders", read_decoder);
    kvi_tokenizer *tok = in->tok;
    if (tok->n_dec == KVI_DEC_MAX) return unsupported(in, "a sequence of more than 16 decoders");
    kvi_dec_op op = {0};
    if (tok->dec_fused) {
        /* From here on the text is one piece: only taking characters from its start can be done while streaming. */
        if (!is_type(in, "Strip")) return unsupported(in, "a decoder after Fuse other than Strip");
        KVI_TRY(read_strip(in, &op));
        if (op.stop || tok->strip_first.len) return unsupported(in, "stripping the end of the text");
        tok->strip_first = op.content;
        tok->strip_first_max = op.start;
        return KVRT_OK;
    }
    if (is_type(in, "ByteLevel") || is_type(in, "ByteFallback") || is_type(in, "Fuse")) {
        op.kind = is_type(in, "ByteLevel") ? KVI_DEC_BYTE_LEVEL : KVI_DEC_BYTE_FALLBACK;
        tok->dec_fused = is_type(in, "Fuse");
        kvi_json_skip(in->r);
        if (in->r->error) return malformed(in);
        if (tok->dec_fused) return KVRT_OK;
    } else if (is_type(in, "Metaspace")) {
        op.kind = KVI_DEC_METASPACE;
        KVI_TRY(read_metaspace_decoder(in, &op));
    } else if (is_type(in, "Replace")) {
        op.kind = KVI_DEC_REPLACE;
        KVI_TRY(read_replace(in, &op));
    } else if (is_type(in, "Strip")) {
        op.kind = KVI_DEC_STRIP;
        KVI_TRY(read_strip(in, &op));
    } else return unsupported(in, "this decoder");
    tok->dec[tok->n_dec++] = op;
    return KVRT_OK;
}

kvrt_status kvi_load_decoder(kvi_tokenizer *tok, kvi_json *r, kvrt_error *error)
{
    reader in = {.tok = tok, .r = r, .error = error, .part = "decoder"};
    tok->dec_spaces = kvi_json_null(r);
    return tok->dec_spaces ? KVRT_OK : read_decoder(&in);
}
