//! Where a stored piece of a parameter lies in the whole of it, and what two pieces share.
//!
//! A piece is some elements, in row order, of a box of rows and columns. So it means the same to every
//! layout, and a rank finds what it needs in whatever pieces another layout wrote. Geometry only: nothing in
//! here touches a file or a tensor.

use crate::shape::Parameter;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A piece of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Rows and columns of the whole parameter; a vector is one column.
    shape: [i64; 2],
    rows: Range<i64>,
    columns: Range<i64>,
    /// Which elements of the box, counted row by row.
    range: Range<i64>,
}

/// Elements that lie side by side both in the whole parameter and in a piece of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first one, counted row by row in the whole parameter.
    pub whole: i64,
    /// The same in the piece.
    pub local: i64,
    /// How many.
    pub length: i64,
}

/// Elements that lie side by side in two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The first one, counted in the piece it is taken from.
    pub from: i64,
    /// The same in the piece it goes to.
    pub to: i64,
    /// How many.
    pub length: i64,
}

impl Slice {
    /// These elements of the part of `parameter` that member `index` of a tensor group of `size` holds.
    pub fn of(parameter: &Parameter, (index, size): (u32, u32), range: Range<i64>) -> Self {
        let (rows, columns) = parameter.part(index, size);
        Self {
            shape: [
                parameter.shape[0],
                parameter.shape.get(1).copied().unwrap_or(1),
            ],
            rows,
            columns,
            range,
        }
    }

    /// All of `parameter`.
    pub fn whole(parameter: &Parameter) -> Self {
        Self::of(parameter, (0, 1), 0..parameter.shape.iter().product())
    }

    /// Elements of the piece.
    pub const fn len(&self) -> i64 {
        self.range.end - self.range.start
    }

    /// Whether it holds nothing.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it lies inside its parameter, and that has this shape.
    pub fn fits(&self, other: &Self) -> bool {
        let inside = |part: &Range<i64>, of: &Range<i64>| {
            of.start <= part.start && part.start <= part.end && part.end <= of.end
        };
        let [rows, columns] = self.shape;
        self.shape == other.shape
            && inside(&self.rows, &(0..rows))
            && inside(&self.columns, &(0..columns))
            && inside(&self.range, &(0..self.elements_of_box()))
    }

    const fn elements_of_box(&self) -> i64 {
        (self.rows.end - self.rows.start) * (self.columns.end - self.columns.start)
    }

    /// Its elements in ascending order; neighbouring rows are one where the box is as wide as the
    /// parameter.
    pub fn stretches(&self) -> Vec<Stretch> {
        if self.is_empty() {
            return Vec::new();
        }
        let [_, all] = self.shape;
        let width = self.columns.end - self.columns.start;
        if width == all {
            return vec![Stretch {
                whole: self.rows.start * all + self.range.start,
                local: 0,
                length: self.len(),
            }];
        }
        let rows = self.range.start / width..=(self.range.end - 1) / width;
        rows.map(|row| {
            let from = self.range.start.max(row * width);
            let end = self.range.end.min((row + 1) * width);
            Stretch {
                whole: (self.rows.start + row) * all + self.columns.start + from - row * width,
                local: from - self.range.start,
                length: end - from,
            }
        })
        .collect()
    }
}

/// What of `lacking` (ascending) the piece `source` holds; that is lacking no more. Ascending in both pieces.
pub fn take(lacking: &mut Vec<Stretch>, source: &Slice) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    let mut left = Vec::new();
    let held = source.stretches();
    let mut held = held.iter().peekable();
    for &wanted in lacking.iter() {
        let (mut at, end) = (wanted.whole, wanted.whole + wanted.length);
        let local = |whole: i64| wanted.local + whole - wanted.whole;
        while at < end {
            while held.next_if(|h| h.whole + h.length <= at).is_some() {}
            let next = held.peek().filter(|h| h.whole < end);
            let found = next.map_or(end, |h| h.whole.max(at));
            if at < found {
                left.push(Stretch {
                    whole: at,
                    local: local(at),
                    length: found - at,
                });
                at = found;
            }
            let Some(h) = next else { break };
            let until = end.min(h.whole + h.length);
            let (from, to, length) = (h.local + at - h.whole, local(at), until - at);
            match moves.last_mut() {
                Some(m) if m.from + m.length == from && m.to + m.length == to => m.length += length,
                Some(_) | None => moves.push(Move { from, to, length }),
            }
            at = until;
        }
    }
    *lacking = left;
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Stage;
    use rebloom_core::spec::Model;

    const MODEL: Model = Model {
        layers: 1,
        hidden: 12,
        heads: 6,
        vocab: 36,
        sequence: 4,
        residual_after_layernorm: false,
    };

    /// Pieces of `parameter` as `tensor` ranks and `data` ranks would write them, with odd cuts.
    fn cut(parameter: &Parameter, tensor: u32, data: i64) -> Vec<Slice> {
        let mut pieces = Vec::new();
        for index in 0..tensor {
            let elements: i64 = parameter.part_shape(index, tensor).iter().product();
            let each = elements / data + 1;
            for part in 0..data {
                let range = (part * each).min(elements)..((part + 1) * each).min(elements);
                pieces.push(Slice::of(parameter, (index, tensor), range));
            }
        }
        pieces
    }

    /// The elements of a piece by their number in the whole parameter.
    fn values(piece: &Slice) -> Vec<i64> {
        let all = piece.stretches();
        all.iter()
            .flat_map(|s| s.whole..s.whole + s.length)
            .collect()
    }

    #[test]
    fn every_layout_finds_every_element_in_every_other() {
        for parameter in Stage::of(&MODEL, 1, 0).parameters(&MODEL) {
            for (tensor, data) in [(1, 1), (2, 3), (3, 2), (6, 1), (1, 5)] {
                for (other_tensor, other_data) in [(1, 1), (2, 2), (6, 1), (3, 4)] {
                    let sources = cut(&parameter, tensor, data);
                    for wanted in cut(&parameter, other_tensor, other_data) {
                        let mut lacking = wanted.stretches();
                        let mut got = vec![-1; usize::try_from(wanted.len()).unwrap()];
                        for source in &sources {
                            assert!(source.fits(&wanted));
                            let held = values(source);
                            let mut last = (-1, -1);
                            for m in take(&mut lacking, source) {
                                assert!(m.from > last.0 && m.to > last.1 && m.length > 0);
                                last = (m.from, m.to);
                                for i in 0..m.length {
                                    let to = usize::try_from(m.to + i).unwrap();
                                    assert_eq!(got[to], -1, "an element comes once");
                                    got[to] = held[usize::try_from(m.from + i).unwrap()];
                                }
                            }
                        }
                        assert_eq!(lacking, []);
                        assert_eq!(got, values(&wanted), "{}", parameter.name);
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_cut_is_one_move() {
        for parameter in Stage::of(&MODEL, 1, 0).parameters(&MODEL) {
            for piece in cut(&parameter, 2, 2) {
                let moves = take(&mut piece.stretches(), &piece);
                assert_eq!(
                    moves,
                    [Move {
                        from: 0,
                        to: 0,
                        length: piece.len()
                    }]
                );
            }
        }
    }

    #[test]
    fn a_piece_that_lies_outside_of_its_parameter_does_not_fit() {
        let all = Stage::of(&MODEL, 1, 0).parameters(&MODEL);
        let whole = Slice::whole(&all[0]);
        assert!(whole.fits(&whole) && whole.len() == 36 * 12);
        let mut odd = vec![whole.clone(); 5];
        odd[0].shape = [12, 36];
        odd[1].rows.end = 37;
        odd[2].columns.start = -1;
        odd[3].range.end += 1;
        odd[4].range.start = odd[4].range.end + 1;
        assert!(odd.iter().all(|piece| !piece.fits(&whole)));
    }
}
