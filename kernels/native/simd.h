/* Pieces of AVX-512 that both operators use. Every function works on one row, so that no row sees another. */
#ifndef LMAAS_SIMD_H
#define LMAAS_SIMD_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define ALWAYS static inline __attribute__((always_inline))

enum { LANES = 16, LINE = 64 }; /* floats in a register, bytes in a cache line */

ALWAYS size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

/* The first `count` of 16 lanes; all of them from 16 on. */
ALWAYS __mmask16 lanes(size_t count) { return count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1); }

/* e^x for x <= 88, 0 far below: 2^n times a polynomial of the rest (Cephes, expf); error below 2 ulp. */
ALWAYS __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x); /* in this order a NaN stays one */
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

/* Memory of the thread that asks, kept for its next call; NULL where there is none. It is `scratch[use]`. */
enum { SCRATCH_ROWS, SCRATCH_ATTENTION, SCRATCH_USES };
void *scratch(int use, size_t bytes);

#endif
