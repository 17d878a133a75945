//! Arithmetic that every stage shares: the middle of many numbers, inner products, cosines.
//!
//! One definition each, so that a number printed in one place is the same number where it is printed in another.
//! Products of whole matrices are the kernels' (`diff::kernel`).

/// The middle value, of an even number the mean of the two middle ones; 0 of nothing. Values that are not finite are
/// left out.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => 0.5 * (values[n / 2 - 1] + values[n / 2]),
    }
}

/// The inner product of two vectors, over the length of the shorter.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cosine of two vectors, summed in binary64; 0 where they have other lengths or one is zero.
pub fn cosine<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let (mut ab, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        let (a, b): (f64, f64) = ((*a).into(), (*b).into());
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if a.len() == b.len() && aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_between_the_two() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([5.0, f64::NAN, -1.0, 2.0, f64::INFINITY]), 2.0);
    }

    #[test]
    fn cosines_are_of_vectors_of_one_length() {
        assert_eq!(dot(&[1.0, 2.0, 9.0], &[3.0, 4.0]), 11.0);
        assert_eq!(cosine(&[3.0f32, 4.0], &[6.0, 8.0]), 1.0);
        assert_eq!(cosine(&[1.0f64, 0.0], &[-2.0, 0.0]), -1.0);
        assert_eq!(cosine(&[0.0f64, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(cosine(&[1.0f64], &[1.0, 0.0]), 0.0);
    }

    /// A second definition is how one number came to be three.
    #[test]
    fn no_other_file_defines_them() {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut others = Vec::new();
        for entry in walkdir::WalkDir::new(&source) {
            let entry = entry.unwrap();
            let path = entry.path();
            let is_here = path.ends_with("numbers.rs") || path.ends_with("diff/kernel.rs");
            if is_here || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for name in ["median", "dot", "cosine"] {
                let ways = [format!("fn {name}("), format!("fn {name}<"), format!("let {name} = |")];
                if ways.iter().any(|defined| text.contains(defined.as_str())) {
                    others.push(format!("{}: {name}", path.display()));
                }
            }
        }
        assert!(others.is_empty(), "{others:?}");
    }
}
