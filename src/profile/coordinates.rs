//! The systems of coordinates that a removed direction is looked for in.

use std::ops::{Index, IndexMut};

/// How the rows of a writer W stand when a removed direction is looked for in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// As they are: W.
    Raw,
    /// Divided by their norms: D⁻¹W.
    RowNormalised,
}

impl Coordinates {
    /// Each, in the order in which they are tried.
    pub const ALL: [Self; 2] = [Self::Raw, Self::RowNormalised];

    /// Its word in reports, JSON and the index.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::RowNormalised => "row-normalised",
        }
    }

    /// The number that a profile holds for it, in which there are numbers only.
    pub const fn as_number(self) -> f64 {
        match self {
            Self::Raw => 0.0,
            Self::RowNormalised => 1.0,
        }
    }

    /// The coordinates that a profile's number stands for.
    pub fn of_number(number: f64) -> Self {
        if number > 0.5 { Self::RowNormalised } else { Self::Raw }
    }
}

/// One thing for each system of coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByCoordinates<T> {
    /// That of the rows as they are.
    pub raw: T,
    /// That of the rows divided by their norms.
    pub row_normalised: T,
}

impl<T> ByCoordinates<T> {
    /// What `of` gives for each.
    pub fn new(mut of: impl FnMut(Coordinates) -> T) -> Self {
        Self { raw: of(Coordinates::Raw), row_normalised: of(Coordinates::RowNormalised) }
    }

    /// Both, in the order of [`Coordinates::ALL`].
    pub fn both(&self) -> [&T; 2] {
        Coordinates::ALL.map(|coordinates| &self[coordinates])
    }
}

impl<T> Index<Coordinates> for ByCoordinates<T> {
    type Output = T;
    fn index(&self, coordinates: Coordinates) -> &T {
        match coordinates {
            Coordinates::Raw => &self.raw,
            Coordinates::RowNormalised => &self.row_normalised,
        }
    }
}

impl<T> IndexMut<Coordinates> for ByCoordinates<T> {
    fn index_mut(&mut self, coordinates: Coordinates) -> &mut T {
        match coordinates {
            Coordinates::Raw => &mut self.raw,
            Coordinates::RowNormalised => &mut self.row_normalised,
        }
    }
}
