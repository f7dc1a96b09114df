// Images in; annotated images and predictions.json out.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "detector.h"
#include "images.h"

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace oculox {
namespace {

struct Options {
  fs::path model;
  std::vector<fs::path> sources;
  fs::path output;
  Settings settings;
  std::string classes;  // names or numbers, comma-separated; empty for all
  std::string device = "cpu";
  int threads = 0;
  int repeat = 1;
  bool no_draw = false;
  bool overwrite = false;
  bool json = false;
};

void add_options(CLI::App& app, Options& out) {
  const auto add = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  app.add_option("MODEL", out.model, "An .xml or .onnx file")->required();
  app.add_option("SOURCE", out.sources, "Images and folders")->required();
  app.add_option("--output", out.output, "Folder for what is written [runs/predict, numbered]");
  add("--conf", out.settings.conf, "Lowest score kept");
  add("--iou", out.settings.iou, "IoU above which the weaker box is dropped");
  add("--max-det", out.settings.max_det, "Most detections of an image")->check(CLI::PositiveNumber);
  app.add_option("--classes", out.classes, "Only these: names or numbers, comma-separated");
  app.add_flag("--agnostic-nms", out.settings.agnostic_nms, "Suppress boxes across classes");
  add("--device", out.device, "As OpenVINO calls it: cpu, gpu, gpu.1, npu");
  app.add_option("--threads", out.threads, "Of the CPU [OpenVINO's choice]")
      ->check(CLI::PositiveNumber);
  add("--repeat", out.repeat, "Measure each image so many times")->check(CLI::PositiveNumber);
  app.add_flag("--no-draw", out.no_draw, "Write no annotated images");
  app.add_flag("--overwrite", out.overwrite, "Allow an output folder that is not empty");
  app.add_flag("--json", out.json, "Print a JSON summary instead of text");
  app.footer("Exit code: 0 fine, 1 an image or the model failed, 2 wrong usage.");
}

// The folder to write to; nothing is made yet.
fs::path choose_folder(const Options& options) {
  fs::path folder = options.output;
  if (folder.empty()) {
    folder = "runs/predict";
    for (int number = 2; fs::exists(folder); ++number) {
      folder = "runs/predict-" + std::to_string(number);
    }
  } else if (fs::exists(folder) && !fs::is_directory(folder)) {
    throw std::invalid_argument(folder.string() + ": the output must be a folder, this is a file");
  } else if (fs::exists(folder) && !fs::is_empty(folder) && !options.overwrite) {
    throw std::invalid_argument(folder.string() + " already holds files; name a new or empty "
                                                  "folder, or pass --overwrite");
  }
  return folder;
}

// Milliseconds by stage, a sample for each image and repetition.
using Samples = nlohmann::ordered_map<std::string, std::vector<double>>;
using Clock = std::chrono::steady_clock;

// {stage: {median, min, max}}, without the first sample, which warms the model up; empty where
// there is no other.
ordered_json statistics(const Samples& samples) {
  ordered_json out = ordered_json::object();
  for (auto [stage, values] : samples) {
    values.erase(values.begin());
    if (values.empty()) {
      continue;
    }
    std::sort(values.begin(), values.end());
    const double median = (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
    out[stage] = {{"median", median}, {"min", values.front()}, {"max", values.back()}};
  }
  return out;
}

double rounded(float value, double steps) { return std::round(value * steps) / steps; }

ordered_json to_json(const std::vector<Detection>& found, const std::vector<std::string>& names) {
  ordered_json out = ordered_json::array();
  for (const Detection& d : found) {
    ordered_json box = ordered_json::array();
    for (const float value : {d.x1, d.y1, d.x2, d.y2}) {
      box.push_back(rounded(value, 1e3));
    }
    out.push_back({{"box", box},
                   {"score", rounded(d.score, 1e6)},
                   {"class_id", d.class_id},
                   {"name", names.at(d.class_id)}});
  }
  return out;
}

// Bytes of a file name that are not UTF-8 are replaced.
std::string to_text(const ordered_json& value) {
  return value.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void warn_about_inner_nms(const Metadata& metadata, const Settings& wanted) {
  const auto& inside = metadata.nms;
  if (inside && (wanted.conf < inside->conf || wanted.iou > inside->iou)) {
    std::cerr << "warning: the model suppresses at conf " << inside->conf << ", IoU "
              << inside->iou << " by itself; conf " << wanted.conf << ", IoU " << wanted.iou
              << " cannot bring back what it drops\n";
  }
}

// Reads an image and finds objects in it.
std::pair<cv::Mat, std::vector<Detection>> detect(Detector& detector, const fs::path& path,
                                                  const Settings& settings, Samples& samples) {
  const Clock::time_point start = Clock::now();
  Clock::time_point last = start;
  const auto lap = [&](const char* stage, Clock::time_point since) {
    last = Clock::now();
    samples[stage].push_back(std::chrono::duration<double, std::milli>(last - since).count());
  };
  cv::Mat image = read_image(path);
  lap("decode", last);
  detector.set_input(image);
  lap("preprocess", last);
  detector.run();
  lap("network", last);
  std::vector<Detection> found = detector.detections(settings);
  lap("postprocess", last);
  lap("total", start);
  return {image, found};
}

// Writes predictions.json and the annotated images; returns a JSON summary.
ordered_json predict(Detector& detector, const std::vector<fs::path>& images,
                     const Options& options, const fs::path& output) {
  const std::vector<std::string>& names = detector.metadata().names;
  std::set<std::string> taken;
  std::transform(images.begin(), images.end(), std::inserter(taken, taken.end()), name_key);
  ordered_json entries = ordered_json::array();
  ordered_json unreadable = ordered_json::array();
  std::size_t detections = 0;
  Samples samples;
  for (const fs::path& path : images) {
    cv::Mat image;
    std::vector<Detection> found;
    try {
      for (int i = 0; i < options.repeat; ++i) {
        std::tie(image, found) = detect(detector, path, options.settings, samples);
      }
    } catch (const std::exception& error) {
      const std::string message = path.string() + ": " + last_line(error);
      std::cerr << "skipped: " << message << "\n";
      unreadable.push_back({{"source", path.string()}, {"error", message}});
      continue;
    }
    detections += found.size();
    entries.push_back({{"source", path.string()},
                       {"width", image.cols},
                       {"height", image.rows},
                       {"detections", to_json(found, names)}});
    if (!options.no_draw) {
      const fs::path target = free_name(output, path, taken);
      draw(image, found, names);
      write_image(target, image);
      entries.back()["annotated"] = target.filename().string();
    }
  }
  write_file(output / "predictions.json", to_text(entries));
  return {{"output", output.string()},
          {"predictions", (output / "predictions.json").string()},
          {"images", entries.size()},
          {"detections", detections},
          {"unreadable", unreadable},
          // This program refuses truncated images and does not read videos.
          {"truncated", ordered_json::array()},
          {"videos", ordered_json::array()},
          {"milliseconds", statistics(samples)},
          {"backend", {{"runtime", "openvino"}}}};
}

int run(Options options) {
  const fs::path output = choose_folder(options);
  const std::vector<fs::path> images = find_images(options.sources);
  Detector detector(options.model, options.device, options.threads);
  options.settings.class_ids = parse_classes(options.classes, detector.metadata().names);
  warn_about_inner_nms(detector.metadata(), options.settings);
  fs::create_directories(output);
  const ordered_json summary = predict(detector, images, options, output);
  if (options.json) {
    std::cout << to_text(summary);
  } else {
    const auto counted = [&](const std::string& noun) {
      const std::string number = summary[noun + "s"].dump();
      return number + " " + noun + (number == "1" ? "" : "s");
    };
    std::cout << counted("image") << ", " << counted("detection");
    for (const auto& [stage, milliseconds] : summary["milliseconds"].items()) {
      std::cout << (stage == "decode" ? "; median ms per image: " : ", ") << stage
                << cv::format(" %.1f", milliseconds["median"].get<double>());
    }
    std::cout << "\nimages and predictions.json in " << output.string() << "\n";
  }
  const std::size_t skipped = summary["unreadable"].size();
  if (skipped > 0) {
    std::cerr << "error: " << skipped << " of " << images.size() << " images were skipped\n";
  }
  return skipped > 0 ? 1 : 0;
}

Options parse_options(CLI::App& app, int count, char** arguments) {
  Options options;
  add_options(app, options);
  app.parse(count, arguments);
  const Settings& settings = options.settings;
  for (const auto& [name, value] : {std::pair("--conf", settings.conf), {"--iou", settings.iou}}) {
    if (!(value >= 0 && value <= 1)) {  // NaN as well
      throw std::invalid_argument(std::string(name) + " must be between 0 and 1");
    }
  }
  return options;
}

}  // namespace
}  // namespace oculox

int main(int argc, char** argv) {
  CLI::App app("Finds objects in images with a model exported by Oculox.", "oculox_detect");
  try {
    return oculox::run(oculox::parse_options(app, argc, argv));
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return 0;
  } catch (const CLI::ParseError& error) {
    std::cerr << "error: " << error.what() << "; see --help\n";
    return 2;
  } catch (const std::invalid_argument& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "error: " << oculox::last_line(error) << "\n";
    return 1;
  }
}
