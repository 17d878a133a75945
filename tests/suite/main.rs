//! Tests across modules, in one binary.

mod compare;
mod hostile;
mod properties;
mod hub_client;
mod hub_sweep;
mod support;
