// The part of CUDA that kernels.cu uses, on the processor: one block after another, and the threads of a block as coroutines that
// wait for each other where they shuffle or synchronize. A test replaces `kernel<<<blocks, threads, 0, stream>>>(…)` by a call of
// `emulated::launch`. Functions with fewer digits on a GPU (__expf, …) are exact here.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct float2 {
  float x, y;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

namespace emulated {

constexpr unsigned WARP = 32;

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  dim3 place{0};
  float slots[2] = {};  // values that this thread gave to shuffles, in turn
  unsigned shuffles = 0;
  bool done = false;
};

inline std::vector<Thread> threads;
inline Thread* current;
inline unsigned number;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline dim3 block_place{0}, block_size{0};

// Let every other thread of the block come to the same point.
inline void wait() { swapcontext(&current->context, &scheduler); }

inline void begin() {
  body();
  current->done = true;
}

inline void run_block() {
  constexpr size_t STACK = 1 << 16;
  const unsigned count = block_size.x * block_size.y;
  threads.clear();
  threads.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = threads[i];
    thread.place = dim3(i % block_size.x, i / block_size.x);
    thread.stack.reset(new char[STACK]);
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, begin, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (number = 0; number < count; ++number) {
      current = &threads[number];
      if (current->done) continue;
      swapcontext(&scheduler, &current->context);
      running = true;
    }
  }
}

template <typename... Parameters, typename... Arguments>
void launch(dim3 blocks, dim3 size, void (*kernel)(Parameters...), Arguments... arguments) {
  block_size = size;
  body = [=] { kernel(arguments...); };
  for (unsigned x = 0; x < blocks.x; ++x) {
    block_place = dim3(x);
    run_block();
  }
}

}  // namespace emulated

#define threadIdx (emulated::current->place)
#define blockIdx (emulated::block_place)
#define blockDim (emulated::block_size)

inline void __syncthreads() { emulated::wait(); }

inline float __shfl_xor_sync(unsigned, float value, int step) {
  emulated::Thread& own = *emulated::current;
  const unsigned turn = own.shuffles++ % 2, partner = emulated::number ^ unsigned(step);
  own.slots[turn] = value;
  emulated::wait();
  // A warp that has ended does not shuffle, and one that shuffles is whole: a partner that is not there is an error.
  if (partner / emulated::WARP != emulated::number / emulated::WARP || emulated::threads[partner].shuffles < own.shuffles)
    std::abort();
  return emulated::threads[partner].slots[turn];
}

template <typename T>
T __ldcs(const T* place) {
  return *place;
}
template <typename T>
T __ldg(const T* place) {
  return *place;
}
template <typename T>
void __stcs(T* place, T value) {
  *place = value;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
