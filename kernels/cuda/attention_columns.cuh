/* attention_columns.cuh - which columns (query row * heads per KV head + head) a block of decode attention serves, which split of the context, and
 * where its partial results stand. Shared by all kernels that leave partial results for attn_combine_*. */
#ifndef KVI_ATTENTION_COLUMNS_CUH
#define KVI_ATTENTION_COLUMNS_CUH
#include "attention_params.h"
#include "ptx.cuh"

/* Columns [first, end) of a sequence, at most as many as the kernel has at a time. */
struct kvi_columns {
    uint32_t seq, first, end;
};

/* Number `index` of the groups of `size` columns: every sequence has its own, one after the other, so that none is empty but those behind the
 * last. False: there is none. Of each sequence only rows [p.first_row, p.first_row + p.n_rows) of the batch. */
KVI_DEV bool kvi_columns_of(const kvi_cuda_attention_params &p, uint32_t size, uint32_t index, kvi_columns &out)
{
    const uint32_t n_seqs = ((const kvi_cuda_step *)p.step.step)->n_seqs, per_kv = p.n_heads / p.kv.n_kv_heads;
    const kvi_cuda_seq *seqs = (const kvi_cuda_seq *)p.step.seqs;
    const uint32_t last_row = p.first_row + p.n_rows;
    for (uint32_t s = 0; s < n_seqs; s++) {
        const uint32_t first = seqs[s].first_row, end = first + seqs[s].n_rows,
                       from = first > p.first_row ? first : p.first_row, to = end < last_row ? end : last_row;
        if (from >= to) continue;
        const uint32_t n_cols = (to - from) * per_kv, n = (n_cols + size - 1u) / size;
        if (index < n) {
            out.seq = s;
            out.first = (from - first) * per_kv + index * size;
            out.end = index + 1u < n ? out.first + size : (to - first) * per_kv;
            return true;
        }
        index -= n;
    }
    out.seq = out.first = out.end = 0;
    return false;
}

/* Where the partial result of a column in split `split` stands. */
KVI_DEV uint64_t kvi_slot_of(const kvi_cuda_attention_params &p, const kvi_cuda_seq &seq, uint32_t kv_head,
                             uint32_t col, uint32_t split)
{
    const uint32_t per_kv = p.n_heads / p.kv.n_kv_heads;
    const uint64_t row = seq.first_row - p.first_row + col / per_kv, head = kv_head * per_kv + col % per_kv;
    return (row * p.n_heads + head) * p.n_parts + p.first_part + split;
}

#endif
