/* layout.h - where every byte of the KV cache stands. One source of truth for C, device code and tests: formats, record and
 * page sizes, offsets inside a record. Pure arithmetic, no memory.
 *
 *   pool    = byte extents in units of KVI_KV_UNIT (256 B)
 *   page    = KVI_KV_PAGE (128) positions of one cache group in one format:
 *             n_layers_in_group x n_kv_heads records, layer-major, head-minor, each `record_bytes` long
 *   record  = one layer, one KV head, 128 positions:  K side, then V side
 *
 *   16/32-bit formats:   K[128][D]  V[128][D]                    rows = tokens, row-major
 *   integer formats:     K codes, A[D], Z[D], O[128]  V codes, C[D], A[128], Z[128]     (fp16 vectors; see codec.h)
 *   trellis formats:     K codes, A[D], M[D], O[128]  V codes, A[D], O[128], M[D]       (the normal form; see codec.h)
 *
 *   latent groups:       the K side holds the latent (head_dim wide), the V side the roped key (rope_dim wide) that all heads share; there are
 *                        no other values. Formats and codes are the same: a K code for the latent, a V code for the roped key.
 *
 * K is stored after RoPE; both K and V are stored rotated (Hadamard) when the cache rotates. Source of the quantized record:
 * KVarN reference layout (arXiv 2606.03458), sizes as published for its code. */
#ifndef KVI_KV_LAYOUT_H
#define KVI_KV_LAYOUT_H
#include "../base/element.h"

#define KVI_KV_PAGE 128u /* positions per page; G of the papers */
#define KVI_KV_PAGE_SHIFT 7u
#define KVI_KV_UNIT 256u /* granularity of pool extents in bytes */
#define KVI_KV_NO_EXTENT 0xffffffffu
#define KVI_KV_MAX_HEAD_DIM 512u /* largest D of any backend */

/* What one side (K or V) of a record holds. The values are stored in snapshots: never renumber. */
typedef enum kvi_kv_code {
    KVI_KV_F32 = 0,
    KVI_KV_F16 = 1,
    KVI_KV_BF16 = 2,
    KVI_KV_F8 = 3, /* E4M3FN */
    KVI_KV_I8 = 4,
    KVI_KV_Q4 = 5,
    KVI_KV_Q3 = 6,
    KVI_KV_Q2 = 7,
    KVI_KV_T3 = 8, /* trellis.h */
    KVI_KV_T2 = 9
} kvi_kv_code;
#define KVI_KV_CODES 10u

/* A page format: K code in the low nibble, V code in the high nibble. */
typedef uint8_t kvi_kv_format;
#define KVI_KV_FORMAT(k, v) ((kvi_kv_format)((k) | ((v) << 4)))
#define KVI_KV_K_CODE(format) ((kvi_kv_code)((format)&15))
#define KVI_KV_V_CODE(format) ((kvi_kv_code)((format) >> 4))
enum {
    KVI_KV_FMT_F32 = KVI_KV_FORMAT(KVI_KV_F32, KVI_KV_F32),
    KVI_KV_FMT_F16 = KVI_KV_FORMAT(KVI_KV_F16, KVI_KV_F16),
    KVI_KV_FMT_BF16 = KVI_KV_FORMAT(KVI_KV_BF16, KVI_KV_BF16),
    KVI_KV_FMT_F8 = KVI_KV_FORMAT(KVI_KV_F8, KVI_KV_F8),
    KVI_KV_FMT_I8 = KVI_KV_FORMAT(KVI_KV_I8, KVI_KV_I8),
    KVI_KV_FMT_K4V4 = KVI_KV_FORMAT(KVI_KV_Q4, KVI_KV_Q4),
    KVI_KV_FMT_K4V2 = KVI_KV_FORMAT(KVI_KV_Q4, KVI_KV_Q2),
    KVI_KV_FMT_K3V3 = KVI_KV_FORMAT(KVI_KV_Q3, KVI_KV_Q3),
    KVI_KV_FMT_K2V2 = KVI_KV_FORMAT(KVI_KV_Q2, KVI_KV_Q2),
    KVI_KV_FMT_T3 = KVI_KV_FORMAT(KVI_KV_T3, KVI_KV_T3),
    KVI_KV_FMT_T2 = KVI_KV_FORMAT(KVI_KV_T2, KVI_KV_T2)
};

/* Entry of a page table, as the backends read it from step state. A page outside a window has unit KVI_KV_NO_EXTENT. */
typedef struct kvi_page_ref {
    uint32_t unit;   /* byte offset in the pool / KVI_KV_UNIT */
    uint32_t format; /* kvi_kv_format */
} kvi_page_ref;

/* Shape of one cache group. */
typedef struct kvi_kv_shape {
    uint32_t n_layers; /* layers of the group */
    uint32_t n_kv_heads;
    uint32_t head_dim; /* D */
    uint32_t rope_dim; /* width of the V side of a latent group; 0: no latent, K and V are D wide */
} kvi_kv_shape;
KVI_HD static inline uint32_t kvi_kv_v_dim(const kvi_kv_shape *shape)
{
    return shape->rope_dim ? shape->rope_dim : shape->head_dim;
}

KVI_HD static inline uint32_t kvi_kv_code_bits(kvi_kv_code code)
{
    switch (code) {
    case KVI_KV_F32: return 32;
    case KVI_KV_F16:
    case KVI_KV_BF16: return 16;
    case KVI_KV_F8:
    case KVI_KV_I8: return 8;
    case KVI_KV_Q4: return 4;
    case KVI_KV_Q3:
    case KVI_KV_T3: return 3;
    default: return 2;
    }
}
/* Numbers of a plain code. */
KVI_HD static inline kvi_dtype kvi_kv_plain_dtype(kvi_kv_code plain)
{
    return plain == KVI_KV_F16 ? KVI_F16 : plain == KVI_KV_BF16 ? KVI_BF16 : KVI_F32;
}
/* True for codes without side vectors and without loss of layout: plain rows. */
KVI_HD static inline int kvi_kv_code_is_plain(kvi_kv_code code) { return code <= KVI_KV_BF16; }
/* True for the codes of trellis.h, whose records are of the normal form. */
KVI_HD static inline int kvi_kv_code_is_trellis(kvi_kv_code code) { return code >= KVI_KV_T3; }
KVI_HD static inline int kvi_kv_format_is_plain(uint32_t format)
{
    return kvi_kv_code_is_plain((kvi_kv_code)(format & 15)) && kvi_kv_code_is_plain((kvi_kv_code)(format >> 4));
}

/* Offsets of one side relative to its start. K side: a, z are per channel (D), o per token (128). V side: a, z per token,
 * o per channel; of trellis codes z is per channel on either side. Vectors that a code lacks have length 0 and the offset of their successor. */
typedef struct kvi_kv_side {
    uint32_t codes_off, codes_bytes;
    uint32_t a_off, z_off, o_off; /* fp16 vectors */
    uint32_t bytes;               /* of the whole side */
} kvi_kv_side;

/* K side of a record with head dimension d. Integer codes: A[d], Z[d], O[128]; I8: O[128] alone (A = 1, Z = -128); F8: O[128]. */
KVI_HD static inline kvi_kv_side kvi_kv_k_side(kvi_kv_code code, uint32_t d)
{
    kvi_kv_side s;
    uint32_t affine = code >= KVI_KV_Q4 ? 2u * d : 0u;
    s.codes_off = 0;
    s.codes_bytes = d * KVI_KV_PAGE / 8u * kvi_kv_code_bits(code);
    s.a_off = s.codes_bytes;
    s.z_off = s.a_off + affine;
    s.o_off = s.z_off + affine;
    s.bytes = s.o_off + (kvi_kv_code_is_plain(code) ? 0u : 2u * KVI_KV_PAGE);
    return s;
}
/* V side, relative to its own start: O[d] (per channel), A[128], Z[128]. I8: A and Z alone; F8: A[128] alone. */
KVI_HD static inline kvi_kv_side kvi_kv_v_side(kvi_kv_code code, uint32_t d)
{
    kvi_kv_side s;
    uint32_t plain = (uint32_t)kvi_kv_code_is_plain(code);
    s.codes_off = 0;
    s.codes_bytes = d * KVI_KV_PAGE / 8u * kvi_kv_code_bits(code);
    s.o_off = s.codes_bytes;
    s.a_off = s.o_off + (code >= KVI_KV_Q4 ? 2u * d : 0u);
    s.z_off = s.a_off + (plain ? 0u : 2u * KVI_KV_PAGE);
    s.bytes = s.z_off + (plain || code == KVI_KV_F8 ? 0u : kvi_kv_code_is_trellis(code) ? 2u * d : 2u * KVI_KV_PAGE);
    return s;
}
KVI_HD static inline uint32_t kvi_kv_record_bytes(uint32_t format, uint32_t d)
{
    return kvi_kv_k_side((kvi_kv_code)(format & 15), d).bytes + kvi_kv_v_side((kvi_kv_code)(format >> 4), d).bytes;
}
/* The same of any group, latent ones too. */
KVI_HD static inline uint32_t kvi_kv_shape_record_bytes(uint32_t format, const kvi_kv_shape *shape)
{
    return kvi_kv_k_side((kvi_kv_code)(format & 15), shape->head_dim).bytes +
           kvi_kv_v_side((kvi_kv_code)(format >> 4), kvi_kv_v_dim(shape)).bytes;
}
/* Offset of the record of (group layer, KV head) from the start of its page. */
KVI_HD static inline uint64_t kvi_kv_record_off(uint32_t format, const kvi_kv_shape *shape, uint32_t layer,
                                                uint32_t head)
{
    return (uint64_t)(layer * shape->n_kv_heads + head) * kvi_kv_shape_record_bytes(format, shape);
}
KVI_HD static inline uint64_t kvi_kv_page_bytes(uint32_t format, const kvi_kv_shape *shape)
{
    return (uint64_t)shape->n_layers * shape->n_kv_heads * kvi_kv_shape_record_bytes(format, shape);
}
/* Extent of a page in pool units. */
KVI_HD static inline uint32_t kvi_kv_page_units(uint32_t format, const kvi_kv_shape *shape)
{
    return (uint32_t)((kvi_kv_page_bytes(format, shape) + KVI_KV_UNIT - 1u) / KVI_KV_UNIT);
}
/* Mean of K and V, side vectors included. */
static inline double kvi_kv_bits_per_element(uint32_t format, const kvi_kv_shape *shape)
{
    return 8.0 * kvi_kv_shape_record_bytes(format, shape) /
           ((shape->head_dim + kvi_kv_v_dim(shape)) * (double)KVI_KV_PAGE);
}

#endif
