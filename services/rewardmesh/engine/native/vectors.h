// Vectors of the widest kind that the compiler may use, and the few functions of them that a decoder needs.
//
// Only GCC's and Clang's vector extensions: the same code becomes AVX-512, AVX2 or NEON by the compiler's flags.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // 24 sums of a tile, two columns and one factor fit 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;  // 12 sums of 16 registers
#else
constexpr int LANES = 4, ROWS = 8;
#endif
constexpr int COLUMNS = 2 * LANES;
// A tile of a product is ROWS x COLUMNS.

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Bits __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4)));

static inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
static inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
static inline Vector all(float value) { return value - Vector{}; }
static inline Vector greater(Vector a, Vector b) { return a > b ? a : b; }

// Folds lanes by halves.
template <int N, class Fold>
static inline float folded(const float* lanes, Fold fold) {
  if constexpr (N == 1) {
    return lanes[0];
  } else {
    typedef float Half __attribute__((vector_size(N / 2 * 4)));
    Half halves[2];
    std::memcpy(halves, lanes, sizeof halves);
    halves[0] = fold(halves[0], halves[1]);
    return folded<N / 2>(reinterpret_cast<const float*>(halves), fold);
  }
}

static inline float sum(Vector value) {
  return folded<LANES>(reinterpret_cast<const float*>(&value), [](auto a, auto b) { return a + b; });
}

static inline float greatest(Vector value) {
  return folded<LANES>(reinterpret_cast<const float*>(&value), [](auto a, auto b) { return a > b ? a : b; });
}

constexpr int64_t rounded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

constexpr float LOG2_E = 1.44269504088896341f;

// 2^x for x <= 127, to two units in the last place; exactly 0 where the result would not be a normal number, minus infinity included.
static inline Vector power_of_two(Vector x) {
  const Vector least = all(-126.0f);
  const Vector bounded = x < least ? least : x;  // comparisons that keep a NaN
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Vector shifted = bounded + 12582912.0f;
  const Vector rest = bounded - (shifted - 12582912.0f);
  // Minimax polynomial of 2^rest, |rest| <= 1/2, in relative error (9.1e-8).
  Vector series = rest * 1.3264727066e-3f + 9.6715126489e-3f;
  series = series * rest + 5.5507337437e-2f;
  series = series * rest + 2.4022242085e-1f;
  series = series * rest + 6.9314697760e-1f;
  series = series * rest + 1.0f;
  const Vector scaled = reinterpret_cast<Vector>(reinterpret_cast<Bits>(series) + (reinterpret_cast<Bits>(shifted) << 23));
  return x < least ? Vector{} : scaled;
}

// e^x; what would overflow stays finite.
static inline Vector exponential(Vector x) {
  const Vector power = x * LOG2_E, most = all(127.0f);
  return power_of_two(power > most ? most : power);
}

static inline Vector hyperbolic_tangent(Vector x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// Error function to 1.5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26).
static inline Vector error_function(Vector x) {
  const Vector size = greater(x, -x);
  const Vector t = 1.0f / (size * 0.3275911f + 1.0f);
  Vector series = t * 1.061405429f - 1.453152027f;
  series = series * t + 1.421413741f;
  series = series * t - 0.284496736f;
  series = series * t + 0.254829592f;
  const Vector found = 1.0f - series * t * exponential(-size * size);
  return x < 0.0f ? -found : found;
}

// The numbers that `layers.py` gives them.
enum Activation : int64_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

static inline Vector activated(Vector x, int64_t kind) {
  switch (kind) {
    case SILU:
      return x / (1.0f + exponential(-x));
    case GELU:
      return 0.5f * x * (1.0f + error_function(x * 0.70710678118654752f));
    case GELU_TANH:
      return 0.5f * x * (1.0f + hyperbolic_tangent(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default:
      return x < 0.0f ? Vector{} : x;
  }
}
