/* plan_plot.c - the picture of a plan: context to the right, memory upwards, a line per KV format, the limit across.
 * Every point is a plan of its own (`ctx.size` set), so the lines show what an engine would take, sink and tail
 * included. */
#include "plan_report.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { POINTS = 17, PAGE = 128 };
static const int W = 760, H = 440, LEFT = 76, RIGHT = 200, TOP = 48, BOTTOM = 56; /* pixels */
static const char *const colours[] = {"#1f6feb", "#d1242f", "#1a7f37", "#8250df",
                                      "#bf8700", "#0e8a8a", "#cf3c8f", "#57606a"};

typedef struct plot {
    const plan_report *report;
    const char *limit_name;
    unsigned n_points;
    uint64_t ctx[POINTS];                /* tokens, ascending */
    double bytes[POINTS][PLAN_MAX_ROWS]; /* total per point and format */
    double right, bottom, top;           /* ends of the axes: tokens, bytes */
} plot;

static double x_of(const plot *p, double tokens) { return LEFT + tokens / p->right * (W - LEFT - RIGHT); }
static double y_of(const plot *p, double bytes)
{
    return H - BOTTOM - (bytes - p->bottom) / (p->top - p->bottom) * (H - TOP - BOTTOM);
}

/* The context of the model, or a little more than the longest that fits. */
static uint64_t widest_context(const plan_report *r)
{
    uint64_t longest = 0, ctx = r->info.ctx_model;
    for (uint64_t i = 0; i < r->n; i++) longest = r->rows[i].max_ctx > longest ? r->rows[i].max_ctx : longest;
    if (longest && longest + longest / 4 < ctx) ctx = longest + longest / 4;
    if (!longest && ctx > 32768) ctx = 32768;
    if (r->ctx_request > 0 && (uint64_t)r->ctx_request > ctx) ctx = (uint64_t)r->ctx_request;
    return ctx < 2 * PAGE ? 2 * PAGE : ctx;
}

static int32_t compute(plot *p, const kvrt_options *options, kvrt_error *error)
{
    kvrt_options *at = NULL;
    const uint64_t widest = widest_context(p->report);
    int32_t status = kvrt_options_clone(options, &at, error);
    double largest = 0, smallest = INFINITY;
    p->n_points = widest / PAGE < POINTS ? (unsigned)(widest / PAGE) : POINTS;
    for (unsigned i = 0; i < p->n_points && status >= 0; i++) {
        plan_report r;
        p->ctx[i] = PAGE + (widest - PAGE) * i / (p->n_points - 1) / PAGE * PAGE;
        status = kvrt_options_set_i64(at, "ctx.size", (int64_t)p->ctx[i], error);
        if (status >= 0) status = plan_report_make(at, p->report->only, &r, error);
        for (uint64_t k = 0; status >= 0 && k < r.n; k++) {
            if (r.rows[k].problem[0]) continue;
            p->bytes[i][k] = (double)r.rows[k].total_bytes;
            largest = fmax(largest, p->bytes[i][k]);
            smallest = fmin(smallest, p->bytes[i][k]);
        }
    }
    kvrt_options_destroy(at);
    /* The limit belongs into the picture unless it is so far above that the lines would lie flat. */
    const double budget = (double)p->report->info.budget_bytes;
    p->top = largest * 1.08;
    if (budget > largest / 2 && budget < 2 * largest) p->top = fmax(budget * 1.12, fmin(p->top, budget * 1.5));
    /* Weights would fill the picture: the axis begins below the smallest total, unless the limit lies there. */
    if (smallest > 0.6 * p->top && budget > smallest) p->bottom = smallest - 0.15 * (p->top - smallest);
    p->right = (double)widest;
    return status;
}

/* ---------------------------------------------------------------------------------------------------- drawing --- */
static void print_tokens(FILE *svg, double n)
{
    if (n >= 1024 && fmod(n, 1024) == 0) fprintf(svg, "%.0fk", n / 1024);
    else fprintf(svg, "%.0f", n);
}

static void print_bytes(FILE *svg, double bytes)
{
    if (bytes >= 1073741824.0) fprintf(svg, "%.4g GiB", bytes / 1073741824.0);
    else fprintf(svg, "%.4g MiB", bytes / 1048576.0);
}

static void draw_axes(const plot *p, FILE *svg)
{
    const double unit = p->top >= 4 * 1073741824.0 ? 1073741824.0 : 1048576.0;
    double across = PAGE, range = (p->top - p->bottom) / unit, up = pow(10, floor(log10(range / 6)));
    while (p->right / across > 8) across *= 2;
    if (range / up > 30) up *= 5;
    else if (range / up > 12) up *= 2;
    for (double b = ceil(p->bottom / unit / up) * up; b <= p->top / unit; b += up)
        fprintf(svg,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#e4e4e4\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
                LEFT, W - RIGHT, y_of(p, b * unit), y_of(p, b * unit), LEFT - 6, y_of(p, b * unit) + 4, b);
    for (double t = 0; t <= p->right; t += across) {
        fprintf(svg, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">", x_of(p, t), H - BOTTOM + 18);
        print_tokens(svg, t);
        fprintf(svg, "</text>\n");
    }
    fprintf(svg,
            "<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"#333\"/>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">context (tokens)</text>\n"
            "<text x=\"18\" y=\"%d\" transform=\"rotate(-90 18 %d)\" text-anchor=\"middle\">memory (%s)</text>\n",
            LEFT, TOP, H - BOTTOM, W - RIGHT, (W + LEFT - RIGHT) / 2, H - 14, (H + TOP - BOTTOM) / 2,
            (H + TOP - BOTTOM) / 2, unit > 1e9 ? "GiB" : "MiB");
}

/* Formats of the same size lie on each other: the later one is dashed, so that both are seen. */
static bool is_hidden(const plan_report *r, uint64_t k)
{
    for (uint64_t i = 0; i < k; i++)
        if (!r->rows[i].problem[0] &&
            fabs(r->rows[i].bytes_per_token - r->rows[k].bytes_per_token) < 0.02 * r->rows[k].bytes_per_token)
            return true;
    return false;
}

static void draw_format(const plot *p, uint64_t k, FILE *svg)
{
    const kvrt_plan_row *row = &p->report->rows[k];
    const char *colour = colours[k % (sizeof colours / sizeof colours[0])];
    const char *dash = is_hidden(p->report, k) ? " stroke-dasharray=\"5 5\"" : "";
    const double y = TOP + 8 + 20.0 * (double)k;
    if (row->problem[0]) {
        fprintf(svg, "<text x=\"%d\" y=\"%.1f\">%s: not on %s</text>\n", W - RIGHT + 46, y + 4, row->kv,
                p->report->info.backend);
        return;
    }
    fprintf(svg, "<polyline clip-path=\"url(#area)\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"",
            colour, dash);
    for (unsigned i = 0; i < p->n_points; i++)
        fprintf(svg, "%s%.1f,%.1f", i ? " " : "", x_of(p, (double)p->ctx[i]), y_of(p, p->bytes[i][k]));
    fprintf(svg, "\"/>\n");
    if (row->max_ctx && (double)row->max_ctx <= p->right && strcmp(row->capped_by, "memory") == 0)
        fprintf(svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x_of(p, (double)row->max_ctx),
                y_of(p, (double)p->report->info.budget_bytes), colour);
    fprintf(svg,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"%s/>"
            "<text x=\"%d\" y=\"%.1f\">%s: ",
            W - RIGHT + 14, W - RIGHT + 40, y, y, colour, dash, W - RIGHT + 46, y + 4, row->kv);
    if (row->max_ctx) fprintf(svg, "%llu tokens", (unsigned long long)row->max_ctx);
    else fprintf(svg, "does not fit");
    fprintf(svg, "</text>\n");
}

static void draw_limits(const plot *p, FILE *svg)
{
    const double budget = (double)p->report->info.budget_bytes;
    const char *note = budget > p->top ? " (above the picture)" : "";
    const double y = budget > p->top ? TOP - 6 : y_of(p, budget);
    if (budget <= p->top)
        fprintf(svg,
                "<line id=\"limit\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#000\" stroke-width=\"1.5\" "
                "stroke-dasharray=\"8 4\"/>\n",
                LEFT, W - RIGHT, y, y);
    fprintf(svg, "<text x=\"%d\" y=\"%.1f\">%s: ", LEFT + 6, y - 5, p->limit_name);
    print_bytes(svg, budget);
    fprintf(svg, "%s</text>\n", note);
    if (p->report->ctx_request <= 0) return;
    const double x = x_of(p, (double)p->report->ctx_request);
    fprintf(
        svg,
        "<line id=\"request\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#777\" stroke-dasharray=\"2 3\"/>\n",
        x, x, TOP, H - BOTTOM);
}

static void draw(const plot *p, FILE *svg)
{
    const plan_report *r = p->report;
    fprintf(svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<title>Memory by context and KV format</title>\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<clipPath id=\"area\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n",
            W, H, W, H, LEFT, TOP, W - LEFT - RIGHT, H - TOP - BOTTOM);
    fprintf(svg, "<text x=\"%d\" y=\"20\" font-size=\"14\">Memory by context: %s, %.4g%c parameters, weights ", LEFT,
            r->info.architecture, (double)r->info.n_params / (r->info.n_params >= 1000000000 ? 1e9 : 1e6),
            r->info.n_params >= 1000000000 ? 'G' : 'M');
    print_bytes(svg, (double)r->info.weight_bytes);
    fprintf(svg, "</text>\n");
    draw_axes(p, svg);
    fprintf(svg, "<text x=\"%d\" y=\"%d\" fill=\"#555\">KV format: longest context</text>\n", W - RIGHT + 14, TOP - 8);
    for (uint64_t k = 0; k < r->n; k++) draw_format(p, k, svg);
    draw_limits(p, svg);
    fprintf(svg, "</svg>\n");
}

bool plan_report_plot(const kvrt_options *options, const plan_report *r, const char *limit_name, const char *path)
{
    static plot p;
    kvrt_error error = command_error();
    p = (plot){.report = r, .limit_name = limit_name};
    int32_t status = compute(&p, options, &error);
    if (status < 0) {
        (void)command_fail(status, &error);
        return false;
    }
    FILE *svg = fopen(path, "w");
    bool ok = svg != NULL;
    if (svg) {
        draw(&p, svg);
        ok = ferror(svg) == 0;
        ok = fclose(svg) == 0 && ok;
    }
    if (!ok) fprintf(stderr, "kvrt plan: %s: %s\n", path, strerror(errno));
    return ok;
}
