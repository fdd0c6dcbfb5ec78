//! Hosts made of network namespaces, for the demo, the tests and the benchmarks.
