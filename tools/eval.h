/* eval.h - the quality instrument: what a cache format costs, against the f16 cache of the same build, on real text. */
#ifndef KVRT_EVAL_H
#define KVRT_EVAL_H
#include "command.h"

#define EVAL_MAX_FORMATS 16u
#define EVAL_BUCKETS 8u
#define EVAL_DISTANCES 32u

/* Sums over the tokens of one depth bucket. */
typedef struct eval_bucket {
    uint64_t n, same_top;
    double nll, kld;
} eval_bucket;

typedef struct eval_format {
    const char *kv;
    kvrt_engine engine;
    kvrt_session session;
    double bits_per_element, bytes_per_token;
    eval_bucket all, buckets[EVAL_BUCKETS];
    float *klds; /* (n_tokens) */
    double kld_p50, kld_p999;
    uint64_t n_after_packing; /* scored tokens that had packed pages before them */
    struct {
        uint64_t distance, asked, right;
    } retrieval[EVAL_DISTANCES];
    unsigned n_distances;
} eval_format;

typedef struct eval {
    command_line line;
    bool decode;         /* each token sees the quantized past */
    uint32_t ctx, chunk; /* tokens */
    uint64_t limit;      /* most tokens of the text; 0: what the context holds */
    uint64_t n_tokens;   /* scored */
    uint64_t n_before;   /* tokens that are scored before a page of a fixed format is packed */
    eval_format reference, formats[EVAL_MAX_FORMATS];
    unsigned n_formats;
    uint32_t vocab;
} eval;

/* Whether the figures of a format say anything: some token saw a packed page, or the format packs none. */
static inline bool eval_was_measured(const eval_format *f) { return f->n_after_packing || f->bits_per_element >= 16; }

/* Exact match of answers by distance over a JSONL file of {context, question, answer, distance}. Exit code. */
int eval_retrieval(eval *e, const char *path);
void eval_print_table(const eval *e);
void eval_print_json(const eval *e);
/* Quality against bits, one mark per format. False when the file cannot be written. */
bool eval_plot(const eval *e, const char *path);

#endif
