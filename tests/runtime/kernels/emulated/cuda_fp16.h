// Pairs of float16 on the processor; see cuda_runtime.h.

#pragma once

#include "cuda_runtime.h"

struct __half;
struct __half2 {
  _Float16 x, y;
};
inline float2 __half22float2(__half2 pair) { return {float(pair.x), float(pair.y)}; }
inline __half2 __float22half2_rn(float2 pair) { return {_Float16(pair.x), _Float16(pair.y)}; }
