/* pace.c - see pace.h. */
#include "pace.h"

#include <string.h>

uint64_t kvi_pace_host_bytes(uint32_t n_ops) { return 2 * (n_ops + 1u) * sizeof(kvi_cost); }

kvrt_status kvi_pace_open(kvi_pace *pace, uint32_t n_ops, kvrt_error *error)
{
    *pace = (kvi_pace){.now_us = kvi_os_now_us, .n_ops = n_ops, .mode = KVRT_MODE_COMPUTE};
    kvi_mutex_init(&pace->lock);
    pace->costs = kvi_mem_zalloc(2 * (n_ops + 1u), sizeof *pace->costs);
    return pace->costs ? KVRT_OK : kvi_error_nomem(error, kvi_pace_host_bytes(n_ops), "costs of operations");
}

void kvi_pace_close(kvi_pace *pace)
{
    if (pace->now_us) kvi_mutex_destroy(&pace->lock);
    kvi_mem_free(pace->costs);
    memset(pace, 0, sizeof *pace);
}

/* ---------------------------------------------------------------------------------------------------------- costs --- */
static kvi_cost *cost_of(const kvi_pace *pace, bool wide, uint32_t op)
{
    return &pace->costs[(wide ? pace->n_ops + 1u : 0u) + op];
}

static float expect(const kvi_cost *cost) { return cost->mean_us + 2 * cost->spread_us; }

uint64_t kvi_pace_expect(const kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows)
{
    const float us = expect(cost_of(pace, wide, op));
    return (uint64_t)(wide ? us * (float)n_rows : us);
}

static uint32_t rounds_of(float one, uint64_t us)
{
    const float n = (float)us / 2 / one;
    return !(one > 0) || n < 1 ? 1 : n > 65536 ? 65536 : (uint32_t)n;
}

uint32_t kvi_pace_rounds(const kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows, uint64_t us)
{
    return rounds_of(expect(cost_of(pace, wide, op)) * (wide ? (float)n_rows : 1.0f), us);
}

/* As round-trip times are followed: a mean and a mean deviation, a quarter of the way each time. */
static void learn(kvi_cost *cost, float us)
{
    const float off = us - cost->mean_us;
    if (cost->mean_us == 0) {
        cost->mean_us = us;
        return;
    }
    cost->mean_us += off / 4;
    cost->spread_us += ((off < 0 ? -off : off) - cost->spread_us) / 4;
}

/* Less than the clock's unit is not nothing, which would mean that it is not known. */
static float of_round(uint32_t n_rounds, uint64_t elapsed_us)
{
    return (elapsed_us ? (float)elapsed_us : 0.5f) / (float)n_rounds;
}

void kvi_pace_learn(kvi_pace *pace, bool wide, uint32_t op, uint32_t n_rows, uint32_t n_rounds, uint64_t elapsed_us)
{
    learn(cost_of(pace, wide, op), of_round(n_rounds, elapsed_us) / (wide ? (float)n_rows : 1.0f));
}

uint64_t kvi_pace_expect_encode(const kvi_pace *pace) { return (uint64_t)expect(&pace->encode); }
uint32_t kvi_pace_encode_rounds(const kvi_pace *pace, uint64_t us) { return rounds_of(expect(&pace->encode), us); }
void kvi_pace_learn_encode(kvi_pace *pace, uint32_t n_rounds, uint64_t elapsed_us)
{
    learn(&pace->encode, of_round(n_rounds, elapsed_us));
}

uint64_t kvi_pace_expect_piece(const kvi_pace *pace) { return (uint64_t)expect(&pace->piece); }
void kvi_pace_learn_piece(kvi_pace *pace, uint64_t elapsed_us) { learn(&pace->piece, (float)elapsed_us); }

uint32_t kvi_pace_rows(const kvi_pace *pace, uint64_t us, uint32_t unknown)
{
    float longest = 0;
    for (uint32_t op = 0; op < pace->n_ops; op++) {
        const float one = expect(cost_of(pace, true, op));
        if (one > longest) longest = one;
    }
    if (longest <= 0) return unknown;
    const float rows = (float)us / longest;
    return rows < 1 ? 1 : rows > 65536 ? 65536 : (uint32_t)rows;
}

/* --------------------------------------------------------------------------------------------------------- limits --- */
static double duty_of(const kvi_pace *pace)
{
    if (pace->duty > 0) return pace->duty;
    return pace->mode == KVRT_MODE_GRAPHICS ? 0.5 : pace->mode == KVRT_MODE_BALANCED ? 0.9 : 1;
}

void kvi_pace_limit(kvi_pace *pace, double tokens_per_second, double duty, int32_t mode)
{
    kvi_mutex_lock(&pace->lock);
    pace->tokens_per_second = tokens_per_second;
    pace->duty = duty;
    if (mode) pace->mode = mode;
    kvi_mutex_unlock(&pace->lock);
}

uint64_t kvi_pace_rests(kvi_pace *pace, bool narrow)
{
    const uint64_t now = pace->now_us();
    uint64_t until = pace->rest_until_us;
    if (narrow && pace->next_token_us > until) until = pace->next_token_us;
    return until > now ? until : 0;
}

void kvi_pace_worked(kvi_pace *pace, uint64_t busy_us, uint32_t n_tokens)
{
    const uint64_t now = pace->now_us();
    kvi_mutex_lock(&pace->lock);
    const double duty = duty_of(pace), rate = pace->tokens_per_second;
    kvi_mutex_unlock(&pace->lock);
    pace->rest_until_us = duty < 1 ? now + (uint64_t)((double)busy_us * (1 - duty) / duty) : 0;
    if (rate <= 0) {
        pace->next_token_us = 0;
    } else if (n_tokens) {
        /* What was not used is not saved up, but for one token. */
        const uint64_t one = (uint64_t)(1e6 / rate), from = pace->next_token_us + one > now ? pace->next_token_us : now;
        pace->next_token_us = from + (uint64_t)(n_tokens * 1e6 / rate);
    }
}

bool kvi_pace_limits_tokens(kvi_pace *pace)
{
    kvi_mutex_lock(&pace->lock);
    const bool limits = pace->tokens_per_second > 0;
    kvi_mutex_unlock(&pace->lock);
    return limits;
}

uint64_t kvi_pace_turn_us(kvi_pace *pace)
{
    kvi_mutex_lock(&pace->lock);
    const int32_t mode = pace->mode;
    kvi_mutex_unlock(&pace->lock);
    return mode == KVRT_MODE_GRAPHICS ? 1000 : mode == KVRT_MODE_BALANCED ? 4000 : 20000;
}
