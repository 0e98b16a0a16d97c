/* eval.h - the quality instrument: what a cache format costs, against the f16 cache of the same build, on real text. */
#ifndef KVRT_EVAL_H
#define KVRT_EVAL_H
#include "command.h"

#define EVAL_MAX_FORMATS 16u
#define EVAL_BUCKETS 8u
#define EVAL_DISTANCES 32u
#define EVAL_MAX_WINDOWS 64u

/* Sums over the tokens of one depth bucket. */
typedef struct eval_bucket {
    uint64_t n, same_top;
    double nll, kld;
} eval_bucket;

/* Calls of tools in recorded conversations (eval_calls.c). */
typedef struct eval_calls {
    uint64_t n, right, both; /* asked; whole by greedy choice of each token; so here and in the reference */
    uint64_t n_tokens;
    double kld;
} eval_calls;

typedef struct eval_format {
    const char *kv; /* as asked for: k4v4, or k4v4:kv.round=plain */
    kvrt_options *options;
    kvrt_engine engine;
    kvrt_session session;
    double bits_per_element, bytes_per_token;
    double allocated_bits;               /* of the pages held at the end of a window, sink and tail included; mean */
    double window_kld[EVAL_MAX_WINDOWS]; /* sums */
    double window_nll[EVAL_MAX_WINDOWS];
    uint32_t agreed[EVAL_MAX_WINDOWS]; /* tokens generated behind a window until they differ from the reference's */
    eval_calls calls;
    eval_bucket all, buckets[EVAL_BUCKETS];
    float *klds; /* (n_windows * n_tokens) */
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
    uint64_t n_tokens;   /* scored, of a window */
    uint32_t n_windows;
    uint64_t n_generate; /* tokens behind each window; 0: none */
    double elements;     /* numbers of K and V of a position, all layers */
    uint64_t n_before;   /* tokens that are scored before a page of a fixed format is packed */
    eval_format reference, formats[EVAL_MAX_FORMATS];
    unsigned n_formats;
    uint32_t vocab;
} eval;

/* Whether the figures of a format say anything: some token saw a packed page, or the format packs none. */
static inline bool eval_was_measured(const eval_format *f) { return f->n_after_packing || f->bits_per_element >= 16; }

/* Log-probabilities in place; returns the index of the largest. */
uint32_t eval_log_softmax(float *logits, uint32_t n);
/* Kullback-Leibler divergence of q from the reference p, both log-probabilities, in nats. */
double eval_divergence(const float *p, const float *q, uint32_t n);
/* Mean of a format's divergence over windows, and half of its 95% interval by Student's t (NaN: one window). */
double eval_mean_kld(const eval *e, const eval_format *f, double *half);

/* Calls of tools, teacher-forced, over a JSONL file of {text, call} and {start: true, text, call}. Exit code. */
int eval_tool_calls(eval *e, const char *path);
/* String value of a key of one JSON object without nesting, unescaped; owned by the caller; NULL when absent or malformed. */
char *eval_string(const char *line, const char *key);
/* Exact match of answers by distance over a JSONL file of {context, question, answer, distance}. Exit code. */
int eval_retrieval(eval *e, const char *path);
void eval_print_table(const eval *e);
void eval_print_json(const eval *e);
/* Quality against bits, one mark per format. False when the file cannot be written. */
bool eval_plot(const eval *e, const char *path);

#endif
