/* encode_avx2.c - the encoder compiled for AVX2. See encode_body.h. */
#if defined(__x86_64__)
#define ENCODER kvi_kv_encoder_avx2
#define VB 32u
#include "encode_body.h"
#else
typedef int kvi_encode_avx2_absent;
#endif
