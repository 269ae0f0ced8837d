/* Attention: causal, over a cache of eight-bit keys and values that it extends in place; in floats where there is none.
 *
 *   packed [batch * sequence, 3 * heads * size] float       queries, keys, values of the new tokens
 *   past_key, past_value [batch, heads, context, size + 4] uint8, or both left out
 *   seqlens_k [batch] int32                                  tokens of a row after this run, less one
 *   total_sequence_length [] int32                           the most of them
 *   out [batch * sequence, heads * size] float
 *   present_key, present_value: the past with the new tokens; the same memory where the caller bound it so
 *
 * A key or a value of one head is `size` whole numbers and the float32 that one of them stands for. Keys are stored with
 * 128 added, because vpdpbusd multiplies unsigned by signed. A query is a whole number of 16 bits in two bytes, so what is
 * lost is lost by the cache alone. As with GroupQueryAttention, rows of a prompt are padded on the right.
 */
#include <math.h>
#include <string.h>

#include "ort.h"
#include "simd.h"

enum { SCALE_BYTES = 4, QUERIES = 4, QUAD = 4, ZERO_POINT = 128, MOST_SIZE = 256 };

typedef struct {
  OrtApi *api;
  size_t heads;
  float scale;
} Attention;

typedef struct {
  size_t heads, size, width, sequence, context, quads; /* width: bytes of a key in the cache */
  float scale;
  const float *packed;
  float *out;
  uint8_t *keys, *values; /* NULL without a cache */
  const int32_t *seqlens;
  int is_prompt;
  int *out_of_memory;
} Run;

/* One row of the batch and one head of it. */
typedef struct {
  const Run *run;
  uint8_t *keys, *values;
  const float *packed; /* of the first new token: its query; its key and value follow at `heads * size` */
  float *out;
  size_t past, count; /* tokens before this run, and in it */
} Head;

typedef struct {
  int8_t high[MOST_SIZE], low[MOST_SIZE];
  int32_t sum;
  float step;
} Query;

/* ---- eight bits ------------------------------------------------------------------------------------------------ */

ALWAYS float largest(const float *x, size_t size) {
  __m512 most = _mm512_setzero_ps(), probe = _mm512_setzero_ps();
  for (size_t i = 0; i < size; i += LANES) {
    const __m512 value = _mm512_maskz_loadu_ps(lanes(size - i), x + i);
    most = _mm512_max_ps(most, _mm512_abs_ps(value));
    probe = _mm512_fmadd_ps(value, _mm512_setzero_ps(), probe); /* NaN where there is one, or an infinity */
  }
  return _mm512_reduce_max_ps(most) + _mm512_reduce_add_ps(probe);
}

ALWAYS void store(const float *x, size_t size, int zero_point, uint8_t *out) {
  const float step = largest(x, size) / 127.0f;
  const __m512 inverse = _mm512_set1_ps(step > 0.0f ? 1.0f / step : 0.0f);
  const __m512i zero = _mm512_set1_epi32(zero_point);
  for (size_t i = 0; i < size; i += LANES) {
    const __mmask16 mask = lanes(size - i);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
    _mm512_mask_cvtepi32_storeu_epi8(out + i, mask, _mm512_add_epi32(whole, zero));
  }
  memcpy(out + size, &step, SCALE_BYTES);
}

ALWAYS float step_of(const uint8_t *row, size_t size) {
  float step;
  memcpy(&step, row + size, SCALE_BYTES);
  return step;
}

ALWAYS void split_query(const float *x, size_t size, Query *query) {
  const float step = largest(x, size) / (127.0f * 256.0f);
  const __m512 inverse = _mm512_set1_ps(step > 0.0f ? 1.0f / step : 0.0f);
  __m512i sum = _mm512_setzero_si512();
  for (size_t i = 0; i < size; i += LANES) {
    const __mmask16 mask = lanes(size - i);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
    const __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
    sum = _mm512_add_epi32(sum, whole);
    _mm_storeu_si128((__m128i *)(query->high + i), _mm512_cvtepi32_epi8(high));
    _mm_storeu_si128((__m128i *)(query->low + i), _mm512_cvtepi32_epi8(low));
  }
  for (size_t i = round_up(size, LANES); i < round_up(size, LINE); i += LANES) {
    _mm_storeu_si128((__m128i *)(query->high + i), _mm_setzero_si128());
    _mm_storeu_si128((__m128i *)(query->low + i), _mm_setzero_si128());
  }
  query->sum = _mm512_reduce_add_epi32(sum);
  query->step = step;
}

/* ---- softmax --------------------------------------------------------------------------------------------------- */

/* scores -> exp(scores - most), not divided by their sum, which is returned. */
ALWAYS float exponentials(float *scores, size_t count) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  for (size_t i = 0; i < count; i += LANES) {
    const __mmask16 mask = lanes(count - i);
    most = _mm512_mask_max_ps(most, mask, most, _mm512_maskz_loadu_ps(mask, scores + i));
  }
  const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 sum = _mm512_setzero_ps();
  for (size_t i = 0; i < count; i += LANES) {
    const __mmask16 mask = lanes(count - i);
    const __m512 power = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + i), peak));
    sum = _mm512_mask_add_ps(sum, mask, sum, power);
    _mm512_mask_storeu_ps(scores + i, mask, power);
  }
  return _mm512_reduce_add_ps(sum);
}

/* ---- one new token --------------------------------------------------------------------------------------------- */

/* [16 registers] -> the sum of each in its lane. */
ALWAYS __m512i sums_of(const __m512i *x) {
  __m512i pairs[8], fours[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++)
    pairs[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                                _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
  const __m512i low = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[0], fours[1], 0x88), _mm512_shuffle_i32x4(fours[0], fours[1], 0xdd));
  const __m512i high = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[2], fours[3], 0x88), _mm512_shuffle_i32x4(fours[2], fours[3], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
}

/* Whole products of a query with 16 keys; those from `count` on are repetitions of the last. */
ALWAYS __m512i products(const Head *head, const Query *query, size_t first, size_t count, const size_t size) {
  __m512i found[LANES];
#pragma GCC unroll 16
  for (size_t i = 0; i < LANES; i++) {
    const uint8_t *key = head->keys + (first + (i < count ? i : count - 1)) * head->run->width;
    __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
    for (size_t at = 0; at < size; at += LINE) {
      const __mmask64 mask = size - at >= LINE ? ~0ull : (1ull << (size - at)) - 1;
      const __m512i bytes = _mm512_maskz_loadu_epi8(mask, key + at);
      high = _mm512_dpbusd_epi32(high, bytes, _mm512_loadu_si512(query->high + at));
      low = _mm512_dpbusd_epi32(low, bytes, _mm512_loadu_si512(query->low + at));
    }
    found[i] = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  }
  return _mm512_sub_epi32(sums_of(found), _mm512_set1_epi32(ZERO_POINT * query->sum));
}

ALWAYS void add_value(__m512 *sums, const uint8_t *value, float weight, const size_t size) {
  const __m512 factor = _mm512_set1_ps(weight);
  for (size_t i = 0; i < size; i += LANES) {
    const __m128i bytes = _mm_maskz_loadu_epi8(lanes(size - i), value + i);
    sums[i / LANES] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), sums[i / LANES]);
  }
}

ALWAYS void attend_one(const Head *head, float *scores, const size_t size) {
  const Run *run = head->run;
  const size_t count = head->past + 1;
  Query query;
  split_query(head->packed, size, &query);
  const __m512 factor = _mm512_set1_ps(query.step * run->scale);
  for (size_t first = 0; first < count; first += LANES) {
    const size_t more = count - first < LANES ? count - first : LANES;
    float steps[LANES];
    for (size_t i = 0; i < LANES; i++) steps[i] = step_of(head->keys + (first + (i < more ? i : more - 1)) * run->width, size);
    const __m512 whole = _mm512_cvtepi32_ps(products(head, &query, first, more, size));
    _mm512_storeu_ps(scores + first, _mm512_mul_ps(_mm512_mul_ps(whole, factor), _mm512_loadu_ps(steps)));
  }
  const float sum = exponentials(scores, count);
  __m512 sums[MOST_SIZE / LANES];
  for (size_t i = 0; i < size; i += LANES) sums[i / LANES] = _mm512_setzero_ps();
  for (size_t j = 0; j < count; j++) {
    const uint8_t *value = head->values + j * run->width;
    add_value(sums, value, scores[j] * step_of(value, size), size);
  }
  const __m512 share = _mm512_set1_ps(1.0f / sum);
  for (size_t i = 0; i < size; i += LANES)
    _mm512_mask_storeu_ps(head->out + i, lanes(size - i), _mm512_mul_ps(sums[i / LANES], share));
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

static int reserve(const Run *run, size_t tokens, Panels *panels) {
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
  const Run *run = head->run;
  for (size_t j = 0; j < panels->padded_tokens; j++) {
    const uint8_t *key = head->keys + (j < tokens ? j : tokens - 1) * run->width;
    uint8_t *block = panels->bytes + j / LANES * run->quads * LANES * QUAD + j % LANES * QUAD;
    for (size_t quad = 0; quad < run->quads; quad++) memcpy(block + quad * LANES * QUAD, key + quad * QUAD, QUAD);
    panels->steps[j] = step_of(key, run->size) * run->scale;
  }
  for (size_t j = 0; j < tokens; j++) {
    const uint8_t *value = head->values + j * run->width;
    const __m512 step = _mm512_set1_ps(step_of(value, run->size));
    for (size_t i = 0; i < run->size; i += LANES) {
      const __m512i whole = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes(run->size - i), value + i));
      _mm512_storeu_ps(panels->values + j * panels->padded_size + i, _mm512_mul_ps(_mm512_cvtepi32_ps(whole), step));
    }
  }
}

static void lay_out_floats(const Head *head, size_t tokens, const Panels *panels) {
  const Run *run = head->run;
  const size_t all = run->heads * run->size;
  for (size_t j = 0; j < panels->padded_tokens; j++) {
    const float *key = head->packed + (j < tokens ? j : tokens - 1) * 3 * all + all;
    float *block = panels->keys + j / LANES * run->size * LANES + j % LANES;
    for (size_t i = 0; i < run->size; i++) block[i * LANES] = key[i];
    panels->steps[j] = run->scale;
    if (j < tokens) memcpy(panels->values + j * panels->padded_size, key + all, run->size * sizeof(float));
  }
}

/* `score` over keys in floats. */
ALWAYS void score_floats(const Run *run, const Panels *panels, const float *const *query, size_t keys, const int queries) {
  for (size_t block = 0; block * LANES < keys; block++) {
    const float *key = panels->keys + block * run->size * LANES;
    __m512 sums[QUERIES];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) sums[q] = _mm512_setzero_ps();
    for (size_t i = 0; i < run->size; i++) {
      const __m512 floats = _mm512_loadu_ps(key + i * LANES);
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) sums[q] = _mm512_fmadd_ps(floats, _mm512_set1_ps(query[q][i]), sums[q]);
    }
    const __m512 steps = _mm512_loadu_ps(panels->steps + block * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++)
      _mm512_storeu_ps(panels->scores + q * panels->padded_tokens + block * LANES, _mm512_mul_ps(sums[q], steps));
  }
}

/* Scores of `queries` neighbouring tokens with all keys up to the last of them. */
ALWAYS void score(const Run *run, const Panels *panels, const Query *query, size_t keys, const int queries) {
  for (size_t block = 0; block * LANES < keys; block++) {
    const uint8_t *key = panels->bytes + block * run->quads * LANES * QUAD;
    __m512i high[QUERIES], low[QUERIES];
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) high[q] = low[q] = _mm512_setzero_si512();
    for (size_t quad = 0; quad < run->quads; quad++) {
      const __m512i bytes = _mm512_loadu_si512(key + quad * LANES * QUAD);
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) {
        int32_t four[2];
        memcpy(&four[0], query[q].high + quad * QUAD, QUAD), memcpy(&four[1], query[q].low + quad * QUAD, QUAD);
        high[q] = _mm512_dpbusd_epi32(high[q], bytes, _mm512_set1_epi32(four[0]));
        low[q] = _mm512_dpbusd_epi32(low[q], bytes, _mm512_set1_epi32(four[1]));
      }
    }
    const __m512 steps = _mm512_loadu_ps(panels->steps + block * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++) {
      const __m512i whole = _mm512_sub_epi32(_mm512_add_epi32(_mm512_slli_epi32(high[q], 8), low[q]), _mm512_set1_epi32(ZERO_POINT * query[q].sum));
      const __m512 factor = _mm512_mul_ps(steps, _mm512_set1_ps(query[q].step));
      _mm512_storeu_ps(panels->scores + q * panels->padded_tokens + block * LANES, _mm512_mul_ps(_mm512_cvtepi32_ps(whole), factor));
    }
  }
}

/* out = weights [queries, keys] times values, 64 columns of a head at a time. */
ALWAYS void blend(const Panels *panels, size_t keys, const float *shares, float *const *out, size_t size, const int queries) {
  enum { COLUMNS = 4 };
  for (size_t at = 0; at < size; at += COLUMNS * LANES) {
    __m512 sums[QUERIES][COLUMNS];
    __mmask16 masks[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; c++) {
      masks[c] = size > at + c * LANES ? lanes(size - at - c * LANES) : 0;
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) sums[q][c] = _mm512_setzero_ps();
    }
    for (size_t j = 0; j < keys; j++) {
      __m512 value[COLUMNS];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; c++)
        value[c] = _mm512_maskz_loadu_ps(masks[c], panels->values + j * panels->padded_size + at + c * LANES);
#pragma GCC unroll 4
      for (int q = 0; q < queries; q++) {
        const __m512 weight = _mm512_set1_ps(panels->scores[q * panels->padded_tokens + j]);
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; c++) sums[q][c] = _mm512_fmadd_ps(weight, value[c], sums[q][c]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < queries; q++)
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; c++)
        _mm512_mask_storeu_ps(out[q] + at + c * LANES, masks[c], _mm512_mul_ps(sums[q][c], _mm512_set1_ps(shares[q])));
  }
}

ALWAYS void attend_some(const Head *head, const Panels *panels, size_t first, const int queries) {
  const Run *run = head->run;
  const size_t keys = head->past + first + queries, stride = 3 * run->heads * run->size;
  const float *rows[QUERIES];
  float shares[QUERIES], *out[QUERIES];
  for (int q = 0; q < queries; q++) {
    rows[q] = head->packed + (first + q) * stride;
    out[q] = head->out + (first + q) * run->heads * run->size;
  }
  if (panels->bytes) {
    Query query[QUERIES];
    for (int q = 0; q < queries; q++) split_query(rows[q], run->size, &query[q]);
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

static void attend_part(void *data, size_t part) {
  const Run *run = data;
  const size_t row = part / run->heads, number = part % run->heads, size = run->size;
  const size_t all = run->heads * size, stride = 3 * all, bytes = run->context * run->width;
  const size_t total = (size_t)run->seqlens[row] + 1;
  Head head = {run, run->keys ? run->keys + part * bytes : NULL, run->keys ? run->values + part * bytes : NULL,
               run->packed + row * run->sequence * stride + number * size, run->out + row * run->sequence * all + number * size,
               run->is_prompt ? 0 : total - run->sequence, run->is_prompt ? total : run->sequence};
  for (size_t s = 0; s < head.count && run->keys; s++) {
    const float *key = head.packed + s * stride + all;
    store(key, size, ZERO_POINT, head.keys + (head.past + s) * run->width);
    store(key + all, size, 0, head.values + (head.past + s) * run->width);
  }
  for (size_t s = head.count; s < run->sequence; s++) memset(head.out + s * all, 0, size * sizeof(float)); /* padding */
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

/* ---- the operator ---------------------------------------------------------------------------------------------- */

static OrtStatus *create_attention(const Operator *self, OrtApi *api, const OrtKernelInfo *info, void **kernel) {
  (void)self;
  int64_t heads;
  float scale;
  TRY(ort_int_attribute(api, info, "num_heads", &heads));
  TRY(ort_float_attribute(api, info, "scale", &scale));
  Attention *op = malloc(sizeof *op);
  if (!op || heads < 1) return free(op), ort_status(api, ORT_FAIL, "Attention: num_heads must be 1 or more");
  *op = (Attention){api, (size_t)heads, scale};
  *kernel = op;
  return NULL;
}

static OrtStatus *check(OrtApi *api, const Run *run, const Tensor *seqlens, int64_t total) {
  for (int64_t row = 0; row < seqlens->sides[0]; row++) {
    const int64_t tokens = (int64_t)run->seqlens[row] + 1, sequence = (int64_t)run->sequence;
    if (tokens < 1 || tokens > total || (run->is_prompt ? tokens > sequence : tokens < sequence))
      return ort_status(api, ORT_FAIL, "Attention: seqlens_k does not fit the tokens given");
  }
  return NULL;
}

static OrtStatus *run_attention(void *kernel, OrtKernelContext *context) {
  const Attention *op = kernel;
  OrtApi *api = op->api;
  Tensor packed, past[2], seqlens, total;
  TRY(read_input(api, context, 0, &packed));
  TRY(read_input(api, context, 1, &seqlens));
  TRY(read_input(api, context, 2, &total));
  TRY(read_input(api, context, 3, &past[0]));
  TRY(read_input(api, context, 4, &past[1]));
  const int64_t batch = seqlens.sides[0], rows = packed.sides[0], width = packed.sides[1];
  if (packed.rank != 2 || seqlens.rank != 1 || total.rank != 0 || batch < 1 || rows % batch || width % (3 * (int64_t)op->heads))
    return ort_status(api, ORT_FAIL, "Attention: packed must be [batch * sequence, 3 * heads * size]");
  Run run = {.heads = op->heads, .size = (size_t)width / (3 * op->heads), .sequence = (size_t)(rows / batch), .scale = op->scale,
             .packed = packed.data, .seqlens = seqlens.data};
  const int64_t most = *(const int32_t *)total.data;
  run.width = run.size + SCALE_BYTES, run.quads = round_up(run.size, QUAD) / QUAD;
  run.is_prompt = (int64_t)run.sequence == most;
  run.context = past[0].data ? (size_t)past[0].sides[2] : run.sequence;
  if (run.size % QUAD || run.size > MOST_SIZE) return ort_status(api, ORT_FAIL, "Attention: heads of a multiple of 4 up to 256");
  for (int i = 0; i < 2 && past[0].data; i++)
    if (past[i].rank != 4 || past[i].sides[0] != batch || past[i].sides[1] != (int64_t)op->heads ||
        past[i].sides[2] != (int64_t)run.context || past[i].sides[3] != (int64_t)run.width || most > (int64_t)run.context)
      return ort_status(api, ORT_FAIL, "Attention: past must be [batch, heads, context, size + 4] and hold all tokens");
  TRY(check(api, &run, &seqlens, most));
  const int64_t out_sides[] = {rows, width / 3};
  const int64_t sides[] = {batch, (int64_t)op->heads, (int64_t)run.context, (int64_t)run.width};
  const size_t bytes = (size_t)batch * run.heads * run.context * run.width;
  void *out, *present[2] = {NULL, NULL};
  TRY(make_output(api, context, 0, out_sides, 2, &out));
  for (int i = 0; i < 2 && past[0].data; i++) {
    TRY(make_output(api, context, (size_t)i + 1, sides, 4, &present[i]));
    if (present[i] != past[i].data) memcpy(present[i], past[i].data, bytes);
  }
  int out_of_memory = 0;
  run.out = out, run.keys = present[0], run.values = present[1], run.out_of_memory = &out_of_memory;
  TRY(ort_parallel(api, context, attend_part, (size_t)batch * run.heads, &run));
  return out_of_memory ? ort_status(api, ORT_FAIL, "Attention: out of memory") : NULL;
}

static const char *attention_name(const Operator *self) { return (void)self, "Attention"; }
static int input_type(const Operator *self, size_t index) {
  (void)self;
  return index == 0 ? ORT_FLOAT : index < 3 ? ORT_INT32 : ORT_UINT8;
}
static int output_type(const Operator *self, size_t index) { return (void)self, index ? ORT_UINT8 : ORT_FLOAT; }
static size_t input_count(const Operator *self) { return (void)self, 5; }
static size_t output_count(const Operator *self) { return (void)self, 3; }
static int input_kind(const Operator *self, size_t index) { return (void)self, index < 3 ? ORT_REQUIRED : ORT_OPTIONAL; }
static int output_kind(const Operator *self, size_t index) { return (void)self, index ? ORT_OPTIONAL : ORT_REQUIRED; }

const Operator attention_operator = {
    .version = API_VERSION, .name = attention_name, .provider = on_cpu, .input_type = input_type,
    .input_count = input_count, .output_type = output_type, .output_count = output_count, .destroy = free,
    .input_kind = input_kind, .output_kind = output_kind, .input_memory = in_host_memory, .create = create_attention,
    .run = run_attention, .first_version = only_version, .last_version = only_version,
};
