/* test_safetensors.c - headers that lie, in every way we could think of; each must be refused with a message that names the file. */
#include "../../runtime/model/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* A file: 8 bytes of length, header, data. `claimed` 0 means the true length. */
static uint8_t *make(const char *header, uint64_t claimed, uint64_t data_bytes, uint64_t *len)
{
    uint64_t n = strlen(header), said = claimed ? claimed : n;
    *len = 8 + n + data_bytes;
    uint8_t *file = calloc(1, *len);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)(said >> (8 * i));
    memcpy(file + 8, header, n);
    return file;
}

static void honest_headers_pass(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        uint64_t bytes, tensors;
    } cases[] = {
        {"{}", 0, 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, 1},
        {"{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[4,14]},\"b\":"
         "{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[0,4]}}   ",
         14, 2},
        {"{\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"\\u0061\":{\"shape\":[1],\"data_offsets\":[0,1],\"dtype\":\"U8\"}}", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t len, n;
        kvrt_error error = {.size = sizeof error};
        uint8_t *file = make(cases[i].header, 0, cases[i].bytes, &len);
        if (kvi_safetensors_check(file, len, "model.safetensors", &n, &error) < KVRT_OK)
            fail_msg("case %zu: %s", i, error.message);
        assert_int_equal(n, cases[i].tensors);
        free(file);
    }
}

#define T(body) "{\"a\":{" body "}}"
static const struct {
    const char *what, *header;
    uint64_t claimed, bytes;
} lies[] = {
    {"length past the end", "{}", 100, 0},
    {"length of 2^64 - 1", "{}", UINT64_MAX, 0},
    {"length that overflows with the 8 bytes", "{}", UINT64_MAX - 7, 0},
    {"length above the cap", "{}", 100000001, 0},
    {"length cuts the header", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 20, 4},
    {"empty header", "", 0, 0},
    {"not JSON", "hello", 0, 0},
    {"an array", "[]", 0, 0},
    {"unfinished object", "{\"a\":", 0, 0},
    {"text after the object", "{} x", 0, 0},
    {"tensor is a number", "{\"a\":1}", 0, 0},
    {"invalid UTF-8 in a name", "{\"\xff\xfe\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4},
    {"overlong UTF-8 in a name", "{\"\xc0\xaf\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4},
    {"NUL in a name", "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4},
    {"lone surrogate in a name", "{\"\\ud800\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4},
    {"empty name", "{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4},
    {"duplicate tensor",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
     "offsets\":[1,2]}}",
     0, 2},
    {"duplicate tensor, one name escaped",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[1,2]}}",
     0, 2},
    {"duplicate field", T("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 0, 4},
    {"unknown field", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1"), 0, 4},
    {"missing dtype", T("\"shape\":[1],\"data_offsets\":[0,4]"), 0, 4},
    {"missing shape", T("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 0, 4},
    {"missing offsets", T("\"dtype\":\"F32\",\"shape\":[1]"), 0, 4},
    {"unknown dtype", T("\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]"), 0, 4},
    {"dtype is a number", T("\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]"), 0, 4},
    {"negative dimension", T("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 0, 4},
    {"fractional dimension", T("\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]"), 0, 4},
    {"nine dimensions", T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 0, 1},
    {"shape overflows 64 bits", T("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,4]"), 0,
     4},
    {"bytes overflow 64 bits", T("\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]"), 0, 0},
    {"span too short", T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 0, 4},
    {"span too long", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]"), 0, 8},
    {"offsets reversed", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]"), 0, 8},
    {"offsets past the end (truncated file)", T("\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]"), 0, 12},
    {"one offset", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 0, 4},
    {"three offsets", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 0, 4},
    {"negative offset", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 0, 4},
    {"huge offset", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775800,9223372036854775804]"), 0,
     4},
    {"offset above 64 bits", T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]"), 0, 4},
    {"overlap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
     "offsets\":[2,6]}}",
     0, 6},
    {"hole between tensors",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
     "offsets\":[2,3]}}",
     0, 3},
    {"bytes after the last tensor", T("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 0, 5},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, 0},
    {"metadata value is a number", "{\"__metadata__\":{\"a\":1}}", 0, 0},
};

static void lies_are_refused(void **state)
{
    (void)state;
    assert_true(sizeof lies / sizeof lies[0] >= 30);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        uint64_t len;
        kvrt_error error = {.size = sizeof error};
        uint8_t *file = make(lies[i].header, lies[i].claimed, lies[i].bytes, &len);
        kvrt_status status = kvi_safetensors_check(file, len, "model.safetensors", NULL, &error);
        if (status != KVRT_FORMAT) fail_msg("%s: status %d, need FORMAT", lies[i].what, status);
        if (!strstr(error.message, "model.safetensors") && !strstr(error.message, "tensor"))
            fail_msg("%s: message '%s' names no object", lies[i].what, error.message);
        free(file);
    }
}

/* Every prefix of a good file is refused. */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    uint64_t len;
    uint8_t *file = make("{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 0, 24, &len);
    for (uint64_t n = 0; n < len; n++) {
        uint8_t *copy = malloc(n ? n : 1); /* exact size: AddressSanitizer sees a read past it */
        memcpy(copy, file, n);
        assert_int_equal(kvi_safetensors_check(copy, n, "x", NULL, NULL), KVRT_FORMAT);
        free(copy);
    }
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(honest_headers_pass), cmocka_unit_test(lies_are_refused),
                                       cmocka_unit_test(every_truncation_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
