//! `C = alpha op(A) op(B) + beta C`, once or for each of a batch.

use gemm::Parallelism;
use half::{bf16, f16};
use salient_gpu::{Memory, MemoryError};

use crate::library::{Task, check};

/// Products of one shape.
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) rows: u64,
    pub(super) columns: u64,
    pub(super) depth: u64,
    pub(super) batch: u64,
    pub(super) a: Operand,
    pub(super) b: Operand,
    pub(super) c: Operand,
    pub(super) alpha: Scalar,
    pub(super) beta: Scalar,
}

/// A matrix of each product, column by column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) kind: Kind,
    pub(super) place: Place,
    /// Elements from column to column.
    pub(super) leading: u64,
    pub(super) transposed: bool,
}

/// Where the matrices of a batch are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// Elements from one to the next.
    Strided { address: u64, stride: i64 },
    /// Where an array on the device says.
    Listed { array: u64 },
}

/// Types of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F16,
    Bf16,
    F32,
    F64,
}

/// A factor: as the call had it, or as the device has it when the product runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar {
    Host(f64),
    Device { kind: Kind, address: u64 },
}

/// What products are calculated in.
trait Number: Copy + PartialEq + 'static {
    const ZERO: Self;
    const ONE: Self;

    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
    /// This times the one, plus the product of the other two.
    fn times_plus(self, factor: Self, other: Option<(Self, Self)>) -> Self;
}

impl Task for Product {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, memory: &Memory) -> Result<(), MemoryError> {
        if self.rows == 0 || self.columns == 0 {
            return Ok(());
        }
        let (alpha, beta) = (self.alpha.get(memory)?, self.beta.get(memory)?);
        for index in 0..self.batch {
            if self.c.kind == Kind::F64 {
                self.one::<f64>(memory, index, alpha, beta)?;
            } else {
                self.one::<f32>(memory, index, alpha, beta)?;
            }
        }
        Ok(())
    }
}

impl Product {
    /// All that it touches is memory, as far as that can be told before it runs.
    pub(super) fn check(&self, memory: &Memory) -> Result<(), String> {
        let is_empty = self.rows == 0 || self.columns == 0 || self.batch == 0;
        for scalar in [self.alpha, self.beta].iter().filter(|_| !is_empty) {
            if let Scalar::Device { kind, address } = *scalar {
                check(memory, address, kind.bytes()).map_err(|error| error.to_string())?;
            }
        }
        let c_size = (self.rows, self.columns);
        for (name, operand, (rows, columns)) in [
            ("A", &self.a, self.a.stored(self.rows, self.depth)),
            ("B", &self.b, self.b.stored(self.depth, self.columns)),
            ("C", &self.c, c_size),
        ] {
            let bytes = operand.extent(rows, columns);
            if is_empty || bytes == 0 {
                continue;
            }
            operand.check(memory, bytes, self.batch).map_err(|error| format!("{name}: {error}"))?;
        }
        match self.c.place {
            // Not all that overlap, but those by mistake.
            Place::Strided { stride, .. }
                if self.batch > 1 && stride.unsigned_abs() < self.rows && !is_empty =>
            {
                Err("C: the matrices of the batch overlap".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn one<N: Number>(
        &self,
        memory: &Memory,
        index: u64,
        alpha: f64,
        beta: f64,
    ) -> Result<(), MemoryError> {
        let (rows, columns, depth) = (self.rows, self.columns, self.depth);
        let mut sums = vec![N::ZERO; (rows * columns) as usize];
        let (alpha, beta) = (N::from_f64(alpha), N::from_f64(beta));
        if depth > 0 && alpha != N::ZERO {
            let a: Vec<N> = self.a.read(memory, index, self.a.stored(rows, depth))?;
            let b: Vec<N> = self.b.read(memory, index, self.b.stored(depth, columns))?;
            let (a_columns, a_rows) = self.a.strides();
            let (b_columns, b_rows) = self.b.strides();
            // SAFETY: the three hold all elements that these sizes and strides reach: `read` gives
            // whole matrices, and the sums are side by side.
            unsafe {
                gemm::gemm(
                    rows as usize,
                    columns as usize,
                    depth as usize,
                    sums.as_mut_ptr(),
                    rows as isize,
                    1,
                    false,
                    a.as_ptr(),
                    a_columns,
                    a_rows,
                    b.as_ptr(),
                    b_columns,
                    b_rows,
                    N::ZERO,
                    N::ONE,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        }
        // With beta 0, C is not read: it may be anything.
        let before: Option<Vec<N>> =
            (beta != N::ZERO).then(|| self.c.read(memory, index, (rows, columns))).transpose()?;
        for column in 0..columns {
            let own = (column * rows) as usize;
            let sums = &mut sums[own..own + rows as usize];
            for (row, sum) in sums.iter_mut().enumerate() {
                let at = (column * self.c.leading) as usize + row;
                *sum = sum.times_plus(alpha, before.as_ref().map(|before| (beta, before[at])));
            }
            self.c.write(memory, index, column, sums)?;
        }
        Ok(())
    }
}

impl Operand {
    /// Rows and columns as they lie in memory, of a matrix that the product sees so.
    fn stored(&self, rows: u64, columns: u64) -> (u64, u64) {
        if self.transposed { (columns, rows) } else { (rows, columns) }
    }

    /// Elements from column to column and from row to row, as the product sees them.
    fn strides(&self) -> (isize, isize) {
        let leading = self.leading as isize;
        if self.transposed { (1, leading) } else { (leading, 1) }
    }

    /// Bytes from the first element to the end of the last.
    fn extent(&self, rows: u64, columns: u64) -> u64 {
        if rows == 0 || columns == 0 {
            return 0;
        }
        ((columns - 1) * self.leading + rows) * self.kind.bytes()
    }

    fn check(&self, memory: &Memory, bytes: u64, batch: u64) -> Result<(), String> {
        let aligned = |address: u64| {
            if address.is_multiple_of(self.kind.bytes()) {
                Ok(())
            } else {
                Err(format!("{address:#x} is misaligned"))
            }
        };
        match self.place {
            Place::Strided { address, .. } => {
                aligned(address)?;
                for index in [0, batch - 1] {
                    let address = self.address(memory, index);
                    let found = address.and_then(|address| check(memory, address, bytes));
                    found.map_err(|error| error.to_string())?;
                }
                Ok(())
            }
            Place::Listed { array } => {
                check(memory, array, batch * 8).map_err(|error| error.to_string())
            }
        }
    }

    fn address(&self, memory: &Memory, index: u64) -> Result<u64, MemoryError> {
        match self.place {
            Place::Strided { address, stride } => {
                let bytes =
                    stride.wrapping_mul(index as i64).wrapping_mul(self.kind.bytes() as i64);
                Ok(address.wrapping_add_signed(bytes))
            }
            Place::Listed { array } => {
                let mut address = [0; 8];
                memory.read(array + 8 * index, &mut address)?;
                Ok(u64::from_le_bytes(address))
            }
        }
    }

    /// A matrix with what lies between its columns.
    fn read<N: Number>(
        &self,
        memory: &Memory,
        index: u64,
        (rows, columns): (u64, u64),
    ) -> Result<Vec<N>, MemoryError> {
        let mut bytes = vec![0; self.extent(rows, columns) as usize];
        memory.read(self.address(memory, index)?, &mut bytes)?;
        Ok(self.kind.widen(&bytes))
    }

    fn write<N: Number>(
        &self,
        memory: &Memory,
        index: u64,
        column: u64,
        values: &[N],
    ) -> Result<(), MemoryError> {
        let to = self.address(memory, index)? + column * self.leading * self.kind.bytes();
        memory.write(to, &self.kind.round(values))
    }
}

impl Kind {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Elements of this type, as numbers that hold them exactly.
    fn widen<N: Number>(self, bytes: &[u8]) -> Vec<N> {
        match self {
            Self::F16 => each(bytes, |bits| N::from_f32(f16::from_le_bytes(bits).to_f32())),
            Self::Bf16 => each(bytes, |bits| N::from_f32(bf16::from_le_bytes(bits).to_f32())),
            Self::F32 => each(bytes, |bits| N::from_f32(f32::from_le_bytes(bits))),
            Self::F64 => each(bytes, |bits| N::from_f64(f64::from_le_bytes(bits))),
        }
    }

    /// Elements of this type, rounded to nearest.
    fn round<N: Number>(self, values: &[N]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.bytes() as usize);
        for value in values {
            match self {
                Self::F16 => bytes.extend(f16::from_f32(value.to_f32()).to_le_bytes()),
                Self::Bf16 => bytes.extend(bf16::from_f32(value.to_f32()).to_le_bytes()),
                Self::F32 => bytes.extend(value.to_f32().to_le_bytes()),
                Self::F64 => bytes.extend(value.to_f64().to_le_bytes()),
            }
        }
        bytes
    }

    /// One element.
    pub(super) fn value(self, bytes: &[u8]) -> f64 {
        self.widen(bytes)[0]
    }
}

fn each<const BYTES: usize, N>(bytes: &[u8], number: impl Fn([u8; BYTES]) -> N) -> Vec<N> {
    bytes.as_chunks().0.iter().map(|&element| number(element)).collect()
}

impl Scalar {
    fn get(self, memory: &Memory) -> Result<f64, MemoryError> {
        match self {
            Self::Host(value) => Ok(value),
            Self::Device { kind, address } => {
                let mut bytes = vec![0; kind.bytes() as usize];
                memory.read(address, &mut bytes)?;
                Ok(kind.value(&bytes))
            }
        }
    }
}

macro_rules! number {
    ($kind:ty) => {
        impl Number for $kind {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            fn from_f32(value: f32) -> Self {
                Self::from(value)
            }

            fn from_f64(value: f64) -> Self {
                value as Self
            }

            fn to_f32(self) -> f32 {
                self as f32
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn times_plus(self, factor: Self, other: Option<(Self, Self)>) -> Self {
                other.map_or(self * factor, |(a, b)| self.mul_add(factor, a * b))
            }
        }
    };
}

number!(f32);
number!(f64);
