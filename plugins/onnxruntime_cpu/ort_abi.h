// The part of ONNX Runtime's C interface that the operator uses, declared by hand: no Python package
// has the headers. The interface only grows at its end, so that an entry keeps its place.
// tools/onnxruntime_abi.py compares every declaration here with a real onnxruntime_c_api.h.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#define ORT_EXPORT __declspec(dllexport)
#else
#define ORT_CALL
#define ORT_EXPORT __attribute__((visibility("default")))
#endif

namespace ort {

// Opaque to us.
struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct CustomOpDomain;
struct ShapeInferContext;
struct TypeAndShape;

// The oldest interface with all of this: ONNX Runtime 1.22, the oldest that the project allows.
constexpr uint32_t kApiVersion = 22;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int {
  kUndefined = 0, kFloat = 1, kInt32 = 6, kBool = 9, kFloat16 = 10, kBfloat16 = 16
};
enum Characteristic : int { kRequired = 0 };
enum MemoryType : int { kDefaultMemory = 0 };

// Every entry of the interface is a pointer to a function.
struct Api {
  void (*entries[1])();
};

struct ApiBase {
  const Api*(ORT_CALL* GetApi)(uint32_t version);
  const char*(ORT_CALL* GetVersionString)();
};

// An entry of the interface: its place, and its type.
template <size_t place, class Function>
struct Entry {
  using Type = Function;
  static constexpr size_t kPlace = place;
  template <class... Arguments>
  static auto call(const Api* api, Arguments... arguments) {
    return reinterpret_cast<Function>(api->entries[place])(arguments...);
  }
};

#define ORT_ENTRY(place, name, result, ...) \
  using name = Entry<place, result(ORT_CALL*)(__VA_ARGS__)>

ORT_ENTRY(0, CreateStatus, Status*, ErrorCode, const char*);
ORT_ENTRY(26, CreateCustomOpDomain, Status*, const char*, CustomOpDomain**);
ORT_ENTRY(27, CustomOpDomain_Add, Status*, CustomOpDomain*, const struct CustomOp*);
ORT_ENTRY(28, AddCustomOpDomain, Status*, SessionOptions*, CustomOpDomain*);
ORT_ENTRY(51, GetTensorMutableData, Status*, Value*, void**);
ORT_ENTRY(60, GetTensorElementType, Status*, const TypeAndShape*, ElementType*);
ORT_ENTRY(61, GetDimensionsCount, Status*, const TypeAndShape*, size_t*);
ORT_ENTRY(62, GetDimensions, Status*, const TypeAndShape*, int64_t*, size_t);
ORT_ENTRY(65, GetTensorTypeAndShape, Status*, const Value*, TypeAndShape**);
ORT_ENTRY(85, KernelInfoGetAttribute_float, Status*, const KernelInfo*, const char*, float*);
ORT_ENTRY(86, KernelInfoGetAttribute_int64, Status*, const KernelInfo*, const char*, int64_t*);
ORT_ENTRY(90, KernelContext_GetInput, Status*, const KernelContext*, size_t, const Value**);
ORT_ENTRY(91, KernelContext_GetOutput, Status*, KernelContext*, size_t, const int64_t*, size_t,
          Value**);
ORT_ENTRY(93, ReleaseStatus, void, Status*);
ORT_ENTRY(99, ReleaseTensorTypeAndShapeInfo, void, TypeAndShape*);
ORT_ENTRY(274, KernelContext_ParallelFor, Status*, const KernelContext*, void (*)(void*, size_t),
          size_t, size_t, void*);

#undef ORT_ENTRY

// What describes an operator to ONNX Runtime, in the order of `OrtCustomOp`. A null pointer is a
// function that there is a default for.
struct CustomOp {
  uint32_t version;
  void*(ORT_CALL* CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char*(ORT_CALL* GetName)(const CustomOp*);
  const char*(ORT_CALL* GetExecutionProviderType)(const CustomOp*);
  ElementType(ORT_CALL* GetInputType)(const CustomOp*, size_t);
  size_t(ORT_CALL* GetInputTypeCount)(const CustomOp*);
  ElementType(ORT_CALL* GetOutputType)(const CustomOp*, size_t);
  size_t(ORT_CALL* GetOutputTypeCount)(const CustomOp*);
  void(ORT_CALL* KernelCompute)(void*, KernelContext*);
  void(ORT_CALL* KernelDestroy)(void*);
  Characteristic(ORT_CALL* GetInputCharacteristic)(const CustomOp*, size_t);
  Characteristic(ORT_CALL* GetOutputCharacteristic)(const CustomOp*, size_t);
  MemoryType(ORT_CALL* GetInputMemoryType)(const CustomOp*, size_t);
  int(ORT_CALL* GetVariadicInputMinArity)(const CustomOp*);
  int(ORT_CALL* GetVariadicInputHomogeneity)(const CustomOp*);
  int(ORT_CALL* GetVariadicOutputMinArity)(const CustomOp*);
  int(ORT_CALL* GetVariadicOutputHomogeneity)(const CustomOp*);
  Status*(ORT_CALL* CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status*(ORT_CALL* KernelComputeV2)(void*, KernelContext*);
  Status*(ORT_CALL* InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int(ORT_CALL* GetStartVersion)(const CustomOp*);
  int(ORT_CALL* GetEndVersion)(const CustomOp*);
  size_t(ORT_CALL* GetMayInplace)(int**, int**);
  void(ORT_CALL* ReleaseMayInplace)(int*, int*);
  size_t(ORT_CALL* GetAliasMap)(int**, int**);
  void(ORT_CALL* ReleaseAliasMap)(int*, int*);
};

}  // namespace ort
