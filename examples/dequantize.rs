//! Decodes ggml blocks or whole GGUF files to raw little-endian `f32`, for `tests/oracles/gguf.py` to compare with ggml.
//!
//! * `dequantize blocks TYPE INPUT OUTPUT`: whole blocks of one type;
//! * `dequantize file INPUT.gguf OUTPUT`: every tensor, one after another, and a line of JSON about each on standard output
//!   (`first` is its first element's place in OUTPUT; tensors that cannot be read have none);
//! * `dequantize speed`: output per second of every type, on one thread.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use orthoscope::checkpoint::gguf::Gguf;
use orthoscope::checkpoint::{FileSet, Format, Storage};
use orthoscope::source::{ByteSource, mmap::Mmap};
use orthoscope::tensor::{DType, GGML_TYPES};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["blocks", name, input, output] => blocks(name, input, output),
        ["file", input, output] => file(input, output),
        ["speed"] => speed(),
        _ => Err("usage: dequantize blocks TYPE INPUT OUTPUT | file INPUT.gguf OUTPUT | speed".into()),
    }
}

fn blocks(name: &str, input: &str, output: &str) -> Result<(), Box<dyn Error>> {
    let dtype = named(name)?;
    let input = fs::read(input)?;
    let mut decoded = vec![0.0; input.len() / dtype.bytes * dtype.block];
    (dtype.decode)(&input, &mut decoded);
    fs::write(output, little_endian(&decoded))?;
    Ok(())
}

fn file(input: &str, output: &str) -> Result<(), Box<dyn Error>> {
    let source: Arc<dyn ByteSource> = Arc::new(Mmap::open(Path::new(input), "model.gguf")?);
    let files = BTreeMap::from([("model.gguf".to_owned(), source)]);
    let checkpoint = Gguf.open(&FileSet { label: input.to_owned(), files, ..FileSet::default() })?;
    for anomaly in &checkpoint.anomalies {
        writeln!(std::io::stderr(), "{anomaly:?}")?;
    }
    let mut listing = std::io::stdout().lock();
    let mut output = BufWriter::new(fs::File::create(output)?);
    let mut written = 0;
    for (name, entry) in &checkpoint.tensors {
        let readable = !matches!(entry.storage, Storage::Unreadable(_));
        let line = serde_json::json!({
            "name": name,
            "dtype": entry.dtype,
            "shape": entry.shape,
            "range": [entry.range.start, entry.range.end],
            "first": readable.then_some(written),
        });
        writeln!(listing, "{line}")?;
        if readable {
            let mut numbers = vec![0.0; usize::try_from(entry.elements())?];
            checkpoint.decode(entry, 0, &mut numbers)?;
            output.write_all(&little_endian(&numbers))?;
            written += numbers.len();
        }
    }
    output.flush()?;
    Ok(())
}

fn named(name: &str) -> Result<&'static DType, Box<dyn Error>> {
    let found = GGML_TYPES.iter().find(|(_, dtype)| dtype.name == name);
    found.map(|(_, dtype)| *dtype).ok_or_else(|| format!("{name} is no ggml type").into())
}

fn little_endian(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn speed() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let mut random = fastrand::Rng::with_seed(1);
    for (_, dtype) in GGML_TYPES {
        let elements = 64 * 1024;
        let mut input = vec![0; elements / dtype.block * dtype.bytes];
        random.fill(&mut input);
        let mut output = vec![0.0; elements];
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = Instant::now();
            for _ in 0..20 {
                (dtype.decode)(std::hint::black_box(&input), &mut output);
                std::hint::black_box(&mut output);
            }
            best = best.min(start.elapsed().as_secs_f64() / 20.0);
        }
        let gigabytes = (elements * 4) as f64 / best / 1e9;
        writeln!(out, "{:8} {gigabytes:6.2} GB/s of f32, {:6.2} G elements/s", dtype.name, gigabytes / 4.0)?;
    }
    Ok(())
}
