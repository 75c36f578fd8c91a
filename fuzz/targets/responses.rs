//! Our HTTP/1.1 connection to backends against hyper's client, on the same responses: no difference
//! but for known reasons, however the input is split, and no clean end before the end.
//!
//! The first byte of the input chooses the request and how the connection ends, the second one the
//! length of the chunks (`fuzz/oracle`).

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oracle::fuzz(input));
