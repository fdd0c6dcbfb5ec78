//! Any bytes as the bodies of requests: nothing panics, and a refusal leaves no trace.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| skein_api::fuzz::bodies(data));
