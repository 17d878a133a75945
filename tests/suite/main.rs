//! Tests across modules, in one binary: a second one would link everything again. A test of one module stands beside its code.

#![allow(clippy::print_stdout, reason = "tests print what they measured")]

/// What is not compared keeps an examination from being clear, whatever the damage.
mod accounting;
/// Adapters as PEFT, mlx-lm and llama.cpp read them.
mod adapters;
/// The commands as a user calls them: demo, scan, sweep, findings, decide, export.
mod commands;
/// Two folders compared in full: every edit and every look-alike on tiny models.
mod compare;
/// Directions chosen by consistency: under decoys, on channels, through grids; no edit ends as clear.
mod consistency;
/// Repositories that hold a model in several forms.
mod forms;
/// Bytes made to harm.
mod hostile;
/// Rules of the house that a reader can count.
mod house;
/// The client against the stand-in hubs: quotas, redirects, tokens, refusals.
mod hub_client;
/// Sweeps: every kind of repository, faults, kills, budgets, watches.
mod hub_sweep;
/// Fingerprints, and where a checkpoint comes from by its weights.
mod kinship;
/// Every declared measurement is made of some tiny model.
mod measurements;
/// Edits that are an operator on the residual stream and no plain removal.
mod operators;
/// What people read: hostile names, decisions, the browser, exports of what is broken.
mod people;
/// The program as a process, with an environment of its own.
mod program;
/// What must not change a measurement, and what the house keeps: the order of modules, the way to the inner loop.
mod properties;
/// Screens of a few rows against full comparisons.
mod screening;
/// Forms that weights are stored in: quantised, strided, sliced.
mod stored;
/// Worlds of tiny models, for the others.
mod support;
/// What comes beside the weights: templates, settings, tokenizers, programs.
mod surroundings;
/// `verify`: hashes, signatures, headers, oddities.
mod verify;
