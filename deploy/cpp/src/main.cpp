// Pictures in; annotated copies, COCO results and times out.
#include <cstdio>
#include <exception>
#include <iostream>

#include "draw.h"
#include "errors.h"
#include "files.h"
#include "json.h"
#include "letterbox.h"
#include "network.h"
#include "options.h"
#include "picture.h"
#include "results.h"
#include "sources.h"

namespace oculox {
namespace {

struct Found {
  Image image;
  std::vector<Detection> detections;
};

Found detect(const std::filesystem::path& path, Network& network, const Options& options,
             Times& times) {
  const Metadata& metadata = network.metadata();
  Found found;
  for (int i = 0; i < options.repeat; ++i) {
    Times::Laps laps;
    found.image = read_picture(path);
    laps.lap();
    const Letterbox box = fit(found.image.height, found.image.width, metadata.height,
                              metadata.width, metadata.preprocessing.centered);
    network.set_input(apply(box, found.image, metadata.preprocessing.pad_value));
    laps.lap();
    network.run();
    laps.lap();
    found.detections = select(network.outputs(), options.thresholds);
    to_source(found.detections, box);
    laps.lap();
    times.add(laps);
  }
  return found;
}

void warn_about_inner_nms(const Metadata& metadata, const Thresholds& wanted) {
  if (metadata.nms && (wanted.conf < metadata.nms->conf || wanted.nms > metadata.nms->iou)) {
    std::cerr << "warning: the model suppresses at conf " << metadata.nms->conf << ", IoU "
              << metadata.nms->iou << " by itself; conf " << wanted.conf << ", IoU " << wanted.nms
              << " cannot bring back what it drops\n";
  }
}

std::string joined(const std::vector<std::string>& rows) {
  std::string out = "[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    out += (i == 0 ? "\n" : ",\n") + rows[i];
  }
  return out + (rows.empty() ? "]\n" : "\n]\n");
}

std::string timing(const Options& options, std::size_t pictures, const Times& times) {
  return "{\n \"model\": " + json_text(options.model.string()) +
         ",\n \"device\": " + json_text(options.device) +
         ",\n \"threads\": " + (options.threads > 0 ? std::to_string(options.threads) : "null") +
         ",\n \"pictures\": " + std::to_string(pictures) +
         ",\n \"repeat\": " + std::to_string(options.repeat) +
         ",\n \"milliseconds\": " + times.json() + "\n}\n";
}

int run(const Options& options) {
  check_output(options.output, options.overwrite);
  const std::vector<Source> sources = find_sources(options.inputs, options.output);
  Network network(options.model, options.device, options.threads);
  warn_about_inner_nms(network.metadata(), options.thresholds);
  make_folder(options.output);

  Times times;
  std::vector<std::string> rows;
  std::size_t failed = 0;
  for (const Source& source : sources) {
    Found found;
    try {
      found = detect(source.path, network, options, times);
    } catch (const DataError& error) {
      std::cerr << "skipped: " << error.what() << "\n";
      ++failed;
      continue;
    }
    append_coco(rows, source.id, found.detections, network.metadata());
    if (options.draw) {
      draw(found.image, found.detections, network.metadata().names);
      const Bytes jpeg = encode_jpeg(found.image);
      write_file(source.drawn, jpeg.data(), jpeg.size());
    }
  }
  const std::size_t done = sources.size() - failed;
  write_text(options.output / "detections.json", joined(rows));
  write_text(options.output / "timing.json", timing(options, done, times));
  std::cout << done << " pictures, " << rows.size() << " detections -> "
            << options.output.string() << "\n"
            << times.table();
  if (failed > 0) {
    std::cerr << "error: " << failed << " of " << sources.size() << " pictures were skipped\n";
  }
  return failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace oculox

int main(int argc, char** argv) {
  try {
    const oculox::Options options = oculox::parse_options(argc, argv);
    if (options.help) {
      std::cout << oculox::usage();
      return 0;
    }
    return oculox::run(options);
  } catch (const oculox::UsageError& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
