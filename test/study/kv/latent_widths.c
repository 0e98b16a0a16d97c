/* latent_widths.c - which widths a cache of latents (MLA) bears, on made-up latents with the statistics of trained ones, since no model of that kind is
 * at hand: latents behind an RMSNorm with log-normal gains and a few large channels, topics that last some tokens, roped keys around a large constant
 * part, queries that look for one position and its likes.
 *     cc -O2 -I. -o latent_widths test/study/kv/latent_widths.c build/libkvrt_internal_{kv,base}.a -lm && ./latent_widths
 * Prints for formats of (latent, roped key) the relative error of attention's results and the KL divergence of its probabilities against f32, over
 * 16 heads and 64 queries. Random W_K and W_V: real ones may see some channels more than others. */
#include "runtime/kv/encode.h"
#include "runtime/kv/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RANK = 512,
    ROPE = 64,
    KEY = 128,
    VALUE = 128,
    HEADS = 16,
    PAGES = 8,
    N = PAGES * 128,
    QUERIES = 64,
    TOPICS = 24
};

static uint64_t seed = 1;
static double uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((double)(seed >> 33) + 0.5) / 2147483648.0;
}
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

static float latent[N][RANK], roped[N][ROPE], w_k[HEADS][KEY][RANK], w_v[HEADS][VALUE][RANK];
static double q[QUERIES][HEADS][RANK], q_rope[QUERIES][HEADS][ROPE]; /* absorbed, scaled */

static void rotate(float *x, uint32_t n) /* orthonormal Hadamard */
{
    for (uint32_t h = 1; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            for (uint32_t j = i; j < i + h; j++) {
                const float a = x[j], b = x[j + h];
                x[j] = a + b, x[j + h] = a - b;
            }
    for (uint32_t i = 0; i < n; i++) x[i] /= sqrtf((float)n);
}

static void make(void)
{
    static double topic[TOPICS][RANK], weight[TOPICS], gain[RANK];
    for (int i = 0; i < RANK; i++) gain[i] = exp(0.6 * normal()) * (i % 113 == 5 ? 8 : 1);
    for (int k = 0; k < TOPICS; k++)
        for (int i = 0; i < RANK; i++) topic[k][i] = normal();
    for (int t = 0; t < N; t++) {
        double squares = 0, x[RANK];
        for (int k = 0; k < TOPICS; k++) weight[k] = 0.9 * weight[k] + 0.3 * normal();
        for (int i = 0; i < RANK; i++) {
            x[i] = normal();
            for (int k = 0; k < TOPICS; k++) x[i] += weight[k] * topic[k][i];
            squares += x[i] * x[i];
        }
        for (int i = 0; i < RANK; i++) latent[t][i] = (float)(x[i] / sqrt(squares / RANK) * gain[i]);
        for (int i = 0; i < ROPE; i++) {
            const double turn = t * pow(10000, -2.0 * (i / 2) / ROPE);
            roped[t][i] = (float)(3 * (i % 2 ? sin(turn) : cos(turn)) + normal());
        }
    }
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < RANK; i++) {
            for (int d = 0; d < KEY; d++) w_k[h][d][i] = (float)(normal() / sqrt(RANK));
            for (int d = 0; d < VALUE; d++) w_v[h][d][i] = (float)(normal() / sqrt(RANK));
        }
    for (int j = 0; j < QUERIES; j++)
        for (int h = 0; h < HEADS; h++) {
            const int at = (int)(uniform() * N);
            double own[KEY], size = 0;
            for (int d = 0; d < KEY; d++) {
                own[d] = 0;
                for (int i = 0; i < RANK; i++) own[d] += (double)w_k[h][d][i] * (double)latent[at][i];
                size += own[d] * own[d];
            }
            for (int d = 0; d < KEY; d++) own[d] = 7 * own[d] / size * sqrt(KEY + ROPE) * (1 + 0.2 * normal());
            for (int i = 0; i < RANK; i++) {
                q[j][h][i] = 0;
                for (int d = 0; d < KEY; d++) q[j][h][i] += own[d] * (double)w_k[h][d][i] / sqrt(KEY + ROPE);
            }
            for (int i = 0; i < ROPE; i++) q_rope[j][h][i] = 0.08 * ((double)roped[at][i] + normal());
        }
}

/* p (N) and the result (VALUE) of a query and head. */
static void attend(float (*c)[RANK], float (*k)[ROPE], int j, int h, double *p, double *out)
{
    double top = -INFINITY, sum = 0, mixed[RANK] = {0};
    for (int t = 0; t < N; t++) {
        p[t] = 0;
        for (int i = 0; i < RANK; i++) p[t] += q[j][h][i] * (double)c[t][i];
        for (int i = 0; i < ROPE; i++) p[t] += q_rope[j][h][i] * (double)k[t][i];
        top = fmax(top, p[t]);
    }
    for (int t = 0; t < N; t++) sum += p[t] = exp(p[t] - top);
    for (int t = 0; t < N; t++) {
        p[t] /= sum;
        for (int i = 0; i < RANK; i++) mixed[i] += p[t] * (double)c[t][i];
    }
    for (int d = 0; d < VALUE; d++) {
        out[d] = 0;
        for (int i = 0; i < RANK; i++) out[d] += (double)w_v[h][d][i] * mixed[i];
    }
}

static void store(kvi_kv_code code, bool is_v, uint32_t d, float *rows, float *scratch, uint8_t *side)
{
    const kvi_encode_params params = {KVI_VARNORM_KVRT, KVI_RANGE_UNBIASED};
    if (kvi_kv_code_is_plain(code)) {
        for (uint32_t i = 0; i < 128 * d; i++)
            rows[i] = code == KVI_KV_F16 ? kvi_f16_to_f32(kvi_f32_to_f16(rows[i])) : rows[i];
        return;
    }
    for (uint32_t t = 0; t < 128; t++) rotate(rows + t * d, d);
    if (is_v) kvi_kv_encode_v(code, rows, d, &params, scratch, side);
    else kvi_kv_encode_k(code, rows, d, &params, scratch, side);
    kvi_kv_decode_rows(side, code, is_v, d, rows);
    for (uint32_t t = 0; t < 128; t++) rotate(rows + t * d, d);
}

int main(void)
{
    static const char *const formats[] = {"f16", "i8", "k8v4", "k4v16", "k4v8", "k4v4", "k3v3", "k4v2", "k2v2"};
    static float c[N][RANK], k[N][ROPE];
    float *scratch = malloc(kvi_kv_encode_scratch(RANK) * sizeof *scratch);
    uint8_t *side = malloc(1 << 20);
    if (!scratch || !side) return 1;
    make();
    double largest = 0;
    printf("format  bits/number  error of results  KL of probabilities (mean, 99%%)\n");
    for (unsigned f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        kvi_kv_format format = 0;
        static double kls[QUERIES * HEADS], p[N], exact_p[N];
        double error = 0, all = 0, mean = 0, out[VALUE], exact[VALUE];
        if (!kvi_kv_format_parse(formats[f], strlen(formats[f]), &format)) return 1;
        memcpy(c, latent, sizeof c), memcpy(k, roped, sizeof k);
        for (int page = 0; page < PAGES; page++) {
            store(KVI_KV_K_CODE(format), false, RANK, c[page * 128], scratch, side);
            store(KVI_KV_V_CODE(format), true, ROPE, k[page * 128], scratch, side);
        }
        largest = 0;
        for (int j = 0; j < QUERIES; j++)
            for (int h = 0; h < HEADS; h++) {
                double kl = 0, top = 0;
                attend(latent, roped, j, h, exact_p, exact);
                attend(c, k, j, h, p, out);
                for (int t = 0; t < N; t++) {
                    if (exact_p[t] > 0) kl += exact_p[t] * log(exact_p[t] / p[t]);
                    top = fmax(top, exact_p[t]);
                }
                largest += top / (QUERIES * HEADS);
                mean += kl / (QUERIES * HEADS);
                uint32_t at = (uint32_t)(j * HEADS + h);
                for (; at > 0 && kls[at - 1] < kl; at--) kls[at] = kls[at - 1]; /* largest first */
                kls[at] = kl;
                for (int d = 0; d < VALUE; d++) error += pow(out[d] - exact[d], 2), all += exact[d] * exact[d];
            }
        const double bits = 8.0 *
                            (double)(kvi_kv_k_side(KVI_KV_K_CODE(format), RANK).bytes +
                                     kvi_kv_v_side(KVI_KV_V_CODE(format), ROPE).bytes) /
                            (128 * (RANK + ROPE));
        printf("%-6s  %8.2f  %14.2e  %14.2e %10.2e\n", formats[f], bits, sqrt(error / all), mean,
               kls[QUERIES * HEADS / 100]);
    }
    printf("largest probability, mean: %.2f\n", largest);
    free(scratch), free(side);
    return 0;
}
