//! Helpers shared by the sibling crates. Not a public API: anything here may change in any release.

mod log_on_change;

pub use log_on_change::LogOnChange;
