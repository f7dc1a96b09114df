// JPEG through libjpeg-turbo.
//
// The library reports errors by a jump that skips destructors, so every function that sets a
// jump target owns nothing: all that must be freed belongs to its caller.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <jpeglib.h>

#include <jerror.h>

#include "errors.h"
#include "exif.h"
#include "picture.h"

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed; this is another libjpeg"
#endif

namespace oculox {
namespace {

constexpr int kQuality = 95;
constexpr char kExifTag[] = {'E', 'x', 'i', 'f', 0, 0};

struct Errors {
  jpeg_error_mgr base;  // first, so that the library's pointer is ours
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
  bool truncated;
};

[[noreturn]] void on_error(j_common_ptr info) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  errors->base.format_message(info, errors->message);
  std::longjmp(errors->escape, 1);
}

void on_message(j_common_ptr info, int level) {
  auto* errors = reinterpret_cast<Errors*>(info->err);
  if (level < 0 && errors->base.msg_code == JWRN_JPEG_EOF) {
    errors->truncated = true;
  }
}

void on_output(j_common_ptr) {}

void install(Errors& errors) {
  std::memset(&errors, 0, sizeof errors);
  jpeg_std_error(&errors.base);
  errors.base.error_exit = on_error;
  errors.base.emit_message = on_message;
  errors.base.output_message = on_output;
}

struct Reader {
  jpeg_decompress_struct info{};
  Errors errors;
  Reader() {
    install(errors);
    info.err = &errors.base;
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { jpeg_destroy_decompress(&info); }
};

struct Writer {
  jpeg_compress_struct info{};
  Errors errors;
  unsigned char* data = nullptr;
  unsigned long size = 0;
  Writer() {
    install(errors);
    info.err = &errors.base;
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    jpeg_destroy_compress(&info);
    std::free(data);
  }
};

bool read_header(Reader& reader, const Bytes& data) {
  if (setjmp(reader.errors.escape) != 0) {
    return false;
  }
  jpeg_create_decompress(&reader.info);
  jpeg_mem_src(&reader.info, data.data(), static_cast<unsigned long>(data.size()));
  jpeg_save_markers(&reader.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&reader.info, TRUE);
  reader.info.out_color_space = reader.info.num_components == 4 ? JCS_CMYK : JCS_EXT_BGR;
  return true;
}

bool read_rows(Reader& reader, std::uint8_t* pixels, std::size_t row_size) {
  if (setjmp(reader.errors.escape) != 0) {
    return false;
  }
  jpeg_start_decompress(&reader.info);
  while (reader.info.output_scanline < reader.info.output_height) {
    JSAMPROW row = pixels + reader.info.output_scanline * row_size;
    jpeg_read_scanlines(&reader.info, &row, 1);
  }
  jpeg_finish_decompress(&reader.info);
  return true;
}

bool write_rows(Writer& writer, const Image& image) {
  if (setjmp(writer.errors.escape) != 0) {
    return false;
  }
  jpeg_create_compress(&writer.info);
  jpeg_mem_dest(&writer.info, &writer.data, &writer.size);
  writer.info.image_height = static_cast<JDIMENSION>(image.height);
  writer.info.image_width = static_cast<JDIMENSION>(image.width);
  writer.info.input_components = 3;
  writer.info.in_color_space = JCS_EXT_BGR;
  jpeg_set_defaults(&writer.info);
  jpeg_set_quality(&writer.info, kQuality, TRUE);
  jpeg_start_compress(&writer.info, TRUE);
  while (writer.info.next_scanline < writer.info.image_height) {
    // The library's type has no const; it does not write to the row.
    auto* row = const_cast<JSAMPROW>(image.row(static_cast<int>(writer.info.next_scanline)));
    jpeg_write_scanlines(&writer.info, &row, 1);
  }
  jpeg_finish_compress(&writer.info);
  return true;
}

// Cameras and printers store the complement of each ink, as Adobe does.
void cmyk_to_bgr(const Bytes& inks, Image& image) {
  const std::uint8_t* in = inks.data();
  for (std::size_t i = 0; i < image.pixels.size(); i += 3, in += 4) {
    for (std::size_t c = 0; c < 3; ++c) {
      image.pixels[i + c] = static_cast<std::uint8_t>(in[3] - ((255 - in[2 - c]) * in[3] >> 8));
    }
  }
}

int orientation_of(const jpeg_decompress_struct& info) {
  for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length > sizeof kExifTag &&
        std::memcmp(marker->data, kExifTag, sizeof kExifTag) == 0) {
      return exif_orientation(marker->data + sizeof kExifTag,
                              marker->data_length - sizeof kExifTag);
    }
  }
  return 1;
}

}  // namespace

Image decode_jpeg(const Bytes& data, const std::string& where) {
  Reader reader;
  const auto fail = [&]() {
    throw DataError(where + ": the JPEG picture cannot be decoded (" + reader.errors.message + ")");
  };
  if (!read_header(reader, data)) {
    fail();
  }
  check_pixels(reader.info.image_height, reader.info.image_width, where);
  const int orientation = orientation_of(reader.info);  // reading the rows frees the markers
  Image image(static_cast<int>(reader.info.image_height),
              static_cast<int>(reader.info.image_width));
  const std::size_t width = reader.info.image_width;
  if (reader.info.num_components == 4) {
    Bytes inks(width * reader.info.image_height * 4);
    if (!read_rows(reader, inks.data(), width * 4)) {
      fail();
    }
    cmyk_to_bgr(inks, image);
  } else if (!read_rows(reader, image.pixels.data(), width * 3)) {
    fail();
  }
  if (reader.errors.truncated) {
    throw DataError(where + ": the picture is truncated (its end is missing)");
  }
  return turned_upright(std::move(image), orientation);
}

Bytes encode_jpeg(const Image& image) {
  Writer writer;
  if (!write_rows(writer, image)) {
    throw DataError(std::string("a picture cannot be encoded as JPEG (") + writer.errors.message +
                    ")");
  }
  return Bytes(writer.data, writer.data + writer.size);
}

}  // namespace oculox
