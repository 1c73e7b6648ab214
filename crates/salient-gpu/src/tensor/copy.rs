//! Bulk tensor copies between global and shared memory: the tensor map, and the bytes that one copy
//! moves.
//!
//! CUDA driver API: cuTensorMapEncodeTiled. PTX ISA: "Tensors", "cp.async.bulk.tensor". NVIDIA's
//! layout of the 128-byte map is not public; the one here is our own, and maps that were not made
//! here are refused.

use super::descriptor::Swizzle;

/// The type of the elements of a tensor. Copies move bytes, so types differ only in their size and
/// in whether elements out of bounds may be NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u8)]
pub enum DataType {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
}

impl DataType {
    /// In the order of `CUtensorMapDataType`.
    const ALL: [Self; 10] = [
        Self::U8,
        Self::U16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::F32,
        Self::F64,
        Self::Bf16,
    ];

    /// The size of an element.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::U32 | Self::I32 | Self::F32 => 4,
        }
    }

    const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64 | Self::Bf16)
    }
}

/// The arguments of `cuTensorMapEncodeTiled`, with the enumerations as the driver numbers them.
#[derive(Clone, Copy, Debug)]
pub struct Tiled<'a> {
    /// `tensorDataType`.
    pub data_type: u32,
    /// `globalAddress`.
    pub address: u64,
    /// `globalDim`: as many as the tensor has dimensions, the innermost first.
    pub dims: &'a [u64],
    /// `globalStrides` in bytes: one fewer, as the innermost dimension is dense.
    pub strides: &'a [u64],
    /// `boxDim`.
    pub box_dims: &'a [u32],
    /// `elementStrides`.
    pub element_strides: &'a [u32],
    /// `interleave`.
    pub interleave: u32,
    /// `swizzle`.
    pub swizzle: u32,
    /// `l2Promotion`: checked, else without effect.
    pub l2_promotion: u32,
    /// `oobFill`.
    pub fill: u32,
}

/// Why a tensor map cannot be made: the rule of the driver API's documentation that is broken, or
/// what is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TiledError {
    /// An enumeration's value that the driver does not have.
    #[error("{name} is {value}, which is none of its values")]
    Value {
        /// The parameter.
        name: &'static str,
        /// What it was.
        value: u32,
    },
    /// A value that the driver has, but that is not modelled.
    #[error("{0} is not modelled")]
    NotModelled(&'static str),
    /// A number of dimensions out of 1 to 5, or arrays that do not go with it.
    #[error(
        "a tensor of rank {rank} with {strides} strides, {boxes} box dimensions, {steps} steps"
    )]
    Rank {
        /// The dimensions given.
        rank: usize,
        /// The strides given.
        strides: usize,
        /// The box dimensions given.
        boxes: usize,
        /// The element strides given.
        steps: usize,
    },
    /// The address is not a multiple of 16.
    #[error("global address {0:#x} is not a multiple of 16")]
    Address(u64),
    /// A dimension is zero or above 2^32.
    #[error("dimension {index} is {size}, not 1 to 2^32")]
    Dim {
        /// Which.
        index: usize,
        /// Its size.
        size: u64,
    },
    /// A stride is not a multiple of 16 or is 2^40 or more.
    #[error("stride {index} is {stride} bytes, not a multiple of 16 below 2^40")]
    Stride {
        /// Which.
        index: usize,
        /// Its bytes.
        stride: u64,
    },
    /// A box dimension is zero or above 256.
    #[error("box dimension {index} is {size}, not 1 to 256")]
    BoxDim {
        /// Which.
        index: usize,
        /// Its size.
        size: u32,
    },
    /// The box's rows are not whole chunks of 16 bytes, or do not fit the swizzle.
    #[error("the box's rows have {bytes} bytes, not a multiple of 16 up to {limit}")]
    BoxRow {
        /// Their size.
        bytes: u32,
        /// The swizzle's span, or 4096 without one: the largest row there is.
        limit: u32,
    },
    /// An element stride is zero or above 8.
    #[error("element stride {index} is {step}, not 1 to 8")]
    ElementStride {
        /// Which.
        index: usize,
        /// What it was.
        step: u32,
    },
    /// NaN as fill of elements that are no floats.
    #[error("out-of-bounds elements of {0:?} cannot be NaN")]
    Fill(DataType),
}

/// What is wrong with a copy by a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The bytes are no tensor map of ours.
    #[error("the tensor map's bytes were not encoded as a tensor map")]
    Foreign,
    /// The instruction has another number of dimensions than the map.
    #[error("{given} coordinates for a tensor map of rank {rank}")]
    Coordinates {
        /// The coordinates of the instruction.
        given: usize,
        /// The dimensions of the map.
        rank: usize,
    },
    /// The address in shared memory is not a multiple of 128.
    #[error("shared address {0:#x} of a tensor copy is not a multiple of 128")]
    SharedAddress(u32),
}

/// A tensor in global memory and the box of it that one copy moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    data_type: DataType,
    swizzle: Swizzle,
    fill_nan: bool,
    rank: usize,
    address: u64,
    dims: [u64; RANK],
    /// In bytes; the first is an element's size.
    strides: [u64; RANK],
    box_dims: [u32; RANK],
    steps: [u32; RANK],
}

/// The most dimensions a tensor has.
const RANK: usize = 5;

/// A run of bytes that a copy moves or fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is in shared memory.
    pub shared: u32,
    /// Where it is in global memory; none if out of the tensor's bounds: a load fills it, a store
    /// leaves it out.
    pub global: Option<u64>,
    /// How long it is: whole elements.
    pub bytes: u32,
}

/// Marks the bytes of a map.
const MAGIC: [u8; 8] = *b"tiledmap";

impl TensorMap {
    /// Checks what the driver checks.
    ///
    /// # Errors
    ///
    /// If a rule is broken.
    pub fn new(tiled: &Tiled) -> Result<Self, TiledError> {
        let rank = tiled.dims.len();
        let counts = (tiled.strides.len(), tiled.box_dims.len(), tiled.element_strides.len());
        if !(1..=RANK).contains(&rank) || counts != (rank - 1, rank, rank) {
            let (strides, boxes, steps) = counts;
            return Err(TiledError::Rank { rank, strides, boxes, steps });
        }
        let (data_type, swizzle, fill_nan) = modes(tiled)?;
        let mut map = Self {
            data_type,
            swizzle,
            fill_nan,
            rank,
            address: tiled.address,
            dims: [1; RANK],
            strides: [0; RANK],
            box_dims: [1; RANK],
            steps: [1; RANK],
        };
        map.dims[..rank].copy_from_slice(tiled.dims);
        map.strides[0] = data_type.bytes().into();
        map.strides[1..rank].copy_from_slice(tiled.strides);
        map.box_dims[..rank].copy_from_slice(tiled.box_dims);
        map.steps[..rank].copy_from_slice(tiled.element_strides);
        map.check()?;
        // The driver ignores it: there is no stride within the innermost dimension.
        map.steps[0] = 1;
        Ok(map)
    }

    fn check(&self) -> Result<(), TiledError> {
        if !self.address.is_multiple_of(16) {
            return Err(TiledError::Address(self.address));
        }
        for (index, &size) in self.dims.iter().enumerate() {
            if !(1..=1 << 32).contains(&size) {
                return Err(TiledError::Dim { index, size });
            }
        }
        for (index, &stride) in self.strides[1..self.rank].iter().enumerate() {
            if !stride.is_multiple_of(16) || stride >= 1 << 40 {
                return Err(TiledError::Stride { index, stride });
            }
        }
        for (index, &size) in self.box_dims.iter().enumerate() {
            if !(1..=256).contains(&size) {
                return Err(TiledError::BoxDim { index, size });
            }
        }
        for (index, &step) in self.steps.iter().enumerate() {
            if !(1..=8).contains(&step) {
                return Err(TiledError::ElementStride { index, step });
            }
        }
        let bytes = self.row_bytes();
        let limit = if self.swizzle == Swizzle::None { 4096 } else { self.swizzle.span() };
        if !bytes.is_multiple_of(16) || bytes > limit {
            return Err(TiledError::BoxRow { bytes, limit });
        }
        Ok(())
    }

    /// The bytes that a program passes around.
    #[must_use]
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..8].copy_from_slice(&MAGIC);
        let modes = [
            self.data_type as u8,
            self.swizzle.span().ilog2() as u8,
            self.fill_nan.into(),
            self.rank as u8,
        ];
        bytes[8..12].copy_from_slice(&modes);
        bytes[16..24].copy_from_slice(&self.address.to_le_bytes());
        for i in 0..RANK {
            // A dimension fits 33 bits, a stride 40, so both leave room for the small numbers.
            let dim = self.dims[i] | u64::from(self.box_dims[i]) << 40;
            let stride = self.strides[i] | u64::from(self.steps[i]) << 40;
            bytes[24 + 16 * i..][..8].copy_from_slice(&dim.to_le_bytes());
            bytes[32 + 16 * i..][..8].copy_from_slice(&stride.to_le_bytes());
        }
        bytes
    }

    /// Undoes [`Self::encode`].
    ///
    /// # Errors
    ///
    /// If the bytes were not made there.
    pub fn decode(bytes: &[u8; 128]) -> Result<Self, CopyError> {
        let word = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let [data_type, span, fill_nan, rank] = [bytes[8], bytes[9], bytes[10], bytes[11]];
        let swizzles = [Swizzle::None, Swizzle::Bytes32, Swizzle::Bytes64, Swizzle::Bytes128];
        let mode = swizzles.into_iter().find(|mode| mode.span().ilog2() == u32::from(span));
        let (Some(&data_type), Some(swizzle)) = (DataType::ALL.get(usize::from(data_type)), mode)
        else {
            return Err(CopyError::Foreign);
        };
        let low = |at: usize| word(at) & ((1 << 40) - 1);
        let high = |at: usize| (word(at) >> 40) as u32;
        let map = Self {
            data_type,
            swizzle,
            fill_nan: fill_nan != 0,
            rank: rank.into(),
            address: word(16),
            dims: std::array::from_fn(|i| low(24 + 16 * i)),
            strides: std::array::from_fn(|i| low(32 + 16 * i)),
            box_dims: std::array::from_fn(|i| high(24 + 16 * i)),
            steps: std::array::from_fn(|i| high(32 + 16 * i)),
        };
        let known = (1..=RANK).contains(&map.rank) && map.check().is_ok();
        if known && map.encode() == *bytes { Ok(map) } else { Err(CopyError::Foreign) }
    }

    /// The number of dimensions.
    #[must_use]
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// The bytes of the box in shared memory. A load counts all of them as done on its barrier, the
    /// filled ones too.
    #[must_use]
    pub fn box_bytes(&self) -> u32 {
        self.row_bytes() * (1..self.rank).map(|i| self.rows(i)).product::<u32>()
    }

    /// What a load writes where the tensor has nothing: repeat it over a [`Piece`]. NaN is all ones
    /// but for the sign; the driver's documentation does not give its bits.
    #[must_use]
    pub const fn fill(&self) -> [u8; 16] {
        if !self.fill_nan {
            return [0; 16];
        }
        let mut bytes = [0xff; 16];
        let size = self.data_type.bytes() as usize;
        let mut last = size - 1;
        while last < 16 {
            bytes[last] = 0x7f;
            last += size;
        }
        bytes
    }

    /// Hands out the pieces of the box at these coordinates (of its first element, the innermost
    /// first), in the order of the unswizzled box: rows without gaps, the second dimension next.
    ///
    /// A swizzle is of the shared address itself, so it begins anew at multiples of its pattern.
    ///
    /// # Errors
    ///
    /// If the coordinates are too many or too few, if the shared address is not aligned, or what
    /// `take` returns.
    pub fn pieces<E: From<CopyError>>(
        &self,
        coordinates: &[i32],
        shared: u32,
        mut take: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        if coordinates.len() != self.rank {
            let given = coordinates.len();
            return Err(CopyError::Coordinates { given, rank: self.rank }.into());
        }
        if !shared.is_multiple_of(128) {
            return Err(CopyError::SharedAddress(shared).into());
        }
        let mut row_start = shared;
        let mut row = [0; RANK];
        'rows: loop {
            let base = self.row_address(coordinates, &row);
            self.row_pieces(coordinates[0], row_start, base, &mut take)?;
            row_start = row_start.wrapping_add(self.row_bytes());
            for (i, at) in row.iter_mut().enumerate().take(self.rank).skip(1) {
                *at += 1;
                if *at < self.rows(i) {
                    continue 'rows;
                }
                *at = 0;
            }
            return Ok(());
        }
    }

    /// Where the row's element with inner coordinate 0 is; none if the row is out of bounds.
    fn row_address(&self, coordinates: &[i32], row: &[u32; RANK]) -> Option<u64> {
        let mut address = self.address;
        for i in 1..self.rank {
            let at = i64::from(coordinates[i]) + i64::from(row[i]) * i64::from(self.steps[i]);
            let at = u64::try_from(at).ok().filter(|&at| at < self.dims[i])?;
            address = address.wrapping_add(at * self.strides[i]);
        }
        Some(address)
    }

    /// One row of the box: what lies before the tensor's first element, in it, and behind its last.
    fn row_pieces<E>(
        &self,
        first: i32,
        shared: u32,
        base: Option<u64>,
        take: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = self.data_type.bytes();
        let length = i64::from(self.box_dims[0]);
        let first = i64::from(first);
        // Elements of the row that come before each border.
        let start = (-first).clamp(0, length);
        let end = (self.dims[0] as i64 - first).clamp(start, length);
        let (start, end) = if base.is_some() { (start, end) } else { (length, length) };
        for (from, to, inside) in [(0, start, false), (start, end, true), (end, length, false)] {
            let global = base
                .filter(|_| inside)
                .map(|base| base.wrapping_add((first + from).unsigned_abs() * u64::from(size)));
            self.swizzled(from as u32 * size, to as u32 * size, shared, global, take)?;
        }
        Ok(())
    }

    /// Bytes `from` to `to` of the row at `shared`, cut where chunks part.
    fn swizzled<E>(
        &self,
        from: u32,
        to: u32,
        shared: u32,
        global: Option<u64>,
        take: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = from;
        while at < to {
            let end = if self.swizzle == Swizzle::None { to } else { to.min((at / 16 + 1) * 16) };
            take(Piece {
                shared: self.swizzle.apply(shared.wrapping_add(at)),
                global: global.map(|global| global.wrapping_add(u64::from(at - from))),
                bytes: end - at,
            })?;
            at = end;
        }
        Ok(())
    }

    const fn row_bytes(&self) -> u32 {
        self.box_dims[0] * self.data_type.bytes()
    }

    /// How many elements the box has along an outer dimension.
    const fn rows(&self, dimension: usize) -> u32 {
        self.box_dims[dimension].div_ceil(self.steps[dimension])
    }
}

/// The driver's enumerations.
fn modes(tiled: &Tiled) -> Result<(DataType, Swizzle, bool), TiledError> {
    let value = |name, value| Err(TiledError::Value { name, value });
    let refused = |name| Err(TiledError::NotModelled(name));
    let data_type = match (DataType::ALL.get(tiled.data_type as usize), tiled.data_type) {
        (Some(&data_type), _) => data_type,
        // These change values on the way, in a manner that is not documented.
        (None, 10) => return refused("CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ"),
        (None, 11) => return refused("CU_TENSOR_MAP_DATA_TYPE_TFLOAT32"),
        (None, 12) => return refused("CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ"),
        (None, 13) => return refused("CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B"),
        (None, 14) => return refused("CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN16B"),
        (None, 15) => return refused("CU_TENSOR_MAP_DATA_TYPE_16U6_ALIGN16B"),
        (None, other) => return value("tensorDataType", other),
    };
    match tiled.interleave {
        0 => (),
        1 => return refused("CU_TENSOR_MAP_INTERLEAVE_16B"),
        2 => return refused("CU_TENSOR_MAP_INTERLEAVE_32B"),
        other => return value("interleave", other),
    }
    let swizzle = match tiled.swizzle {
        0 => Swizzle::None,
        1 => Swizzle::Bytes32,
        2 => Swizzle::Bytes64,
        3 => Swizzle::Bytes128,
        4 => return refused("CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B"),
        5 => return refused("CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B_FLIP_8B"),
        6 => return refused("CU_TENSOR_MAP_SWIZZLE_128B_ATOM_64B"),
        other => return value("swizzle", other),
    };
    if tiled.l2_promotion > 3 {
        return value("l2Promotion", tiled.l2_promotion);
    }
    match tiled.fill {
        0 => Ok((data_type, swizzle, false)),
        1 if data_type.is_float() => Ok((data_type, swizzle, true)),
        1 => Err(TiledError::Fill(data_type)),
        other => value("oobFill", other),
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
