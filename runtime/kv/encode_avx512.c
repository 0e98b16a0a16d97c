/* encode_avx512.c - the encoder compiled for AVX-512 (F, BW, DQ, VL). See encode_body.h. */
#if defined(__x86_64__)
#define ENCODER kvi_kv_encoder_avx512
#define VB 64u
#include "encode_body.h"
#else
typedef int kvi_encode_avx512_absent;
#endif
