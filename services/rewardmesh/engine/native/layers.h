// What a decoder and a batch consist of, and what is done to one row between products.

#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "products.h"

enum Normalisation : int64_t { RMS = 0, MEAN_AND_VARIANCE = 1 };

struct Norm {
  const float *weight, *bias;  // null weight: no normalisation; null bias: none
};

struct Shape {
  int64_t layers, width, heads, key_heads, head_width, rotary_width, feed_forward;
  int64_t normalisation, activation, gated, parallel;
  float epsilon, scale, softcap;
};

struct Layer {
  Norm before_attention, query, key, after_attention, before_mlp, after_mlp;
  Weights queries, keys_values, output, up, down;
  int64_t window, rope;
};

struct Decoder {
  Shape shape;
  const Layer* layers;
  Norm final;
};

struct Batch {
  int64_t rows, segments, queries, distinct, positions_end, most_threads;
  const int64_t* threads;                    // to compute with, at most `most_threads`; may change on the way
  float* states;                             // [rows, width]: embeddings; on return the final states of the queried rows
  const float *cosines, *sines;              // [ropes, rows, rotary width]
  const int64_t *positions, *queried;        // [rows]; [queries]: rows whose final states are wanted, ascending
  const int64_t *examples, *kinds;           // [distinct]: a row of each different token; [rows]: which of them a row's token is
  const int64_t *starts, *offsets, *tokens;  // [segments]
  const int64_t *path_starts, *paths;        // ancestors of segment s, then itself: paths[path_starts[s] .. path_starts[s + 1])
  const float* const* cached;                // [segments][layers][key, value] -> [key heads, tokens, head width]; null for rows
  const int64_t* cached_strides;             // [segments]: floats from one key head to the next
  float* const* kept;                        // the same, to be written; null where nothing is kept
};

// Calls work(first, lanes) for runs of LANES of a row, then for what is left of it one by one.
template <class Vectors, class Rest>
static inline void along(int64_t width, Vectors vectors, Rest rest) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) vectors(i);
  for (; i < width; ++i) rest(i);
}

// RMSNorm, or LayerNorm; `to` may be `from`.
static inline void normalise(const float* from, int64_t width, const Norm& norm, const Shape& shape, float* to) {
  float mean = 0;
  if (shape.normalisation == MEAN_AND_VARIANCE) {
    Vector total{};
    along(width, [&](int64_t i) { total += load(from + i); }, [&](int64_t i) { mean += from[i]; });
    mean = (mean + sum(total)) / static_cast<float>(width);
  }
  Vector squares{};
  float variance = 0;
  along(
      width,
      [&](int64_t i) {
        const Vector centred = load(from + i) - mean;
        squares += centred * centred;
      },
      [&](int64_t i) { variance += (from[i] - mean) * (from[i] - mean); });
  variance += sum(squares);
  const float factor = 1.0f / std::sqrt(variance / static_cast<float>(width) + shape.epsilon);
  along(
      width, [&](int64_t i) { store(to + i, (load(from + i) - mean) * factor * load(norm.weight + i)); },
      [&](int64_t i) { to[i] = (from[i] - mean) * factor * norm.weight[i]; });
  if (!norm.bias) return;
  along(width, [&](int64_t i) { store(to + i, load(to + i) + load(norm.bias + i)); }, [&](int64_t i) { to[i] += norm.bias[i]; });
}

// A head with its pairs (i, i + rotary / 2) rotated and the rest as it is, times `scale`.
static inline void rotate(const float* from, int64_t width, const float* cosines, const float* sines, int64_t rotary, float scale, float* to) {
  const int64_t half = rotary / 2;
  along(
      half,
      [&](int64_t i) {
        const Vector first = load(from + i), second = load(from + i + half);
        store(to + i, (first * load(cosines + i) - second * load(sines + i)) * scale);
        store(to + i + half, (second * load(cosines + i + half) + first * load(sines + i + half)) * scale);
      },
      [&](int64_t i) {
        const float first = from[i], second = from[i + half];
        to[i] = (first * cosines[i] - second * sines[i]) * scale;
        to[i + half] = (second * cosines[i + half] + first * sines[i + half]) * scale;
      });
  for (int64_t i = rotary; i < width; ++i) to[i] = from[i] * scale;
}
