#include "attention_call.h"

#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

// Scratch of a thread, kept for its next task.
struct Scratch {
  float* data = nullptr;
  size_t floats = 0;
  ~Scratch() { std::free(data); }
};

constexpr size_t kAlignment = 64;

}  // namespace

float* scratch(size_t floats) {
  thread_local Scratch held;
  if (held.floats < floats) {
    std::free(held.data);
    held.floats = 0;
    const size_t bytes = (floats * sizeof(float) / kAlignment + 1) * kAlignment;
    held.data = static_cast<float*>(std::aligned_alloc(kAlignment, bytes));
    if (held.data == nullptr) return nullptr;
    held.floats = floats;
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(held.data, floats * sizeof(float));
#endif
  return held.data;
}

namespace {

const char* read_slots(AttentionCall* call, CallArrays* arrays, const int32_t* slots,
                       int64_t slot_count) {
  const int64_t saturation = (slot_count - 1) / 2, distances = 2 * call->length - 1;
  arrays->rising.resize(distances + kPadding);
  for (int64_t index = 0; index < distances; ++index) {
    int64_t distance = index - (call->length - 1);
    distance = distance < -saturation ? -saturation : distance;
    distance = distance > saturation ? saturation : distance;
    const int32_t slot = slots[distance + saturation];
    if (slot < 0 || (call->pos_key != nullptr && slot >= call->pos_key_slots) ||
        (call->pos_query != nullptr && slot >= call->pos_query_slots)) {
      return "slots has a slot that pos_key or pos_query has not";
    }
    auto& columns = arrays->slot_of_column;
    if (columns.empty() || columns.back() != slot) columns.push_back(slot);
    arrays->rising[index] = static_cast<int32_t>(columns.size()) - 1;
  }
  call->columns = static_cast<int64_t>(arrays->slot_of_column.size());
  const int32_t last = static_cast<int32_t>(call->columns) - 1;
  arrays->falling.resize(distances + kPadding);
  for (int64_t index = 0; index < distances; ++index) {
    arrays->falling[index] = last - arrays->rising[distances - 1 - index];
  }
  for (int64_t index = distances; index < distances + kPadding; ++index) {
    arrays->rising[index] = arrays->falling[index] = last;
  }
  call->slot_of_column = arrays->slot_of_column.data();
  call->rising = arrays->rising.data();
  call->falling = arrays->falling.data();
  return nullptr;
}

template <class Flag>
void read_mask(AttentionCall* call, CallArrays* arrays, const Flag* mask) {
  call->bias_stride = call->length + kPadding;
  arrays->limits.assign(call->batch, 0);
  arrays->bias.assign(call->batch * call->bias_stride, kLowest);
  for (int64_t text = 0; text < call->batch; ++text) {
    for (int64_t key = 0; key < call->length; ++key) {
      if (mask[text * call->length + key]) {
        arrays->limits[text] = key + 1;
        arrays->bias[text * call->bias_stride + key] = 0;
      }
    }
  }
  call->limits = arrays->limits.data();
  call->bias = arrays->bias.data();
}

}  // namespace

const char* prepare(AttentionCall* call, CallArrays* arrays, const int32_t* slots,
                    int64_t slot_count, const void* mask, bool mask_is_bool, int64_t block_rows) {
  if (mask_is_bool) {
    read_mask(call, arrays, static_cast<const uint8_t*>(mask));
  } else {
    read_mask(call, arrays, static_cast<const int32_t*>(mask));
  }
  call->columns = 0;
  if (call->pos_key != nullptr || call->pos_query != nullptr) {
    if (slot_count < 1 || slot_count % 2 == 0) return "slots has an even number of entries";
    if (const char* problem = read_slots(call, arrays, slots, slot_count)) return problem;
  }
  // Enough tasks for many threads: how many there are is not known, and bits must not depend on it.
  constexpr int64_t kTasks = 24;
  const int64_t pairs = call->batch * call->heads;
  const int64_t blocks = (call->rows + block_rows - 1) / block_rows;
  int64_t parts = pairs == 0 ? 1 : (kTasks + pairs - 1) / pairs;
  parts = parts > blocks ? blocks : parts;
  parts = parts < 1 ? 1 : parts;
  call->task_rows = (blocks + parts - 1) / parts * block_rows;
  call->tasks_per_head =
      call->task_rows == 0 ? 0 : (call->rows + call->task_rows - 1) / call->task_rows;
  return nullptr;
}
