#include "exif.h"

#include <algorithm>
#include <cstring>

namespace oculox {
namespace {

constexpr unsigned kOrientationTag = 0x0112;
constexpr unsigned kShortType = 3;
constexpr std::size_t kEntrySize = 12;

struct Tiff {
  const std::uint8_t* data;
  std::size_t size;
  bool little;

  // A whole number of that many bytes; 0 outside the block.
  std::size_t number(std::size_t position, std::size_t bytes) const {
    if (position > size || bytes > size - position) {
      return 0;
    }
    std::size_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
      const std::size_t at = little ? position + bytes - 1 - i : position + i;
      value = value << 8 | data[at];
    }
    return value;
  }
};

}  // namespace

int exif_orientation(const std::uint8_t* data, std::size_t size) {
  if (size < 8 || (std::memcmp(data, "II", 2) != 0 && std::memcmp(data, "MM", 2) != 0)) {
    return 1;
  }
  const Tiff tiff{data, size, data[0] == 'I'};
  const std::size_t directory = tiff.number(4, 4);
  const std::size_t entries = tiff.number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntrySize;
    if (tiff.number(entry, 2) == kOrientationTag && tiff.number(entry + 2, 2) == kShortType) {
      const std::size_t value = tiff.number(entry + 8, 2);
      return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
  }
  return 1;
}

Image turned_upright(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) {
    return image;
  }
  // Orientations 5 to 8 exchange rows and columns; which ends are swapped follows EXIF's table
  // of where the first row and column of the file belong.
  const bool transposed = orientation >= 5;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation >= 7;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 6 ||
                          orientation == 7;
  Image out(transposed ? image.width : image.height, transposed ? image.height : image.width);
  for (int y = 0; y < out.height; ++y) {
    std::uint8_t* target = out.row(y);
    const int v = from_bottom ? out.height - 1 - y : y;
    for (int x = 0; x < out.width; ++x, target += 3) {
      const int u = from_right ? out.width - 1 - x : x;
      const std::uint8_t* source = transposed ? image.row(u) + 3 * v : image.row(v) + 3 * u;
      std::copy(source, source + 3, target);
    }
  }
  return out;
}

}  // namespace oculox
