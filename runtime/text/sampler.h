/* sampler.h - logits to one token. Order: penalties and bias, temperature, top-k, top-p, min-p, draw.
 * Owns: its scratch, so that a call allocates nothing; random numbers come from a stream of the caller's. Refuses: NaN and +infinite logits, all
 * logits at -infinity. To know: temperature 0 is greedy and exact: the highest logit after penalties and bias, lowest
 * id among equals; no random number is drawn. Probabilities are doubles. Same seed, same logits, same binary: same
 * tokens. */
#ifndef KVI_SAMPLER_H
#define KVI_SAMPLER_H
#include <stdbool.h>
#include "../base/mem.h"
#include "../base/status.h"

typedef struct kvi_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY bans the token */
} kvi_logit_bias;

typedef struct kvi_sampler_params {
    float temperature;          /* 0: greedy */
    uint32_t top_k;             /* 0: all */
    float top_p;                /* 1: all */
    float min_p;                /* 0: none dropped */
    float repeat_penalty;       /* 1: off; positive logits are divided, negative ones multiplied */
    float frequency_penalty;    /* 0: off; times occurrences, subtracted */
    float presence_penalty;     /* 0: off; subtracted once */
    uint32_t repeat_last;       /* newest tokens the penalties look at */
    const kvi_logit_bias *bias; // (n_bias), copied by init
    uint32_t n_bias;
} kvi_sampler_params;
/* Everything off, temperature 0. */
kvi_sampler_params kvi_sampler_defaults(void);

/* A stream of random numbers, xoshiro256**. It belongs to the session, not to a sampler: it goes on from one generation to the next, and is
 * part of a snapshot. */
typedef struct kvi_random {
    uint64_t state[4];
} kvi_random;
void kvi_random_seed(kvi_random *random, uint64_t seed);

typedef struct kvi_sampler {
    kvi_sampler_params params;
    kvi_random *random; /* the caller's */
    int32_t n_vocab;
    struct kvi_candidate *candidates; // (n_vocab)
    uint32_t *counts;                 // (n_vocab) zero between calls
    kvi_logit_bias *bias;             // (n_bias)
} kvi_sampler;

/* Checks the parameters (ARG names the one out of range; a bias id outside the vocabulary too) and takes the scratch
 * memory. `random` must outlive the sampler; one number is drawn per sampled token, none when greedy. */
kvrt_status kvi_sampler_init(kvi_sampler *sampler, const kvi_sampler_params *params, int32_t n_vocab,
                             kvi_random *random, kvrt_error *error);
uint64_t kvi_sampler_bytes(int32_t n_vocab); /* what one takes beside its biases */
void kvi_sampler_free(kvi_sampler *sampler);

/* Chooses a token. logits (n_vocab) are changed by penalties and bias; recent (n_recent) is the token list, newest last
 * (its last repeat_last entries count, ids outside the vocabulary do not). Errors: ARG
 * (NaN or +infinite logit, no finite logit); the random state is then as it was. */
kvrt_status kvi_sampler_sample(kvi_sampler *sampler, float *logits, const int32_t *recent, size_t n_recent,
                               int32_t *token, kvrt_error *error);
/* Natural log of a token's probability under these logits at temperature 1. */
float kvi_log_probability(const float *logits, int32_t n_vocab, int32_t token);
/* The n likeliest (at most KVI_LIKELIEST, and n_vocab), best first, with their log probabilities; of equals the lower id. Returns how many. */
#define KVI_LIKELIEST 20
int32_t kvi_likeliest(const float *logits, int32_t n_vocab, int32_t n, int32_t *ids, float *log_probabilities);

/* The same from the best logits alone (a device that finds them reads back little): `logits` and `ids` (n), best first, of
 * equals the lower id; `sum` of exp(logit - logits[0]) over the vocabulary. Whether parameters may allow it (no penalties, no
 * bias), and whether these n decide: false leaves everything as it was, and all logits are needed. The token is
 * then kvi_sampler_sample's; *logprob differs by what rounding of `sum` does. */
bool kvi_sampler_takes_best(const kvi_sampler *sampler);
bool kvi_sampler_from_best(kvi_sampler *sampler, const float *logits, const int32_t *ids, uint32_t n, float sum,
                           int32_t *token, float *logprob);

#endif
