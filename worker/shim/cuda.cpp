// The object that is loaded behind libtorch_cuda: NCCL's groups, and what only CUDA's own headers can say.
//
// It is compiled against the headers of CUDA and NCCL and links neither: libtorch_cuda brings both.
#include "cuda.h"
#include "guarded.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace {
char* nccl(c10::intrusive_ptr<c10d::Store> store, int rank, int size, int device,
           c10::intrusive_ptr<c10d::Backend>* out) {
  return rb::guarded([&] {
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = rb::kForever;
    auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(store), rank, size, std::move(options));
    // Connects here and not in the first operation; sends and receives then use the same communicator.
    group->eagerConnectSingleDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
    *out = std::move(group);
  });
}

char* describe(int device, std::string* out) {
  return rb::guarded([&] {
    const auto* properties = at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(device));
    *out = std::string(properties->name) + ", " + std::to_string(properties->totalGlobalMem >> 20) + " MiB";
  });
}

char* peak(int device, int64_t* bytes) {
  return rb::guarded([&] {
    const auto stats =
        c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
  });
}
} // namespace

extern "C" __attribute__((visibility("default"))) const rb::CudaPart rebloom_cuda_part = {&nccl, &describe,
                                                                                         &peak};
