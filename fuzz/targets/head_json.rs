//! Any bytes as a JSON head: no panic, and what is read comes back the same after it has been written.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/head.rs"]
mod head;

fuzz_target!(|input: &[u8]| head::read_write_read(0, input));
