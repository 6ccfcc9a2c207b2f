// Products with weights: tiles of ROWS x COLUMNS whose sums stay in registers, weights laid in panels of COLUMNS.
//
// Every element of a product is summed over the inner dimension in order, by fused multiply-adds, whatever tile it lies in. So a row's
// result does not depend on the rows beside it: batches cannot change a score, not even in its last bit.

#pragma once

#include "vectors.h"

// R rows of `a` times a panel of `b` (row i of it at b + i * b_stride) into `to`; sums begin with `from` (stride 0: one row for all).
template <int R>
static void tile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t inner, const float* from, int64_t from_stride,
                 float* to, int64_t to_stride) {
  Vector sums[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    sums[r][0] = load(from + r * from_stride);
    sums[r][1] = load(from + r * from_stride + LANES);
  }
  for (int64_t i = 0; i < inner; ++i, b += b_stride) {
    const Vector left = load(b), right = load(b + LANES);
    __builtin_prefetch(b + 32 * COLUMNS);
    __builtin_prefetch(b + 32 * COLUMNS + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const float factor = a[r * a_stride + i];
      sums[r][0] += factor * left;
      sums[r][1] += factor * right;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    store(to + r * to_stride, sums[r][0]);
    store(to + r * to_stride + LANES, sums[r][1]);
  }
}

using Tile = decltype(&tile<ROWS>);

// The tile function of `rows` rows, 1 to ROWS.
template <int R = ROWS>
static Tile tile_of(int64_t rows) {
  if constexpr (R > 1) {
    if (rows < R) return tile_of<R - 1>(rows);
  }
  return &tile<R>;
}

// A weight matrix [outputs, inputs] as the products want it: panels of COLUMNS outputs, each [inputs][COLUMNS], the last one padded with
// zeros; and a bias of as many columns, zeros where the model has none.
struct Weights {
  const float* panels;
  const float* bias;
  int64_t inputs, outputs;
};

// Calls work(tile function, first row, rows, first column) for each tile of a product with the weights; a panel stays in the fast cache
// while the rows pass by.
template <class Work>
static inline void each_tile(int64_t rows, const Weights& weights, Work work) {
  for (int64_t column = 0; column < weights.outputs; column += COLUMNS) {
    for (int64_t row = 0; row < rows; row += ROWS) {
      const int64_t count = rows - row < ROWS ? rows - row : ROWS;
      work(tile_of(count), row, count, column);
    }
  }
}

// [rows, inputs] times the weights, plus bias, into `to`; its stride is at least the outputs.
static inline void multiply(const float* a, int64_t a_stride, int64_t rows, const Weights& weights, float* to, int64_t to_stride) {
  each_tile(rows, weights, [&](Tile product, int64_t row, int64_t, int64_t column) {
    product(a + row * a_stride, a_stride, weights.panels + column * weights.inputs, COLUMNS, weights.inputs, weights.bias + column, 0,
            to + row * to_stride + column, to_stride);
  });
}
