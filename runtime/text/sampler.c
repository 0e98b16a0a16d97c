/* sampler.c - see sampler.h. Probabilities are taken relative to the best logit in double, so that no temperature
 * overflows. */
#include "sampler.h"
#define VB 16
#include "../base/simd.h"

#include <math.h>
#include <string.h>

typedef struct kvi_candidate {
    float logit;
    int32_t id;
} candidate;

/* ------------------------------------------------------------------------------------------------------ random --- */
static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

/* xoshiro256** (Blackman, Vigna), public domain. */
static uint64_t next_random(uint64_t s[4])
{
    uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

/* In [0, 1), 53 bits. */
static double uniform(uint64_t s[4]) { return (double)(next_random(s) >> 11) * 0x1p-53; }

void kvi_random_seed(kvi_random *random, uint64_t seed)
{
    for (int i = 0; i < 4; i++) { /* splitmix64, as xoshiro's authors advise */
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = seed;
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        random->state[i] = z ^ z >> 31;
    }
}

/* -------------------------------------------------------------------------------------------------------- init --- */
kvi_sampler_params kvi_sampler_defaults(void) { return (kvi_sampler_params){.top_p = 1, .repeat_penalty = 1}; }

static const char *bad_param(const kvi_sampler_params *p)
{
    if (!(p->temperature >= 0 && p->temperature <= 1e6f)) return "temperature is out of range, need 0 to 1000000";
    if (!(p->top_p >= 0 && p->top_p <= 1)) return "top_p is out of range, need 0 to 1";
    if (!(p->min_p >= 0 && p->min_p <= 1)) return "min_p is out of range, need 0 to 1";
    if (!(p->repeat_penalty > 0 && isfinite(p->repeat_penalty)))
        return "repeat_penalty is out of range, need a positive number";
    if (!isfinite(p->frequency_penalty)) return "frequency_penalty is not a finite number";
    if (!isfinite(p->presence_penalty)) return "presence_penalty is not a finite number";
    return NULL;
}

kvrt_status kvi_sampler_init(kvi_sampler *sampler, const kvi_sampler_params *params, int32_t n_vocab,
                             kvi_random *random, kvrt_error *error)
{
    memset(sampler, 0, sizeof *sampler);
    const char *bad = bad_param(params);
    if (bad) return kvi_error_set(error, KVRT_ARG, "sampling: %s", bad);
    if (n_vocab <= 0) return kvi_error_set(error, KVRT_ARG, "sampling: vocabulary of %d tokens", (int)n_vocab);
    for (uint32_t i = 0; i < params->n_bias; i++) {
        const kvi_logit_bias *b = &params->bias[i];
        if (b->id < 0 || b->id >= n_vocab)
            return kvi_error_set(error, KVRT_ARG, "sampling: logit bias of token %d, need 0 to %d", (int)b->id,
                                 (int)n_vocab - 1);
        if (isnan(b->bias) || (isinf(b->bias) && b->bias > 0))
            return kvi_error_set(error, KVRT_ARG, "sampling: logit bias of token %d is not a finite number",
                                 (int)b->id);
    }
    sampler->params = *params;
    sampler->params.bias = NULL;
    sampler->n_vocab = n_vocab;
    sampler->random = random;
    sampler->candidates = kvi_mem_zalloc((size_t)n_vocab, sizeof *sampler->candidates);
    sampler->counts = kvi_mem_zalloc((size_t)n_vocab, sizeof *sampler->counts);
    sampler->bias = kvi_mem_zalloc(params->n_bias, sizeof *sampler->bias);
    if (!sampler->candidates || !sampler->counts || !sampler->bias) {
        kvi_sampler_free(sampler);
        return kvi_error_nomem(error, (uint64_t)n_vocab * sizeof(candidate), "sampler");
    }
    if (params->n_bias) memcpy(sampler->bias, params->bias, params->n_bias * sizeof *params->bias);
    return KVRT_OK;
}

uint64_t kvi_sampler_bytes(int32_t n_vocab)
{
    return (uint64_t)n_vocab * (sizeof(candidate) + sizeof *((kvi_sampler *)0)->counts);
}

void kvi_sampler_free(kvi_sampler *sampler)
{
    kvi_mem_free(sampler->candidates);
    kvi_mem_free(sampler->counts);
    kvi_mem_free(sampler->bias);
    memset(sampler, 0, sizeof *sampler);
}

/* ----------------------------------------------------------------------------------------- penalties and bias --- */
static void apply_penalties(kvi_sampler *s, float *logits, const int32_t *recent, size_t n_recent)
{
    const kvi_sampler_params *p = &s->params;
    if (p->repeat_penalty == 1 && p->frequency_penalty == 0 && p->presence_penalty == 0) return;
    if (n_recent > p->repeat_last) {
        recent += n_recent - p->repeat_last;
        n_recent = p->repeat_last;
    }
    for (size_t i = 0; i < n_recent; i++)
        if (recent[i] >= 0 && recent[i] < s->n_vocab) s->counts[recent[i]]++;
    for (size_t i = 0; i < n_recent; i++) {
        if (recent[i] < 0 || recent[i] >= s->n_vocab || s->counts[recent[i]] == 0) continue;
        float *logit = &logits[recent[i]];
        *logit = *logit > 0 ? *logit / p->repeat_penalty : *logit * p->repeat_penalty;
        *logit -= (float)s->counts[recent[i]] * p->frequency_penalty + p->presence_penalty;
        s->counts[recent[i]] = 0;
    }
}

/* Logits are looked at by the run, in lanes that a compiler makes vectors of: nearly all runs have nothing in them that is wanted. */
enum { RUN = 64, LANES = 16 };

/* The largest of a run of n; *bad: one is NaN or +infinity. */
static float most_of(const float *logits, int32_t n, bool *bad)
{
    float most[LANES];
    int wrong[LANES] = {0};
    int32_t i = 0;
    for (int j = 0; j < LANES; j++) most[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            const float x = logits[i + j];
            most[j] = x > most[j] ? x : most[j];
            wrong[j] |= !(x < INFINITY);
        }
    for (; i < n; i++) {
        most[0] = logits[i] > most[0] ? logits[i] : most[0];
        wrong[0] |= !(logits[i] < INFINITY);
    }
    for (int j = 1; j < LANES; j++) {
        most[0] = most[j] > most[0] ? most[j] : most[0];
        wrong[0] |= wrong[j];
    }
    *bad = wrong[0];
    return most[0];
}

/* Highest logit, lowest id among equals; an error when a logit is no number or none is left. */
static kvrt_status find_best(const kvi_sampler *s, const float *logits, int32_t *best, kvrt_error *error)
{
    float top = -INFINITY;
    *best = 0;
    for (int32_t from = 0, n; from < s->n_vocab; from += n) {
        bool bad;
        n = s->n_vocab - from < RUN ? s->n_vocab - from : RUN;
        const float most = most_of(logits + from, n, &bad);
        int32_t id = from;
        if (bad) {
            while (logits[id] < INFINITY) id++;
            return kvi_error_set(error, KVRT_ARG, "sampling: logit of token %d is %s", (int)id,
                                 isnan(logits[id]) ? "NaN" : "+infinity");
        }
        if (!(most > top)) continue;
        while (logits[id] < most) id++;
        *best = id;
        top = most;
    }
    if (isinf(logits[*best]))
        return kvi_error_set(error, KVRT_ARG, "sampling: no token is left, all logits are -infinity");
    return KVRT_OK;
}

/* e^x for x <= 0, relative error below 2e-7, at least e^-87: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes coefficients). */
static vf exp_below(vf x)
{
    const vf low = splat(-87.0f), magic = splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer n in the low bits */
    const vi dead = x < low;
    x = (vf)(((vi)x & ~dead) | ((vi)low & dead));
    vf t = x * 1.44269504088896341f + magic;
    const vf power = (vf)(((vu)t << 23) + (127u << 23));
    t -= magic;
    const vf r = t * 2.12194440e-4f + (t * -0.693359375f + x);
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * power;
}

float kvi_log_probability(const float *logits, int32_t n_vocab, int32_t token)
{
    float top = -INFINITY;
    double sum = 0;
    for (int32_t from = 0, n; from < n_vocab; from += n) {
        bool bad;
        n = n_vocab - from < RUN ? n_vocab - from : RUN;
        const float most = most_of(logits + from, n, &bad);
        top = most > top ? most : top;
    }
    int32_t id = 0;
    for (; id + RUN <= n_vocab; id += RUN) { /* a run in f32, all of them in double */
        vf part = {0};
        for (int32_t i = 0; i < RUN; i += (int32_t)VW) part += exp_below(load(logits + id + i) - splat(top));
        sum += ((double)part[0] + (double)part[1]) + ((double)part[2] + (double)part[3]);
    }
    for (; id < n_vocab; id++) sum += exp((double)logits[id] - (double)top);
    return (float)((double)logits[token] - (double)top - log(sum));
}

int32_t kvi_likeliest(const float *logits, int32_t n_vocab, int32_t n, int32_t *ids, float *log_probabilities)
{
    int32_t found = 0;
    if (n > n_vocab) n = n_vocab;
    for (int32_t id = 0; id < n_vocab && n > 0; id++) {
        if (found == n && !(logits[id] > logits[ids[n - 1]])) continue;
        int32_t at = found < n ? found++ : n - 1;
        for (; at > 0 && logits[id] > logits[ids[at - 1]]; at--) ids[at] = ids[at - 1];
        ids[at] = id;
    }
    if (found == 0) return 0;
    const float best = kvi_log_probability(logits, n_vocab, ids[0]);
    for (int32_t i = 0; i < found; i++) log_probabilities[i] = best + (logits[ids[i]] - logits[ids[0]]);
    return found;
}

/* -------------------------------------------------------------------------------------------------- truncation --- */
/* More likely; of equals, the lower id. */
static bool better(candidate a, candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

/* Heap of n with the root best (sign 1) or worst (sign -1). */
static void sift_down(candidate *heap, size_t n, size_t i, int sign)
{
    candidate item = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && (sign > 0 ? better(heap[child + 1], heap[child]) : better(heap[child], heap[child + 1])))
            child++;
        if (sign > 0 ? !better(heap[child], item) : !better(item, heap[child])) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = item;
}

static void heapify(candidate *heap, size_t n, int sign)
{
    for (size_t i = n / 2; i-- > 0;) sift_down(heap, n, i, sign);
}

/* The k best of n logits, best first. Ids come in order, so that of equals those that are there stay. */
static void find_top_k(const float *logits, int32_t n, size_t k, candidate *c)
{
    for (size_t i = 0; i < k; i++) c[i] = (candidate){.logit = logits[i], .id = (int32_t)i};
    heapify(c, k, -1);
    for (int32_t from = (int32_t)k, len; from < n; from += len) {
        bool bad;
        len = n - from < RUN ? n - from : RUN;
        if (!(most_of(logits + from, len, &bad) > c[0].logit)) continue;
        for (int32_t id = from; id < from + len; id++) {
            if (!(logits[id] > c[0].logit)) continue;
            c[0] = (candidate){.logit = logits[id], .id = id};
            sift_down(c, k, 0, -1);
        }
    }
    for (size_t left = k; left > 1; left--) { /* the worst goes to the end */
        candidate worst = c[0];
        c[0] = c[left - 1];
        c[left - 1] = worst;
        sift_down(c, left - 1, 0, -1);
    }
}

typedef struct mass {
    double top, inverse_temperature;
} mass;
static double weight(const mass *m, candidate c) { return exp(((double)c.logit - m->top) * m->inverse_temperature); }

/* Keeps the best of n (a heap when `heaped`, else sorted) up to a share top_p of their mass, and of these the ones not
 * below min_p times the best. Returns how many; they stand at *kept, best first. */
static size_t keep_mass(const kvi_sampler_params *p, const mass *m, candidate *c, size_t n, bool heaped,
                        candidate **kept)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < n && p->top_p < 1; i++) total += weight(m, c[i]);
    double wanted = total * (double)p->top_p;
    size_t count = 0;
    if (heaped) heapify(c, n, 1);
    while (count < n) {
        candidate best = heaped ? c[0] : c[count];
        double w = weight(m, best);
        if (count > 0 && (w < (double)p->min_p || w == 0)) break;
        if (heaped) { /* from the heap's root to the end, so that the kept ones stand there in reverse */
            c[0] = c[n - 1 - count];
            c[n - 1 - count] = best;
            sift_down(c, n - 1 - count, 0, 1);
        }
        count++;
        sum += w;
        if (p->top_p < 1 && sum >= wanted) break;
    }
    *kept = heaped ? c + n - count : c;
    for (size_t i = 0; heaped && i < count / 2; i++) {
        candidate swap = (*kept)[i];
        (*kept)[i] = (*kept)[count - 1 - i];
        (*kept)[count - 1 - i] = swap;
    }
    return count;
}

static int32_t draw(kvi_sampler *s, const mass *m, const candidate *c, size_t n)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) total += weight(m, c[i]);
    double target = uniform(s->random->state) * total;
    int32_t last = c[0].id;
    for (size_t i = 0; i < n; i++) {
        double w = weight(m, c[i]);
        if (w > 0) last = c[i].id; /* rounding may leave the target a hair above the sum: then the last possible one */
        sum += w;
        if (sum > target) return c[i].id;
    }
    return last;
}

static int32_t sample(kvi_sampler *s, const float *logits, int32_t best)
{
    const kvi_sampler_params *p = &s->params;
    mass m = {.top = logits[best], .inverse_temperature = 1 / (double)p->temperature};
    candidate *c = s->candidates;
    size_t n = 0;
    const bool sorted = p->top_k > 0 && p->top_k < (uint32_t)s->n_vocab;
    /* min-p without top-k and top-p needs no order: one comparison with the best decides for each token. */
    const bool filter = !sorted && p->top_p >= 1 && p->min_p > 0;
    if (sorted) find_top_k(logits, s->n_vocab, n = p->top_k, c);
    for (int32_t id = 0; !sorted && id < s->n_vocab; id++) {
        candidate one = {.logit = logits[id], .id = id};
        if (!filter || id == best || !(weight(&m, one) < (double)p->min_p)) c[n++] = one;
    }
    if (!filter && (p->top_p < 1 || p->min_p > 0)) n = keep_mass(p, &m, c, n, !sorted, &c);
    return draw(s, &m, c, n);
}

kvrt_status kvi_sampler_sample(kvi_sampler *s, float *logits, const int32_t *recent, size_t n_recent, int32_t *token,
                               kvrt_error *error)
{
    apply_penalties(s, logits, recent, n_recent);
    for (uint32_t i = 0; i < s->params.n_bias; i++) logits[s->bias[i].id] += s->bias[i].bias;
    int32_t best;
    KVI_TRY(find_best(s, logits, &best, error));
    *token = s->params.temperature > 0 ? sample(s, logits, best) : best;
    return KVRT_OK;
}

/* ---------------------------------------------------------------------------------------------- from the best --- */
bool kvi_sampler_takes_best(const kvi_sampler *s)
{
    const kvi_sampler_params *p = &s->params;
    return p->repeat_penalty == 1 && p->frequency_penalty == 0 && p->presence_penalty == 0 && p->n_bias == 0;
}

/* Puts what truncation leaves into the candidates, in the order of sample(); 0: more than the n best may be left. */
static size_t keep_best(kvi_sampler *s, const mass *m, const float *logits, const int32_t *ids, uint32_t n,
                        candidate **kept)
{
    const kvi_sampler_params *p = &s->params;
    const bool all = n == (uint32_t)s->n_vocab;
    candidate *c = *kept = s->candidates;
    size_t count = 0;
    if (p->top_k > 0 && p->top_k < (uint32_t)s->n_vocab) {
        if (p->top_k > n) return 0;
        for (; count < p->top_k; count++) c[count] = (candidate){logits[count], ids[count]};
        return p->top_p < 1 || p->min_p > 0 ? keep_mass(p, m, c, count, false, kept) : count;
    }
    if (p->top_p < 1 || !(p->min_p > 0)) return 0; /* needs the mass at this temperature, or every token */
    while (count < n && (count == 0 || !(weight(m, (candidate){logits[count], ids[count]}) < (double)p->min_p))) {
        size_t at = count++; /* by id, as the filter leaves them */
        for (; at > 0 && c[at - 1].id > ids[count - 1]; at--) c[at] = c[at - 1];
        c[at] = (candidate){logits[count - 1], ids[count - 1]};
    }
    return count < n || all ? count : 0;
}

bool kvi_sampler_from_best(kvi_sampler *s, const float *logits, const int32_t *ids, uint32_t n, float sum,
                           int32_t *token, float *logprob)
{
    if (n == 0 || !isfinite(logits[0])) return false;
    const mass m = {.top = logits[0], .inverse_temperature = 1 / (double)s->params.temperature};
    candidate one = {logits[0], ids[0]}, *kept = &one;
    const bool greedy = !(s->params.temperature > 0);
    const size_t count = greedy ? 1 : keep_best(s, &m, logits, ids, n, &kept);
    if (count == 0) return false;
    *token = greedy ? ids[0] : draw(s, &m, kept, count);
    for (uint32_t i = 0; logprob && i < n; i++)
        if (ids[i] == *token) *logprob = (float)((double)logits[i] - (double)logits[0] - log((double)sum));
    return true;
}
