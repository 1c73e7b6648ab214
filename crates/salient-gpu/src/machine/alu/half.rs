//! Arithmetic of f16 and bf16, alone and in pairs (PTX ISA: Half Precision Floating Point
//! Instructions).

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::Lower;
use crate::machine::registers::Registers;
use crate::ptx::ast::Operand;

use super::approx;
use super::form::{Form, register};
use super::lanes::{Raw, count, map1, map2, map3};
use super::number::*;

/// What is done with a result: nothing, `.sat`, or `.relu`.
const AS_IS: u8 = 0;
const SAT: u8 = 1;
const RELU: u8 = 2;

pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let run = match form.name {
        "add" | "sub" | "mul" | "fma" => sums(form, kind),
        "neg" | "abs" => signs(form.name, form.flag("ftz"), kind),
        "min" | "max" => extremes(form, kind),
        name => {
            let how = form.one_of(&["approx"]).unwrap_or_default();
            approx::handler(name, how, kind, form.flag("ftz"))
        }
    };
    let run = form.found(run)?;
    let size = register(kind)?;
    let count = match form.name {
        "fma" => 3,
        "add" | "sub" | "mul" | "min" | "max" => 2,
        _ => 1,
    };
    form.push(cx, run, operands, size, &[size; 3][..count])
}

/// A function of values of one format, on one of them or on a pair.
macro_rules! either {
    ($kind:expr, $($f:ident)::+ $(, $flag:tt)*) => {
        match $kind {
            "f16" => Some($($f)::+::<F16, false $(, $flag)*> as Lanes),
            "f16x2" => Some($($f)::+::<F16, true $(, $flag)*> as Lanes),
            "bf16" => Some($($f)::+::<BF16, false $(, $flag)*> as Lanes),
            "bf16x2" => Some($($f)::+::<BF16, true $(, $flag)*> as Lanes),
            _ => None,
        }
    };
}

/// What a row holds, as halves: those of a lane one behind the other.
#[inline(always)]
fn halves(r: &Registers, row: u32, mask: u32) -> &[u16] {
    &bytemuck::cast_slice(r.words(row))[..2 * count(mask)]
}

#[inline(always)]
pub(super) fn each1<T: Half, const PAIR: bool>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(T) -> T,
) {
    if PAIR {
        let mut d = [0u32; 32];
        let a = halves(r, i.a, mask);
        for (d, &a) in bytemuck::cast_slice_mut(&mut d).iter_mut().zip(a) {
            *d = f(T::from_bits(a)).bits();
        }
        u32::set(r, i.d, mask, &d);
    } else {
        map1(r, i, mask, f);
    }
}

#[inline(always)]
fn each2<T: Half, const PAIR: bool>(r: &mut Registers, i: &Inst, mask: u32, f: impl Fn(T, T) -> T) {
    if PAIR {
        let mut d = [0u32; 32];
        let (a, b) = (halves(r, i.a, mask), halves(r, i.b, mask));
        for ((d, &a), &b) in bytemuck::cast_slice_mut(&mut d).iter_mut().zip(a).zip(b) {
            *d = f(T::from_bits(a), T::from_bits(b)).bits();
        }
        u32::set(r, i.d, mask, &d);
    } else {
        map2(r, i, mask, f);
    }
}

#[inline(always)]
fn each3<T: Half, const PAIR: bool>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(T, T, T) -> T,
) {
    if PAIR {
        let mut d = [0u32; 32];
        let (a, b, c) = (halves(r, i.a, mask), halves(r, i.b, mask), halves(r, i.c, mask));
        for (((d, &a), &b), &c) in bytemuck::cast_slice_mut(&mut d).iter_mut().zip(a).zip(b).zip(c)
        {
            *d = f(T::from_bits(a), T::from_bits(b), T::from_bits(c)).bits();
        }
        u32::set(r, i.d, mask, &d);
    } else {
        map3(r, i, mask, f);
    }
}

#[inline(always)]
fn flushed_if<T: Half, const FLUSH: bool>(x: T) -> T {
    if FLUSH { x.flushed() } else { x }
}

#[inline(always)]
fn finish<T: Half, const FTZ: bool, const END: u8>(x: T) -> T {
    let x = flushed_if::<T, FTZ>(x);
    match END {
        SAT => T::of_f32::<RN>(saturate(x.wide())),
        RELU => relu(x),
        _ => x,
    }
}

/// No less than 0; NaN stays NaN.
#[inline(always)]
pub(super) fn relu<T: Half>(x: T) -> T {
    let negative = x.bits() & 0x8000 != 0 && !x.is_nan();
    if negative { T::from_bits(0) } else { x }
}

const ADD: u8 = 0;
const SUB: u8 = 1;
const MUL: u8 = 2;

fn sums(form: &mut Form<'_>, kind: &str) -> Option<Lanes> {
    let rounded = form.flag("rn");
    let flushes = form.flag("ftz");
    let end = match (form.flag("sat"), form.flag("relu")) {
        (false, false) => AS_IS,
        (true, false) => SAT,
        (false, true) if form.name == "fma" => RELU,
        _ => return None,
    };
    if kind.starts_with("bf16") && (flushes || end == SAT) || form.name == "fma" && !rounded {
        return None;
    }
    macro_rules! ends {
        ($f:ident $(, $op:tt)?) => {
            match (flushes, end) {
                (false, AS_IS) => either!(kind, $f $(, $op)?, false, AS_IS),
                (true, AS_IS) => either!(kind, $f $(, $op)?, true, AS_IS),
                (false, SAT) => either!(kind, $f $(, $op)?, false, SAT),
                (true, SAT) => either!(kind, $f $(, $op)?, true, SAT),
                (false, _) => either!(kind, $f $(, $op)?, false, RELU),
                (true, _) => either!(kind, $f $(, $op)?, true, RELU),
            }
        };
    }
    match form.name {
        "add" => ends!(binary, ADD),
        "sub" => ends!(binary, SUB),
        "mul" => ends!(binary, MUL),
        _ => ends!(fma),
    }
}

fn binary<T: Half, const PAIR: bool, const OP: u8, const FTZ: bool, const END: u8>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
) {
    each2::<T, PAIR>(r, i, mask, |a, b| {
        let (a, b) = (flushed_if::<T, FTZ>(a), flushed_if::<T, FTZ>(b));
        finish::<T, FTZ, END>(match OP {
            ADD => T::add(a, b),
            SUB => T::add(a, T::from_bits(b.bits() ^ 0x8000)),
            _ => T::mul(a, b),
        })
    });
}

fn fma<T: Half, const PAIR: bool, const FTZ: bool, const END: u8>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
) {
    each3::<T, PAIR>(r, i, mask, |a, b, c| {
        let (a, b) = (flushed_if::<T, FTZ>(a), flushed_if::<T, FTZ>(b));
        finish::<T, FTZ, END>(T::fma(a, b, flushed_if::<T, FTZ>(c)))
    });
}

/// `neg` and `abs` work on bits, NaNs included.
fn signs(name: &str, flushes: bool, kind: &str) -> Option<Lanes> {
    match (name, flushes) {
        (_, true) if kind.starts_with("bf16") => None,
        ("neg", false) => either!(kind, neg, false),
        ("neg", true) => either!(kind, neg, true),
        (_, false) => either!(kind, abs, false),
        (_, true) => either!(kind, abs, true),
    }
}

fn neg<T: Half, const PAIR: bool, const FTZ: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    each1::<T, PAIR>(r, i, mask, |a| T::from_bits(flushed_if::<T, FTZ>(a).bits() ^ 0x8000));
}

fn abs<T: Half, const PAIR: bool, const FTZ: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    each1::<T, PAIR>(r, i, mask, |a| T::from_bits(flushed_if::<T, FTZ>(a).bits() & 0x7fff));
}

fn extremes(form: &mut Form<'_>, kind: &str) -> Option<Lanes> {
    let (flushes, nan) = (form.flag("ftz"), form.flag("NaN"));
    let (xorsign, abs) = (form.flag("xorsign"), form.flag("abs"));
    if xorsign != abs || kind.starts_with("bf16") && flushes {
        return None;
    }
    macro_rules! flags {
        ($max:literal) => {
            match (flushes, nan, xorsign) {
                (false, false, false) => either!(kind, extreme, $max, false, false, false),
                (false, false, true) => either!(kind, extreme, $max, false, false, true),
                (false, true, false) => either!(kind, extreme, $max, false, true, false),
                (false, true, true) => either!(kind, extreme, $max, false, true, true),
                (true, false, false) => either!(kind, extreme, $max, true, false, false),
                (true, false, true) => either!(kind, extreme, $max, true, false, true),
                (true, true, false) => either!(kind, extreme, $max, true, true, false),
                (true, true, true) => either!(kind, extreme, $max, true, true, true),
            }
        };
    }
    if form.name == "max" { flags!(true) } else { flags!(false) }
}

fn extreme<
    T: Half,
    const PAIR: bool,
    const MAX: bool,
    const FTZ: bool,
    const NAN: bool,
    const XOR: bool,
>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
) {
    each2::<T, PAIR>(r, i, mask, |a, b| {
        let (a, b) = (flushed_if::<T, FTZ>(a), flushed_if::<T, FTZ>(b));
        let sign = (a.bits() ^ b.bits()) & 0x8000;
        let (x, y) = (a.wide(), b.wide());
        let (x, y) = if XOR { (x.abs(), y.abs()) } else { (x, y) };
        let d = if MAX { max32(x, y) } else { min32(x, y) };
        let d = T::of_f32::<RN>(nan_if(NAN && (x.is_nan() || y.is_nan()), d));
        if XOR && !d.is_nan() { T::from_bits(d.bits() | sign) } else { d }
    });
}
