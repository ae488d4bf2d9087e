// The operators' work on the processor, for tests without a GPU: one element after another, in double precision.

#include <cmath>
#include <cstring>

#include "launch.h"

namespace fletcher {
namespace {

// An array of half or bfloat elements.
struct Array {
  const void* data;
  Element element;

  double operator[](int64_t at) const {
    if (element == Element::half) {
      _Float16 value;
      std::memcpy(&value, static_cast<const char*>(data) + 2 * at, 2);
      return double(value);
    }
    uint16_t bits;
    std::memcpy(&bits, static_cast<const char*>(data) + 2 * at, 2);
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return double(value);
  }

  void set(int64_t at, double value) const {
    char* place = static_cast<char*>(const_cast<void*>(data)) + 2 * at;
    if (element == Element::half) {
      const _Float16 rounded = _Float16(float(value));
      std::memcpy(place, &rounded, 2);
      return;
    }
    const float single = float(value);
    uint32_t bits;
    std::memcpy(&bits, &single, 4);
    const uint16_t rounded = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    std::memcpy(place, &rounded, 2);
  }
};

double activate(Activation activation, double x) {
  if (activation == Activation::silu) return x / (1 + std::exp(-x));
  if (activation == Activation::gelu) return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

}  // namespace

const char* launch(const SkipRmsNorm& work, Element element, void*) {
  const Array x{work.x, element}, weight{work.weight, element}, normed{work.normed, element};
  // The sum is rounded to the elements' type before the norm, so it needs a place even if nothing reads it.
  static thread_local uint16_t row_of_sum[1 << 15];
  for (int64_t row = 0; row < work.rows; ++row) {
    const int64_t start = row * work.width;
    const Array kept{row_of_sum, element};
    double total = 0;
    for (int i = 0; i < work.width; ++i) {
      double value = x[start + i];
      if (work.residual != nullptr) value += Array{work.residual, element}[start + i];
      kept.set(i, value);
      if (work.sum != nullptr) Array{work.sum, element}.set(start + i, value);
      total += kept[i] * kept[i];
    }
    const double scale = 1 / std::sqrt(total / work.width + work.epsilon);
    for (int i = 0; i < work.width; ++i) normed.set(start + i, kept[i] * scale * weight[i]);
  }
  return nullptr;
}

const char* launch(const GatedActivation& work, Element element, void*) {
  const Array gate{work.gate, element}, up{work.up, element}, result{work.result, element};
  for (int64_t i = 0; i < work.elements; ++i) result.set(i, activate(work.activation, gate[i]) * up[i]);
  return nullptr;
}

const char* launch(const HeadNormRotary& work, Element element, void*) {
  const Array packed{work.packed, element}, cosines{work.cosines, element}, sines{work.sines, element};
  const int all = work.heads + (work.value == nullptr ? 1 : 2) * work.kv_heads, pairs = work.size / 2;
  double values[256];
  for (int64_t row = 0; row < work.rows; ++row)
    for (int head = 0; head < all; ++head) {
      const bool is_query = head < work.heads, is_value = head >= work.heads + work.kv_heads;
      double total = 0;
      for (int i = 0; i < work.size; ++i) {
        values[i] = packed[(row * all + head) * work.size + i];
        total += values[i] * values[i];
      }
      const void* norm = is_query ? work.query_norm : work.key_norm;
      if (!is_value && norm != nullptr)
        for (int i = 0; i < work.size; ++i)
          values[i] *= Array{norm, element}[i] / std::sqrt(total / work.size + work.epsilon);
      const int64_t position = work.positions != nullptr ? work.positions[row] : row % work.longest;
      for (int pair = 0; !is_value && pair < pairs; ++pair) {
        double& a = values[work.interleaved ? 2 * pair : pair];
        double& b = values[work.interleaved ? 2 * pair + 1 : pair + pairs];
        const double cosine = cosines[position * pairs + pair], sine = sines[position * pairs + pair], first = a;
        a = first * cosine - b * sine;
        b = b * cosine + first * sine;
      }
      const int heads = is_query ? work.heads : work.kv_heads;
      const int nth = is_query ? head : is_value ? head - work.heads - work.kv_heads : head - work.heads;
      const Array target{is_query ? work.query : is_value ? work.value : work.key, element};
      const int repeats = is_query ? 1 : work.repeats;
      for (int again = 0; again < repeats; ++again)
        for (int i = 0; i < work.size; ++i)
          target.set(((row * heads + nth) * repeats + again) * work.size + i, values[i]);
    }
  return nullptr;
}

}  // namespace fletcher
