//! A CNI call from hostile bytes: the first line is the environment, the rest standard input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = skein_cni::Request::parse_recorded(input);
});
