// The part of ONNX Runtime's C API that the operators use. Its wheels have no headers.
//
// `OrtApi` is a table of functions that only grows: an index, once released, keeps its function for ever, and a library that
// asks for version 17 gets the table of version 17. Indices and the layout of `OrtCustomOp` were counted in
// include/onnxruntime/core/session/onnxruntime_c_api.h (struct OrtApi, struct OrtCustomOp) and in the same table of
// csharp/src/Microsoft.ML.OnnxRuntime/NativeMethods.shared.cs. tests/runtime/kernels calls each of them on the processor.

#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;
struct OrtApi;

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// ONNXTensorElementDataType, OrtCustomOpInputOutputCharacteristic, OrtErrorCode and OrtMemType.
enum : int { ELEMENT_INT32 = 6, ELEMENT_FLOAT16 = 10, ELEMENT_BFLOAT16 = 16 };
enum : int { REQUIRED = 0, OPTIONAL = 1 };
enum : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum : int { MEMORY_OF_PROVIDER = 0 };

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  // Fields of later versions, which a runtime does not read of an operator of version 17.
  void* later[8];
};

}  // extern "C"

namespace fletcher {

// Version of the API whose table and structures this file describes: that of ONNX Runtime 1.17.
constexpr uint32_t API_VERSION = 17;

// Functions of `OrtApi`, by index.
class Api {
 public:
  explicit Api(const OrtApi* table) : table_(reinterpret_cast<void* const*>(table)) {}

  OrtStatus* create_status(int code, const char* message) const {
    return at<OrtStatus*(int, const char*)>(0)(code, message);
  }
  OrtStatus* create_domain(const char* name, OrtCustomOpDomain** domain) const {
    return at<OrtStatus*(const char*, OrtCustomOpDomain**)>(26)(name, domain);
  }
  OrtStatus* add_to_domain(OrtCustomOpDomain* domain, const OrtCustomOp* op) const {
    return at<OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)>(27)(domain, op);
  }
  OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return at<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(options, domain);
  }
  OrtStatus* data_of(OrtValue* value, void** data) const {
    return at<OrtStatus*(OrtValue*, void**)>(51)(value, data);
  }
  OrtStatus* dimensions_count(const OrtTensorTypeAndShapeInfo* info, size_t* count) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>(61)(info, count);
  }
  OrtStatus* dimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* sizes, size_t count) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(62)(info, sizes, count);
  }
  OrtStatus* shape_of(const OrtValue* value, OrtTensorTypeAndShapeInfo** info) const {
    return at<OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(65)(value, info);
  }
  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, float* value) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, float*)>(85)(info, name, value);
  }
  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, int64_t* value) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(86)(info, name, value);
  }
  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, char* text, size_t* size) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, char*, size_t*)>(87)(info, name, text, size);
  }
  OrtStatus* input_count(const OrtKernelContext* context, size_t* count) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t*)>(88)(context, count);
  }
  OrtStatus* output_count(const OrtKernelContext* context, size_t* count) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t*)>(89)(context, count);
  }
  OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** value) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(90)(context, index, value);
  }
  OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* sizes, size_t count, OrtValue** value) const {
    return at<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(
        context, index, sizes, count, value);
  }
  void release(OrtTensorTypeAndShapeInfo* info) const { at<void(OrtTensorTypeAndShapeInfo*)>(99)(info); }
  // The CUDA stream of the run; null on the processor.
  OrtStatus* stream(const OrtKernelContext* context, void** stream) const {
    return at<OrtStatus*(const OrtKernelContext*, void**)>(193)(context, stream);
  }

 private:
  template <typename Function>
  Function* at(int index) const {
    return reinterpret_cast<Function*>(table_[index]);
  }
  void* const* table_;
};

}  // namespace fletcher
