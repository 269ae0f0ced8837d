/* Vectors of 16 lanes. What is written with +, -, *, / and the functions below is the same arithmetic on every level:
 * each lane is rounded as IEEE 754 says, and lanes are added up in one order. The compiler cuts a vector into the
 * registers that the level has (one of 512 bits, two of 256, four of 128). What it cannot know is in the level's header.
 *
 * A NaN is a NaN on every level; its payload may differ.
 */
#ifndef LMAAS_SIMD_H
#define LMAAS_SIMD_H

#include <math.h>
#include <string.h>

#include "../levels.h"

#define ALWAYS static inline __attribute__((always_inline))
#define JOIN_(name, level) name##_##level
#define JOIN(name, level) JOIN_(name, level)
#define OF_LEVEL(name) JOIN(name, LEVEL) /* -DLEVEL=avx2: name_avx2 */

#define VECTOR(name, element, count) typedef element name __attribute__((ext_vector_type(count)))
VECTOR(Floats, float, LANES);
VECTOR(Ints, int32_t, LANES);
VECTOR(Words, uint16_t, 2 * LANES);
VECTOR(ShortWords, int16_t, LANES);
VECTOR(EightWords, int16_t, 8);
VECTOR(Bytes, uint8_t, LANES);
VECTOR(SignedBytes, int8_t, LANES);
VECTOR(EightFloats, float, 8);
VECTOR(FourFloats, float, 4);

#if defined(__AVX512VNNI__)
#include "avx512.h"
#elif defined(__AVX2__)
#include "avx2.h"
#else
#include "reference.h"
#endif

/* ---- lanes ----------------------------------------------------------------------------------------------------- */

ALWAYS Floats all(float x) { return (Floats)x; }
ALWAYS Ints all_ints(int32_t x) { return (Ints)x; }
ALWAYS Floats multiply_add(Floats a, Floats b, Floats c) { return __builtin_elementwise_fma(a, b, c); }
ALWAYS Floats maximum(Floats a, Floats b) { return a > b ? a : b; } /* b where one is a NaN */
ALWAYS Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
ALWAYS Floats absolute(Floats x) { return __builtin_elementwise_abs(x); }
ALWAYS Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

/* The first `count` lanes of `x`, the others of `rest`. */
ALWAYS Floats first_of(size_t count, Floats x, Floats rest) {
  if (count >= LANES) return x;
  const Ints place = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return place < (int32_t)count ? x : rest;
}

/* Sum and largest of 16 lanes: halves are joined until one is left. */
ALWAYS float sum_of(Floats x) {
  const EightFloats eight = x.lo + x.hi;
  const FourFloats four = eight.lo + eight.hi;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

ALWAYS float largest_of(Floats x) {
  const EightFloats eight = x.lo > x.hi ? x.lo : x.hi;
  const FourFloats four = eight.lo > eight.hi ? eight.lo : eight.hi;
  const float even = four[0] > four[2] ? four[0] : four[2], odd = four[1] > four[3] ? four[1] : four[3];
  return even > odd ? even : odd;
}

/* ---- memory: `count` is of values from `x` on, and may be beyond 16 ------------------------------------------------ */

ALWAYS Floats load_all(const float *x) {
  Floats out;
  memcpy(&out, x, sizeof out);
  return out;
}

ALWAYS void store_all(float *x, Floats value) { memcpy(x, &value, sizeof value); }

/* The low byte of each lane. */
ALWAYS void store_bytes(uint8_t *out, size_t count, Ints x) {
  const Bytes bytes = __builtin_convertvector(x, Bytes);
  if (count >= LANES)
    memcpy(out, &bytes, sizeof bytes);
  else
    memcpy(out, &bytes, count);
}

/* Signed bytes; 0 beyond them. */
ALWAYS Ints load_bytes(const uint8_t *x, size_t count) {
  SignedBytes bytes = {};
  if (count >= LANES)
    memcpy(&bytes, x, sizeof bytes);
  else
    memcpy(&bytes, x, count);
  return __builtin_convertvector(bytes, Ints);
}

/* ---- functions ------------------------------------------------------------------------------------------------- */

/* e^x for x <= 88, 0 far below: 2^n times a polynomial of the rest (Cephes, expf); error below 2 ulp. */
ALWAYS Floats exponential(Floats x) {
  x = maximum(all(-104.0f), x); /* in this order a NaN stays one */
  const Floats n = __builtin_elementwise_rint(x * 1.44269504088896341f);
  Floats r = multiply_add(-n, all(0.693359375f), x);
  r = multiply_add(-n, all(-2.12194440e-4f), r);
  Floats p = all(1.9875691500e-4f);
  p = multiply_add(p, r, all(1.3981999507e-3f));
  p = multiply_add(p, r, all(8.3334519073e-3f));
  p = multiply_add(p, r, all(4.1665795894e-2f));
  p = multiply_add(p, r, all(1.6666665459e-1f));
  p = multiply_add(p, r, all(5.0000001201e-1f));
  p = multiply_add(p, r * r, r + 1.0f);
  return times_power(p, n);
}

#endif
