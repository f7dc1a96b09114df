// Letters for captions, five dots wide and seven high: capitals, digits and some signs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace oculox {

constexpr int kGlyphWidth = 5;
constexpr int kGlyphHeight = 7;

// Rows from the top; the highest of the five bits is the leftmost dot.
using Glyph = std::array<std::uint8_t, kGlyphHeight>;

// One glyph a character of a UTF-8 text. Small letters become capitals, and characters without
// a glyph a frame.
std::vector<Glyph> glyphs(const std::string& text);

}  // namespace oculox
