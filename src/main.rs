//! The `orthoscope` command.

fn main() {}
