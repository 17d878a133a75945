//! Row orders: where row r of the common layout lies in a stored matrix.

use std::sync::Arc;

use crate::limits::MAX_ORDERED_ROWS;

/// Row orders are shared between the tensors of many layers.
pub type RowOrder = Arc<[u32]>;

/// Rotary pairs against halves. The common layout has in each head of `head` rows the first half (real parts), then the
/// second; stored are pairs (real, imaginary), as llama.cpp's and Meta's rotary embedding wants them: llama.cpp
/// converts with `reshape(heads, 2, head / 2, …).swapaxes(1, 2)`.
pub fn rotary_pairs(rows: u64, head: u64) -> Option<RowOrder> {
    if head == 0 || !head.is_multiple_of(2) || rows == 0 || !rows.is_multiple_of(head) || rows > MAX_ORDERED_ROWS {
        return None;
    }
    let half = head / 2;
    let order = (0..rows).map(|row| {
        let (start, inside) = (row / head * head, row % head);
        (start + 2 * (inside % half) + inside / half) as u32
    });
    Some(order.collect())
}

/// Fused rows that are stored group by group, each group holding `widths[0]` rows of the first part, `widths[1]` of the
/// second and so on; the common layout has all of the first part, then all of the second.
pub fn grouped(rows: u64, groups: u64, widths: &[u64]) -> Option<RowOrder> {
    let group: u64 = widths.iter().try_fold(0u64, |sum, width| sum.checked_add(*width))?;
    if groups == 0 || group == 0 || group.checked_mul(groups)? != rows || rows > MAX_ORDERED_ROWS {
        return None;
    }
    let mut order = Vec::with_capacity(rows as usize);
    let mut start = 0;
    for width in widths {
        for at in 0..groups {
            order.extend((0..*width).map(|row| (at * group + start + row) as u32));
        }
        start += width;
    }
    Some(order.into())
}

/// Gate and up rows that alternate; the common layout has all of the gate first.
pub fn alternating(rows: u64) -> Option<RowOrder> {
    if !rows.is_multiple_of(2) || rows > MAX_ORDERED_ROWS {
        return None;
    }
    Some((0..rows).map(|row| (if row < rows / 2 { 2 * row } else { 2 * (row - rows / 2) + 1 }) as u32).collect())
}

/// Value heads of linear attention: the common layout lists them key head by key head, llama.cpp stores tiles (the
/// first value head of every key head, then the second). The first `before` rows are left alone.
pub fn tiled(rows: u64, before: u64, key_heads: u64, value_heads: u64, width: u64) -> Option<RowOrder> {
    if key_heads == 0 || rows > MAX_ORDERED_ROWS || !value_heads.is_multiple_of(key_heads) || value_heads == key_heads {
        return None;
    }
    if before.checked_add(value_heads.checked_mul(width)?)? != rows {
        return None;
    }
    let repeats = value_heads / key_heads;
    let values = (0..value_heads).flat_map(|head| {
        let stored = (head % repeats) * key_heads + head / repeats;
        (0..width).map(move |row| (before + stored * width + row) as u32)
    });
    Some((0..before).map(|row| row as u32).chain(values).collect())
}

/// The inverse, if the order is a permutation of `0..len`.
pub fn inverse(order: &[u32]) -> Option<Vec<u32>> {
    let mut inverse = vec![u32::MAX; order.len()];
    for (row, stored) in order.iter().enumerate() {
        let place = inverse.get_mut(*stored as usize)?;
        if *place != u32::MAX {
            return None;
        }
        *place = u32::try_from(row).ok()?;
    }
    Some(inverse)
}

/// The stored row of the second order for each stored row of the first: `second[first⁻¹[row]]`.
pub fn relative(first: Option<&[u32]>, second: Option<&[u32]>) -> Option<Relative> {
    let order: Vec<u32> = match (first, second) {
        (None, None) => return Some(Relative::Same),
        (None, Some(second)) => second.to_vec(),
        (Some(first), second) => {
            let inverse = inverse(first)?;
            match second {
                None => inverse,
                Some(second) => {
                    inverse.iter().map(|row| second.get(*row as usize).copied()).collect::<Option<Vec<u32>>>()?
                }
            }
        }
    };
    Some(if is_identity(&order) { Relative::Same } else { Relative::Order(order.into()) })
}

/// The relation of two orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relative {
    /// Row for row.
    Same,
    /// Through this order.
    Order(RowOrder),
}

/// Whether the order leaves everything in place.
pub fn is_identity(order: &[u32]) -> bool {
    order.iter().enumerate().all(|(row, stored)| row == *stored as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_pairs_undo_the_conversion() {
        // Two heads of four rows: stored row = what reshape(2, 2, 2).swapaxes(1, 2) makes of 0..8.
        let order = rotary_pairs(8, 4).unwrap();
        let stored_is: Vec<u32> = vec![0, 2, 1, 3, 4, 6, 5, 7];
        for (row, stored) in order.iter().enumerate() {
            assert_eq!(stored_is[*stored as usize] as usize, row);
        }
        assert_eq!(rotary_pairs(8, 3), None);
        assert_eq!(rotary_pairs(7, 4), None);
        assert_eq!(rotary_pairs(8, 0), None);
    }

    #[test]
    fn groups_are_gathered() {
        // Two groups of two queries, one key, one value, each one row wide.
        assert_eq!(*grouped(8, 2, &[2, 1, 1]).unwrap(), [0, 1, 4, 5, 2, 6, 3, 7]);
        assert_eq!(grouped(9, 2, &[2, 1, 1]), None);
        assert_eq!(*alternating(6).unwrap(), [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn tiles_are_untiled() {
        // Two key heads, four value heads of one row: heads (0,0) (0,1) (1,0) (1,1) are stored 0, 2, 1, 3.
        assert_eq!(*tiled(5, 1, 2, 4, 1).unwrap(), [0, 1, 3, 2, 4]);
        assert_eq!(tiled(4, 0, 2, 2, 2), None);
    }

    #[test]
    fn relations_compose() {
        let pairs = rotary_pairs(4, 4).unwrap();
        assert_eq!(relative(Some(&pairs), Some(&pairs)), Some(Relative::Same));
        assert_eq!(relative(None, Some(&pairs)), Some(Relative::Order(pairs.clone())));
        let Some(Relative::Order(back)) = relative(Some(&pairs), None) else { panic!() };
        for (row, stored) in pairs.iter().enumerate() {
            assert_eq!(back[*stored as usize] as usize, row);
        }
        assert_eq!(relative(Some(&[0, 0]), None), None);
    }
}
