// Operators of the domain `fletcher` for ONNX Runtime: their inputs, outputs and attributes, and the work that they start.
//
//   SkipRmsNorm      (x, weight, residual?) -> (normed, sum?)                              epsilon
//   GatedActivation  (gate, up) -> (result)                                                activation
//   HeadNormRotary   (packed, cosines, sines, query_norm?, key_norm?, positions?)          num_heads, kv_num_heads,
//                    -> (query, key, value?)                                               repeats, interleaved, epsilon
//
// launch.h has their meaning. Every operator has a version for float16 and one for bfloat16; positions are int32.

#include <mutex>
#include <string>
#include <vector>

#include "launch.h"
#include "onnxruntime_abi.h"

#ifndef FLETCHER_PROVIDER
#define FLETCHER_PROVIDER "CUDAExecutionProvider"
#endif
#ifndef FLETCHER_DIGEST
#define FLETCHER_DIGEST ""
#endif

namespace fletcher {
namespace {

constexpr char DOMAIN[] = "fletcher";

// A status of ONNX Runtime that is not success, on its way to the function that ONNX Runtime called.
struct Failed {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status != nullptr) throw Failed{status};
}

[[noreturn]] void fail(const Api& api, int code, const std::string& message) {
  throw Failed{api.create_status(code, message.c_str())};
}

struct Tensor {
  void* data = nullptr;
  std::vector<int64_t> shape;

  explicit operator bool() const { return data != nullptr; }
  int64_t last() const { return shape.back(); }
  int64_t rows() const {
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    return rows;
  }
};

// Inputs and outputs of a run.
class Run {
 public:
  Run(const Api& api, OrtKernelContext* context) : api_(api), context_(context) {
    check(api.input_count(context, &inputs_));
    check(api.output_count(context, &outputs_));
  }

  // An input; without data if the node does not have it.
  Tensor input(size_t index) const {
    Tensor tensor;
    if (index >= inputs_) return tensor;
    const OrtValue* value = nullptr;
    check(api_.input(context_, index, &value));
    if (value == nullptr) return tensor;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_.shape_of(value, &info));
    size_t count = 0;
    OrtStatus* status = api_.dimensions_count(info, &count);
    tensor.shape.resize(count);
    if (status == nullptr) status = api_.dimensions(info, tensor.shape.data(), count);
    api_.release(info);
    check(status);
    check(api_.data_of(const_cast<OrtValue*>(value), &tensor.data));
    return tensor;
  }

  // Memory of an output of a shape; null if the node does not have it.
  void* output(size_t index, const std::vector<int64_t>& shape) const {
    if (index >= outputs_) return nullptr;
    OrtValue* value = nullptr;
    check(api_.output(context_, index, shape.data(), shape.size(), &value));
    void* data = nullptr;
    if (value != nullptr) check(api_.data_of(value, &data));
    return data;
  }

  bool has_output(size_t index) const { return index < outputs_; }

  template <typename Work>
  void start(const Work& work, Element element) const {
    void* stream = nullptr;
    check(api_.stream(context_, &stream));
    if (const char* error = launch(work, element, stream)) fail(api_, ORT_FAIL, error);
  }

  void require(bool holds, const char* message) const {
    if (!holds) fail(api_, ORT_INVALID_ARGUMENT, message);
  }

 private:
  const Api& api_;
  OrtKernelContext* context_;
  size_t inputs_ = 0, outputs_ = 0;
};

template <typename Value>
Value attribute(const Api& api, const OrtKernelInfo* info, const char* name) {
  Value value{};
  check(api.attribute(info, name, &value));
  return value;
}

std::string text_attribute(const Api& api, const OrtKernelInfo* info, const char* name) {
  size_t size = 0;
  check(api.attribute(info, name, nullptr, &size));
  std::string text(size, '\0');
  check(api.attribute(info, name, text.data(), &size));
  text.resize(size - 1);  // its end is a zero
  return text;
}

struct SkipRmsNormKernel {
  static constexpr char NAME[] = "SkipRmsNorm";
  static constexpr size_t INPUTS = 3, REQUIRED_INPUTS = 2, OUTPUTS = 2, REQUIRED_OUTPUTS = 1;

  SkipRmsNormKernel(const Api& api, const OrtKernelInfo* info) : epsilon(attribute<float>(api, info, "epsilon")) {}

  void run(const Run& run, Element element) const {
    const Tensor x = run.input(0), weight = run.input(1), residual = run.input(2);
    run.require(!x.shape.empty() && x.last() % 8 == 0, "SkipRmsNorm: rows must have a multiple of 8 elements");
    run.require(weight.shape == std::vector<int64_t>{x.last()}, "SkipRmsNorm: the weight has another width than the rows");
    run.require(!residual || residual.shape == x.shape, "SkipRmsNorm: the residual has another shape than x");
    SkipRmsNorm work{x.data, weight.data, residual.data, run.output(0, x.shape), nullptr, x.rows(), int(x.last()), epsilon};
    if (residual) work.sum = run.output(1, x.shape);
    run.start(work, element);
  }

  float epsilon;
};

struct GatedActivationKernel {
  static constexpr char NAME[] = "GatedActivation";
  static constexpr size_t INPUTS = 2, REQUIRED_INPUTS = 2, OUTPUTS = 1, REQUIRED_OUTPUTS = 1;

  GatedActivationKernel(const Api& api, const OrtKernelInfo* info) {
    const std::string name = text_attribute(api, info, "activation");
    if (name == "silu") {
      activation = Activation::silu;
    } else if (name == "gelu") {
      activation = Activation::gelu;
    } else if (name == "gelu_tanh") {
      activation = Activation::gelu_tanh;
    } else {
      fail(api, ORT_INVALID_ARGUMENT, "GatedActivation has no activation '" + name + "'");
    }
  }

  void run(const Run& run, Element element) const {
    const Tensor gate = run.input(0), up = run.input(1);
    run.require(gate.shape == up.shape, "GatedActivation: gate and up must have one shape");
    run.require(!gate.shape.empty() && gate.last() % 8 == 0, "GatedActivation: rows must have a multiple of 8 elements");
    const int64_t elements = gate.rows() * gate.last();
    run.start(GatedActivation{gate.data, up.data, run.output(0, gate.shape), elements, activation}, element);
  }

  Activation activation = Activation::silu;
};

struct HeadNormRotaryKernel {
  static constexpr char NAME[] = "HeadNormRotary";
  static constexpr size_t INPUTS = 6, REQUIRED_INPUTS = 3, OUTPUTS = 3, REQUIRED_OUTPUTS = 2;
  static constexpr size_t POSITIONS = 5;

  HeadNormRotaryKernel(const Api& api, const OrtKernelInfo* info)
      : heads(attribute<int64_t>(api, info, "num_heads")),
        kv_heads(attribute<int64_t>(api, info, "kv_num_heads")),
        repeats(attribute<int64_t>(api, info, "repeats")),
        interleaved(attribute<int64_t>(api, info, "interleaved")),
        epsilon(attribute<float>(api, info, "epsilon")) {}

  void run(const Run& run, Element element) const {
    const Tensor packed = run.input(0), cosines = run.input(1), sines = run.input(2);
    const Tensor query_norm = run.input(3), key_norm = run.input(4), positions = run.input(POSITIONS);
    const bool has_values = run.has_output(2);
    const int64_t all = heads + (has_values ? 2 : 1) * kv_heads;
    run.require(!packed.shape.empty() && packed.last() % all == 0, "HeadNormRotary: a row must hold whole heads");
    const int64_t size = packed.last() / all;
    run.require(size % 16 == 0 && size <= 256, "HeadNormRotary: heads must have a multiple of 16 elements, at most 256");
    run.require(cosines.shape.size() == 2 && cosines.last() == size / 2 && sines.shape == cosines.shape,
                "HeadNormRotary: the tables must have a cosine and a sine for each pair of a head");
    for (const Tensor* norm : {&query_norm, &key_norm})
      run.require(!*norm || norm->shape == std::vector<int64_t>{size}, "HeadNormRotary: a norm must have a head's width");
    const std::vector<int64_t> rows(packed.shape.begin(), packed.shape.end() - 1);
    run.require(!positions || positions.shape == rows, "HeadNormRotary: each row needs a position");
    run.require(!rows.empty() && (positions || rows.back() <= cosines.shape[0]),
                "HeadNormRotary: a text is longer than the tables");
    std::vector<int64_t> query = packed.shape, key = packed.shape;
    query.back() = heads * size;
    key.back() = kv_heads * repeats * size;
    HeadNormRotary work{};
    work.packed = packed.data;
    work.cosines = cosines.data;
    work.sines = sines.data;
    work.query_norm = query_norm.data;
    work.key_norm = key_norm.data;
    work.positions = static_cast<const int32_t*>(positions.data);
    work.query = run.output(0, query);
    work.key = run.output(1, key);
    work.value = has_values ? run.output(2, key) : nullptr;
    work.rows = packed.rows();
    work.longest = int(rows.back());
    work.num_positions = int(cosines.shape[0]);
    work.heads = int(heads);
    work.kv_heads = int(kv_heads);
    work.repeats = int(repeats);
    work.size = int(size);
    work.epsilon = epsilon;
    work.interleaved = interleaved != 0;
    run.start(work, element);
  }

  int64_t heads, kv_heads, repeats, interleaved;
  float epsilon;
};

// An operator of ONNX Runtime for one element type.
template <typename Kernel>
struct Operator : OrtCustomOp {
  struct Instance {
    Api api;
    Element element;
    Kernel kernel;
  };

  explicit Operator(Element of) : OrtCustomOp{}, element(of) {
    version = API_VERSION;
    GetName = [](const OrtCustomOp*) { return Kernel::NAME; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return FLETCHER_PROVIDER; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::INPUTS; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::OUTPUTS; };
    GetInputType = [](const OrtCustomOp* self, size_t index) {
      const bool is_position = Kernel::INPUTS == HeadNormRotaryKernel::INPUTS && index == HeadNormRotaryKernel::POSITIONS;
      return is_position ? int(ELEMENT_INT32) : type_of(self);
    };
    GetOutputType = [](const OrtCustomOp* self, size_t) { return type_of(self); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return index < Kernel::REQUIRED_INPUTS ? int(REQUIRED) : int(OPTIONAL);
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return index < Kernel::REQUIRED_OUTPUTS ? int(REQUIRED) : int(OPTIONAL);
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return int(MEMORY_OF_PROVIDER); };
    GetVariadicInputMinArity = GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* table, const OrtKernelInfo* info, void** kernel) {
      const Api api(table);
      try {
        *kernel = new Instance{api, static_cast<const Operator*>(self)->element, Kernel(api, info)};
      } catch (const Failed& failed) {
        return failed.status;
      } catch (const std::exception& error) {
        return api.create_status(ORT_FAIL, error.what());
      }
      return static_cast<OrtStatus*>(nullptr);
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      const auto& instance = *static_cast<const Instance*>(kernel);
      try {
        instance.kernel.run(Run(instance.api, context), instance.element);
      } catch (const Failed& failed) {
        return failed.status;
      } catch (const std::exception& error) {
        return instance.api.create_status(ORT_FAIL, error.what());
      }
      return static_cast<OrtStatus*>(nullptr);
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Instance*>(kernel); };
  }

  static int type_of(const OrtCustomOp* self) {
    return static_cast<const Operator*>(self)->element == Element::half ? int(ELEMENT_FLOAT16) : int(ELEMENT_BFLOAT16);
  }

  Element element;
};

template <typename Kernel>
void add(const Api& api, OrtCustomOpDomain* domain) {
  static const Operator<Kernel> half(Element::half), bfloat(Element::bfloat);
  check(api.add_to_domain(domain, &half));
  check(api.add_to_domain(domain, &bfloat));
}

// The domain, which all sessions of the process share. It is never released, as a session refers to it until its end.
OrtCustomOpDomain* domain_of(const Api& api) {
  static std::mutex mutex;
  static OrtCustomOpDomain* shared = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (shared == nullptr) {
    OrtCustomOpDomain* domain = nullptr;
    check(api.create_domain(DOMAIN, &domain));
    add<SkipRmsNormKernel>(api, domain);
    add<GatedActivationKernel>(api, domain);
    add<HeadNormRotaryKernel>(api, domain);
    shared = domain;
  }
  return shared;
}

}  // namespace
}  // namespace fletcher

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Called by ONNX Runtime's `register_custom_ops_library`.
EXPORTED OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* table = base->GetApi(fletcher::API_VERSION);
  if (table == nullptr) {
    const std::string message = std::string("Fletcher's kernels need version 17 of ONNX Runtime's API, which ONNX Runtime ") +
                                base->GetVersionString() + " does not have";
    return fletcher::Api(base->GetApi(1)).create_status(ORT_FAIL, message.c_str());
  }
  const fletcher::Api api(table);
  try {
    fletcher::check(api.add_domain(options, fletcher::domain_of(api)));
  } catch (const fletcher::Failed& failed) {
    return failed.status;
  }
  return nullptr;
}

// Digest of the sources that this library was built from.
EXPORTED const char* fletcher_kernels_digest() { return FLETCHER_DIGEST; }
