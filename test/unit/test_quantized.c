/* test_quantized.c - quantized folders (test/golden/quantized): every weight is the number that the library behind its format
 * makes of it, bit for bit, and the logits are those of the model with these weights; broken folders say what is wrong with them. */
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#include "golden_model.h"
#include "../../runtime/base/json.h"
#include "../../runtime/model/weight_codec.h"
#include "../../runtime/model/quantization/quantization.h"
#include "../../runtime/model/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const names[] = {
    "gptq_sym", "gptq_desc_act", "gptq_v2_8bit", "gptq_dynamic", "gptq_group64", "gptq_group128", "auto_round_gptq",
    "auto_round_awq", "awq_gemm", "awq_gemv", "packed_sym", "packed_asym", "packed_old_zeros", "packed_g_idx",
    "packed_8bit", "packed_tensor", "int_channel", "naive_group_asym", "naive_block", "mixed_precision",
    "compression_config",
    /* small floats, table codes, MLX */
    "fp8_block", "fp8_tensor", "fp8_ue8m0", "fbgemm_fp8", "float_channel", "float_block", "float_tensor", "mxfp8",
    "mxfp4", "nvfp4", "float_mixed", "modelopt_mixed", "modelopt_file", "bnb_nf4", "bnb_nf4_nested", "bnb_fp4",
    "bnb_int8", "mlx_4bit", "mlx_mixed", "mlx_3bit", "mlx_mxfp4", "mlx_mxfp8"};
#define N_NAMES (sizeof names / sizeof names[0])

/* ------------------------------------------------------------------------------------------------------ values --- */
typedef struct value {
    char module[96];
    uint64_t f32, half;
    bool seen;
} value;
static value values[64];
static size_t n_values;

static uint64_t hex(const kvi_json *r)
{
    uint64_t v = 0;
    for (size_t i = 0; i < r->str_len; i++)
        v = v * 16 + (uint64_t)(r->str[i] > '9' ? r->str[i] - 'a' + 10 : r->str[i] - '0');
    return v;
}

static void read_values(const char *dir)
{
    char path[600];
    kvi_map json;
    kvi_json r;
    snprintf(path, sizeof path, "%s/golden.json", dir);
    assert_int_equal(kvi_os_map(path, &kvi_mem_copies, &json, NULL), KVRT_OK);
    kvi_json_init(&r, (const char *)json.data, json.len);
    n_values = 0;
    kvi_json_expect(&r, KVI_JSON_OBJECT);
    while (kvi_json_next_key(&r)) {
        if (!kvi_json_key_is(&r, "values")) {
            kvi_json_skip(&r);
            continue;
        }
        kvi_json_expect(&r, KVI_JSON_OBJECT);
        while (kvi_json_next_key(&r)) {
            value *v = &values[n_values++];
            *v = (value){.seen = false};
            memcpy(v->module, r.str, r.str_len);
            kvi_json_expect(&r, KVI_JSON_ARRAY);
            for (int i = 0; kvi_json_next_item(&r); i++) {
                kvi_json_string(&r);
                *(i ? &v->half : &v->f32) = hex(&r);
            }
        }
    }
    assert_true(kvi_json_end(&r) && n_values >= 3);
    kvi_os_unmap(&json);
}

static uint64_t fnv(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 1099511628211u;
    return h;
}

/* A backend that looks at the weights it is given. */
static uint32_t n_plain, n_quantized;
static const char *folder;
static kvrt_status see_bytes(const kvi_weight_desc *w, uint64_t *bytes, kvrt_error *error)
{
    uint64_t f32 = 14695981039346656037u, half = f32;
    float row[256], single[256];
    *bytes = 0;
    const bool is_integer = w->form == KVI_FORM_I4 || w->form == KVI_FORM_I8;
    if (!kvi_form(w->form)->needs) {
        n_plain++;
        return KVRT_OK;
    }
    n_quantized++;
    /* What goes without saying is not there, so that kernels for it are chosen. */
    if (strcmp(folder, "gptq_sym") == 0) assert_true(!w->parts[KVI_PART_ZEROS] && !w->parts[KVI_PART_GROUPS]);
    assert_true(w->n_in <= 256);
    for (uint32_t r = 0; r < w->n_out; r++) {
        assert_true(kvi_weight_decode(w, 0, r, 0, w->n_in, row));
        f32 = fnv(f32, row, w->n_in * sizeof *row);
        for (uint32_t k = 0; is_integer && k < w->n_in; k++) {
            uint8_t code;
            float zero;
            const float scale = kvi_weight_scale(w, 0, r, k, &zero);
            kvi_weight_codes(w, 0, r, k, 1, &code);
            single[k] = ((float)code - zero) * scale;
            const uint16_t h = w->scale_type == KVI_F16 ? kvi_f32_to_f16(row[k]) : kvi_f32_to_bf16(row[k]);
            half = w->scale_type == KVI_F32 ? fnv(half, &row[k], 4) : fnv(half, &h, 2);
        }
        if (is_integer) assert_memory_equal(single, row, w->n_in * sizeof *row);
    }
    const size_t stem = (size_t)(strrchr(w->name, '.') - w->name);
    for (size_t i = 0; i < n_values; i++) {
        value *v = &values[i];
        if (strlen(v->module) != stem || strncmp(v->module, w->name, stem) != 0) continue;
        if (v->f32 != f32 || (is_integer && v->half != half))
            fail_msg("%s: %s: other values than the library's", folder, w->name);
        v->seen = true;
        return KVRT_OK;
    }
    fail_msg("%s: %s: not quantized, says golden.json", folder, w->name);
    return KVRT_OK;
}

static kvrt_status bind(const char *dir, const kvi_backend *backend, kvi_model_weights *weights, kvrt_error *error)
{
    kvi_model_config *config = malloc(sizeof *config);
    kvi_checkpoint *checkpoint = NULL;
    kvrt_status status = kvi_config_read(dir, config, error);
    if (status >= KVRT_OK) status = kvi_checkpoint_open(dir, false, &checkpoint, error);
    if (status >= KVRT_OK)
        status = kvi_weights_bind(config, checkpoint, &(kvi_weight_wish){.form = KVI_FORM_BF16}, backend, NULL, NULL,
                                  NULL, weights, error);
    if (status >= KVRT_OK) kvi_weights_free(weights);
    kvi_checkpoint_close(checkpoint);
    free(config);
    return status;
}

static void values_are_those_of_the_libraries(void **state)
{
    static const kvi_backend backend = {.name = "looks", .weight_bytes = see_bytes};
    for (size_t i = 0; i < N_NAMES; i++) {
        char dir[512];
        kvrt_error error = {.size = sizeof error};
        kvi_model_weights weights;
        snprintf(dir, sizeof dir, "%s/golden/quantized/%s", KVRT_TEST_DIR, names[i]);
        folder = names[i];
        read_values(dir);
        n_plain = n_quantized = 0;
        if (bind(dir, &backend, &weights, &error) < KVRT_OK) fail_msg("%s: %s", names[i], error.message);
        assert_int_equal(n_quantized, n_values);
        assert_true(n_plain > 0);
        for (size_t k = 0; k < n_values; k++)
            if (!values[k].seen) fail_msg("%s: %s: not among the weights", names[i], values[k].module);
    }
}

static void logits_are_those_of_the_dequantized_model(void **state)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        static const char *const exact[] = {"kv.format", "f32", "cpu.amx", "false", NULL};
        golden_model model;
        char name[128];
        snprintf(name, sizeof name, "../quantized/%s", names[i]);
        assert_true(golden_load(name, &model));
        kvrt_engine engine = golden_open(&model, exact);
        const double error = golden_logit_error(engine, &model, NULL);
        if (!(error <= 2e-4 * (model.std > 1 ? model.std : 1)))
            fail_msg("%s: error %g of a standard deviation of %g", names[i], error, model.std);
        kvrt_engine_close(engine, NULL);
        golden_free(&model);
    }
}

/* Every matrix of every expert is a module of its own (make_quantized_experts.py), with columns in the order of their groups as well; as they are,
 * and multiplied by activations of 8 bits. */
static void experts_are_those_of_the_dequantized_model(void **state)
{
    static const char *const folders[] = {"experts_gptq",      "experts_gptq_desc_act", "experts_awq",
                                          "experts_packed",    "experts_packed_g_idx",  "experts_int",
                                          "experts_fp8_block", "experts_nvfp4",         "experts_modelopt"};
    static const char *const exact[] = {"kv.format", "f32", "cpu.amx", "false", NULL}, *const rounded[] = {
                                                                                           "kv.format", "f32",
                                                                                           "cpu.exact", "false", NULL};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        for (int way = 0; way < 2; way++) {
            golden_model model;
            char name[128];
            snprintf(name, sizeof name, "../quantized/%s", folders[i]);
            assert_true(golden_load(name, &model));
            kvrt_engine engine = golden_open(&model, way ? rounded : exact);
            const double error = golden_logit_error(engine, &model, NULL),
                         limit = (way ? 0.2 : GOLDEN_F32_CACHE) * (model.std > 1 ? model.std : 1);
            if (!(error <= limit))
                fail_msg("%s, %s: error %g, need at most %g", folders[i], way ? "8 bits" : "exact", error, limit);
            kvrt_engine_close(engine, NULL);
            golden_free(&model);
        }
}

/* ------------------------------------------------------------------------------------------------------ counts --- */
typedef struct counts {
    uint64_t n_weights, unread; /* bytes of tensors that only describe the others */
    double bits;
} counts;
static void count_tensor(const kvrt_inspect_tensor *t, void *user)
{
    counts *c = user;
    const char *last = strrchr(t->name, '.');
    c->n_weights += t->n_weights;
    c->bits += t->bits * (double)t->n_weights;
    if (strcmp(last, ".weight_shape") == 0) c->unread += t->bytes;
    assert_true((t->n_weights > 0) == (t->form[0] != 0));
    if (strcmp(last, ".weight_packed") == 0 || strcmp(last, ".qweight") == 0)
        assert_true((t->form[0] == 'i' || strstr(t->form, "fp4")) && t->bits > 4);
}

static void inspect_and_plan_count_what_is_there(void **state)
{
    for (size_t i = 0; i < N_NAMES; i++) {
        char dir[512];
        kvrt_error error = {.size = sizeof error};
        kvrt_inspect_info info = {.size = sizeof info};
        kvrt_plan_info plan = {.size = sizeof plan};
        kvrt_options *options;
        kvrt_plan_row rows[1] = {{.size = sizeof rows[0]}};
        uint64_t n_rows = 0;
        counts c = {0};
        snprintf(dir, sizeof dir, "%s/golden/quantized/%s", KVRT_TEST_DIR, names[i]);
        assert_int_equal(kvrt_inspect(dir, &info, count_tensor, &c, &error), KVRT_OK);
        assert_string_equal(info.problem, "");
        assert_string_equal(info.warning, "");
        assert_true(
            strstr("gptq auto-round awq compressed-tensors fbgemm_fp8 modelopt bitsandbytes mlx", info.quantization) &&
            info.quantization[0]);
        assert_int_equal(c.n_weights, info.n_weights);
        assert_int_equal(info.n_params, info.n_weights);
        assert_true(fabs(c.bits - (double)info.weight_bytes * 8) < 1);
        /* All that the folder holds is read, but what says how to read it and zeros that go without saying. */
        assert_true(info.weight_bytes <= info.bytes);
        if (strncmp(names[i], "packed", 6) == 0) assert_int_equal(info.weight_bytes + c.unread, info.bytes);
        assert_int_equal(kvrt_options_create(&options, &error), KVRT_OK);
        kvrt_options_set_string(options, "model.path", dir, -1, &error);
        kvrt_options_set_text(options, "device.backend", "cpu", &error);
        if (kvrt_plan(options, "f16", &plan, rows, 1, &n_rows, &error) < KVRT_OK)
            fail_msg("%s: %s", names[i], error.message);
        assert_int_equal(plan.weight_bytes, info.weight_bytes);
        assert_int_equal(plan.n_params, info.n_params);
        kvrt_options_destroy(options);
    }
}

/* ------------------------------------------------------------------------------------------------ broken folders --- */
/* A copy of a golden folder with words of its config.json and of its tensors' header replaced, and bytes of one tensor. */
typedef struct edit {
    const char *golden;
    kvrt_status status;
    const char *says[2];
    const char *config[2], *header[2]; /* from, to */
    const char *tensor;                /* its first element is replaced */
    int64_t element;
} edit;

static void must_read(const char *dir, const char *name, kvi_map *out)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(kvi_os_map(path, &kvi_mem_copies, out, NULL), KVRT_OK);
}

static void must_write(const char *dir, const char *name, const void *data, size_t len)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

/* text (len) with the first `from` replaced; the length of the result, which the caller frees. */
static size_t replaced(const char *text, size_t len, const char *const pair[2], char **out)
{
    *out = malloc(len + 4096);
    memcpy(*out, text, len);
    (*out)[len] = 0;
    if (!pair[0]) return len;
    char *at = strstr(*out, pair[0]);
    if (!at) fail_msg("'%s' is not in the text", pair[0]);
    const size_t from = strlen(pair[0]), to = strlen(pair[1]), before = (size_t)(at - *out);
    memcpy(at, pair[1], to);
    memcpy(at + to, text + before + from, len - before - from);
    return len - from + to;
}

static void poke(const char *header, unsigned char *data, const char *tensor, int64_t element)
{
    char quoted[128];
    snprintf(quoted, sizeof quoted, "\"%s\":", tensor);
    const char *at = strstr(header, quoted), *offsets = at ? strstr(at, "\"data_offsets\":[") : NULL;
    assert_non_null(offsets);
    const bool wide = strstr(at, "\"I64\"") && strstr(at, "\"I64\"") < offsets;
    memcpy(data + strtoull(offsets + strlen("\"data_offsets\":["), NULL, 10), &element, wide ? 8 : 4);
}

static const char *edited(const edit *e)
{
    static char dir[256];
    char golden[512], *config, *header;
    kvi_map json, tensors;
    snprintf(golden, sizeof golden, "%s/golden/quantized/%s", KVRT_TEST_DIR, e->golden);
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/tmp/kvrt_quantized_XXXXXX");
        assert_non_null(mkdtemp(dir));
    }
    must_read(golden, "config.json", &json);
    must_read(golden, "model.safetensors", &tensors);
    const size_t n_config = replaced((const char *)json.data, json.len, e->config, &config);
    uint64_t old = 0;
    memcpy(&old, tensors.data, 8);
    const uint64_t n_header = replaced((const char *)tensors.data + 8, (size_t)old, e->header, &header);
    const size_t n_data = tensors.len - 8 - (size_t)old;
    unsigned char *file = malloc(8 + (size_t)n_header + n_data);
    memcpy(file, &n_header, 8);
    memcpy(file + 8, header, (size_t)n_header);
    memcpy(file + 8 + n_header, tensors.data + 8 + old, n_data);
    header[n_header] = 0;
    if (e->tensor) poke(header, file + 8 + n_header, e->tensor, e->element);
    must_write(dir, "config.json", config, n_config);
    must_write(dir, "model.safetensors", file, 8 + (size_t)n_header + n_data);
    free(file);
    free(config);
    free(header);
    kvi_os_unmap(&json);
    kvi_os_unmap(&tensors);
    return dir;
}

#define Q0 "model.layers.0.self_attn.q_proj"
static const edit edits[] = {
    /* configurations */
    {"gptq_sym",
     KVRT_UNSUPPORTED,
     {"quant_method is 'hqq'", "gptq"},
     .config = {"\"gptq\",\n  \"bits\"", "\"hqq\",\n  \"bits\""}},
    {"gptq_sym", KVRT_UNSUPPORTED, {"no quant_method", "gptq"}, .config = {"quant_method", "method"}},
    {"gptq_sym",
     KVRT_UNSUPPORTED,
     {"quantization_config.bits is 3", "4 or 8"},
     .config = {"\"bits\": 4", "\"bits\": 3"}},
    {"gptq_sym", KVRT_FORMAT, {"config.json", "at byte"}, .config = {"\"bits\": 4", "\"bits\": \"4\""}},
    {"gptq_sym",
     KVRT_FORMAT,
     {Q0 ".qweight: I32 [8, 64]", "need I32 [16, 64]"},
     .config = {"\"bits\": 4", "\"bits\": 8"}},
    {"gptq_sym",
     KVRT_UNSUPPORTED,
     {"checkpoint_format is 'marlin'", "gptq_v2"},
     .config = {"\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\""}},
    {"gptq_sym", KVRT_UNSUPPORTED, {"pack_dtype", "int32"}, .config = {"int32", "int16"}},
    {"gptq_sym",
     KVRT_UNSUPPORTED,
     {Q0 ".qweight: groups of 7", "divisor of 64"},
     .config = {"\"group_size\": 32", "\"group_size\": 7"}},
    {"gptq_sym", KVRT_UNSUPPORTED, {"groups of -2", "need -1"}, .config = {"\"group_size\": 32", "\"group_size\": -2"}},
    {"gptq_sym",
     KVRT_FORMAT,
     {Q0 ".qzeros: I32 [2, 8]", "need I32 [4, 8]"},
     .config = {"\"group_size\": 32", "\"group_size\": 16"}},
    {"gptq_dynamic",
     KVRT_FORMAT,
     {"model.layers.0.mlp.gate_proj.qweight", "dynamic"},
     .config = {"layers\\\\.1", "layers\\\\.."}},
    {"gptq_dynamic", KVRT_UNSUPPORTED, {"quantization_config.dynamic", ""}, .config = {"-:.*", "-:(.*"}},
    {"gptq_dynamic",
     KVRT_UNSUPPORTED,
     {"dynamic: bits of '.*\\.down_proj$' is 5", "4 or 8"},
     .config = {"\"bits\": 8", "\"bits\": 5"}},
    {"auto_round_gptq",
     KVRT_UNSUPPORTED,
     {"packing_format is 'auto_round:exllama'", "auto_round:auto_gptq"},
     .config = {"auto_round:auto_gptq", "auto_round:exllama"}},
    {"auto_round_gptq",
     KVRT_UNSUPPORTED,
     {"data_type", "int"},
     .config = {"\"data_type\": \"int\"", "\"data_type\": \"mx_fp\""}},
    {"awq_gemm",
     KVRT_UNSUPPORTED,
     {"quantization_config.bits is 8", "need 4"},
     .config = {"\"bits\": 4", "\"bits\": 8"}},
    {"awq_gemm", KVRT_UNSUPPORTED, {"version is 'gemv_fast'", "gemm or gemv"}, .config = {"\"gemm\"", "\"gemv_fast\""}},
    {"awq_gemm", KVRT_UNSUPPORTED, {"version is 'llm-awq'", "gemm or gemv"}, .config = {"\"gemm\"", "\"llm-awq\""}},
    {"awq_gemm",
     KVRT_FORMAT,
     {"model.layers.0.mlp.gate_proj.qweight: I32 [64, 12]", "need I32 [64, 8]"},
     .config = {"\"intermediate_size\": 96", "\"intermediate_size\": 64"}},
    {"awq_gemm", KVRT_FORMAT, {Q0 ".qzeros: I32 [2, 8]", "need I32 [64, 4]"}, .config = {"\"gemm\"", "\"gemv\""}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"config_groups.group_0.format is 'marlin-24'", "pack-"},
     .config = {"\"pack-quantized\"", "\"marlin-24\""}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"config_groups.group_0.weights.strategy is 'token'", "group, channel"},
     .config = {"\"strategy\": \"group\"", "\"strategy\": \"token\""}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"config_groups.group_0.weights.num_bits is '3'", "4 or 8"},
     .config = {"\"num_bits\": 4", "\"num_bits\": 3"}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"weights.group_size", ""},
     .config = {"\"group_size\": 32", "\"group_size\": null"}},
    {"packed_sym",
     KVRT_FORMAT,
     {Q0 ".weight_packed: quantized", "ignore"},
     .config = {"\"lm_head\"", "\"re:.*q_proj\""}},
    {"packed_sym", KVRT_FORMAT, {Q0 ".weight_packed: quantized", "no targets"}, .config = {"\"Linear\"", "\"Conv1d\""}},
    {"packed_sym",
     KVRT_FORMAT,
     {"weight_packed: I32", "int-quantized"},
     .config = {"\"pack-quantized\"", "\"int-quantized\""}},
    {"packed_sym",
     KVRT_FORMAT,
     {Q0 ".weight_zero_point: not found", "need it"},
     .config = {"\"symmetric\": true", "\"symmetric\": false"}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"transform_config", "no transforms"},
     .config = {"\"kv_cache_scheme\"", "\"transform_config\": {\"config_groups\": {}}, \"x\""}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"sparsity_config.format is 'sparse-24-bitmask'", "dense"},
     .config = {"\"kv_cache_scheme\"", "\"sparsity_config\": {\"format\": \"sparse-24-bitmask\"}, \"x\""}},
    {"packed_sym",
     KVRT_UNSUPPORTED,
     {"config_groups.group_0", "targets"},
     .config = {"\"group_0\": {", "\"group_0\": [], \"y\": {"}},
    {"naive_block", KVRT_UNSUPPORTED, {"block_structure", "[rows, columns]"}, .config = {"48,", "0,"}},
    {"naive_block", KVRT_FORMAT, {Q0 ".weight_scale", "need"}, .config = {"48,", "16,"}},
    /* an expression counts from the beginning of a name */
    {"packed_sym", KVRT_OK, {"", ""}, .config = {"\"lm_head\"", "\"re:self_attn\""}},
    /* tensors */
    {"gptq_sym", KVRT_FORMAT, {Q0 ".weight: not found", ""}, .header = {Q0 ".qweight", Q0 ".xweight"}},
    {"gptq_sym", KVRT_FORMAT, {Q0 ".qzeros: not found", "beside"}, .header = {Q0 ".qzeros", Q0 ".xzeros"}},
    {"gptq_sym", KVRT_FORMAT, {Q0 ".scales: not found", "beside"}, .header = {Q0 ".scales", Q0 ".xscales"}},
    {"gptq_sym",
     KVRT_FORMAT,
     {Q0 ".qweight: F32 [8, 64]", "need I32"},
     .header = {Q0 ".qweight\":{\"dtype\":\"I32\"", Q0 ".qweight\":{\"dtype\":\"F32\""}},
    {"gptq_sym",
     KVRT_FORMAT,
     {Q0 ".scales: I16 [2, 64]", "need F16, BF16 or F32"},
     .header = {Q0 ".scales\":{\"dtype\":\"F16\"", Q0 ".scales\":{\"dtype\":\"I16\""}},
    {"gptq_sym",
     KVRT_FORMAT,
     {Q0 ".qzeros: I32 [8, 2]", "need I32 [2, 8]"},
     .header = {Q0 ".qzeros\":{\"dtype\":\"I32\",\"shape\":[2,8]", Q0 ".qzeros\":{\"dtype\":\"I32\",\"shape\":[8,2]"}},
    {"gptq_sym", KVRT_FORMAT, {Q0 ".g_idx: element 0 is 2", "from 0 to 1"}, .tensor = Q0 ".g_idx", .element = 2},
    {"gptq_desc_act", KVRT_FORMAT, {Q0 ".g_idx: element 0 is -5", "from 0 to 1"}, .tensor = Q0 ".g_idx", .element = -5},
    {"packed_sym",
     KVRT_FORMAT,
     {Q0 ".weight_shape: element 0 is 65", "need 64"},
     .tensor = Q0 ".weight_shape",
     .element = 65},
    {"packed_sym",
     KVRT_FORMAT,
     {Q0 ".weight_scale: BF16 [2, 64]", "[64, 2]"},
     .header = {Q0 ".weight_scale\":{\"dtype\":\"BF16\",\"shape\":[64,2]",
                Q0 ".weight_scale\":{\"dtype\":\"BF16\",\"shape\":[2,64]"}},
    {"packed_asym",
     KVRT_FORMAT,
     {Q0 ".weight_zero_point: F32", "need I32"},
     .header = {Q0 ".weight_zero_point\":{\"dtype\":\"I32\"", Q0 ".weight_zero_point\":{\"dtype\":\"F32\""}},
    {"int_channel",
     KVRT_FORMAT,
     {Q0 ".weight_scale: not found", "beside"},
     .header = {Q0 ".weight_scale", Q0 ".weight_xcale"}},
    {"awq_gemv",
     KVRT_FORMAT,
     {Q0 ".scales", "need F16"},
     .header = {Q0 ".scales\":{\"dtype\":\"F16\",\"shape\":[64,32]",
                Q0 ".scales\":{\"dtype\":\"F16\",\"shape\":[32,64]"}},
    /* small floats, table codes, MLX */
    {"fp8_block",
     KVRT_UNSUPPORTED,
     {"quantization_config.fmt is 'e5m2'", "e4m3"},
     .config = {"\"fmt\": \"e4m3\"", "\"fmt\": \"e5m2\""}},
    {"fp8_block", KVRT_UNSUPPORTED, {"weight_block_size", "[rows, columns]"}, .config = {"32,\n", "-32,\n"}},
    {"fp8_block",
     KVRT_FORMAT,
     {Q0 ".weight_scale_inv: F32 [2, 2]", "need F32, F16 or BF16 [4, 2]"},
     .config = {"32,\n", "16,\n"}},
    {"fp8_block",
     KVRT_FORMAT,
     {Q0 ".weight_scale_inv: not found", "beside " Q0 ".weight"},
     .header = {Q0 ".weight_scale_inv", Q0 ".weight_xcale_inv"}},
    {"fp8_block",
     KVRT_FORMAT,
     {Q0 ".weight_scale_inv: I32 [2, 2]", "need F32"},
     .header = {Q0 ".weight_scale_inv\":{\"dtype\":\"F32\"", Q0 ".weight_scale_inv\":{\"dtype\":\"I32\""}},
    {"fp8_tensor",
     KVRT_FORMAT,
     {"mlp.gate_proj.weight: F8_E4M3 [96, 64]", "need F8_E4M3 [64, 64]"},
     .config = {"\"intermediate_size\": 96", "\"intermediate_size\": 64"}},
    {"float_channel",
     KVRT_UNSUPPORTED,
     {"config_groups.group_0.format is 'int-quantized'", "for floats"},
     .config = {"\"float-quantized\"", "\"int-quantized\""}},
    {"float_tensor",
     KVRT_FORMAT,
     {Q0 ".weight: F8_E4M3, need what", "naive-quantized, int"},
     .config = {"\"float\"", "\"int\""}},
    {"float_channel",
     KVRT_UNSUPPORTED,
     {"weights.num_bits is '6'", "need 8"},
     .config = {"\"num_bits\": 8", "\"num_bits\": 6"}},
    {"float_channel",
     KVRT_FORMAT,
     {Q0 ".weight_scale: BF16 [64, 1]", "[1, 1]"},
     .config = {"\"strategy\": \"channel\"", "\"strategy\": \"tensor\""}},
    {"mxfp4",
     KVRT_UNSUPPORTED,
     {"format is 'mxfp6-pack-quantized'", "mxfp4-pack-quantized"},
     .config = {"\"mxfp4-pack-quantized\"", "\"mxfp6-pack-quantized\""}},
    {"mxfp4",
     KVRT_FORMAT,
     {Q0 ".weight_global_scale: not found", "weight_packed"},
     .config = {"\"mxfp4-pack-quantized\"", "\"nvfp4-pack-quantized\""}},
    {"nvfp4",
     KVRT_FORMAT,
     {Q0 ".weight_global_scale: not found", "beside"},
     .header = {Q0 ".weight_global_scale", Q0 ".weight_xlobal_scale"}},
    {"nvfp4",
     KVRT_FORMAT,
     {Q0 ".weight_packed: I8, need what", "nvfp4-pack-quantized, float"},
     .header = {Q0 ".weight_packed\":{\"dtype\":\"U8\"", Q0 ".weight_packed\":{\"dtype\":\"I8\""}},
    {"modelopt_mixed",
     KVRT_UNSUPPORTED,
     {"quant_algo is 'W4A8_AWQ'", "NVFP4"},
     .config = {"MIXED_PRECISION", "W4A8_AWQ"}},
    {"modelopt_mixed",
     KVRT_UNSUPPORTED,
     {"group_size is 32", "need 16"},
     .config = {"\"group_size\": 16", "\"group_size\": 32"}},
    {"modelopt_mixed",
     KVRT_UNSUPPORTED,
     {Q0 ".pre_quant_scale: activations with scales", "MIXED_PRECISION"},
     .header = {Q0 ".input_scale", Q0 ".pre_quant_scale"}},
    {"modelopt_mixed",
     KVRT_FORMAT,
     {Q0 ".weight_scale_2: not found", "beside"},
     .header = {Q0 ".weight_scale_2", Q0 ".weight_scale_x"}},
    {"bnb_nf4", KVRT_UNSUPPORTED, {"bnb_4bit_quant_type is 'int4'", "nf4 or fp4"}, .config = {"\"nf4\"", "\"int4\""}},
    {"bnb_nf4",
     KVRT_FORMAT,
     {Q0 ".weight.quant_state.bitsandbytes__fp4: not found", "beside"},
     .config = {"\"nf4\"", "\"fp4\""}},
    {"bnb_nf4",
     KVRT_UNSUPPORTED,
     {"bnb_4bit_quant_storage is 'bfloat16'", "uint8"},
     .config = {"\"uint8\"", "\"bfloat16\""}},
    {"bnb_nf4",
     KVRT_UNSUPPORTED,
     {"load_in_4bit", "load_in_8bit"},
     .config = {"\"load_in_4bit\": true", "\"load_in_4bit\": null"}},
    {"bnb_nf4",
     KVRT_FORMAT,
     {Q0 ".weight.absmax: not found", "beside"},
     .header = {Q0 ".weight.absmax", Q0 ".weight.xbsmax"}},
    {"bnb_nf4",
     KVRT_UNSUPPORTED,
     {Q0 ".weight.quant_map: code 0 is", "need -1"},
     .tensor = Q0 ".weight.quant_map",
     .element = 0x40000000},
    {"bnb_nf4",
     KVRT_FORMAT,
     {Q0 ".weight.quant_state.bitsandbytes__nf4", "at byte 0"},
     .tensor = Q0 ".weight.quant_state.bitsandbytes__nf4",
     .element = 'x'},
    {"bnb_nf4_nested",
     KVRT_FORMAT,
     {Q0 ".weight.nested_quant_map: not found", "beside"},
     .header = {Q0 ".weight.nested_quant_map", Q0 ".weight.xested_quant_map"}},
    {"bnb_int8", KVRT_FORMAT, {Q0 ".SCB: not found", "beside"}, .header = {Q0 ".SCB", Q0 ".SCX"}},
    {"bnb_int8",
     KVRT_UNSUPPORTED,
     {"load_in_4bit", "load_in_8bit"},
     .config = {"\"load_in_8bit\": true", "\"bnb_4bit_quant_type\": \"nf4\", \"load_in_4bit\": true"}},
    {"mlx_4bit", KVRT_UNSUPPORTED, {"bits is 7", "2, 3, 4, 5, 6 or 8"}, .config = {"\"bits\": 4", "\"bits\": 7"}},
    {"mlx_4bit",
     KVRT_UNSUPPORTED,
     {"mode is 'nvfp4'", "affine"},
     .config = {"\"bits\": 4", "\"bits\": 4, \"mode\": \"nvfp4\""}},
    {"mlx_4bit",
     KVRT_FORMAT,
     {"model.embed_tokens.weight: U32 [96, 8]", "need U32 [96, 16]"},
     .config = {"\"bits\": 4", "\"bits\": 8"}},
    {"mlx_4bit", KVRT_FORMAT, {Q0 ".biases: not found", "beside"}, .header = {Q0 ".biases", Q0 ".xiases"}},
    {"mlx_4bit",
     KVRT_FORMAT,
     {Q0 ".biases: F16 [64, 2]", "need BF16"},
     .header = {Q0 ".biases\":{\"dtype\":\"BF16\"", Q0 ".biases\":{\"dtype\":\"F16\""}},
    {"mlx_mixed",
     KVRT_FORMAT,
     {"layers.0.mlp.down_proj.weight: U32 [64, 18]", "need U32 [64, 24]"},
     .config = {"\"bits\": 6", "\"bits\": 8"}},
    {"mlx_mixed", KVRT_FORMAT, {Q0 ".weight: quantized", "leaves"}, .config = {"self_attn.v_proj", "self_attn.q_proj"}},
};

static void broken_folders_say_what_is_wrong(void **state)
{
    unsigned n_other = 0;
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        kvrt_error error = {.size = sizeof error};
        kvi_model_weights weights;
        uint64_t before, after, blocks, allocations;
        const char *dir = edited(&edits[i]);
        n_values = 0;
        kvi_mem_stats(&before, &blocks, &allocations);
        const kvrt_status status = bind(dir, NULL, &weights, &error);
        kvi_mem_stats(&after, &blocks, &allocations);
        if (status != edits[i].status || !strstr(error.message, edits[i].says[0]) ||
            !strstr(error.message, edits[i].says[1])) {
            n_other++;
            print_error("edit %zu of %s: %d '%s', need %d '%s' '%s'\n", i, edits[i].golden, status, error.message,
                        edits[i].status, edits[i].says[0], edits[i].says[1]);
        }
        assert_int_equal(before, after);
    }
    assert_int_equal(n_other, 0);
    char path[400];
    const char *dir = edited(&edits[0]);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(remove(path), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(remove(path), 0);
    assert_int_equal(remove(dir), 0);
}

/* ------------------------------------------------------------------------------------------------------- gpt-oss --- */
typedef struct shelf {
    kvi_checkpoint base;
    kvi_tensor tensors[2];
} shelf;
static const kvi_tensor *shelf_find(const kvi_checkpoint *checkpoint, const char *name)
{
    const shelf *s = (const shelf *)checkpoint;
    for (uint64_t i = 0; i < s->base.n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}
static void shelf_close(kvi_checkpoint *checkpoint) { (void)checkpoint; }
static const kvi_checkpoint_reader shelf_reader = {.find = shelf_find, .close = shelf_close};

#define EXPERTS 3u
#define ROWS 6u
#define COLUMNS 64u
static uint8_t blocks[EXPERTS * ROWS * COLUMNS / 2], exponents[EXPERTS * ROWS * COLUMNS / 32];

static kvi_quantization *of_gpt_oss(shelf *s)
{
    static const char text[] =
        "{\"quantization_config\": {\"quant_method\": \"mxfp4\", \"modules_to_not_convert\": [\"lm_head\"]}}";
    kvi_quantization *q;
    kvrt_error error = {.size = sizeof error};
    *s = (shelf){.base = {.reader = &shelf_reader, .n_tensors = 2},
                 .tensors = {{.name = "model.layers.0.mlp.experts.gate_up_proj_blocks",
                              .dtype = "U8",
                              .form = KVI_FORM_NONE,
                              .n_dims = 4,
                              .shape = {EXPERTS, ROWS, COLUMNS / 32, 16},
                              .data = blocks},
                             {.name = "model.layers.0.mlp.experts.gate_up_proj_scales",
                              .dtype = "U8",
                              .form = KVI_FORM_NONE,
                              .n_dims = 3,
                              .shape = {EXPERTS, ROWS, COLUMNS / 32},
                              .data = exponents}}};
    if (kvi_quantization_parse(text, sizeof text - 1, "config.json", &q, &error) < KVRT_OK)
        fail_msg("%s", error.message);
    assert_int_equal(kvi_quantization_problem(q, &error), KVRT_OK);
    return q;
}

/* up: every second row of the experts' tensor, from the second on. */
static kvi_weight_desc up_rows(void)
{
    return (kvi_weight_desc){
        .n_out = ROWS / 2, .n_in = COLUMNS, .n_experts = EXPERTS, .rows = {1, 1, 2, ROWS}, .transposed = true};
}

static void experts_of_gpt_oss_are_read_in_place(void **state)
{
    static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    shelf s;
    kvi_quantization *q = of_gpt_oss(&s);
    kvi_weight_desc w = up_rows();
    kvrt_error error = {.size = sizeof error};
    bool done = false;
    float row[COLUMNS];
    for (uint32_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)(i * 89 + i / 7);
    for (uint32_t i = 0; i < sizeof exponents; i++) exponents[i] = (uint8_t)(100 + i * 5 % 50);
    const kvi_tensor *codes = kvi_quantization_codes(q, &s.base, "model.layers.0.mlp.experts.gate_up_proj");
    assert_ptr_equal(codes, &s.tensors[0]);
    assert_null(kvi_quantization_codes(q, &s.base, "model.layers.0.mlp.experts.down_proj"));
    if (kvi_quantization_describe(q, &s.base, codes, &w, &done, &error) < KVRT_OK) fail_msg("%s", error.message);
    assert_true(done && w.form == KVI_FORM_MXFP4);
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t r = 0; r < ROWS / 2; r++) {
            assert_true(kvi_weight_decode(&w, e, r, 0, COLUMNS, row));
            for (uint32_t k = 0; k < COLUMNS; k++) {
                const uint32_t at = (e * ROWS + 2 * r + 1) * COLUMNS + k, code = blocks[at / 2] >> at % 2 * 4 & 15;
                const double size = ldexp(e2m1[code & 7], exponents[at / 32] - 127);
                assert_true((double)row[k] == (code & 8 ? -size : size));
            }
        }
    kvi_quantization_free(q);
}

static void broken_experts_say_what_is_wrong(void **state)
{
    static const char *const says[] = {"gate_up_proj_blocks: U8 of 4 dimensions, need U8 [3, 6, 2, 16]",
                                       "gate_up_proj_blocks: I8 of 4", "gate_up_proj_scales: not found",
                                       "gate_up_proj_scales: U8 of 3 dimensions, need U8 [3, 6, 2]"};
    for (size_t i = 0; i < 4; i++) {
        shelf s;
        kvi_quantization *q = of_gpt_oss(&s);
        kvi_weight_desc w = up_rows();
        kvrt_error error = {.size = sizeof error};
        bool done = false;
        if (i == 0) s.tensors[0].shape[1] = ROWS - 1;
        if (i == 1) s.tensors[0].dtype = "I8";
        if (i == 2) s.base.n_tensors = 1;
        if (i == 3) s.tensors[1].shape[0] = 2;
        assert_int_equal(kvi_quantization_describe(q, &s.base, &s.tensors[0], &w, &done, &error), KVRT_FORMAT);
        if (!strstr(error.message, says[i])) fail_msg("'%s' without '%s'", error.message, says[i]);
        kvi_quantization_free(q);
    }
}

/* Every allocation of an open fails in turn: an error, and nothing is left. */
static void no_failed_allocation_leaks(void **state)
{
    static const char *const folders[] = {"gptq_dynamic", "mixed_precision", "mlx_mixed"};
    for (size_t f = 0; f < 3; f++)
        for (uint64_t nth = 1;; nth++) {
            kvrt_error error = {.size = sizeof error};
            kvi_model_weights weights;
            uint64_t before, after, blocks, allocations;
            char dir[512];
            snprintf(dir, sizeof dir, "%s/golden/quantized/%s", KVRT_TEST_DIR, folders[f]);
            kvi_mem_stats(&before, &blocks, &allocations);
            kvi_mem_fail_nth(nth);
            const kvrt_status status = bind(dir, NULL, &weights, &error);
            kvi_mem_fail_nth(0);
            kvi_mem_stats(&after, &blocks, &allocations);
            assert_int_equal(before, after);
            if (status >= KVRT_OK) {
                assert_true(nth > 10);
                break;
            }
            assert_int_equal(status, KVRT_NOMEM_HOST);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_those_of_the_libraries),
                                       cmocka_unit_test(logits_are_those_of_the_dequantized_model),
                                       cmocka_unit_test(experts_are_those_of_the_dequantized_model),
                                       cmocka_unit_test(inspect_and_plan_count_what_is_there),
                                       cmocka_unit_test(broken_folders_say_what_is_wrong),
                                       cmocka_unit_test(experts_of_gpt_oss_are_read_in_place),
                                       cmocka_unit_test(broken_experts_say_what_is_wrong),
                                       cmocka_unit_test(no_failed_allocation_leaks)};
    return cmocka_run_group_tests_name("quantized", tests, NULL, NULL);
}
