//! Integer arithmetic (PTX ISA: Integer Arithmetic Instructions).

use crate::machine::inst::Lanes;
use crate::machine::lower::Lower;
use crate::ptx::ast::{Operand, Type};

use super::form::{B32, Form, register};
use super::lanes::{op1, op2, op3};

/// A handler with `T` as the type that a name stands for: one of a list, or `None`.
macro_rules! typed {
    ($kind:expr, [$($name:literal $type:ty),*], $T:ident => $handler:expr) => {
        match $kind {
            $($name => { type $T = $type; Some($handler) })*
            _ => None,
        }
    };
    ($kind:expr, integers, $T:ident => $handler:expr) => {
        typed!(
            $kind,
            ["u16" u16, "s16" i16, "u32" u32, "s32" i32, "u64" u64, "s64" i64],
            $T => $handler
        )
    };
}
pub(super) use typed;

pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = form.name;
    let kind = form.kind()?;
    let (run, target, sources) = match name {
        "mul" | "mad" | "mul24" | "mad24" => return product(form, kind, operands, cx),
        "dp4a" | "dp2a" => return dot(form, kind, operands, cx),
        "abs" | "neg" => {
            let run = unary(name, kind);
            (run, register(kind)?, vec![register(kind)?])
        }
        "sad" => {
            let run = typed!(kind, integers, T => op3!(|a: T, b: T, c: T| {
                c.wrapping_add(a.abs_diff(b) as T)
            }));
            (run, register(kind)?, vec![register(kind)?; 3])
        }
        _ => {
            let run = match (form.flag("sat"), form.flag("relu")) {
                (false, false) => binary(name, kind),
                (true, false) => saturating(name, kind),
                (false, true) => clamped(name, kind),
                (true, true) => None,
            };
            (run, register(kind)?, vec![register(kind)?; 2])
        }
    };
    let run = form.found(run)?;
    form.push(cx, run, operands, target, &sources)
}

fn unary(name: &str, kind: &str) -> Option<Lanes> {
    Some(match (name, kind) {
        ("abs", "s16") => op1!(|a: i16| a.wrapping_abs()),
        ("abs", "s32") => op1!(|a: i32| a.wrapping_abs()),
        ("abs", "s64") => op1!(|a: i64| a.wrapping_abs()),
        ("neg", "s16") => op1!(|a: i16| a.wrapping_neg()),
        ("neg", "s32") => op1!(|a: i32| a.wrapping_neg()),
        ("neg", "s64") => op1!(|a: i64| a.wrapping_neg()),
        _ => return None,
    })
}

/// Division by zero gives all ones, quotient and remainder alike, as devices have it; the manual
/// leaves it open. The most negative number divided by -1 is itself, with a remainder of 0.
fn binary(name: &str, kind: &str) -> Option<Lanes> {
    if matches!(kind, "u16x2" | "s16x2") {
        return pairwise(name, kind);
    }
    match name {
        "add" => typed!(kind, integers, T => op2!(|a: T, b: T| a.wrapping_add(b))),
        "sub" => typed!(kind, integers, T => op2!(|a: T, b: T| a.wrapping_sub(b))),
        "div" => typed!(kind, integers, T => op2!(|a: T, b: T| {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        })),
        "rem" => typed!(kind, integers, T => op2!(|a: T, b: T| {
            if b == 0 { !0 } else { a.wrapping_rem(b) }
        })),
        "min" => typed!(kind, integers, T => op2!(|a: T, b: T| a.min(b))),
        "max" => typed!(kind, integers, T => op2!(|a: T, b: T| a.max(b))),
        _ => None,
    }
}

fn pairwise(name: &str, kind: &str) -> Option<Lanes> {
    Some(match (name, kind) {
        ("add", _) => {
            op2!(|a: [u16; 2], b: [u16; 2]| { [a[0].wrapping_add(b[0]), a[1].wrapping_add(b[1])] })
        }
        ("min", "u16x2") => op2!(|a: [u16; 2], b: [u16; 2]| [a[0].min(b[0]), a[1].min(b[1])]),
        ("max", "u16x2") => op2!(|a: [u16; 2], b: [u16; 2]| [a[0].max(b[0]), a[1].max(b[1])]),
        ("min", _) => op2!(|a: [i16; 2], b: [i16; 2]| [a[0].min(b[0]), a[1].min(b[1])]),
        ("max", _) => op2!(|a: [i16; 2], b: [i16; 2]| [a[0].max(b[0]), a[1].max(b[1])]),
        _ => return None,
    })
}

fn saturating(name: &str, kind: &str) -> Option<Lanes> {
    Some(match (name, kind) {
        ("add", "s32") => op2!(|a: i32, b: i32| a.saturating_add(b)),
        ("sub", "s32") => op2!(|a: i32, b: i32| a.saturating_sub(b)),
        _ => return None,
    })
}

/// `.relu`: no less than 0.
fn clamped(name: &str, kind: &str) -> Option<Lanes> {
    Some(match (name, kind) {
        ("min", "s32") => op2!(|a: i32, b: i32| a.min(b).max(0)),
        ("max", "s32") => op2!(|a: i32, b: i32| a.max(b).max(0)),
        ("min", "s16x2") => {
            op2!(|a: [i16; 2], b: [i16; 2]| [a[0].min(b[0]).max(0), a[1].min(b[1]).max(0)])
        }
        ("max", "s16x2") => {
            op2!(|a: [i16; 2], b: [i16; 2]| [a[0].max(b[0]).max(0), a[1].max(b[1]).max(0)])
        }
        _ => return None,
    })
}

/// Products: half of one (`lo`, `hi`), or all of it (`wide`), and something added to that.
fn product(
    form: &mut Form<'_>,
    kind: &str,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = form.name;
    let half = form.one_of(&["lo", "hi", "wide"]).ok_or_else(|| form.unknown())?;
    let saturate = form.flag("sat");
    let run = match (name, half, saturate) {
        ("mul", "lo", false) => {
            typed!(kind, integers, T => op2!(|a: T, b: T| a.wrapping_mul(b)))
        }
        ("mad", "lo", false) => typed!(kind, integers, T => op3!(|a: T, b: T, c: T| {
            a.wrapping_mul(b).wrapping_add(c)
        })),
        ("mul", "hi", false) => {
            typed!(kind, integers, T => op2!(|a: T, b: T| T::high(a, b)))
        }
        ("mad", "hi", false) => typed!(kind, integers, T => op3!(|a: T, b: T, c: T| {
            T::high(a, b).wrapping_add(c)
        })),
        ("mad", "hi", true) if kind == "s32" => {
            Some(op3!(|a: i32, b: i32, c: i32| i32::high(a, b).saturating_add(c)))
        }
        ("mul", "wide", false) => whole(kind),
        ("mad", "wide", false) => whole_and_more(kind),
        ("mul24" | "mad24", _, _) => product_of_24_bits(name, half, kind, saturate),
        _ => None,
    };
    let run = form.found(run)?;
    let factor = register(kind)?;
    let wide = Type { bits: factor.bits * 2, ..factor };
    let rest = if half == "wide" { wide } else { factor };
    let sources = [factor, factor, rest];
    let count = if name.starts_with("mul") { 2 } else { 3 };
    form.push(cx, run, operands, rest, &sources[..count])
}

/// The upper half of a product.
trait High {
    fn high(a: Self, b: Self) -> Self;
}

macro_rules! high {
    ($($type:ty, $wide:ty;)*) => {$(
        impl High for $type {
            #[inline(always)]
            fn high(a: Self, b: Self) -> Self {
                ((a as $wide * b as $wide) >> Self::BITS) as Self
            }
        }
    )*};
}

high! {
    u16, u32;
    i16, i32;
    u32, u64;
    i32, i64;
    u64, u128;
    i64, i128;
}

fn whole(kind: &str) -> Option<Lanes> {
    Some(match kind {
        "u16" => op2!(|a: u16, b: u16| u32::from(a) * u32::from(b)),
        "s16" => op2!(|a: i16, b: i16| i32::from(a) * i32::from(b)),
        "u32" => op2!(|a: u32, b: u32| u64::from(a) * u64::from(b)),
        "s32" => op2!(|a: i32, b: i32| i64::from(a) * i64::from(b)),
        _ => return None,
    })
}

fn whole_and_more(kind: &str) -> Option<Lanes> {
    Some(match kind {
        "u16" => op3!(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        "s16" => op3!(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        "u32" => op3!(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        "s32" => op3!(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        _ => return None,
    })
}

/// Products of the lower 24 bits: of 48 bits, the lower or the upper 32.
fn product_of_24_bits(name: &str, half: &str, kind: &str, saturate: bool) -> Option<Lanes> {
    #[inline(always)]
    fn unsigned(a: u32, b: u32) -> u64 {
        u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
    }
    #[inline(always)]
    fn signed(a: i32, b: i32) -> i64 {
        i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
    }
    Some(match (name, half, kind, saturate) {
        ("mul24", "lo", "u32", false) => op2!(|a: u32, b: u32| unsigned(a, b) as u32),
        ("mul24", "hi", "u32", false) => op2!(|a: u32, b: u32| (unsigned(a, b) >> 16) as u32),
        ("mul24", "lo", "s32", false) => op2!(|a: i32, b: i32| signed(a, b) as i32),
        ("mul24", "hi", "s32", false) => op2!(|a: i32, b: i32| (signed(a, b) >> 16) as i32),
        ("mad24", "lo", "u32", false) => {
            op3!(|a: u32, b: u32, c: u32| (unsigned(a, b) as u32).wrapping_add(c))
        }
        ("mad24", "hi", "u32", false) => {
            op3!(|a: u32, b: u32, c: u32| ((unsigned(a, b) >> 16) as u32).wrapping_add(c))
        }
        ("mad24", "lo", "s32", false) => {
            op3!(|a: i32, b: i32, c: i32| (signed(a, b) as i32).wrapping_add(c))
        }
        ("mad24", "hi", "s32", false) => {
            op3!(|a: i32, b: i32, c: i32| ((signed(a, b) >> 16) as i32).wrapping_add(c))
        }
        ("mad24", "hi", "s32", true) => {
            op3!(|a: i32, b: i32, c: i32| ((signed(a, b) >> 16) as i32).saturating_add(c))
        }
        _ => return None,
    })
}

/// `dp4a` and `dp2a`: the first type is that of `a`, the second that of `b`.
fn dot(
    form: &mut Form<'_>,
    second: &str,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    #[inline(always)]
    fn byte(x: u32, at: usize, signed: bool) -> i32 {
        let byte = (x >> (8 * at)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    }
    #[inline(always)]
    fn of_four<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
        (0..4).fold(c, |sum, at| sum.wrapping_add((byte(a, at, A) * byte(b, at, B)) as u32))
    }
    #[inline(always)]
    fn of_two<const A: bool, const B: bool, const H: usize>(a: u32, b: u32, c: u32) -> u32 {
        (0..2).fold(c, |sum, at| {
            let half = (a >> (16 * at)) as u16;
            let half = if A { i32::from(half as i16) } else { i32::from(half) };
            sum.wrapping_add(half.wrapping_mul(byte(b, at + 2 * H, B)) as u32)
        })
    }
    let name = form.name;
    let first = form.kind()?;
    let half = if name == "dp2a" { form.one_of(&["lo", "hi"]) } else { Some("") };
    let run = half.and_then(|half| {
        Some(match (half, first, second) {
            ("", "u32", "u32") => op3!(of_four::<false, false>),
            ("", "u32", "s32") => op3!(of_four::<false, true>),
            ("", "s32", "u32") => op3!(of_four::<true, false>),
            ("", "s32", "s32") => op3!(of_four::<true, true>),
            ("lo", "u32", "u32") => op3!(of_two::<false, false, 0>),
            ("lo", "u32", "s32") => op3!(of_two::<false, true, 0>),
            ("lo", "s32", "u32") => op3!(of_two::<true, false, 0>),
            ("lo", "s32", "s32") => op3!(of_two::<true, true, 0>),
            ("hi", "u32", "u32") => op3!(of_two::<false, false, 1>),
            ("hi", "u32", "s32") => op3!(of_two::<false, true, 1>),
            ("hi", "s32", "u32") => op3!(of_two::<true, false, 1>),
            ("hi", "s32", "s32") => op3!(of_two::<true, true, 1>),
            _ => return None,
        })
    });
    let run = form.found(run)?;
    form.push(cx, run, operands, B32, &[B32; 3])
}
