//! Clusters to test against, and how often scenarios run on them.

pub mod real;
pub mod second_look;
