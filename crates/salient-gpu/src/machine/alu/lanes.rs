//! Values of a lane, and loops over the 32 of a warp.

use crate::machine::inst::Inst;
use crate::machine::registers::{FULL, Registers};

/// Values of 32 lanes as a row or two hold them.
pub(super) trait Raw: Copy + Default {
    fn all(registers: &Registers, row: u32) -> &[Self; 32];
    fn set(registers: &mut Registers, row: u32, mask: u32, values: &[Self; 32]);
    /// One of two values. In operations on bits: a choice would become one between two addresses,
    /// which is not vectorised.
    fn choose(first: bool, one: Self, other: Self) -> Self;
}

macro_rules! raw {
    ($($type:ty, $rows:literal;)*) => {$(
        impl Raw for $type {
            #[inline(always)]
            fn all(registers: &Registers, row: u32) -> &[Self; 32] {
                let rows = &registers.rows[row as usize..row as usize + $rows];
                bytemuck::from_bytes(bytemuck::cast_slice(rows))
            }

            #[inline(always)]
            fn set(registers: &mut Registers, row: u32, mask: u32, values: &[Self; 32]) {
                let rows = &mut registers.rows[row as usize..row as usize + $rows];
                let to = bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(rows));
                if mask == FULL { *to = *values } else { blend(to, mask, values) }
            }

            #[inline(always)]
            fn choose(first: bool, one: Self, other: Self) -> Self {
                other ^ (other ^ one) & Self::from(first).wrapping_neg()
            }
        }
    )*};
}

// A 128-bit register is four rows, which hold the 16 bytes of one lane after another.
raw! {
    u32, 1;
    u64, 2;
    u128, 4;
}

/// How many lanes a loop goes over: all, unless nothing is to be written. A loop of a length that
/// is known would be unrolled before it could be vectorised.
#[inline(always)]
pub(super) fn count(mask: u32) -> usize {
    32 - usize::from(mask == 0)
}

/// The bit of every lane.
pub(super) static LANES: [u32; 32] = {
    let mut bits = [0; 32];
    let mut lane = 0;
    while lane < 32 {
        bits[lane] = 1 << lane;
        lane += 1;
    }
    bits
};

#[inline(never)]
fn blend<T: Raw>(to: &mut [T; 32], mask: u32, values: &[T; 32]) {
    let count = count(mask);
    for ((to, &value), bit) in to[..count].iter_mut().zip(&values[..count]).zip(&LANES[..count]) {
        *to = T::choose(mask & bit != 0, value, *to);
    }
}

/// A value of one lane.
pub(super) trait Lane: Copy {
    type Raw: Raw;
    fn of(raw: Self::Raw) -> Self;
    fn raw(self) -> Self::Raw;
}

macro_rules! lane {
    ($($type:ty, $raw:ty: |$of:ident| $get:expr, |$to:ident| $put:expr;)*) => {$(
        impl Lane for $type {
            type Raw = $raw;

            #[inline(always)]
            fn of($of: $raw) -> Self {
                $get
            }

            #[inline(always)]
            fn raw(self) -> $raw {
                let $to = self;
                $put
            }
        }
    )*};
}

lane! {
    u8, u32: |x| x as u8, |x| u32::from(x);
    i8, u32: |x| x as i8, |x| u32::from(x as u8);
    u16, u32: |x| x as u16, |x| u32::from(x);
    i16, u32: |x| x as i16, |x| u32::from(x as u16);
    u32, u32: |x| x, |x| x;
    i32, u32: |x| x as i32, |x| x as u32;
    f32, u32: |x| f32::from_bits(x), |x| x.to_bits();
    u64, u64: |x| x, |x| x;
    i64, u64: |x| x as i64, |x| x as u64;
    f64, u64: |x| f64::from_bits(x), |x| x.to_bits();
    u128, u128: |x| x, |x| x;
    [u16; 2], u32: |x| [x as u16, (x >> 16) as u16], |x| u32::from(x[0]) | u32::from(x[1]) << 16;
    [i16; 2], u32: |x| [x as i16, (x >> 16) as i16],
        |x| u32::from(x[0] as u16) | u32::from(x[1] as u16) << 16;
    [f32; 2], u64: |x| [f32::from_bits(x as u32), f32::from_bits((x >> 32) as u32)],
        |x| u64::from(x[0].to_bits()) | u64::from(x[1].to_bits()) << 32;
}

#[inline(always)]
pub(super) fn map1<A: Lane, D: Lane>(r: &mut Registers, i: &Inst, mask: u32, f: impl Fn(A) -> D) {
    let count = count(mask);
    let a = &A::Raw::all(r, i.a)[..count];
    let mut d = [D::Raw::default(); 32];
    for (d, &a) in d[..count].iter_mut().zip(a) {
        *d = f(A::of(a)).raw();
    }
    D::Raw::set(r, i.d, mask, &d);
}

#[inline(always)]
pub(super) fn map2<A: Lane, B: Lane, D: Lane>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(A, B) -> D,
) {
    let count = count(mask);
    let (a, b) = (&A::Raw::all(r, i.a)[..count], &B::Raw::all(r, i.b)[..count]);
    let mut d = [D::Raw::default(); 32];
    for ((d, &a), &b) in d[..count].iter_mut().zip(a).zip(b) {
        *d = f(A::of(a), B::of(b)).raw();
    }
    D::Raw::set(r, i.d, mask, &d);
}

#[inline(always)]
pub(super) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let count = count(mask);
    let (a, b) = (&A::Raw::all(r, i.a)[..count], &B::Raw::all(r, i.b)[..count]);
    let c = &C::Raw::all(r, i.c)[..count];
    let mut d = [D::Raw::default(); 32];
    for (((d, &a), &b), &c) in d[..count].iter_mut().zip(a).zip(b).zip(c) {
        *d = f(A::of(a), B::of(b), C::of(c)).raw();
    }
    D::Raw::set(r, i.d, mask, &d);
}

/// With a fourth source in `Inst::e`.
#[inline(always)]
pub(super) fn map4<A: Lane, B: Lane, C: Lane, E: Lane, D: Lane>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(A, B, C, E) -> D,
) {
    let count = count(mask);
    let (a, b) = (&A::Raw::all(r, i.a)[..count], &B::Raw::all(r, i.b)[..count]);
    let (c, e) = (&C::Raw::all(r, i.c)[..count], &E::Raw::all(r, i.e)[..count]);
    let mut d = [D::Raw::default(); 32];
    for ((((d, &a), &b), &c), &e) in d[..count].iter_mut().zip(a).zip(b).zip(c).zip(e) {
        *d = f(A::of(a), B::of(b), C::of(c), E::of(e)).raw();
    }
    D::Raw::set(r, i.d, mask, &d);
}

/// The lanes in which something holds.
#[inline(always)]
pub(super) fn test2<A: Lane>(r: &Registers, i: &Inst, mask: u32, f: impl Fn(A, A) -> bool) -> u32 {
    let count = count(mask);
    let (a, b) = (&A::Raw::all(r, i.a)[..count], &A::Raw::all(r, i.b)[..count]);
    let mut truth = 0;
    for ((&a, &b), &bit) in a.iter().zip(b).zip(&LANES[..count]) {
        truth |= if f(A::of(a), A::of(b)) { bit } else { 0 };
    }
    truth
}

/// Handlers from closures over the values of one lane that capture nothing.
macro_rules! op1 {
    ($f:expr) => {
        (|r, i, mask| $crate::machine::alu::lanes::map1(r, i, mask, $f))
            as $crate::machine::inst::Lanes
    };
}
macro_rules! op2 {
    ($f:expr) => {
        (|r, i, mask| $crate::machine::alu::lanes::map2(r, i, mask, $f))
            as $crate::machine::inst::Lanes
    };
}
macro_rules! op3 {
    ($f:expr) => {
        (|r, i, mask| $crate::machine::alu::lanes::map3(r, i, mask, $f))
            as $crate::machine::inst::Lanes
    };
}
macro_rules! op4 {
    ($f:expr) => {
        (|r, i, mask| $crate::machine::alu::lanes::map4(r, i, mask, $f))
            as $crate::machine::inst::Lanes
    };
}
pub(super) use {op1, op2, op3, op4};
