/* real_model.h - a real GGUF file (examples/models/fetch.sh) against what transformers makes of it in float32: test/golden/gguf/make_*.py. */
#ifndef REAL_MODEL_H
#define REAL_MODEL_H
#include "../../runtime/kvrt.h"
#include "../../runtime/base/os.h"

#define REAL_LIMIT 2e-4 /* of the logits' standard deviation, as for folders in f32 */
#define REAL_LISTS 3u

typedef struct real_list {
    uint32_t n;
    const uint8_t *at; /* (n) int32_t, maybe unaligned */
} real_list;
typedef struct real_golden {
    const char *model;
    kvi_map map;
    uint32_t n, vocab; /* positions */
    float std;
    const uint8_t *positions;
    real_list lists[REAL_LISTS];
} real_golden;

/* `model` below examples/models, `golden` below test/golden/gguf, with n_lists lists behind its positions. Skips the test where the model is not. */
real_golden real_load(const char *model, const char *golden, uint32_t n_lists);
void real_free(real_golden *golden);
int32_t real_item(const real_list *list, uint32_t index);
/* On the CPU, greedy, 24 tokens; exact: cpu.exact. */
kvrt_engine real_open(const real_golden *golden, const char *kv_format);
kvrt_engine real_open_exact(const real_golden *golden, const char *kv_format, const char *exact);
/* Over all positions: mean KL divergence of b from a in nats, and the part of positions where both hold the same token for the best. */
void real_distance(const real_golden *golden, kvrt_engine a, kvrt_engine b, double *divergence, double *agreement);
/* Largest error of what is kept of any position, over the standard deviation of the logits; a NaN is infinite. */
double real_logit_error(const real_golden *golden, kvrt_engine engine);
/* Generates behind n ids and wants the tokens of `text`; the end token itself may be missing. */
void real_text(kvrt_engine engine, const int32_t *ids, uint32_t n, const real_list *text);
#endif
