// Pairs of bfloat16 on the processor; see cuda_runtime.h.

#pragma once

#include <cstring>

#include "cuda_runtime.h"

struct __nv_bfloat16;
struct __nv_bfloat162 {
  uint16_t x, y;
};

namespace emulated {

inline float widen(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

inline uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace emulated

inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {emulated::widen(pair.x), emulated::widen(pair.y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return {emulated::narrow(pair.x), emulated::narrow(pair.y)}; }
