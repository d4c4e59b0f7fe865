// Shared by the shim's sources: how exceptions become messages, and what a group is.
#pragma once
#include "shim.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <cstring>
#include <exception>
#include <stdexcept>

namespace rb {
inline char* message(const char* text) {
  return ::strdup(text);
}

// Begins the message of an error that a collective inside a forward or backward pass caused.
constexpr const char* kLost = "lost peer: ";

template <typename F>
char* guarded(F&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("an exception of an unknown type");
  }
}

class Gloo : public c10d::ProcessGroupGloo {
 public:
  Gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
       c10::intrusive_ptr<Options> options);
  ~Gloo() override;
  void fail_everything();
  c10::intrusive_ptr<c10d::Work> sum(const at::Tensor& tensor);
};
} // namespace rb

struct rb_group {
  c10::intrusive_ptr<rb::Gloo> gloo;
};
struct rb_work {
  c10::intrusive_ptr<c10d::Work> work;
};
