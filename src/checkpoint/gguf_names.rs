//! What names of GGUF files say: parts of split files, and which quantisation a file is.

use crate::checkpoint::files::Written;
use crate::limits::MAX_FILES;

/// Whether a name ends like a GGUF file's.
pub(crate) fn is_gguf(name: &str) -> bool {
    Written::promised(name) == Some(Written::Gguf)
}

/// Whether a GGUF file goes with a model instead of being one.
pub(crate) fn is_companion(name: &str) -> bool {
    let file = base_name(name).to_ascii_lowercase();
    ["mmproj", "imatrix", "control-vector", "controlvector", "control_vector"].iter().any(|word| file.contains(word))
}

pub(crate) fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The stem, part number (from 1) and number of parts of a name like `model-00001-of-00003.gguf`.
pub(crate) fn split_part(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, _) = name.rsplit_once('.').filter(|_| is_gguf(name))?;
    let (rest, parts) = rest.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        let plain = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (part, parts) = (number(part)?, number(parts)?);
    (part >= 1 && part <= parts && parts as usize <= MAX_FILES).then_some((stem, part, parts))
}

/// The name of the given part of a split file, spelt as its siblings are.
pub(crate) fn part_name(stem: &str, part: u32, parts: u32) -> String {
    format!("{stem}-{part:05}-of-{parts:05}.gguf")
}

/// The quantisation a file's name states, in capitals (`Q4_K_M`, `IQ2_XXS`, `BF16`), if it states one: the last one.
pub(crate) fn quantization(name: &str) -> Option<String> {
    let stem = split_part(name).map_or(name, |(stem, _, _)| stem);
    let file = base_name(stem).to_ascii_uppercase();
    let mut starts: Vec<usize> = vec![0];
    starts.extend(file.match_indices(['-', '.', '_', ' ']).map(|(at, _)| at + 1));
    starts.into_iter().rev().find_map(|start| {
        let rest = file.get(start..)?;
        let end = rest.find(['-', '.', ' ']).unwrap_or(rest.len());
        let mut pieces = rest.get(..end)?.split('_');
        let head = pieces.next()?;
        if !is_quantization_head(head) {
            return None;
        }
        let mut found = head.replace("FP16", "F16").replace("FP32", "F32");
        for piece in pieces {
            if !["0", "1", "K", "S", "M", "L", "XL", "XS", "XXS", "NL", "P", "4", "8", "MOE"].contains(&piece) {
                break;
            }
            found.push('_');
            found.push_str(piece);
        }
        // `Q4` alone is more often a version or a quarter than a quantisation.
        let whole = found.contains('_') || !found.contains('Q');
        whole.then_some(found)
    })
}

fn is_quantization_head(head: &str) -> bool {
    if ["F16", "F32", "FP16", "FP32", "BF16", "MXFP4", "NVFP4"].contains(&head) {
        return true;
    }
    let digits = ["IQ", "TQ", "Q"].iter().find_map(|prefix| head.strip_prefix(prefix));
    digits.is_some_and(|digits| digits.len() == 1 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantisations_are_read_from_names() {
        for (name, expected) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("gemma-3-270m-q4_k_m.gguf", Some("Q4_K_M")),
            ("llama_3_8b_Q4_K_M.gguf", Some("Q4_K_M")),
            ("Model-UD-Q2_K_XL.gguf", Some("Q2_K_XL")),
            ("Q8_0/model-Q8_0-00001-of-00002.gguf", Some("Q8_0")),
            ("model.i1-IQ2_XXS.gguf", Some("IQ2_XXS")),
            ("model-F16.gguf", Some("F16")),
            ("model.bf16.gguf", Some("BF16")),
            ("gpt-oss-20b-mxfp4.gguf", Some("MXFP4")),
            ("gpt-oss-20b-MXFP4_MOE.gguf", Some("MXFP4_MOE")),
            ("Qwen3-Q4.gguf", None),
            ("model.gguf", None),
            ("é-00001-of-00002.gguf", None),
        ] {
            assert_eq!(quantization(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn parts_need_five_digits_and_a_number_within_the_count() {
        assert_eq!(split_part("a/b-00002-of-00003.gguf"), Some(("a/b", 2, 3)));
        for name in ["b-00000-of-00003.gguf", "b-00004-of-00003.gguf", "b-2-of-3.gguf", "b-00001-of-99999.gguf", "é"] {
            assert_eq!(split_part(name), None, "{name}");
        }
        assert_eq!(part_name("a/b", 2, 3), "a/b-00002-of-00003.gguf");
    }
}
