/* variant_bandwidth.h - the bandwidth probe. Part of variant_body.h. */
/* n_streams is a constant at every call. Eight streams with a prefetch: 29 GB/s where one stream gets 27 and, without
 * prefetch, 24. */
INLINE uint64_t read_parts(const unsigned char *base, uint64_t part, uint32_t n_streams)
{
    vu acc[8];
    for (uint32_t i = 0; i < 8; i++) acc[i] = (vu){0};
    for (uint64_t at = 0; at < part; at += 64)
        for (uint32_t s = 0; s < n_streams; s++) {
            __builtin_prefetch(base + s * part + at + (n_streams > 1 ? 2048 : 4096));
            for (uint32_t k = 0; k < 64; k += VB) {
                vu v;
                memcpy(&v, base + s * part + at + k, sizeof v);
                acc[s & 7] += v;
            }
        }
    uint64_t total = 0;
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t k = 0; k < VW; k++) total += acc[i][k];
    return total;
}

static uint64_t read_streams(const void *data, uint64_t bytes, uint32_t n_streams)
{
    return n_streams > 1 ? read_parts(data, bytes / 8 / 64 * 64, 8) : read_parts(data, bytes / 64 * 64, 1);
}
