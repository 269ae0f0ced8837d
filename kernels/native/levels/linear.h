/* What products of eight and of four bits share: rows to whole numbers, and what follows a product. */
#ifndef LMAAS_LINEAR_H
#define LMAAS_LINEAR_H

#include "simd.h"

enum { PANEL = VECTORS * LANES /* columns */ };

ALWAYS size_t panel_count(size_t out) { return round_up(out, PANEL) / PANEL; }

/* ---- rows ------------------------------------------------------------------------------------------------------ */

ALWAYS void normalize(const Linear *op, const float *x, float *out) {
  const size_t width = op->in;
  Floats sum = {}, squares = {};
  for (size_t i = 0; i < width; i += LANES) sum += load(x + i, width - i);
  const float mean = sum_of(sum) / (float)width;
  for (size_t i = 0; i < width; i += LANES) {
    const Floats off = first_of(width - i, load(x + i, width - i) - mean, all(0.0f));
    squares = multiply_add(off, off, squares);
  }
  const float scale = 1.0f / sqrtf(sum_of(squares) / (float)width + op->epsilon);
  for (size_t i = 0; i < width; i += LANES) {
    const Floats gain = load(op->gamma + i, width - i) * scale;
    store(out + i, width - i, multiply_add(load(x + i, width - i) - mean, gain, load(op->beta + i, width - i)));
  }
}

/* A row of the input, normed where the operator begins with a norm; `normed` has room for it. */
ALWAYS const float *row_of(const LinearRun *run, size_t row, float *normed) {
  const Linear *op = run->op;
  const float *x = run->x + row * op->in;
  if (!op->gamma) return x;
  normalize(op, x, normed);
  return normed;
}

/* What one whole number of a row stands for, if its largest value becomes `steps`. NaN for a row with a NaN or an
 * infinity. */
ALWAYS float step_of(const Linear *op, const float *x, float steps) {
  const size_t width = op->in;
  Floats most = {}, probe = {};
  for (size_t i = 0; i < width; i += LANES) {
    const Floats value = load(x + i, width - i);
    most = maximum(most, op->above_lowest ? first_of(width - i, value - op->lowest, all(0.0f)) : absolute(value));
    probe = multiply_add(value, all(0.0f), probe);
  }
  return largest_of(most) / steps + sum_of(probe);
}

/* Whole numbers of 16 values, plus `zero`, within 0 .. 255. */
ALWAYS Ints whole_of(const Linear *op, Floats x, float inverse, int zero) {
  const float lowest = op->above_lowest ? op->lowest : 0.0f;
  const Ints whole = to_ints((x - lowest) * inverse) + zero;
  return __builtin_elementwise_min(__builtin_elementwise_max(whole, all_ints(0)), all_ints(255));
}

/* ---- after a product ------------------------------------------------------------------------------------------- */

/* x * sigmoid(1.5957691 (x + 0.044715 x^3)): GELU by the tanh of GPT-2. */
ALWAYS Floats gelu(Floats x) {
  const Floats inner = multiply_add(x * x * x, all(0.044715f), x);
  return x / (exponential(minimum(all(88.0f), inner * -1.5957691216f)) + 1.0f);
}

ALWAYS void write_row(const LinearRun *run, size_t row, size_t column, const Ints *sums) {
  const Linear *op = run->op;
  for (int v = 0; v < VECTORS; v++) {
    const size_t at = column + v * LANES;
    if (at >= op->out) return;
    const size_t count = op->out - at;
    Floats y = multiply_add(to_floats(sums[v]), load_all(op->scales + at) * run->steps[row], load_all(op->bias + at));
    if (op->gelu) y = gelu(y);
    if (run->residual) y += load(run->residual + row * op->out + at, count);
    store(run->y + row * op->out + at, count, y);
  }
}

#endif
