/* The reference: plain C for any x86-64. Slow, above all where the processor has no FMA: the C library then computes it. */
#include "unmasked.h"

enum {
  GROUP = 2,      /* neighbours of a row that one lane multiplies and adds at once */
  ZERO_POINT = 0, /* of a rounded row */
  VECTORS = 1,    /* of columns in a panel of weights */
  TILE = 1,       /* rows that are multiplied at a time */
  BLOCK_TILE = 1, /* rows that are multiplied with weights of four bits at a time */
  BLEND = 1,      /* vectors of a head's values that are added up at a time */
};
typedef int16_t Whole; /* a value of a rounded row */

/* To the nearest, of two the even one; -2^31 for what has no int32. */
ALWAYS Ints to_ints(Floats x) {
  Ints out;
  for (int i = 0; i < LANES; i++) out[i] = fabsf(x[i]) < 0x1p31f ? (int32_t)rintf(x[i]) : INT32_MIN;
  return out;
}

/* x 2^n, for whole n of -151 .. 127, rounded once. */
ALWAYS Floats times_power(Floats x, Floats n) {
  for (int i = 0; i < LANES; i++) x[i] = n[i] >= -151.0f && n[i] <= 127.0f ? ldexpf(x[i], (int)n[i]) : x[i] * n[i];
  return x;
}

/* Each lane: sum + a0 b0 + a1 b1, of signed words. */
ALWAYS Ints add_pairs(Ints sum, Ints a, Ints b) {
  for (int i = 0; i < LANES; i++) sum[i] += (int16_t)a[i] * (int16_t)b[i] + (a[i] >> 16) * (b[i] >> 16);
  return sum;
}

/* Each lane: sum + the products of GROUP whole numbers and weights. */
ALWAYS Ints add_group(Ints sum, Ints whole, Ints weights) { return add_pairs(sum, whole, weights); }
ALWAYS Ints load_weights(const int8_t *weights) {
  int16_t words[GROUP * LANES];
  for (int i = 0; i < GROUP * LANES; i++) words[i] = weights[i];
  Ints out;
  memcpy(&out, words, sizeof out);
  return out;
}

/* Products of four nibbles and signed bytes are added to each lane; then a block's sum times its factor. */
ALWAYS Ints add_nibbles(Ints sum, Ints nibbles, Ints x) {
  for (int shift = 0; shift < 32; shift += 8) sum += (nibbles >> shift & 15) * (x << (24 - shift) >> 24);
  return sum;
}
ALWAYS int32_t start_of_block(int even, int odd) { return even + odd; }
ALWAYS Ints spread_factors(Ints factors) { return factors; }
ALWAYS Ints add_block(Ints total, Ints sum, Ints factors) { return total + sum * factors; }
