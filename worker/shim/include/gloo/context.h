// libtorch carries Gloo but not its headers. These declarations are the part of Gloo's interface
// (the commit that PyTorch 2.11 is built with) that c10d's own header and this shim name.
#pragma once
#include <chrono>
#include <exception>
#include <memory>
#include <string>

namespace gloo {
namespace transport {
class Device;
class UnboundBuffer;
class Pair {
 public:
  virtual ~Pair() = 0;
};
namespace tcp {
class Pair : public ::gloo::transport::Pair {
 public:
  // Fails every operation on this connection, now and later, and closes its socket.
  std::exception_ptr signalExceptionExternal(const std::string& message);
};
} // namespace tcp
} // namespace transport

class Context {
 public:
  std::unique_ptr<transport::Pair>& getPair(int rank);
  void setTimeout(std::chrono::milliseconds timeout);
  std::unique_ptr<transport::UnboundBuffer> createUnboundBuffer(void* memory, size_t bytes);
};
} // namespace gloo
