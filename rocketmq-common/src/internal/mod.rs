//! Helpers shared by the sibling crates. Not a public API: anything here may change in any release.

mod conditions;
mod log_on_change;

pub use conditions::Conditions;
pub use log_on_change::LogOnChange;
