//! A program that does nothing: what any process costs, to compare the plugins with.

fn main() {}
