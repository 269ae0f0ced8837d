/* What an operator hands to the functions that compute it, and the table of these functions for one level.
 *
 * A level is a set of instructions that a processor has or lacks. The sources in levels/ are compiled once for each,
 * and give the same answer to the last bit on all of them. `library.c` chooses the level.
 */
#ifndef LMAAS_LEVELS_H
#define LMAAS_LEVELS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { LANES = 16, LINE = 64 }; /* floats that are added up side by side, bytes in a cache line */

static inline size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

/* ---- Linear ---------------------------------------------------------------------------------------------------- */

typedef struct Level Level;
typedef struct Product Product;

enum { BLOCK = 32, MOST_BLOCKS = 256 }; /* four-bit weights of a column that share a factor; blocks that fit in a sum */

/* Four-bit weights as the graph has them: (nibble - 8) x the factor of the block x the step of the column. */
typedef struct {
  const uint8_t *nibbles; /* [out][blocks][BLOCK / 2], the first of two weights in the low half of a byte */
  const int8_t *factors;  /* [out][blocks] */
} BlockWeights;

typedef struct {
  void *api;
  const Level *level;
  const Product *product; /* of the level, for weights of eight or of four bits */
  size_t in, out;
  int8_t *weight, *factors; /* in the order of the level; factors of blocks of four-bit weights, else NULL */
  int32_t *start; /* for each column of a panel, what a sum begins with: it takes the zero point off again */
  float *scales, *bias;         /* [out], and zeros up to whole lanes */
  float *gamma, *beta, epsilon; /* [in]; gamma is NULL without a norm */
  int gelu, above_lowest;
  float lowest;
} Linear;

typedef struct {
  const Linear *op;
  const float *x, *residual; /* [rows, in], [rows, out] or NULL */
  float *y;
  void *rounded; /* `row_bytes` of each row */
  float *steps;  /* [rows]: what one whole number stands for */
  size_t rows, parts, rows_per_part;
} LinearRun;

/* ---- Attention ------------------------------------------------------------------------------------------------- */

enum { SCALE_BYTES = 4, QUAD = 4, MOST_SIZE = 256 };

typedef struct {
  size_t heads, size, width, rows, sequence, context; /* width: bytes of a key in the cache */
  float scale;
  const float *packed;
  float *out;
  uint8_t *keys, *values; /* NULL without a cache */
  const int32_t *seqlens;
  const size_t *starts; /* [rows + 1], of the new tokens of each row; NULL: `sequence` of each */
  int is_prompt;
  int *out_of_memory;
} AttentionRun;

/* ---- ArgMaxLogSumExp ------------------------------------------------------------------------------------------- */

typedef struct {
  const float *x;
  size_t columns;
  int64_t *argmax;
  float *log_sum;
} ArgmaxRun;

/* ---- the table ------------------------------------------------------------------------------------------------- */

struct Product {
  size_t (*row_bytes)(size_t in); /* of a rounded row */
  void (*round_part)(void *linear_run, size_t part);
  void (*multiply_part)(void *linear_run, size_t part);
};

struct Level {
  const char *name;
  int (*runs)(void);            /* whether the processor has it, and the operating system keeps its registers */
  size_t (*panels)(size_t out); /* of a weight with `out` columns: it is cut into panels of columns */
  /* They make `weight`, `factors` and `start`; 0 where memory is short. */
  int (*pack)(Linear *op, const int8_t *weight, int transposed);
  int (*pack_blocks)(Linear *op, const BlockWeights *weights);
  Product eight_bits, four_bits;
  void (*attend_part)(void *attention_run, size_t part);
  void (*reduce_row)(void *argmax_run, size_t row);
};

/* The level in use. */
const Level *chosen_level(void);

/* Memory of the thread that asks, kept for its next call; NULL where there is none. It is `scratch[use]`. */
enum { SCRATCH_ROWS, SCRATCH_ATTENTION, SCRATCH_STARTS, SCRATCH_USES };
void *scratch(int use, size_t bytes);

#endif
