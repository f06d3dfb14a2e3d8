//! Clusters to test against.
