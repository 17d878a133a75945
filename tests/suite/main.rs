//! Tests across modules, in one binary.

#![allow(clippy::print_stdout, reason = "tests print what they measured")]

mod accounting;
mod adapters;
mod commands;
mod compare;
mod consistency;
mod forms;
mod hostile;
/// Rules of the house that a reader can count.
mod house;
mod hub_client;
mod hub_sweep;
mod measurements;
mod people;
mod program;
mod properties;
mod screening;
mod stored;
mod support;
mod surroundings;
mod verify;
