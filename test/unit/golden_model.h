/* golden_model.h - a golden folder of test/golden/models: prompts, reference logits, greedy continuations, and the engine that must match. */
#ifndef GOLDEN_MODEL_H
#define GOLDEN_MODEL_H
#include "../../runtime/kvrt.h"
#include <stdbool.h>

/* Named tolerances, times max(1, s) with s the standard deviation of the golden logits. A failing kernel is fixed, not these. */
#define GOLDEN_F32_CACHE 2e-4
#define GOLDEN_F16_CACHE 2e-2
#define GOLDEN_QUANTIZED 1.5 /* random models suffer from every bit; what is wrong is further off */

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

/* Hidden states of models that have a hidden.bin (make_golden_hidden.py): (GOLDEN_HIDDEN_TOKENS + 4, *width), of every token of the prompt of so many;
 * then mean and last of those of 130 and of 300. To be freed. */
#define GOLDEN_HIDDEN_TOKENS 17u
float *golden_hidden(const golden_model *model, uint32_t *width);
const golden_prompt *golden_prompt_of(const golden_model *model, uint32_t n);
/* Key/value pairs: all weights as `form` ("i8", "auto"), multiplied exactly where they are no integers. */
#define GOLDEN_WEIGHTS(form)                                                                                           \
    "cpu.exact", *(form) == 'i' ? "false" : "true", "weights.type", form, "weights.head", form, "weights.embed", form
/* Opens with key/value pairs, NULL-terminated. Fails the test on an error. */
kvrt_engine golden_open(const golden_model *model, const char *const *pairs);
/* The same with storyteller-tiny of examples/models, a model that speaks. */
kvrt_engine golden_open_tiny(const char *const *pairs);
/* Options of a call, of key/value pairs; the caller's. Fails the test on an error. */
kvrt_options *golden_options(const char *const *pairs);
/* Opens with key/value pairs alone, model.path among them, NULL-terminated; the status of kvrt_engine_open. */
kvrt_status golden_try_open(const char *const *pairs, kvrt_engine *out, kvrt_error *error);
/* A session with the engine's options, what it and the engine's memory say of themselves. Fail the test on an error. */
kvrt_session golden_session(kvrt_engine engine);
kvrt_session_info golden_session_info(kvrt_session session);
kvrt_memory golden_memory(kvrt_engine engine);
/* The same, that has read n <= 600 tokens of one of many stories. */
kvrt_session golden_session_with(kvrt_engine engine, uint32_t story, uint32_t n);
/* Into the digest goes every token, with every bit of its probability. */
void golden_note(const kvrt_event *event, uint64_t *digest);
/* Generates with these options, which it destroys; a digest of what came. Fails the test on an error. */
uint64_t golden_generate(kvrt_session session, kvrt_options *options);
/* The limit under which the pool has just so many bytes, of an engine whose pool is not above what it was opened with. */
uint64_t golden_limit_for(kvrt_engine engine, uint64_t pool);
/* Largest error of the logits of all rows over all prompts, infinity when one is NaN. `digest` (may be NULL) collects every bit. */
double golden_logit_error(kvrt_engine engine, const golden_model *model, uint64_t *digest);
/* The same but for the worst `part` of the rows. */
double golden_row_error(kvrt_engine engine, const golden_model *model, double part, uint64_t *digest);
/* Greedy text of every prompt as far as the golden margins exceed twice `error`, the engine's own (golden_logit_error). The engine was opened with
 * sample.temperature 0, gen.max_tokens 16, gen.ignore_eos. Fails the test on another token; returns how many were compared. */
unsigned golden_greedy(kvrt_engine engine, const golden_model *model, double error);

/* The largest error that a tolerance allows. */
double golden_limit(const golden_model *model, double tolerance);

/* What every golden must do, by name; each fails the test and says what it found.
 * The logits come out with these options within the tolerance. */
void golden_expect(const char *name, double tolerance, const char *const *pairs, uint64_t *digest);
/* Chunks of 1, 7, 64 and 512 change the cut of the work, not the result; threads, and a second run, not even a bit. */
void golden_expect_chunks_and_threads(const char *name);
void golden_expect_greedy(const char *name);
/* A golden that still passes with a part missing proves nothing about that part. */
void golden_expect_failure_without(const char *name, const char *part);
/* The rotation must cancel exactly: on and off are the same computation up to rounding. */
void golden_expect_rotation_cancels(const char *name);
#endif
