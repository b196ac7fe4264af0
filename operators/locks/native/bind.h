// What the parts of Python's view share.
#pragma once
#include <nanobind/nanobind.h>
#include <string>

extern "C" {
#include "core.h"
}

struct Core {
  lk_ctx c{};
  bool opened = false;
  ~Core() { close(); }
  std::string open(const std::string &path) {
    char why[512] = "";
    if (lk_open(&c, path.c_str(), why, sizeof why)) return why;
    opened = true;
    return "";
  }
  void close() {
    if (opened) lk_leave(&c), lk_close(&c);
    opened = false;
  }
  void check(uint64_t cell, uint64_t n = 1) const {
    if (!opened || n > c.words || cell > c.words - n)
      throw nanobind::value_error("the region is closed, or the word lies outside it");
  }
};

void bind_explore(nanobind::module_ &m);
void bind_structures(nanobind::module_ &m);
