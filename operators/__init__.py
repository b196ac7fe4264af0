"""Proving Ground: one package per system under test, plus `lab` (shared by all) and domain packages."""
