/* Products with weights of four bits in blocks of 32, at one level.
 *
 * A weight of a column is (nibble - 8) x the factor of its block x the step of the column: all but the step are whole
 * numbers. A row is rounded to -127 .. 127, so the sum of a block is within 32 x 8 x 127 = 32,512 and fits in 16 bits. The
 * factor has eight bits, and the sum of up to 256 blocks fits in 32. So sums are exact, in any order.
 *
 * Nibbles are multiplied as they are, 0 .. 15. What the 8 adds is known for each row and block: a sum begins with it.
 */
#include "linear.h"

enum {
  NIBBLES = 4,                     /* neighbours of a row that one lane multiplies and adds at once */
  HALF = BLOCK / 2,                /* bytes of a block in one column; values in the low and in the high nibbles */
  STEPS = HALF / NIBBLES,          /* loads of a block */
  BLOCK_BYTES = PANEL * HALF,      /* of a block in a panel */
  MIDDLE = 8,                      /* the nibble that stands for 0 */
  MOST = 127,                      /* the largest whole number of a row */
};

ALWAYS size_t blocks(size_t in) { return round_up(in, BLOCK) / BLOCK; }

/* A row: its whole numbers, then for each block what its sums begin with. */
size_t OF_LEVEL(block_row_bytes)(size_t in) { return blocks(in) * (BLOCK + sizeof(int32_t)); }

/* ---- packing --------------------------------------------------------------------------------------------------- */

/* weight: [panels][blocks][STEPS][PANEL][NIBBLES], the first half of a block in the low nibbles
 * factors: [panels][blocks][PANEL] */
int OF_LEVEL(pack_blocks)(Linear *op, const BlockWeights *from) {
  const size_t panels = panel_count(op->out), count = blocks(op->in);
  op->weight = aligned_alloc(LINE, round_up(panels * count * BLOCK_BYTES, LINE));
  op->factors = aligned_alloc(LINE, round_up(panels * count * PANEL, LINE));
  op->start = aligned_alloc(LINE, panels * PANEL * sizeof *op->start);
  if (!op->weight || !op->factors || !op->start) return 0;
  memset(op->weight, 0, panels * count * BLOCK_BYTES), memset(op->factors, 0, panels * count * PANEL);
  memset(op->start, 0, panels * PANEL * sizeof *op->start);
  for (size_t n = 0; n < op->out; n++) {
    int64_t sum = 0;
    for (size_t block = 0; block < count; block++) {
      const size_t at = n * count + block, panel_block = n / PANEL * count + block;
      const uint8_t *nibbles = from->nibbles + at * HALF;
      uint8_t *out = (uint8_t *)op->weight + panel_block * BLOCK_BYTES + n % PANEL * NIBBLES;
      op->factors[panel_block * PANEL + n % PANEL] = from->factors[at];
      for (size_t k = 0; k < BLOCK; k++) {
        const int nibble = block * BLOCK + k < op->in ? nibbles[k / 2] >> k % 2 * 4 & 15 : MIDDLE;
        out[k % HALF / NIBBLES * PANEL * NIBBLES + k % NIBBLES] |= (uint8_t)(nibble << k / HALF * 4);
        sum += (nibble - MIDDLE) * from->factors[at];
      }
    }
    if (op->above_lowest) { /* a whole number of 0 is the lowest value and MOST steps */
      op->start[n] = (int32_t)(MOST * sum);
      op->bias[n] += op->lowest * op->scales[n] * (float)sum;
    }
  }
  return 1;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

ALWAYS float round_row(const Linear *op, const float *x, int8_t *out, int32_t *starts) {
  const size_t width = op->in, padded = blocks(width) * BLOCK;
  const float step = step_of(op, x, op->above_lowest ? 2.0f * MOST : MOST);
  const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
  const int zero = op->above_lowest ? 0 : MOST + 1, middle = op->above_lowest ? MOST : zero;
  memset(out + width, 0, padded - width);
  for (size_t i = 0; i < width; i += LANES) {
    const Ints whole = whole_of(op, load(x + i, width - i), inverse, zero) - middle;
    const Ints within = __builtin_elementwise_min(__builtin_elementwise_max(whole, all_ints(-MOST)), all_ints(MOST));
    store_bytes((uint8_t *)out + i, width - i, within);
  }
  for (size_t block = 0; block < blocks(width); block++) {
    int even = 0, odd = 0; /* of pairs of values */
    for (int k = 0; k < BLOCK; k += 4) {
      const int8_t *four = out + block * BLOCK + k;
      even += four[0] + four[1], odd += four[2] + four[3];
    }
    starts[block] = start_of_block(-MIDDLE * even, -MIDDLE * odd);
  }
  return step;
}

void OF_LEVEL(round_blocks_part)(void *data, size_t part) {
  const LinearRun *run = data;
  const Linear *op = run->op;
  float normed[op->gamma ? op->in : 1];
  const size_t first = part * run->rows_per_part, end = first + run->rows_per_part;
  for (size_t row = first; row < end && row < run->rows; row++) {
    int8_t *out = (int8_t *)run->rounded + row * OF_LEVEL(block_row_bytes)(op->in);
    run->steps[row] = round_row(op, row_of(run, row, normed), out, (int32_t *)(out + blocks(op->in) * BLOCK));
  }
}

/* ---- products -------------------------------------------------------------------------------------------------- */

/* `rows` rows from `row` on times one panel; `rows` is a constant wherever this is inlined. */
ALWAYS void multiply(const LinearRun *run, size_t panel, size_t row, const int rows) {
  const Linear *op = run->op;
  const size_t count = blocks(op->in), row_bytes = OF_LEVEL(block_row_bytes)(op->in);
  const int8_t *x = (const int8_t *)run->rounded + row * row_bytes;
  Ints totals[BLOCK_TILE][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) memcpy(&totals[r][v], op->start + panel * PANEL + v * LANES, sizeof(Ints));
  for (size_t block = 0; block < count; block++) {
    const int8_t *weight = op->weight + (panel * count + block) * BLOCK_BYTES;
    const int8_t *factors = op->factors + (panel * count + block) * PANEL;
    Ints sums[BLOCK_TILE][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      int32_t start;
      memcpy(&start, x + r * row_bytes + count * BLOCK + block * sizeof start, sizeof start);
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; v++) sums[r][v] = all_ints(start);
    }
#pragma GCC unroll 4
    for (int step = 0; step < STEPS; step++) {
      Ints low[VECTORS], high[VECTORS];
#pragma GCC unroll 3
      for (int v = 0; v < VECTORS; v++) {
        memcpy(&low[v], weight + (step * VECTORS + v) * LANES * NIBBLES, sizeof low[v]);
        high[v] = low[v] >> 4 & 0x0f0f0f0f, low[v] &= 0x0f0f0f0f;
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) {
        const int8_t *at = x + r * row_bytes + block * BLOCK + step * NIBBLES;
        int32_t first, second;
        memcpy(&first, at, sizeof first), memcpy(&second, at + HALF, sizeof second);
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; v++) {
          sums[r][v] = add_nibbles(sums[r][v], low[v], all_ints(first));
          sums[r][v] = add_nibbles(sums[r][v], high[v], all_ints(second));
        }
      }
    }
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++) {
      const Ints factor = spread_factors(load_bytes((const uint8_t *)factors + v * LANES, LANES));
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) totals[r][v] = add_block(totals[r][v], sums[r][v], factor);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) write_row(run, row + r, panel * PANEL, totals[r]);
}

void OF_LEVEL(multiply_blocks_part)(void *data, size_t part) {
  const LinearRun *run = data;
  const size_t panels = panel_count(run->op->out);
  for (size_t panel = part * panels / run->parts; panel < (part + 1) * panels / run->parts; panel++) {
    size_t row = 0;
    for (; row + BLOCK_TILE <= run->rows; row += BLOCK_TILE) multiply(run, panel, row, BLOCK_TILE);
#define LAST(count) \
  if (count < BLOCK_TILE && run->rows - row == count) multiply(run, panel, row, count)
    LAST(7);
    LAST(6);
    LAST(5);
    LAST(4);
    LAST(3);
    LAST(2);
    LAST(1);
  }
}
