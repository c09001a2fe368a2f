// The operators `deb_export::DisentangledAttention` and `deb_export::DisentangledAttentionFirst` for
// ONNX Runtime's CPU provider: what `RegisterCustomOps` registers, which every ONNX Runtime calls
// that loads this library. plugins/disentangled_attention/contract.py is the contract.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "attention_call.h"
#include "ort_abi.h"

namespace {

constexpr int kContractVersion = 1;
constexpr char kDomain[] = "deb_export";
constexpr char kVariable[] = "DEB_EXPORT_INSTRUCTIONS";

thread_local int kernels_made = 0;

// The contract's inputs.
enum Input : size_t { kQkv, kPosKey, kPosQuery, kSlots, kMask, kInputs };
constexpr const char* kNames[kInputs] = {"qkv", "pos_key", "pos_query", "slots", "mask"};
constexpr size_t kRanks[kInputs] = {3, 3, 3, 1, 2};

// The operators, each with the leading rows of the context that it gives; 0 for all.
struct Operator {
  const char* name;
  int64_t rows;
};
constexpr Operator kOperators[] = {{"DisentangledAttention", 0}, {"DisentangledAttentionFirst", 1}};

// The types of numbers that each is registered for.
struct NumberType {
  ort::ElementType type;
  Storage storage;
};
constexpr NumberType kTypes[] = {
    {ort::kFloat, Storage::kFp32},
    {ort::kFloat16, Storage::kFp16},
    {ort::kBfloat16, Storage::kBf16},
};

// The fastest first.
const AttentionKernel* const kKernels[] = {
#if defined(__x86_64__)
    &kAvx512Kernel,
    &kAvx2Kernel,
#endif
    &kPortableKernel,
};

// The kernel of a name, or the fastest that this processor has; null where it has none of the name.
const AttentionKernel* choose_kernel(const char* name) {
  for (const AttentionKernel* kernel : kKernels) {
    const bool wanted = name == nullptr || *name == 0 || std::strcmp(name, kernel->name) == 0;
    if (wanted && kernel->available()) return kernel;
  }
  return nullptr;
}

// What is wrong with a call, for ONNX Runtime's own errors.
class Refusal : public std::exception {
 public:
  explicit Refusal(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// ONNX Runtime's own error, passed on.
struct Failed {
  ort::Status* status;
};

void check(ort::Status* status) {
  if (status != nullptr) throw Failed{status};
}

// Runs `body`, whatever it throws as a status.
template <class Body>
ort::Status* guarded(const ort::Api* api, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const Refusal& refusal) {
    return ort::CreateStatus::call(api, ort::kInvalidArgument, refusal.what());
  } catch (const std::exception& error) {
    return ort::CreateStatus::call(api, ort::kFail, error.what());
  }
}

struct Tensor {
  ort::ElementType type;
  std::vector<int64_t> shape;
  const void* data;
};

struct Shape {
  Shape(const ort::Api* given_api, ort::TypeAndShape* given) : api(given_api), info(given) {}
  Shape(const Shape&) = delete;
  ~Shape() { ort::ReleaseTensorTypeAndShapeInfo::call(api, info); }

  std::vector<int64_t> dimensions() const {
    size_t rank = 0;
    check(ort::GetDimensionsCount::call(api, info, &rank));
    std::vector<int64_t> found(rank);
    check(ort::GetDimensions::call(api, info, found.data(), rank));
    return found;
  }

  const ort::Api* api;
  ort::TypeAndShape* info;
};

Tensor read_tensor(const ort::Api* api, const ort::KernelContext* context, Input input) {
  const ort::Value* value = nullptr;
  check(ort::KernelContext_GetInput::call(api, context, size_t{input}, &value));
  ort::TypeAndShape* info = nullptr;
  check(ort::GetTensorTypeAndShape::call(api, value, &info));
  const Shape shape(api, info);
  Tensor tensor{};
  check(ort::GetTensorElementType::call(api, static_cast<const ort::TypeAndShape*>(info),
                                        &tensor.type));
  tensor.shape = shape.dimensions();
  void* data = nullptr;
  check(ort::GetTensorMutableData::call(api, const_cast<ort::Value*>(value), &data));
  tensor.data = data;
  if (tensor.shape.size() != kRanks[input]) {
    throw Refusal(std::string(kNames[input]) + " has " + std::to_string(tensor.shape.size()) +
                  " dimensions, not " + std::to_string(kRanks[input]));
  }
  return tensor;
}

class Attention {
 public:
  Attention(const ort::Api* api, const ort::KernelInfo* info, Storage storage, int64_t rows)
      : api_(api), storage_(storage), rows_(rows) {
    check(ort::KernelInfoGetAttribute_int64::call(api, info, "num_heads", &heads_));
    check(ort::KernelInfoGetAttribute_float::call(api, info, "scale", &scale_));
    check(ort::KernelInfoGetAttribute_int64::call(api, info, "c2p", &c2p_));
    check(ort::KernelInfoGetAttribute_int64::call(api, info, "p2c", &p2c_));
    if (heads_ < 1) throw Refusal("num_heads is " + std::to_string(heads_));
    const char* name = std::getenv(kVariable);
    kernel_ = choose_kernel(name);
    if (kernel_ == nullptr) {
      throw Refusal(std::string(kVariable) + " is " + name + ", which this processor has not");
    }
  }

  void compute(ort::KernelContext* context) const {
    const Tensor qkv = read_tensor(api_, context, kQkv);
    const Tensor slots = read_tensor(api_, context, kSlots);
    const Tensor mask = read_tensor(api_, context, kMask);
    AttentionCall call{};
    call.storage = storage_;
    call.qkv = qkv.data;
    call.batch = qkv.shape[0];
    call.length = qkv.shape[1];
    call.heads = heads_;
    call.size = qkv.shape[2] / (3 * heads_);
    call.scale = scale_;
    call.rows = rows_ == 0 ? call.length : std::min(rows_, call.length);
    if (call.size < 1 || call.size * 3 * heads_ != qkv.shape[2]) {
      throw Refusal("qkv has " + std::to_string(qkv.shape[2]) + " columns for " +
                    std::to_string(heads_) + " heads");
    }
    if (mask.shape[0] != call.batch || mask.shape[1] != call.length) {
      throw Refusal("mask and qkv differ in batch or length");
    }
    if (mask.type != ort::kInt32 && mask.type != ort::kBool) {
      throw Refusal("mask is neither int32 nor bool");
    }
    if (c2p_ != 0) {
      call.pos_key = position_table(context, kPosKey, call, &call.pos_key_slots);
    }
    if (p2c_ != 0) {
      call.pos_query = position_table(context, kPosQuery, call, &call.pos_query_slots);
    }
    const int64_t shape[] = {call.batch, call.rows, call.heads * call.size};
    ort::Value* output = nullptr;
    check(ort::KernelContext_GetOutput::call(api_, context, size_t{0}, &shape[0], size_t{3},
                                             &output));
    check(ort::GetTensorMutableData::call(api_, output, &call.context));
    if (call.batch == 0 || call.rows == 0) return;
    CallArrays arrays;
    const char* problem =
        prepare(&call, &arrays, static_cast<const int32_t*>(slots.data), slots.shape[0],
                mask.data, mask.type == ort::kBool, kernel_->block_rows);
    if (problem != nullptr) throw Refusal(problem);
    run(context, call);
  }

 private:
  const void* position_table(const ort::KernelContext* context, Input input,
                             const AttentionCall& call, int64_t* slots) const {
    const Tensor table = read_tensor(api_, context, input);
    if (table.shape[0] != call.heads || table.shape[2] != call.size) {
      throw Refusal(std::string(kNames[input]) + " has other heads than qkv");
    }
    *slots = table.shape[1];
    return table.data;
  }

  void run(const ort::KernelContext* context, const AttentionCall& call) const {
    struct Work {
      const AttentionKernel* kernel;
      const AttentionCall* call;
      std::atomic<bool> done;
    } work{kernel_, &call, {true}};
    const size_t tasks = static_cast<size_t>(call.batch * call.heads * call.tasks_per_head);
    // As many batches as tasks: a thread takes the next task when it is through with one.
    check(ort::KernelContext_ParallelFor::call(
        api_, context,
        +[](void* data, size_t index) {
          Work* shared = static_cast<Work*>(data);
          if (!shared->kernel->task(*shared->call, static_cast<int64_t>(index))) {
            shared->done = false;
          }
        },
        tasks, tasks, static_cast<void*>(&work)));
    if (!work.done) throw std::bad_alloc();
  }

  const ort::Api* api_;
  Storage storage_;
  int64_t rows_;
  const AttentionKernel* kernel_ = nullptr;
  int64_t heads_ = 0, c2p_ = 0, p2c_ = 0;
  float scale_ = 0;
};

// One registration: an operator for one type of numbers.
struct Registration : ort::CustomOp {
  Operator attention;
  NumberType number;
};

const Registration& registration(const ort::CustomOp* op) {
  return *static_cast<const Registration*>(op);
}

struct Kernel {
  const ort::Api* api;
  Attention attention;
};

Registration make_registration(const Operator& attention, const NumberType& number) {
  Registration made{};
  made.version = ort::kApiVersion;
  made.attention = attention;
  made.number = number;
  made.GetName = [](const ort::CustomOp* op) { return registration(op).attention.name; };
  made.GetExecutionProviderType = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  made.GetInputTypeCount = [](const ort::CustomOp*) { return size_t{kInputs}; };
  made.GetInputType = [](const ort::CustomOp* op, size_t input) {
    if (input == kMask) return ort::kUndefined;  // int32 or bool
    return input == kSlots ? ort::kInt32 : registration(op).number.type;
  };
  made.GetOutputTypeCount = [](const ort::CustomOp*) { return size_t{1}; };
  made.GetOutputType = [](const ort::CustomOp* op, size_t) {
    return registration(op).number.type;
  };
  made.GetInputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  made.GetOutputCharacteristic = [](const ort::CustomOp*, size_t) { return ort::kRequired; };
  made.GetInputMemoryType = [](const ort::CustomOp*, size_t) { return ort::kDefaultMemory; };
  made.GetStartVersion = [](const ort::CustomOp*) { return 1; };
  made.GetEndVersion = [](const ort::CustomOp*) { return kContractVersion; };
  made.CreateKernelV2 = [](const ort::CustomOp* op, const ort::Api* api,
                           const ort::KernelInfo* info, void** kernel) {
    return guarded(api, [&] {
      const Registration& item = registration(op);
      *kernel = new Kernel{
          api, Attention(api, info, item.number.storage, item.attention.rows)};
      ++kernels_made;
    });
  };
  made.KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    const Kernel* held = static_cast<const Kernel*>(kernel);
    return guarded(held->api, [&] { held->attention.compute(context); });
  };
  made.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return made;
}

}  // namespace

#ifndef SOURCE_HASH
#define SOURCE_HASH ""
#endif

extern "C" {

// The version of the contract that the library computes.
ORT_EXPORT int deb_export_attention_version() { return kContractVersion; }

// A hash of the sources that the library was built from.
ORT_EXPORT const char* deb_export_attention_sources() { return SOURCE_HASH; }

// How many nodes the library was given by this thread, which opens a session.
ORT_EXPORT int deb_export_attention_kernels_made() { return kernels_made; }

// The instructions that new sessions use on this processor; empty where it has not those asked for.
ORT_EXPORT const char* deb_export_attention_instructions() {
  const AttentionKernel* kernel = choose_kernel(std::getenv(kVariable));
  return kernel == nullptr ? "" : kernel->name;
}

ORT_EXPORT ort::Status* ORT_CALL RegisterCustomOps(ort::SessionOptions* options,
                                                   const ort::ApiBase* base) {
  const ort::Api* api = base->GetApi(ort::kApiVersion);
  if (api == nullptr) {
    // No interface to make a status with: the first entry is the same in every version.
    return ort::CreateStatus::call(base->GetApi(1), ort::kFail,
                                   "deb_export needs ONNX Runtime 1.22 or newer");
  }
  // They live as long as the process, as what ONNX Runtime keeps of them does.
  static const std::vector<Registration> registrations = [] {
    std::vector<Registration> made;
    for (const Operator& attention : kOperators) {
      for (const NumberType& number : kTypes) made.push_back(make_registration(attention, number));
    }
    return made;
  }();
  return guarded(api, [&] {
    // One for the process: a session uses it as long as it lives, and does not own it.
    static ort::CustomOpDomain* const domain = [api] {
      ort::CustomOpDomain* made = nullptr;
      check(ort::CreateCustomOpDomain::call(api, &kDomain[0], &made));
      for (const Registration& item : registrations) {
        check(ort::CustomOpDomain_Add::call(api, made, static_cast<const ort::CustomOp*>(&item)));
      }
      return made;
    }();
    check(ort::AddCustomOpDomain::call(api, options, domain));
  });
}

}  // extern "C"
