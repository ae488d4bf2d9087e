// Work of the operators, as data. kernels.cu computes it on a GPU; a test computes it on the processor.
//
// All arrays are contiguous and of one element type; arithmetic inside is in float32.

#pragma once

#include <cstdint>

namespace fletcher {

enum class Element { half, bfloat };
enum class Activation { silu, gelu, gelu_tanh };

// normed = sum / sqrt(mean(sum²) + epsilon) · weight over the last axis, of sum = x + residual, rounded to the element type.
struct SkipRmsNorm {
  const void* x;         // (rows, width)
  const void* weight;    // (width,)
  const void* residual;  // (rows, width), or null for sum = x
  void* normed;          // (rows, width)
  void* sum;             // (rows, width), or null
  int64_t rows;
  int width;  // a multiple of 8
  float epsilon;
};

// result = activation(gate) · up.
struct GatedActivation {
  const void* gate;
  const void* up;
  void* result;
  int64_t elements;  // of each array, a multiple of 8
  Activation activation;
};

// Heads of queries and keys from one array into two, normed, then rotated; those of values as they are. Each head of keys and
// values is written `repeats` times in a row, for attentions that have no grouped heads.
struct HeadNormRotary {
  const void* packed;        // (rows, all · size): queries, keys, and values if there is an array for them
  const void* cosines;       // (num_positions, size / 2)
  const void* sines;         // (num_positions, size / 2)
  const void* query_norm;    // (size,), or null: no norm
  const void* key_norm;      // (size,), or null: no norm
  const int32_t* positions;  // (rows,), or null: the row modulo `longest`
  void* query;               // (rows, heads · size)
  void* key;                 // (rows, kv_heads · repeats · size)
  void* value;               // as `key`, or null: no values
  int64_t rows;
  int longest;
  int num_positions;
  int heads;
  int kv_heads;
  int repeats;
  int size;  // a multiple of 16, at most 256
  float epsilon;
  bool interleaved;  // pairs of neighbors (0, 1), (2, 3), …; otherwise of i and i + size / 2
};

// Start the work on a CUDA stream. Return null, or the text of an error.
const char* launch(const SkipRmsNorm& work, Element element, void* stream);
const char* launch(const GatedActivation& work, Element element, void* stream);
const char* launch(const HeadNormRotary& work, Element element, void* stream);

}  // namespace fletcher
