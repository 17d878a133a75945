//! The inner loops in bytes of stored weights per second: decoding, moments, skinny products.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orthoscope::diff::kernel::{self, ColumnSums, Scratch};
use orthoscope::tensor::{BF16, DType, F16, F32};
use std::hint::black_box;

const COLUMNS: usize = 4096;
const ROWS: usize = 16;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for dtype in [&BF16, &F16, &F32] as [&'static DType; 3] {
        let input: Vec<u8> = (0..COLUMNS * ROWS * dtype.bytes).map(|i| (i * 7 % 251) as u8).collect();
        let mut output = vec![0f32; COLUMNS * ROWS];
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(dtype.name, |b| b.iter(|| (dtype.decode)(black_box(&input), black_box(&mut output))));
    }
    group.finish();
}

fn tiles(c: &mut Criterion) {
    let mut group = c.benchmark_group("tile of a bf16 pair");
    let base: Vec<f32> = (0..COLUMNS * ROWS).map(|i| (i as f32 * 0.37).sin()).collect();
    let candidate: Vec<f32> = base.iter().map(|w| w + 0.001 * (w * 91.0).cos()).collect();
    // Two bytes an element on each side.
    group.throughput(Throughput::Bytes(4 * base.len() as u64));
    group.bench_function("moments", |b| {
        let (mut w, mut x) = (base.clone(), candidate.clone());
        let (mut rows, mut columns, mut scratch) = (Vec::new(), ColumnSums::zeros(COLUMNS), Scratch::default());
        b.iter(|| {
            w.copy_from_slice(&base);
            x.copy_from_slice(&candidate);
            rows.clear();
            kernel::moments(black_box(&mut w), black_box(&mut x), COLUMNS, 0, &mut rows, &mut columns, &mut scratch);
        });
    });
    group.bench_function("change", |b| {
        let (mut w, mut x) = (base.clone(), candidate.clone());
        b.iter(|| {
            w.copy_from_slice(&base);
            x.copy_from_slice(&candidate);
            kernel::change(black_box(&mut w), black_box(&mut x), COLUMNS, None, None);
        });
    });
    for width in [12usize, 24] {
        group.bench_function(format!("product with {width} columns"), |b| {
            let right = orthoscope::diff::spectrum::signs(COLUMNS, width, 1);
            let mut out = faer::Mat::<f32>::zeros(ROWS, width);
            let tile = faer::MatRef::from_row_major_slice(&candidate, ROWS, COLUMNS);
            b.iter(|| {
                faer::linalg::matmul::matmul(
                    out.as_mut(),
                    faer::Accum::Replace,
                    black_box(tile),
                    right.as_ref(),
                    1.0,
                    faer::Par::Seq,
                );
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, tiles);
criterion_main!(benches);
