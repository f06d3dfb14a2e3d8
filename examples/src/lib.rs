//! The programs under `examples/`.

/// The workspace's README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
