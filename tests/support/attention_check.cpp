// The kernels of the native attention against loops in double precision, in a program that can be
// built with sanitizers: every array is as long as the contract says, and no longer.
// Prints a line for each kernel that the processor has; 1 where a number is wrong.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>

#include "attention_call.h"

namespace {

struct Case {
  int64_t batch, length, heads, size, slots, saturation, rows;
  bool c2p, p2c;
  int mask;  // 0 whole, 1 ragged, 2 holes, 3 empty
  int table;  // 0 each distance its own slot, 1 slots of several distances, 2 random slots
};

template <class T>
std::unique_ptr<T[]> exactly(size_t count) {
  return std::unique_ptr<T[]>(new T[count]);
}

double worst_error(const AttentionKernel& kernel, const Case& c, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const auto fill = [&](size_t count) {
    auto made = exactly<float>(count);
    for (size_t i = 0; i < count; ++i) made[i] = normal(random);
    return made;
  };
  const int64_t width = c.heads * c.size;
  const auto qkv = fill(c.batch * c.length * 3 * width);
  const auto pos_key = fill(c.heads * c.slots * c.size), pos_query = fill(c.heads * c.slots * c.size);
  auto context = exactly<float>(c.batch * c.rows * width);
  auto slots = exactly<int32_t>(2 * c.saturation + 1);
  for (int64_t i = 0; i <= 2 * c.saturation; ++i) {
    const int64_t slot = c.table == 0 ? i : c.table == 1 ? i / 3 : static_cast<int64_t>(random());
    slots[i] = static_cast<int32_t>((slot % c.slots + c.slots) % c.slots);
  }
  auto mask = exactly<int32_t>(c.batch * c.length);
  for (int64_t text = 0; text < c.batch; ++text) {
    for (int64_t key = 0; key < c.length; ++key) {
      const bool ragged = key <= c.length * text / c.batch;
      const bool open[] = {true, ragged, random() % 3 != 0, text == 0};
      mask[text * c.length + key] = open[c.mask];
    }
  }
  AttentionCall call{};
  call.storage = Storage::kFp32;
  call.qkv = qkv.get();
  call.pos_key = c.c2p ? pos_key.get() : nullptr;
  call.pos_query = c.p2c ? pos_query.get() : nullptr;
  call.context = context.get();
  call.batch = c.batch;
  call.length = c.length;
  call.heads = c.heads;
  call.size = c.size;
  call.pos_key_slots = call.pos_query_slots = c.slots;
  call.rows = c.rows;
  call.scale = 1 / std::sqrt(3.0f * static_cast<float>(c.size));
  CallArrays arrays;
  if (prepare(&call, &arrays, slots.get(), 2 * c.saturation + 1, mask.get(), false,
              kernel.block_rows) != nullptr) {
    return INFINITY;
  }
  for (int64_t task = 0; task < c.batch * c.heads * call.tasks_per_head; ++task) {
    if (!kernel.task(call, task)) return INFINITY;
  }
  double worst = 0, largest = 1e-30;
  std::unique_ptr<double[]> scores = exactly<double>(c.length);
  for (int64_t text = 0; text < c.batch; ++text) {
    for (int64_t row = 0; row < std::min(c.rows, call.limits[text]); ++row) {
      for (int64_t head = 0; head < c.heads; ++head) {
        const auto part = [&](int64_t token, int64_t which) {
          return &qkv[((text * c.length + token) * 3 + which) * width + head * c.size];
        };
        double highest = -INFINITY, sum = 0;
        for (int64_t key = 0; key < c.length; ++key) {
          const int64_t distance = std::clamp(row - key, -c.saturation, c.saturation);
          const int64_t at = (head * c.slots + slots[distance + c.saturation]) * c.size;
          double score = 0;
          for (int64_t d = 0; d < c.size; ++d) {
            const double q = part(row, 0)[d], k = part(key, 1)[d];
            score += q * k + (c.c2p ? q * pos_key[at + d] : 0) + (c.p2c ? k * pos_query[at + d] : 0);
          }
          scores[key] = mask[text * c.length + key] ? score * call.scale : -INFINITY;
          highest = std::max(highest, scores[key]);
        }
        for (int64_t key = 0; key < c.length; ++key) sum += std::exp(scores[key] - highest);
        for (int64_t d = 0; d < c.size; ++d) {
          double right = 0;
          for (int64_t key = 0; key < c.length; ++key) {
            right += std::exp(scores[key] - highest) / sum * part(key, 2)[d];
          }
          const double found = context[((text * c.rows + row) * c.heads + head) * c.size + d];
          worst = std::isfinite(found) ? std::max(worst, std::abs(found - right)) : INFINITY;
          largest = std::max(largest, std::abs(right));
        }
      }
    }
  }
  return worst / largest;
}

}  // namespace

int main() {
  const AttentionKernel* const kernels[] = {
      &kPortableKernel,
#if defined(__x86_64__)
      &kAvx2Kernel,
      &kAvx512Kernel,
#endif
  };
  const int64_t lengths[] = {1, 2, 7, 15, 16, 17, 33, 64, 95, 97, 129, 200, 270};
  const int64_t sizes[] = {1, 3, 8, 17, 32, 40};
  bool right = true;
  for (const AttentionKernel* kernel : kernels) {
    if (!kernel->available()) continue;
    std::mt19937 random(1);
    double worst = 0;
    for (int number = 0; number < 60; ++number) {
      Case c{};
      c.batch = 1 + random() % 3;
      c.length = lengths[random() % 13];
      c.heads = 1 + random() % 2;
      c.size = sizes[random() % 6];
      c.slots = 1 + random() % 60;
      c.saturation = random() % 100;
      c.rows = number % 5 == 0 ? 1 : c.length;
      c.c2p = random() % 4 != 0;
      c.p2c = random() % 4 != 0;
      c.mask = random() % 4;
      c.table = random() % 3;
      worst = std::max(worst, worst_error(*kernel, c, random));
    }
    std::printf("%s %.1e\n", kernel->name, worst);
    right = right && worst < 1e-5;
  }
  return right ? 0 : 1;
}
