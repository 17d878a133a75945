//! The rule for names that the table does not have: the residual width, the shape, and usual words.

use super::{Axis, Kind};

/// Words of modules that write to the residual stream, in names of many origins.
const WRITER_WORDS: &[&str] = &[
    "o_proj",
    "out_proj",
    "proj_out",
    "down_proj",
    "c_proj",
    "wo",
    "w2",
    "dense_4h_to_h",
    "fc2",
    "fc_out",
    "dense",
    "out",
    "output",
    "down",
    "w_o",
    "w_out",
];
/// Words of modules that read it.
const READER_WORDS: &[&str] = &[
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "qkv",
    "query_key_value",
    "c_attn",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "in_proj",
    "c_fc",
    "fc1",
    "fc_in",
    "w1",
    "w3",
    "wq",
    "wk",
    "wv",
    "dense_h_to_4h",
    "query",
    "key",
    "value",
    "gate",
    "up",
];

/// What a tensor of an unknown name is: kind, canonical module name, and the residual axis as stored.
///
/// The last segment with a usual word decides between writer and reader; the axis is the one that has the residual
/// width. A square matrix keeps the orientation of a PyTorch `Linear`. Without a usual word, a matrix with the width on
/// one axis only is a writer (width first) or a reader (width second) if it stands in a block; all else is
/// [`Kind::Other`].
pub fn part(path: &str, in_block: bool, shape: &[u64], width: Option<u64>) -> (Kind, String, Option<Axis>) {
    let last = path.rsplit('.').next().unwrap_or(path);
    let module = canonical(path);
    if path.contains("norm") || path.contains("ln_") || last.starts_with("ln") {
        return (Kind::Norm, last.to_owned(), None);
    }
    if last.contains("router") || path.ends_with("moe.gate") {
        return (Kind::Router, "router".to_owned(), (shape.len() == 2).then_some(Axis::Columns));
    }
    if !in_block {
        if last.contains("embed") || last == "wte" {
            let wide = shape.len() == 2 && width.is_some_and(|width| shape[1] == width);
            return if wide {
                (Kind::Embedding, "embed_tokens".to_owned(), Some(Axis::Columns))
            } else {
                (Kind::Other, last.to_owned(), None)
            };
        }
        return (Kind::Other, last.to_owned(), None);
    }
    let matrix = match shape {
        [rows, columns] | [_, rows, columns] => Some((*rows, *columns)),
        _ => None,
    };
    let Some(((rows, columns), width)) = matrix.zip(width) else { return (Kind::Other, module, None) };
    let word = path.rsplit('.').find_map(|segment| {
        if WRITER_WORDS.contains(&segment) {
            Some(Kind::Writer)
        } else if READER_WORDS.contains(&segment) {
            Some(Kind::Reader)
        } else {
            None
        }
    });
    match (word, rows == width, columns == width) {
        (Some(Kind::Writer), true, _) => (Kind::Writer, module, Some(Axis::Rows)),
        (Some(Kind::Writer), false, true) => (Kind::Writer, module, Some(Axis::Columns)),
        (Some(Kind::Reader), _, true) => (Kind::Reader, module, Some(Axis::Columns)),
        (Some(Kind::Reader), true, false) => (Kind::Reader, module, Some(Axis::Rows)),
        (None, true, false) => (Kind::Writer, module, Some(Axis::Rows)),
        (None, false, true) => (Kind::Reader, module, Some(Axis::Columns)),
        _ => (Kind::Other, module, None),
    }
}

/// The canonical module name for a path: attention outputs are `o_proj`, MLP outputs `down_proj`, other outputs
/// `out_proj`, where words tell; else the last segment.
fn canonical(path: &str) -> String {
    let last = path.rsplit('.').next().unwrap_or(path);
    let attention = path.contains("attn") || path.contains("attention");
    let mlp = path.contains("mlp") || path.contains("ffn") || path.contains("feed_forward") || path.contains("expert");
    if WRITER_WORDS.contains(&last) {
        if attention && !path.contains("linear_attn") {
            return "o_proj".to_owned();
        }
        return if mlp || last == "down_proj" { "down_proj" } else { "out_proj" }.to_owned();
    }
    last.to_owned()
}

/// The residual width: what the configuration says if the matrices bear it out, else the embedding's second axis, else
/// the dimension met in most matrices (the smaller of equals).
pub fn width<'a>(
    said: Option<u64>,
    embedding: Option<u64>,
    shapes: impl Iterator<Item = &'a [u64]> + Clone,
) -> Option<u64> {
    let matrices = shapes.filter_map(|shape| match shape {
        [rows, columns] | [_, rows, columns] => Some((*rows, *columns)),
        _ => None,
    });
    let mut counts = std::collections::BTreeMap::<u64, usize>::new();
    let mut total = 0usize;
    for (rows, columns) in matrices {
        total += 1;
        *counts.entry(rows).or_default() += 1;
        if columns != rows {
            *counts.entry(columns).or_default() += 1;
        }
    }
    let borne_out = |width: &u64| counts.get(width).copied().unwrap_or(0) * 2 >= total;
    said.filter(borne_out).or(embedding.filter(borne_out)).or_else(|| {
        counts
            .iter()
            .max_by_key(|(dimension, count)| (**count, std::cmp::Reverse(**dimension)))
            .map(|(width, _)| *width)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_matrices_follow_words() {
        let kind = |path| part(path, true, &[64, 64], Some(64));
        assert_eq!(kind("attention.proj_out"), (Kind::Writer, "o_proj".into(), Some(Axis::Rows)));
        assert_eq!(kind("attention.query"), (Kind::Reader, "query".into(), Some(Axis::Columns)));
        assert_eq!(kind("attention.mystery").0, Kind::Other);
    }

    #[test]
    fn shapes_tell_where_words_do_not() {
        assert_eq!(part("mystery", true, &[64, 96], Some(64)).2, Some(Axis::Rows));
        assert_eq!(part("mystery", true, &[96, 64], Some(64)).0, Kind::Reader);
        assert_eq!(part("mystery", true, &[96, 32], Some(64)).0, Kind::Other);
        assert_eq!(
            part("mlp.down_proj", true, &[96, 64], Some(64)),
            (Kind::Writer, "down_proj".into(), Some(Axis::Columns))
        );
    }

    #[test]
    fn the_width_is_what_most_matrices_have() {
        let shapes: Vec<Vec<u64>> = vec![vec![64, 64], vec![96, 64], vec![64, 96], vec![500, 64], vec![64]];
        let all = shapes.iter().map(Vec::as_slice);
        assert_eq!(width(None, None, all.clone()), Some(64));
        assert_eq!(width(Some(7), Some(64), all.clone()), Some(64));
        assert_eq!(width(Some(64), None, all), Some(64));
        assert_eq!(width(Some(64), None, std::iter::empty()), Some(64));
    }
}
