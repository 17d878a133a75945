//! Finds the tensors that a pickle describes, and where in the file their numbers lie.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::machine::{Id, Node, Pickle};
use super::strided::Strided;
use crate::checkpoint::assembly::{Assembly, FilePart};
use crate::checkpoint::collect::{kept_name, shown};
use crate::checkpoint::{AnomalyKind, Storage, TensorEntry, anomaly, unknown_dtype};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    MAX_DEPTH, MAX_DIMENSIONS, MAX_NAMES_BYTES, MAX_PICKLE_NODES, MAX_STORAGE_KEY_BYTES, MAX_STORAGE_REPEATS,
};
use crate::tensor::{self, DType};

/// Where the storages of one file lie.
#[derive(Default)]
pub(crate) struct Storages {
    /// Key to bytes in the file, or why they cannot be read as they are.
    pub by_key: BTreeMap<String, Result<Range<u64>, String>>,
    /// Why none of them can be read, if so.
    pub unreadable: Option<String>,
}

/// Names that loading a plain state dict imports. All of them only build tensors and containers.
const REBUILDING: &[(&str, &[&str])] = &[
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            "_rebuild_qtensor",
            "_rebuild_sparse_tensor",
            "_rebuild_meta_tensor_no_storage",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.nn.parameter", &["Parameter", "Buffer"]),
    ("torch.storage", &["TypedStorage", "UntypedStorage"]),
    ("torch.serialization", &["_get_layout"]),
    ("torch", &["Tensor", "Size", "device", "dtype"]),
    ("collections", &["OrderedDict", "Counter", "defaultdict"]),
    ("_codecs", &["encode"]),
    ("builtins", &["set", "frozenset", "bytearray", "complex", "dict", "list", "tuple", "int", "float", "str", "bool"]),
    (
        "__builtin__",
        &["set", "frozenset", "bytearray", "complex", "dict", "list", "tuple", "int", "float", "str", "bool"],
    ),
];

/// Whether an import belongs to rebuilding tensors. (`torch.storage._load_from_bytes` does not: it unpickles again.)
pub(crate) fn rebuilds_tensors(module: &str, name: &str) -> bool {
    let listed = REBUILDING.iter().any(|(known, names)| *known == module && names.contains(&name));
    let torch =
        module == "torch" && (storage_dtype(name).is_some() || torch_dtype(name).is_some() || other_torch(name));
    listed || torch
}

/// Storage types and dtypes of `torch` whose numbers are not read.
fn other_torch(name: &str) -> bool {
    matches!(
        name,
        "ComplexFloatStorage"
            | "ComplexDoubleStorage"
            | "QInt8Storage"
            | "QUInt8Storage"
            | "QInt32Storage"
            | "QUInt4x2Storage"
            | "QUInt2x4Storage"
            | "UntypedStorage"
            | "complex32"
            | "complex64"
            | "complex128"
            | "qint8"
            | "quint8"
            | "qint32"
            | "strided"
            | "per_tensor_affine"
            | "per_channel_affine"
    )
}

/// The dtype of a typed storage.
fn storage_dtype(name: &str) -> Option<&'static DType> {
    Some(match name {
        "FloatStorage" => &tensor::F32,
        "DoubleStorage" => &tensor::F64,
        "HalfStorage" => &tensor::F16,
        "BFloat16Storage" => &tensor::BF16,
        "LongStorage" => &tensor::I64,
        "IntStorage" => &tensor::I32,
        "ShortStorage" => &tensor::I16,
        "CharStorage" => &tensor::I8,
        "ByteStorage" => &tensor::U8,
        "BoolStorage" => &tensor::BOOL,
        _ => return None,
    })
}

/// The dtype of a `torch.NAME` as newer files give it beside an untyped storage.
fn torch_dtype(name: &str) -> Option<&'static DType> {
    Some(match name {
        "float32" | "float" => &tensor::F32,
        "float64" | "double" => &tensor::F64,
        "float16" | "half" => &tensor::F16,
        "bfloat16" => &tensor::BF16,
        "float8_e4m3fn" => &tensor::F8_E4M3,
        "float8_e5m2" => &tensor::F8_E5M2,
        "float8_e4m3fnuz" => &tensor::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => &tensor::F8_E5M2FNUZ,
        "float8_e8m0fnu" => &tensor::F8_E8M0,
        "int64" | "long" => &tensor::I64,
        "int32" | "int" => &tensor::I32,
        "int16" | "short" => &tensor::I16,
        "int8" => &tensor::I8,
        "uint64" => &tensor::U64,
        "uint32" => &tensor::U32,
        "uint16" => &tensor::U16,
        "uint8" => &tensor::U8,
        "bool" => &tensor::BOOL,
        _ => return None,
    })
}

/// The value of a text key in the root dictionary.
pub(crate) fn field(pickle: &Pickle, name: &str) -> Option<Id> {
    let Node::Dict(pairs) = pickle.node(pickle.root?) else { return None };
    pairs.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name)).map(|(_, value)| *value)
}

/// The texts in the root list. One text may be in it any number of times, so none is copied.
pub(crate) fn texts(pickle: &Pickle) -> Vec<&str> {
    match pickle.root.map(|root| pickle.node(root)) {
        Some(Node::List(items)) => items.iter().filter_map(|id| pickle.text(*id)).collect(),
        _ => Vec::new(),
    }
}

/// A storage as a pickle refers to it: `('storage', type, key, location, count, …)`.
struct Reference<'a> {
    key: &'a str,
    dtype: Option<&'static DType>,
    type_name: &'a str,
    count: u64,
    /// Where a legacy view begins in its storage, in elements.
    view_offset: u64,
}

fn reference(pickle: &Pickle, id: Id) -> Option<Reference<'_>> {
    let Node::Persistent(inner) = pickle.node(id) else { return None };
    let items = pickle.tuple(*inner)?;
    if pickle.text(*items.first()?) != Some("storage") {
        return None;
    }
    let import = pickle.import(*items.get(1)?)?;
    let key = pickle.text(*items.get(2)?).filter(|key| key.len() <= MAX_STORAGE_KEY_BYTES)?;
    let count = u64::try_from(pickle.number(*items.get(4)?)?).ok()?;
    let view = items.get(5).and_then(|view| pickle.tuple(*view)).and_then(|view| view.get(1).copied());
    let view_offset = view.and_then(|view| pickle.number(view)).and_then(|offset| u64::try_from(offset).ok());
    Some(Reference {
        key,
        dtype: storage_dtype(&import.name),
        type_name: &import.name,
        count,
        view_offset: view_offset.unwrap_or(0),
    })
}

/// Bytes of one element of every storage that the pickle refers to.
pub(crate) fn storage_element_bytes(pickle: &Pickle) -> BTreeMap<&str, u64> {
    let references = (0..pickle.nodes.len()).filter_map(|id| reference(pickle, id));
    references
        .filter_map(|found| {
            let bytes = match found.type_name {
                "UntypedStorage" => 1,
                "ComplexFloatStorage" => 8,
                "ComplexDoubleStorage" => 16,
                "QInt8Storage" | "QUInt8Storage" => 1,
                "QInt32Storage" => 4,
                _ => found.dtype?.bytes as u64,
            };
            Some((found.key, bytes))
        })
        .collect()
}

/// Dictionaries that hold the weights of a training checkpoint, beside the optimizer's state and the like.
const INNER: &[&str] = &["state_dict", "model_state_dict", "model", "module", "weights", "params"];

/// Puts every tensor that the pickle describes on the list.
pub(crate) fn add(assembly: &mut Assembly, part: &FilePart<'_>, pickle: &Pickle, storages: &Storages) -> Result<()> {
    // A broken pickle returned nothing, but the largest dictionary it built is what a reader wants to see.
    let root = pickle.root.or_else(|| {
        let length = |id: &Id| if let Node::Dict(pairs) = pickle.node(*id) { pairs.len() } else { 0 };
        (0..pickle.nodes.len()).max_by_key(length).filter(|id| length(id) > 0)
    });
    let Some(mut root) = root else { return Ok(()) };
    for _ in 0..4 {
        let Node::Dict(pairs) = pickle.node(root) else { break };
        // Loaders take the outermost names: what lies deeper beside weights is no model to them, and may be a decoy.
        let is_weight = |(key, value): &(Id, Id)| {
            pickle.text(*key).is_some_and(|name| name.contains('.')) && matches!(pickle.node(*value), Node::Call(..))
        };
        if pairs.iter().any(is_weight) {
            break;
        }
        let inner = INNER.iter().find_map(|name| {
            let found = pairs.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name))?.1;
            matches!(pickle.node(found), Node::Dict(_)).then_some(found)
        });
        match inner {
            Some(inner) => root = inner,
            None => break,
        }
    }
    let mut walk = Walk { assembly, part, pickle, storages, file: 0, visited: 0, name_bytes: 0, open: BTreeSet::new() };
    walk.file = walk.assembly.files.len().saturating_sub(1);
    walk.visit(root, "", 0)
}

fn may_hold_tensors(pickle: &Pickle, id: Id) -> bool {
    matches!(pickle.node(id), Node::Call(..) | Node::Dict(_) | Node::List(_) | Node::Tuple(_))
}

struct Walk<'a, 'b> {
    assembly: &'a mut Assembly,
    part: &'a FilePart<'b>,
    pickle: &'a Pickle,
    storages: &'a Storages,
    file: usize,
    visited: usize,
    /// Bytes of the names made so far, before they are cut.
    name_bytes: usize,
    /// Containers on the way down, so that a cycle ends.
    open: BTreeSet<Id>,
}

impl Walk<'_, '_> {
    fn visit(&mut self, id: Id, name: &str, depth: usize) -> Result<()> {
        self.visited += 1;
        if self.visited > MAX_PICKLE_NODES {
            let what = "its containers hold one another too many times over";
            return Err(Error::new(ErrorKind::TooLarge, format!("reading the pickle in {}: {what}", self.part.name)));
        }
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::Call(..) => return self.tensor(id, name),
            Node::Dict(_) | Node::List(_) | Node::Tuple(_) => {}
            _ => return Ok(()),
        }
        // What a circle comes back to is read where it began; what lies too deep is not read.
        let circle = !self.open.insert(id);
        if circle || depth >= MAX_DEPTH {
            let what = "containers nested too deep or in a circle";
            self.assembly.anomalies.tensor(anomaly::DEEP_NESTING, self.part.name, name, what);
            if circle {
                return Ok(());
            }
            self.open.remove(&id);
            let entry = TensorEntry { storage: Storage::Unreadable(what.to_owned()), ..self.blank(name) };
            return self.assembly.insert(self.part.name, name, entry);
        }
        match pickle.node(id) {
            Node::Dict(pairs) => {
                for (key, child) in pairs.iter().filter(|(_, child)| may_hold_tensors(pickle, *child)) {
                    match pickle.node(*key) {
                        Node::Text(text) => self.child(*child, name, text, depth)?,
                        Node::Number(number) => self.child(*child, name, &number.to_string(), depth)?,
                        _ => {}
                    }
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                for (number, child) in items.iter().enumerate().filter(|(_, child)| may_hold_tensors(pickle, **child)) {
                    self.child(*child, name, &number.to_string(), depth)?;
                }
            }
            _ => {}
        }
        self.open.remove(&id);
        Ok(())
    }

    /// Visits what a container holds under a key. Names are made one at a time and counted: one text can be the key of
    /// any number of values.
    fn child(&mut self, id: Id, above: &str, key: &str, depth: usize) -> Result<()> {
        self.name_bytes = self.name_bytes.saturating_add(above.len()).saturating_add(key.len());
        if self.name_bytes > MAX_NAMES_BYTES {
            let what = format!("the names in it have more than {MAX_NAMES_BYTES} bytes");
            return Err(Error::new(ErrorKind::TooLarge, format!("reading the pickle in {}: {what}", self.part.name)));
        }
        let name = if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") };
        self.visit(id, &name, depth + 1)
    }

    /// An entry of which nothing is known but its name.
    fn blank(&self, name: &str) -> TensorEntry {
        TensorEntry {
            name: kept_name(name),
            dtype: unknown_dtype(),
            shape: vec![0],
            file: self.file,
            range: 0..0,
            storage: Storage::Plain,
        }
    }

    /// Lists one call if it is one that makes a tensor.
    fn tensor(&mut self, id: Id, name: &str) -> Result<()> {
        let Some(call) = self.unwrapped(id) else { return Ok(()) };
        let mut entry = self.blank(name);
        if let Err((kind, reason)) = self.fill(&call, &mut entry) {
            self.assembly.anomalies.tensor(kind, self.part.name, name, reason.clone());
            entry.storage = Storage::Unreadable(reason);
        }
        self.assembly.insert(self.part.name, name, entry)
    }

    /// The function's name and arguments of a call that makes a tensor, without parameter and subclass wrappers.
    fn unwrapped(&self, mut id: Id) -> Option<(String, Vec<Id>)> {
        for _ in 0..8 {
            let Node::Call(function, arguments) = self.pickle.node(id) else { return None };
            let import = self.pickle.import(*function)?;
            let arguments = self.pickle.tuple(*arguments)?;
            match (import.module.as_str(), import.name.as_str()) {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
                | ("torch.nn.parameter", "Parameter" | "Buffer") => id = *arguments.first()?,
                ("torch._tensor", "_rebuild_from_type_v2") => {
                    let inner = self.pickle.import(*arguments.first()?)?;
                    let inner_arguments = self.pickle.tuple(*arguments.get(2)?)?;
                    return Some((inner.name.clone(), inner_arguments.to_vec()));
                }
                ("torch._utils", name) if name.starts_with("_rebuild_") => {
                    return Some((name.to_owned(), arguments.to_vec()));
                }
                _ => return None,
            }
        }
        None
    }

    /// Fills in what a call says of the tensor that it makes, as far as it can be followed.
    fn fill(&self, (function, arguments): &(String, Vec<Id>), entry: &mut TensorEntry) -> Result<(), Refusal> {
        if !matches!(function.as_str(), "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") {
            return Err((anomaly::UNKNOWN_LAYOUT, format!("it is made by {}, which is not read", shown(function))));
        }
        let arguments = Arguments { pickle: self.pickle, ids: arguments };
        let (shape, strides) = (arguments.numbers(2, "shape")?, arguments.numbers(3, "strides")?);
        let elements = shape.iter().filter(|size| **size > 0).try_fold(1u64, |p, size| p.checked_mul(*size));
        if elements.is_none() || strides.len() != shape.len() {
            return Err((anomaly::SHAPE_OVERFLOW, format!("its shape {shape:?} and strides {strides:?} cannot be")));
        }
        entry.shape = shape;
        let found = arguments.storage()?;
        entry.dtype = arguments.dtype(function, &found)?;
        let offset = arguments.offset(&found)?;
        let storage = self.storage(found.key)?;
        if entry.shape.contains(&0) {
            entry.range = storage.start..storage.start;
            return Ok(());
        }
        let bytes = entry.dtype.bytes as u64;
        // Legacy files count the whole storage, newer ones may count bytes: too few of either is a lie.
        let range = extent(&entry.shape, &strides, offset, bytes, &storage).filter(|_| found.count > 0);
        entry.range = range.ok_or_else(|| {
            let (offset, shape) = (offset.unwrap_or(u64::MAX), &entry.shape);
            let what =
                format!("shape {shape:?} and strides {strides:?} from element {offset} on pass the end of its storage");
            (anomaly::OUTSIDE_STORAGE, what)
        })?;
        if in_a_row(&entry.shape, &strides) {
            return Ok(());
        }
        // A view that repeats its storage (stride 0) may claim any size.
        let stored = (storage.end - storage.start) / bytes;
        if elements.is_some_and(|elements| elements > stored.saturating_mul(MAX_STORAGE_REPEATS)) {
            let what = format!("it repeats {stored} stored numbers to shape {:?}", entry.shape);
            return Err((anomaly::REPEATED_STORAGE, what));
        }
        entry.storage = Storage::Packed(Arc::new(Strided {
            source: Arc::clone(self.part.source),
            range: entry.range.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            strides,
        }));
        Ok(())
    }

    /// Where the storage of a key lies in the file.
    fn storage(&self, key: &str) -> Result<Range<u64>, Refusal> {
        if let Some(reason) = &self.storages.unreadable {
            return Err((anomaly::UNREADABLE_STORAGE, reason.clone()));
        }
        match self.storages.by_key.get(key) {
            Some(Ok(range)) => Ok(range.clone()),
            Some(Err(reason)) => Err((anomaly::UNREADABLE_STORAGE, reason.clone())),
            None => Err((anomaly::MISSING_STORAGE, format!("its storage {} is not in the file", shown(key)))),
        }
    }
}

/// Why a tensor is not read.
type Refusal = (AnomalyKind, String);

/// The arguments of a call that makes a tensor: storage, offset, shape, strides, and for the newest kind a dtype.
struct Arguments<'a> {
    pickle: &'a Pickle,
    ids: &'a [Id],
}

impl<'a> Arguments<'a> {
    fn at(&self, place: usize) -> Option<Id> {
        self.ids.get(place).copied()
    }

    fn numbers(&self, place: usize, what: &str) -> Result<Vec<u64>, Refusal> {
        let items = self.at(place).and_then(|id| self.pickle.tuple(id)).ok_or_else(|| missing(what))?;
        if items.len() > MAX_DIMENSIONS {
            return Err((anomaly::BAD_DESCRIPTION, format!("it has {} dimensions", items.len())));
        }
        let number = |id: &Id| self.pickle.number(*id).and_then(|number| u64::try_from(number).ok());
        items.iter().map(number).collect::<Option<_>>().ok_or_else(|| missing(what))
    }

    fn storage(&self) -> Result<Reference<'a>, Refusal> {
        self.at(0).and_then(|id| reference(self.pickle, id)).ok_or_else(|| missing("storage"))
    }

    /// The dtype: the newest kind of call names it, for the others it is the storage's.
    fn dtype(&self, function: &str, storage: &Reference<'_>) -> Result<&'static DType, Refusal> {
        let dtype = if function == "_rebuild_tensor_v3" {
            let import = self.at(6).and_then(|id| self.pickle.import(id));
            import.filter(|import| import.module == "torch").and_then(|import| torch_dtype(&import.name))
        } else {
            storage.dtype
        };
        dtype.ok_or_else(|| (anomaly::UNKNOWN_DTYPE, format!("its storage is {}", shown(storage.type_name))))
    }

    /// The first element's place in its storage, in elements; none where that is more than can be counted.
    fn offset(&self, storage: &Reference<'_>) -> Result<Option<u64>, Refusal> {
        let offset = self.at(1).and_then(|id| self.pickle.number(id)).and_then(|offset| u64::try_from(offset).ok());
        Ok(offset.ok_or_else(|| missing("offset"))?.checked_add(storage.view_offset))
    }
}

fn missing(what: &str) -> Refusal {
    (anomaly::BAD_DESCRIPTION, format!("its {what} is missing or no number"))
}

/// The bytes of the file from a view's first element to its last one, where they are inside its storage.
fn extent(shape: &[u64], strides: &[u64], offset: Option<u64>, bytes: u64, storage: &Range<u64>) -> Option<Range<u64>> {
    // The last element's place, counted from the first one's.
    let span = shape
        .iter()
        .zip(strides)
        .try_fold(0u64, |sum, (size, stride)| sum.checked_add((size - 1).checked_mul(*stride)?))?;
    let place = |elements: u64| elements.checked_mul(bytes)?.checked_add(storage.start);
    let start = place(offset?)?;
    let end = place(offset?.checked_add(span)?.checked_add(1)?)?;
    (end <= storage.end).then_some(start..end)
}

/// Whether the strides are those of a row-major tensor without gaps.
fn in_a_row(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    for (size, stride) in shape.iter().zip(strides).rev() {
        if *size != 1 && *stride != expected {
            return false;
        }
        expected = expected.saturating_mul(*size);
    }
    true
}
