// Errors meant for people: the message says what, where, what was expected, what to do.
#pragma once

#include <stdexcept>

namespace oculox {

// A picture, model or folder is missing, damaged or unusable (exit code 1).
struct DataError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The command itself was wrong (exit code 2).
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace oculox
