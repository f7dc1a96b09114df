// As much JSON as a model's metadata and the results need.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

namespace oculox {

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A value of a document that has been read. Every access throws JsonError when the value is of
// another kind or the key is absent.
class Json {
 public:
  using List = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  Json() = default;
  template <typename T>
  explicit Json(T value) : value_(std::move(value)) {}

  static Json parse(const std::string& text);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool boolean() const;
  double number() const;
  int whole() const;
  const std::string& text() const;
  const List& list() const;
  const Json& at(const std::string& key) const;

 private:
  std::variant<std::monostate, bool, double, std::string, List, Object> value_;
};

// A text in quotation marks. Bytes that are no UTF-8 (file names may hold any) become "?".
std::string json_text(const std::string& text);

// Nine digits: enough to give every float32 back. The value must be finite.
std::string json_number(double value);

}  // namespace oculox
