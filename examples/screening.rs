//! Measures the screen on a large generated pair: bytes read, and whether it says what the full comparison says.
//!
//! `cargo run --release --example screening` makes a base of 1.5 GB and six candidates in a temporary folder (3 GB of disk, 8 GB
//! of memory); `-- WIDTH LAYERS INNER` makes others. The figures in `docs/operations.md` are of this program.

#[path = "../tests/suite/screening.rs"]
#[allow(dead_code)]
mod screening;
#[path = "../tests/suite/support.rs"]
#[allow(dead_code)]
mod support;

use std::io::Write;

use orthoscope::demo::tiny::TinySize;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [width, layers, inner] = numbers.as_slice().try_into().unwrap_or([2048, 14, 5632]);
    let size = TinySize { width, layers, inner, heads: width / 16, vocabulary: 8000 };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut different, mut most) = (0, 0.0f64);
    screening::run(size, screening::CANDIDATES, threads, &mut |row| {
        different += usize::from(row.screened.verdict != row.full.verdict);
        most = most.max(row.read as f64 / row.bytes as f64);
        // A line at a time, since the whole takes minutes.
        let _ = writeln!(std::io::stdout(), "{}", row.line());
    });
    writeln!(std::io::stdout(), "{different} differ; at most {:.3} % of a candidate's bytes were read", 100.0 * most)?;
    Ok(())
}
