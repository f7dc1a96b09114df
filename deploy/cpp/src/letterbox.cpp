#include "letterbox.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace oculox {
namespace {

// OpenCV's fixed point: weights have 11 bits behind the point.
constexpr float kOne = 2048;

// Where each output pixel of one axis reads, and how much of its two neighbours it takes.
struct Taps {
  std::vector<int> first;
  std::vector<int> weight0;
  std::vector<int> weight1;
};

// `at_border` is the axis along rows, where positions outside the picture are moved to its edge
// before their weights are computed; along columns only the rows read are.
Taps taps(int source, int target, bool at_border) {
  const double scale = 1.0 / (static_cast<double>(target) / source);
  Taps out;
  for (int i = 0; i < target; ++i) {
    const auto position = static_cast<float>((i + 0.5) * scale - 0.5);
    int first = static_cast<int>(std::floor(position));
    float fraction = position - static_cast<float>(first);
    if (at_border && (first < 0 || first >= source - 1)) {
      first = first < 0 ? 0 : source - 1;
      fraction = 0;
    }
    out.first.push_back(first);
    out.weight0.push_back(static_cast<int>(std::lrint((1.0F - fraction) * kOne)));
    out.weight1.push_back(static_cast<int>(std::lrint(fraction * kOne)));
  }
  return out;
}

void resize_row(const std::uint8_t* in, int width, const Taps& columns, int* out) {
  for (std::size_t x = 0; x < columns.first.size(); ++x) {
    const std::uint8_t* a = in + 3 * columns.first[x];
    const std::uint8_t* b = in + 3 * std::min(columns.first[x] + 1, width - 1);
    for (int c = 0; c < 3; ++c) {
      *out++ = a[c] * columns.weight0[x] + b[c] * columns.weight1[x];
    }
  }
}

// OpenCV takes the mean of four pixels where both sides are halved.
Image halved(const Image& image) {
  Image out(image.height / 2, image.width / 2);
  for (int y = 0; y < out.height; ++y) {
    const std::uint8_t* upper = image.row(2 * y);
    const std::uint8_t* lower = image.row(2 * y + 1);
    std::uint8_t* target = out.row(y);
    for (int x = 0; x < out.width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const int left = 6 * x + c;
        const int sum = upper[left] + upper[left + 3] + lower[left] + lower[left + 3];
        *target++ = static_cast<std::uint8_t>((sum + 2) >> 2);
      }
    }
  }
  return out;
}

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

}  // namespace

Letterbox fit(int source_height, int source_width, int height, int width, bool centered) {
  Letterbox box{};
  box.height = height;
  box.width = width;
  box.source_height = source_height;
  box.source_width = source_width;
  box.scale = std::min(static_cast<double>(height) / source_height,
                       static_cast<double>(width) / source_width);
  const double inner_height = source_height * box.scale;
  const double inner_width = source_width * box.scale;
  if (centered) {
    box.inner_height = std::max(1, rounded(inner_height));
    box.inner_width = std::max(1, rounded(inner_width));
    // The 0.1 sends an odd row or column of padding below and to the right.
    box.top = rounded((height - box.inner_height) / 2.0 - 0.1);
    box.left = rounded((width - box.inner_width) / 2.0 - 0.1);
  } else {
    box.inner_height = std::max(1, static_cast<int>(inner_height));
    box.inner_width = std::max(1, static_cast<int>(inner_width));
  }
  return box;
}

Image resized(const Image& image, int height, int width) {
  if (image.height == height && image.width == width) {
    return image;
  }
  if (image.height == 2 * height && image.width == 2 * width) {
    return halved(image);
  }
  const Taps columns = taps(image.width, width, true);
  const Taps rows = taps(image.height, height, false);
  // The two source rows in use, resized along x; neighbouring output rows mostly share them.
  std::array<std::vector<int>, 2> lines;
  std::array<int, 2> held = {-1, -1};
  for (auto& line : lines) {
    line.resize(std::size_t(width) * 3);
  }
  Image out(height, width);
  for (int y = 0; y < height; ++y) {
    const int first = rows.first[y];
    const std::array<int, 2> wanted = {std::clamp(first, 0, image.height - 1),
                                       std::clamp(first + 1, 0, image.height - 1)};
    if (held[1] == wanted[0]) {
      std::swap(lines[0], lines[1]);
      std::swap(held[0], held[1]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      if (held[i] != wanted[i]) {
        resize_row(image.row(wanted[i]), image.width, columns, lines[i].data());
        held[i] = wanted[i];
      }
    }
    std::uint8_t* target = out.row(y);
    for (std::size_t x = 0; x < lines[0].size(); ++x) {
      const int upper = (rows.weight0[y] * (lines[0][x] >> 4)) >> 16;
      const int lower = (rows.weight1[y] * (lines[1][x] >> 4)) >> 16;
      target[x] = static_cast<std::uint8_t>(std::clamp((upper + lower + 2) >> 2, 0, 255));
    }
  }
  return out;
}

Image apply(const Letterbox& box, const Image& image, int pad_value) {
  const Image inner = resized(image, box.inner_height, box.inner_width);
  Image out(box.height, box.width, static_cast<std::uint8_t>(pad_value));
  for (int y = 0; y < inner.height; ++y) {
    std::copy(inner.row(y), inner.row(y) + 3 * inner.width, out.row(box.top + y) + 3 * box.left);
  }
  return out;
}

void fill_planes(const Image& boxed, const Preprocessing& preprocessing, float* planes) {
  std::array<float, 256> values{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<float>(i);
    values[i] = preprocessing.pixel_max == 1 ? value / 255.0F : value;
  }
  const std::size_t area = boxed.pixels.size() / 3;
  for (std::size_t plane = 0; plane < 3; ++plane) {
    const std::uint8_t* in = boxed.pixels.data() + (preprocessing.rgb ? 2 - plane : plane);
    float* out = planes + plane * area;
    for (std::size_t i = 0; i < area; ++i) {
      out[i] = values[in[3 * i]];
    }
  }
}

}  // namespace oculox
