#pragma once
namespace gloo::transport {
class Device;
// Complete only so that c10d's header can name a `unique_ptr` to it; Gloo's own destructor runs.
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
} // namespace gloo::transport
