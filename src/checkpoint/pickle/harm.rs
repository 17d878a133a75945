//! Imports that are of no use but to do something on loading, told from a trainer's own classes.

use crate::checkpoint::Anomaly;

/// Modules that hand out commands, files, the network, other code or a second unpickling. No trainer's leftovers need
/// them. A part of a longer path counts as well: many modules carry these as attributes (`torch.serialization.os`).
const MODULES: &[&str] = &[
    "_posixsubprocess",
    "_socket",
    "_winapi",
    "ctypes",
    "ftplib",
    "importlib",
    "marshal",
    "nt",
    "os",
    "pip",
    "posix",
    "pty",
    "runpy",
    "shutil",
    "smtplib",
    "socket",
    "subprocess",
    "sys",
    "telnetlib",
    "webbrowser",
];

/// Modules of that kind whose names are common words, so that only a path that begins with them counts.
const MODULES_AT_THE_TOP: &[&str] = &[
    "_operator",
    "_pickle",
    "_thread",
    "asyncio",
    "bdb",
    "cProfile",
    "cloudpickle",
    "code",
    "codeop",
    "commands",
    "dill",
    "distutils",
    "doctest",
    "ensurepip",
    "http",
    "imp",
    "joblib",
    "multiprocessing",
    "operator",
    "pdb",
    "pickle",
    "pkgutil",
    "platform",
    "popen2",
    "profile",
    "pydoc",
    "requests",
    "setuptools",
    "signal",
    "ssl",
    "tempfile",
    "threading",
    "timeit",
    "trace",
    "types",
    "urllib",
    "urllib2",
    "venv",
    "zipimport",
];

/// Functions of that kind, by the last part of their path.
const FUNCTIONS: &[&str] = &[
    "__import__",
    "_load_from_bytes",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "execfile",
    "globals",
    "load",
    "load_module",
    "loads",
    "locals",
    "open",
    "popen",
    "setattr",
    "system",
    "vars",
];

/// Whether an import is of no use but to do something on loading, in whatever file it stands. Not among them is
/// `getattr`: Python 3.11 writes every member of an enumeration with it, so most training arguments of its time have
/// it.
fn is_harmful(import: &str) -> bool {
    let first = import.split('.').next().unwrap_or_default();
    let last = import.rsplit('.').next().unwrap_or_default();
    MODULES_AT_THE_TOP.contains(&first)
        || import.split('.').any(|part| MODULES.contains(&part))
        || FUNCTIONS.contains(&last)
}

/// Whether an anomaly `code-on-load` speaks, in the quotes of its sentence, of an import that only does harm.
pub fn only_does_harm(anomaly: &Anomaly) -> bool {
    is_harmful(anomaly.detail.split('"').nth(1).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_that_only_do_harm_are_told_from_a_trainers_own() {
        for import in [
            "posix.system",
            "os.system",
            "nt.system",
            "subprocess.Popen",
            "builtins.eval",
            "builtins.exec",
            "__builtin__.open",
            "runpy.run_path",
            "socket.create_connection",
            "importlib.import_module",
            "torch.serialization.os.system",
            "torch.storage._load_from_bytes",
            "torch.load",
            "operator.attrgetter",
            "sys.modules",
            "pip.main",
            "webbrowser.open",
        ] {
            assert!(is_harmful(import), "{import}");
        }
        for import in [
            "transformers.training_args.TrainingArguments",
            "transformers.trainer_utils.IntervalStrategy",
            "accelerate.state.PartialState",
            "accelerate.utils.dataclasses.DistributedType",
            "numpy.core.multiarray._reconstruct",
            "numpy.dtype",
            "pathlib.PosixPath",
            "torch.device",
            "trl.trainer.dpo_config.DPOConfig",
            "__builtin__.getattr",
            "functools.partial",
            "datetime.timedelta",
        ] {
            assert!(!is_harmful(import), "{import}");
        }
    }
}
