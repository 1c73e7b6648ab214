//! Values of a lane, and loops over the 32 of a warp.

use crate::machine::inst::Inst;
use crate::machine::registers::{Longs, Registers, Words};

/// Values of 32 lanes as a row or two hold them.
pub(super) trait Raw: Copy + Default {
    fn all(registers: &Registers, row: u32) -> &[Self; 32];
    fn set(registers: &mut Registers, row: u32, mask: u32, values: &[Self; 32]);
}

impl Raw for u32 {
    #[inline(always)]
    fn all(registers: &Registers, row: u32) -> &Words {
        registers.words(row)
    }

    #[inline(always)]
    fn set(registers: &mut Registers, row: u32, mask: u32, values: &Words) {
        registers.set_words(row, mask, values);
    }
}

impl Raw for u64 {
    #[inline(always)]
    fn all(registers: &Registers, row: u32) -> &Longs {
        registers.longs(row)
    }

    #[inline(always)]
    fn set(registers: &mut Registers, row: u32, mask: u32, values: &Longs) {
        registers.set_longs(row, mask, values);
    }
}

/// A 128-bit register is four rows, which hold the 16 bytes of one lane after another.
impl Raw for u128 {
    #[inline(always)]
    fn all(registers: &Registers, row: u32) -> &[Self; 32] {
        let rows = &registers.rows[row as usize..row as usize + 4];
        bytemuck::from_bytes(bytemuck::cast_slice(rows))
    }

    #[inline(always)]
    fn set(registers: &mut Registers, row: u32, mask: u32, values: &[Self; 32]) {
        let rows = &mut registers.rows[row as usize..row as usize + 4];
        let to: &mut [Self; 32] = bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(rows));
        for lane in 0..32 {
            to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
        }
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
    let a = A::Raw::all(r, i.a);
    let mut d = [D::Raw::default(); 32];
    for lane in 0..32 {
        d[lane] = f(A::of(a[lane])).raw();
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
    let (a, b) = (A::Raw::all(r, i.a), B::Raw::all(r, i.b));
    let mut d = [D::Raw::default(); 32];
    for lane in 0..32 {
        d[lane] = f(A::of(a[lane]), B::of(b[lane])).raw();
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
    let (a, b, c) = (A::Raw::all(r, i.a), B::Raw::all(r, i.b), C::Raw::all(r, i.c));
    let mut d = [D::Raw::default(); 32];
    for lane in 0..32 {
        d[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).raw();
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
    let (a, b) = (A::Raw::all(r, i.a), B::Raw::all(r, i.b));
    let (c, e) = (C::Raw::all(r, i.c), E::Raw::all(r, i.e));
    let mut d = [D::Raw::default(); 32];
    for lane in 0..32 {
        d[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane]), E::of(e[lane])).raw();
    }
    D::Raw::set(r, i.d, mask, &d);
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
