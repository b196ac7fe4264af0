// Python door of the renderer: checks every shape, drops the interpreter lock. Documented in operators/synthpix/kernel.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

#include "synthpix.h"

namespace nb = nanobind;
using FlowArray = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ranges = nb::ndarray<const double, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Label = nb::ndarray<float, nb::shape<-1, -1, 2>, nb::c_contig, nb::device::cpu>;
using DoublesOut = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using PairsOut = nb::ndarray<double, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Plane = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words1 = nb::ndarray<uint32_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

static void demand(bool holds, const char *message) {
  if (!holds) throw std::invalid_argument(message);
}

static Flow flow_of(const FlowArray &values, const Doubles &place) {
  demand(place.shape(0) == PLACES, "place: wrong length");
  demand(values.shape(0) > 0 && values.shape(1) > 0 && values.shape(2) >= 2, "flow: expected (height, width, 2 or 3)");
  const double *p = place.data();
  return Flow{values.data(), (int64_t)values.shape(0), (int64_t)values.shape(1), (int64_t)values.shape(2), p[STEP_Y],
              p[START_Y],    p[STEP_X],                p[START_X],               p[SCALE],                (int)p[SUBSTEPS]};
}

static void displace(FlowArray values, Doubles place, Doubles y, Doubles x, PairsOut out) {
  const Flow flow = flow_of(values, place);
  demand(y.shape(0) == x.shape(0) && out.shape(0) == y.shape(0), "y, x and out: expected the same length");
  for (size_t i = 0; i < y.shape(0); i++) {
    const Motion m = displacement(flow, y(i), x(i));
    out(i, 0) = m.y, out(i, 1) = m.x;
  }
}

static int64_t write_label(FlowArray values, Doubles place, double per_pixel, int mode, double scale, Label out) {
  const Flow flow = flow_of(values, place);
  demand(mode >= 0 && mode <= 2 && per_pixel > 0.0, "mode, per_pixel: expected 0, 1 or 2, and > 0");
  nb::gil_scoped_release released;
  return label(flow, (int64_t)out.shape(0), (int64_t)out.shape(1), per_pixel, mode, scale, out.data());
}

template <class T>
static void expose_as(Images &images, const double *par, const Key &key, const uint8_t *mask, void *const *out, double *stats,
                      double pixels) {
  for (int image = 0; image < 2; image++) {
    const Seen seen = expose<T>(images.canvas[image], par, key, image, mask, (T *)out[image]);
    stats[S_SATURATED_1 + image] = (double)seen.saturated;
    stats[S_GREY_1 + image] = seen.grey_sum / pixels;
  }
}

static double mean_light(Canvas &canvas) {
  double sums[8] = {0}, all = 0.0;
  for (int64_t y = 0; y < canvas.height; y++)
    for (int64_t x = 0; x < canvas.width; x++) sums[x & 7] += (double)canvas.row(y)[x];
  for (double sum : sums) all += sum;
  return all / (double)(canvas.height * canvas.width);
}

static int kind_of(const Image &image) {
  if (image.dtype() == nb::dtype<uint8_t>()) return 8;
  if (image.dtype() == nb::dtype<uint16_t>()) return 16;
  if (image.dtype() == nb::dtype<float>()) return 32;
  throw std::invalid_argument("images: expected uint8, uint16 or float32");
}

static void render(FlowArray values, Doubles place, Doubles par, Ranges diameters, Ranges intensities, Ranges rhos,
                   Mask mask, uint32_t k0, uint32_t k1, uint64_t pair, Image first, Image second, DoublesOut stats) {
  const Flow flow = flow_of(values, place);
  demand(par.shape(0) == PARAMETERS && stats.shape(0) == STATISTICS, "parameters or stats: wrong length");
  demand(first.shape(0) == second.shape(0) && first.shape(1) == second.shape(1), "images: expected one shape");
  const int64_t height = (int64_t)first.shape(0), width = (int64_t)first.shape(1);
  demand(height > 0 && width > 0, "images: empty");
  demand(diameters.shape(0) > 0 && intensities.shape(0) > 0 && rhos.shape(0) > 0, "ranges: empty");
  const bool masked = mask.shape(0) > 0;
  demand(!masked || ((int64_t)mask.shape(0) == height && (int64_t)mask.shape(1) == width), "mask: expected the image's shape");
  for (size_t i = 0; i < diameters.shape(0); i++)
    demand(diameters(i, 0) > 0.0 && par(CUT) * par(SIGMA_PER_DIAMETER) * diameters(i, 1) <= 120.0,
           "diameters: expected > 0 and cut * sigma <= 120 px");
  const int kind = kind_of(first);
  demand(kind == kind_of(second), "images: expected one type");
  demand(kind == 32 ? par(BITS) == 0.0 : par(BITS) > 0.0 && par(BITS) <= kind, "bits: more than the images hold");
  const double *ranges[3] = {diameters.data(), intensities.data(), rhos.data()};
  const int64_t counts[3] = {(int64_t)diameters.shape(0), (int64_t)intensities.shape(0), (int64_t)rhos.shape(0)};
  const Key key = {k0, k1, pair};
  void *const out[2] = {first.data(), second.data()};
  static thread_local Images images;
  nb::gil_scoped_release released;
  const double pixels = (double)(height * width);
  const uint8_t *lit = masked ? mask.data() : nullptr;
  populate(flow, par.data(), ranges, counts, key, height, width, images, stats.data());
  stats.data()[S_SIGNAL] = par(SHOT_NOISE) > 0.0 ? mean_light(images.canvas[0]) : 0.0;
  if (kind == 8) expose_as<uint8_t>(images, par.data(), key, lit, out, stats.data(), pixels);
  if (kind == 16) expose_as<uint16_t>(images, par.data(), key, lit, out, stats.data(), pixels);
  if (kind == 32) expose_as<float>(images, par.data(), key, lit, out, stats.data(), pixels);
}

static void add_spots(Table spots, bool integrated, double fill_y, double fill_x, double cut, Plane out) {
  demand(spots.shape(1) == 6, "spots: expected columns y, x, sigma_y, sigma_x, rho, intensity");
  const Optics optics = {integrated, (float)fill_y, (float)fill_x, (float)cut};
  float widest = 0.0f;
  for (size_t i = 0; i < spots.shape(0); i++) {
    demand(spots(i, 2) > 0.0 && spots(i, 3) > 0.0 && std::fabs(spots(i, 4)) < 1.0, "spots: sigma > 0, |rho| < 1");
    widest = std::fmax(widest, (float)std::fmax(spots(i, 2), spots(i, 3)));
  }
  demand(cut > 0.0 && cut * widest <= 120.0, "cut * sigma: expected at most 120 px");
  Canvas canvas;
  canvas.prepare((int64_t)out.shape(0), (int64_t)out.shape(1), 2 * spot_reach(optics.cut, widest) + 16);
  for (size_t i = 0; i < spots.shape(0); i++)
    add_spot(canvas, optics, Spot{spots(i, 0), spots(i, 1), (float)spots(i, 2), (float)spots(i, 3), (float)spots(i, 4),
                                  (float)spots(i, 5)});
  for (int64_t y = 0; y < canvas.height; y++)
    std::memcpy(out.data() + y * canvas.width, canvas.row(y), sizeof(float) * (size_t)canvas.width);
}

static void expose_light(Plane light, Doubles par, uint32_t k0, uint32_t k1, uint64_t pair, int image, Image out,
                         DoublesOut stats) {
  demand(par.shape(0) == PARAMETERS && stats.shape(0) == 2, "parameters or stats: wrong length");
  demand(out.shape(0) == light.shape(0) && out.shape(1) == light.shape(1), "light and out: expected one shape");
  demand(image == 0 || image == 1, "image: expected 0 or 1");
  const int kind = kind_of(out);
  demand(kind == 32 ? par(BITS) == 0.0 : par(BITS) > 0.0 && par(BITS) <= kind, "bits: more than the images hold");
  Canvas canvas;
  canvas.prepare((int64_t)out.shape(0), (int64_t)out.shape(1), 16);
  for (int64_t y = 0; y < canvas.height; y++)
    std::memcpy(canvas.row(y), light.data() + y * canvas.width, sizeof(float) * (size_t)canvas.width);
  const Key key = {k0, k1, pair};
  const Seen seen = kind == 8    ? expose<uint8_t>(canvas, par.data(), key, image, nullptr, (uint8_t *)out.data())
                    : kind == 16 ? expose<uint16_t>(canvas, par.data(), key, image, nullptr, (uint16_t *)out.data())
                                 : expose<float>(canvas, par.data(), key, image, nullptr, (float *)out.data());
  stats(0) = (double)seen.saturated, stats(1) = seen.grey_sum / (double)(canvas.height * canvas.width);
}

static void words(uint32_t k0, uint32_t k1, uint32_t stream, uint64_t pair, uint32_t first, Words1 out) {
  const Key key = {k0, k1, pair};
  for (size_t i = 0; i < out.shape(0); i += 8) {
    const Words found = words8(key, stream, first + (uint32_t)i);
    for (size_t lane = 0; lane < 8 && i + lane < out.shape(0); lane++)
      for (int k = 0; k < 4; k++) out(i + lane, k) = found.w[k][lane];
  }
}

NB_MODULE(_native, m) {
  m.doc() = "Renderer of particle-image pairs; see operators/synthpix/kernel.py for the documented interface.";
  m.def("displace", &displace);
  m.def("label", &write_label);
  m.def("render", &render);
  m.def("add_spots", &add_spots);
  m.def("expose", &expose_light);
  m.def("words", &words);
}
