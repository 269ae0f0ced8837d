/* Linear at one level: rows to whole numbers, their products with panels of weights, and what follows.
 *
 * A row is rounded by its own largest value, as the graph's plain operators do it. Sums are of whole numbers, so they
 * are exact; what follows is done lane by lane in one order. An answer depends on its own row only, to the last bit.
 */
#include "linear.h"

ALWAYS size_t groups(const Linear *op) { return round_up(op->in, GROUP) / GROUP; }

size_t OF_LEVEL(panels)(size_t out) { return panel_count(out); }

size_t OF_LEVEL(row_bytes)(size_t in) { return round_up(in, GROUP) * sizeof(Whole); }

/* weight: [panels][groups][PANEL][GROUP] */
int OF_LEVEL(pack)(Linear *op, const int8_t *weight, int transposed) {
  const size_t panels = panel_count(op->out), panel_bytes = groups(op) * PANEL * GROUP;
  op->weight = aligned_alloc(LINE, round_up(panels * panel_bytes, LINE));
  op->start = aligned_alloc(LINE, panels * PANEL * sizeof *op->start);
  if (!op->weight || !op->start) return 0;
  memset(op->weight, 0, panels * panel_bytes), memset(op->start, 0, panels * PANEL * sizeof *op->start);
  const size_t row_step = transposed ? 1 : op->out, column_step = transposed ? op->in : 1;
  for (size_t panel = 0; panel < panels; panel++) {
    const size_t first = panel * PANEL, columns = op->out - first < PANEL ? op->out - first : PANEL;
    for (size_t k = 0; k < op->in; k++) {
      const int8_t *row = weight + k * row_step + first * column_step;
      int8_t *out = op->weight + panel * panel_bytes + k / GROUP * PANEL * GROUP + k % GROUP;
      for (size_t n = 0; n < columns; n++) {
        out[n * GROUP] = row[n * column_step];
        op->start[first + n] += row[n * column_step];
      }
    }
  }
  for (size_t n = 0; n < op->out; n++) op->start[n] *= op->above_lowest ? 0 : -ZERO_POINT;
  return 1;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* 0 .. 255, or less by the zero point that the level does without. */
ALWAYS void store_whole(Whole *out, size_t count, Ints x, int shift) {
  if (sizeof *out == 1) {
    store_bytes((uint8_t *)out, count, x);
    return;
  }
  const ShortWords words = __builtin_convertvector(x - shift, ShortWords);
  if (count >= LANES)
    memcpy(out, &words, sizeof words);
  else
    memcpy(out, &words, count * sizeof *out);
}

/* Whole numbers for one row; returns their step. */
ALWAYS float round_row(const Linear *op, const float *x, Whole *out) {
  const size_t width = op->in;
  const float step = step_of(op, x, op->above_lowest ? 255.0f : 127.0f);
  const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  const int zero = op->above_lowest ? 0 : 128;
  for (size_t i = 0; i < width; i += LANES)
    store_whole(out + i, width - i, whole_of(op, load(x + i, width - i), inverse, zero), zero - (ZERO_POINT ? zero : 0));
  return step;
}

void OF_LEVEL(round_part)(void *data, size_t part) {
  const LinearRun *run = data;
  const Linear *op = run->op;
  float normed[op->gamma ? op->in : 1];
  const size_t first = part * run->rows_per_part, end = first + run->rows_per_part;
  for (size_t row = first; row < end && row < run->rows; row++) {
    const float *x = row_of(run, row, normed);
    run->steps[row] = round_row(op, x, (Whole *)run->rounded + row * groups(op) * GROUP);
  }
}

/* ---- products -------------------------------------------------------------------------------------------------- */

/* `rows` rows from `row` on times one panel; `rows` is a constant wherever this is inlined. */
ALWAYS void multiply(const LinearRun *run, size_t panel, size_t row, const int rows) {
  const Linear *op = run->op;
  const size_t stride = groups(op) * GROUP;
  const int8_t *weight = op->weight + panel * groups(op) * PANEL * GROUP;
  const Whole *x = (const Whole *)run->rounded + row * stride;
  Ints sums[TILE][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) memcpy(&sums[r][v], op->start + panel * PANEL + v * LANES, sizeof(Ints));
  for (size_t group = 0; group < groups(op); group++) {
    Ints columns[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) columns[v] = load_weights(weight + (group * VECTORS + v) * LANES * GROUP);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      int32_t neighbours;
      memcpy(&neighbours, x + r * stride + group * GROUP, sizeof neighbours);
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; v++) sums[r][v] = add_group(sums[r][v], all_ints(neighbours), columns[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) write_row(run, row + r, panel * PANEL, sums[r]);
}

void OF_LEVEL(multiply_part)(void *data, size_t part) {
  const LinearRun *run = data;
  const size_t panels = panel_count(run->op->out);
  for (size_t panel = part * panels / run->parts; panel < (part + 1) * panels / run->parts; panel++) {
    size_t row = 0;
    for (; row + TILE <= run->rows; row += TILE) multiply(run, panel, row, TILE);
#define LAST(count) \
  if (count < TILE && run->rows - row == count) multiply(run, panel, row, count)
    LAST(7);
    LAST(6);
    LAST(5);
    LAST(4);
    LAST(3);
    LAST(2);
    LAST(1);
  }
}
