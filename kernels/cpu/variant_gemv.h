/* variant_gemv.h - products of few rows: one gemv per kernel form. Part of variant_body.h. */
#define STREAMS 8u
/* n_w rows `stride` bytes apart times n_x inputs; n_w, n_x and dtype are constants at every call. ahead: bytes
 * to ask for in advance; 0: none. */
INLINE void dot_block(const unsigned char *w, size_t stride, kvi_dtype dtype, uint32_t n_in, uint32_t n_w,
                      const float *x, uint32_t n_x, size_t ldx, uint32_t ahead, float *y, size_t y_stride, size_t ldy)
{
    const uint32_t size = dtype == KVI_F32 ? 4u : 2u;
    vf acc[STREAMS * 2u];
    for (uint32_t i = 0; i < n_w * n_x; i++) acc[i] = (vf){0};
    uint32_t k = 0;
    if (ahead)
        for (const uint32_t line = 64u / size; k + line <= n_in;) {
            /* The rows of a stream are contiguous, so a fixed distance ahead is right across row ends too. */
            for (uint32_t i = 0; i < n_w; i++) __builtin_prefetch(w + i * stride + (size_t)k * size + ahead);
#pragma GCC unroll 4
            for (const uint32_t end = k + line; k < end; k += VW) {
                const vf xs = load(x + k);
                for (uint32_t i = 0; i < n_w; i++)
                    acc[i] = fma_vec(load_as(w + i * stride + (size_t)k * size, dtype), xs, acc[i]);
            }
        }
    for (; k + VW <= n_in; k += VW) {
        vf xs[4];
        for (uint32_t j = 0; j < n_x; j++) xs[j] = load(x + j * ldx + k);
        for (uint32_t i = 0; i < n_w; i++) {
            vf ws = load_as(w + i * stride + (size_t)k * size, dtype);
            for (uint32_t j = 0; j < n_x; j++) acc[i * n_x + j] = fma_vec(ws, xs[j], acc[i * n_x + j]);
        }
    }
    for (uint32_t i = 0; i < n_w; i++)
        for (uint32_t j = 0; j < n_x; j++) {
            float total = sum(acc[i * n_x + j]);
            for (uint32_t t = k; t < n_in; t++)
                total += scalar_as(w + i * stride + (size_t)t * size, dtype) * x[j * ldx + t];
            y[j * ldy + i * y_stride] = total;
        }
}

/* Rows are split into n_streams equal runs, walked side by side: 8, or 4 of one input. Constants at a call: dtype, n_streams, n_x where it is 1. */
INLINE void gemv_typed(const unsigned char *w, kvi_dtype dtype, uint32_t n_rows, uint32_t n_in, const float *x,
                       uint32_t n_x, size_t ldx, uint32_t n_streams, uint32_t ahead, float *y, size_t ldy)
{
    const size_t row = (size_t)n_in * (dtype == KVI_F32 ? 4u : 2u);
    const uint32_t run = n_rows / n_streams;
    for (uint32_t r = 0; r < run; r++) {
        const unsigned char *at = w + r * row;
        if (n_x == 1) dot_block(at, run * row, dtype, n_in, n_streams, x, 1, ldx, ahead, y + r, run, ldy);
        else if (n_x == 2) dot_block(at, run * row, dtype, n_in, 8, x, 2, ldx, 0, y + r, run, ldy);
        else
            for (uint32_t half = 0; half < 2; half++) {
                const unsigned char *from = at + half * 4u * run * row;
                float *to = y + r + half * 4u * run;
                if (n_x == 3) dot_block(from, run * row, dtype, n_in, 4, x, 3, ldx, 0, to, run, ldy);
                else dot_block(from, run * row, dtype, n_in, 4, x, 4, ldx, 0, to, run, ldy);
            }
    }
    for (uint32_t r = run * n_streams; r < n_rows; r++)
        for (uint32_t j = 0; j < n_x; j++)
            dot_block(w + r * row, row, dtype, n_in, 1, x + j * ldx, 1, ldx, 0, y + r + j * ldy, 1, ldy);
}

#define GEMV_OF(form, dtype)                                                                                           \
    static void gemv_##form(const kvi_weight *weight, uint32_t expert, uint32_t first, uint32_t n_rows,                \
                            const float *x, uint32_t n_x, size_t ldx, float *y, size_t ldy)                            \
    {                                                                                                                  \
        const kvi_weight_desc *w = &weight->desc;                                                                      \
        for (uint32_t done = 0, n; done < n_rows; done += n) { /* a run of neighbours after the other */               \
            n = kvi_weight_neighbours(w, first + done);                                                                \
            if (n > n_rows - done) n = n_rows - done;                                                                  \
            const unsigned char *rows = kvi_cpu_plain_row(w, expert, first + done);                                    \
            if (n_x == 1 && weight->streams == 4)                                                                      \
                gemv_typed(rows, dtype, n, w->n_in, x, 1, ldx, 4, weight->ahead, y + done, ldy);                       \
            else gemv_typed(rows, dtype, n, w->n_in, x, n_x, ldx, STREAMS, weight->ahead, y + done, ldy);              \
        }                                                                                                              \
    }
GEMV_OF(f32, KVI_F32)
GEMV_OF(f16, KVI_F16)
GEMV_OF(bf16, KVI_BF16)
#undef GEMV_OF

/* Every form without a kernel of its own: a piece of a row becomes numbers, which then are a row like any other. */
static void gemv_decoded(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, const float *x,
                         uint32_t n_x, size_t ldx, float *y, size_t ldy)
{
    float piece[KVI_CPU_KC], part;
    const uint32_t n_in = w->desc.n_in;
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t k = 0; k < n_in; k += KVI_CPU_KC) {
            const uint32_t n = n_in - k < KVI_CPU_KC ? n_in - k : KVI_CPU_KC;
            (void)kvi_weight_decode(&w->desc, expert, first + r, k, n, piece);
            for (uint32_t j = 0; j < n_x; j++) {
                dot_block((const unsigned char *)piece, 0, KVI_F32, n, 1, x + j * ldx + k, 1, ldx, 0, &part, 1, 1);
                y[j * ldy + r] = k ? y[j * ldy + r] + part : part;
            }
        }
}
