/* AVX-512 with VNNI: what the compiler cannot know. */
#include <immintrin.h>

enum {
  GROUP = 4,        /* neighbours of a row that one lane multiplies and adds at once: bytes, vpdpbusd */
  ZERO_POINT = 128, /* of a rounded row, because vpdpbusd multiplies unsigned by signed */
  VECTORS = 3,      /* of columns in a panel of weights */
  TILE = 8,         /* rows: TILE x VECTORS sums stay in registers */
  BLOCK_TILE = 8,   /* rows that are multiplied with weights of four bits at a time */
  BLEND = 4,        /* vectors of a head's values that are added up at a time */
};
typedef uint8_t Whole; /* a value of a rounded row */

ALWAYS __mmask16 lanes(size_t count) { return count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1); }
ALWAYS Floats load(const float *x, size_t count) { return (Floats)_mm512_maskz_loadu_ps(lanes(count), x); }
ALWAYS void store(float *x, size_t count, Floats value) { _mm512_mask_storeu_ps(x, lanes(count), (__m512)value); }

/* To the nearest, of two the even one; -2^31 for what has no int32. */
ALWAYS Ints to_ints(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }

/* x 2^n, for whole n of -151 .. 127, rounded once. */
ALWAYS Floats times_power(Floats x, Floats n) { return (Floats)_mm512_scalef_ps((__m512)x, (__m512)n); }

/* Each lane: sum + a0 b0 + a1 b1, of signed words. */
ALWAYS Ints add_pairs(Ints sum, Ints a, Ints b) { return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b); }

/* Each lane: sum + the products of GROUP whole numbers and weights. */
ALWAYS Ints add_group(Ints sum, Ints whole, Ints weights) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)whole, (__m512i)weights);
}
ALWAYS Ints load_weights(const int8_t *weights) { return (Ints)_mm512_load_si512(weights); }

/* Each lane: sum + the products of four nibbles and signed bytes. A block's factor is in the low word of its lane. */
ALWAYS Ints add_nibbles(Ints sum, Ints nibbles, Ints x) {
  return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)nibbles, (__m512i)x);
}
ALWAYS int32_t start_of_block(int even, int odd) { return even + odd; }
ALWAYS Ints spread_factors(Ints factors) { return factors & 0xffff; }
ALWAYS Ints add_block(Ints total, Ints sum, Ints factors) { return add_pairs(total, sum, factors); }

/* The first `count` of 64 bytes; 0 beyond them. */
ALWAYS Ints load_line(const uint8_t *x, size_t count) {
  return (Ints)_mm512_maskz_loadu_epi8(count >= LINE ? ~0ull : (1ull << count) - 1, x);
}
