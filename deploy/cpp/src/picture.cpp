#include "picture.h"

#include <algorithm>
#include <array>

#include "errors.h"
#include "files.h"

namespace oculox {
namespace {

constexpr std::size_t kMaxPixels = 200'000'000;
constexpr std::array<std::uint8_t, 2> kJpeg = {0xFF, 0xD8};
constexpr std::array<std::uint8_t, 8> kPng = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

template <std::size_t N>
bool starts_with(const Bytes& data, const std::array<std::uint8_t, N>& start) {
  return data.size() >= N && std::equal(start.begin(), start.end(), data.begin());
}

}  // namespace

void check_pixels(std::size_t height, std::size_t width, const std::string& where) {
  if (height == 0 || width == 0) {
    throw DataError(where + ": the picture has no pixels");
  }
  if (height > kMaxPixels / width) {
    throw DataError(where + ": the picture is too large (" + std::to_string(width) + " x " +
                    std::to_string(height) + ", at most " + std::to_string(kMaxPixels) +
                    " pixels are read)");
  }
}

Image read_picture(const std::filesystem::path& path) {
  const Bytes data = read_file(path);
  const std::string where = path.string();
  if (data.empty()) {
    throw DataError(where + ": the picture is empty (0 bytes)");
  }
  if (starts_with(data, kJpeg)) {
    return decode_jpeg(data, where);
  }
  if (starts_with(data, kPng)) {
    return decode_png(data, where);
  }
  throw DataError(where + ": not a JPEG or PNG picture (damaged, or of another format)");
}

}  // namespace oculox
