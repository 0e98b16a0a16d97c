/* test_gguf.c - GGUF files that are right, and files that lie in every way we could think of: each is refused with a message that names
 * file, key or tensor, and what is needed. Truncations at every byte, in memory of the exact size, so that AddressSanitizer sees any step
 * past the end. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "../../runtime/model/gguf.h"
#include "gguf_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_Q4_K = 12 };

/* ------------------------------------------------------------------------------------------------ right files --- */
/* Every kind of value; two tensors, the second one first in the data. */
static kvi_buf right_file(uint32_t version)
{
    kvi_buf f = {0};
    static const char *const words[] = {"a", "", "\xff\xfe"};
    gguf_header(&f, version, 2, 15);
    gguf_key(&f, "u8", U8), gguf_uint(&f, 200, 1);
    gguf_key(&f, "i8", I8), gguf_uint(&f, (uint64_t)-3, 1);
    gguf_key(&f, "u16", U16), gguf_uint(&f, 65535, 2);
    gguf_key(&f, "i16", I16), gguf_uint(&f, (uint64_t)-300, 2);
    gguf_key_u32(&f, "u32", UINT32_MAX);
    gguf_key(&f, "i32", I32), gguf_uint(&f, 7, 4);
    gguf_key_f32(&f, "f32", 0.25f);
    gguf_key_bool(&f, "bool", 1);
    gguf_key_text(&f, "general.name", "a model");
    gguf_key(&f, "u64", U64), gguf_uint(&f, UINT64_MAX, 8);
    gguf_key(&f, "i64", I64), gguf_uint(&f, 9, 8);
    gguf_key(&f, "f64", F64), gguf_uint(&f, 0x3fe0000000000000u, 8);
    gguf_key_texts(&f, "words", words, 3);
    gguf_key_array(&f, "ids", I32, 2), gguf_uint(&f, (uint64_t)-1, 4), gguf_uint(&f, 5, 4);
    gguf_key_u32(&f, "general.alignment", 64);
    gguf_tensor(&f, "matrix", 64, 3, TYPE_Q4_0, 64);
    gguf_tensor(&f, "vector", 3, 0, TYPE_F32, 0);
    gguf_pad(&f, 64);
    for (int i = 0; i < 64 + 3 * 2 * 18; i++) kvi_buf_append_byte(&f, (char)i);
    return f;
}

static kvi_gguf *parse(const kvi_buf *f)
{
    kvi_gguf *g;
    kvrt_error error = {.size = sizeof error};
    if (kvi_gguf_parse((const uint8_t *)f->data, f->len, "m.gguf", &g, &error) < KVRT_OK) fail_msg("%s", error.message);
    return g;
}

static void values_are_read(void **state)
{
    kvi_buf f = right_file(3);
    kvi_gguf *g = parse(&f);
    kvrt_error error = {.size = sizeof error};
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = {{"u8", 200}, {"u16", 65535}, {"u32", UINT32_MAX}, {"i32", 7}, {"i64", 9}};
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        uint32_t value = 0;
        assert_int_equal(kvi_gguf_u32(g, ints[i].key, KVI_GGUF_REQUIRED, &value, &error), KVRT_OK);
        assert_int_equal(value, ints[i].value);
    }
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"i8", -3}, {"i16", -300}, {"f32", 0.25}, {"f64", 0.5}, {"u8", 200}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        double value = 0;
        assert_int_equal(kvi_gguf_f64(g, numbers[i].key, KVI_GGUF_REQUIRED, &value, &error), KVRT_OK);
        assert_true(value == numbers[i].value);
    }
    bool yes = false;
    kvi_gguf_text text = {0};
    const kvi_gguf_value *words, *ids;
    assert_int_equal(kvi_gguf_bool(g, "bool", KVI_GGUF_REQUIRED, &yes, &error), KVRT_OK);
    assert_true(yes);
    assert_int_equal(kvi_gguf_string(g, "general.name", KVI_GGUF_REQUIRED, &text, &error), KVRT_OK);
    assert_int_equal(text.len, 7);
    assert_memory_equal(text.data, "a model", 7);
    assert_int_equal(kvi_gguf_array(g, "words", KVI_GGUF_KIND_STRING, KVI_GGUF_REQUIRED, &words, &error), KVRT_OK);
    assert_int_equal(words->n, 3);
    const uint8_t *at = words->at;
    assert_int_equal(kvi_gguf_next_string(&at).len, 1);
    assert_int_equal(kvi_gguf_next_string(&at).len, 0);
    assert_memory_equal(kvi_gguf_next_string(&at).data, "\xff\xfe", 2);
    assert_int_equal(kvi_gguf_array(g, "ids", KVI_GGUF_KIND_I32, KVI_GGUF_REQUIRED, &ids, &error), KVRT_OK);
    assert_int_equal(kvi_gguf_i32_at(ids, 0), -1);
    assert_int_equal(kvi_gguf_i32_at(ids, 1), 5);
    kvi_gguf_close(g);
    kvi_buf_free(&f);
}

static void values_of_another_kind_are_refused(void **state)
{
    kvi_buf f = right_file(2);
    kvi_gguf *g = parse(&f);
    kvrt_error error = {.size = sizeof error};
    uint32_t number = 11;
    double real = 0;
    bool yes = false;
    kvi_gguf_text text = {0};
    const kvi_gguf_value *array;
    static const char *const not_u32[] = {"i8", "f32", "general.name", "ids", "u64", "bool"};
    for (size_t i = 0; i < sizeof not_u32 / sizeof not_u32[0]; i++) {
        assert_int_equal(kvi_gguf_u32(g, not_u32[i], KVI_GGUF_OPTIONAL, &number, &error), KVRT_FORMAT);
        assert_non_null(strstr(error.message, not_u32[i]));
        assert_non_null(strstr(error.message, "m.gguf"));
        assert_non_null(strstr(error.message, "need an integer"));
    }
    assert_int_equal(kvi_gguf_f64(g, "bool", KVI_GGUF_OPTIONAL, &real, &error), KVRT_FORMAT);
    assert_int_equal(kvi_gguf_bool(g, "u8", KVI_GGUF_OPTIONAL, &yes, &error), KVRT_FORMAT);
    assert_int_equal(kvi_gguf_string(g, "words", KVI_GGUF_OPTIONAL, &text, &error), KVRT_FORMAT);
    assert_int_equal(kvi_gguf_array(g, "words", KVI_GGUF_KIND_F32, KVI_GGUF_OPTIONAL, &array, &error), KVRT_FORMAT);
    assert_int_equal(kvi_gguf_array(g, "u32", KVI_GGUF_KIND_I32, KVI_GGUF_OPTIONAL, &array, &error), KVRT_FORMAT);
    assert_int_equal(kvi_gguf_u32(g, "absent", KVI_GGUF_REQUIRED, &number, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "not found"));
    assert_int_equal(kvi_gguf_u32(g, "absent", KVI_GGUF_OPTIONAL, &number, &error), KVRT_OK);
    assert_int_equal(number, 11);
    kvi_gguf_close(g);
    kvi_buf_free(&f);
}

static void tensors_are_found(void **state)
{
    kvi_buf f = right_file(3);
    kvi_gguf *g = parse(&f);
    assert_int_equal(kvi_gguf_count(g), 2);
    assert_int_equal(kvi_gguf_bytes(g), 12 + 108);
    assert_int_equal(kvi_gguf_file_bytes(g), f.len);
    const kvi_gguf_tensor *t = kvi_gguf_tensor_find(g, "matrix");
    assert_non_null(t);
    assert_int_equal(t->type, KVI_GGUF_Q4_0);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 3);
    assert_int_equal(t->shape[1], 64);
    assert_int_equal(t->bytes, 108);
    assert_int_equal(t->data[0], 64);
    assert_int_equal(kvi_gguf_tensor_find(g, "vector")->data[0], 0);
    assert_null(kvi_gguf_tensor_find(g, "matri"));
    kvi_gguf_close(g);
    kvi_buf_free(&f);
}

/* ----------------------------------------------------------------------------------------------------- lies --- */
/* A file around one tensor or one key. */
static void plain(kvi_buf *f, uint64_t n_tensors, uint64_t n_values) { gguf_header(f, 3, n_tensors, n_values); }
static void data(kvi_buf *f, size_t n)
{
    gguf_pad(f, 32);
    for (size_t i = 0; i < n; i++) kvi_buf_append_byte(f, 1);
}
static void empty(kvi_buf *f) { (void)f; }
static void magic(kvi_buf *f) { kvi_buf_append_str(f, "GGML....................."); }
static void version_0(kvi_buf *f) { gguf_header(f, 0, 0, 0); }
static void version_1(kvi_buf *f) { gguf_header(f, 1, 0, 0); }
static void version_4(kvi_buf *f) { gguf_header(f, 4, 0, 0); }
static void big_endian(kvi_buf *f) { gguf_header(f, 3u << 24, 0, 0); }
static void many_tensors(kvi_buf *f) { plain(f, UINT64_MAX, 0); }
static void many_values(kvi_buf *f) { plain(f, 0, UINT64_MAX); }
static void key_length(kvi_buf *f) { plain(f, 0, 1), gguf_uint(f, UINT64_MAX, 8), gguf_uint(f, 0, 8); }
static void key_empty(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "", 1); }
static void key_control(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "a\nb", 1); }
static void key_nul(kvi_buf *f)
{
    plain(f, 0, 1), gguf_uint(f, 2, 8), gguf_uint(f, 'a', 2), gguf_uint(f, U8, 4), gguf_uint(f, 0, 1);
}
static void key_long(kvi_buf *f)
{
    plain(f, 0, 1), gguf_uint(f, 65536, 8);
    for (int i = 0; i < 65536; i++) kvi_buf_append_byte(f, 'k');
    gguf_uint(f, U8, 4), gguf_uint(f, 0, 1);
}
static void key_twice(kvi_buf *f) { plain(f, 0, 2), gguf_key_u32(f, "same", 1), gguf_key_text(f, "same", "x"); }
static void kind_13(kvi_buf *f) { plain(f, 0, 1), gguf_key(f, "key", 13), gguf_uint(f, 0, 8); }
static void kind_huge(kvi_buf *f) { plain(f, 0, 1), gguf_key(f, "key", UINT32_MAX), gguf_uint(f, 0, 8); }
static void bool_2(kvi_buf *f) { plain(f, 0, 1), gguf_key_bool(f, "key", 2); }
static void string_past(kvi_buf *f)
{
    plain(f, 0, 1), gguf_key(f, "key", STRING), gguf_uint(f, 9, 8), gguf_uint(f, 0, 8);
}
static void string_huge(kvi_buf *f) { plain(f, 0, 1), gguf_key(f, "key", STRING), gguf_uint(f, UINT64_MAX - 7, 8); }
static void array_past(kvi_buf *f) { plain(f, 0, 1), gguf_key_array(f, "key", U32, 3), gguf_uint(f, 0, 8); }
static void array_overflow(kvi_buf *f)
{
    plain(f, 0, 1), gguf_key_array(f, "key", U64, UINT64_MAX / 8 + 2), gguf_uint(f, 0, 8);
}
static void array_strings(kvi_buf *f)
{
    plain(f, 0, 1), gguf_key_array(f, "key", STRING, UINT64_MAX), gguf_uint(f, 0, 8);
}
static void array_bool(kvi_buf *f) { plain(f, 0, 1), gguf_key_array(f, "key", BOOL, 2), gguf_uint(f, 0x0301, 2); }
static void array_kind(kvi_buf *f) { plain(f, 0, 1), gguf_key_array(f, "key", 99, 0); }
static void array_nested(kvi_buf *f)
{
    plain(f, 0, 1), gguf_key_array(f, "key", ARRAY, 1), gguf_uint(f, U8, 4), gguf_uint(f, 0, 8);
}
static void alignment_0(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "general.alignment", 0); }
static void alignment_3(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "general.alignment", 24); }
static void alignment_huge(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "general.alignment", 1u << 31); }
static void alignment_text(kvi_buf *f) { plain(f, 0, 1), gguf_key_text(f, "general.alignment", "32"); }
static void tensor_empty(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "", 4, 0, TYPE_F32, 0), data(f, 16); }
static void tensor_long(kvi_buf *f)
{
    char name[257];
    memset(name, 'n', 256), name[256] = 0;
    plain(f, 1, 0), gguf_tensor(f, name, 4, 0, TYPE_F32, 0), data(f, 16);
}
static void tensor_twice(kvi_buf *f)
{
    plain(f, 2, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 32), data(f, 64);
}
static void tensor_dims(kvi_buf *f, uint32_t n_dims)
{
    plain(f, 1, 0), gguf_text(f, "t"), gguf_uint(f, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++) gguf_uint(f, 1, 8);
    gguf_uint(f, TYPE_F32, 4), gguf_uint(f, 0, 8), data(f, 64);
}
static void dims_0(kvi_buf *f) { tensor_dims(f, 0); }
static void dims_5(kvi_buf *f) { tensor_dims(f, 5); }
static void dim_zero(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 0, 4, TYPE_F32, 0), data(f, 64); }
static void shape_overflow(kvi_buf *f)
{
    plain(f, 1, 0), gguf_tensor(f, "t", UINT64_C(1) << 32, UINT64_C(1) << 32, TYPE_F32, 0), data(f, 64);
}
static void bytes_overflow(kvi_buf *f)
{
    plain(f, 1, 0), gguf_tensor(f, "t", UINT64_C(1) << 62, 0, TYPE_F32, 0), data(f, 64);
}
static void type_unknown(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 32, 0, 4, 0), data(f, 64); }
static void type_huge(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 32, 0, UINT32_MAX, 0), data(f, 64); }
static void row_of_31(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 31, 4, TYPE_Q4_0, 0), data(f, 256); }
static void row_of_128(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 128, 2, TYPE_Q4_K, 0), data(f, 256); }
static void offset_odd(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 8), data(f, 64); }
static void offset_past(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 64), data(f, 64); }
static void offset_huge(kvi_buf *f)
{
    plain(f, 1, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, UINT64_MAX - 31), data(f, 64);
}
static void data_short(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 32, 2, TYPE_Q4_0, 0), data(f, 35); }
static void data_absent(kvi_buf *f) { plain(f, 1, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 0); }
static void overlap(kvi_buf *f)
{
    plain(f, 2, 0), gguf_tensor(f, "s", 16, 0, TYPE_F32, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 32), data(f, 64);
}
static void overlap_same(kvi_buf *f)
{
    plain(f, 2, 0), gguf_tensor(f, "s", 4, 0, TYPE_F32, 0), gguf_tensor(f, "t", 4, 0, TYPE_F32, 0), data(f, 64);
}
static void split_alone(kvi_buf *f) { plain(f, 0, 1), gguf_key_u32(f, "split.count", 3); }

static const struct lie {
    void (*write)(kvi_buf *f);
    kvrt_status status;
    const char *named; /* part of the message */
} lies[] = {
    {empty, KVRT_FORMAT, "GGUF"},
    {magic, KVRT_FORMAT, "does not begin with 'GGUF'"},
    {version_0, KVRT_UNSUPPORTED, "version 0, need 2 or 3"},
    {version_1, KVRT_UNSUPPORTED, "version 1, need 2 or 3"},
    {version_4, KVRT_UNSUPPORTED, "version 4, need 2 or 3"},
    {big_endian, KVRT_UNSUPPORTED, "version 3 in big-endian order"},
    {many_tensors, KVRT_FORMAT, "list of tensors: 0 bytes left"},
    {many_values, KVRT_FORMAT, "metadata: 0 bytes left"},
    {key_length, KVRT_FORMAT, "metadata: 8 bytes left, need 18446744073709551615"},
    {key_empty, KVRT_FORMAT, "name of 0 bytes, need 1 to 65535"},
    {key_control, KVRT_FORMAT, "byte 0x0a"},
    {key_nul, KVRT_FORMAT, "byte 0x00"},
    {key_long, KVRT_FORMAT, "name of 65536 bytes"},
    {key_twice, KVRT_FORMAT, "key same: found twice"},
    {kind_13, KVRT_FORMAT, "key key: value of kind 13, need 0 to 12"},
    {kind_huge, KVRT_FORMAT, "kind 4294967295"},
    {bool_2, KVRT_FORMAT, "key key: a bool that is neither 0 nor 1"},
    {string_past, KVRT_FORMAT, "key key: 8 bytes left, need 9"},
    {string_huge, KVRT_FORMAT, "key key: 0 bytes left"},
    {array_past, KVRT_FORMAT, "key key: 8 bytes left, need 12"},
    {array_overflow, KVRT_FORMAT, "key key: 8 bytes left"},
    {array_strings, KVRT_FORMAT, "key key: 8 bytes left"},
    {array_bool, KVRT_FORMAT, "neither 0 nor 1"},
    {array_kind, KVRT_FORMAT, "kind 99"},
    {array_nested, KVRT_UNSUPPORTED, "key key: array of arrays"},
    {alignment_0, KVRT_FORMAT, "general.alignment: is 0, need a power of two"},
    {alignment_3, KVRT_FORMAT, "general.alignment: is 24"},
    {alignment_huge, KVRT_FORMAT, "general.alignment: is 2147483648"},
    {alignment_text, KVRT_FORMAT, "general.alignment: is string, need an integer"},
    {tensor_empty, KVRT_FORMAT, "name of 0 bytes, need 1 to 255"},
    {tensor_long, KVRT_FORMAT, "name of 256 bytes"},
    {tensor_twice, KVRT_FORMAT, "tensor t: found twice"},
    {dims_0, KVRT_FORMAT, "tensor t: 0 dimensions, need 1 to 4"},
    {dims_5, KVRT_FORMAT, "tensor t: 5 dimensions"},
    {dim_zero, KVRT_FORMAT, "tensor t: a dimension of 0"},
    {shape_overflow, KVRT_FORMAT, "tensor t: shape overflows"},
    {bytes_overflow, KVRT_FORMAT, "tensor t: shape overflows"},
    {type_unknown, KVRT_UNSUPPORTED, "tensor t: element type 4 is unknown"},
    {type_huge, KVRT_UNSUPPORTED, "element type 4294967295"},
    {row_of_31, KVRT_FORMAT, "tensor t: rows of 31 weights, need a multiple of 32 for Q4_0"},
    {row_of_128, KVRT_FORMAT, "rows of 128 weights, need a multiple of 256 for Q4_K"},
    {offset_odd, KVRT_FORMAT, "tensor t: offset 8, need a multiple of 32"},
    {offset_past, KVRT_FORMAT, "tensor t: 16 bytes at offset 64"},
    {offset_huge, KVRT_FORMAT, "tensor t: 16 bytes at offset 18446744073709551584"},
    {data_short, KVRT_FORMAT, "inside the 35 bytes of data"},
    {data_absent, KVRT_FORMAT, "inside the 0 bytes of data"},
    {overlap, KVRT_FORMAT, "tensor t: overlaps"},
    {overlap_same, KVRT_FORMAT, "overlaps another tensor"},
    {split_alone, KVRT_FORMAT, "split.count: is 3, need 1"},
};

static void lies_are_refused(void **state)
{
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        kvi_buf f = {0};
        kvi_gguf *g;
        kvrt_error error = {.size = sizeof error};
        uint64_t before, after, blocks, allocations;
        lies[i].write(&f);
        uint8_t *exact = malloc(f.len ? f.len : 1);
        if (f.len) memcpy(exact, f.data, f.len);
        kvi_mem_stats(&before, &blocks, &allocations);
        kvrt_status status = kvi_gguf_parse(exact, f.len, "lie.gguf", &g, &error);
        kvi_mem_stats(&after, &blocks, &allocations);
        free(exact);
        kvi_buf_free(&f);
        if (status != lies[i].status || g) fail_msg("lie %zu (%s): status %d", i, lies[i].named, status);
        if (strncmp(error.message, "lie.gguf: ", 10) != 0 || !strstr(error.message, lies[i].named))
            fail_msg("lie %zu: '%s' does not name file and '%s'", i, error.message, lies[i].named);
        assert_int_equal(before, after);
    }
}

/* What tensors there are is known once the list ends; before that every cut is an error, and so is one inside the data. */
static void every_truncation_is_refused(void **state)
{
    kvi_buf f = right_file(3);
    for (size_t n = 0; n < f.len; n++) {
        kvi_gguf *g;
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, f.data, n);
        kvrt_status status = kvi_gguf_parse(copy, n, "x", &g, NULL);
        free(copy);
        if (status != KVRT_FORMAT) fail_msg("cut at %zu of %zu: status %d", n, f.len, status);
    }
    kvi_buf_free(&f);
}

static void every_allocation_may_fail(void **state)
{
    kvi_buf f = right_file(3);
    kvrt_status status = KVRT_NOMEM_HOST;
    uint64_t n = 0;
    while (status == KVRT_NOMEM_HOST) {
        kvi_gguf *g;
        uint64_t before, after, blocks, allocations;
        kvi_mem_stats(&before, &blocks, &allocations);
        kvi_mem_fail_nth(++n);
        status = kvi_gguf_parse((const uint8_t *)f.data, f.len, "x", &g, NULL);
        kvi_mem_fail_nth(0);
        kvi_gguf_close(g);
        kvi_mem_stats(&after, &blocks, &allocations);
        assert_int_equal(before, after);
    }
    assert_int_equal(status, KVRT_OK);
    assert_true(n > 6);
    kvi_buf_free(&f);
}

/* ---------------------------------------------------------------------------------------------------- splits --- */
typedef struct split_part {
    uint32_t number, count, total;
    const char *tensor;
} split_part;

static void write_part(const char *dir, const char *name, const split_part *p)
{
    char path[256];
    kvi_buf f = {0};
    gguf_header(&f, 3, 1, 4);
    gguf_key(&f, "split.no", U16), gguf_uint(&f, p->number, 2);
    gguf_key(&f, "split.count", U16), gguf_uint(&f, p->count, 2);
    gguf_key(&f, "split.tensors.count", I32), gguf_uint(&f, p->total, 4);
    gguf_key_u32(&f, "of.file", p->number);
    gguf_tensor(&f, p->tensor, 4, 0, TYPE_F32, 0);
    gguf_pad(&f, 32);
    gguf_uint(&f, p->number, 8), gguf_uint(&f, 0, 8);
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(f.data, 1, f.len, file), f.len);
    assert_int_equal(fclose(file), 0);
    kvi_buf_free(&f);
}

static const char *const part_names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};

static void split_models_are_one(void **state)
{
    char dir[] = "/tmp/kvrt_gguf_XXXXXX", path[256];
    kvrt_error error = {.size = sizeof error};
    kvi_gguf *g;
    assert_non_null(mkdtemp(dir));
    static const char *const tensors[] = {"a", "b", "c"};
    for (uint32_t i = 0; i < 3; i++) write_part(dir, part_names[i], &(split_part){i, 3, 3, tensors[i]});
    for (int first = 0; first < 3; first++) {
        (void)snprintf(path, sizeof path, "%s/%s", dir, part_names[first]);
        if (kvi_gguf_open(path, first == 1, &g, &error) < KVRT_OK) fail_msg("%s", error.message);
        assert_int_equal(kvi_gguf_files(g), 3);
        assert_int_equal(kvi_gguf_count(g), 3);
        assert_int_equal(kvi_gguf_tensor_find(g, "c")->file, 2);
        assert_int_equal(kvi_gguf_tensor_find(g, "c")->data[0], 2);
        uint32_t of_file = 9;
        assert_int_equal(kvi_gguf_u32(g, "of.file", KVI_GGUF_REQUIRED, &of_file, &error), KVRT_OK);
        assert_int_equal(of_file, 0);
        kvi_gguf_close(g);
    }
    static const struct {
        uint32_t part;
        split_part wrong;
        const char *named;
    } cases[] = {
        {1, {2, 3, 3, "b"}, "split.no: is 2, need 1"},    {1, {1, 2, 3, "b"}, "split.count: is 2, need 3"},
        {2, {2, 3, 3, "a"}, "tensor a: found twice"},     {0, {0, 3, 4, "a"}, "split.tensors.count: is 4, need 3"},
        {0, {0, 1, 3, "a"}, "split.count: is 1, need 3"},
    };
    (void)snprintf(path, sizeof path, "%s/%s", dir, part_names[0]);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t part = cases[i].part;
        write_part(dir, part_names[part], &cases[i].wrong);
        assert_int_equal(kvi_gguf_open(path, false, &g, &error), KVRT_FORMAT);
        if (!strstr(error.message, cases[i].named)) fail_msg("'%s' without '%s'", error.message, cases[i].named);
        write_part(dir, part_names[part], &(split_part){part, 3, 3, tensors[part]});
    }
    char gone[256];
    (void)snprintf(gone, sizeof gone, "%s/%s", dir, part_names[1]);
    assert_int_equal(unlink(gone), 0);
    assert_int_equal(kvi_gguf_open(path, false, &g, &error), KVRT_IO);
    assert_non_null(strstr(error.message, part_names[1]));
    /* The same bytes under a name that does not tell of a split. */
    (void)snprintf(gone, sizeof gone, "%s/renamed.gguf", dir);
    assert_int_equal(rename(path, gone), 0);
    assert_int_equal(kvi_gguf_open(gone, false, &g, &error), KVRT_FORMAT);
    assert_non_null(strstr(error.message, "split.count"));
    assert_int_equal(unlink(gone), 0);
    (void)snprintf(gone, sizeof gone, "%s/%s", dir, part_names[2]);
    assert_int_equal(unlink(gone), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_read),
                                       cmocka_unit_test(values_of_another_kind_are_refused),
                                       cmocka_unit_test(tensors_are_found),
                                       cmocka_unit_test(lies_are_refused),
                                       cmocka_unit_test(every_truncation_is_refused),
                                       cmocka_unit_test(every_allocation_may_fail),
                                       cmocka_unit_test(split_models_are_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
