#include "files.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "errors.h"

namespace fs = std::filesystem;

namespace oculox {
namespace {

std::string reason() { return errno != 0 ? std::strerror(errno) : "unknown reason"; }

}  // namespace

Bytes read_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    throw DataError(path.string() + ": is a folder, a file was expected");
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw DataError(path.string() + ": cannot be read (" + reason() + ")");
  }
  Bytes data;
  char block[1 << 16];
  while (file.read(block, sizeof block) || file.gcount() > 0) {
    data.insert(data.end(), block, block + file.gcount());
  }
  if (file.bad()) {
    throw DataError(path.string() + ": cannot be read (" + reason() + ")");
  }
  return data;
}

void write_file(const fs::path& path, const void* data, std::size_t size) {
  const fs::path part = path.parent_path() / ("." + path.filename().string() + ".part");
  errno = 0;
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  file.close();
  std::error_code failure;
  if (file) {
    fs::rename(part, path, failure);
    if (!failure) {
      return;
    }
  }
  const std::string why = failure ? failure.message() : reason();
  fs::remove(part, failure);
  throw DataError(path.string() + ": cannot be written (" + why + ")");
}

void write_text(const fs::path& path, const std::string& text) {
  write_file(path, text.data(), text.size());
}

void make_folder(const fs::path& folder) {
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) {
    throw DataError(folder.string() + ": cannot make the folder (" + failure.message() + ")");
  }
}

}  // namespace oculox
