//! The Skein command line.
fn main() {}
