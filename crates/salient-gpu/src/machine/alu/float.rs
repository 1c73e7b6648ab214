//! Arithmetic of f32, f64 and pairs of f32 (PTX ISA: Floating Point Instructions; Mixed Precision
//! Floating Point Instructions).

use crate::machine::inst::Lanes;
use crate::machine::lower::Lower;
use crate::ptx::ast::Operand;

use super::approx;
use super::form::{Form, register};
use super::lanes::{op1, op2, op3};
use super::number::*;
use super::soft::{add64, div64, fma64, mul64, sqrt64};

const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let size = register(kind)?;
    match form.name {
        "add" | "sub" | "mul" | "fma" | "mad" => return sums(form, kind, operands, cx),
        "min" | "max" => return extremes(form, kind, operands, cx),
        _ => {}
    }
    let approximate = form.one_of(&["approx", "full"]);
    let rounding = rounding(form);
    let flushes = form.flag("ftz");
    let run = match (form.name, kind, approximate, rounding) {
        ("abs" | "neg" | "copysign", _, None, None) => signs(form.name, kind, flushes),
        (_, "f32", None, Some(rounding)) => quotient32(form.name, rounding, flushes),
        (_, "f64", None, Some(rounding)) if !flushes => quotient64(form.name, rounding),
        (name, _, Some(how), None) => approx::handler(name, how, kind, flushes),
        _ => None,
    };
    let run = form.found(run)?;
    let count = if matches!(form.name, "div" | "copysign") { 2 } else { 1 };
    form.push(cx, run, operands, size, &[size; 2][..count])
}

fn rounding(form: &mut Form<'_>) -> Option<u8> {
    let name = form.one_of(&ROUNDINGS)?;
    ROUNDINGS.iter().position(|&rounding| rounding == name).map(|at| at as u8)
}

/// A function's variants by rounding, flushing and saturation.
macro_rules! variants {
    ($op:ident, $f:ident $(, $more:ty)*; $rounding:expr, $flushes:expr, $saturates:expr) => {
        variants!(@ $op, $f, ($($more),*), $rounding, $flushes, $saturates,
            [0 RN, 1 RZ, 2 RM, 3 RP])
    };
    (@ $op:ident, $f:ident, $more:tt, $rounding:expr, $flushes:expr, $saturates:expr,
        [$($at:literal $r:ident),*]) => {
        match ($rounding, $flushes, $saturates) {
            $(
                ($at, false, false) => variants!(! $op, $f, $more, $r, false, false),
                ($at, true, false) => variants!(! $op, $f, $more, $r, true, false),
                ($at, false, true) => variants!(! $op, $f, $more, $r, false, true),
                ($at, true, true) => variants!(! $op, $f, $more, $r, true, true),
            )*
            _ => unreachable!("there are four roundings"),
        }
    };
    (! $op:ident, $f:ident, ($($more:ty),*), $r:ident, $flushes:literal, $saturates:literal) => {
        $op!($f::<$($more,)* $r, $flushes, $saturates>)
    };
}

#[inline(always)]
fn finish<const FTZ: bool, const SAT: bool>(x: f32) -> f32 {
    let x = flush_if::<FTZ>(x);
    if SAT { saturate(x) } else { canonical(x) }
}

#[inline(always)]
fn add<const R: u8, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    finish::<FTZ, SAT>(add32::<R>(flush_if::<FTZ>(a), flush_if::<FTZ>(b)))
}

#[inline(always)]
fn sub<const R: u8, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    add::<R, FTZ, SAT>(a, -b)
}

#[inline(always)]
fn mul<const R: u8, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
    finish::<FTZ, SAT>(mul32::<R>(flush_if::<FTZ>(a), flush_if::<FTZ>(b)))
}

#[inline(always)]
fn fma<const R: u8, const FTZ: bool, const SAT: bool>(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (flush_if::<FTZ>(a), flush_if::<FTZ>(b), flush_if::<FTZ>(c));
    finish::<FTZ, SAT>(fma32::<R>(a, b, c))
}

/// `add`, `sub`, `mul`, `fma`, `mad`.
fn sums(
    form: &mut Form<'_>,
    kind: &str,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = if form.name == "mad" { "fma" } else { form.name };
    let rounding = match rounding(form) {
        None if name == "fma" => return Err(form.unknown()),
        rounding => rounding.unwrap_or(RN),
    };
    let (flushes, saturates) = (form.flag("ftz"), form.flag("sat"));
    let run: Option<Lanes> = match (name, kind) {
        ("add", "f32") => Some(variants!(op2, add; rounding, flushes, saturates)),
        ("sub", "f32") => Some(variants!(op2, sub; rounding, flushes, saturates)),
        ("mul", "f32") => Some(variants!(op2, mul; rounding, flushes, saturates)),
        ("fma", "f32") => Some(variants!(op3, fma; rounding, flushes, saturates)),
        (_, "f64") if !flushes && !saturates => sums64(name, rounding),
        (_, "f32x2") if !saturates && form.name != "mad" => pairs(name, rounding, flushes),
        _ => None,
    };
    let run = form.found(run)?;
    let size = register(kind)?;
    let count = if name == "fma" { 3 } else { 2 };
    form.push(cx, run, operands, size, &[size; 3][..count])
}

fn sums64(name: &str, rounding: u8) -> Option<Lanes> {
    macro_rules! each {
        ($($at:literal $r:ident),*) => {
            match (name, rounding) {
                $(
                    ("add", $at) => Some(op2!(|a, b| canonical64(add64::<$r>(a, b)))),
                    ("sub", $at) => Some(op2!(|a, b: f64| canonical64(add64::<$r>(a, -b)))),
                    ("mul", $at) => Some(op2!(|a, b| canonical64(mul64::<$r>(a, b)))),
                    ("fma", $at) => Some(op3!(|a, b, c| canonical64(fma64::<$r>(a, b, c)))),
                )*
                _ => None,
            }
        };
    }
    each!(0 RN, 1 RZ, 2 RM, 3 RP)
}

#[inline(always)]
fn add_pair<const R: u8, const FTZ: bool, const S: bool>(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [add::<R, FTZ, S>(a[0], b[0]), add::<R, FTZ, S>(a[1], b[1])]
}

#[inline(always)]
fn sub_pair<const R: u8, const FTZ: bool, const S: bool>(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [sub::<R, FTZ, S>(a[0], b[0]), sub::<R, FTZ, S>(a[1], b[1])]
}

#[inline(always)]
fn mul_pair<const R: u8, const FTZ: bool, const S: bool>(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    [mul::<R, FTZ, S>(a[0], b[0]), mul::<R, FTZ, S>(a[1], b[1])]
}

#[inline(always)]
fn fma_pair<const R: u8, const FTZ: bool, const S: bool>(
    a: [f32; 2],
    b: [f32; 2],
    c: [f32; 2],
) -> [f32; 2] {
    [fma::<R, FTZ, S>(a[0], b[0], c[0]), fma::<R, FTZ, S>(a[1], b[1], c[1])]
}

fn pairs(name: &str, rounding: u8, flushes: bool) -> Option<Lanes> {
    Some(match name {
        "add" => variants!(op2, add_pair; rounding, flushes, false),
        "sub" => variants!(op2, sub_pair; rounding, flushes, false),
        "mul" => variants!(op2, mul_pair; rounding, flushes, false),
        "fma" => variants!(op3, fma_pair; rounding, flushes, false),
        _ => return None,
    })
}

/// `add`, `sub` and `fma` of f32 with operands of 16 bits: of a sum the first, of a product both
/// factors.
pub(super) fn lower_mixed(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    #[inline(always)]
    fn add_half<T: Half, const R: u8, const FTZ: bool, const SAT: bool>(a: T, b: f32) -> f32 {
        add::<R, FTZ, SAT>(a.wide(), b)
    }
    #[inline(always)]
    fn sub_half<T: Half, const R: u8, const FTZ: bool, const SAT: bool>(a: T, b: f32) -> f32 {
        sub::<R, FTZ, SAT>(a.wide(), b)
    }
    #[inline(always)]
    fn fma_half<T: Half, const R: u8, const FTZ: bool, const SAT: bool>(a: T, b: T, c: f32) -> f32 {
        fma::<R, FTZ, SAT>(a.wide(), b.wide(), c)
    }
    let half = form.kind()?;
    let single = form.kind()?;
    let rounding = rounding(form);
    let saturates = form.flag("sat");
    if single != "f32" || form.name == "fma" && rounding.is_none() {
        return Err(form.unknown());
    }
    let rounding = rounding.unwrap_or(RN);
    let run = match (form.name, half) {
        ("add", "f16") => Some(variants!(op2, add_half, F16; rounding, false, saturates)),
        ("add", "bf16") => Some(variants!(op2, add_half, BF16; rounding, false, saturates)),
        ("sub", "f16") => Some(variants!(op2, sub_half, F16; rounding, false, saturates)),
        ("sub", "bf16") => Some(variants!(op2, sub_half, BF16; rounding, false, saturates)),
        ("fma", "f16") => Some(variants!(op3, fma_half, F16; rounding, false, saturates)),
        ("fma", "bf16") => Some(variants!(op3, fma_half, BF16; rounding, false, saturates)),
        _ => None,
    };
    let run = form.found(run)?;
    let (half, single) = (register(half)?, register(single)?);
    if form.name == "fma" {
        form.push(cx, run, operands, single, &[half, half, single])
    } else {
        form.push(cx, run, operands, single, &[half, single])
    }
}

/// `abs`, `neg` and `copysign` work on bits, NaNs included.
fn signs(name: &str, kind: &str, flushes: bool) -> Option<Lanes> {
    Some(match (name, kind, flushes) {
        ("abs", "f32", false) => op1!(|a: f32| a.abs()),
        ("abs", "f32", true) => op1!(|a: f32| flush(a).abs()),
        ("abs", "f64", false) => op1!(|a: f64| a.abs()),
        ("neg", "f32", false) => op1!(|a: f32| -a),
        ("neg", "f32", true) => op1!(|a: f32| -flush(a)),
        ("neg", "f64", false) => op1!(|a: f64| -a),
        ("copysign", "f32", false) => op2!(|a: f32, b: f32| b.copysign(a)),
        ("copysign", "f64", false) => op2!(|a: f64, b: f64| b.copysign(a)),
        _ => return None,
    })
}

/// `div`, `rcp` and `sqrt` with a rounding.
fn quotient32(name: &str, rounding: u8, flushes: bool) -> Option<Lanes> {
    #[inline(always)]
    fn div<const R: u8, const FTZ: bool, const SAT: bool>(a: f32, b: f32) -> f32 {
        finish::<FTZ, SAT>(div32::<R>(flush_if::<FTZ>(a), flush_if::<FTZ>(b)))
    }
    #[inline(always)]
    fn rcp<const R: u8, const FTZ: bool, const SAT: bool>(a: f32) -> f32 {
        div::<R, FTZ, SAT>(1.0, a)
    }
    #[inline(always)]
    fn sqrt<const R: u8, const FTZ: bool, const SAT: bool>(a: f32) -> f32 {
        finish::<FTZ, SAT>(sqrt32::<R>(flush_if::<FTZ>(a)))
    }
    Some(match name {
        "div" => variants!(op2, div; rounding, flushes, false),
        "rcp" => variants!(op1, rcp; rounding, flushes, false),
        "sqrt" => variants!(op1, sqrt; rounding, flushes, false),
        _ => return None,
    })
}

fn quotient64(name: &str, rounding: u8) -> Option<Lanes> {
    macro_rules! each {
        ($($at:literal $r:ident),*) => {
            match (name, rounding) {
                $(
                    ("div", $at) => Some(op2!(|a, b| canonical64(div64::<$r>(a, b)))),
                    ("rcp", $at) => Some(op1!(|a| canonical64(div64::<$r>(1.0, a)))),
                    ("sqrt", $at) => Some(op1!(|a| canonical64(sqrt64::<$r>(a)))),
                )*
                _ => None,
            }
        };
    }
    each!(0 RN, 1 RZ, 2 RM, 3 RP)
}

/// `min` and `max`, of three operands too.
fn extremes(
    form: &mut Form<'_>,
    kind: &str,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    #[inline(always)]
    fn two<const MAX: bool, const FTZ: bool, const NAN: bool, const XOR: bool>(
        a: f32,
        b: f32,
    ) -> f32 {
        let (a, b) = (flush_if::<FTZ>(a), flush_if::<FTZ>(b));
        let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
        let (x, y) = if XOR { (a.abs(), b.abs()) } else { (a, b) };
        let d = if MAX { max32(x, y) } else { min32(x, y) };
        let d = nan_if(NAN && (a.is_nan() || b.is_nan()), d);
        if XOR && !d.is_nan() { f32::from_bits(d.to_bits() | sign) } else { d }
    }
    #[inline(always)]
    fn three<const MAX: bool, const FTZ: bool, const NAN: bool, const ABS: bool>(
        a: f32,
        b: f32,
        c: f32,
    ) -> f32 {
        let (a, b, c) = if ABS { (a.abs(), b.abs(), c.abs()) } else { (a, b, c) };
        two::<MAX, FTZ, NAN, false>(two::<MAX, FTZ, NAN, false>(a, b), c)
    }
    macro_rules! flags {
        ($op:ident, $f:ident, $max:expr, $a:expr, $b:expr, $c:expr) => {
            flags!(@ $op, $f, ($max, $a, $b, $c), [
                (false false false false), (false false false true), (false false true false),
                (false false true true), (false true false false), (false true false true),
                (false true true false), (false true true true), (true false false false),
                (true false false true), (true false true false), (true false true true),
                (true true false false), (true true false true), (true true true false),
                (true true true true)
            ])
        };
        (@ $op:ident, $f:ident, $flags:expr, [$(($a:literal $b:literal $c:literal $d:literal)),*]) => {
            match $flags {
                $(($a, $b, $c, $d) => $op!($f::<$a, $b, $c, $d>),)*
            }
        };
    }
    let max = form.name == "max";
    let size = register(kind)?;
    let (flushes, nan) = (form.flag("ftz"), form.flag("NaN"));
    let (xorsign, abs) = (form.flag("xorsign"), form.flag("abs"));
    let run = match (kind, operands.len()) {
        ("f32", 4) if !xorsign => Some(flags!(op3, three, max, flushes, nan, abs)),
        ("f32", _) if xorsign == abs => Some(flags!(op2, two, max, flushes, nan, abs)),
        ("f64", _) if !(flushes || nan || xorsign || abs) => {
            Some(if max { op2!(max64) } else { op2!(min64) })
        }
        _ => None,
    };
    let run = form.found(run)?;
    let count = if kind == "f32" && operands.len() == 4 { 3 } else { 2 };
    form.push(cx, run, operands, size, &[size; 3][..count])
}
