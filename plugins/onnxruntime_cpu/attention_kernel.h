// The attention of one head of one text, for vectors of `LANES` floats; each kernel_*.cpp includes
// it once. docs/cpu-attention.md explains it.
//
// Matrices that a product reads by columns are packed in panels of `kPanel` columns: depth first,
// so that a panel is `(depth, kPanel)` without a gap. A group is `LANES` columns, half a panel.
#pragma once

#include "attention_call.h"
#include "vectors.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace {

constexpr int64_t kPanel = 2 * LANES;

// Rows of a product that stay in registers, with two vectors of columns each.
constexpr int kTile = LANES == 16 ? 8 : LANES == 8 ? 6 : 4;

// Rows whose scores are computed at a time, and keys: their scores and tables stay in the cache of
// the second level. Rows are a multiple of `kTile` and of `LANES`.
constexpr int64_t kBlock = LANES == 8 ? 96 : 128;
constexpr int64_t kChunk = 256;

// Rows of the input that are fetched ahead: they lie too far apart for the processor to foresee.
constexpr int64_t kAhead = 8;

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t greater(int64_t a, int64_t b) { return a > b ? a : b; }

// out (R, V * LANES) = left (R, depth) . panel (depth, V * LANES), or added to what is there.
template <int R, int V>
inline void multiply(const float* left, int64_t left_stride, const float* panel, int64_t depth,
                     float* out, int64_t out_stride, bool add) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      sums[row][v] = add ? load(out + row * out_stride + v * LANES) : Vec{};
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vec columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load(panel + k * kPanel + v * LANES);
#pragma GCC unroll 16
    for (int row = 0; row < R; ++row) {
      const float factor = left[row * left_stride + k];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[row][v] += factor * columns[v];
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < R; ++row) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(out + row * out_stride + v * LANES, sums[row][v]);
  }
}

template <int V, int R = kTile>
inline void multiply_rows(int64_t rows, const float* left, int64_t left_stride, const float* panel,
                          int64_t depth, float* out, int64_t out_stride, bool add) {
  if (rows == R) {
    multiply<R, V>(left, left_stride, panel, depth, out, out_stride, add);
  } else if constexpr (R > 1) {
    multiply_rows<V, R - 1>(rows, left, left_stride, panel, depth, out, out_stride, add);
  }
}

// Groups `first .. last` of a product of at most `kTile` rows; group `first` is written to `out`.
inline void multiply_groups(int64_t rows, const float* left, int64_t left_stride,
                            const float* panels, int64_t depth, int64_t first, int64_t last,
                            float* out, int64_t out_stride) {
  for (int64_t group = first; group <= last;) {
    const float* panel = panels + group / 2 * depth * kPanel + group % 2 * LANES;
    float* to = out + (group - first) * LANES;
    if (group % 2 == 0 && group < last) {
      multiply_rows<2>(rows, left, left_stride, panel, depth, to, out_stride, false);
      group += 2;
    } else {
      multiply_rows<1>(rows, left, left_stride, panel, depth, to, out_stride, false);
      group += 1;
    }
  }
}

// Rows `row_of(0) .. row_of(count - 1)`, of `depth` floats each, become the columns of panels, times
// `factor`; columns behind the last are 0.
template <class RowOf>
inline void pack(float* panels, int64_t count, int64_t depth, float factor, RowOf row_of) {
  const float *rows[LANES], *next[LANES];
  const auto find_rows = [&](int64_t first, const float** found) {
    for (int lane = 0; lane < LANES; ++lane) {
      found[lane] = first + lane < count ? row_of(first + lane) : nullptr;
    }
  };
  find_rows(0, next);
  for (int64_t group = 0; group * LANES < round_up(count, kPanel); ++group) {
    std::memcpy(rows, next, sizeof rows);
    find_rows((group + 1) * LANES, next);
    float* to = panels + group / 2 * depth * kPanel + group % 2 * LANES;
    int64_t k = 0;
    for (; k + LANES <= depth; k += LANES) {
      Vec values[LANES];
      for (int lane = 0; lane < LANES; ++lane) {
        values[lane] = rows[lane] == nullptr ? Vec{} : load(rows[lane] + k) * factor;
        if (next[lane] != nullptr) __builtin_prefetch(next[lane] + k);
      }
      transpose(values);
      for (int lane = 0; lane < LANES; ++lane) store(to + (k + lane) * kPanel, values[lane]);
    }
    for (; k < depth; ++k) {
      for (int lane = 0; lane < LANES; ++lane) {
        to[k * kPanel + lane] = rows[lane] == nullptr ? 0 : rows[lane][k] * factor;
      }
    }
  }
}

inline void read_floats(Storage storage, const void* data, int64_t offset, int64_t count,
                        float* to) {
  if (storage == Storage::kFp32) {
    std::memcpy(to, static_cast<const float*>(data) + offset, count * sizeof(float));
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(data) + offset;
  if (storage == Storage::kFp16) {
    for (int64_t i = 0; i < count; ++i) to[i] = from_fp16(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from_bf16(from[i]);
  }
}

inline void write_floats(Storage storage, const float* from, float factor, int64_t count,
                         void* data, int64_t offset) {
  if (storage == Storage::kFp32) {
    float* to = static_cast<float*>(data) + offset;
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] * factor;
    return;
  }
  uint16_t* to = static_cast<uint16_t*>(data) + offset;
  if (storage == Storage::kFp16) {
    for (int64_t i = 0; i < count; ++i) to[i] = to_fp16(from[i] * factor);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = to_bf16(from[i] * factor);
  }
}

// Under AddressSanitizer, what lies between the parts of a task's memory may not be touched.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGap = 64;
inline void forbid(float* from, int64_t floats) {
  __asan_poison_memory_region(from, floats * sizeof(float));
}
#else
constexpr int64_t kGap = 0;
inline void forbid(float*, int64_t) {}
#endif

// Rows of fp32 somewhere.
struct Rows {
  const float* data;
  int64_t stride;
  const float* at(int64_t row) const { return data + row * stride; }
};

// One head of one text, and a range of its rows.
class HeadTask {
 public:
  HeadTask(const AttentionCall& call, int64_t index) : call_(call), size_(call.size) {
    const int64_t pair = index / call.tasks_per_head, part = index % call.tasks_per_head;
    text_ = pair / call.heads;
    head_ = pair % call.heads;
    keys_ = call.limits[text_];
    begin_ = part * call.task_rows;
    end_ = smaller(begin_ + call.task_rows, call.rows);
    live_end_ = smaller(end_, keys_);
    bias_ = call.bias + text_ * call.bias_stride;
    wide_ = round_up(size_, kPanel);
  }

  bool run() {
    if (begin_ < live_end_) {
      if (call_.columns > 0) {
        first_ = call_.rising[begin_ - (keys_ - 1) + call_.length - 1];
        last_ = call_.rising[live_end_ - 1 + call_.length - 1];
        columns_ = last_ - first_ + 1;
      }
      if (!reserve()) return false;
      pack_keys_and_values();
      pack_positions();
      for (int64_t row = begin_; row < live_end_; row += kBlock) {
        compute_block(row, smaller(live_end_ - row, kBlock));
      }
    }
    clear_rows(greater(begin_, live_end_), end_);
    return true;
  }

 private:
  // Column of a distance in rising order, counted from the task's first.
  int64_t column_of(int64_t distance) const {
    return call_.rising[distance + call_.length - 1] - first_;
  }

  // Column of row and key in falling order, counted from the task's last.
  int64_t falling_column_of(int64_t row, int64_t key) const {
    return last_ - first_ - column_of(row - key);
  }

  bool reserve() {
    const int64_t padded = round_up(columns_, kPanel);
    const bool half = call_.storage != Storage::kFp32;
    table_stride_ = padded + LANES;
    window_stride_ = kBlock + 5 * LANES;
    const int64_t sizes[] = {
        round_up(keys_, kPanel) * size_,                      // key panels
        wide_ * keys_,                                        // value panels
        call_.pos_key != nullptr ? padded * size_ : 0,        // pos_key panels
        call_.pos_query != nullptr ? padded * size_ : 0,      // pos_query panels
        kBlock * size_,                                       // queries
        call_.pos_key != nullptr ? kBlock * table_stride_ : 0,
        kBlock * kChunk,                                      // scores
        LANES * window_stride_,
        kBlock * wide_,                                       // sums of values
        2 * kBlock,                                           // highest scores, sums of weights
        kChunk,                                               // bias of keys
        2 * round_up(keys_, kPanel),                          // far terms
        half ? keys_ * size_ : 0,                             // keys as fp32
        greater(half ? columns_ * size_ : 0, wide_),          // embeddings as fp32, or a value
    };
    float** const places[] = {&key_panels_, &value_panels_, &pos_key_panels_, &pos_query_panels_,
                              &queries_,    &table_,        &scores_,         &window_,
                              &sums_,       &highest_,      &key_bias_,       &far_,
                              &key_rows_,   &rows_};
    int64_t total = 0;
    for (int64_t size : sizes) total += round_up(size, 16) + kGap;
    float* next = scratch(static_cast<size_t>(total));
    if (next == nullptr) return false;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
      *places[i] = next;
      next += round_up(sizes[i], 16);
      forbid(next, kGap);
      next += kGap;
    }
    weights_ = highest_ + kBlock;
    return true;
  }

  // Offset of a row of `qkv`: part 0 the query, 1 the key, 2 the value.
  int64_t offset(int64_t row, int64_t part) const {
    return ((text_ * call_.length + row) * 3 + part) * call_.heads * size_ + head_ * size_;
  }

  void pack_keys_and_values() {
    if (call_.storage == Storage::kFp32) {
      keys_as_rows_ = {static_cast<const float*>(call_.qkv) + offset(0, 1),
                       3 * call_.heads * size_};
    } else {
      for (int64_t key = 0; key < keys_; ++key) {
        read_floats(call_.storage, call_.qkv, offset(key, 1), size_, key_rows_ + key * size_);
      }
      keys_as_rows_ = {key_rows_, size_};
    }
    const Rows rows = keys_as_rows_;
    pack(key_panels_, keys_, size_, 1, [rows](int64_t key) { return rows.at(key); });
    for (int64_t d = size_; d < wide_; ++d) rows_[d] = 0;
    for (int64_t key = 0; key < keys_; ++key) {
      if (call_.storage == Storage::kFp32 && key + kAhead < keys_) {
        const float* ahead = static_cast<const float*>(call_.qkv) + offset(key + kAhead, 2);
        for (int64_t d = 0; d < size_; d += 16) __builtin_prefetch(ahead + d);
      }
      read_floats(call_.storage, call_.qkv, offset(key, 2), size_, rows_);
      for (int64_t d = 0; d < wide_; d += kPanel) {
        float* to = value_panels_ + d * keys_ + key * kPanel;
        store(to, load(rows_ + d));
        store(to + LANES, load(rows_ + d + LANES));
      }
    }
  }

  // The embeddings of the slots that the task's distances read.
  void pack_positions() {
    if (call_.pos_key != nullptr) {
      pack_embeddings(call_.pos_key, call_.pos_key_slots, pos_key_panels_, 1, true);
    }
    if (call_.pos_query != nullptr) {
      pack_embeddings(call_.pos_query, call_.pos_query_slots, pos_query_panels_, call_.scale,
                      false);
      far_known_ = false;
    }
  }

  void pack_embeddings(const void* table, int64_t slots, float* panels, float factor,
                       bool falling) {
    const int64_t base = head_ * slots * size_, size = size_, columns = columns_;
    const int32_t* slot_of = call_.slot_of_column + first_;
    const bool direct = call_.storage == Storage::kFp32;
    if (!direct) {
      for (int64_t column = 0; column < columns; ++column) {
        read_floats(call_.storage, table, base + slot_of[column] * size, size,
                    rows_ + column * size);
      }
    }
    const float* from = direct ? static_cast<const float*>(table) + base : rows_;
    pack(panels, columns, size, factor, [=](int64_t at) {
      const int64_t column = falling ? columns - 1 - at : at;
      return from + (direct ? slot_of[column] : column) * size;
    });
  }

  void compute_block(int64_t row, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      float* to = queries_ + i * size_;
      read_floats(call_.storage, call_.qkv, offset(row + i, 0), size_, to);
      for (int64_t d = 0; d < size_; ++d) to[d] *= call_.scale;
      highest_[i] = kLowest;
      weights_[i] = 0;
    }
    if (call_.pos_key != nullptr) multiply_positions(row, rows);
    for (int64_t key = 0; key < keys_; key += kChunk) {
      const int64_t keys = smaller(keys_ - key, kChunk);
      multiply_keys(key, keys, rows);
      for (int64_t j = 0; j < round_up(keys, LANES); j += LANES) {
        store(key_bias_ + j, load(bias_ + key + j));
        if (call_.pos_query != nullptr) add_position_to_content(row, rows, key, j);
      }
      for (int64_t i = 0; i < rows; ++i) normalize(row + i, i, key, keys);
      multiply_values(key, keys, rows);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t to = ((text_ * call_.rows + row + i) * call_.heads + head_) * size_;
      write_floats(call_.storage, sums_ + i * wide_, 1 / weights_[i], size_, call_.context, to);
    }
  }

  // The table of content-to-position scores of a block, each row where its distances are.
  void multiply_positions(int64_t row, int64_t rows) {
    for (int64_t i = 0; i < rows; i += kTile) {
      const int64_t count = smaller(rows - i, kTile);
      const int64_t first = falling_column_of(row + i + count - 1, 0) / LANES;
      const int64_t last = falling_column_of(row + i, keys_ - 1) / LANES;
      multiply_groups(count, queries_ + i * size_, size_, pos_key_panels_, size_, first, last,
                      table_ + i * table_stride_ + first * LANES, table_stride_);
    }
  }

  void multiply_keys(int64_t key, int64_t keys, int64_t rows) {
    const int64_t groups = round_up(keys, LANES) / LANES;
    const float* panels = key_panels_ + key * size_;
    for (int64_t group = 0; group < groups; group += 2) {
      const int64_t last = smaller(group + 1, groups - 1);
      for (int64_t i = 0; i < rows; i += kTile) {
        multiply_groups(smaller(rows - i, kTile), queries_ + i * size_, size_, panels, size_,
                        group, last, scores_ + i * kChunk + group * LANES, kChunk);
      }
    }
  }

  // Adds the position-to-content scores of a block and `LANES` keys. Where all of them read one
  // slot, that is a number for each key; else each key's row of scores by slot is read by row
  // of the block, and turned over.
  void add_position_to_content(int64_t row, int64_t rows, int64_t chunk, int64_t j) {
    const int64_t key = chunk + j, keys = smaller(keys_ - key, LANES);
    const int64_t lowest = column_of(row - (key + keys - 1));
    const int64_t highest = column_of(row + rows - 1 - key);
    if (lowest == highest && (lowest == 0 || lowest == columns_ - 1)) {
      if (!far_known_) multiply_far_positions();
      const float* far = far_ + (lowest == 0 ? 0 : round_up(keys_, kPanel));
      for (int64_t lane = 0; lane < keys; ++lane) key_bias_[j + lane] += far[key + lane];
      return;
    }
    const int64_t base = lowest / LANES;
    for (int64_t lane = 0; lane < keys; lane += kTile) {
      const int64_t count = smaller(keys - lane, kTile);
      const int64_t first = column_of(row - (key + lane + count - 1)) / LANES;
      const int64_t last = column_of(row + rows - 1 - (key + lane)) / LANES;
      multiply_groups(count, keys_as_rows_.at(key + lane), keys_as_rows_.stride,
                      pos_query_panels_, size_, first, last,
                      window_ + lane * window_stride_ + (first - base) * LANES, window_stride_);
    }
    const int32_t offset = static_cast<int32_t>(first_ + base * LANES);
    for (int64_t i = 0; i < rows; i += LANES) {
      Vec values[LANES];
#pragma GCC unroll 16
      for (int lane = 0; lane < LANES; ++lane) {
        const int32_t* index = call_.rising + (row + i - (key + lane) + call_.length - 1);
        values[lane] = lane < keys ? load_columns(window_ + lane * window_stride_, index, offset)
                                   : Vec{};
      }
      transpose(values);
      float* to = scores_ + i * kChunk + j;
#pragma GCC unroll 16
      for (int lane = 0; lane < LANES; ++lane) {
        store(to + lane * kChunk, load(to + lane * kChunk) + values[lane]);
      }
    }
  }

  // Position-to-content scores of every key with the first and the last slot.
  void multiply_far_positions() {
    const int64_t ends[] = {0, columns_ - 1};
    for (int which = 0; which < 2; ++which) {
      const int64_t group = ends[which] / LANES;
      float* to = far_ + which * round_up(keys_, kPanel);
      for (int64_t key = 0; key < keys_; key += kTile) {
        const int64_t count = smaller(keys_ - key, kTile);
        multiply_groups(count, keys_as_rows_.at(key), keys_as_rows_.stride, pos_query_panels_,
                        size_, group, group, window_, LANES);
        for (int64_t i = 0; i < count; ++i) to[key + i] = window_[i * LANES + ends[which] % LANES];
      }
    }
    far_known_ = true;
  }

  // Completes the scores of a row and a chunk, and turns them into weights.
  void normalize(int64_t row, int64_t i, int64_t chunk, int64_t keys) {
    float* scores = scores_ + i * kChunk;
    const float* table = table_ + i * table_stride_;
    const int32_t* index = call_.falling + (call_.length - 1 - row + chunk);
    const int32_t offset = static_cast<int32_t>(call_.columns - 1 - last_);
    Vec highest = Vec{} + highest_[i];
    for (int64_t j = 0; j < keys; j += LANES) {
      Vec score = load(scores + j);
      if (call_.pos_key != nullptr) score += load_columns(table, index + j, offset);
      const Vec bias = load(key_bias_ + j);
      // What stands where there is no key may be anything.
      score = bias < kLowest / 2 ? Vec{} + kLowest : score + bias;
      store(scores + j, score);
      highest = larger(score, highest);
    }
    const float top = largest_of(highest);
    Vec sum = Vec{};
    for (int64_t j = 0; j < keys; j += LANES) {
      const Vec weight = exponential(load(scores + j) - top);
      store(scores + j, weight);
      sum += weight;
    }
    const float kept = exponential(Vec{} + (highest_[i] - top))[0];
    highest_[i] = top;
    weights_[i] = weights_[i] * kept + sum_of(sum);
    float* sums = sums_ + i * wide_;
    for (int64_t d = 0; d < wide_; d += LANES) {
      store(sums + d, chunk == 0 ? Vec{} : load(sums + d) * kept);
    }
  }

  void multiply_values(int64_t key, int64_t keys, int64_t rows) {
    constexpr int64_t kDepth = 128;
    for (int64_t k = 0; k < keys; k += kDepth) {
      const int64_t depth = smaller(keys - k, kDepth);
      for (int64_t d = 0; d < wide_; d += kPanel) {
        const float* panel = value_panels_ + d * keys_ + (key + k) * kPanel;
        for (int64_t i = 0; i < rows; i += kTile) {
          multiply_rows<2>(smaller(rows - i, kTile), scores_ + i * kChunk + k, kChunk, panel,
                           depth, sums_ + i * wide_ + d, wide_, true);
        }
      }
    }
  }

  // Rows of padding, of which nothing may depend.
  void clear_rows(int64_t begin, int64_t end) {
    const int64_t bytes = call_.storage == Storage::kFp32 ? 4 : 2;
    for (int64_t row = begin; row < end; ++row) {
      const int64_t to = ((text_ * call_.rows + row) * call_.heads + head_) * size_;
      std::memset(static_cast<char*>(call_.context) + to * bytes, 0, size_ * bytes);
    }
  }

  const AttentionCall& call_;
  int64_t size_, wide_, text_, head_, keys_, begin_, end_, live_end_;
  const float* bias_;
  // Columns of the call that the task reads, and how many.
  int64_t first_ = 0, last_ = -1, columns_ = 0;
  Rows keys_as_rows_{};
  bool far_known_ = false;
  int64_t table_stride_, window_stride_;
  float *key_panels_, *value_panels_, *pos_key_panels_, *pos_query_panels_, *queries_, *table_,
      *scores_, *window_, *sums_, *highest_, *weights_, *key_bias_, *far_, *key_rows_, *rows_;
};

inline bool run_task(const AttentionCall& call, int64_t index) {
  return HeadTask(call, index).run();
}

}  // namespace
