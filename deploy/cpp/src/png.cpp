// PNG through libpng. As in jpeg.cpp, functions that set a jump target own nothing.
#include <algorithm>
#include <csetjmp>
#include <cstring>

#include <png.h>

#include "errors.h"
#include "exif.h"
#include "picture.h"

namespace oculox {
namespace {

struct Reader {
  const Bytes& data;
  std::size_t position = 0;
  std::string message;
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit Reader(const Bytes& bytes) : data(bytes) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  static_cast<Reader*>(png_get_error_ptr(png))->message = message;
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep target, png_size_t size) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (size > reader->data.size() - reader->position) {
    png_error(png, "its end is missing");
  }
  std::memcpy(target, reader->data.data() + reader->position, size);
  reader->position += size;
}

// Rows become 8-bit BGR whatever the file holds.
bool read_header(Reader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) {
    return false;
  }
  png_set_read_fn(reader.png, &reader, read_bytes);
  png_read_info(reader.png, reader.info);
  png_set_expand(reader.png);
  png_set_strip_16(reader.png);
  png_set_strip_alpha(reader.png);
  png_set_gray_to_rgb(reader.png);
  png_set_bgr(reader.png);
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  return true;
}

bool read_rows(Reader& reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) {
    return false;
  }
  png_read_image(reader.png, rows);
  png_read_end(reader.png, reader.info);
  return true;
}

int orientation_of(Reader& reader) {
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(reader.png, reader.info, &size, &exif) != 0) {
    return exif_orientation(exif, size);
  }
#endif
  return 1;
}

}  // namespace

Image decode_png(const Bytes& data, const std::string& where) {
  Reader reader(data);
  const auto fail = [&]() {
    throw DataError(where + ": the PNG picture cannot be decoded (" + reader.message + ")");
  };
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png != nullptr) {
    reader.info = png_create_info_struct(reader.png);
  }
  if (reader.info == nullptr) {
    reader.message = "libpng does not start";
    fail();
  }
  if (!read_header(reader)) {
    fail();
  }
  const png_uint_32 height = png_get_image_height(reader.png, reader.info);
  const png_uint_32 width = png_get_image_width(reader.png, reader.info);
  check_pixels(height, width, where);
  Image image(static_cast<int>(height), static_cast<int>(width));
  if (png_get_rowbytes(reader.png, reader.info) != std::size_t(width) * 3) {
    reader.message = "unknown pixel format";
    fail();
  }
  std::vector<png_bytep> rows(height);
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = image.row(static_cast<int>(y));
  }
  if (!read_rows(reader, rows.data())) {
    fail();
  }
  return turned_upright(std::move(image), orientation_of(reader));
}

}  // namespace oculox
