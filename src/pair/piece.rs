//! A checkpoint taken apart into the matrices that are paired: one per tensor, per stacked expert, per fused part.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::order::{self, Relative, RowOrder};
use super::{Pair, Unpaired, View};
use crate::arch::{Axis, FusedGate, FusedQkv, Kind, NamingScheme, Parameter, ParameterKey, ResolvedArchitecture, Role};
use crate::checkpoint::Checkpoint;
use crate::limits::{MAX_STACK_PIECES, MAX_STACKED_EXPERTS};

/// A matrix in common orientation (output × input) and common row order, and where it lies in a stored tensor.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The stored tensor.
    pub tensor: String,
    /// The tensor's name, with the expert or fused part in brackets.
    pub name: String,
    /// Its role, the residual axis in common orientation.
    pub role: Role,
    /// Its identity across naming schemes.
    pub key: ParameterKey,
    /// First element in the stored tensor.
    pub offset: u64,
    /// Rows in common orientation; a vector is a column here and a row in its view.
    pub rows: u64,
    /// Columns in common orientation.
    pub columns: u64,
    /// A vector.
    pub vector: bool,
    /// Stored input × output.
    pub transposed: bool,
    /// Elements between stored rows, where it is a range of wider ones.
    pub stride: Option<u64>,
    /// Stored row of each row.
    pub order: Option<RowOrder>,
    /// Stored column of each column.
    pub column_order: Option<RowOrder>,
    /// What brings stored numbers to the common ones.
    pub shift: f32,
    /// Whether the table named it.
    pub known: bool,
    /// Why it cannot be paired, decided before matching.
    pub barred: Option<String>,
    /// Index of its tensor in its checkpoint's order, to tell when all pieces of one have been used.
    pub source: usize,
}

impl Piece {
    /// Rows `start .. start + rows` in common order, as a piece of its own under another slot.
    pub fn part(&self, start: u64, rows: u64, slot: &str) -> Option<Self> {
        let end = start.checked_add(rows)?;
        if end > self.rows || self.column_order.is_some() {
            return None;
        }
        let mut part = self.clone();
        part.rows = rows;
        let module = slot.rsplit('.').next().unwrap_or(slot);
        part.name = format!("{}[{module}]", self.name);
        part.role.module = module.to_owned();
        part.key.slot = slot.to_owned();
        let stored_rows = if self.transposed { self.stride.or(Some(self.rows)) } else { self.stride };
        part.stride = stored_rows.filter(|stride| !self.transposed || *stride != rows);
        let own: Option<Vec<u32>> = match &self.order {
            None => None,
            Some(order) => Some(order.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?.to_vec()),
        };
        let first = match &own {
            None => start,
            Some(order) => u64::from(*order.iter().min()?),
        };
        let step = if self.transposed { 1 } else { self.stride.unwrap_or(self.columns) };
        part.offset = self.offset.checked_add(first.checked_mul(step)?)?;
        part.order = own
            .map(|order| order.iter().map(|row| row - first as u32).collect::<Vec<u32>>())
            .filter(|order| !order::is_identity(order))
            .map(Arc::from);
        Some(part)
    }

    /// The piece as a view in common orientation; a vector stands upright.
    fn upright(&self) -> View {
        let mut view = View::whole(self.tensor.clone(), self.rows, self.columns);
        view.offset = self.offset;
        view.transposed = self.transposed;
        view.stride = self.stride;
        view.row_order = self.order.clone();
        view.shift = self.shift;
        view
    }

    /// The piece alone as a view in common orientation, a plain vector as one row.
    pub fn view(&self) -> View {
        let mut view = self.upright();
        if self.vector && self.is_plain() {
            (view.rows, view.columns) = (1, self.rows);
        }
        view
    }

    /// A bias on a writer to the residual stream, as a view; `None` for everything else.
    pub fn writer_bias(&self) -> Option<View> {
        let is_bias = self.role.kind == Kind::Bias && self.role.residual.is_some() && self.vector && self.is_plain();
        is_bias.then(|| self.view())
    }

    /// Whether its numbers follow on one another.
    fn is_plain(&self) -> bool {
        self.order.is_none() && self.stride.is_none() && !self.transposed
    }
}

/// Two pieces as a pair over their first `rows` rows; `None` when their layouts cannot be brought together.
pub fn join(base: &Piece, candidate: &Piece, rows: u64) -> Option<Pair> {
    let whole = base.rows == rows && candidate.rows == rows;
    let (mut base_view, mut candidate_view) = (base.upright(), candidate.upright());
    let mut residual = base.role.residual;
    let flip = |view: &mut View| {
        view.transposed = !view.transposed;
        (view.rows, view.columns) = (view.columns, view.rows);
    };
    let flipped =
        |residual: Option<Axis>| residual.map(|axis| if axis == Axis::Rows { Axis::Columns } else { Axis::Rows });
    let permuted = base.order.is_some() || candidate.order.is_some();
    let columns_permuted = base.column_order.is_some() || candidate.column_order.is_some();
    if !whole && (permuted || columns_permuted) {
        return None;
    }
    if columns_permuted {
        // Only rows of a view can be reordered: look at the matrix the other way round.
        if permuted || base.vector {
            return None;
        }
        flip(&mut base_view);
        flip(&mut candidate_view);
        residual = flipped(residual);
        match order::relative(base.column_order.as_deref(), candidate.column_order.as_deref())? {
            Relative::Same => {
                flip(&mut base_view);
                flip(&mut candidate_view);
                residual = flipped(residual);
            }
            Relative::Order(order) => candidate_view.row_order = Some(order),
        }
    } else if permuted {
        if base.order == candidate.order && base.rows == candidate.rows {
            (base_view.row_order, candidate_view.row_order) = (None, None);
        } else if let Some(relative) = order::relative(base.order.as_deref(), candidate.order.as_deref()) {
            base_view.row_order = None;
            candidate_view.row_order = match relative {
                Relative::Same => None,
                Relative::Order(order) => Some(order),
            };
        }
    }
    let as_stored = base_view.transposed && base_view.row_order.is_none() && candidate_view.row_order.is_none();
    if as_stored && whole {
        flip(&mut base_view);
        flip(&mut candidate_view);
        residual = flipped(residual);
    }
    if !whole {
        // The common leading rows of a resized embedding; a transposed one keeps its stored row length as stride.
        for (view, piece) in [(&mut base_view, base), (&mut candidate_view, candidate)] {
            if view.transposed {
                view.stride = view.stride.or(Some(piece.rows));
            }
            view.rows = rows;
        }
    }
    let lies_flat = |view: &View| view.row_order.is_none() && view.stride.is_none() && !view.transposed;
    if base.vector && lies_flat(&base_view) && lies_flat(&candidate_view) {
        for view in [&mut base_view, &mut candidate_view] {
            (view.rows, view.columns) = (1, rows);
        }
    }
    for view in [&mut base_view, &mut candidate_view] {
        let follows_on = if view.transposed { view.rows } else { view.columns };
        view.stride = view.stride.filter(|stride| *stride != follows_on);
    }
    candidate_view.shift -= base_view.shift;
    base_view.shift = 0.0;
    let mut role = base.role.clone();
    role.residual = residual;
    Some(Pair { name: base.name.clone(), role, base: base_view, candidate: candidate_view })
}

/// All pieces of a checkpoint, in the order of its names, and the tensors that are no matrices.
pub fn pieces(checkpoint: &Checkpoint, resolved: &ResolvedArchitecture) -> (Vec<Piece>, Vec<Unpaired>) {
    let mut pieces = Vec::with_capacity(checkpoint.tensors.len());
    let mut refused = Vec::new();
    let mut orders = Orders { resolved, cache: BTreeMap::new() };
    let mut slices = 0usize;
    for (source, (name, entry)) in checkpoint.tensors.iter().enumerate() {
        let Some(elements) = entry.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size)) else {
            refused.push(Unpaired {
                tensor: name.clone(),
                reason: "its shape has more elements than can be counted".into(),
                loaded: true,
            });
            continue;
        };
        let part = resolved.part(name, &entry.shape);
        let stack = part.stack.filter(|count| *count > 0 && *count <= MAX_STACKED_EXPERTS);
        let stack = stack.filter(|count| slices.saturating_add(*count as usize) <= MAX_STACK_PIECES);
        let inner = if stack.is_some() { entry.shape.get(1..).unwrap_or(&[]) } else { &entry.shape };
        let (rows, columns, vector) = match inner {
            [] => (1, 1, true),
            [length] => (*length, 1, true),
            [rows, rest @ ..] => (*rows, rest.iter().product(), false),
        };
        let transposed = part.input_first && !vector;
        let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
        let mut role = part.role;
        if transposed {
            role.residual = role.residual.map(|axis| if axis == Axis::Rows { Axis::Columns } else { Axis::Rows });
        }
        let mut piece = Piece {
            tensor: name.clone(),
            name: name.clone(),
            role,
            key: part.key,
            offset: 0,
            rows,
            columns,
            vector,
            transposed,
            stride: None,
            order: None,
            column_order: None,
            shift: 0.0,
            known: part.known,
            barred: None,
            source,
        };
        orders.lay_out(&mut piece);
        match stack {
            None => pieces.push(piece),
            Some(count) => {
                slices += count as usize;
                for expert in 0..count {
                    let mut slice = piece.clone();
                    slice.name = format!("{name}[{expert}]");
                    slice.offset = elements / u64::from(count) * u64::from(expert);
                    slice.role.expert = Some(expert);
                    slice.key.expert = Some(expert);
                    pieces.push(slice);
                }
            }
        }
    }
    (pieces, refused)
}

/// Row orders of one checkpoint, shared between layers.
struct Orders<'a> {
    resolved: &'a ResolvedArchitecture,
    cache: BTreeMap<(&'static str, u64), Option<RowOrder>>,
}

impl Orders<'_> {
    /// Sets what a naming scheme's layout differs in from the common one.
    fn lay_out(&mut self, piece: &mut Piece) {
        if !piece.known {
            return;
        }
        let resolved = self.resolved;
        let (row, facts, gguf) = (resolved.architecture, &resolved.facts, resolved.scheme == NamingScheme::Gguf);
        let rows = piece.rows;
        let slot = piece.key.slot.rsplit('.').next().unwrap_or_default().to_owned();
        let linear =
            piece.key.slot.starts_with("linear.") || (slot == "out_proj" && facts.linear_value_heads.is_some());
        let tiled = gguf && row.gguf.tiled_value_heads && linear;
        let (key_heads, value_heads) = (facts.linear_key_heads.unwrap_or(0), facts.linear_value_heads.unwrap_or(0));
        let (key_dim, value_dim) = (facts.linear_key_dim.unwrap_or(0), facts.linear_value_dim.unwrap_or(0));
        let before = key_heads.saturating_mul(key_dim).saturating_mul(2);
        piece.order = match slot.as_str() {
            "q_proj" | "k_proj" if resolved.scheme != NamingScheme::Modules && row.gguf.permuted_rotary => {
                let head = facts.head_dim.unwrap_or(0);
                self.cached("rotary", rows, || order::rotary_pairs(rows, head))
            }
            "qkv_proj" if !gguf => self.cached("qkv", rows, || qkv(resolved, rows)),
            "gate_up_proj" if !gguf && row.gate_up == FusedGate::Interleaved => {
                self.cached("gate", rows, || order::alternating(rows))
            }
            "in_proj_qkvz" => self.cached("qkvz", rows, || {
                let values = value_heads.checked_div(key_heads)?.checked_mul(value_dim)?;
                order::grouped(rows, key_heads, &[key_dim, key_dim, values, values])
            }),
            "in_proj_qkv" | "conv1d" if tiled => {
                self.cached("tiled-qkv", rows, || order::tiled(rows, before, key_heads, value_heads, value_dim))
            }
            "in_proj_z" if tiled => {
                self.cached("tiled-z", rows, || order::tiled(rows, 0, key_heads, value_heads, value_dim))
            }
            "in_proj_a" | "in_proj_b" | "dt_proj" if tiled => {
                self.cached("tiled-heads", rows, || order::tiled(rows, 0, key_heads, value_heads, 1))
            }
            _ => None,
        };
        if tiled && slot == "out_proj" {
            let columns = piece.columns;
            piece.column_order =
                self.cached("tiled-z", columns, || order::tiled(columns, 0, key_heads, value_heads, value_dim));
        }
        if gguf
            && piece.role.kind == Kind::Norm
            && piece.key.parameter == Parameter::Weight
            && piece.key.slot != "linear.norm"
        {
            piece.shift = -row.gguf.norm_shift;
        }
    }

    fn cached(&mut self, kind: &'static str, rows: u64, make: impl FnOnce() -> Option<RowOrder>) -> Option<RowOrder> {
        self.cache.entry((kind, rows)).or_insert_with(make).clone()
    }
}

/// The order of a fused query-key-value projection of that many rows.
fn qkv(resolved: &ResolvedArchitecture, rows: u64) -> Option<RowOrder> {
    let facts = &resolved.facts;
    let (heads, kv_heads, head) = (facts.heads?, facts.kv_heads?, facts.head_dim?);
    let per_head = || order::grouped(rows, heads, &[head, head, head]);
    let per_group = || {
        let queries = heads.checked_div(kv_heads)?.checked_mul(head)?;
        order::grouped(rows, kv_heads, &[queries, head, head])
    };
    match resolved.architecture.qkv {
        FusedQkv::Concatenated => None,
        FusedQkv::PerHead => per_head(),
        FusedQkv::PerGroup => per_group(),
        FusedQkv::Falcon if facts.grouped_qkv == Some(true) => per_group(),
        FusedQkv::Falcon if facts.multi_query == Some(true) => None,
        FusedQkv::Falcon => per_head(),
    }
}
