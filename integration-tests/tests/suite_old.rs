//! The suite, over both clusters.

fn main() {}
