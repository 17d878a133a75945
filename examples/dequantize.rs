//! Decodes ggml blocks or whole GGUF files to raw little-endian `f32`, for `tests/oracles/gguf.py` to compare with ggml.
//!
//! * `dequantize blocks TYPE INPUT OUTPUT`: whole blocks of one type;
//! * `dequantize speed`: output per second of every type, on one thread.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::time::Instant;

use orthoscope::tensor::{DType, GGML_TYPES};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["blocks", name, input, output] => blocks(name, input, output),
        ["speed"] => speed(),
        _ => Err("usage: dequantize blocks TYPE INPUT OUTPUT | speed".into()),
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
