/* golden_model.h - a golden folder of test/golden/models: prompts, reference logits, greedy continuations, and the engine that must match. */
#ifndef GOLDEN_MODEL_H
#define GOLDEN_MODEL_H
#include "../../runtime/kvrt.h"
#include <stdbool.h>

#define GOLDEN_MAX_PROMPTS 8
typedef struct golden_prompt {
    int32_t ids[512], greedy[64];
    uint32_t rows[64];
    double margin[64];
    uint32_t n, n_rows, n_greedy;
    const float *logits; /* (n_rows, vocab) */
} golden_prompt;
typedef struct golden_model {
    char dir[512];
    uint32_t vocab, n_prompts;
    double std;
    float *blob;
    golden_prompt prompts[GOLDEN_MAX_PROMPTS];
} golden_model;

/* Names of all golden models; NULL past the end. */
const char *golden_name(unsigned index);
bool golden_load(const char *name, golden_model *out);
void golden_free(golden_model *model);

/* Opens with key/value pairs, NULL-terminated. Fails the test on an error. */
kvrt_engine golden_open(const golden_model *model, const char *const *pairs);
/* Largest error of the logits of all rows over all prompts, infinity when one is NaN. `digest` (may be NULL) collects every bit. */
double golden_logit_error(kvrt_engine engine, const golden_model *model, uint64_t *digest);
/* Greedy text of every prompt as far as the golden margins exceed twice `error`, the engine's own (golden_logit_error). The engine was opened with
 * sample.temperature 0, gen.max_tokens 16, gen.ignore_eos. Fails the test on another token; returns how many were compared. */
unsigned golden_greedy(kvrt_engine engine, const golden_model *model, double error);
#endif
