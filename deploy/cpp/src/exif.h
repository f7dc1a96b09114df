// Which way up a camera held a picture.
#pragma once

#include <cstddef>
#include <cstdint>

#include "image.h"

namespace oculox {

// The orientation, 1 to 8, in an EXIF block that starts with its TIFF header ("II" or "MM");
// 1, upright, where there is none or the block is damaged.
int exif_orientation(const std::uint8_t* data, std::size_t size);

// The picture upright.
Image turned_upright(Image image, int orientation);

}  // namespace oculox
