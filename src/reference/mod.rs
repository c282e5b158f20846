//! Scalar versions of every kernel: the oracles of the tests. Written from the formulas, with sums
//! in f64; named by tests and benches alone.
