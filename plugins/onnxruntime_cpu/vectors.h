// Vectors of `LANES` floats, by the compiler's vector extensions (GCC and Clang). Everything here is
// local to the file that includes it: the same names mean other instructions elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#if LANES > 4
#include <immintrin.h>
#endif

namespace {

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));

inline Vec load(const float* from) {
  Vec vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

inline void store(float* to, Vec vector) { std::memcpy(to, &vector, sizeof vector); }

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

inline float sum_of(Vec vector) {
  float sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += vector[lane];
  return sum;
}

inline float largest_of(Vec vector) {
  float largest = vector[0];
  for (int lane = 1; lane < LANES; ++lane) largest = vector[lane] > largest ? vector[lane] : largest;
  return largest;
}

// row[index[0] - first], row[index[1] - first], ...: the indices rise by 0 or 1 from lane to lane,
// so that all of them lie within one vector from the first on. Gathers of the hardware cost more.
inline Vec load_columns(const float* row, const int32_t* index, int32_t first) {
  const float* from = row + (index[0] - first);
#if LANES == 16
  return _mm512_permutexvar_ps(
      _mm512_sub_epi32(_mm512_loadu_si512(index), _mm512_set1_epi32(index[0])),
      _mm512_loadu_ps(from));
#elif LANES == 8
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(from),
                                  _mm256_sub_epi32(all, _mm256_set1_epi32(index[0])));
#else
  if (index[LANES - 1] - index[0] == LANES - 1) return load(from);
  Vec vector;
  for (int lane = 0; lane < LANES; ++lane) vector[lane] = from[index[lane] - index[0]];
  return vector;
#endif
}

// e^x for x <= 0, and 0 below the smallest normal number. e^r = 1 + r + r^2 p(r) for r within
// ln(2) / 2 of 0; p is a least-squares fit with 3e-9 of relative error.
inline Vec exponential(Vec x) {
  const Vec magic = Vec{} + 12582912.0f;  // 1.5 * 2^23: its last bits are whole numbers
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec whole = shifted - magic;
  const Vec r = (x - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
  Vec p = r * 0.0013814539415761828f + 0.00836874544620514f;
  p = p * r + 0.04166838899254799f;
  p = p * r + 0.1666652113199234f;
  p = p * r + 0.4999999403953552f;
  const Vec mantissa = p * (r * r) + r + 1.0f;
  Words bits, power, offset;
  std::memcpy(&bits, &mantissa, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  std::memcpy(&offset, &magic, sizeof offset);
  bits += (power - offset) << 23;
  Vec result;
  std::memcpy(&result, &bits, sizeof result);
  return x < -87.33654f ? Vec{} : result;
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (Words){__VA_ARGS__})
#endif

#if LANES == 4
#define BY_QUARTER(a0, a1, a2, a3) a0, a1, a2, a3
#elif LANES == 8
#define BY_QUARTER(a0, a1, a2, a3) \
  a0, a1, a2, a3, a0 + 4, a1 + 4, a2 + 4, a3 + 4
#else
#define BY_QUARTER(a0, a1, a2, a3)                                                             \
  a0, a1, a2, a3, a0 + 4, a1 + 4, a2 + 4, a3 + 4, a0 + 8, a1 + 8, a2 + 8, a3 + 8, a0 + 12,     \
      a1 + 12, a2 + 12, a3 + 12
#endif

// In place: lane i of vector j becomes lane j of vector i. First 4 x 4 within every 128 bits, then
// the quarters.
inline void transpose(Vec (&rows)[LANES]) {
  constexpr int N = LANES;
#pragma GCC unroll 16
  for (int row = 0; row < LANES; row += 4) {
    const Vec a = rows[row], b = rows[row + 1], c = rows[row + 2], d = rows[row + 3];
    const Vec ab = SHUFFLED(a, b, BY_QUARTER(0, N, 1, N + 1));
    const Vec AB = SHUFFLED(a, b, BY_QUARTER(2, N + 2, 3, N + 3));
    const Vec cd = SHUFFLED(c, d, BY_QUARTER(0, N, 1, N + 1));
    const Vec CD = SHUFFLED(c, d, BY_QUARTER(2, N + 2, 3, N + 3));
    rows[row] = SHUFFLED(ab, cd, BY_QUARTER(0, 1, N, N + 1));
    rows[row + 1] = SHUFFLED(ab, cd, BY_QUARTER(2, 3, N + 2, N + 3));
    rows[row + 2] = SHUFFLED(AB, CD, BY_QUARTER(0, 1, N, N + 1));
    rows[row + 3] = SHUFFLED(AB, CD, BY_QUARTER(2, 3, N + 2, N + 3));
  }
#if LANES == 8
#pragma GCC unroll 16
  for (int row = 0; row < 4; ++row) {
    const Vec a = rows[row], b = rows[row + 4];
    rows[row] = SHUFFLED(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    rows[row + 4] = SHUFFLED(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
#elif LANES == 16
#define EVEN(a, b) SHUFFLED(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD(a, b) SHUFFLED(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#pragma GCC unroll 16
  for (int row = 0; row < 4; ++row) {
    const Vec a = rows[row], b = rows[row + 4], c = rows[row + 8], d = rows[row + 12];
    const Vec even = EVEN(a, b), odd = ODD(a, b), Even = EVEN(c, d), Odd = ODD(c, d);
    rows[row] = EVEN(even, Even);
    rows[row + 4] = EVEN(odd, Odd);
    rows[row + 8] = ODD(even, Even);
    rows[row + 12] = ODD(odd, Odd);
  }
#undef EVEN
#undef ODD
#endif
}

inline float from_bf16(uint16_t stored) {
  const uint32_t bits = uint32_t{stored} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float from_fp16(uint16_t stored) {
  const uint32_t sign = uint32_t{stored & 0x8000u} << 16, rest = stored & 0x7fffu;
  uint32_t bits = (rest << 13) + (rest < 0x7c00u ? 0x38000000u : 0x70000000u);
  if (rest < 0x400u) {  // subnormal: whole numbers of 2^-24
    const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;
    std::memcpy(&bits, &magnitude, sizeof bits);
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint16_t to_fp16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and more round to infinity
  if (bits < 0x38800000u) {                        // subnormal: the sum rounds at 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}

}  // namespace
