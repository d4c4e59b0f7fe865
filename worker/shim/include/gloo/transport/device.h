#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace gloo::transport {
class Device;
class RemoteKey {
 public:
  virtual ~RemoteKey() = 0;
};

// The interface of a piece of memory that is sent or received into, in the order of its virtual
// functions. What this shim makes of it (`waits.cpp`) stands between c10d and Gloo's own.
class UnboundBuffer {
 public:
  UnboundBuffer(void* memory, size_t bytes) : ptr(memory), size(bytes) {}
  virtual ~UnboundBuffer() = 0;

  void* const ptr;
  const size_t size;

  // True once it is done, false where it was aborted.
  virtual bool waitRecv(int* rank, std::chrono::milliseconds timeout) = 0;
  virtual bool waitSend(int* rank, std::chrono::milliseconds timeout) = 0;
  virtual void abortWaitRecv() = 0;
  virtual void abortWaitSend() = 0;
  virtual void send(int rank, uint64_t slot, size_t offset, size_t bytes) = 0;
  virtual void recv(int rank, uint64_t slot, size_t offset, size_t bytes) = 0;
  virtual void recv(std::vector<int> ranks, uint64_t slot, size_t offset, size_t bytes) = 0;
  virtual std::unique_ptr<RemoteKey> getRemoteKey() const = 0;
  virtual void put(const RemoteKey& key, uint64_t slot, size_t offset, size_t there, size_t bytes) = 0;
  virtual void get(const RemoteKey& key, uint64_t slot, size_t offset, size_t there, size_t bytes) = 0;
};
} // namespace gloo::transport
