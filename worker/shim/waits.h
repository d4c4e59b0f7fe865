// The waits of one Gloo context, and how all of them end at once.
#pragma once
#include <gloo/transport/device.h>
#include <memory>
#include <mutex>
#include <unordered_set>

namespace gloo {
class Context;
}

namespace rb {
// Every buffer of a context that may be waited for.
class Waits {
 public:
  // The waits of a context are kept from here on; those of buffers made before are not.
  static std::shared_ptr<Waits> keep(const gloo::Context* context);
  // Those of a context that are kept; none for any other.
  static std::shared_ptr<Waits> of(const gloo::Context* context);
  static void forget(const gloo::Context* context);

  void enter(gloo::transport::UnboundBuffer* buffer);
  void leave(gloo::transport::UnboundBuffer* buffer);
  // Ends every wait, begun or to come.
  void end();
  // Throws where they were ended.
  void check();

 private:
  std::mutex lock_;
  bool over_ = false;
  std::unordered_set<gloo::transport::UnboundBuffer*> buffers_;
};
} // namespace rb
