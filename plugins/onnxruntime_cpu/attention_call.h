// One call of the operator, as the kernels see it: the contract's tensors, checked, and what all
// tasks of the call share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

enum class Storage : int { kFp32, kFp16, kBf16 };

// Elements that may be read behind every array of a call that kernels read by vectors.
constexpr int64_t kPadding = 16;

// A score that no key can have: half of fp32's lowest, so that its sum with any score is finite.
constexpr float kLowest = -170141183460469231731687303715884105728.0f;

struct AttentionCall {
  Storage storage;
  const void* qkv;        // (batch, length, 3 * heads * size)
  const void* pos_key;    // (heads, pos_key_slots, size); null without the term
  const void* pos_query;  // (heads, pos_query_slots, size); null without the term
  void* context;          // (batch, rows, heads * size)
  int64_t batch, length, heads, size, pos_key_slots, pos_query_slots;
  int64_t rows;  // queries that are computed, the first of every text
  float scale;

  // Columns: the slots in the order of the distances 1 - length .. length - 1, one for each run of
  // distances with the same slot, so that a step of the distance is a step of 0 or 1 columns,
  // whatever the slot table is. `slot_of_column` has `columns` slots, in rising order; `rising` has
  // the column of the distance d at d + length - 1, `falling` the column counted from the last at
  // length - 1 - d.
  int64_t columns;
  const int32_t* slot_of_column;
  const int32_t* rising;
  const int32_t* falling;

  // By text: one past its last key that may be attended to, and 0 or `kLowest` for every key, of
  // `bias_stride` elements, `kLowest` behind the last.
  const int64_t* limits;
  const float* bias;
  int64_t bias_stride;

  // A task computes one head of one text, `task_rows` rows of it.
  int64_t task_rows, tasks_per_head;
};

// What a call points to, as long as it is computed.
struct CallArrays {
  std::vector<int32_t> slot_of_column, rising, falling;
  std::vector<int64_t> limits;
  std::vector<float> bias;
};

// Fills in what a call derives from slots, mask and shapes; what is wrong with them, or null.
const char* prepare(AttentionCall* call, CallArrays* arrays, const int32_t* slots,
                    int64_t slot_count, const void* mask, bool mask_is_bool, int64_t block_rows);

// Memory of this thread, aligned to 64 bytes, until its next call; null where there is none.
float* scratch(size_t floats);

// One set of instructions.
struct AttentionKernel {
  const char* name;
  bool (*available)();
  int64_t block_rows;  // `task_rows` is a multiple
  // False without memory.
  bool (*task)(const AttentionCall& call, int64_t index);
};

extern const AttentionKernel kPortableKernel;
#if defined(__x86_64__)
extern const AttentionKernel kAvx2Kernel;
extern const AttentionKernel kAvx512Kernel;
#endif
