/* AVX2 with FMA, and with AVX-VNNI where the compiler may use it: what the compiler cannot know. */
#include <immintrin.h>

#include "unmasked.h"

#ifdef __AVXVNNI__
enum {
  GROUP = 4,        /* neighbours of a row that one lane multiplies and adds at once: bytes, vpdpbusd */
  ZERO_POINT = 128, /* of a rounded row, because vpdpbusd multiplies unsigned by signed */
};
typedef uint8_t Whole; /* a value of a rounded row */
#else
enum {
  GROUP = 2,      /* words: vpmaddubsw would multiply bytes, but its sums saturate at 16 bits */
  ZERO_POINT = 0, /* of a rounded row */
};
typedef int16_t Whole;
#endif
enum {
  VECTORS = 1, /* of columns in a panel of weights */
  TILE = 6,    /* rows: TILE x VECTORS sums stay in 12 of 16 registers */
  BLOCK_TILE = 4, /* rows that are multiplied with weights of four bits at a time */
  BLEND = 1,   /* vectors of a head's values that are added up at a time */
};

ALWAYS __m256i low(Ints x) { return (__m256i)x.lo; }
ALWAYS __m256i high(Ints x) { return (__m256i)x.hi; }
ALWAYS Ints both(__m256i low, __m256i high) { return (Ints)__builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7); }

/* To the nearest, of two the even one; -2^31 for what has no int32. */
ALWAYS Ints to_ints(Floats x) {
  return both(_mm256_cvtps_epi32((__m256)x.lo), _mm256_cvtps_epi32((__m256)x.hi));
}

/* x 2^n, for whole n of -151 .. 127: the first product is exact, so that it is rounded once. */
ALWAYS Floats times_power(Floats x, Floats n) {
  const Ints whole = to_ints(n), half = whole >> 1;
  return x * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
}

/* Each lane: sum + a0 b0 + a1 b1, of signed words. */
ALWAYS Ints add_pairs(Ints sum, Ints a, Ints b) {
#ifdef __AVXVNNI__
  return both(_mm256_dpwssd_avx_epi32(low(sum), low(a), low(b)), _mm256_dpwssd_avx_epi32(high(sum), high(a), high(b)));
#else
  return sum + both(_mm256_madd_epi16(low(a), low(b)), _mm256_madd_epi16(high(a), high(b)));
#endif
}

/* Each lane: sum + the products of GROUP whole numbers and weights. */
#ifdef __AVXVNNI__
ALWAYS Ints add_group(Ints sum, Ints whole, Ints weights) {
  return both(_mm256_dpbusd_avx_epi32(low(sum), low(whole), low(weights)),
              _mm256_dpbusd_avx_epi32(high(sum), high(whole), high(weights)));
}
ALWAYS Ints load_weights(const int8_t *weights) {
  Ints out;
  memcpy(&out, weights, sizeof out);
  return out;
}
#else
ALWAYS Ints add_group(Ints sum, Ints whole, Ints weights) { return add_pairs(sum, whole, weights); }
ALWAYS Ints load_weights(const int8_t *weights) {
  const __m128i *bytes = (const __m128i *)weights;
  return both(_mm256_cvtepi8_epi16(_mm_load_si128(bytes)), _mm256_cvtepi8_epi16(_mm_load_si128(bytes + 1)));
}
#endif

/* Products of four nibbles and signed bytes are added to each lane; then a block's sum times its factor. */
#ifdef __AVXVNNI__
ALWAYS Ints add_nibbles(Ints sum, Ints nibbles, Ints x) { return add_group(sum, nibbles, x); }
ALWAYS int32_t start_of_block(int even, int odd) { return even + odd; }
ALWAYS Ints spread_factors(Ints factors) { return factors & 0xffff; }
#else
/* Each word of a lane has the sum of two of the four: two products are within 2 x 15 x 127, so vpmaddubsw is exact. */
ALWAYS Ints add_nibbles(Ints sum, Ints nibbles, Ints x) {
  return both(_mm256_add_epi16(low(sum), _mm256_maddubs_epi16(low(nibbles), low(x))),
              _mm256_add_epi16(high(sum), _mm256_maddubs_epi16(high(nibbles), high(x))));
}
ALWAYS int32_t start_of_block(int even, int odd) { return (int32_t)((uint32_t)odd << 16 | (uint16_t)even); }
ALWAYS Ints spread_factors(Ints factors) { return factors << 16 | (factors & 0xffff); }
#endif
ALWAYS Ints add_block(Ints total, Ints sum, Ints factors) { return add_pairs(total, sum, factors); }
