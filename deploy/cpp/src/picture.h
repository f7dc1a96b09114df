// JPEG and PNG files <-> pictures, as OpenCV reads them: the networks were trained on its pixels.
#pragma once

#include <filesystem>
#include <string>

#include "image.h"

namespace oculox {

// Reads a picture upright. Grey is repeated over the channels, alpha dropped, 16 bits cut to 8,
// CMYK converted. Throws DataError when it is missing, empty, damaged, truncated, of another
// format or has more than 200 million pixels.
Image read_picture(const std::filesystem::path& path);

Image decode_jpeg(const Bytes& data, const std::string& where);
Image decode_png(const Bytes& data, const std::string& where);
Bytes encode_jpeg(const Image& image);

// Throws DataError when a picture has too many pixels: far more often an attack than a photo.
void check_pixels(std::size_t height, std::size_t width, const std::string& where);

}  // namespace oculox
