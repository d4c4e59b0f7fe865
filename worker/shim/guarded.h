// How exceptions become messages: none may cross into Rust.
#pragma once
#include <c10/util/Exception.h>
#include <cstring>
#include <exception>

namespace rb {
inline char* message(const char* text) {
  return ::strdup(text);
}

// Null, or the message of what `body` threw.
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
} // namespace rb
