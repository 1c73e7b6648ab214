//! Query statistics as the kernel takes them.

use std::marker::PhantomData;

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::kernels::{check_16_bits, product};
use crate::score::{ExpectedAttention, QueryStatistics, check_statistics};

/// The most channels of a key.
const MAX_DIM: usize = 256;

/// Query statistics as the kernel takes them for keys of `T`, f16 or bf16: the products of
/// `x = k . (mean + product k)`, each element the sum of 2 (f16) or 3 (bf16) terms of type `T`, as
/// near to it as f32 comes.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedWeights<T> {
    words: Vec<u32>,
    shape: ExpectedShape,
    keys: PhantomData<T>,
}

/// What the host keeps of statistics that lie on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedShape {
    pub(super) sets: usize,
    pub(super) q_heads: usize,
    pub(super) dim: usize,
    pub(super) scale: f32,
    pub(super) covariance: bool,
    pub(super) dtype: DType,
}

impl<T: Element> ExpectedWeights<T> {
    /// Prepares statistics, those of all sequences or one of each, for logits of this scale.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless `T` has 16 bits, channels are a multiple of 8 up to 256 and
    /// `scale` is finite; [`Error::LengthMismatch`] and [`Error::Unfit`] for none, or statistics
    /// that are not alike; [`Error::NotFinite`] where the scale makes them so; [`Error::Overflow`].
    pub fn new(statistics: &[QueryStatistics], scale: f32) -> Result<Self> {
        let (q_heads, dim) = check_statistics(statistics, statistics.len(), 1)?;
        ExpectedAttention::new(scale).check()?;
        check_dim(dim)?;
        check_16_bits("bits of a key", T::DTYPE)?;
        let covariance = statistics[0].covariance().is_some();
        let (sets, dtype) = (statistics.len(), T::DTYPE);
        let shape = ExpectedShape { sets, q_heads, dim, scale, covariance, dtype };
        let len = product("query statistics", &[sets, q_heads, shape.head_words()])?;
        let mut words = Vec::with_capacity(len);
        for statistics in statistics {
            for head in 0..q_heads {
                Head::new(statistics, head, scale)?.pack::<T>(&shape, &mut words);
            }
        }
        Ok(Self { words, shape, keys: PhantomData })
    }

    /// The memory of it, [`ExpectedShape::words`] long.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// What plans are made from.
    pub fn shape(&self) -> ExpectedShape {
        self.shape
    }
}

impl ExpectedShape {
    /// Words of all statistics.
    pub fn words(&self) -> usize {
        self.sets * self.q_heads * self.head_words()
    }

    /// The type of keys and values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Chunks of 16 columns.
    fn chunks(&self) -> usize {
        self.dim.div_ceil(32) * 2
    }

    /// Terms that an element of the product is the sum of.
    fn terms(&self) -> usize {
        if self.dtype == DType::F16 { 2 } else { 3 }
    }

    /// Words of a head.
    pub(super) fn head_words(&self) -> usize {
        let blocks = if self.covariance { self.chunks() * (self.chunks() + 1) / 2 } else { 0 };
        self.chunks() * CHUNK_HEADER + blocks * self.terms() * BLOCK
    }
}

/// Words of a chunk ahead of its blocks: 16 means, a factor, nothing.
const CHUNK_HEADER: usize = 20;

/// Words of a 16 x 16 block of 16-bit elements.
const BLOCK: usize = 128;

/// The channel that stands at place `i` of a product's: `kernels/score/keys.cuh` says why.
fn channel(i: usize) -> usize {
    let (block, i) = (i / 16, i % 16);
    32 * (block / 2) + 8 * (i % 8 / 2) + 4 * (block % 2) + 2 * (i / 8) + i % 2
}

/// One head's mean and, upper triangular, product; both in the order of places and times
/// `1 / factor`, a power of 2 such that terms of f16 hold them.
struct Head {
    mean: Vec<f32>,
    product: Option<Vec<f32>>,
    factor: f32,
}

impl Head {
    fn new(statistics: &QueryStatistics, head: usize, scale: f32) -> Result<Self> {
        let dim = statistics.dim();
        let (len, scale) = (dim.next_multiple_of(32), f64::from(scale));
        let mean = &statistics.mean()[head * dim..][..dim];
        let at = |i: usize| Some(channel(i)).filter(|&channel| channel < dim);
        let mean: Vec<f64> =
            (0..len).map(|i| at(i).map_or(0.0, |i| scale * f64::from(mean[i]))).collect();
        let product: Option<Vec<f64>> = statistics.covariance().map(|covariance| {
            let covariance = &covariance[head * dim * dim..][..dim * dim];
            let of = |i: usize, j: usize| f64::from(covariance[i * dim + j]);
            let element = |(i, j)| match (at(i), at(j)) {
                (Some(row), Some(column)) if i < j => of(row, column) + of(column, row),
                (Some(row), Some(_)) if i == j => of(row, row),
                _ => 0.0,
            };
            let places = (0..len).flat_map(|i| (0..len).map(move |j| (i, j)));
            places.map(|place| scale * scale / 2.0 * element(place)).collect()
        });
        // What f16 must hold stays below 2^15, and sums of means are far from the limits of f32.
        let room = |values: &[f64], exponent: i32| {
            let largest = values.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            if largest == 0.0 { 100 } else { exponent - largest.log2().floor() as i32 }
        };
        let room = product.as_deref().map_or(100, |product| room(product, 14)).min(room(&mean, 19));
        let shift = 2f64.powi(if room == 100 { 0 } else { room.clamp(-100, 100) });
        let shifted = |values: Vec<f64>| -> Result<Vec<f32>> {
            let values: Vec<f32> = values.into_iter().map(|x| (x * shift) as f32).collect();
            crate::checks::check_finite("scaled query statistics", &values)?;
            Ok(values)
        };
        Ok(Self {
            mean: shifted(mean)?,
            product: product.map(shifted).transpose()?,
            factor: (1.0 / shift) as f32,
        })
    }

    fn pack<T: Element>(&self, shape: &ExpectedShape, words: &mut Vec<u32>) {
        for (chunk, mean) in self.mean.chunks_exact(16).enumerate() {
            words.extend(mean.iter().map(|mean| mean.to_bits()));
            words.extend([self.factor.to_bits(), 0, 0, 0]);
            let Some(product) = &self.product else { continue };
            for row in 0..=chunk {
                for term in 0..shape.terms() {
                    for lane in 0..32 {
                        for quarter in 0..4 {
                            let column = 16 * chunk + 8 * (quarter / 2) + lane / 4;
                            let i = 16 * row + 8 * (quarter % 2) + 2 * (lane % 4);
                            let bits = [i, i + 1].map(|i| {
                                term_bits::<T>(product[i * self.mean.len() + column], term)
                            });
                            words.push(u32::from(bits[0]) | u32::from(bits[1]) << 16);
                        }
                    }
                }
            }
        }
    }
}

/// The bits of one of the terms that add up to x, the largest first.
fn term_bits<T: Element>(mut x: f32, term: usize) -> u16 {
    for _ in 0..term {
        x -= T::from_f32(x).to_f32();
    }
    bytemuck::pod_read_unaligned(bytemuck::bytes_of(&T::from_f32(x)))
}

fn check_dim(dim: usize) -> Result<()> {
    if dim == 0 || dim > MAX_DIM || !dim.is_multiple_of(8) {
        let (what, value) = ("channels of a key", dim as f64);
        return Err(Error::OutOfRange { what, value, expected: "a multiple of 8 up to 256" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn places_are_a_permutation_within_32_channels() {
        for block in 0..4 {
            let mut channels: Vec<usize> = (32 * block..32 * block + 32).map(channel).collect();
            assert_eq!(channels[..4], [32 * block, 32 * block + 1, 32 * block + 8, 32 * block + 9]);
            channels.sort_unstable();
            assert!(channels.into_iter().eq(32 * block..32 * block + 32));
        }
    }

    #[test]
    fn terms_add_up_to_what_f32_holds() {
        fn check<T: Element>(terms: usize, share: f32, least: f32) {
            for i in 0..1000 {
                let x = (i as f32 - 500.0).powi(3) / 4567.0;
                let sum: f32 = (0..terms)
                    .rev()
                    .map(|term| {
                        let bits = term_bits::<T>(x, term).to_ne_bytes();
                        bytemuck::pod_read_unaligned::<T>(&bits).to_f32()
                    })
                    .sum();
                assert!((sum - x).abs() <= (share * x.abs()).max(least), "{x} {sum}");
            }
        }
        // Half of the least that f16 holds; the largest elements are about 2^40 times as large.
        check::<f16>(2, 2f32.powi(-22), 2f32.powi(-25));
        check::<bf16>(3, 0.0, 0.0);
    }
}
