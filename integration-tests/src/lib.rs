//! Clusters to test against.

pub mod real;
