// Shared by the shim's sources: what a group is.
#pragma once
#include "guarded.h"
#include "shim.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <atomic>
#include <stdexcept>

namespace rb {
// Begins the message of an error that a collective inside a forward or backward pass caused.
constexpr const char* kLost = "lost peer: ";

// A group over whichever backend carries it: Gloo for what lies in the host's memory, NCCL for what lies on a device.
class Group : public torch::CustomClassHolder {
 public:
  explicit Group(c10::intrusive_ptr<c10d::Backend> backend) : backend_(std::move(backend)) {}

  // Fails everything under way and to come. From any thread; does not block.
  void fail();
  // Waits until `work` is done, to the last byte, or the group has failed.
  void finish(c10d::Work& work) const;
  // Lets what this thread computes next come after `work`: on the host the same as `finish`, on a device a wait of
  // its stream, so that what a fence leaves behind is seen by the next wait of the host.
  void order(c10d::Work& work) const;
  // Whether `order` would hold up nobody.
  bool is_ready(c10d::Work& work) const;
  c10::intrusive_ptr<c10d::Work> sum(const at::Tensor& tensor) const;

  c10d::Backend& backend() const {
    return *backend_;
  }

 private:
  bool is_on_device() const;
  void check() const;

  const c10::intrusive_ptr<c10d::Backend> backend_;
  std::atomic<bool> is_over_ = false;
};

class Gloo : public c10d::ProcessGroupGloo {
 public:
  Gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
       c10::intrusive_ptr<Options> options);
  ~Gloo() override;
  void fail_everything();
};
} // namespace rb

struct rb_group {
  c10::intrusive_ptr<rb::Group> group;
};
struct rb_work {
  c10::intrusive_ptr<rb::Group> group;
  c10::intrusive_ptr<c10d::Work> work;
};
