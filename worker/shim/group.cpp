// Groups: c10d's backends over a rendezvous store that Rust keeps. Gloo is linked in; NCCL comes out of the object
// that `cuda.cpp` makes, where there is a device.
//
// Waits for Gloo block without polling: what ends a fenced wait is `rb_group_abort`, called by another thread,
// which fails every connection of the group just as the death of a peer does. So a fence is noticed
// within the watcher's period, our sockets close, and neighbours notice in turn; `waits.cpp` ends the
// waits that Gloo itself forgets.
#include "cuda.h"
#include "internal.h"
#include "waits.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <thread>

namespace {
class RustStore : public c10d::Store {
 public:
  explicit RustStore(const rb_store& rust) : rust_(rust) {}

  c10::intrusive_ptr<Store> clone() override {
    return c10::make_intrusive<RustStore>(rust_);
  }
  void set(const std::string& key, const std::vector<uint8_t>& value) override {
    std::string error;
    ok(rust_.set(rust_.self, key.data(), key.size(), value.data(), value.size(), &error), error);
  }
  std::vector<uint8_t> get(const std::string& key) override {
    std::string value = key == awaited_ ? std::move(seen_) : fetch(key);
    awaited_.clear();
    return {value.begin(), value.end()};
  }
  int64_t add(const std::string& key, int64_t amount) override {
    std::string error;
    int64_t sum = 0;
    ok(rust_.add(rust_.self, key.data(), key.size(), amount, &sum, &error), error);
    return sum;
  }
  std::vector<uint8_t> compareSet(const std::string& key, const std::vector<uint8_t>& expected,
                                  const std::vector<uint8_t>& desired) override {
    std::string error, value;
    ok(rust_.compare_set(rust_.self, key.data(), key.size(), expected.data(), expected.size(),
                         desired.data(), desired.size(), &value, &error),
       error);
    return {value.begin(), value.end()};
  }
  bool deleteKey(const std::string& key) override {
    std::string error;
    bool removed = false;
    ok(rust_.remove(rust_.self, key.data(), key.size(), &removed, &error), error);
    return removed;
  }
  bool check(const std::vector<std::string>& keys) override {
    for (const auto& key : keys) {
      std::string error;
      bool present = false;
      ok(rust_.check(rust_.self, key.data(), key.size(), &present, &error), error);
      if (!present) return false;
    }
    return true;
  }
  int64_t getNumKeys() override {
    std::string error;
    int64_t keys = 0;
    ok(rust_.count(rust_.self, &keys, &error), error);
    return keys;
  }
  void wait(const std::vector<std::string>& keys) override {
    // Gloo waits for each key and then gets it: the value comes with the wait, one round trip less.
    for (const auto& key : keys) {
      seen_ = fetch(key);
      awaited_ = key;
    }
  }
  // Rust bounds every wait, and ends it at a fence.
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override {
    wait(keys);
  }

 private:
  static void ok(bool worked, const std::string& error) {
    if (!worked) throw std::runtime_error(error);
  }
  std::string fetch(const std::string& key) {
    std::string error, value;
    ok(rust_.get(rust_.self, key.data(), key.size(), &value, &error), error);
    return value;
  }

  const rb_store rust_;
  std::string awaited_;
  std::string seen_;
};

void started(rb_work** out, const rb_group* group, c10::intrusive_ptr<c10d::Work> work) {
  *out = new rb_work{group->group, std::move(work)};
}

c10::intrusive_ptr<c10d::Store> placed(const rb_store* store, const char* prefix) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, c10::make_intrusive<RustStore>(*store));
}

// How often a wait of the host looks at a device.
constexpr auto kLook = std::chrono::microseconds(20);
} // namespace

struct rb_device {
  std::shared_ptr<gloo::transport::Device> device;
};

rb::Gloo::Gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
               c10::intrusive_ptr<Options> options)
    : ProcessGroupGloo(store, rank, size, std::move(options)) {
  for (const auto& context : contexts_) Waits::keep(context.get());
}

rb::Gloo::~Gloo() {
  // Its thread is joined next; nothing may be left that it waits for.
  fail_everything();
  for (const auto& context : contexts_) Waits::forget(context.get());
}

void rb::Gloo::fail_everything() {
  for (const auto& context : contexts_) {
    for (int peer = 0; peer < getSize(); ++peer) {
      if (peer == getRank()) continue;
      auto* pair = static_cast<gloo::transport::tcp::Pair*>(context->getPair(peer).get());
      if (pair != nullptr) pair->signalExceptionExternal("the group was dropped");
    }
    // After the connections: nothing is written any more to memory whose wait is over.
    if (const auto waits = Waits::of(context.get())) waits->end();
  }
}

bool rb::Group::is_on_device() const {
  return dynamic_cast<const Gloo*>(backend_.get()) == nullptr;
}

void rb::Group::check() const {
  if (is_over_) throw std::runtime_error("the group was dropped");
}

void rb::Group::fail() {
  if (is_over_.exchange(true)) return;
  if (auto* gloo = dynamic_cast<Gloo*>(backend_.get())) {
    gloo->fail_everything();
    return;
  }
  // NCCL may take its time to end its kernels, and one communicator may wait for another's; so each has a thread.
  std::thread([backend = backend_] { ::free(rb::guarded([&] { backend->abort(); })); }).detach();
}

void rb::Group::finish(c10d::Work& work) const {
  order(work);
  if (!is_on_device()) return;
  // The event of the work, and not its stream, so that a fence ends the wait whatever the device does.
  while (!work.isCompleted()) {
    check();
    std::this_thread::sleep_for(kLook);
  }
  if (const auto error = work.exception()) std::rethrow_exception(error);
  check();
}

bool rb::Group::is_ready(c10d::Work& work) const {
  return is_on_device() || work.isCompleted();
}

void rb::Group::order(c10d::Work& work) const {
  if (is_on_device()) check();
  work.wait();
}

c10::intrusive_ptr<c10d::Work> rb::Group::sum(const at::Tensor& tensor) const {
  std::vector<at::Tensor> tensors{tensor};
  return backend_->allreduce(tensors);
}

void rb_emit(void* sink, const uint8_t* bytes, size_t length) {
  static_cast<std::string*>(sink)->assign(reinterpret_cast<const char*>(bytes), length);
}

void rb_free(char* message) {
  ::free(message);
}

char* rb_device_open(const char* address, bool named, rb_device** out) {
  return rb::guarded([&] {
    *out = new rb_device{named ? c10d::ProcessGroupGloo::createDeviceForInterface(address)
                               : c10d::ProcessGroupGloo::createDeviceForHostname(address)};
  });
}

void rb_device_close(rb_device* device) {
  delete device;
}

char* rb_group_form(const rb_store* store, const char* prefix, int rank, int size,
                    const rb_device* device, uint64_t connect_ms, rb_group** out) {
  return rb::guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(connect_ms));
    options->devices.push_back(device->device);
    options->threads = 1;
    auto gloo = c10::make_intrusive<rb::Gloo>(placed(store, prefix), rank, size, options);
    // From here on the fence bounds every wait.
    gloo->setTimeout(rb::kForever);
    *out = new rb_group{c10::make_intrusive<rb::Group>(std::move(gloo))};
  });
}

char* rb_group_form_on_device(const rb_store* store, const char* prefix, int rank, int size, int device,
                              rb_group** out) {
  return rb::guarded([&] {
    auto nccl = rb::nccl(placed(store, prefix), rank, size, device);
    *out = new rb_group{c10::make_intrusive<rb::Group>(std::move(nccl))};
  });
}

void rb_group_abort(rb_group* group) {
  ::free(rb::guarded([&] { group->group->fail(); }));
}

void rb_group_drop(rb_group* group) {
  delete group;
}

char* rb_sum(rb_group* group, at::Tensor* tensor, rb_work** out) {
  return rb::guarded([&] { started(out, group, group->group->sum(*tensor)); });
}

char* rb_all_to_all(rb_group* group, at::Tensor* output, at::Tensor* input, rb_work** out) {
  return rb::guarded([&] {
    std::vector<int64_t> equal;
    started(out, group, group->group->backend().alltoall_base(*output, *input, equal, equal));
  });
}

char* rb_all_gather(rb_group* group, at::Tensor* output, at::Tensor* input, rb_work** out) {
  return rb::guarded([&] { started(out, group, group->group->backend()._allgather_base(*output, *input)); });
}

char* rb_send(rb_group* group, at::Tensor* tensor, int to, int tag, rb_work** out) {
  return rb::guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    started(out, group, group->group->backend().send(tensors, to, tag));
  });
}

char* rb_recv(rb_group* group, at::Tensor* tensor, int from, int tag, rb_work** out) {
  return rb::guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    started(out, group, group->group->backend().recv(tensors, from, tag));
  });
}

char* rb_work_wait(rb_work* work) {
  char* error = rb::guarded([&] { work->group->finish(*work->work); });
  delete work;
  return error;
}

char* rb_work_order(rb_work* work) {
  char* error = rb::guarded([&] { work->group->order(*work->work); });
  delete work;
  return error;
}

bool rb_work_is_ready(rb_work* work) {
  return work->group->is_ready(*work->work);
}

void rb_work_forget(rb_work* work) {
  delete work;
}
