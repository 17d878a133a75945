//! Tests across modules, in one binary.

mod commands;
mod compare;
mod hostile;
mod hub_client;
mod hub_sweep;
mod properties;
mod screening;
mod support;
