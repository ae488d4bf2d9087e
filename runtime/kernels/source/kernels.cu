// CUDA kernels of the operators in launch.h. Each reads and writes every element once, 16 bytes at a time, so that its time is
// that of the memory. Elements that no later kernel reads soon are loaded and stored as streams, which leaves the cache to the
// product that follows.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "launch.h"

namespace fletcher {
namespace {

constexpr int LANES_OF_WARP = 32;
constexpr int THREADS = 256;
// Elements in 16 bytes.
constexpr int VECTOR = 8;

template <typename T>
struct Pair;
template <>
struct Pair<__half> {
  using Type = __half2;
  static __device__ __forceinline__ float2 widen(Type pair) { return __half22float2(pair); }
  static __device__ __forceinline__ Type narrow(float2 pair) { return __float22half2_rn(pair); }
};
template <>
struct Pair<__nv_bfloat16> {
  using Type = __nv_bfloat162;
  static __device__ __forceinline__ float2 widen(Type pair) { return __bfloat1622float2(pair); }
  static __device__ __forceinline__ Type narrow(float2 pair) { return __float22bfloat162_rn(pair); }
};

template <typename T>
__device__ __forceinline__ void widen(uint4 packed, float (&values)[VECTOR]) {
  const auto* pairs = reinterpret_cast<const typename Pair<T>::Type*>(&packed);
#pragma unroll
  for (int i = 0; i < VECTOR / 2; ++i) {
    const float2 pair = Pair<T>::widen(pairs[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

template <typename T>
__device__ __forceinline__ uint4 narrow(const float (&values)[VECTOR]) {
  uint4 packed;
  auto* pairs = reinterpret_cast<typename Pair<T>::Type*>(&packed);
#pragma unroll
  for (int i = 0; i < VECTOR / 2; ++i) pairs[i] = Pair<T>::narrow(make_float2(values[2 * i], values[2 * i + 1]));
  return packed;
}

// SkipRmsNorm: WARPS warps for a row, four vectors for a thread.

constexpr int VECTORS = 4;

template <int WARPS>
__device__ __forceinline__ float sum_of_row(float value) {
#pragma unroll
  for (int step = LANES_OF_WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if constexpr (WARPS > 1) {
    __shared__ float parts[WARPS];
    if (threadIdx.x % LANES_OF_WARP == 0) parts[threadIdx.x / LANES_OF_WARP] = value;
    __syncthreads();
    value = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) value += parts[i];
  }
  return value;
}

template <typename T, int WARPS>
__global__ void __launch_bounds__(WARPS > 4 ? WARPS * LANES_OF_WARP : 4 * LANES_OF_WARP)
    skip_rms_norm(const uint4* __restrict__ x, const uint4* __restrict__ weight, const uint4* __restrict__ residual,
                  uint4* __restrict__ normed, uint4* __restrict__ sum, int64_t rows, int count, float epsilon) {
  // A block has several rows only if a row is one warp, so all threads of a block reach the same barriers.
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const int64_t start = row * count;
  uint4 kept[VECTORS], added[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int at = threadIdx.x + i * WARPS * LANES_OF_WARP;
    kept[i] = at < count ? __ldcs(x + start + at) : make_uint4(0, 0, 0, 0);
    if (residual != nullptr) added[i] = at < count ? __ldcs(residual + start + at) : make_uint4(0, 0, 0, 0);
  }
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int at = threadIdx.x + i * WARPS * LANES_OF_WARP;
    float values[VECTOR];
    widen<T>(kept[i], values);
    if (residual != nullptr) {
      float others[VECTOR];
      widen<T>(added[i], others);
#pragma unroll
      for (int j = 0; j < VECTOR; ++j) values[j] += others[j];
      kept[i] = narrow<T>(values);
      widen<T>(kept[i], values);  // the norm is that of the sum as the next block reads it
      if (sum != nullptr && at < count) __stcs(sum + start + at, kept[i]);
    }
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) total += values[j] * values[j];
  }
  const float scale = rsqrtf(sum_of_row<WARPS>(total) / float(count * VECTOR) + epsilon);
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const int at = threadIdx.x + i * WARPS * LANES_OF_WARP;
    if (at >= count) continue;
    float values[VECTOR], factors[VECTOR];
    widen<T>(kept[i], values);
    widen<T>(__ldg(weight + at), factors);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) values[j] *= scale * factors[j];
    normed[start + at] = narrow<T>(values);
  }
}

template <typename T, int WARPS>
void start(const SkipRmsNorm& work, cudaStream_t stream) {
  const dim3 block(WARPS * LANES_OF_WARP, WARPS > 1 ? 1 : 4);
  const unsigned blocks = unsigned((work.rows + block.y - 1) / block.y);
  skip_rms_norm<T, WARPS><<<blocks, block, 0, stream>>>(
      static_cast<const uint4*>(work.x), static_cast<const uint4*>(work.weight), static_cast<const uint4*>(work.residual),
      static_cast<uint4*>(work.normed), static_cast<uint4*>(work.sum), work.rows, work.width / VECTOR, work.epsilon);
}

template <typename T>
const char* start(const SkipRmsNorm& work, cudaStream_t stream) {
  const int warps = (work.width / VECTOR + LANES_OF_WARP * VECTORS - 1) / (LANES_OF_WARP * VECTORS);
  if (warps <= 1) {
    start<T, 1>(work, stream);
  } else if (warps <= 2) {
    start<T, 2>(work, stream);
  } else if (warps <= 4) {
    start<T, 4>(work, stream);
  } else if (warps <= 8) {
    start<T, 8>(work, stream);
  } else if (warps <= 16) {
    start<T, 16>(work, stream);
  } else {
    return "SkipRmsNorm has no kernel for more than 16,384 elements in a row";
  }
  return nullptr;
}

// GatedActivation: one vector of the result for a thread.

template <Activation activation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (activation == Activation::silu) return __fdividef(x, 1.0f + __expf(-x));
  if constexpr (activation == Activation::gelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}

template <typename T, Activation activation>
__global__ void __launch_bounds__(THREADS)
    gated_activation(const uint4* __restrict__ gate, const uint4* __restrict__ up, uint4* __restrict__ result, int64_t count) {
  const int64_t at = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (at >= count) return;
  const uint4 packed_gate = __ldcs(gate + at), packed_up = __ldcs(up + at);
  float gates[VECTOR], ups[VECTOR];
  widen<T>(packed_gate, gates);
  widen<T>(packed_up, ups);
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) gates[i] = activate<activation>(gates[i]) * ups[i];
  result[at] = narrow<T>(gates);
}

template <typename T>
const char* start(const GatedActivation& work, cudaStream_t stream) {
  const int64_t count = work.elements / VECTOR;
  const unsigned blocks = unsigned((count + THREADS - 1) / THREADS);
  const auto *gate = static_cast<const uint4*>(work.gate), *up = static_cast<const uint4*>(work.up);
  auto* result = static_cast<uint4*>(work.result);
  switch (work.activation) {
    case Activation::silu:
      gated_activation<T, Activation::silu><<<blocks, THREADS, 0, stream>>>(gate, up, result, count);
      break;
    case Activation::gelu:
      gated_activation<T, Activation::gelu><<<blocks, THREADS, 0, stream>>>(gate, up, result, count);
      break;
    case Activation::gelu_tanh:
      gated_activation<T, Activation::gelu_tanh><<<blocks, THREADS, 0, stream>>>(gate, up, result, count);
      break;
  }
  return nullptr;
}

// HeadNormRotary: LANES threads for a head, two vectors for a thread: in both layouts these are eight whole pairs.

// Heads of a row.
__host__ __device__ __forceinline__ int heads_of(const HeadNormRotary& work) {
  return work.heads + (work.value == nullptr ? 1 : 2) * work.kv_heads;
}

template <typename T, int LANES>
__global__ void __launch_bounds__(THREADS) head_norm_rotary(HeadNormRotary work, uint32_t items) {
  const int lane = threadIdx.x % LANES;
  const uint32_t item = (blockIdx.x * THREADS + threadIdx.x) / LANES;  // heads of a row, one row after another
  const bool active = item < items && lane * 2 * VECTOR < work.size;
  const uint32_t all = uint32_t(heads_of(work));
  const uint32_t row = item / all;
  const int head = int(item - row * all);
  const int vectors = work.size / VECTOR;
  const int first = work.interleaved ? 2 * lane : lane;
  const int second = work.interleaved ? 2 * lane + 1 : lane + vectors / 2;

  uint4 low = make_uint4(0, 0, 0, 0), high = low;
  if (active) {
    const uint4* source = static_cast<const uint4*>(work.packed) + uint64_t(item) * vectors;
    low = __ldcs(source + first);
    high = __ldcs(source + second);
  }
  const bool is_query = head < work.heads, is_value = head >= work.heads + work.kv_heads;
  float lows[VECTOR], highs[VECTOR];
  widen<T>(low, lows);
  widen<T>(high, highs);

  const auto* norm = static_cast<const uint4*>(is_value ? nullptr : is_query ? work.query_norm : work.key_norm);
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) total += lows[i] * lows[i] + highs[i] * highs[i];
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
  if (!active) return;
  if (norm != nullptr) {
    const float scale = rsqrtf(total / float(work.size) + work.epsilon);
    float factors[VECTOR];
    widen<T>(__ldg(norm + first), factors);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) lows[i] *= scale * factors[i];
    widen<T>(__ldg(norm + second), factors);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) highs[i] *= scale * factors[i];
  }
  if (!is_value) {
    int position = work.positions != nullptr ? __ldg(work.positions + row) : int(row % uint32_t(work.longest));
    position = min(max(position, 0), work.num_positions - 1);
    const int64_t at = int64_t(position) * (vectors / 2) + lane;
    float cosines[VECTOR], sines[VECTOR];
    widen<T>(__ldg(static_cast<const uint4*>(work.cosines) + at), cosines);
    widen<T>(__ldg(static_cast<const uint4*>(work.sines) + at), sines);
    if (work.interleaved) {
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        float* values = i < VECTOR / 2 ? lows : highs;
        const int place = 2 * (i % (VECTOR / 2));
        const float a = values[place], b = values[place + 1];
        values[place] = a * cosines[i] - b * sines[i];
        values[place + 1] = b * cosines[i] + a * sines[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const float a = lows[i], b = highs[i];
        lows[i] = a * cosines[i] - b * sines[i];
        highs[i] = b * cosines[i] + a * sines[i];
      }
    }
    low = narrow<T>(lows);
    high = narrow<T>(highs);
  }
  const int nth = head - (is_query ? 0 : is_value ? work.heads + work.kv_heads : work.heads);
  const int heads = is_query ? work.heads : work.kv_heads, repeats = is_query ? 1 : work.repeats;
  void* array = is_query ? work.query : is_value ? work.value : work.key;
  uint4* target = static_cast<uint4*>(array) + (uint64_t(row) * heads + nth) * repeats * vectors;
  for (int i = 0; i < repeats; ++i, target += vectors) {
    target[first] = low;
    target[second] = high;
  }
}

template <typename T, int LANES>
const char* start(const HeadNormRotary& work, cudaStream_t stream) {
  const int64_t items = work.rows * heads_of(work);
  if (items * LANES > INT32_MAX) return "HeadNormRotary has no kernel for more than 2^31 threads";
  const uint32_t blocks = uint32_t((items * LANES + THREADS - 1) / THREADS);
  head_norm_rotary<T, LANES><<<blocks, THREADS, 0, stream>>>(work, uint32_t(items));
  return nullptr;
}

template <typename T>
const char* start(const HeadNormRotary& work, cudaStream_t stream) {
  const int lanes = work.size / (2 * VECTOR);
  if (lanes <= 1) return start<T, 1>(work, stream);
  if (lanes <= 2) return start<T, 2>(work, stream);
  if (lanes <= 4) return start<T, 4>(work, stream);
  if (lanes <= 8) return start<T, 8>(work, stream);
  if (lanes <= 16) return start<T, 16>(work, stream);
  return "HeadNormRotary has no kernel for heads of more than 256 elements";
}

int64_t size_of(const SkipRmsNorm& work) { return work.rows; }
int64_t size_of(const GatedActivation& work) { return work.elements; }
int64_t size_of(const HeadNormRotary& work) { return work.rows; }

template <typename Work>
const char* launch_on(const Work& work, Element element, void* stream) {
  if (size_of(work) == 0) return nullptr;
  auto* on = static_cast<cudaStream_t>(stream);
  const char* error = element == Element::half ? start<__half>(work, on) : start<__nv_bfloat16>(work, on);
  if (error != nullptr) return error;
  const cudaError_t code = cudaGetLastError();
  return code == cudaSuccess ? nullptr : cudaGetErrorString(code);
}

}  // namespace

const char* launch(const SkipRmsNorm& work, Element element, void* stream) { return launch_on(work, element, stream); }
const char* launch(const GatedActivation& work, Element element, void* stream) { return launch_on(work, element, stream); }
const char* launch(const HeadNormRotary& work, Element element, void* stream) { return launch_on(work, element, stream); }

}  // namespace fletcher
