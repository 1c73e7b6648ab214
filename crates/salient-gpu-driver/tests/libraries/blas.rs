use half::{bf16, f16};

use crate::api::{Context, address, get, ok, stream};
use crate::{api, device, host};

const F32: u64 = 0;
const F64: u64 = 1;
const F16: u64 = 2;
const BF16: u64 = 14;
const COMPUTE_16F: u64 = 64;
const COMPUTE_32F: u64 = 68;
const COMPUTE_64F: u64 = 70;
const COMPUTE_TF32: u64 = 77;

const INVALID_VALUE: u32 = 7;
const EXECUTION_FAILED: u32 = 13;
const NOT_SUPPORTED: u32 = 15;

type Words = [u64; 24];
type Entry = unsafe extern "C" fn(
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
    u64,
) -> u32;

/// As `api::call`, for as many arguments as products take.
fn call(name: &str, arguments: &[u64]) -> u32 {
    let mut all: Words = [0; 24];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: it is the address of a function that takes such arguments.
    let entry = unsafe { std::mem::transmute::<u64, Entry>(address(name)) };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x] = all;
    // SAFETY: pointers are of the tests, which keep what they point to, or are refused.
    unsafe { entry(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x) }
}

fn bytes_of(kind: u64) -> usize {
    match kind {
        F64 => 8,
        F32 => 4,
        _ => 2,
    }
}

/// Rounded to a type.
fn round(kind: u64, value: f64) -> f64 {
    match kind {
        F64 => value,
        F32 => f64::from(value as f32),
        F16 => f16::from_f64(value).to_f64(),
        _ => bf16::from_f64(value).to_f64(),
    }
}

fn pack(kind: u64, values: &[f64]) -> Vec<u8> {
    let bytes = |&value: &f64| match kind {
        F64 => value.to_le_bytes().to_vec(),
        F32 => (value as f32).to_le_bytes().to_vec(),
        F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        _ => bf16::from_f64(value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

fn unpack(kind: u64, bytes: &[u8]) -> Vec<f64> {
    let value = |bytes: &[u8]| match kind {
        F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        _ => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
    };
    bytes.chunks(bytes_of(kind)).map(value).collect()
}

/// Numbers between -1 and 1 that a type holds.
fn numbers(kind: u64, count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        round(kind, (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn scalar(kind: u64, value: f64) -> Vec<u8> {
    pack(kind, &[value])
}

/// A product with all that there is to vary.
#[derive(Debug, Clone, Copy)]
struct Case {
    sizes: [usize; 3],
    transposed: [bool; 2],
    /// Elements between columns beyond those of the matrix.
    gaps: [usize; 3],
    kinds: [u64; 2],
    compute: u64,
    alpha: f64,
    beta: f64,
    batch: usize,
}

const CASE: Case = Case {
    sizes: [5, 7, 9],
    transposed: [false, false],
    gaps: [0, 0, 0],
    kinds: [F32, F32],
    compute: COMPUTE_32F,
    alpha: 1.0,
    beta: 0.0,
    batch: 1,
};

/// What C's gaps, and the C of a product that does not read it, hold before.
const BEFORE: f64 = f64::NAN;

impl Case {
    fn leading(&self) -> [usize; 3] {
        let [rows, columns, depth] = self.sizes;
        let [a, b] = self.transposed;
        let stored = [if a { depth } else { rows }, if b { columns } else { depth }, rows];
        [0, 1, 2].map(|index| stored[index] + self.gaps[index])
    }

    fn columns(&self) -> [usize; 3] {
        let [rows, columns, depth] = self.sizes;
        let [a, b] = self.transposed;
        [if a { rows } else { depth }, if b { depth } else { columns }, columns]
    }

    /// Elements of a matrix with its gaps, which is what strides are here.
    fn lengths(&self) -> [usize; 3] {
        let (leading, columns) = (self.leading(), self.columns());
        [0, 1, 2].map(|index| leading[index] * columns[index])
    }

    fn scale(&self) -> u64 {
        match self.compute {
            COMPUTE_16F => F16,
            COMPUTE_64F => F64,
            _ => F32,
        }
    }

    fn operands(&self) -> [Vec<f64>; 3] {
        let [a, b, c] = self.lengths().map(|length| length * self.batch);
        let [ab_kind, c_kind] = self.kinds;
        let rows = self.sizes[0];
        let mut before = numbers(c_kind, c, 3);
        for (at, value) in before.iter_mut().enumerate() {
            if self.beta == 0.0 || at % self.leading()[2] >= rows {
                *value = BEFORE;
            }
        }
        [numbers(ab_kind, a, 1), numbers(ab_kind, b, 2), before]
    }

    /// By definition, in f64.
    fn expected(&self, [a, b, c]: &[Vec<f64>; 3]) -> Vec<f64> {
        let ([rows, columns, depth], leading) = (self.sizes, self.leading());
        let lengths = self.lengths();
        let element = |matrix: &[f64], which: usize, row: usize, column: usize| {
            let (row, column) = if self.transposed[which] { (column, row) } else { (row, column) };
            matrix[column * leading[which] + row]
        };
        let mut result = c.clone();
        for batch in 0..self.batch {
            let (a, b) = (&a[batch * lengths[0]..], &b[batch * lengths[1]..]);
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                let products = (0..depth).map(|k| element(a, 0, row, k) * element(b, 1, k, column));
                let at = batch * lengths[2] + column * leading[2] + row;
                let before = if self.beta == 0.0 { 0.0 } else { self.beta * c[at] };
                result[at] = self.alpha * products.sum::<f64>() + before;
            }
        }
        result
    }

    /// The arguments of `cublasGemmStridedBatchedEx`.
    fn arguments(&self, handle: u64, [a, b, c]: [u64; 3], alpha: &[u8], beta: &[u8]) -> Vec<u64> {
        let [rows, columns, depth] = self.sizes.map(|size| size as u64);
        let [a_leading, b_leading, c_leading] = self.leading().map(|leading| leading as u64);
        let [a_stride, b_stride, c_stride] = self.lengths().map(|length| length as u64);
        let [ab, to] = self.kinds;
        let [a_transposed, b_transposed] = self.transposed.map(u64::from);
        let (alpha, beta) = (alpha.as_ptr() as u64, beta.as_ptr() as u64);
        let batch = self.batch as u64;
        vec![
            handle,
            a_transposed,
            b_transposed,
            rows,
            columns,
            depth,
            alpha,
            a,
            ab,
            a_leading,
            a_stride,
            b,
            ab,
            b_leading,
            b_stride,
            beta,
            c,
            to,
            c_leading,
            c_stride,
            batch,
            self.compute,
            0,
        ]
    }

    fn place(&self, operands: &[Vec<f64>; 3]) -> [u64; 3] {
        let [ab, c] = self.kinds;
        let kinds = [ab, ab, c];
        [0, 1, 2].map(|index| device(&pack(kinds[index], &operands[index])))
    }

    fn result(&self, c: u64) -> Vec<f64> {
        let kind = self.kinds[1];
        unpack(kind, &host(c, self.lengths()[2] * self.batch * bytes_of(kind)))
    }

    /// Each element is off by a rounding to its type, and by those of sums in f32 or f64.
    fn check(&self, actual: &[f64], expected: &[f64]) {
        let of_result = match self.kinds[1] {
            F64 => 0.0,
            F32 => 2f64.powi(-24),
            F16 => 2f64.powi(-11),
            _ => 2f64.powi(-8),
        };
        let of_sums = if self.kinds[0] == F64 { 2f64.powi(-50) } else { 2f64.powi(-22) };
        let sums = of_sums * (self.sizes[2] as f64 + 2.0);
        for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
            if expected.is_nan() {
                assert!(actual.is_nan(), "{self:?}: {index} was written");
                continue;
            }
            let tolerance = of_result * (expected.abs() + sums) + sums;
            let difference = (actual - expected).abs();
            assert!(difference <= tolerance, "{self:?}: {index}: {actual}, not {expected}");
        }
    }

    fn holds(&self, handle: u64) {
        let operands = self.operands();
        let places = self.place(&operands);
        let scale = self.scale();
        let (alpha, beta) = (scalar(scale, self.alpha), scalar(scale, self.beta));
        ok(call("cublasGemmStridedBatchedEx", &self.arguments(handle, places, &alpha, &beta)));
        self.check(&self.result(places[2]), &self.expected(&operands));
        for place in places {
            ok(api::call("cuMemFree_v2", &[place]));
        }
    }
}

const TYPES: [([u64; 2], u64); 8] = [
    ([F32, F32], COMPUTE_32F),
    ([F32, F32], COMPUTE_TF32),
    ([F64, F64], COMPUTE_64F),
    ([F16, F16], COMPUTE_32F),
    ([F16, F16], COMPUTE_16F),
    ([F16, F32], COMPUTE_32F),
    ([BF16, BF16], COMPUTE_32F),
    ([BF16, F32], COMPUTE_32F),
];

#[test]
fn products_are_those_of_the_definition() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    let sizes = [[1, 1, 1], [5, 7, 9], [33, 1, 70], [1, 40, 65], [16, 64, 300]];
    for (kinds, compute) in TYPES {
        for (index, sizes) in sizes.into_iter().enumerate() {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                let gaps = if index % 2 == 0 { [0, 0, 0] } else { [3, 1, 2] };
                let case = Case { sizes, transposed, gaps, kinds, compute, ..CASE };
                case.holds(handle);
                Case { alpha: 0.5, beta: -2.0, batch: 3, ..case }.holds(handle);
            }
        }
    }
}

#[test]
fn nothing_to_add_up_leaves_what_beta_says() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    for (alpha, sizes) in [(1.0, [4, 3, 0]), (0.0, [4, 3, 5])] {
        let case = Case { sizes, gaps: [1, 1, 1], alpha, beta: 0.25, ..CASE };
        let operands = case.operands();
        let places = case.place(
            &operands.clone().map(|values| if values.is_empty() { vec![0.0] } else { values }),
        );
        let (alpha, beta) = (scalar(F32, alpha), scalar(F32, 0.25));
        ok(call("cublasGemmStridedBatchedEx", &case.arguments(handle, places, &alpha, &beta)));
        case.check(&case.result(places[2]), &case.expected(&operands));
    }
    let nothing = Case { sizes: [0, 3, 5], gaps: [1, 0, 1], ..CASE };
    let (alpha, beta) = (scalar(F32, 1.0), scalar(F32, 0.0));
    ok(call("cublasGemmStridedBatchedEx", &nothing.arguments(handle, [0; 3], &alpha, &beta)));
}

#[test]
fn all_forms_of_a_product_agree() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    for (kinds, compute, letter) in [
        ([F32, F32], COMPUTE_32F, 'S'),
        ([F64, F64], COMPUTE_64F, 'D'),
        ([F16, F16], COMPUTE_16F, 'H'),
    ] {
        let batch = 2;
        let case = Case { kinds, compute, alpha: 2.0, beta: 0.5, batch, gaps: [1, 2, 3], ..CASE };
        let (operands, scale) = (case.operands(), case.scale());
        let expected = case.expected(&operands);
        let (alpha, beta) = (scalar(scale, 2.0), scalar(scale, 0.5));
        let list = |address: u64, length: usize| {
            let addresses =
                (0..batch).map(|index| address + (index * length * bytes_of(kinds[0])) as u64);
            device(&addresses.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
        };
        let without = |arguments: &[u64], left_out: &[usize]| {
            let kept = arguments.iter().enumerate().filter(|(index, _)| !left_out.contains(index));
            kept.map(|(_, &argument)| argument).collect::<Vec<_>>()
        };
        let (kind_places, strides) = ([8, 12, 17], [10, 14, 19]);
        let suffix = if letter == 'H' { "" } else { "_v2" };
        let forms: [(String, bool, bool, bool); 5] = [
            (format!("cublas{letter}gemm{suffix}"), false, false, false),
            (format!("cublas{letter}gemmStridedBatched"), false, true, true),
            (format!("cublas{letter}gemmBatched"), false, false, true),
            ("cublasGemmEx".to_owned(), true, false, false),
            ("cublasGemmBatchedEx".to_owned(), true, false, true),
        ];
        for (name, with_kinds, with_strides, batched) in forms {
            let places = case.place(&operands);
            let lengths = case.lengths();
            let listed = batched && !with_strides;
            let given =
                if listed { [0, 1, 2].map(|i| list(places[i], lengths[i])) } else { places };
            let all = case.arguments(handle, given, &alpha, &beta);
            let mut left_out = Vec::new();
            if !with_kinds {
                left_out.extend(kind_places);
                left_out.extend([21, 22]);
            }
            if !with_strides {
                left_out.extend(strides);
            }
            if !batched {
                left_out.push(20);
            }
            ok(call(&name, &without(&all, &left_out)));
            let done = if batched { case } else { Case { batch: 1, ..case } };
            done.check(&done.result(places[2]), &expected[..lengths[2] * done.batch]);
        }
    }
}

#[test]
fn matrices_times_vectors_are_those_of_the_definition() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    let (rows, columns, leading, x_step, y_step) = (6usize, 4usize, 7usize, 2usize, 3usize);
    for (name, kind) in [("cublasSgemv_v2", F32), ("cublasDgemv_v2", F64)] {
        for transposed in [false, true] {
            let (x_len, y_len) = if transposed { (rows, columns) } else { (columns, rows) };
            let a = numbers(kind, leading * columns, 1);
            let x = numbers(kind, x_len * x_step, 2);
            let y = numbers(kind, y_len * y_step, 3);
            let (to_a, to_x, to_y) =
                (device(&pack(kind, &a)), device(&pack(kind, &x)), device(&pack(kind, &y)));
            let (alpha, beta) = (scalar(kind, 3.0), scalar(kind, -1.0));
            let (alpha, beta) = (alpha.as_ptr() as u64, beta.as_ptr() as u64);
            let arguments = [
                handle,
                u64::from(transposed),
                rows as u64,
                columns as u64,
                alpha,
                to_a,
                leading as u64,
                to_x,
                x_step as u64,
                beta,
                to_y,
                y_step as u64,
            ];
            ok(call(name, &arguments));
            let actual = unpack(kind, &host(to_y, y.len() * bytes_of(kind)));
            for (index, (actual, before)) in actual.iter().zip(&y).enumerate() {
                if index % y_step != 0 {
                    assert_eq!(actual, before);
                    continue;
                }
                let element = |k: usize| {
                    let at = index / y_step;
                    let (row, column) = if transposed { (k, at) } else { (at, k) };
                    a[column * leading + row] * x[k * x_step]
                };
                let expected = 3.0 * (0..x_len).map(element).sum::<f64>() - before;
                assert!((actual - expected).abs() < 1e-5, "{actual}, not {expected}");
            }
        }
    }
}

#[test]
fn factors_on_the_device_are_read_when_the_product_runs() {
    let _context = Context::alone();
    let (handle, stream): (u64, u64) = (get("cublasCreate_v2", &[]), stream());
    ok(call("cublasSetStream_v2", &[handle, stream]));
    ok(call("cublasSetPointerMode_v2", &[handle, 1]));
    let (alpha, beta) = (device(&scalar(F32, 1.0)), device(&scalar(F32, 0.0)));
    let operands = CASE.operands();
    let places = CASE.place(&operands);
    let mut arguments = CASE.arguments(handle, places, &[], &[]);
    (arguments[6], arguments[15]) = (alpha, beta);
    ok(api::call("cuStreamBeginCapture_v2", &[stream, 0]));
    ok(call("cublasGemmStridedBatchedEx", &arguments));
    let mut graph = 0u64;
    ok(api::call("cuStreamEndCapture", &[stream, &raw mut graph as u64]));
    assert!(CASE.result(places[2]).iter().all(|value| value.is_nan()), "capturing does nothing");
    let executable: u64 = get("cuGraphInstantiateWithFlags", &[graph, 0]);
    for factor in [1.0, 4.0] {
        let now = scalar(F32, factor);
        ok(api::call("cuMemcpyHtoD_v2", &[alpha, now.as_ptr() as u64, 4]));
        ok(api::call("cuGraphLaunch", &[executable, stream]));
        ok(api::call("cuStreamSynchronize", &[stream]));
        let case = Case { alpha: factor, ..CASE };
        case.check(&case.result(places[2]), &case.expected(&operands));
    }
}

#[test]
fn what_reaches_beyond_its_memory_is_refused() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    let case = Case { batch: 2, gaps: [1, 1, 1], ..CASE };
    let operands = case.operands();
    let places = case.place(&operands);
    let (alpha, beta) = (scalar(F32, 1.0), scalar(F32, 0.0));
    let product = |places| {
        let arguments = case.arguments(handle, places, &alpha, &beta);
        call("cublasGemmStridedBatchedEx", &arguments)
    };
    // The last column has no gap behind it, so one element fits in, and no second.
    ok(product(places));
    for which in 0..3 {
        let mut moved = places;
        moved[which] += 8;
        assert_eq!(product(moved), EXECUTION_FAILED, "{which}");
        moved[which] = places[which] + 2;
        assert_eq!(product(moved), EXECUTION_FAILED, "{which}");
        moved[which] = 0;
        assert_eq!(product(moved), EXECUTION_FAILED, "{which}");
    }
    let mut overlapping = case.arguments(handle, places, &alpha, &beta);
    overlapping[19] = 1;
    assert_eq!(call("cublasGemmStridedBatchedEx", &overlapping), EXECUTION_FAILED);
    // The context goes on.
    ok(product(places));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let _context = Context::new();
    let handle: u64 = get("cublasCreate_v2", &[]);
    let places = CASE.place(&CASE.operands());
    let (alpha, beta) = (scalar(F32, 1.0), scalar(F32, 0.0));
    let arguments = CASE.arguments(handle, places, &alpha, &beta);
    let with = |changes: &[(usize, u64)]| {
        let mut arguments = arguments.clone();
        changes.iter().for_each(|&(index, value)| arguments[index] = value);
        call("cublasGemmStridedBatchedEx", &arguments)
    };
    assert_eq!(with(&[]), 0);
    assert_eq!(with(&[(0, 12_345)]), 1);
    assert_eq!(with(&[(1, 3)]), INVALID_VALUE);
    assert_eq!(with(&[(3, -1i32 as u32 as u64)]), INVALID_VALUE);
    assert_eq!(with(&[(6, 0)]), INVALID_VALUE);
    for leading in [9, 13, 18] {
        let too_small = arguments[leading] - 1;
        assert_eq!(with(&[(leading, too_small)]), INVALID_VALUE);
    }
    let bytes = 3;
    assert_eq!(with(&[(8, bytes), (12, bytes)]), NOT_SUPPORTED);
    assert_eq!(with(&[(8, F16)]), NOT_SUPPORTED);
    assert_eq!(with(&[(21, 72)]), NOT_SUPPORTED);
}
