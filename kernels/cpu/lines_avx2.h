/* lines_avx2.h - a line of codes (tile_form.h) times a word of activations of four rows, on AVX2: sums += codes of both parts of the line times
 * the words at x. Written as instructions, because compilers fetch a line once per product and spill sums; so everything stays in registers, and a
 * product of many rows is half as fast again. Part of dots_avx2.c. */
typedef uint8_t word[4];
#define SUMS(i) [p##i] "+x"(p[i][0]), [q##i] "+x"(p[i][1])
#define WORDS                                                                                                          \
    [x0] "m"(*(const word *)x), [x1] "m"(*(const word *)(x + 4)), [x2] "m"(*(const word *)(x + 8)),                    \
        [x3] "m"(*(const word *)(x + 12))
/* Codes below 128: sums of 16 bits. */
INLINE void add_small_line(__m256i p[KVI_DOTS_ROWS][PARTS], const uint8_t *line, const uint8_t *x)
{
#define ROW(i)                                                                                                         \
    "vpbroadcastd %[x" #i "], %[a]\n\t"                                                                                \
    "vpmaddubsw %[a], %[w0], %[t]\n\t"                                                                                 \
    "vpmaddubsw %[a], %[w1], %[a]\n\t"                                                                                 \
    "vpaddw %[t], %[p" #i "], %[p" #i "]\n\t"                                                                          \
    "vpaddw %[a], %[q" #i "], %[q" #i "]\n\t"
    __m256i a, t;
    __asm__(ROW(0) ROW(1) ROW(2) ROW(3)
            : SUMS(0), SUMS(1), SUMS(2), SUMS(3), [a] "=&x"(a), [t] "=&x"(t)
            : [w0] "x"(load_line(line, 0)), [w1] "x"(load_line(line, 1)), WORDS);
#undef ROW
}
/* Codes of 8 bits, less 128: each pair of products fills 16 bits. */
INLINE void add_line(vi p[KVI_DOTS_ROWS][PARTS], const uint8_t *line, const uint8_t *x)
{
#define PART(sum, w, size)                                                                                             \
    "vpsignb %[" w "], %[a], %[t]\n\t"                                                                                 \
    "vpmaddubsw %[t], %[" size "], %[t]\n\t"                                                                           \
    "vpmaddwd %[ones], %[t], %[t]\n\t"                                                                                 \
    "vpaddd %[t], %[" sum "], %[" sum "]\n\t"
#define ROW(i) "vpbroadcastd %[x" #i "], %[a]\n\t" PART("p" #i, "w0", "s0") PART("q" #i, "w1", "s1")
    const __m256i bias = _mm256_set1_epi8((char)-128);
    const __m256i w0 = _mm256_xor_si256((__m256i)load_line(line, 0), bias),
                  w1 = _mm256_xor_si256((__m256i)load_line(line, 1), bias);
    __m256i a, t;
    __asm__(ROW(0) ROW(1) ROW(2) ROW(3)
            : SUMS(0), SUMS(1), SUMS(2), SUMS(3), [a] "=&x"(a), [t] "=&x"(t)
            : [w0] "x"(w0), [w1] "x"(w1), [s0] "x"(_mm256_abs_epi8(w0)), [s1] "x"(_mm256_abs_epi8(w1)),
              [ones] "x"(_mm256_set1_epi16(1)), WORDS);
#undef ROW
#undef PART
}
