//! orthoscope tells what a published checkpoint is to its claimed base, and whether it is consistent with weight
//! orthogonalization ("abliteration"): a direction removed from the matrices that write to the residual stream.
//!
//! What comes in is somebody's upload, as a folder or as a repository on a hub; what goes out is an
//! [`Examination`](examination::Examination), which is JSON, a row of the index and a page of the browser at once. Data
//! flows one way:
//!
//! ```text
//!   hub ── list ──▶ sweep ─┐
//!                          ▼
//!   cli ──────────────▶ examine: open ─▶ pair ─▶ measure ─▶ name both sides ─▶ judge
//!                          │      │       │         │                            │
//!                          │  checkpoint pair  diff, or a          judge, by the catalogue's
//!                          │   overlay   arch  screen of rows            signatures
//!                          ▼                        │
//!                  Examination ◀───── Profile ◀─────┘
//!                          │
//!                          ├──▶ index ──▶ serve
//!                          └──▶ report
//! ```
//!
//! The modules stand below in the order in which data meets them, and each uses only those above it; a test holds them
//! to that. `docs/architecture.md` tells why things are as they are, and CONTRIBUTING.md how to add to them.

// One error type, and the policy of when which kind is made.
pub mod error;
// Names of things: repositories, revisions, digests.
pub mod ids;
// Every cap on hostile input, each with its reason.
pub mod limits;

// Bytes: a memory map or ranges over HTTP behind one trait; bounded reading of JSON and YAML.
pub mod source;
// The table of dtypes and their decoders, and a few statistics over numbers.
pub mod tensor;
// Formats: headers and their oddities, which files belong together, how each tensor's elements are stored.
pub mod checkpoint;
// Which tensors write to the residual stream, which read from it, and on which axis.
pub mod arch;
// What is measured: one row per tensor, and named numbers over the model.
pub mod profile;
// Which tensor of the base corresponds to which of the candidate, through which view.
pub mod pair;
// What a checkpoint is known by without any base: fingerprints, and how alike two of them are.
pub mod kinship;
// An adapter laid over its base, or applied to the weights it lies among.
pub mod overlay;
// The measurements: equality, moments, ranks, directions and their consistency, over all tensors in parallel.
pub mod diff;
// The same from a few rows of a dozen writers, for where bytes are dear.
pub mod screen;

// The record of what was found, and how its parts are told.
pub mod examination;
// The signatures: range clauses over named measurements, with prose and examples.
pub mod signature;
// From measurements to words, once: relation, verdict, recipe, findings, and what keeps a verdict from being clear.
pub mod judge;
// Protocols of model hubs, and a client that is polite to them.
pub mod hub;
// What publishers say of a model's origin, and whether the weights bear it out.
pub mod claim;
// The SQLite index of all examinations.
pub mod index;
// The map: the way of one candidate, from a folder or a hub alike.
pub mod examine;
// What to look at, in which order, and how to lose nothing on the way.
pub mod sweep;

// Everything that is shown: text, tables, HTML, SARIF, pictures.
pub mod report;
// Detection and false-positive rates on labelled pairs.
pub mod evaluate;
// Whether files are what a hub, a list of checksums or a signature says they are; no base is needed.
pub mod verify;
// The index in a browser.
pub mod serve;
// Tiny models and a loopback hub, for the demonstration and the tests.
pub mod demo;
// The command line: one file per subcommand.
pub mod cli;

/// The commit that this program was built from; `None` for a build that does not know, such as one for development.
pub const COMMIT: Option<&str> = option_env!("ORTHOSCOPE_COMMIT");
