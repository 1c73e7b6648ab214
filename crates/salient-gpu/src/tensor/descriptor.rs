//! Matrices in shared memory, as `wgmma` reads them.
//!
//! PTX ISA: "Asynchronous wgmma: Matrix Descriptor" and "Strides". The layouts are CuTe's canonical
//! ones (`mma_sm90_desc.hpp`), made of rows of 16 bytes, here called chunks.

use std::ops::Range;

use super::numbers::Element;

/// How 16-byte chunks are exchanged within rows of 32, 64 or 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Within 32 bytes, a pattern of 256 bytes.
    Bytes32,
    /// Within 64 bytes, a pattern of 512 bytes.
    Bytes64,
    /// Within 128 bytes, a pattern of 1024 bytes.
    Bytes128,
}

impl Swizzle {
    /// How many bits of the address change.
    const fn bits(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Bytes32 => 1,
            Self::Bytes64 => 2,
            Self::Bytes128 => 3,
        }
    }

    /// The bytes within which chunks are exchanged; 16, one chunk, without a swizzle.
    #[must_use]
    pub const fn span(self) -> u32 {
        16 << self.bits()
    }

    /// Where the byte of an unswizzled shared address is: bits 4 and up are combined with bits 7
    /// and up, by exclusive or.
    #[must_use]
    pub const fn apply(self, address: u32) -> u32 {
        address ^ (address >> 3 & ((1 << self.bits()) - 1) << 4)
    }
}

/// Which dimension of a matrix has its elements next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// The dimension of the sums (not "transposed" in PTX).
    K,
    /// The rows of A, or the columns of B ("transposed").
    Mn,
}

/// A decoded 64-bit matrix descriptor. All numbers are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The shared address of the first element.
    pub start: u32,
    /// The leading dimension byte offset.
    pub leading: u32,
    /// The stride dimension byte offset.
    pub stride: u32,
    /// The swizzle mode.
    pub swizzle: Swizzle,
}

/// A descriptor that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// Bits that the manual reserves.
    #[error("matrix descriptor {0:#018x} has reserved bits set")]
    Reserved(u64),
    /// The manual does not say what a base offset does to the addresses.
    #[error("matrix descriptor {0:#018x} has a base offset, which is not modelled")]
    BaseOffset(u64),
}

impl Descriptor {
    /// Takes a descriptor apart.
    ///
    /// # Errors
    ///
    /// If reserved bits are set, or if there is a base offset. A base offset is for a matrix that
    /// does not begin where the swizzle's pattern does; one that does has none.
    pub const fn decode(bits: u64) -> Result<Self, DescriptorError> {
        const RESERVED: u64 = 0b11 << 14 | 0b11 << 30 | 0b111 << 46 | 0x3ff << 52;
        if bits & RESERVED != 0 {
            return Err(DescriptorError::Reserved(bits));
        }
        if bits >> 49 & 7 != 0 {
            return Err(DescriptorError::BaseOffset(bits));
        }
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        Ok(Self {
            start: field(bits),
            leading: field(bits >> 16),
            stride: field(bits >> 32),
            swizzle,
        })
    }

    /// The shared address of element (`mn`, `k`), where `mn` is a row of A or a column of B.
    ///
    /// The swizzle is of the whole address, not of the offset into the matrix.
    #[must_use]
    pub const fn address(&self, major: Major, element: Element, mn: u32, k: u32) -> u32 {
        let bytes = element.bytes() as u32;
        let per_chunk = 16 / bytes;
        match major {
            Major::K => self.chunk(major, mn, k / per_chunk) + k % per_chunk * bytes,
            Major::Mn => self.chunk(major, k, mn / per_chunk) + mn % per_chunk * bytes,
        }
    }

    /// The shared address of a chunk: the `column`th 16 bytes along the major dimension, in line
    /// `line` of the other.
    #[must_use]
    pub(crate) const fn chunk(&self, major: Major, line: u32, column: u32) -> u32 {
        let (span, stride, leading) = (self.swizzle.span(), self.stride, self.leading);
        let (inner, outer) = (line % 8 * span, line / 8);
        let columns = span / 16;
        let offset = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => column * leading + outer * stride,
            (Major::K, _) => column * 16 + outer * stride,
            (Major::Mn, Swizzle::None) => column * stride + outer * leading,
            (Major::Mn, _) => column % columns * 16 + column / columns * leading + outer * stride,
        };
        self.swizzle.apply(self.start.wrapping_add(inner + offset))
    }

    /// The shared bytes that an operand of `mn` rows of A or columns of B and 32 bytes along k
    /// takes, in order and without overlaps.
    #[must_use]
    pub fn ranges(&self, major: Major, element: Element, mn: u32) -> Vec<Range<u32>> {
        let mut starts: Vec<u32> = chunks(major, element, mn)
            .map(|(line, column)| self.chunk(major, line, column))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for start in starts {
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += 16,
                _ => ranges.push(start..start + 16),
            }
        }
        ranges
    }
}

/// The (line, column) of all chunks of an operand of `mn` rows of A or columns of B.
pub(crate) fn chunks(major: Major, element: Element, mn: u32) -> impl Iterator<Item = (u32, u32)> {
    let bytes = element.bytes() as u32;
    let (lines, columns) = match major {
        Major::K => (mn, 2),
        Major::Mn => (32 / bytes, mn * bytes / 16),
    };
    (0..lines).flat_map(move |line| (0..columns).map(move |column| (line, column)))
}

/// A 14-bit field that leaves out four zero bits.
const fn field(bits: u64) -> u32 {
    ((bits & 0x3fff) as u32) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(start: u32, leading: u32, stride: u32, mode: u64) -> u64 {
        let field = |x: u32| u64::from(x / 16);
        field(start) | field(leading) << 16 | field(stride) << 32 | mode << 62
    }

    /// CuTe's `Swizzle<bits, 4, 3>`.
    fn cute_swizzle(bits: u32, address: u32) -> u32 {
        let mask = ((1 << bits) - 1) << 7;
        address ^ ((address & mask) >> 3)
    }

    type Modes<const N: usize> = [(u32, u32); N];

    /// A CuTe layout: pairs of a mode's size and stride, the first fastest.
    fn layout(modes: &[(u32, u32)], mut index: u32) -> u32 {
        let mut offset = 0;
        for &(size, stride) in modes {
            offset += index % size * stride;
            index /= size;
        }
        offset
    }

    #[test]
    fn addresses_are_those_of_the_canonical_layouts() {
        const MANY: u32 = 1 << 20;
        for (mode, swizzle_bits, element) in [
            (0, 0, Element::F16),
            (1, 3, Element::Bf16),
            (2, 2, Element::F16),
            (3, 1, Element::Bf16),
            (0, 0, Element::E4m3),
            (1, 3, Element::S8),
            (2, 2, Element::Tf32),
            (3, 1, Element::Tf32),
        ] {
            let (start, leading, stride) = (0x1_2400, 0x5a0, 0x1230);
            let descriptor = Descriptor::decode(encode(start, leading, stride, mode)).unwrap();
            let size = element.bytes() as u32;
            // T elements are 16 bytes; the layouts count elements.
            let t = 16 / size;
            let (lbo, sbo) = (leading / size, stride / size);
            let w = 1 << swizzle_bits;
            let k_major: (Modes<2>, Modes<2>) = if mode == 0 {
                ([(8, t), (MANY, sbo)], [(t, 1), (2, lbo)])
            } else {
                ([(8, w * t), (MANY, sbo)], [(t, 1), (2, t)])
            };
            for mn in 0..256 {
                for k in 0..2 * t {
                    let offset = layout(&k_major.0, mn) + layout(&k_major.1, k);
                    let expected = cute_swizzle(swizzle_bits, start + offset * size);
                    assert_eq!(descriptor.address(Major::K, element, mn, k), expected);
                }
            }
            if size != 2 {
                continue;
            }
            let mn_major: (Modes<3>, Modes<2>) = if mode == 0 {
                ([(t, 1), (1, t), (MANY, sbo)], [(8, t), (MANY, lbo)])
            } else {
                ([(t, 1), (w, t), (MANY, lbo)], [(8, w * t), (MANY, sbo)])
            };
            for mn in 0..256 {
                for k in 0..16 {
                    let offset = layout(&mn_major.0, mn) + layout(&mn_major.1, k);
                    let expected = cute_swizzle(swizzle_bits, start + offset * size);
                    assert_eq!(descriptor.address(Major::Mn, element, mn, k), expected);
                }
            }
        }
    }

    #[test]
    fn ranges_hold_every_element_and_nothing_else() {
        for mode in 0..4 {
            for major in [Major::K, Major::Mn] {
                let descriptor = Descriptor::decode(encode(0x400, 2048, 1024, mode)).unwrap();
                let mut bytes: Vec<u32> = Vec::new();
                for mn in 0..80 {
                    for k in 0..16 {
                        let address = descriptor.address(major, Element::F16, mn, k);
                        bytes.extend([address, address + 1]);
                    }
                }
                bytes.sort_unstable();
                bytes.dedup();
                let ranges = descriptor.ranges(major, Element::F16, 80);
                assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                assert!(ranges.into_iter().flatten().eq(bytes), "{major:?} {mode}");
            }
        }
    }

    #[test]
    fn what_is_not_modelled_is_refused() {
        let good = encode(0x400, 0, 1024, 1);
        assert!(Descriptor::decode(good).is_ok());
        for bit in [14, 15, 30, 31, 46, 47, 48].into_iter().chain(52..62) {
            let bits = good | 1 << bit;
            assert_eq!(Descriptor::decode(bits), Err(DescriptorError::Reserved(bits)));
        }
        for bit in 49..52 {
            let bits = good | 1 << bit;
            assert_eq!(Descriptor::decode(bits), Err(DescriptorError::BaseOffset(bits)));
        }
    }
}
