/* quantization_impl.h - shared by quantization.c and the methods: what a configuration is once it is read, and the ways to a module's tensors.
 * To add a method: a file with a kvi_quant_method, a line in quantization.c's table. */
#ifndef KVI_QUANTIZATION_IMPL_H
#define KVI_QUANTIZATION_IMPL_H
#include "quantization.h"
#include "../../base/json.h"
#include "../../base/mem.h"
#include "../../tokenizer/regex.h"

/* How weights are quantized, as far as any method says it. */
typedef struct kvi_quant_args {
    int64_t bits;  /* of a code; 16 and more: not quantized */
    int64_t group; /* neighbours of a row that share a scale; -1: the whole row; 0: not said */
    int64_t block_rows, block_columns;
    bool symmetric, has_symmetric, is_float;
    char strategy[16], format[32]; /* of compressed-tensors */
} kvi_quant_args;

typedef enum kvi_quant_match {
    KVI_MATCH_NAME,  /* the module's whole name */
    KVI_MATCH_REGEX, /* an expression that matches from the name's beginning on, as Python's re.match */
    KVI_MATCH_CLASS  /* "Linear", "Embedding" */
} kvi_quant_match;

/* What a config says about some modules. Of the rules that match a module the first counts: that of the lowest rank, and within a rank the one
 * that was added first. */
typedef struct kvi_quant_rule {
    const char *pattern; /* as it stands in the config */
    const char *key;     /* where: "dynamic", "config_groups.group_0" */
    kvi_quant_match match;
    uint32_t rank;
    kvi_regex *regex;
    bool skip; /* these modules are not quantized */
    kvi_quant_args args;
    struct kvi_quant_rule *next;
} kvi_quant_rule;

typedef struct kvi_quant_method kvi_quant_method;

struct kvi_quantization {
    const kvi_quant_method *method; /* NULL with a problem */
    kvi_arena arena;                /* texts and rules */
    char name[48];                  /* quant_method, as the config has it */
    char file[40], key[40];         /* where the configuration stands: "config.json", "quantization_config" */
    char variant[48];               /* checkpoint_format, version, packing_format or format; empty: not said */
    kvi_quant_args args;            /* of modules without a rule */
    kvi_quant_rule *rules;
    bool is_packed_in_words; /* pack_dtype is int32, or not said */
    kvrt_status status;      /* of the configuration */
    kvrt_error problem;
};

/* A weight whose description is wanted. */
typedef struct kvi_quant_weight {
    const kvi_quantization *q;
    const kvi_checkpoint *checkpoint;
    const kvi_tensor *codes;
    char module[192];
    uint32_t n_out, n_in; /* of the tensor, of which the weight may be some rows */
    kvi_quant_args args;  /* as the config says for this module */
    const kvi_quant_rule *rule;
    kvi_weight_desc *desc;
    kvrt_error *error;
} kvi_quant_weight;

struct kvi_quant_method {
    const char *names[3]; /* of quant_method */
    /* What the tensor of codes is called behind the module, where it is not "weight"; one that begins with '_' follows the name of a weight
     * that does not end so. */
    const char *codes[2];
    /* One key of the configuration, the reader before its value; false: not a key of this method, which is skipped. */
    bool (*read_key)(kvi_quantization *q, kvi_json *r);
    /* Whether what was read can be computed with. */
    kvrt_status (*check)(kvi_quantization *q, kvrt_error *error);
    /* args and rule are those of the module; *done as kvi_quantization_describe. */
    kvrt_status (*describe)(const kvi_quant_weight *w, bool *done);
};
extern const kvi_quant_method kvi_quant_awq, kvi_quant_gptq, kvi_quant_auto_round, kvi_quant_compressed_tensors,
    kvi_quant_fp8, kvi_quant_modelopt, kvi_quant_mxfp4, kvi_quant_bitsandbytes, kvi_quant_mlx;
kvrt_status kvi_quant_awq_bits(const kvi_quantization *q, kvrt_error *error); /* AWQ packs 4 bits alone */

/* ----------------------------------------------------------------------------------------------- reading a config --- */
/* A string into out, cut to cap; any other type is skipped and gives "". */
void kvi_quant_read_text(kvi_json *r, char *out, size_t cap);
/* An integer; null gives `absent`. */
int64_t kvi_quant_read_int(kvi_json *r, int64_t absent);
bool kvi_quant_read_flag(kvi_json *r); /* null is false */
/* An array [rows, columns] into block_rows and block_columns. */
void kvi_quant_read_sides(kvi_json *r, kvi_quant_args *args);
/* A new rule with the arguments of the whole folder; `pattern` (len) as a reader's string that has no escapes left. NULL when memory is out or an
 * expression is none, which then is q's problem. */
kvi_quant_rule *kvi_quant_add_rule(kvi_quantization *q, const char *pattern, size_t len, kvi_quant_match match,
                                   uint32_t rank, const char *key);
/* The string or key that the reader has just read, in the arena; NULL when memory is out, which then is q's problem. */
const char *kvi_quant_text(kvi_quantization *q, const kvi_json *r);
/* UNSUPPORTED: "config.json: quantization_config.KEY is FOUND, need NEED". */
kvrt_status kvi_quant_refuse(const kvi_quantization *q, const char *key, const char *found, const char *need,
                             kvrt_error *error);
kvrt_status kvi_quant_refuse_number(const kvi_quantization *q, const char *key, int64_t found, const char *need,
                                    kvrt_error *error);

/* -------------------------------------------------------------------------------------------- tensors of a module --- */
/* MODULE.suffix; NULL when absent. */
const kvi_tensor *kvi_quant_find(const kvi_quant_weight *w, const char *suffix);
/* MODULE.suffix of the element type and shape; columns 0: a vector of `rows`. Errors: FORMAT. */
kvrt_status kvi_quant_need(const kvi_quant_weight *w, const char *suffix, const char *dtype, uint64_t rows,
                           uint64_t columns, const kvi_tensor **out);
/* Scales: the same, in F32, F16 or BF16, into desc. */
kvrt_status kvi_quant_need_scales(const kvi_quant_weight *w, const char *suffix, uint64_t rows, uint64_t columns);
/* The tensor is of this element type and shape. FORMAT when not. */
kvrt_status kvi_quant_check(const kvi_quant_weight *w, const kvi_tensor *t, const char *dtype, uint64_t rows,
                            uint64_t columns);
/* The error of a check that failed: element type and shape are as needed or not, `dtype` and the sides say what is. FORMAT. */
kvrt_status kvi_quant_wrong(const kvi_quant_weight *w, const kvi_tensor *t, const char *dtype, uint64_t rows,
                            uint64_t columns);
kvrt_status kvi_quant_absent(const kvi_quant_weight *w, const char *suffix); /* FORMAT: MODULE.suffix is not there */
/* Groups of columns, if MODULE.suffix is there: checked against n_groups, and left out where it says what would go without saying. */
kvrt_status kvi_quant_groups(const kvi_quant_weight *w, const char *suffix, uint32_t n_groups);
/* Group of the weight from args: 0 for a whole row. FORMAT where it is no group of such a row. */
kvrt_status kvi_quant_group_size(const kvi_quant_weight *w, uint32_t *group);
/* -------------------------------------------------------------------------------------------------- small floats --- */
/* Scales of any kind into desc, whose group and group_rows say how many: MODULE.suffix, in which sides of 1 do not matter. */
kvrt_status kvi_quant_scales(const kvi_quant_weight *w, const char *suffix, kvi_scale_kind kind);
/* GLOBAL from MODULE.suffix, one F32. */
kvrt_status kvi_quant_global(const kvi_quant_weight *w, const char *suffix, bool divides);
/* The codes are U8 (n_out, n_in / 2), with a scale for every `group` neighbours. */
kvrt_status kvi_quant_halves(const kvi_quant_weight *w, uint32_t group);
/* Modules of compressed-tensors whose codes are floats; what shares a scale is in desc already where the strategy says it. */
kvrt_status kvi_quant_describe_floats(const kvi_quant_weight *w);

/* Every word of a tensor is `word`. */
bool kvi_quant_all_words(const kvi_tensor *t, uint32_t word);
/* FORMAT: the tensors of a module that the config leaves out. */
kvrt_status kvi_quant_contradiction(const kvi_quant_weight *w);

#endif
