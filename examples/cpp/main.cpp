// Runs a .plan of deb-export: token ids in, outputs out. Needs TensorRT and nothing of ours.
//
//   run_plan model.plan [--output NAME] < ids.txt
//
// Each line of the input is a row of token ids, as the tokenizer gives them, special tokens
// included. Rows are padded to the longest. For a multiple-choice model, the rows are the choices
// of one prompt.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* message) noexcept override {
    if (severity <= Severity::kWARNING) std::cerr << message << '\n';
  }
};

void check(cudaError_t code, char const* what) {
  if (code != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
  }
}

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
using Buffer = std::unique_ptr<void, FreeDevice>;

Buffer allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
  return Buffer(memory);
}

struct Stream {
  cudaStream_t handle = nullptr;
  Stream() { check(cudaStreamCreate(&handle), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
};

std::vector<char> readFile(std::string const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::vector<char> content((std::istreambuf_iterator<char>(file)), {});
  // The header says how long the file must be; a plan that was cut short would not tell otherwise.
  std::uint64_t expected = 0;
  if (content.size() < 28) throw std::runtime_error(path + ": not a TensorRT engine");
  std::memcpy(&expected, content.data() + 16, sizeof expected);
  if (expected != content.size()) throw std::runtime_error(path + ": damaged; copy it again");
  return content;
}

std::vector<std::vector<std::int64_t>> readRows(std::istream& stream) {
  std::vector<std::vector<std::int64_t>> rows;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::vector<std::int64_t> row;
    for (std::int64_t id; words >> id;) row.push_back(id);
    if (!words.eof()) throw std::runtime_error("line is not token ids: " + line);
    if (!row.empty()) rows.push_back(row);
  }
  if (rows.empty()) throw std::runtime_error("no token ids on standard input");
  return rows;
}

std::string text(Dims const& dims) {
  std::string result = "(";
  for (int i = 0; i < dims.nbDims; ++i) result += (i ? ", " : "") + std::to_string(dims.d[i]);
  return result + ")";
}

std::int64_t volume(Dims const& dims) {
  return std::accumulate(dims.d, dims.d + dims.nbDims, std::int64_t{1}, std::multiplies<>());
}

// Index of the first profile that takes inputs of this shape.
int chooseProfile(nvinfer1::ICudaEngine const& engine, char const* input, Dims const& shape) {
  using nvinfer1::OptProfileSelector;
  std::string known;
  for (int profile = 0; profile < engine.getNbOptimizationProfiles(); ++profile) {
    Dims const low = engine.getProfileShape(input, profile, OptProfileSelector::kMIN);
    Dims const high = engine.getProfileShape(input, profile, OptProfileSelector::kMAX);
    bool fits = low.nbDims == shape.nbDims;
    for (int i = 0; fits && i < shape.nbDims; ++i) {
      fits = low.d[i] <= shape.d[i] && shape.d[i] <= high.d[i];
    }
    if (fits) return profile;
    known += " " + text(low) + " to " + text(high);
  }
  throw std::runtime_error("the engine takes" + known + ", the input is " + text(shape));
}

struct Output {
  std::string name;
  Dims shape;
  Buffer memory;
};

void print(Output const& output, Stream const& stream) {
  std::vector<float> values(static_cast<std::size_t>(volume(output.shape)));
  check(cudaMemcpyAsync(values.data(), output.memory.get(), values.size() * sizeof(float),
                        cudaMemcpyDeviceToHost, stream.handle),
        "copy of an output");
  check(cudaStreamSynchronize(stream.handle), "run");
  std::cout << output.name << ' ' << text(output.shape) << '\n';
  std::int64_t const width = output.shape.d[output.shape.nbDims - 1];
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::cout << values[i] << ((static_cast<std::int64_t>(i) + 1) % width == 0 ? '\n' : ' ');
  }
}

int run(std::string const& path, std::string const& wanted) {
  std::vector<char> const plan = readFile(path);
  int gpus = 0;
  check(cudaGetDeviceCount(&gpus), "looking for a GPU and its driver");
  Logger logger;
  std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  if (!runtime) throw std::runtime_error("TensorRT does not start");
  std::unique_ptr<nvinfer1::ICudaEngine> engine(
      runtime->deserializeCudaEngine(plan.data(), plan.size()));
  if (!engine) throw std::runtime_error(path + ": built by another version or for another GPU");

  auto const rows = readRows(std::cin);
  std::size_t length = 0;
  for (auto const& row : rows) length = std::max(length, row.size());
  std::vector<std::int64_t> ids(rows.size() * length, 0), mask(ids), types(ids);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), ids.begin() + i * length);
    std::fill_n(mask.begin() + i * length, rows[i].size(), 1);
  }
  auto const count = static_cast<std::int64_t>(rows.size());
  auto const width = static_cast<std::int64_t>(length);
  Dims shape{2, {count, width}};
  if (engine->getTensorShape("input_ids").nbDims == 3) shape = Dims{3, {1, count, width}};

  Stream stream;
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  if (!context) throw std::runtime_error("too little memory on the GPU");
  int const profile = chooseProfile(*engine, "input_ids", shape);
  if (!context->setOptimizationProfileAsync(profile, stream.handle)) {
    throw std::runtime_error("the engine refuses its own profile");
  }
  std::vector<Buffer> inputs;
  for (int i = 0; i < engine->getNbIOTensors(); ++i) {
    char const* name = engine->getIOTensorName(i);
    if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) continue;
    std::string const kind = name;
    auto const& values = kind == "input_ids" ? ids : kind == "attention_mask" ? mask : types;
    std::size_t const bytes = values.size() * sizeof(std::int64_t);
    inputs.push_back(allocate(bytes));
    check(cudaMemcpyAsync(inputs.back().get(), values.data(), bytes, cudaMemcpyHostToDevice,
                          stream.handle),
          "copy of an input");
    if (!context->setInputShape(name, shape) ||
        !context->setTensorAddress(name, inputs.back().get())) {
      throw std::runtime_error(kind + ": the engine refuses shape " + text(shape));
    }
  }
  std::vector<Output> outputs;
  std::string names;
  for (int i = 0; i < engine->getNbIOTensors(); ++i) {
    char const* name = engine->getIOTensorName(i);
    if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kOUTPUT) continue;
    if (engine->getTensorDataType(name) != DataType::kFLOAT) {
      throw std::runtime_error(std::string(name) + ": not float32; build with deb-export");
    }
    Dims const size = context->getTensorShape(name);
    outputs.push_back({name, size, allocate(volume(size) * sizeof(float))});
    names += std::string(" ") + name;
    if (!context->setTensorAddress(name, outputs.back().memory.get())) {
      throw std::runtime_error(std::string(name) + ": the engine refuses its address");
    }
  }
  auto const isWanted = [&](Output const& output) { return output.name == wanted; };
  if (!wanted.empty() && std::none_of(outputs.begin(), outputs.end(), isWanted)) {
    throw std::runtime_error("no output " + wanted + "; the engine has" + names);
  }
  if (!context->enqueueV3(stream.handle)) throw std::runtime_error("the run could not be queued");
  for (auto const& output : outputs) {
    if (wanted.empty() || isWanted(output)) print(output, stream);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string wanted;
  bool const named = argc == 4 && std::string(argv[2]) == "--output";
  if (named) wanted = argv[3];
  if (argc != 2 && !named) {
    std::cerr << "usage: run_plan model.plan [--output NAME] < ids.txt\n";
    return 2;
  }
  try {
    return run(argv[1], wanted);
  } catch (std::exception const& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
