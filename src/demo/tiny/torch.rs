//! Tensors as a file of PyTorch's plain layout (`torch/serialization.py`, `_legacy_save`): five pickles, then the
//! storages.

use crate::tensor::DType;

/// One tensor: a view of a storage of its own.
pub struct NewView<'a> {
    /// Its name in the state dict.
    pub name: &'a str,
    /// `F32`, `F16` or `BF16`.
    pub dtype: &'static DType,
    /// Shape.
    pub shape: &'a [usize],
    /// Elements from one index of an axis to the next.
    pub strides: &'a [usize],
    /// Elements of the storage before the first one.
    pub offset: usize,
    /// The storage's bytes.
    pub storage: &'a [u8],
}

/// A state dict of these tensors as one file.
pub fn bytes(tensors: &[NewView<'_>]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(b"\x80\x02}");
    out.extend(text("little_endian"));
    out.extend(b"\x88s.\x80\x02}");
    for (key, tensor) in tensors.iter().enumerate() {
        let storage = match tensor.dtype.name {
            "F32" => "FloatStorage",
            "F16" => "HalfStorage",
            _ => "BFloat16Storage",
        };
        out.extend(text(tensor.name));
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.extend(text("storage"));
        out.extend(format!("ctorch\n{storage}\n").bytes());
        out.extend(text(&key.to_string()));
        out.extend(text("cpu"));
        out.extend(number(tensor.storage.len() / tensor.dtype.bytes));
        out.extend(b"NtQ");
        out.extend(number(tensor.offset));
        for sizes in [tensor.shape, tensor.strides] {
            out.push(b'(');
            sizes.iter().for_each(|size| out.extend(number(*size)));
            out.push(b't');
        }
        out.extend(b"\x89}tRs");
    }
    out.extend(b".\x80\x02](");
    (0..tensors.len()).for_each(|key| out.extend(text(&key.to_string())));
    out.extend(b"e.");
    for tensor in tensors {
        out.extend(((tensor.storage.len() / tensor.dtype.bytes) as u64).to_le_bytes());
        out.extend(tensor.storage);
    }
    out
}

fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A number below 2^31 as an opcode.
fn number(number: usize) -> Vec<u8> {
    [b"J".as_slice(), &(number as u32).to_le_bytes()].concat()
}
