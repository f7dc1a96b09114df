#include "draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "font.h"

namespace oculox {
namespace {

using Color = std::array<std::uint8_t, 3>;  // BGR

constexpr double kGoldenRatio = 0.6180339887498949;

// Steps of the golden ratio around the hue circle keep the colours of few classes far apart.
Color color_of(int label) {
  const double hue = std::fmod(0.6 + label * kGoldenRatio, 1.0) * 6;
  Color out{};
  for (std::size_t c = 0; c < 3; ++c) {
    // Distances of the hue from blue, green and red, which lie at 4, 2 and 0 of 6.
    const double center = 4.0 - 2.0 * static_cast<double>(c);
    const double around = std::fabs(hue - center);
    const double share = std::clamp(2.0 - std::min(around, 6.0 - around), 0.0, 1.0);
    out[c] = static_cast<std::uint8_t>(std::lround(40 + 200 * share));
  }
  return out;
}

// Black or white, whichever is easier to read on the colour.
Color text_color(const Color& back) {
  const double luma = 0.114 * back[0] + 0.587 * back[1] + 0.299 * back[2];
  const std::uint8_t value = luma > 128 ? 0 : 255;
  return {value, value, value};
}

// Fills the part of a rectangle that lies in the picture; ends are not included.
void fill(Image& image, int x1, int y1, int x2, int y2, const Color& color) {
  x1 = std::clamp(x1, 0, image.width);
  x2 = std::clamp(x2, x1, image.width);
  for (int y = std::max(y1, 0); y < std::min(y2, image.height); ++y) {
    for (int x = x1; x < x2; ++x) {
      std::copy(color.begin(), color.end(), image.row(y) + 3 * x);
    }
  }
}

void outline(Image& image, int x1, int y1, int x2, int y2, int thickness, const Color& color) {
  fill(image, x1, y1, x2, y1 + thickness, color);
  fill(image, x1, y2 - thickness, x2, y2, color);
  fill(image, x1, y1, x1 + thickness, y2, color);
  fill(image, x2 - thickness, y1, x2, y2, color);
}

void write(Image& image, int left, int top, const std::vector<Glyph>& text, int dot,
           const Color& color) {
  for (const Glyph& glyph : text) {
    for (int y = 0; y < kGlyphHeight; ++y) {
      for (int x = 0; x < kGlyphWidth; ++x) {
        if ((glyph[static_cast<std::size_t>(y)] >> (kGlyphWidth - 1 - x) & 1) != 0) {
          fill(image, left + x * dot, top + y * dot, left + (x + 1) * dot, top + (y + 1) * dot,
               color);
        }
      }
    }
    left += (kGlyphWidth + 1) * dot;
  }
}

// Above the box, or inside where there is no room.
void caption(Image& image, const Detection& d, const std::string& name, int dot) {
  char score[16];
  std::snprintf(score, sizeof score, " %.2f", static_cast<double>(d.score));
  const std::vector<Glyph> text = glyphs(name + score);
  const int height = (kGlyphHeight + 2) * dot;
  const int width = (static_cast<int>(text.size()) * (kGlyphWidth + 1) + 1) * dot;
  const int y1 = static_cast<int>(std::floor(d.y1));
  const int top = y1 >= height ? y1 - height : y1;
  const int left = std::max(0, std::min(static_cast<int>(std::floor(d.x1)), image.width - width));
  const Color color = color_of(d.label);
  fill(image, left, top, left + width, top + height, color);
  write(image, left + dot, top + dot, text, dot, text_color(color));
}

}  // namespace

void draw(Image& image, const std::vector<Detection>& detections,
          const std::vector<std::string>& names) {
  const int side = std::min(image.height, image.width);
  const int thickness = std::max(1, side / 240);
  const int dot = std::max(1, side / 360);
  // The best are drawn last, and captions after all boxes, so that they can be read.
  for (auto d = detections.rbegin(); d != detections.rend(); ++d) {
    outline(image, static_cast<int>(std::floor(d->x1)), static_cast<int>(std::floor(d->y1)),
            static_cast<int>(std::ceil(d->x2)), static_cast<int>(std::ceil(d->y2)), thickness,
            color_of(d->label));
  }
  for (auto d = detections.rbegin(); d != detections.rend(); ++d) {
    caption(image, *d, names[static_cast<std::size_t>(d->label)], dot);
  }
}

}  // namespace oculox
