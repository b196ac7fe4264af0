// Python's view of the explorer.
#include <memory>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

extern "C" {
#include "explore.h"
}
#include "bind.h"

namespace nb = nanobind;
using Calls = std::vector<std::vector<std::tuple<uint32_t, std::vector<int64_t>>>>;

static nb::dict explore(Core &core, const Calls &calls, const std::vector<uint32_t> &watch, int crashes, bool px86,
                        bool por, bool hazards, int solo, uint32_t mutants, uint64_t limit, bool tag2) {
  auto config = std::make_unique<ex_config>();
  auto out = std::make_unique<ex_report>();
  char why[256] = "";
  core.check(0);
  if (calls.empty() || calls.size() > EX_PROCS || watch.size() > EX_WATCH)
    throw nb::value_error("explore: expected 1 to 4 processes and at most 16 watched cells");
  config->procs = (int)calls.size();
  for (size_t p = 0; p < calls.size(); p++) {
    if (calls[p].size() > EX_OPS) throw nb::value_error("explore: expected at most 4 calls per process");
    config->ops[p] = (int)calls[p].size();
    for (size_t i = 0; i < calls[p].size(); i++) {
      auto &[sec, args] = calls[p][i];
      if (args.size() > LK_ARGS) throw nb::value_error("explore: too many arguments");
      config->calls[p][i].sec = sec;
      config->calls[p][i].nargs = (uint32_t)args.size();
      for (size_t a = 0; a < args.size(); a++) config->calls[p][i].args[a] = args[a];
    }
  }
  for (size_t i = 0; i < watch.size(); i++) config->watch[i] = watch[i];
  config->nwatch = (int)watch.size();
  config->crashes = crashes, config->px86 = px86, config->por = por, config->hazards = hazards, config->solo = solo;
  config->mutants = mutants, config->limit = limit;
  if ((tag2 ? ex_explore_tag2 : ex_explore)(&core.c, config.get(), out.get(), why, sizeof why)) throw nb::value_error(why);
  nb::dict d;
  d["states"] = out->states, d["transitions"] = out->transitions, d["terminals"] = out->terminals;
  d["solo_runs"] = out->solo_runs, d["unbounded"] = out->unbounded, d["power_cuts"] = out->power_cuts;
  d["overflow"] = out->overflow, d["seconds"] = out->seconds, d["verdict"] = out->verdict;
  d["text"] = std::string(out->text), d["trace"] = std::string(out->trace);
  nb::list outcomes;
  for (int i = 0; i < out->noutcomes; i++) {
    nb::list cells, results;
    for (size_t k = 0; k < watch.size(); k++) cells.append(out->outcomes[i][k]);
    for (size_t p = 0; p < calls.size(); p++) {
      nb::list mine;
      for (size_t k = 0; k < calls[p].size(); k++) {
        const int64_t *r = out->outcomes[i] + EX_WATCH + (p * EX_OPS + k) * LK_RES;
        mine.append(nb::make_tuple(r[0], r[1], r[2], r[3]));
      }
      results.append(nb::tuple(mine));
    }
    outcomes.append(nb::make_tuple(nb::tuple(cells), nb::tuple(results)));
  }
  d["outcomes"] = outcomes;
  return d;
}

void bind_explore(nb::module_ &m) { m.def("explore", &explore); }
