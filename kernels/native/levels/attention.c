/* Attention at one level: a head of a row of the batch, its new tokens over all tokens up to them.
 *
 * A key or a value of one head is `size` whole numbers and the float32 that one of them stands for. Keys are stored with
 * 128 added. A query becomes whole numbers of 16 bits, so what is lost is lost by the cache alone.
 */
#include "simd.h"

enum { QUERIES = 4, KEY_ZERO = 128 };

/* One row of the batch and one head of it. */
typedef struct {
  const AttentionRun *run;
  uint8_t *keys, *values;
  const float *packed; /* of the first new token: its query; its key and value follow at `heads * size` */
  float *out;
  size_t past, count; /* tokens before this run, and in it */
} Head;

/* Its even values and its odd ones: as words, so are the bytes of a key. */
typedef struct {
  int16_t even[MOST_SIZE / 2], odd[MOST_SIZE / 2];
  int32_t sum;
  float step;
} Query;

/* ---- eight bits ------------------------------------------------------------------------------------------------ */

ALWAYS float largest(const float *x, size_t size) {
  Floats most = {}, probe = {};
  for (size_t i = 0; i < size; i += LANES) {
    const Floats value = load(x + i, size - i);
    most = maximum(most, absolute(value));
    probe = multiply_add(value, all(0.0f), probe); /* NaN where there is one, or an infinity */
  }
  return largest_of(most) + sum_of(probe);
}

ALWAYS void keep(const float *x, size_t size, int zero_point, uint8_t *out) {
  const float step = largest(x, size) / 127.0f, inverse = step > 0.0f ? 1.0f / step : 0.0f;
  for (size_t i = 0; i < size; i += LANES)
    store_bytes(out + i, size - i, to_ints(load(x + i, size - i) * inverse) + zero_point);
  memcpy(out + size, &step, SCALE_BYTES);
}

ALWAYS float step_of(const uint8_t *row, size_t size) {
  float step;
  memcpy(&step, row + size, SCALE_BYTES);
  return step;
}

ALWAYS void round_query(const float *x, size_t size, Query *query) {
  const float step = largest(x, size) / (127.0f * 256.0f), inverse = step > 0.0f ? 1.0f / step : 0.0f;
  Ints sum = {};
  for (size_t i = 0; i < round_up(size, LINE); i += LANES) {
    Ints whole = {};
    if (i < size) whole = to_ints(load(x + i, size - i) * inverse);
    sum += whole;
    const ShortWords words = __builtin_convertvector(whole, ShortWords);
    const EightWords even = words.even, odd = words.odd;
    memcpy(query->even + i / 2, &even, sizeof even), memcpy(query->odd + i / 2, &odd, sizeof odd);
  }
  query->sum = __builtin_reduce_add(sum);
  query->step = step;
}

/* `sum` and the products of 64 bytes of keys with as many values of a query. */
ALWAYS Ints add_keys(Ints sum, Ints bytes, Ints even, Ints odd) {
  return add_pairs(add_pairs(sum, bytes & 0x00ff00ff, even), (Ints)((Words)bytes >> 8), odd);
}

ALWAYS Ints whole_products(Ints sums, const Query *query) { return sums - KEY_ZERO * query->sum; }

/* ---- softmax --------------------------------------------------------------------------------------------------- */

/* scores -> exp(scores - most), not divided by their sum, which is returned. */
ALWAYS float exponentials(float *scores, size_t count) {
  Floats most = all(-INFINITY), sum = {};
  for (size_t i = 0; i < count; i += LANES)
    most = first_of(count - i, maximum(most, load(scores + i, count - i)), most);
  const float peak = largest_of(most);
  for (size_t i = 0; i < count; i += LANES) {
    const Floats power = exponential(load(scores + i, count - i) - peak);
    sum += first_of(count - i, power, all(0.0f));
    store(scores + i, count - i, power);
  }
  return sum_of(sum);
}

/* ---- one new token --------------------------------------------------------------------------------------------- */

/* [16 vectors] -> the sum of each in its lane. */
ALWAYS Ints sums_of(const Ints *x) {
  Ints pairs[8], fours[4];
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_TWO(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_TWO(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define EVEN_FOURS(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD_FOURS(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) pairs[i] = LOW(x[2 * i], x[2 * i + 1]) + HIGH(x[2 * i], x[2 * i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    fours[i] = LOW_TWO(pairs[2 * i], pairs[2 * i + 1]) + HIGH_TWO(pairs[2 * i], pairs[2 * i + 1]);
  const Ints low = EVEN_FOURS(fours[0], fours[1]) + ODD_FOURS(fours[0], fours[1]);
  const Ints high = EVEN_FOURS(fours[2], fours[3]) + ODD_FOURS(fours[2], fours[3]);
  return EVEN_FOURS(low, high) + ODD_FOURS(low, high);
}

/* Whole products of a query with 16 keys; those from `count` on are repetitions of the last. */
ALWAYS Ints products(const Head *head, const Query *query, size_t first, size_t count, const size_t size) {
  Ints found[LANES];
#pragma GCC unroll 16
  for (size_t i = 0; i < LANES; i++) {
    const uint8_t *key = head->keys + (first + (i < count ? i : count - 1)) * head->run->width;
    found[i] = (Ints){};
    for (size_t at = 0; at < size; at += LINE) {
      Ints even, odd;
      memcpy(&even, query->even + at / 2, sizeof even), memcpy(&odd, query->odd + at / 2, sizeof odd);
      found[i] = add_keys(found[i], load_line(key + at, size - at), even, odd);
    }
  }
  return whole_products(sums_of(found), query);
}

ALWAYS void add_value(Floats *sums, const uint8_t *value, float weight, const size_t size) {
  for (size_t i = 0; i < size; i += LANES)
    sums[i / LANES] = multiply_add(all(weight), to_floats(load_bytes(value + i, size - i)), sums[i / LANES]);
}

ALWAYS void attend_one(const Head *head, float *scores, const size_t size) {
  const AttentionRun *run = head->run;
  const size_t count = head->past + 1;
  Query query;
  round_query(head->packed, size, &query);
  const float factor = query.step * run->scale;
  for (size_t first = 0; first < count; first += LANES) {
    const size_t more = count - first < LANES ? count - first : LANES;
    float steps[LANES];
    for (size_t i = 0; i < LANES; i++) steps[i] = step_of(head->keys + (first + (i < more ? i : more - 1)) * run->width, size);
    store_all(scores + first, to_floats(products(head, &query, first, more, size)) * factor * load_all(steps));
  }
  const float sum = exponentials(scores, count);
  Floats sums[MOST_SIZE / LANES];
  for (size_t i = 0; i < size; i += LANES) sums[i / LANES] = all(0.0f);
  for (size_t j = 0; j < count; j++) {
    const uint8_t *value = head->values + j * run->width;
    add_value(sums, value, scores[j] * step_of(value, size), size);
  }
  for (size_t i = 0; i < size; i += LANES) store(head->out + i, size - i, sums[i / LANES] * (1.0f / sum));
}

/* ---- many new tokens ------------------------------------------------------------------------------------------- */

/* Keys and values of a head, laid out for many queries: 16 keys side by side, in bytes or in floats. */
typedef struct {
  uint8_t *bytes; /* [blocks of 16][quads][16][QUAD]; NULL without a cache */
  float *keys;    /* [blocks of 16][size][16]; NULL with one */
  float *steps;   /* [blocks of 16][16]: what a product with a key is multiplied by */
  float *values;  /* [tokens][padded size] */
  float *scores;  /* [QUERIES][padded tokens] */
  size_t padded_size, padded_tokens;
} Panels;

static int reserve(const AttentionRun *run, size_t tokens, Panels *panels) {
  panels->padded_size = round_up(run->size, LANES), panels->padded_tokens = round_up(tokens, LANES);
  const size_t value_floats = tokens * panels->padded_size, row_floats = (1 + QUERIES) * panels->padded_tokens;
  const size_t key_bytes = panels->padded_tokens * run->size * (run->keys ? 1 : sizeof(float));
  float *memory = scratch(SCRATCH_ATTENTION, key_bytes + (value_floats + row_floats) * sizeof(float));
  if (!memory) return 0;
  panels->values = memory, panels->steps = memory + value_floats, panels->scores = panels->steps + panels->padded_tokens;
  float *keys = panels->scores + QUERIES * panels->padded_tokens;
  panels->bytes = run->keys ? (uint8_t *)keys : NULL, panels->keys = run->keys ? NULL : keys;
  return 1;
}

static void lay_out_cache(const Head *head, size_t tokens, const Panels *panels) {
  const AttentionRun *run = head->run;
  const size_t quads = run->size / QUAD;
  for (size_t j = 0; j < panels->padded_tokens; j++) {
    const uint8_t *key = head->keys + (j < tokens ? j : tokens - 1) * run->width;
    uint8_t *block = panels->bytes + j / LANES * quads * LANES * QUAD + j % LANES * QUAD;
    for (size_t quad = 0; quad < quads; quad++) memcpy(block + quad * LANES * QUAD, key + quad * QUAD, QUAD);
    panels->steps[j] = step_of(key, run->size) * run->scale;
  }
  for (size_t j = 0; j < tokens; j++) {
    const uint8_t *value = head->values + j * run->width;
    const float step = step_of(value, run->size);
    for (size_t i = 0; i < run->size; i += LANES)
      store_all(panels->values + j * panels->padded_size + i, to_floats(load_bytes(value + i, run->size - i)) * step);
  }
}

static void lay_out_floats(const Head *head, size_t tokens, const Panels *panels) {
  const AttentionRun *run = head->run;
  const size_t width = run->heads * run->size;
  for (size_t j = 0; j < panels->padded_tokens; j++) {
    const float *key = head->packed + (j < tokens ? j : tokens - 1) * 3 * width + width;
    float *block = panels->keys + j / LANES * run->size * LANES + j % LANES;
    for (size_t i = 0; i < run->size; i++) block[i * LANES] = key[i];
    panels->steps[j] = run->scale;
    if (j < tokens) memcpy(panels->values + j * panels->padded_size, key + width, run->size * sizeof(float));
  }
}

/* `score` over keys in floats. */
ALWAYS void score_floats(const AttentionRun *run, const Panels *panels, const float *const *query, size_t keys, const int queries) {
  for (size_t block = 0; block * LANES < keys; block++) {
    const float *key = panels->keys + block * run->size * LANES;
    Floats sums[QUERIES];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) sums[q] = all(0.0f);
    for (size_t i = 0; i < run->size; i++) {
      const Floats floats = load_all(key + i * LANES);
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) sums[q] = multiply_add(floats, all(query[q][i]), sums[q]);
    }
    const Floats steps = load_all(panels->steps + block * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++)
      store_all(panels->scores + q * panels->padded_tokens + block * LANES, sums[q] * steps);
  }
}

/* Scores of `queries` neighbouring tokens with all keys up to the last of them. */
ALWAYS void score(const AttentionRun *run, const Panels *panels, const Query *query, size_t keys, const int queries) {
  const size_t quads = run->size / QUAD;
  for (size_t block = 0; block * LANES < keys; block++) {
    const uint8_t *key = panels->bytes + block * quads * LANES * QUAD;
    Ints sums[QUERIES];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) sums[q] = (Ints){};
    for (size_t quad = 0; quad < quads; quad++) {
      const Ints bytes = load_line(key + quad * LANES * QUAD, LINE);
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) {
        int32_t even, odd;
        memcpy(&even, query[q].even + quad * 2, QUAD), memcpy(&odd, query[q].odd + quad * 2, QUAD);
        sums[q] = add_keys(sums[q], bytes, all_ints(even), all_ints(odd));
      }
    }
    const Floats steps = load_all(panels->steps + block * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++)
      store_all(panels->scores + q * panels->padded_tokens + block * LANES,
                to_floats(whole_products(sums[q], &query[q])) * (steps * query[q].step));
  }
}

/* out = weights [queries, keys] times values, BLEND vectors of a head at a time. */
ALWAYS void blend(const Panels *panels, size_t keys, const float *shares, float *const *out, size_t size, const int queries) {
  for (size_t at = 0; at < size; at += BLEND * LANES) {
    Floats sums[QUERIES][BLEND];
#pragma GCC unroll 4
    for (int c = 0; c < BLEND; c++)
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) sums[q][c] = all(0.0f);
    for (size_t j = 0; j < keys; j++) {
      Floats value[BLEND];
#pragma GCC unroll 4
      for (int c = 0; c < BLEND; c++) {
        const size_t column = at + c * LANES;
        value[c] = load(panels->values + j * panels->padded_size + column, size > column ? size - column : 0);
      }
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) {
        const Floats weight = all(panels->scores[q * panels->padded_tokens + j]);
#pragma GCC unroll 4
        for (int c = 0; c < BLEND; c++) sums[q][c] = multiply_add(weight, value[c], sums[q][c]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
      for (int c = 0; c < BLEND; c++) {
        const size_t column = at + c * LANES;
        if (size > column) store(out[q] + column, size - column, sums[q][c] * shares[q]);
      }
  }
}

ALWAYS void attend_some(const Head *head, const Panels *panels, size_t first, const int queries) {
  const AttentionRun *run = head->run;
  const size_t keys = head->past + first + queries, stride = 3 * run->heads * run->size;
  const float *rows[QUERIES];
  float shares[QUERIES], *out[QUERIES];
  for (int q = 0; q < queries; q++) {
    rows[q] = head->packed + (first + q) * stride;
    out[q] = head->out + (first + q) * run->heads * run->size;
  }
  if (panels->bytes) {
    Query query[QUERIES];
    for (int q = 0; q < queries; q++) round_query(rows[q], run->size, &query[q]);
    score(run, panels, query, keys, queries);
  } else {
    score_floats(run, panels, rows, keys, queries);
  }
  for (int q = 0; q < queries; q++) {
    float *scores = panels->scores + q * panels->padded_tokens;
    const size_t seen = head->past + first + q + 1;
    shares[q] = 1.0f / exponentials(scores, seen);
    for (size_t j = seen; j < keys; j++) scores[j] = 0.0f;
  }
  blend(panels, keys, shares, out, run->size, queries);
}

static void attend_many(const Head *head) {
  Panels panels;
  const size_t tokens = head->past + head->count;
  if (!reserve(head->run, tokens, &panels)) {
    *head->run->out_of_memory = 1; /* whichever thread writes it, it is a 1 */
    return;
  }
  if (panels.bytes)
    lay_out_cache(head, tokens, &panels);
  else
    lay_out_floats(head, tokens, &panels);
  size_t first = 0;
  for (; first + QUERIES <= head->count; first += QUERIES) attend_some(head, &panels, first, QUERIES);
  for (; first < head->count; first++) attend_some(head, &panels, first, 1);
}

void OF_LEVEL(attend_part)(void *data, size_t part) {
  const AttentionRun *run = data;
  /* Threads take ranges of parts: each of them has some heads of all rows, as rows differ in their work. */
  const size_t row = part % run->rows, number = part / run->rows, size = run->size;
  const size_t all = run->heads * size, stride = 3 * all, at = (row * run->heads + number) * run->context * run->width;
  const size_t total = (size_t)run->seqlens[row] + 1, first = run->starts ? run->starts[row] : row * run->sequence;
  const size_t given = run->starts ? run->starts[row + 1] - first : run->sequence;
  if (!given) return;
  const size_t past = run->is_prompt && !run->starts ? 0 : total - given;
  Head head = {run, run->keys ? run->keys + at : NULL, run->keys ? run->values + at : NULL,
               run->packed + first * stride + number * size, run->out + first * all + number * size,
               past, total - past};
  for (size_t s = 0; s < head.count && run->keys; s++) {
    const float *key = head.packed + s * stride + all;
    keep(key, size, KEY_ZERO, head.keys + (head.past + s) * run->width);
    keep(key + all, size, 0, head.values + (head.past + s) * run->width);
  }
  for (size_t s = head.count; s < given; s++) memset(head.out + s * all, 0, size * sizeof(float)); /* padding */
  if (head.count > 1 || !run->keys) {
    attend_many(&head);
    return;
  }
  float scores[round_up(head.past + 1, LANES)];
  if (size == 64)
    attend_one(&head, scores, 64);
  else
    attend_one(&head, scores, size);
}
