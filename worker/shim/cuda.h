// What the rest of the shim sees of CUDA. Only `cuda.cpp` knows its headers, and that is an object of its own,
// which is loaded where there is a device: the worker's program itself links nothing of CUDA.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <string>

namespace rb {
// No wait of a group ends by its time.
constexpr std::chrono::hours kForever{24 * 7};

// What the object answers. Each of its functions returns null, or a message to free.
struct CudaPart {
  char* (*nccl)(c10::intrusive_ptr<c10d::Store> store, int rank, int size, int device,
                c10::intrusive_ptr<c10d::Backend>* out);
  char* (*describe)(int device, std::string* out);
  char* (*peak)(int device, int64_t* bytes);
};

// The name under which the object exports its `CudaPart`.
constexpr const char* kCudaPart = "rebloom_cuda_part";

// A group over NCCL; blocks until every member is there.
c10::intrusive_ptr<c10d::Backend> nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                       int device);
} // namespace rb
