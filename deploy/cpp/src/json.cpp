#include "json.h"

#include <cctype>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace oculox {
namespace {

constexpr int kDeepest = 64;

void append_utf8(std::string& out, unsigned code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr unsigned leads[] = {0, 0xC0, 0xE0, 0xF0};
  out += static_cast<char>(leads[more] | code >> (6 * more));
  for (int i = more - 1; i >= 0; --i) {
    out += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
  }
}

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Json document() {
    Json value = any(0);
    skip_space();
    if (at_ != text_.size()) {
      fail("more than one value");
    }
    return value;
  }

 private:
  const std::string& text_;
  std::size_t at_ = 0;

  [[noreturn]] void fail(const std::string& what) const {
    throw JsonError(what + " at character " + std::to_string(at_));
  }

  void skip_space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr &&
           text_[at_] != '\0') {
      ++at_;
    }
  }

  bool take(const char* word) {
    const std::size_t size = std::strlen(word);
    if (text_.compare(at_, size, word) != 0) {
      return false;
    }
    at_ += size;
    return true;
  }

  void expect(const char* word) {
    skip_space();
    if (!take(word)) {
      fail(std::string("expected ") + word);
    }
  }

  Json any(int depth) {
    if (depth > kDeepest) {
      fail("nested too deeply");
    }
    skip_space();
    if (take("null")) {
      return Json();
    }
    if (take("true")) {
      return Json(true);
    }
    if (take("false")) {
      return Json(false);
    }
    if (take("[")) {
      return list(depth);
    }
    if (take("{")) {
      return object(depth);
    }
    if (take("\"")) {
      return Json(text());
    }
    return number();
  }

  Json list(int depth) {
    Json::List values;
    skip_space();
    if (take("]")) {
      return Json(std::move(values));
    }
    for (;;) {
      values.push_back(any(depth + 1));
      skip_space();
      if (take("]")) {
        return Json(std::move(values));
      }
      expect(",");
    }
  }

  Json object(int depth) {
    Json::Object values;
    skip_space();
    if (take("}")) {
      return Json(std::move(values));
    }
    for (;;) {
      expect("\"");
      std::string key = text();
      expect(":");
      values[std::move(key)] = any(depth + 1);
      skip_space();
      if (take("}")) {
        return Json(std::move(values));
      }
      expect(",");
    }
  }

  Json number() {
    const char* start = text_.c_str() + at_;
    if (*start != '-' && std::isdigit(static_cast<unsigned char>(*start)) == 0) {
      fail("expected a value");
    }
    char* end = nullptr;
    const double value = std::strtod(start, &end);
    if (end == start || !std::isfinite(value)) {
      fail("expected a number");
    }
    at_ += static_cast<std::size_t>(end - start);
    return Json(value);
  }

  // The rest of a text whose opening mark has been taken.
  std::string text() {
    std::string out;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') {
        return out;
      }
      if (c == '\\') {
        escape(out);
      } else {
        out += c;
      }
    }
    fail("a text without end");
  }

  void escape(std::string& out) {
    constexpr char from[] = "\"\\/bfnrt";
    constexpr char to[] = "\"\\/\b\f\n\r\t";
    const char c = at_ < text_.size() ? text_[at_++] : '\0';
    if (c == 'u') {
      unsigned code = hex();
      if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
        // Two halves of one character beyond the first 65,536.
        code = 0x10000 + ((code & 0x3FF) << 10) + (hex() & 0x3FF);
      }
      append_utf8(out, code);
      return;
    }
    const char* found = c == '\0' ? nullptr : std::strchr(from, c);
    if (found == nullptr) {
      fail("unknown escape");
    }
    out += to[found - from];
  }

  unsigned hex() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = at_ < text_.size() ? text_[at_++] : '\0';
      const int digit = std::isdigit(static_cast<unsigned char>(c)) != 0 ? c - '0'
                        : c >= 'a' && c <= 'f'                          ? c - 'a' + 10
                        : c >= 'A' && c <= 'F'                          ? c - 'A' + 10
                                                                        : -1;
      if (digit < 0) {
        fail("expected four hexadecimal digits");
      }
      code = code << 4 | static_cast<unsigned>(digit);
    }
    return code;
  }
};

template <typename T, typename V>
const T& as(const V& value, const char* kind) {
  const T* found = std::get_if<T>(&value);
  if (found == nullptr) {
    throw JsonError(std::string("expected ") + kind);
  }
  return *found;
}

// Bytes of the UTF-8 character that starts here; 0 where none does.
std::size_t utf8_length(const std::string& text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t length = lead < 0x80                    ? 1
                             : lead >= 0xC2 && lead <= 0xDF ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0 || length > text.size() - at) {
    return 0;
  }
  unsigned code = length == 1 ? lead : lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    const auto next = static_cast<unsigned char>(text[at + i]);
    if ((next & 0xC0) != 0x80) {
      return 0;
    }
    code = code << 6 | (next & 0x3F);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool no_character = (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF;
  return overlong || no_character ? 0 : length;
}

}  // namespace

Json Json::parse(const std::string& text) { return Parser(text).document(); }

bool Json::boolean() const { return as<bool>(value_, "true or false"); }

double Json::number() const { return as<double>(value_, "a number"); }

int Json::whole() const {
  const double value = number();
  if (value != std::floor(value) || std::fabs(value) > INT_MAX) {
    throw JsonError("expected a whole number");
  }
  return static_cast<int>(value);
}

const std::string& Json::text() const { return as<std::string>(value_, "a text"); }

const Json::List& Json::list() const { return as<List>(value_, "a list"); }

const Json& Json::at(const std::string& key) const {
  const Object& object = as<Object>(value_, "an object");
  const auto found = object.find(key);
  if (found == object.end()) {
    throw JsonError("no \"" + key + "\"");
  }
  return found->second;
}

std::string json_text(const std::string& text) {
  std::string out = "\"";
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = utf8_length(text, i);
    if (length == 0) {
      out += '?';
    } else if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i];
    } else if (byte < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(byte));
      out += escaped;
    } else {
      out.append(text, i, length);
    }
    i += length == 0 ? 1 : length;
  }
  return out + '"';
}

std::string json_number(double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  return digits;
}

}  // namespace oculox
