//! Tests across modules, in one binary.

mod hub_client;
mod hub_sweep;
mod support;
