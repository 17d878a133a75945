//! Two checkpoints compared through the library, and what was found, as an embedding program would do it.
//!
//! ```sh
//! cargo run --release --example compare -- BASE CANDIDATE
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it found")]

use std::path::Path;
use std::process::ExitCode;

use orthoscope::diff::Unobserved;
use orthoscope::error::Result;
use orthoscope::examine::{ExaminationContext, compare_paths};
use orthoscope::signature::Catalogue;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, candidate] = arguments.as_slice() else {
        println!("usage: compare BASE CANDIDATE");
        return ExitCode::from(64);
    };
    match show(Path::new(base), Path::new(candidate)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.one_line());
            ExitCode::FAILURE
        }
    }
}

/// Compares, and prints the verdict, the relation, and the strength of each writer that lost a direction.
fn show(base: &Path, candidate: &Path) -> Result<()> {
    let catalogue = Catalogue::builtin()?;
    let settings = ExaminationContext { catalogue: &catalogue, digests: false, claim: None, observer: &Unobserved };
    let found = compare_paths(base, candidate, &settings);
    println!("{}: {}", found.verdict.as_str(), found.because);
    println!("relation: {}", found.relation.as_str());
    for one in found.orthogonalization.iter().flat_map(|evidence| &evidence.strength) {
        println!("layer {:3} {:10} λ = {:.3} ± {:.1e}", one.layer, one.module, one.lambda, one.stderr);
    }
    Ok(())
}
