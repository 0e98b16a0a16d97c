/* eval_report.c - what `kvrt eval` prints and draws. */
#include "eval.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static double mean(double sum, uint64_t n) { return n ? sum / (double)n : 0; }
static double percent(uint64_t part, uint64_t n) { return n ? 100.0 * (double)part / (double)n : 0; }

double eval_mean_kld(const eval *e, const eval_format *f, double *half)
{
    /* 97.5% of Student's t by degrees of freedom; beyond, nearly the normal distribution's */
    static const double t[] = {0,     12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086};
    const uint32_t n = e->n_windows, df = n - 1;
    double sum = 0, squares = 0;
    for (uint32_t w = 0; w < n; w++) sum += f->window_kld[w] / (double)e->n_tokens / n;
    for (uint32_t w = 0; w < n; w++) squares += pow(f->window_kld[w] / (double)e->n_tokens - sum, 2);
    *half = n > 1 ? (df < sizeof t / sizeof *t ? t[df] : 2.0) * sqrt(squares / df / n) : (double)NAN;
    return sum;
}

static double median_agreed(const eval *e, const eval_format *f)
{
    uint32_t sorted[EVAL_MAX_WINDOWS];
    for (uint32_t w = 0; w < e->n_windows; w++) {
        uint32_t i = w;
        for (; i > 0 && sorted[i - 1] > f->agreed[w]; i--) sorted[i] = sorted[i - 1];
        sorted[i] = f->agreed[w];
    }
    return (sorted[e->n_windows / 2] + sorted[(e->n_windows - 1) / 2]) / 2.0;
}

/* Share of right calls less the reference's, and half of its 95% interval: a call is right in both, in one of them, or in none. */
static double calls_change(const eval *e, const eval_format *f, double *half)
{
    const double n = (double)f->calls.n, gained = (double)(f->calls.right - f->calls.both) / n,
                 lost = (double)(e->reference.calls.right - f->calls.both) / n, change = gained - lost;
    *half = 1.96 * sqrt((gained + lost - change * change) / n);
    return change;
}

/* As wide as the longest name. */
static int name_width(const eval *e)
{
    size_t width = 6;
    for (unsigned k = 0; k < e->n_formats; k++)
        if (strlen(e->formats[k].kv) > width) width = strlen(e->formats[k].kv);
    return (int)width;
}

static void print_windows_table(const eval *e)
{
    if (e->n_windows > 1) {
        printf("\nmean KLD by window, with the 95%% interval of the mean\n");
        for (unsigned k = 0; k < e->n_formats; k++) {
            const eval_format *f = &e->formats[k];
            double half, mean_kld = eval_mean_kld(e, f, &half);
            printf("%-*s %10.3g +- %-8.2g", name_width(e), f->kv, mean_kld, half);
            for (uint32_t w = 0; w < e->n_windows; w++) printf(" %9.3g", f->window_kld[w] / (double)e->n_tokens);
            printf("\n");
        }
    }
    if (!e->n_generate) return;
    printf("\ngreedy tokens until the text differs from f16's, at most %llu\n", (unsigned long long)e->n_generate);
    for (unsigned k = 0; k < e->n_formats; k++) {
        printf("%-*s median %5.1f:", name_width(e), e->formats[k].kv, median_agreed(e, &e->formats[k]));
        for (uint32_t w = 0; w < e->n_windows; w++) printf(" %u", e->formats[k].agreed[w]);
        printf("\n");
    }
}

static void print_calls_table(const eval *e)
{
    const eval_calls *base = &e->reference.calls;
    printf("%stool calls, teacher-forced: %llu, f16 has %.1f%% of them right\n%-*s %7s %18s %11s\n",
           e->n_tokens ? "\n" : "", (unsigned long long)base->n, percent(base->right, base->n), name_width(e), "kv",
           "right", "vs f16", "KLD mean");
    for (unsigned k = 0; k < e->n_formats; k++) {
        const eval_format *f = &e->formats[k];
        double half, change = calls_change(e, f, &half);
        printf("%-*s %6.1f%% %+8.2f%% +- %5.2f%% %11.3g\n", name_width(e), f->kv, percent(f->calls.right, f->calls.n),
               100 * change, 100 * half, mean(f->calls.kld, f->calls.n_tokens));
    }
}

static void print_retrieval_table(const eval *e)
{
    printf("%sretrieval, exact match %% by distance in tokens\n%-6s", e->n_tokens ? "\n" : "", "kv");
    for (unsigned d = 0; d < e->reference.n_distances; d++)
        printf(" %6llu", (unsigned long long)e->reference.retrieval[d].distance);
    for (unsigned k = 0; k <= e->n_formats; k++) {
        const eval_format *f = k ? &e->formats[k - 1] : &e->reference;
        printf("\n%-6s", f->kv);
        for (unsigned d = 0; d < f->n_distances; d++)
            printf(" %6.1f", percent(f->retrieval[d].right, f->retrieval[d].asked));
    }
    printf("\n");
}

/* Figures of a cache that was never packed would be those of f16. */
static void print_unmeasured(const eval *e, const eval_format *f)
{
    printf("%-*s %8.4f %9.4f %12.0f  nothing was packed: ", name_width(e), f->kv, f->bits_per_element,
           f->allocated_bits, f->bytes_per_token);
    if (strcmp(f->kv, "elastic") == 0) printf("the pool had room for all of it (--kv-pool)\n");
    else printf("the text needs more than %llu tokens\n", (unsigned long long)e->n_before);
}

void eval_print_table(const eval *e)
{
    if (e->n_tokens) {
        printf("mode %s, ", e->decode ? "decode" : "prefill");
        if (e->n_windows > 1) printf("%u windows of ", e->n_windows);
        printf("%llu tokens, reference f16: perplexity %.4f\n\n", (unsigned long long)e->n_tokens,
               exp(mean(e->reference.all.nll, e->reference.all.n)));
        printf("%-*s %8s %9s %12s %11s %9s %11s %11s %11s %8s\n", name_width(e), "kv", "bits", "allocated",
               "bytes/token", "perplexity", "vs f16", "KLD mean", "KLD median", "KLD 99.9%", "top-1");
        for (unsigned k = 0; k < e->n_formats; k++) {
            const eval_format *f = &e->formats[k];
            if (!eval_was_measured(f)) {
                print_unmeasured(e, f);
                continue;
            }
            double ppl = exp(mean(f->all.nll, f->all.n)), base = exp(mean(e->reference.all.nll, e->reference.all.n));
            printf("%-*s %8.4f %9.4f %12.0f %11.4f %+8.3f%% %11.3g %11.3g %11.3g %7.2f%%\n", name_width(e), f->kv,
                   f->bits_per_element, f->allocated_bits, f->bytes_per_token, ppl, 100 * (ppl / base - 1),
                   mean(f->all.kld, f->all.n), f->kld_p50, f->kld_p999, percent(f->all.same_top, f->all.n));
        }
    }
    if (e->n_tokens) print_windows_table(e);
    if (e->reference.calls.n) print_calls_table(e);
    if (e->reference.n_distances) print_retrieval_table(e);
}

static void print_windows_json(const eval *e, const eval_format *f)
{
    double half;
    (void)eval_mean_kld(e, f, &half);
    printf(",\"kld_half_interval\":");
    if (e->n_windows > 1) printf("%.6g", half);
    else printf("null");
    printf(",\"windows\":[");
    for (uint32_t w = 0; w < e->n_windows; w++) {
        printf("%s{\"kld_mean\":%.6g,\"ppl\":%.6f", w ? "," : "", f->window_kld[w] / (double)e->n_tokens,
               exp(f->window_nll[w] / (double)e->n_tokens));
        if (e->n_generate) printf(",\"agreed\":%u", f->agreed[w]);
        printf("}");
    }
    printf("]");
}

static void print_calls_json(const eval *e, const eval_format *f)
{
    double half, change = calls_change(e, f, &half);
    printf(",\"calls\":{\"n\":%llu,\"right\":%llu,\"right_in_both\":%llu,\"change\":%.6f,\"half_interval\":%.6f,\"kld_"
           "mean\":%.6g}",
           (unsigned long long)f->calls.n, (unsigned long long)f->calls.right, (unsigned long long)f->calls.both,
           change, half, mean(f->calls.kld, f->calls.n_tokens));
}

static void print_retrieval_json(const eval_format *f)
{
    printf(",\"retrieval\":[");
    for (unsigned d = 0; d < f->n_distances; d++)
        printf("%s{\"distance\":%llu,\"asked\":%llu,\"exact\":%.4f}", d ? "," : "",
               (unsigned long long)f->retrieval[d].distance, (unsigned long long)f->retrieval[d].asked,
               percent(f->retrieval[d].right, f->retrieval[d].asked) / 100);
    printf("]");
}

/* Without a text, or where nothing was packed, there are no scores: null, and no buckets. */
static void print_scores_json(const eval *e, const eval_format *f)
{
    if (!e->n_tokens || !eval_was_measured(f)) {
        printf(",\"ppl\":null,\"kld_mean\":null,\"kld_p50\":null,\"kld_p999\":null,\"top1\":null,\"buckets\":[]");
        return;
    }
    printf(",\"ppl\":%.6f,\"kld_mean\":%.6g,\"kld_p50\":%.6g,\"kld_p999\":%.6g,\"top1\":%.5f,\"buckets\":[",
           exp(mean(f->all.nll, f->all.n)), mean(f->all.kld, f->all.n), f->kld_p50, f->kld_p999,
           percent(f->all.same_top, f->all.n) / 100);
    for (unsigned b = 0; b < EVAL_BUCKETS; b++)
        printf("%s{\"from\":%llu,\"n\":%llu,\"ppl\":%.6f,\"kld_mean\":%.6g,\"top1\":%.5f}", b ? "," : "",
               (unsigned long long)(b * e->n_tokens / EVAL_BUCKETS), (unsigned long long)f->buckets[b].n,
               exp(mean(f->buckets[b].nll, f->buckets[b].n)), mean(f->buckets[b].kld, f->buckets[b].n),
               percent(f->buckets[b].same_top, f->buckets[b].n) / 100);
    printf("]");
    print_windows_json(e, f);
}

void eval_print_json(const eval *e)
{
    const double ppl = exp(mean(e->reference.all.nll, e->reference.all.n));
    printf("{\"mode\":\"%s\",\"n_tokens\":%llu,\"n_windows\":%u,\"reference\":{\"kv\":\"f16\",\"ppl\":",
           e->decode ? "decode" : "prefill", (unsigned long long)e->n_tokens, e->n_windows);
    if (e->n_tokens) printf("%.6f", ppl);
    else printf("null");
    print_retrieval_json(&e->reference);
    if (e->reference.calls.n) print_calls_json(e, &e->reference);
    printf("},\"formats\":[");
    for (unsigned k = 0; k < e->n_formats; k++) {
        const eval_format *f = &e->formats[k];
        printf("%s{\"kv\":\"%s\",\"bits_per_element\":%.4f,\"allocated_bits\":%.4f,\"bytes_per_token\":%.1f,"
               "\"n_after_packing\":%llu",
               k ? "," : "", f->kv, f->bits_per_element, f->allocated_bits, f->bytes_per_token,
               (unsigned long long)f->n_after_packing);
        print_scores_json(e, f);
        print_retrieval_json(f);
        if (f->calls.n) print_calls_json(e, f);
        printf("}");
    }
    printf("]}\n");
}

bool eval_plot(const eval *e, const char *path)
{
    const int W = 640, H = 400, LEFT = 70, RIGHT = 40, TOP = 30, BOTTOM = 50; /* pixels */
    FILE *svg = fopen(path, "w");
    if (!svg) {
        fprintf(stderr, "kvrt eval: %s: %s\n", path, strerror(errno));
        return false;
    }
    double low = 0, high = -12, bits = 2;
    for (unsigned k = 0; k < e->n_formats; k++) {
        double kld = log10(fmax(mean(e->formats[k].all.kld, e->formats[k].all.n), 1e-9));
        low = fmin(low, floor(kld));
        high = fmax(high, ceil(kld));
        bits = fmax(bits, ceil(e->formats[k].allocated_bits));
    }
    if (high <= low) high = low + 1;
    fprintf(svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            W, H);
    for (double y = low; y <= high; y++) {
        double at = TOP + (high - y) / (high - low) * (H - TOP - BOTTOM);
        fprintf(svg,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">1e%.0f</text>\n",
                LEFT, W - RIGHT, at, at, LEFT - 6, at + 4, y);
    }
    for (double b = 0; b <= bits; b += 1 + (bits > 9)) {
        double at = LEFT + b / bits * (W - LEFT - RIGHT);
        fprintf(svg, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", at, H - BOTTOM + 18, b);
    }
    fprintf(svg,
            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits per element, sink and tail included</text><text "
            "x=\"14\" y=\"%d\" "
            "transform=\"rotate(-90 14 %d)\" text-anchor=\"middle\">mean KL divergence from f16 (nats)</text>\n",
            (W + LEFT - RIGHT) / 2, H - 12, H / 2, H / 2);
    double xs[EVAL_MAX_FORMATS], ys[EVAL_MAX_FORMATS];
    for (unsigned k = 0; k < e->n_formats; k++) {
        const eval_format *f = &e->formats[k];
        xs[k] = ys[k] = -1000; /* near nobody */
        if (!eval_was_measured(f)) continue;
        double kld = log10(fmax(mean(f->all.kld, f->all.n), 1e-9));
        xs[k] = LEFT + f->allocated_bits / bits * (W - LEFT - RIGHT);
        ys[k] = TOP + (high - kld) / (high - low) * (H - TOP - BOTTOM);
        bool crowded = false; /* then the name stands below on the left */
        for (unsigned j = 0; j < k; j++) crowded |= fabs(xs[j] - xs[k]) < 40 && fabs(ys[j] - ys[k]) < 14;
        fprintf(svg,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#1f6feb\"/><text x=\"%.1f\" y=\"%.1f\" "
                "text-anchor=\"%s\">%s</text>\n",
                xs[k], ys[k], xs[k] + (crowded ? -7 : 7), ys[k] + (crowded ? 13 : -5), crowded ? "end" : "start",
                f->kv);
    }
    fprintf(svg, "</svg>\n");
    bool ok = ferror(svg) == 0;
    ok = fclose(svg) == 0 && ok;
    if (!ok) fprintf(stderr, "kvrt eval: %s: %s\n", path, strerror(errno));
    return ok;
}
