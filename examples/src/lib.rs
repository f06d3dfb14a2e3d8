//! The programs under `examples/`.
