//! The entry points of products.

use std::sync::Arc;

use crate::ffi::{Handle, In};
use crate::library::blas::product::{Kind, Operand, Place, Product, Scalar};
use crate::library::blas::{Status, library};
use crate::library::{Task, entries};
use crate::state::driver;
use crate::work::{Work, submit};

/// What all products are asked for with, before it is looked at.
struct Call {
    name: &'static str,
    handle: Handle,
    operations: [u32; 2],
    /// Rows and columns of C, and what A has columns.
    sizes: [i32; 3],
    alpha: In<u8>,
    beta: In<u8>,
    /// What products and sums are calculated in, and the factors given in.
    compute: Option<(Kind, Kind)>,
    a: Argument,
    b: Argument,
    c: Argument,
    batch: i32,
}

/// A matrix as the caller gives it.
struct Argument {
    place: Place,
    kind: Option<Kind>,
    leading: i32,
}

const ONE: (Kind, Kind) = (Kind::F32, Kind::F32);
const HALF: (Kind, Kind) = (Kind::F32, Kind::F16);
const DOUBLE: (Kind, Kind) = (Kind::F64, Kind::F64);

/// The three forms that there are for each type.
macro_rules! products {
    ($($plain:ident, $strided:ident, $listed:ident: $kind:ident, $compute:ident;)*) => {$(entries! { Status;
        fn $plain(
            handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
            alpha: In<u8>, a: u64, a_leading: i32, b: u64, b_leading: i32,
            beta: In<u8>, c: u64, c_leading: i32
        ) {
            let argument = |address, leading| Argument::strided(address, 0, Some(Kind::$kind), leading);
            Call {
                name: stringify!($plain),
                handle,
                operations: [a_operation, b_operation],
                sizes: [rows, columns, depth],
                alpha,
                beta,
                compute: Some($compute),
                a: argument(a, a_leading),
                b: argument(b, b_leading),
                c: argument(c, c_leading),
                batch: 1,
            }
            .submit()
        }

        fn $strided(
            handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
            alpha: In<u8>, a: u64, a_leading: i32, a_stride: i64,
            b: u64, b_leading: i32, b_stride: i64,
            beta: In<u8>, c: u64, c_leading: i32, c_stride: i64, batch: i32
        ) {
            let argument = |address, leading, stride| {
                Argument::strided(address, stride, Some(Kind::$kind), leading)
            };
            Call {
                name: stringify!($strided),
                handle,
                operations: [a_operation, b_operation],
                sizes: [rows, columns, depth],
                alpha,
                beta,
                compute: Some($compute),
                a: argument(a, a_leading, a_stride),
                b: argument(b, b_leading, b_stride),
                c: argument(c, c_leading, c_stride),
                batch,
            }
            .submit()
        }

        fn $listed(
            handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
            alpha: In<u8>, a: u64, a_leading: i32, b: u64, b_leading: i32,
            beta: In<u8>, c: u64, c_leading: i32, batch: i32
        ) {
            let argument = |array, leading| Argument::listed(array, Some(Kind::$kind), leading);
            Call {
                name: stringify!($listed),
                handle,
                operations: [a_operation, b_operation],
                sizes: [rows, columns, depth],
                alpha,
                beta,
                compute: Some($compute),
                a: argument(a, a_leading),
                b: argument(b, b_leading),
                c: argument(c, c_leading),
                batch,
            }
            .submit()
        }
    })*};
}

products! {
    cublasSgemm_v2, cublasSgemmStridedBatched, cublasSgemmBatched: F32, ONE;
    cublasDgemm_v2, cublasDgemmStridedBatched, cublasDgemmBatched: F64, DOUBLE;
    cublasHgemm, cublasHgemmStridedBatched, cublasHgemmBatched: F16, HALF;
}

entries! { Status;
    fn cublasGemmEx(
        handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
        alpha: In<u8>, a: u64, a_kind: u32, a_leading: i32,
        b: u64, b_kind: u32, b_leading: i32,
        beta: In<u8>, c: u64, c_kind: u32, c_leading: i32,
        compute: u32, _algorithm: i32
    ) {
        Call {
            name: "cublasGemmEx",
            handle,
            operations: [a_operation, b_operation],
            sizes: [rows, columns, depth],
            alpha,
            beta,
            compute: computation(compute),
            a: Argument::strided(a, 0, kind(a_kind), a_leading),
            b: Argument::strided(b, 0, kind(b_kind), b_leading),
            c: Argument::strided(c, 0, kind(c_kind), c_leading),
            batch: 1,
        }
        .submit()
    }

    fn cublasGemmStridedBatchedEx(
        handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
        alpha: In<u8>, a: u64, a_kind: u32, a_leading: i32, a_stride: i64,
        b: u64, b_kind: u32, b_leading: i32, b_stride: i64,
        beta: In<u8>, c: u64, c_kind: u32, c_leading: i32, c_stride: i64,
        batch: i32, compute: u32, _algorithm: i32
    ) {
        Call {
            name: "cublasGemmStridedBatchedEx",
            handle,
            operations: [a_operation, b_operation],
            sizes: [rows, columns, depth],
            alpha,
            beta,
            compute: computation(compute),
            a: Argument::strided(a, a_stride, kind(a_kind), a_leading),
            b: Argument::strided(b, b_stride, kind(b_kind), b_leading),
            c: Argument::strided(c, c_stride, kind(c_kind), c_leading),
            batch,
        }
        .submit()
    }

    fn cublasGemmBatchedEx(
        handle: Handle, a_operation: u32, b_operation: u32, rows: i32, columns: i32, depth: i32,
        alpha: In<u8>, a: u64, a_kind: u32, a_leading: i32,
        b: u64, b_kind: u32, b_leading: i32,
        beta: In<u8>, c: u64, c_kind: u32, c_leading: i32,
        batch: i32, compute: u32, _algorithm: i32
    ) {
        Call {
            name: "cublasGemmBatchedEx",
            handle,
            operations: [a_operation, b_operation],
            sizes: [rows, columns, depth],
            alpha,
            beta,
            compute: computation(compute),
            a: Argument::listed(a, kind(a_kind), a_leading),
            b: Argument::listed(b, kind(b_kind), b_leading),
            c: Argument::listed(c, kind(c_kind), c_leading),
            batch,
        }
        .submit()
    }

    fn cublasSgemv_v2(
        handle: Handle, operation: u32, rows: i32, columns: i32,
        alpha: In<u8>, a: u64, a_leading: i32, x: u64, x_step: i32,
        beta: In<u8>, y: u64, y_step: i32
    ) {
        let call = Call::vector("cublasSgemv_v2", handle, operation, [rows, columns]);
        let argument = |address, leading| Argument::strided(address, 0, Some(Kind::F32), leading);
        let (a, b, c) = (argument(x, x_step), argument(a, a_leading), argument(y, y_step));
        Call { alpha, beta, compute: Some(ONE), a, b, c, ..call }.submit()
    }

    fn cublasDgemv_v2(
        handle: Handle, operation: u32, rows: i32, columns: i32,
        alpha: In<u8>, a: u64, a_leading: i32, x: u64, x_step: i32,
        beta: In<u8>, y: u64, y_step: i32
    ) {
        let call = Call::vector("cublasDgemv_v2", handle, operation, [rows, columns]);
        let argument = |address, leading| Argument::strided(address, 0, Some(Kind::F64), leading);
        let (a, b, c) = (argument(x, x_step), argument(a, a_leading), argument(y, y_step));
        Call { alpha, beta, compute: Some(DOUBLE), a, b, c, ..call }.submit()
    }
}

/// `cudaDataType`.
fn kind(number: u32) -> Option<Kind> {
    match number {
        0 => Some(Kind::F32),
        1 => Some(Kind::F64),
        2 => Some(Kind::F16),
        14 => Some(Kind::Bf16),
        _ => None,
    }
}

/// `cublasComputeType_t`: the type of products and sums here, and that of the factors.
fn computation(number: u32) -> Option<(Kind, Kind)> {
    match number {
        64 | 65 => Some(HALF),
        68 | 69 | 74 | 75 | 77 => Some(ONE),
        70 | 71 => Some(DOUBLE),
        _ => None,
    }
}

impl Argument {
    fn strided(address: u64, stride: i64, kind: Option<Kind>, leading: i32) -> Self {
        Self { place: Place::Strided { address, stride }, kind, leading }
    }

    fn listed(array: u64, kind: Option<Kind>, leading: i32) -> Self {
        Self { place: Place::Listed { array }, kind, leading }
    }

    fn operand(&self, rows: u64, transposed: bool) -> Result<Operand, Status> {
        let kind = self.kind.ok_or(Status::NOT_SUPPORTED)?;
        let leading = u64::try_from(self.leading).map_err(|_| Status::INVALID_VALUE)?;
        if leading < rows.max(1) {
            return Err(Status::INVALID_VALUE);
        }
        Ok(Operand { kind, place: self.place, leading, transposed })
    }
}

impl Call {
    /// `y = alpha op(A) x + beta y`, as a product of rows: that of x with the transpose of op(A).
    /// The steps of vectors are then those from column to column.
    fn vector(
        name: &'static str,
        handle: Handle,
        operation: u32,
        [rows, columns]: [i32; 2],
    ) -> Self {
        let (sizes, transpose) = match operation {
            0 => ([1, rows, columns], 1),
            1 | 2 => ([1, columns, rows], 0),
            other => ([1, columns, rows], other),
        };
        let none = || Argument::strided(0, 0, None, 0);
        Self {
            name,
            handle,
            operations: [0, transpose],
            sizes,
            alpha: In::null(),
            beta: In::null(),
            compute: None,
            a: none(),
            b: none(),
            c: none(),
            batch: 1,
        }
    }

    fn submit(self) -> Result<(), Status> {
        let driver = driver()?;
        let library = library(self.handle, |library| *library)?;
        let product = self.product(library.pointer_mode == 1).inspect_err(|&status| {
            if status == Status::NOT_SUPPORTED {
                eprintln!("software GPU: {}: no such types are multiplied here", self.name);
            }
        })?;
        let memory = driver.devices[library.device].gpu.memory();
        if let Err(error) = product.check(memory) {
            eprintln!("software GPU: {}: {error}", product.name());
            return Err(Status::EXECUTION_FAILED);
        }
        Ok(submit(driver, library.stream, Work::Task(Arc::new(product)))?)
    }

    fn product(&self, scalars_on_device: bool) -> Result<Product, Status> {
        let transposed = |operation: u32| match operation {
            0 => Ok(false),
            // The conjugate of a real number is itself.
            1 | 2 => Ok(true),
            _ => Err(Status::INVALID_VALUE),
        };
        let size = |size: i32| u64::try_from(size).map_err(|_| Status::INVALID_VALUE);
        let [rows, columns, depth] = self.sizes;
        let (rows, columns, depth) = (size(rows)?, size(columns)?, size(depth)?);
        let [of_a, of_b] = self.operations;
        let (of_a, of_b) = (transposed(of_a)?, transposed(of_b)?);
        let a = self.a.operand(if of_a { depth } else { rows }, of_a)?;
        let b = self.b.operand(if of_b { columns } else { depth }, of_b)?;
        let c = self.c.operand(rows, false)?;
        let (compute, factors) = self.compute.ok_or(Status::NOT_SUPPORTED)?;
        // The combinations that `cublasGemmEx` documents, as far as there are types here.
        let is_known = match (compute, factors) {
            (Kind::F64, _) => [a.kind, b.kind, c.kind] == [Kind::F64; 3],
            (_, Kind::F16) => [a.kind, b.kind, c.kind] == [Kind::F16; 3],
            _ => {
                let narrow = a.kind != Kind::F64 && c.kind != Kind::F64;
                a.kind == b.kind && narrow && (c.kind == a.kind || c.kind == Kind::F32)
            }
        };
        if !is_known {
            return Err(Status::NOT_SUPPORTED);
        }
        let scalar = |factor: In<u8>| {
            if factor.is_null() {
                return Err(Status::INVALID_VALUE);
            }
            if scalars_on_device {
                return Ok(Scalar::Device { kind: factors, address: factor.address() });
            }
            Ok(Scalar::Host(factors.value(&factor.list(factors.bytes() as usize)?)))
        };
        Ok(Product {
            name: self.name,
            rows,
            columns,
            depth,
            batch: size(self.batch)?,
            a,
            b,
            c,
            alpha: scalar(self.alpha)?,
            beta: scalar(self.beta)?,
        })
    }
}
