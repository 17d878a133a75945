//! Files by their names: the one list of the endings that weights bear, the one list of what bears such an ending and
//! is no model, and the small files that say what the weights are.

/// What writes weights into files, as far as their names tell; in the order in which they are looked at, the exact ones
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    /// By safetensors.
    Safetensors,
    /// By ggml.
    Gguf,
    /// By PyTorch, as a pickle.
    PyTorch,
}

impl Written {
    /// All of them, in that order.
    pub const ALL: [Self; 3] = [Self::Safetensors, Self::Gguf, Self::PyTorch];

    /// The format's name, and the endings of its files: without the dot and in lower case, the usual one first.
    const fn told(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Safetensors => ("safetensors", &["safetensors", "sft"]),
            Self::Gguf => ("gguf", &["gguf"]),
            Self::PyTorch => ("pytorch", &["bin", "pt", "pth", "ckpt"]),
        }
    }

    /// The format's name.
    pub const fn format(self) -> &'static str {
        self.told().0
    }

    /// The endings of its files, without the dot and in lower case; the first is the usual one.
    pub const fn endings(self) -> &'static [&'static str] {
        self.told().1
    }

    /// The usual ending.
    pub const fn ending(self) -> &'static str {
        match self.endings() {
            [usual, ..] => usual,
            [] => "",
        }
    }

    /// What the ending of a file's name promises, in letters of either case.
    pub fn promised(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        Self::ALL.into_iter().find(|one| one.endings().iter().any(|known| ending.eq_ignore_ascii_case(known)))
    }
}

/// Every ending of weights that are read.
pub fn endings() -> impl Iterator<Item = &'static str> {
    Written::ALL.into_iter().flat_map(|one| one.endings().iter().copied())
}

/// Whether a file may hold weights that are read, by its name's ending.
pub fn is_weights(name: &str) -> bool {
    Written::promised(name).is_some()
}

/// What bears an ending of weights and is no model.
struct Leftover {
    /// How the names begin.
    beginning: &'static str,
    /// The whole names under which trainers save it.
    names: &'static [&'static str],
}

const fn leftover(beginning: &'static str, names: &'static [&'static str]) -> Leftover {
    Leftover { beginning, names }
}

/// What trainers, tokenizers and quantisers leave beside a model, and parts of models that are none by themselves.
const NOT_A_MODEL: &[Leftover] = &[
    leftover("adapter_", &[]),
    leftover("optimizer", &["optimizer.pt", "optimizer.bin"]),
    leftover("scheduler", &["scheduler.pt"]),
    leftover("training_args", &["training_args.bin"]),
    leftover("rng_state", &["rng_state.pth"]),
    leftover("random_states", &[]),
    leftover("scaler", &[]),
    leftover("trainer_state", &[]),
    leftover("pytorch_lora_weights", &[]),
    leftover("tokenizer", &[]),
    leftover("value_head", &[]),
    leftover("imatrix", &[]),
];

fn base_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a weight file's name begins like that of something else than a model. It may be a model all the same, where
/// nothing else is there or where another file names it.
pub fn is_leftover(name: &str) -> bool {
    NOT_A_MODEL.iter().any(|one| base_of(name).starts_with(one.beginning))
}

/// Whether a file holds weights worth reading, by its name: one that is called exactly as trainers call what they save
/// beside a model is not, as the states of optimizers are twice as large as models. Names that merely begin so are
/// anyone's to give.
pub fn is_worth_reading(name: &str) -> bool {
    let base = base_of(name);
    is_weights(name) && !NOT_A_MODEL.iter().any(|one| one.names.contains(&base))
}

/// Whether a file says what the weights are and how they are used: a configuration, an index, a card, a template, a
/// vocabulary, code that comes with them.
pub fn is_small(name: &str) -> bool {
    const NAMES: &[&str] = &["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "merges.txt"];
    NAMES.contains(&base_of(name))
        || name
            .rsplit_once('.')
            .is_some_and(|(_, end)| ["json", "md", "py", "jinja"].iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// Names of adapters' files. Diffusers' own is not handled, but is not taken for anything else either.
pub(super) const ADAPTERS: [&str; 5] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapters.safetensors",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
];

/// What mlx-lm's trainer calls the states on its way, after their number.
const NUMBERED: &str = "_adapters.safetensors";

/// Whether a file of this name (without folders) holds an adapter.
pub fn is_adapter_file(base: &str) -> bool {
    ADAPTERS.contains(&base) || is_numbered(base)
}

/// Whether it is one of the states on the way of a training run of mlx-lm's.
pub fn is_numbered(base: &str) -> bool {
    base.strip_suffix(NUMBERED).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ending_is_of_two_formats_and_the_usual_one_is_the_first() {
        let mut seen = std::collections::BTreeSet::new();
        for one in Written::ALL {
            assert_eq!(one.endings().first(), Some(&one.ending()));
            assert!(super::super::FORMATS.iter().any(|format| format.name() == one.format()), "{one:?}");
            for ending in one.endings() {
                assert!(seen.insert(*ending), "{ending}");
                assert_eq!(*ending, ending.to_ascii_lowercase());
                for name in [format!("a/b.{ending}"), format!("b.{}", ending.to_ascii_uppercase())] {
                    assert_eq!(Written::promised(&name), Some(one), "{name}");
                }
            }
        }
        assert!(!is_weights("safetensors") && !is_weights("a.safetensors.md5") && !is_weights("é"));
    }

    #[test]
    fn what_trainers_leave_is_told_from_what_is_called_like_it() {
        for one in NOT_A_MODEL {
            assert!(is_leftover(&format!("a/{}.bin", one.beginning)));
            for name in one.names {
                assert!(is_weights(name) && is_leftover(name) && !is_worth_reading(name), "{name}");
                assert!(!is_worth_reading(&format!("checkpoint-5/{name}")), "{name}");
            }
        }
        for name in ["model.safetensors", "adapter_model.bin", "optimizer-1.safetensors", "x/tokenizer.bin"] {
            assert!(is_worth_reading(name), "{name}");
        }
        assert!(!is_leftover("model.safetensors") && !is_worth_reading("config.json"));
    }
}
