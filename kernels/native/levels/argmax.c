/* ArgMaxLogSumExp at one level. */
#include "simd.h"

/* ln x for a normal x > 0: 2 artanh((m - 1) / (m + 1)) of the fraction; error below 1e-12. The C library's differs. */
ALWAYS float logarithm(float x) {
  int exponent;
  double fraction = frexp((double)x, &exponent);
  if (fraction < 0.70710678118654752) fraction *= 2.0, exponent--;
  const double s = (fraction - 1.0) / (fraction + 1.0), square = s * s;
  double series = 0.0;
  for (int k = 17; k > 0; k -= 2) series = series * square + 1.0 / k;
  return (float)(2.0 * s * series + exponent * 0.69314718055994531);
}

ALWAYS int first_lane(Ints found) {
  int lane = 0;
  while (!found[lane]) lane++;
  return lane;
}

void OF_LEVEL(reduce_row)(void *data, size_t row) {
  const ArgmaxRun *run = data;
  const size_t columns = run->columns;
  const float *x = run->x + row * columns;
  const Floats nothing = all(-INFINITY);
  Floats most = nothing, sum = {};
  for (size_t i = 0; i < columns; i += LANES) {
    const Floats value = first_of(columns - i, load(x + i, columns - i), nothing);
    if (__builtin_reduce_or(value != value)) {
      run->argmax[row] = (int64_t)i + first_lane(value != value);
      run->log_sum[row] = NAN;
      return;
    }
    most = maximum(most, value);
  }
  const float peak = largest_of(most);
  run->argmax[row] = -1;
  for (size_t i = 0; run->argmax[row] < 0; i += LANES) {
    const Ints equal = first_of(columns - i, load(x + i, columns - i), nothing) == all(peak);
    if (__builtin_reduce_or(equal)) run->argmax[row] = (int64_t)i + first_lane(equal);
  }
  for (size_t i = 0; i < columns; i += LANES)
    sum += first_of(columns - i, exponential(load(x + i, columns - i) - peak), all(0.0f));
  run->log_sum[row] = peak + logarithm(sum_of(sum));
}
