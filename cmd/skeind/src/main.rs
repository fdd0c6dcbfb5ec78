//! Every Skein daemon role in one binary.
fn main() {}
