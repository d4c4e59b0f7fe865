// Between c10d and Gloo's buffers: waits that can be ended.
//
// A connection that fails tells the operations that are queued on it, but not the one whose bytes it
// was in the middle of moving (`tcp::Pair::signalException` looks at neither `rx_` nor `tx_`'s unbound
// buffers), so that wait would last for ever. libtorch calls `gloo::Context::createUnboundBuffer`
// through its symbol; the definition here comes first, hands out Gloo's own buffers in a wrapper, and
// so knows every wait that a fence has to end.
#include "waits.h"

#include <dlfcn.h>
#include <gloo/context.h>
#include <stdexcept>
#include <unordered_map>

using gloo::transport::RemoteKey;
using gloo::transport::UnboundBuffer;
using std::chrono::milliseconds;

namespace {
class Buffer final : public UnboundBuffer {
 public:
  Buffer(std::shared_ptr<rb::Waits> waits, std::unique_ptr<UnboundBuffer> inner)
      : UnboundBuffer(inner->ptr, inner->size), waits_(std::move(waits)), inner_(std::move(inner)) {
    waits_->enter(inner_.get());
  }
  ~Buffer() override {
    waits_->leave(inner_.get());
  }

  bool waitRecv(int* rank, milliseconds timeout) override {
    waits_->check();
    const bool is_done = inner_->waitRecv(rank, timeout);
    if (!is_done) waits_->check();
    return is_done;
  }
  bool waitSend(int* rank, milliseconds timeout) override {
    waits_->check();
    const bool is_done = inner_->waitSend(rank, timeout);
    if (!is_done) waits_->check();
    return is_done;
  }
  void abortWaitRecv() override {
    inner_->abortWaitRecv();
  }
  void abortWaitSend() override {
    inner_->abortWaitSend();
  }
  void send(int rank, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->send(rank, slot, offset, bytes);
  }
  void recv(int rank, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->recv(rank, slot, offset, bytes);
  }
  void recv(std::vector<int> ranks, uint64_t slot, size_t offset, size_t bytes) override {
    inner_->recv(std::move(ranks), slot, offset, bytes);
  }
  std::unique_ptr<RemoteKey> getRemoteKey() const override {
    return inner_->getRemoteKey();
  }
  void put(const RemoteKey& key, uint64_t slot, size_t offset, size_t there, size_t bytes) override {
    inner_->put(key, slot, offset, there, bytes);
  }
  void get(const RemoteKey& key, uint64_t slot, size_t offset, size_t there, size_t bytes) override {
    inner_->get(key, slot, offset, there, bytes);
  }

 private:
  const std::shared_ptr<rb::Waits> waits_;
  const std::unique_ptr<UnboundBuffer> inner_;
};

struct Kept {
  std::mutex lock;
  std::unordered_map<const gloo::Context*, std::shared_ptr<rb::Waits>> waits;
};

// Never destroyed: threads of Gloo may outlive main.
Kept& kept() {
  static auto* const all = new Kept;
  return *all;
}

std::unique_ptr<UnboundBuffer> gloos_own(gloo::Context* context, void* memory, size_t bytes) {
  using Make = std::unique_ptr<UnboundBuffer> (*)(gloo::Context*, void*, size_t);
  static const auto make =
      reinterpret_cast<Make>(::dlsym(RTLD_NEXT, "_ZN4gloo7Context19createUnboundBufferEPvm"));
  if (make == nullptr) throw std::runtime_error("this libtorch has no gloo::Context::createUnboundBuffer");
  return make(context, memory, bytes);
}
} // namespace

// libtorch calls this one instead of its own.
std::unique_ptr<UnboundBuffer> gloo::Context::createUnboundBuffer(void* memory, size_t bytes) {
  auto inner = gloos_own(this, memory, bytes);
  auto waits = rb::Waits::of(this);
  if (waits == nullptr) return inner;
  return std::make_unique<Buffer>(std::move(waits), std::move(inner));
}

std::shared_ptr<rb::Waits> rb::Waits::keep(const gloo::Context* context) {
  const std::lock_guard guard(kept().lock);
  return kept().waits[context] = std::make_shared<Waits>();
}

std::shared_ptr<rb::Waits> rb::Waits::of(const gloo::Context* context) {
  const std::lock_guard guard(kept().lock);
  const auto found = kept().waits.find(context);
  return found == kept().waits.end() ? nullptr : found->second;
}

void rb::Waits::forget(const gloo::Context* context) {
  const std::lock_guard guard(kept().lock);
  kept().waits.erase(context);
}

void rb::Waits::enter(UnboundBuffer* buffer) {
  const std::lock_guard guard(lock_);
  buffers_.insert(buffer);
}

void rb::Waits::leave(UnboundBuffer* buffer) {
  const std::lock_guard guard(lock_);
  buffers_.erase(buffer);
}

void rb::Waits::end() {
  const std::lock_guard guard(lock_);
  over_ = true;
  for (auto* buffer : buffers_) {
    buffer->abortWaitRecv();
    buffer->abortWaitSend();
  }
}

void rb::Waits::check() {
  const std::lock_guard guard(lock_);
  if (over_) throw std::runtime_error("the group was dropped");
}
