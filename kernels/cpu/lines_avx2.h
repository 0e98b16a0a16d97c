/* lines_avx2.h - a line of codes (tile_form.h) times a word of activations of four rows, on AVX2: sums += codes of both parts of the line times
 * the words at x. Written as instructions, because compilers fetch a line once per product and spill sums; so everything stays in registers, and a
 * product of many rows is half as fast again. Part of dots_avx2.c. */
typedef uint8_t word[4];
#define SUMS(how, i) [p##i] how(p[i][0]), [q##i] how(p[i][1])
#define WORDS                                                                                                          \
    [x0] "m"(*(const word *)x), [x1] "m"(*(const word *)(x + 4)), [x2] "m"(*(const word *)(x + 8)),                    \
        [x3] "m"(*(const word *)(x + 12))
/* Codes below 128: sums of 16 bits. first: they begin here. */
INLINE void add_small_line(__m256i p[KVI_DOTS_ROWS][PARTS], bool first, const uint8_t *line, const uint8_t *x)
{
#define WORD(i) "vpbroadcastd %[x" #i "], %[a]\n\t"
#define ADD(i)                                                                                                         \
    WORD(i)                                                                                                            \
    "vpmaddubsw %[a], %[w0], %[t]\n\t"                                                                                 \
    "vpmaddubsw %[a], %[w1], %[a]\n\t"                                                                                 \
    "vpaddw %[t], %[p" #i "], %[p" #i "]\n\t"                                                                          \
    "vpaddw %[a], %[q" #i "], %[q" #i "]\n\t"
#define BEGIN(i)                                                                                                       \
    WORD(i)                                                                                                            \
    "vpmaddubsw %[a], %[w0], %[p" #i "]\n\t"                                                                           \
    "vpmaddubsw %[a], %[w1], %[q" #i "]\n\t"
    __m256i a, t;
    if (first)
        __asm__(BEGIN(0) BEGIN(1) BEGIN(2) BEGIN(3)
                : SUMS("=&x", 0), SUMS("=&x", 1), SUMS("=&x", 2), SUMS("=&x", 3), [a] "=&x"(a)
                : [w0] "x"(load_line(line, 0)), [w1] "x"(load_line(line, 1)), WORDS);
    else
        __asm__(ADD(0) ADD(1) ADD(2) ADD(3)
                : SUMS("+x", 0), SUMS("+x", 1), SUMS("+x", 2), SUMS("+x", 3), [a] "=&x"(a), [t] "=&x"(t)
                : [w0] "x"(load_line(line, 0)), [w1] "x"(load_line(line, 1)), WORDS);
#undef ADD
#undef BEGIN
}
/* A wide line, 256 times what it says: products of 8 bits by 8 fill 16 bits in pairs, so both factors take 16 bits each, one of them by its upper
 * byte. wide_lines has the codes of columns 0 and 2 of each four, then those of columns 1 and 3 as upper bytes; the activations of columns 0 and 2
 * become upper bytes here. */
INLINE void add_wide_line(vi p[KVI_DOTS_ROWS][PARTS], const uint8_t *line, const uint8_t *x)
{
#define PAIR(i, w0, w1, a)                                                                                             \
    "vpmaddwd %[" w0 "], %[" a "], %[t]\n\t"                                                                           \
    "vpmaddwd %[" w1 "], %[" a "], %[" a "]\n\t"                                                                       \
    "vpaddd %[t], %[p" #i "], %[p" #i "]\n\t"                                                                          \
    "vpaddd %[" a "], %[q" #i "], %[q" #i "]\n\t"
#define ROW(i)                                                                                                         \
    WORD(i)                                                                                                            \
    "vpsraw $8, %[a], %[b]\n\t"                                                                                        \
    "vpsllw $8, %[a], %[a]\n\t" PAIR(i, "w0", "w1", "a") PAIR(i, "w2", "w3", "b")
    __m256i a, b, t;
    __asm__(ROW(0) ROW(1) ROW(2) ROW(3)
            : SUMS("+x", 0), SUMS("+x", 1), SUMS("+x", 2), SUMS("+x", 3), [a] "=&x"(a), [b] "=&x"(b), [t] "=&x"(t)
            : [w0] "x"(load_line(line, 0)), [w1] "x"(load_line(line, 1)), [w2] "x"(load_line(line, 2)),
              [w3] "x"(load_line(line, 3)), WORDS);
#undef ROW
#undef PAIR
#undef WORD
}
/* Makes n lines of codes wide, less 128: from `lines` to `wide`, which may end where they end. */
INLINE void widen_lines(const uint8_t *lines, uint32_t n, uint8_t *wide)
{
    const __m256i bias = _mm256_set1_epi8((char)-128), upper = _mm256_set1_epi16((short)0xff00);
    for (uint32_t i = 0; i < n; i++, lines += KVI_TILE_LINE, wide += 2u * KVI_TILE_LINE) {
        const __m256i w0 = _mm256_xor_si256((__m256i)load_line(lines, 0), bias),
                      w1 = _mm256_xor_si256((__m256i)load_line(lines, 1), bias);
        __m256i *to = (__m256i *)(void *)wide;
        to[0] = _mm256_srai_epi16(_mm256_slli_epi16(w0, 8), 8), to[1] = _mm256_srai_epi16(_mm256_slli_epi16(w1, 8), 8);
        to[2] = _mm256_and_si256(w0, upper), to[3] = _mm256_and_si256(w1, upper);
    }
}
