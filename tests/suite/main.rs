//! Tests across modules, in one binary.

mod hub_client;
