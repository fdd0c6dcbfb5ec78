//! Replays what the fuzzer knows, on stable and in every test run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

use std::{fs, path::Path};

#[test]
fn the_corpus_of_bodies_is_harmless() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/body");
    let mut seen = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        skein_api::fuzz::bodies(&bytes);
        // Cut anywhere, and with any byte changed, it is just as harmless.
        for at in (0..bytes.len()).step_by(31) {
            skein_api::fuzz::bodies(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] = changed[at].wrapping_add(1 + u8::try_from(at % 250).unwrap());
            skein_api::fuzz::bodies(&changed);
        }
        // So it is without one of its requests, and with one of them a second time at the end.
        let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        for at in 0..lines.len() {
            skein_api::fuzz::bodies(&[&lines[..at], &lines[at + 1..]].concat().concat());
            skein_api::fuzz::bodies(&[&lines[..], &lines[at..=at]].concat().concat());
        }
        seen += 1;
    }
    assert!(seen >= 10, "the corpus is missing");
}
