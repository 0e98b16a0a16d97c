/* variant_panels.h - products of many rows: weights, keys and values as panels of numbers, and the product over a panel. Part of variant_body.h. */
static void widen(const void *src, kvi_dtype dtype, uint32_t n, float *dst)
{
    const unsigned char *p = src;
    const uint32_t size = kvi_dtype_bytes(dtype);
    uint32_t i = 0;
    if (dtype == KVI_BF16)
        for (; i + VW <= n; i += VW) store(dst + i, load_as(p + (size_t)i * 2, KVI_BF16));
    else if (dtype == KVI_F16)
        for (; i + VW <= n; i += VW) store(dst + i, load_as(p + (size_t)i * 2, KVI_F16));
    else memcpy(dst, src, (size_t)n * 4), i = n;
    for (; i < n; i++) dst[i] = scalar_as(p + (size_t)i * size, dtype);
}

typedef float v4 __attribute__((vector_size(16)));

/* A square of four rows and four columns: column i of the rows becomes dst[i * PANEL ..]. */
INLINE void turn4(const float *r0, const float *r1, const float *r2, const float *r3, float *dst)
{
    v4 a, b, c, d;
    memcpy(&a, r0, sizeof a);
    memcpy(&b, r1, sizeof b);
    memcpy(&c, r2, sizeof c);
    memcpy(&d, r3, sizeof d);
    const v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), AB = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const v4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const v4 out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                       __builtin_shufflevector(AB, CD, 0, 1, 4, 5), __builtin_shufflevector(AB, CD, 2, 3, 6, 7)};
    for (uint32_t i = 0; i < 4; i++) memcpy(dst + (size_t)i * PANEL, &out[i], sizeof out[i]);
}

static void pack(const void *w, kvi_dtype dtype, uint32_t n_rows, size_t n_in, uint32_t k0, uint32_t n_k, float *dst)
{
    enum { BLOCK = 64 };
    const size_t size = kvi_dtype_bytes(dtype);
    float rows[PANEL][BLOCK];
    if (n_rows < PANEL) memset(rows, 0, sizeof rows);
    for (uint32_t k = 0; k < n_k; k += BLOCK) {
        const uint32_t n = n_k - k < BLOCK ? n_k - k : BLOCK;
        for (uint32_t r = 0; r < n_rows; r++) {
            const unsigned char *at = (const unsigned char *)w + (r * n_in + k0 + k) * size;
            for (size_t ahead = BLOCK * size; ahead < 2 * BLOCK * size; ahead += 64) __builtin_prefetch(at + ahead);
            widen(at, dtype, n, rows[r]);
        }
        uint32_t i = 0;
        for (; i + 4 <= n; i += 4)
            for (uint32_t r = 0; r < PANEL; r += 4)
                turn4(rows[r] + i, rows[r + 1] + i, rows[r + 2] + i, rows[r + 3] + i,
                      dst + (size_t)(k + i) * PANEL + r);
        for (; i < n; i++)
            for (uint32_t r = 0; r < PANEL; r++) dst[(size_t)(k + i) * PANEL + r] = rows[r][i];
    }
}

/* One pack per kernel form, as kvi_cpu_kernel.pack wants it. */
#define PACK_OF(form, dtype)                                                                                           \
    static void pack_##form(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, uint32_t k0,        \
                            uint32_t n_k, float *dst)                                                                  \
    {                                                                                                                  \
        pack(kvi_cpu_plain_row(&w->desc, expert, first), dtype, n_rows, w->desc.n_in, k0, n_k, dst);                   \
    }
PACK_OF(f32, KVI_F32)
PACK_OF(f16, KVI_F16)
PACK_OF(bf16, KVI_BF16)
#undef PACK_OF

static void pack_decoded(const kvi_weight *w, uint32_t expert, uint32_t first, uint32_t n_rows, uint32_t k0,
                         uint32_t n_k, float *dst)
{
    float piece[KVI_CPU_KC];
    memset(piece, 0, sizeof piece);
    for (uint32_t r = 0; r < PANEL; r++) { /* missing rows are zero */
        if (r < n_rows) (void)kvi_weight_decode(&w->desc, expert, first + r, k0, n_k, piece);
        else if (r == n_rows) memset(piece, 0, sizeof piece);
        for (uint32_t k = 0; k < n_k; k++) dst[(size_t)k * PANEL + r] = piece[k];
    }
}

INLINE void mac_tile(const float *a, size_t lda, uint32_t m, uint32_t n_k, const float *b, float *c, size_t ldc,
                     uint32_t n_cols, bool add)
{
    vf lo[MR], hi[MR];
    for (uint32_t r = 0; r < m; r++) lo[r] = hi[r] = (vf){0};
    for (uint32_t k = 0; k < n_k; k++) {
        vf b0 = load(b + (size_t)k * PANEL), b1 = load(b + (size_t)k * PANEL + VW);
        for (uint32_t r = 0; r < m; r++) {
            vf x = splat(a[r * lda + k]);
            lo[r] = fma_vec(x, b0, lo[r]);
            hi[r] = fma_vec(x, b1, hi[r]);
        }
    }
    for (uint32_t r = 0; r < m; r++) {
        float *out = c + r * ldc;
        if (n_cols == PANEL) {
            store(out, add ? load(out) + lo[r] : lo[r]);
            store(out + VW, add ? load(out + VW) + hi[r] : hi[r]);
        } else {
            float tile[PANEL];
            store(tile, lo[r]);
            store(tile + VW, hi[r]);
            for (uint32_t i = 0; i < n_cols; i++) out[i] = add ? out[i] + tile[i] : tile[i];
        }
    }
}

static void panel_mac(const float *a, size_t lda, uint32_t n_rows, uint32_t n_k, const float *b, float *c, size_t ldc,
                      uint32_t n_cols, bool add)
{
    uint32_t r = 0;
    for (; r + MR <= n_rows; r += MR) mac_tile(a + r * lda, lda, MR, n_k, b, c + r * ldc, ldc, n_cols, add);
    for (; r + 4 <= n_rows; r += 4) mac_tile(a + r * lda, lda, 4, n_k, b, c + r * ldc, ldc, n_cols, add);
    for (; r < n_rows; r++) mac_tile(a + r * lda, lda, 1, n_k, b, c + r * ldc, ldc, n_cols, add);
}

/* VW codes of b bits that begin at p, b * VW a whole number of bytes. */
INLINE vf unpack_vector(const uint8_t *p, uint32_t bits)
{
    vu lane;
    for (uint32_t i = 0; i < VW; i++) lane[i] = i;
    uint64_t word = 0;
    memcpy(&word, p, bits * VW / 8u);
    vu low = (uint32_t)word - (vu){0}, wide = low;
    if (bits == 4u && VW == 16u) { /* lanes 8.. read the upper word */
        vu upper = (uint32_t)(word >> 32) - (vu){0};
        vu take = (vu)(lane > 7u);
        wide = (low & ~take) | (upper & take);
    }
    vu codes = (wide >> ((lane * bits) & 31u)) & ((1u << bits) - 1u);
    return __builtin_convertvector((vi)codes, vf);
}

INLINE void unpack_rows(const uint8_t *codes, uint32_t bits, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    const size_t row_bytes = n_cols / 8u * bits;
    for (uint32_t c = 0; c < n_cols; c += VW) {
        float *out = dst + (size_t)(c / PANEL * PANEL) * n_rows + c % PANEL;
        for (uint32_t r = 0; r < n_rows; r++)
            store(out + (size_t)r * PANEL, unpack_vector(codes + r * row_bytes + c * bits / 8u, bits));
    }
}

/* 8-bit codes, and 3-bit ones that cross bytes: one by one. */
static void unpack_scalar(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    const uint32_t bits = kvi_kv_code_bits(kind);
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++) {
            uint32_t code = kvi_kv_get_code(codes + (size_t)r * (n_cols / 8u * bits), c, bits);
            dst[(size_t)(c / PANEL * PANEL) * n_rows + (size_t)r * PANEL + c % PANEL] =
                kind == KVI_KV_F8 ? kvi_e4m3_to_f32((uint8_t)code) : (float)code;
        }
}

/* Trellis codes: every row is a ring (runtime/kv/trellis.h), read one number after the other. */
static void unpack_rings(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    const uint32_t bits = kvi_kv_code_bits(kind), row_bytes = n_cols / 8u * bits;
    const float *levels = kvi_kv_levels(bits);
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = codes + (size_t)r * row_bytes;
        for (uint32_t c = 0; c < n_cols; c += 8u) {
            uint32_t word = 0;
            for (uint32_t b = 0; b <= bits; b++) {
                const uint32_t at = c / 8u * bits + b;
                word |= (uint32_t)row[at < row_bytes ? at : 0u] << (8u * b);
            }
            for (uint32_t k = 0; k < 8u; k++, word >>= bits)
                dst[(size_t)((c + k) / PANEL * PANEL) * n_rows + (size_t)r * PANEL + (c + k) % PANEL] =
                    levels[word & (KVI_KV_STATES - 1u)];
        }
    }
}

static void unpack(const uint8_t *codes, kvi_kv_code kind, uint32_t n_rows, uint32_t n_cols, float *dst)
{
    if (kind == KVI_KV_Q4) unpack_rows(codes, 4, n_rows, n_cols, dst);
    else if (kind == KVI_KV_Q2) unpack_rows(codes, 2, n_rows, n_cols, dst);
    else if (kvi_kv_code_is_trellis(kind)) unpack_rings(codes, kind, n_rows, n_cols, dst);
    else if (kind == KVI_KV_I8)
        for (uint32_t r = 0; r < n_rows; r++)
            for (uint32_t c = 0; c < n_cols; c += VW)
                store(dst + (size_t)(c / PANEL * PANEL) * n_rows + (size_t)r * PANEL + c % PANEL,
                      widen_u8(codes + (size_t)r * n_cols + c));
    else unpack_scalar(codes, kind, n_rows, n_cols, dst);
}

static void affine(float *x, uint32_t n_rows, const float *a, const float *z, const float *o)
{
    const vf o0 = load(o), o1 = load(o + VW);
    for (uint32_t r = 0; r < n_rows; r++, x += PANEL) {
        const vf gain = splat(a[r]), zero = splat(z[r]);
        store(x, (load(x) * gain + zero) * o0);
        store(x + VW, (load(x + VW) * gain + zero) * o1);
    }
}

/* The normal form; the means of rows or those of columns are 0. */
static void normal(float *x, uint32_t n_rows, const float *a, const float *m, const float *o, const float *m_col)
{
    const vf o0 = load(o), o1 = load(o + VW), m0 = load(m_col), m1 = load(m_col + VW);
    for (uint32_t r = 0; r < n_rows; r++, x += PANEL) {
        const vf gain = splat(a[r]), mean = splat(m[r]);
        store(x, load(x) * gain * o0 + mean + m0);
        store(x + VW, load(x + VW) * gain * o1 + mean + m1);
    }
}
