/* dots_body.h - the source of the integer kernels, compiled once per way to multiply bytes by dots_*.c, which define
 *   WAY          suffix of the table's name
 *   CHAINS       integer sums of a step that gemv keeps apart
 *   BLOCKS       groups of four rows that a gemm tile has
 *   GEMV_BLOCKS  that a gemv multiplies at once
 *   FEW          rows up to which gemv is the faster, by measurement: it expands codes again for its rows, and never waits for memory
 *   CHUNK      groups of four k that gemm multiplies at a time; SIZES_DIFFER instead: loops of their own for every size of codes and short steps
 *   OWN_LINES  dot_lines, where sums over lines are more than dot_quads repeated
 *   WIDE(size) whether gemm expands codes of that size to 16 bits, WIDE_LINE bytes a line (widen_lines). Sums of products are 256 times what they
 *              mean then, and begin with nothing: the zero of such codes, where all have one, is BIAS(size)
 * include lanes_*.h and this, and then define
 *   dot_quads  adds to sums, to any of the n_sums, the sum over i < n of the four unsigned bytes in each lane of w[i] times the four signed bytes
 *              at x + stride i. `size`, a constant: codes are below 2^size. BIAS(size): what it subtracts from a code first, 0 unless it cannot
 *              do without */
#include "dots.h"
#include "../../runtime/kv/half.h"

INLINE void dot_quads(vi *sums, uint32_t n_sums, const vu *w, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t stride);

#include "variant_numbers.h"

#include "dots_quantize.h"
#include "tile_unpack.h"

#define GROUP_BYTES 16u /* of a word of four rows */
#ifndef WIDE
#define WIDE(size) ((void)(size), false)
#define widen_lines(lines, n, wide) ((void)(lines), (void)(n), (void)(wide))
#else
INLINE void widen_lines(const uint8_t *lines, uint32_t n, uint8_t *wide);
#endif
#define WIDE_LINE (2u * KVI_TILE_LINE)
#define LINE_BYTES(size) (WIDE(size) ? WIDE_LINE : KVI_TILE_LINE)
#define HALF_RUN (KVI_TILE_RUN / 2u)

/* Bits that the largest code takes. */
#define SIZE_OF(bits, values)                                                                                          \
    ((values) == KVI_TILE_IQ4 ? 8u : (values) == KVI_TILE_E2M1 ? 5u : (bits) < 4u ? 4u : (uint32_t)(bits))

/* ------------------------------------------------------------------------------------------------- activations --- */
static void quantize(const kvi_tile *t, const float *x, size_t ldx, uint32_t n_rows, const uint32_t *order,
                     uint32_t group, const kvi_dots_input *to)
{
    const uint32_t row = group * KVI_DOTS_ROWS, side = row == to->lone ? 1u : KVI_DOTS_ROWS;
    const uint32_t bytes = 4u * side; /* of a word of all rows of the group */
    uint8_t *words = to->codes + (size_t)row * to->n_words * 4u, codes[KVI_TILE_STEP];
    const uint32_t tail = t->n_in / 4u; /* words from here on have places past the end */
    memset(words + (size_t)tail * bytes, 0, (size_t)(to->n_words - tail) * bytes);
    for (uint32_t r = 0; r < side && row + r < n_rows; r++)
        for (uint32_t s = 0; s < to->n_steps; s++) {
            const uint32_t k = s * t->step, bias = BIAS(SIZE_OF(t->bits, t->values));
            const size_t at = (size_t)row * to->n_steps + s * side + r;
            const uint32_t n = quantize_places(t, x + (size_t)(row + r) * ldx, order, k, bias, codes, &to->scales[at],
                                               &to->starts[at]);
            for (uint32_t w = 0; w < (n + 3u) / 4u; w++)
                memcpy(words + (size_t)(k / 4u + w) * bytes + 4u * r, codes + 4u * w, 4);
        }
}

/* ---------------------------------------------------------------------------------------------------- products --- */
INLINE vi splat_int(int32_t x) { return x - (vi){0}; }
INLINE float float_of(int32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Side of a step as the sums use it: what s (sum a) is multiplied with, where codes are not centred. */
INLINE vf offset_of(const kvi_tile *t, uint32_t size, vf scale, vf offset)
{
    const float bias = (float)BIAS(size);
    return t->offset == KVI_TILE_MINS ? (BIAS(size) ? offset + scale * bias : offset) : (bias - offset) * scale;
}

INLINE vf step_sum(vf sum, vi ints, vf scale, float x_scale, bool centred, vf offset, int32_t start)
{
    sum = fma_vec(__builtin_convertvector(ints, vf) * scale, splat(x_scale), sum);
    return centred ? sum : fma_vec(offset, splat(float_of(start)), sum);
}

/* ints[part][j] += codes of half a run times the words at x of n_groups groups of rows, x_stride bytes apart. bits, values and n_groups are
 * constants. */
INLINE void half_dots(vi (*ints)[GEMV_BLOCKS * KVI_DOTS_ROWS], const uint8_t *run, uint32_t half, uint32_t bits,
                      uint32_t values, const uint8_t *x, size_t x_stride, uint32_t n_groups)
{
    for (uint32_t part = 0; part < PARTS; part++) {
        vu w[QUADS];
        for (uint32_t i = 0; i < QUADS; i++) w[i] = quad_of(run, half, bits, values, i, part);
        for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++)
            dot_quads(&ints[part][j], 1, w, QUADS, SIZE_OF(bits, values), x + j / 4u * x_stride + j % 4u * 4u,
                      GROUP_BYTES);
    }
}

/* Whether scales can be read where a step needs them, as those of Q4_0 and Q6_K: to open a whole side at once has to wait for memory, 5% of the
 * time of eight rows. */
INLINE bool has_plain_side(const kvi_tile *t, uint32_t bits, uint32_t values)
{
    return values == KVI_TILE_INTEGER &&
           (bits == 4u ? t->scale == KVI_TILE_F16 : bits == 6u && t->scale == KVI_TILE_SUB) &&
           t->offset == KVI_TILE_CENTRED && t->group == t->step && !t->whole_row && !t->global;
}
/* The scale of the group whose first is at `at`, of a side like that. */
INLINE vf plain_scale(const uint8_t *side, uint32_t bits, uint32_t at, uint32_t part)
{
    at += part * VW;
    return bits == 4u ? halves_at(side + 2u * at) : halves_at(side + 2u * part * VW) * signed_bytes_at(side + 32u + at);
}

/* A panel times n_groups groups of rows, straight from memory: y16[j] (16). Rows that are not there are multiplied in vain. plain, a constant:
 * has_plain_side. */
INLINE void gemv_panel(const kvi_tile *t, uint32_t bits, uint32_t values, bool plain, const uint8_t *panel,
                       const kvi_dots_input *in, uint32_t row, uint32_t n_groups, float (*y16)[KVI_TILE_ROWS])
{
    const bool centred = plain || t->offset == KVI_TILE_CENTRED;
    const uint32_t n_rows = n_groups * KVI_DOTS_ROWS;
    const size_t x_stride = (size_t)in->n_words * GROUP_BYTES, s_stride = (size_t)in->n_steps * KVI_DOTS_ROWS;
    const uint8_t *x = in->codes + (size_t)row * in->n_words * 4u;
    const float *x_scale = in->scales + (size_t)row * in->n_steps;
    const int32_t *start = in->starts + (size_t)row * in->n_steps;
    vf sums[PARTS][GEMV_BLOCKS * KVI_DOTS_ROWS];
    vi ints[PARTS][GEMV_BLOCKS * KVI_DOTS_ROWS];
    float scales[SIDE_FLOATS], offsets[SIDE_FLOATS];
    for (uint32_t part = 0; part < PARTS; part++)
        for (uint32_t j = 0; j < n_rows; j++) sums[part][j] = (vf){0}, ints[part][j] = (vi){0};
    const uint32_t halves = t->step / HALF_RUN, next_group = t->whole_row || t->group > t->step ? 0 : KVI_TILE_ROWS;
    for (uint32_t k = 0; k < t->n_in; k += KVI_TILE_BLOCK) {
        const uint8_t *block = panel + kvi_tile_block_at(t, k), *run = block + kvi_tile_block_side(t, k);
        const uint32_t n = kvi_tile_block_columns(t, k);
        for (const uint8_t *line = block; line < run; line += KVI_TILE_LINE)
            __builtin_prefetch(line + t->ahead_of_several);
        if (!plain && (!t->whole_row || k == 0))
            unpack_side(t, panel, t->whole_row ? panel : block, t->whole_row ? 1u : kvi_tile_block_groups(t, k), scales,
                        offsets);
        uint32_t left = 0, group = 0; /* halves of runs that the current step still has */
        for (uint32_t at = 0; at < n; at += KVI_TILE_RUN, run += bits * KVI_TILE_LINE) {
            for (uint32_t line = 0; line < bits; line++)
                __builtin_prefetch(run + line * KVI_TILE_LINE + t->ahead_of_several);
#pragma GCC unroll 2
            for (uint32_t half = 0; half < 2u; half++, x += HALF_RUN / 4u * GROUP_BYTES) {
                if (at + half * HALF_RUN >= n) break;
                if (left == 0) {
                    left = halves;
                    for (uint32_t part = 0; part < PARTS; part++)
                        for (uint32_t j = 0; j < n_rows; j++)
                            ints[part][j] = splat_int(centred ? start[j / 4u * s_stride + j % 4u] : 0);
                }
                half_dots(ints, run, half, bits, values, x, x_stride, n_groups);
                if (--left && at + (half + 1u) * HALF_RUN < n) continue;
                left = 0;
                for (uint32_t part = 0; part < PARTS; part++) {
                    const vf scale = plain ? plain_scale(block, bits, group, part) : load(scales + group + part * VW),
                             offset =
                                 plain ? (vf){0}
                                       : offset_of(t, SIZE_OF(bits, values), scale, load(offsets + group + part * VW));
                    for (uint32_t j = 0; j < n_rows; j++) {
                        const size_t s = j / 4u * s_stride + j % 4u;
                        sums[part][j] =
                            step_sum(sums[part][j], ints[part][j], scale, x_scale[s], centred, offset, start[s]);
                    }
                }
                group += next_group, x_scale += KVI_DOTS_ROWS, start += KVI_DOTS_ROWS;
            }
        }
    }
    for (uint32_t j = 0; j < n_rows; j++)
        for (uint32_t part = 0; part < PARTS; part++) store(y16[j] + part * VW, sums[part][j]);
}

/* ints += the codes of half a run times one row of activations. Each of the chains of sums waits for itself alone, since a processor does not
 * look far enough ahead to fill the time that one chain takes with the next steps. */
INLINE void half_dots_of_one(vi (*ints)[CHAINS], const uint8_t *run, uint32_t half, uint32_t bits, uint32_t values,
                             const uint8_t *x, uint32_t ahead)
{
    for (uint32_t line = half * bits / 2u; ahead && line < (half + 1u) * bits / 2u; line++)
        __builtin_prefetch(run + line * KVI_TILE_LINE + ahead);
    for (uint32_t part = 0; part < PARTS; part++) {
        vu w[QUADS];
        for (uint32_t i = 0; i < QUADS; i++) w[i] = quad_of(run, half, bits, values, i, part);
        dot_quads(ints[part], CHAINS, w, QUADS, SIZE_OF(bits, values), x + half * HALF_RUN, 4);
    }
}

INLINE void begin_sums(vi (*ints)[CHAINS], int32_t start)
{
    for (uint32_t part = 0; part < PARTS; part++) {
        ints[part][0] = splat_int(start);
        for (uint32_t c = 1; c < CHAINS; c++) ints[part][c] = (vi){0};
    }
}

/* sums += what the integers of a step mean. scales, offsets: of its group. */
INLINE void end_sums(vf *sums, vi (*ints)[CHAINS], const kvi_tile *t, uint32_t size, const float *scales,
                     const float *offsets, float x_scale, int32_t start)
{
    for (uint32_t part = 0; part < PARTS; part++) {
        const vf scale = load(scales + part * VW), offset = offset_of(t, size, scale, load(offsets + part * VW));
        vi total = ints[part][0];
        for (uint32_t c = 1; c < CHAINS; c++) total += ints[part][c];
        sums[part] = step_sum(sums[part], total, scale, x_scale, t->offset == KVI_TILE_CENTRED, offset, start);
    }
}

/* A panel times the one row of activations that lies alone: y16 (16). Panels end with a whole run, activations with zeros. */
INLINE void gemv_one(const kvi_tile *t, uint32_t bits, uint32_t values, const uint8_t *panel, const kvi_dots_input *in,
                     float *y16)
{
    const uint32_t size = SIZE_OF(bits, values), centred = t->offset == KVI_TILE_CENTRED;
    const uint32_t next_group = t->whole_row || t->group > t->step ? 0 : KVI_TILE_ROWS;
    const uint8_t *x = in->codes + (size_t)in->lone * in->n_words * 4u;
    const float *x_scale = in->scales + (size_t)in->lone * in->n_steps;
    const int32_t *start = in->starts + (size_t)in->lone * in->n_steps;
    vf sums[PARTS];
    float scales[SIDE_FLOATS], offsets[SIDE_FLOATS];
    for (uint32_t part = 0; part < PARTS; part++) sums[part] = (vf){0};
    for (uint32_t k = 0; k < t->n_in; k += KVI_TILE_BLOCK) {
        const uint8_t *block = panel + kvi_tile_block_at(t, k), *run = block + kvi_tile_block_side(t, k);
        const uint32_t n = kvi_tile_block_columns(t, k);
        vi ints[PARTS][CHAINS], more[PARTS][CHAINS];
        uint32_t group = 0;
        if (!t->whole_row || k == 0)
            unpack_side(t, panel, t->whole_row ? panel : block, t->whole_row ? 1u : kvi_tile_block_groups(t, k), scales,
                        offsets);
        if (t->step < KVI_TILE_RUN) /* two steps of a run at once */
            for (uint32_t at = 0; at < n; at += KVI_TILE_RUN, run += bits * KVI_TILE_LINE, x += KVI_TILE_RUN) {
                const bool both = at + HALF_RUN < n;
                begin_sums(ints, centred ? start[0] : 0);
                begin_sums(more, centred && both ? start[1] : 0);
                half_dots_of_one(ints, run, 0, bits, values, x, t->ahead);
                half_dots_of_one(more, run, 1, bits, values, x, t->ahead);
                end_sums(sums, ints, t, size, scales + group, offsets + group, x_scale[0], start[0]);
                if (both)
                    end_sums(sums, more, t, size, scales + group + next_group, offsets + group + next_group, x_scale[1],
                             start[1]);
                group += 2u * next_group, x_scale += 1u + both, start += 1u + both;
            }
        else
            for (uint32_t at = 0; at < n; at += t->step, group += next_group, x_scale++, start++) {
                begin_sums(ints, centred ? *start : 0);
                for (uint32_t i = at; i < at + t->step && i < n; i += KVI_TILE_RUN) {
                    half_dots_of_one(ints, run, 0, bits, values, x, t->ahead);
                    half_dots_of_one(ints, run, 1, bits, values, x, t->ahead);
                    run += bits * KVI_TILE_LINE, x += KVI_TILE_RUN;
                }
                end_sums(sums, ints, t, size, scales + group, offsets + group, *x_scale, *start);
            }
    }
    for (uint32_t part = 0; part < PARTS; part++) store(y16 + part * VW, sums[part]);
}

/* Part [first, first + n_out) of the rows of panel p to y, whose first element is row `first`. */
static __attribute__((noinline)) void put_row(const float *y16, uint32_t p, uint32_t first, uint32_t n_out, float *y)
{
    if (p * KVI_TILE_ROWS >= first && (p + 1u) * KVI_TILE_ROWS <= first + n_out) {
        y += p * KVI_TILE_ROWS - first;
        for (uint32_t i = 0; i < KVI_TILE_ROWS; i += VW) store(y + i, load(y16 + i));
        return;
    }
    for (uint32_t i = 0; i < KVI_TILE_ROWS; i++) {
        const uint32_t out = p * KVI_TILE_ROWS + i;
        if (out >= first && out < first + n_out) y[out - first] = y16[i];
    }
}
/* And back. */
static __attribute__((noinline)) void get_row(float *y16, uint32_t p, uint32_t first, uint32_t n_out, const float *y)
{
    for (uint32_t i = 0; i < KVI_TILE_ROWS; i++) {
        const uint32_t out = p * KVI_TILE_ROWS + i;
        y16[i] = out >= first && out < first + n_out ? y[out - first] : 0;
    }
}

INLINE void gemv_kind(const kvi_tile *t, uint32_t bits, uint32_t values, const uint8_t *panels, uint32_t first,
                      uint32_t n_out, const kvi_dots_input *x, uint32_t row, uint32_t n_x, float *y, size_t ldy)
{
    for (uint32_t p = first / KVI_TILE_ROWS; p * KVI_TILE_ROWS < first + n_out; p++) {
        float y16[GEMV_BLOCKS * KVI_DOTS_ROWS][KVI_TILE_ROWS];
        const uint8_t *panel = panels + p * t->panel_bytes;
        for (uint32_t r = 0, n; r < n_x; r += n) {
            const bool lone = row + r == x->lone,
                       several = GEMV_BLOCKS > 1u && n_x - r > KVI_DOTS_ROWS && row + r + KVI_DOTS_ROWS != x->lone;
            n = lone ? 1u : several ? GEMV_BLOCKS * KVI_DOTS_ROWS : KVI_DOTS_ROWS;
            if (lone) gemv_one(t, bits, values, panel, x, y16[0]);
            else if (several && has_plain_side(t, bits, values))
                gemv_panel(t, bits, values, true, panel, x, row + r, GEMV_BLOCKS, y16);
            else if (several) gemv_panel(t, bits, values, false, panel, x, row + r, GEMV_BLOCKS, y16);
            else gemv_panel(t, bits, values, false, panel, x, row + r, 1, y16);
            for (uint32_t j = 0; j < n && r + j < n_x; j++) put_row(y16[j], p, first, n_out, y + (r + j) * ldy);
        }
    }
}

static void gemv(const kvi_tile *t, const uint8_t *panels, uint32_t first, uint32_t n_out, const kvi_dots_input *x,
                 uint32_t row, uint32_t n_x, float *y, size_t ldy)
{
    const uint32_t values = t->values;
#define GEMV(b, v)                                                                                                     \
    if (t->bits == (b) && values == (v)) gemv_kind(t, b, v, panels, first, n_out, x, row, n_x, y, ldy);
    TILE_KINDS(GEMV)
#undef GEMV
}

/* A panel, expanded for many rows. */
typedef struct expanded {
    const uint8_t *lines;          /* (n_words, 16, 4), or wide ones */
    const float *scales, *offsets; /* (steps, 16); scales of wide lines / 256 */
    uint32_t first_word, n_words, first_step;
    const uint8_t *next; /* codes that are expanded after these: the first tile fetches them, so many lines a step */
    uint32_t next_lines;
} expanded;

/* ints[j][part] += n lines times the words at x of n_groups groups of rows, x_stride bytes apart. n, size and n_groups are constants. */
INLINE void dot_lines(vi (*ints)[PARTS], const uint8_t *line, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t x_stride, uint32_t n_groups);
#ifndef OWN_LINES
INLINE void dot_lines(vi (*ints)[PARTS], const uint8_t *line, uint32_t n, uint32_t size, const uint8_t *x,
                      size_t x_stride, uint32_t n_groups)
{
    for (uint32_t i = 0; i < n; i++, line += KVI_TILE_LINE, x += GROUP_BYTES) {
        vu w[PARTS];
        for (uint32_t part = 0; part < PARTS; part++) w[part] = load_line(line, part);
        for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++)
            for (uint32_t part = 0; part < PARTS; part++)
                dot_quads(&ints[j][part], 1, &w[part], 1, size, x + j / 4u * x_stride + j % 4u * 4u, GROUP_BYTES);
    }
}
#endif

/* n_groups * 4 rows from row on: y16[row] (16), which sums over the columns before are in and gemv's order goes on with. size, chunk, centred and
 * n_groups are constants. */
INLINE void gemm_tile(const kvi_tile *t, const expanded *e, uint32_t size, uint32_t chunk, bool once, bool centred,
                      const kvi_dots_input *in, uint32_t row, uint32_t n_groups, float (*y16)[KVI_TILE_ROWS])
{
    const uint8_t *next = e->next;
    const uint32_t next_lines = row ? 0 : e->next_lines;
    const size_t x_stride = (size_t)in->n_words * GROUP_BYTES, s_stride = (size_t)in->n_steps * KVI_DOTS_ROWS;
    const uint8_t *x = in->codes + row / KVI_DOTS_ROWS * x_stride + e->first_word * GROUP_BYTES, *line = e->lines;
    const size_t s0 = row / KVI_DOTS_ROWS * s_stride + e->first_step * KVI_DOTS_ROWS;
    const float *x_scale = in->scales + s0;
    const int32_t *start = in->starts + s0;
    const uint32_t words = once ? chunk : t->step / 4u;
    vf sums[BLOCKS * KVI_DOTS_ROWS][PARTS];
    for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++)
        for (uint32_t part = 0; part < PARTS; part++) sums[j][part] = load(y16[j] + part * VW);
    for (uint32_t at = 0, step = 0; at < e->n_words; at += words, step++) {
        vi ints[BLOCKS * KVI_DOTS_ROWS][PARTS];
        const uint32_t n = once ? chunk : e->n_words - at < words ? e->n_words - at : words;
        for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++)
            for (uint32_t part = 0; part < PARTS; part++)
                ints[j][part] = splat_int(centred && !WIDE(size) ? start[j / 4u * s_stride + j % 4u] : 0);
        for (uint32_t i = 0; i < n; i += chunk, line += chunk * LINE_BYTES(size), x += chunk * GROUP_BYTES)
            dot_lines(ints, line, chunk, size, x, x_stride, n_groups);
        for (uint32_t part = 0; part < PARTS; part++) {
            const vf scale = load(e->scales + step * KVI_TILE_ROWS + part * VW),
                     offset = load(e->offsets + step * KVI_TILE_ROWS + part * VW);
            for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++) {
                const size_t s = j / 4u * s_stride + j % 4u;
                sums[j][part] = step_sum(sums[j][part], ints[j][part], scale, x_scale[s], centred, offset, start[s]);
            }
        }
        x_scale += KVI_DOTS_ROWS, start += KVI_DOTS_ROWS;
        for (uint32_t i = 0; i < next_lines; i++, next += KVI_TILE_LINE) __builtin_prefetch(next);
    }
    for (uint32_t j = 0; j < n_groups * KVI_DOTS_ROWS; j++)
        for (uint32_t part = 0; part < PARTS; part++) store(y16[j] + part * VW, sums[j][part]);
}

INLINE void gemm_rows(const kvi_tile *t, const expanded *e, uint32_t size, uint32_t chunk, bool once, bool centred,
                      const kvi_dots_input *x, uint32_t n_rows, uint32_t p, uint32_t first, uint32_t n_out, float *y,
                      size_t ldy)
{
    float y16[BLOCKS * KVI_DOTS_ROWS][KVI_TILE_ROWS];
    for (uint32_t row = 0, n; row < n_rows; row += n) {
        const bool full = n_rows - row > (BLOCKS - 1u) * KVI_DOTS_ROWS;
        n = (full ? BLOCKS : 1u) * KVI_DOTS_ROWS;
        for (uint32_t j = 0; j < n; j++) {
            if (e->first_word && row + j < n_rows) get_row(y16[j], p, first, n_out, y + (row + j) * ldy);
            else memset(y16[j], 0, sizeof y16[j]);
        }
        if (full || BLOCKS == 1u) gemm_tile(t, e, size, chunk, once, centred, x, row, BLOCKS, y16);
        else gemm_tile(t, e, size, chunk, once, centred, x, row, 1, y16);
        for (uint32_t j = 0; j < n && row + j < n_rows; j++) put_row(y16[j], p, first, n_out, y + (row + j) * ldy);
    }
}

static void gemm_sized(const kvi_tile *t, const expanded *e, const kvi_dots_input *x, uint32_t n_rows, uint32_t p,
                       uint32_t first, uint32_t n_out, float *y, size_t ldy)
{
    const bool centred = t->offset == KVI_TILE_CENTRED;
    /* Steps of 16 and of 32 are a chunk, which begins with nothing to fetch. */
#define GEMM(size, chunk, once)                                                                                        \
    do {                                                                                                               \
        if (centred) gemm_rows(t, e, size, chunk, once, true, x, n_rows, p, first, n_out, y, ldy);                     \
        else gemm_rows(t, e, size, chunk, once, false, x, n_rows, p, first, n_out, y, ldy);                            \
    } while (0)
#define GEMM_OF(size)                                                                                                  \
    do {                                                                                                               \
        if (t->step == 32u) GEMM(size, 8u, true);                                                                      \
        else if (t->step == 16u) GEMM(size, 4u, true);                                                                 \
        else GEMM(size, 8u, false);                                                                                    \
    } while (0)
#ifdef SIZES_DIFFER
    const uint32_t size = SIZE_OF(t->bits, t->values);
    if (size == 4u) GEMM_OF(4u);
    else if (size == 5u) GEMM_OF(5u);
    else if (size == 6u) GEMM_OF(6u);
    else GEMM_OF(8u);
#else
    GEMM(8u, CHUNK, false);
#endif
#undef GEMM_OF
#undef GEMM
}

static void gemm(const kvi_tile *t, const uint8_t *panels, uint32_t first, uint32_t n_out, const kvi_dots_input *x,
                 uint32_t n_rows, void *scratch, float *y, size_t ldy)
{
    const uint32_t size = SIZE_OF(t->bits, t->values);
    const size_t n_lines = KVI_DOTS_DEPTH / 4u, bytes = n_lines * LINE_BYTES(size);
    uint8_t *lines = scratch, *narrow = lines + bytes - n_lines * KVI_TILE_LINE; /* what is widened lies behind */
    float *scales = (float *)(void *)(lines + bytes), *offsets = scales + KVI_DOTS_DEPTH / 16u * KVI_TILE_ROWS;
    for (uint32_t p = first / KVI_TILE_ROWS; p * KVI_TILE_ROWS < first + n_out; p++)
        for (uint32_t k = 0; k < t->n_in; k += KVI_DOTS_DEPTH) {
            const uint8_t *panel = panels + p * t->panel_bytes;
            const bool last = t->n_in - k <= KVI_DOTS_DEPTH;
            const uint32_t n_k = last ? t->n_in - k : KVI_DOTS_DEPTH, n_steps = (n_k + t->step - 1u) / t->step;
            const size_t end = last ? t->panel_bytes : kvi_tile_block_at(t, k + n_k);
            unpack_panel(t, panel, k, n_k, narrow, scales, offsets);
            for (uint32_t i = 0; i < n_steps * KVI_TILE_ROWS; i += VW) {
                const vf scale = load(scales + i);
                store(offsets + i, offset_of(t, size, scale, load(offsets + i)));
                if (WIDE(size)) store(scales + i, scale / 256.0f);
            }
            if (WIDE(size)) widen_lines(narrow, (n_k + KVI_TILE_RUN - 1u) / KVI_TILE_RUN * 2u * QUADS, lines);
            const expanded e = {
                .lines = lines,
                .scales = scales,
                .offsets = offsets,
                .first_word = k / 4u,
                .n_words = t->step < KVI_TILE_RUN ? (n_k + 15u) / 16u * 4u : (n_k + 31u) / 32u * 8u,
                .first_step = k / t->step,
                .next = panel + end,
                .next_lines = (uint32_t)((end - kvi_tile_block_at(t, k)) / KVI_TILE_LINE / n_steps) + 1u,
            };
            gemm_sized(t, &e, x, n_rows, p, first, n_out, y, ldy);
        }
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(v) #v
#define TEXT(v) TEXT_(v)
const kvi_cpu_dots JOIN(kvi_dots_, WAY) = {
    .name = TEXT(WAY), .panels = 1, .few = FEW, .quantize = quantize, .gemv = gemv, .gemm = gemm};
