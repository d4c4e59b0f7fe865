// Devices: how libtorch comes to have CUDA, and copies that do not hold up what a device computes.
//
// Everything but the object of `cuda.cpp` goes through c10's interface for devices of any kind, so that it is
// linked without CUDA.
#include "cuda.h"
#include "internal.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>
#include <unistd.h>
#include <climits>
#include <cstdlib>

namespace {
const rb::CudaPart* part = nullptr;

c10::Device cuda(int index) {
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

c10::impl::VirtualGuardImpl devices() {
  return c10::impl::VirtualGuardImpl(at::kCUDA);
}

// The folder of the file that libtorch_cpu was loaded from, whatever links lead to it.
std::string folder_of_libtorch() {
  Dl_info found;
  char real[PATH_MAX];
  if (::dladdr(reinterpret_cast<const void*>(&at::globalContext), &found) == 0 ||
      ::realpath(found.dli_fname, real) == nullptr) {
    throw std::runtime_error("libtorch_cpu cannot be found");
  }
  const std::string path(real);
  return path.substr(0, path.rfind('/') + 1);
}

void* load(const std::string& path) {
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw std::runtime_error(::dlerror());
  return handle;
}

// Whether this machine has a driver of NVIDIA at all; asked first, since loading libtorch_cuda takes seconds.
bool has_driver() {
  if (::access("/dev/nvidiactl", F_OK) == 0) return true;
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver != nullptr) ::dlclose(driver);
  return driver != nullptr;
}

// What CUDA, cuBLAS and NCCL read from the environment when they begin. What an admin has set stays.
void settle_environment() {
  const std::pair<const char*, const char*> wanted[] = {
      // As NVML counts, and so the agent.
      {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"},
      // The same bits every time.
      {"CUBLAS_WORKSPACE_CONFIG", ":4096:8"},
      {"NCCL_ALGO", "Ring"},
      // What is done about a hang or an error is not libtorch's to decide: it would end the process.
      {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "0"},
      {"TORCH_NCCL_ENABLE_MONITORING", "0"},
      {"TORCH_NCCL_RETHROW_CUDA_ERRORS", "0"},
      {"TORCH_NCCL_DUMP_ON_TIMEOUT", "0"},
  };
  for (const auto& [name, value] : wanted) ::setenv(name, value, 0);
}

// The stream on which copies leave the device.
const c10::Stream& aside(int device) {
  static const c10::Stream stream = devices().getStreamFromGlobalPool(cuda(device));
  return stream;
}

void ok(char* message) {
  if (message == nullptr) return;
  const std::string text(message);
  ::free(message);
  throw std::runtime_error(text);
}
} // namespace

struct rb_crossing {
  int device;
  c10::Event done{at::kCUDA};
};

c10::intrusive_ptr<c10d::Backend> rb::nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                           int device) {
  if (part == nullptr) throw std::runtime_error("CUDA was not loaded");
  c10::intrusive_ptr<c10d::Backend> backend;
  ok(part->nccl(store, rank, size, device, &backend));
  return backend;
}

char* rb_cuda_load(const char* own) {
  return rb::guarded([&] {
    if (part != nullptr) return;
    if (!has_driver()) throw std::runtime_error("this machine has no NVIDIA driver");
    settle_environment();
    load(folder_of_libtorch() + "libtorch_cuda.so");
    void* symbol = ::dlsym(load(own), rb::kCudaPart);
    if (symbol == nullptr) throw std::runtime_error(std::string(own) + " is not the worker's CUDA part");
    if (at::globalContext().allowTF32CuBLAS()) at::globalContext().setAllowTF32CuBLAS(false);
    part = static_cast<const rb::CudaPart*>(symbol);
  });
}

char* rb_cuda_count(int* out) {
  return rb::guarded([&] { *out = part == nullptr ? 0 : devices().deviceCount(); });
}

char* rb_cuda_take(int device, char** name) {
  return rb::guarded([&] {
    if (part == nullptr) throw std::runtime_error("CUDA was not loaded");
    at::globalContext().lazyInitDevice(at::kCUDA);
    devices().setDevice(cuda(device));
    // The first use of a device makes its context; better here than in the first step.
    devices().synchronizeDevice(static_cast<c10::DeviceIndex>(device));
    std::string described;
    ok(part->describe(device, &described));
    *name = rb::message(described.c_str());
  });
}

char* rb_cuda_synchronize(int device) {
  return rb::guarded([&] { devices().synchronizeDevice(static_cast<c10::DeviceIndex>(device)); });
}

char* rb_cuda_peak(int device, int64_t* bytes) {
  return rb::guarded([&] { ok(part->peak(device, bytes)); });
}

char* rb_cuda_bring(at::Tensor* tensor, int device, at::Tensor** out) {
  return rb::guarded([&] {
    at::Tensor pinned = at::empty(tensor->sizes(), tensor->options().pinned_memory(true));
    pinned.copy_(*tensor);
    *out = new at::Tensor(pinned.to(cuda(device), /*non_blocking=*/true));
  });
}

char* rb_crossing_room(at::Tensor* like, at::Tensor** out) {
  return rb::guarded([&] {
    const auto options = like->options().device(at::kCPU).pinned_memory(true);
    *out = new at::Tensor(at::empty(like->sizes(), options));
  });
}

char* rb_crossing_begin(int device, rb_crossing** out) {
  return rb::guarded([&] {
    c10::Event before{at::kCUDA};
    before.record(devices().getStream(cuda(device)));
    before.block(aside(device));
    *out = new rb_crossing{device};
  });
}

char* rb_crossing_copy(rb_crossing* crossing, at::Tensor* into, at::Tensor* from) {
  return rb::guarded([&] {
    const c10::StreamGuard guard(aside(crossing->device));
    into->copy_(*from, /*non_blocking=*/true);
    // Whoever frees it meanwhile must not get its memory handed out again before the copy is done.
    from->record_stream(aside(crossing->device));
  });
}

char* rb_crossing_sealed(rb_crossing* crossing) {
  return rb::guarded([&] { crossing->done.record(aside(crossing->device)); });
}

char* rb_crossing_wait(rb_crossing* crossing) {
  return rb::guarded([&] {
    // Whose thread it is may never have used a device; its first use must not be that of another one.
    const c10::DeviceGuard guard(cuda(crossing->device));
    crossing->done.synchronize();
  });
}

void rb_crossing_drop(rb_crossing* crossing) {
  delete crossing;
}

char* rb_crossings_first(int device) {
  return rb::guarded([&] {
    c10::Event done{at::kCUDA};
    done.record(aside(device));
    done.block(devices().getStream(cuda(device)));
  });
}
