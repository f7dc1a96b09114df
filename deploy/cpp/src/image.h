// A picture in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oculox {

using Bytes = std::vector<std::uint8_t>;

struct Image {
  int height = 0;
  int width = 0;
  Bytes pixels;  // height x width x 3, BGR

  Image() = default;
  Image(int rows, int columns, std::uint8_t value = 0)
      : height(rows), width(columns), pixels(std::size_t(rows) * std::size_t(columns) * 3, value) {}

  const std::uint8_t* row(int y) const { return pixels.data() + std::size_t(y) * width * 3; }
  std::uint8_t* row(int y) { return pixels.data() + std::size_t(y) * width * 3; }
};

}  // namespace oculox
