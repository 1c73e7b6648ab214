//! Statistics of given queries, and what rotary embedding makes of them.

use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::layout::View;
use crate::score::{QueryStatistics, Rotary, check_shape};

impl QueryStatistics {
    /// Those of the first `tokens` queries of `q`, `[tokens, heads, dim]`, before rotary embedding:
    /// the mean, and if `covariance` the mean product of deviations from it (over `tokens`, not one
    /// less). The authors leave out the queries of the first 4 tokens, which are unlike the rest.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no tokens, heads or channels, [`Error::LengthMismatch`],
    /// [`Error::NotFinite`] if a query is not.
    pub fn of<T: Element>(q: View<'_, T>, tokens: usize, covariance: bool) -> Result<Self> {
        let (heads, dim) = (q.layout.heads, q.layout.dim);
        check_shape(heads, dim)?;
        if tokens == 0 {
            let (what, expected) = ("queries", "at least 1");
            return Err(Error::OutOfRange { what, value: 0.0, expected });
        }
        q.layout.check("q", tokens, q.data.len())?;
        let (mut means, mut covariances) = (Vec::new(), Vec::new());
        let mut row = vec![0f64; dim];
        for head in 0..heads {
            let mut mean = vec![0f64; dim];
            for token in 0..tokens {
                mean.iter_mut()
                    .zip(q.row(token, head))
                    .for_each(|(m, &q)| *m += f64::from(q.to_f32()));
            }
            mean.iter_mut().for_each(|m| *m /= tokens as f64);
            means.extend(mean.iter().map(|&m| m as f32));
            if covariance {
                let mut products = vec![0f64; dim * dim];
                for token in 0..tokens {
                    for ((x, &q), mean) in row.iter_mut().zip(q.row(token, head)).zip(&mean) {
                        *x = f64::from(q.to_f32()) - mean;
                    }
                    for (products, &x) in products.chunks_exact_mut(dim).zip(&row) {
                        products.iter_mut().zip(&row).for_each(|(p, y)| *p += x * y);
                    }
                }
                covariances.extend(products.iter().map(|p| (p / tokens as f64) as f32));
            }
        }
        Self::new(heads, dim, means, covariance.then_some(covariances))
    }

    /// The statistics after rotary embedding, averaged over positions `first..first + positions` as
    /// the authors do: mean and covariance are turned by the mean R of the rotations, to `R mu` and
    /// `R Sigma R'`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no positions or more turning channels than there are,
    /// [`Error::NotFinite`] for a frequency that is not.
    pub fn averaged(&self, rotary: &Rotary, first: usize, positions: usize) -> Result<Self> {
        let pairs = rotary.inverse_frequencies.len();
        if 2 * pairs > self.dim() {
            let (what, value) = ("channels that turn", 2.0 * pairs as f64);
            return Err(Error::OutOfRange { what, value, expected: "at most the channels" });
        }
        if positions == 0 {
            let (what, expected) = ("positions to average over", "at least 1");
            return Err(Error::OutOfRange { what, value: 0.0, expected });
        }
        if let Some(index) = rotary.inverse_frequencies.iter().position(|f| !f.is_finite()) {
            return Err(Error::NotFinite { what: "rotary frequencies", index });
        }
        // Of every pair, its channels and the mean cosine and sine of its angle.
        let turns: Vec<([usize; 2], f64, f64)> = (0..pairs)
            .map(|pair| {
                let (mut cos, mut sin) = (0.0, 0.0);
                for position in 0..positions {
                    let angle = (first + position) as f64 * rotary.inverse_frequencies[pair];
                    cos += angle.cos();
                    sin += angle.sin();
                }
                (rotary.channels(pair), cos / positions as f64, sin / positions as f64)
            })
            .collect();
        let turn = |x: &mut [f64]| {
            for &([a, b], cos, sin) in &turns {
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
            }
        };
        let mean = self.mean().chunks_exact(self.dim()).flat_map(|mean| turned(mean, turn));
        let covariance = self.covariance().map(|covariance| {
            let heads = covariance.chunks_exact(self.dim() * self.dim());
            heads.flat_map(|head| turned_both(head, self.dim(), turn)).collect()
        });
        Self::new(self.heads(), self.dim(), mean.collect(), covariance)
    }
}

fn turned(vector: &[f32], turn: impl Fn(&mut [f64])) -> Vec<f32> {
    let mut wide: Vec<f64> = vector.iter().map(|&x| x.into()).collect();
    turn(&mut wide);
    wide.into_iter().map(|x| x as f32).collect()
}

/// `R S R'`: every row turned, then every column.
fn turned_both(matrix: &[f32], dim: usize, turn: impl Fn(&mut [f64])) -> Vec<f32> {
    let mut wide: Vec<f64> = matrix.iter().map(|&x| x.into()).collect();
    wide.chunks_exact_mut(dim).for_each(&turn);
    let mut column = vec![0f64; dim];
    for j in 0..dim {
        (0..dim).for_each(|i| column[i] = wide[i * dim + j]);
        turn(&mut column);
        (0..dim).for_each(|i| wide[i * dim + j] = column[i]);
    }
    wide.into_iter().map(|x| x as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::RotaryPairs;

    #[test]
    fn mean_and_covariance_are_those_of_the_queries() {
        // Two heads, two channels: (1, 2), (3, 6), (5, 1) and their doubles.
        let q = [1.0f32, 2.0, 2.0, 4.0, 3.0, 6.0, 6.0, 12.0, 5.0, 1.0, 10.0, 2.0];
        let found = QueryStatistics::of(View::token_major(&q, 2, 2), 3, true).unwrap();
        assert_eq!(found.mean(), [3.0, 3.0, 6.0, 6.0]);
        let one = [8.0 / 3.0, -2.0 / 3.0, -2.0 / 3.0, 14.0 / 3.0].map(|x: f64| x as f32);
        let covariance = found.covariance().unwrap();
        assert_eq!(covariance[..4], one);
        assert_eq!(covariance[4..], one.map(|x| 4.0 * x));
        let mean_alone = QueryStatistics::of(View::token_major(&q, 2, 2), 3, false).unwrap();
        assert_eq!((mean_alone.mean(), mean_alone.covariance()), (found.mean(), None));
    }

    /// At one position the average is the rotation itself: the statistics of turned queries.
    #[test]
    fn one_position_turns_as_the_embedding_does() {
        let (tokens, dim) = (9, 6);
        let q: Vec<f32> = (0..tokens * dim).map(|i| ((i * 37 % 23) as f32 - 11.0) / 8.0).collect();
        for pairs in [RotaryPairs::Halves, RotaryPairs::Neighbours] {
            // Two pairs turn, two channels do not.
            let rotary = Rotary { inverse_frequencies: vec![1.0, 0.1], pairs };
            let turned: Vec<f32> = q
                .chunks_exact(dim)
                .flat_map(|q| {
                    let mut out = q.to_vec();
                    for (pair, frequency) in [(0, 1.0f64), (1, 0.1)] {
                        let (a, b) = match pairs {
                            RotaryPairs::Halves => (pair, pair + 2),
                            RotaryPairs::Neighbours => (2 * pair, 2 * pair + 1),
                        };
                        let (sin, cos) = (7.0 * frequency).sin_cos();
                        let (x, y) = (f64::from(q[a]), f64::from(q[b]));
                        out[a] = (x * cos - y * sin) as f32;
                        out[b] = (y * cos + x * sin) as f32;
                    }
                    out
                })
                .collect();
            let of = |q: &[f32]| QueryStatistics::of(View::token_major(q, 1, dim), tokens, true);
            let averaged = of(&q).unwrap().averaged(&rotary, 7, 1).unwrap();
            let expected = of(&turned).unwrap();
            let pairs = averaged.mean().iter().zip(expected.mean());
            let covariances = averaged.covariance().unwrap().iter();
            for (a, e) in pairs.chain(covariances.zip(expected.covariance().unwrap())) {
                assert!((a - e).abs() < 1e-6, "{a} {e}");
            }
        }
    }

    /// Fast pairs average out over many positions, slow ones stay.
    #[test]
    fn averages_shrink_what_turns_fast() {
        let statistics = QueryStatistics::new(1, 4, vec![1.0; 4], None).unwrap();
        let rotary = Rotary { inverse_frequencies: vec![1.0, 1e-9], pairs: RotaryPairs::Halves };
        let averaged = statistics.averaged(&rotary, 100, 512).unwrap();
        let [fast_a, slow_a, fast_b, slow_b] = averaged.mean() else { panic!("four channels") };
        assert!(fast_a.abs() < 0.01 && fast_b.abs() < 0.01, "{averaged:?}");
        assert!((slow_a - 1.0).abs() < 1e-5 && (slow_b - 1.0).abs() < 1e-5, "{averaged:?}");
    }

    #[test]
    fn bad_statistics_are_refused() {
        let new = QueryStatistics::new;
        assert!(new(0, 4, vec![], None).is_err());
        assert!(new(1, 0, vec![], None).is_err());
        assert!(new(2, 4, vec![1.0; 7], None).is_err());
        assert!(new(1, 4, vec![1.0; 4], Some(vec![1.0; 15])).is_err());
        assert!(new(1, 2, vec![1.0, f32::NAN], None).is_err());
        assert!(new(1, 1, vec![1.0], Some(vec![f32::INFINITY])).is_err());
        let q = [1.0f32; 8];
        assert!(QueryStatistics::of(View::token_major(&q, 2, 2), 0, true).is_err());
        assert!(QueryStatistics::of(View::token_major(&q, 2, 2), 3, true).is_err());
        let statistics = new(1, 4, vec![1.0; 4], None).unwrap();
        let rotary = Rotary::new(10_000.0, 4).unwrap();
        assert!(statistics.averaged(&rotary, 0, 0).is_err());
        assert!(statistics.averaged(&Rotary::new(10_000.0, 6).unwrap(), 0, 1).is_err());
        let rotary = Rotary { inverse_frequencies: vec![f64::NAN], ..rotary };
        assert!(statistics.averaged(&rotary, 0, 1).is_err());
        assert!(Rotary::new(10_000.0, 3).is_err());
        assert!(Rotary::new(0.0, 4).is_err());
    }
}
