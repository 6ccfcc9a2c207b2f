// Attention of one segment's queries over its path: the keys and values of its ancestors, then its own, causally.
//
// The logits of a tile of queries lie at the positions of their keys, whatever segments the keys come from, and every sum runs over
// positions in order. So what comes out does not depend on how a batch shares prefixes. Logits are in units of log 2: queries come scaled so.

#pragma once

#include "products.h"

// A run of keys and values of one key head, at consecutive positions.
struct Run {
  const float* keys;    // panels of COLUMNS keys, each [head width][COLUMNS]; what is beyond `tokens` is anything finite
  const float* values;  // [tokens][value stride]
  int64_t offset;       // position of the first
  int64_t tokens;
};

struct Rules {
  int64_t head_width, value_stride;  // the stride is the head width rounded up to COLUMNS
  int64_t window;                    // a query sees so many positions, its own included; 0 for all before it
  float softcap;                     // logits become softcap * tanh(logits / softcap), in the same units; 0 for none
};

// Softmax of a row of logits at positions [first, last], in place; zeros from `begin` and up to `end`, both multiples of LANES.
// Returns the sum of the weights, which are not divided by it.
static inline float softmax(float* logits, int64_t begin, int64_t first, int64_t last, int64_t end, float softcap) {
  for (int64_t i = begin; i < first; ++i) logits[i] = -INFINITY;
  for (int64_t i = last + 1; i < end; ++i) logits[i] = -INFINITY;
  if (softcap != 0) {
    for (int64_t i = begin; i < end; i += LANES) {
      const Vector before = load(logits + i);
      store(logits + i, before == -INFINITY ? before : softcap * hyperbolic_tangent(before / softcap));
    }
  }
  Vector most = all(-INFINITY);
  for (int64_t i = begin; i < end; i += LANES) most = greater(load(logits + i), most);
  const Vector peak = all(greatest(most));
  Vector total{};
  for (int64_t i = begin; i < end; i += LANES) {
    const Vector weight = power_of_two(load(logits + i) - peak);
    store(logits + i, weight);
    total += weight;
  }
  return sum(total);
}

// Up to ROWS queries [count][head width], scaled, ascending in position.
//
// Args:
//   positions: of the queries.
//   logits: ROWS x `logits_stride` of scratch, the stride at least the greatest position + 2 * COLUMNS.
//   found: ROWS x value stride of scratch; on return the rows' attention, divided.
static inline void attend(const float* queries, const int64_t* positions, int64_t count, const Run* runs, int64_t run_count,
                          const Rules& rules, float* logits, int64_t logits_stride, float* found) {
  alignas(64) static const float zeros[COLUMNS] = {};
  const int64_t past = positions[count - 1] + 1;
  const int64_t lowest = rules.window && positions[0] >= rules.window ? positions[0] - rules.window + 1 : 0;
  const Tile product = tile_of(count);
  for (int64_t i = 0; i < run_count; ++i) {
    const Run& run = runs[i];
    for (int64_t first = run.offset; first < run.offset + run.tokens && first < past; first += COLUMNS) {
      if (first + COLUMNS <= lowest) continue;
      const float* panel = run.keys + (first - run.offset) * rules.head_width;
      product(queries, rules.head_width, panel, COLUMNS, rules.head_width, zeros, 0, logits + first, logits_stride);
    }
  }
  float sums[ROWS];
  const int64_t begin = lowest / LANES * LANES, end = rounded(past, LANES);
  for (int64_t row = 0; row < count; ++row) {
    const int64_t position = positions[row];
    const int64_t first = rules.window && position >= rules.window ? position - rules.window + 1 : 0;
    sums[row] = softmax(logits + row * logits_stride, begin, first > begin ? first : begin, position, end, rules.softcap);
  }
  bool begun = false;
  for (int64_t i = 0; i < run_count; ++i) {
    const Run& run = runs[i];
    const int64_t first = run.offset > lowest ? run.offset : lowest;
    const int64_t stop = run.offset + run.tokens < past ? run.offset + run.tokens : past;
    if (first >= stop) continue;
    for (int64_t column = 0; column < rules.value_stride; column += COLUMNS) {
      const float* from = begun ? found + column : zeros;
      product(logits + first, logits_stride, run.values + (first - run.offset) * rules.value_stride + column, rules.value_stride,
              stop - first, from, begun ? rules.value_stride : 0, found + column, rules.value_stride);
    }
    begun = true;
  }
  for (int64_t row = 0; row < count; ++row) {
    const float share = 1.0f / sums[row];
    float* values = found + row * rules.value_stride;
    for (int64_t i = 0; i < rules.value_stride; i += LANES) store(values + i, load(values + i) * share);
  }
}
