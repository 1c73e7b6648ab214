//! Comparisons and selections (PTX ISA: Comparison and Selection Instructions; testp).

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::Lower;
use crate::machine::registers::Registers;
use crate::ptx::ast::{Operand, Type};

use super::form::{B16, B32, Form, register};
use super::integer::typed;
use super::lanes::{LANES, Lane, Raw, count, op3, test2};
use super::logic::predicate;
use super::number::{BF16, F16, Half, flush};

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

/// `Inst::e` of a comparison with one destination.
const NOWHERE: u32 = u32::MAX;

/// `setp`.
pub(super) fn lower_predicate(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let comparison = Comparison::of(form)?;
    let kind = form.kind()?;
    let mut inst = comparison.inst(form, kind, operands, cx)?;
    match &operands[0] {
        Operand::Pair(p, q) => {
            inst.d = cx.predicate_target(p)?;
            inst.e = cx.predicate_target(q)?;
        }
        _ if kind.ends_with("x2") => return Err(format!("{} takes p|q", form.spelled())),
        p => inst.d = cx.predicate_target(p)?,
    }
    cx.push(inst);
    Ok(())
}

/// `set`: a comparison, and then one of two numbers.
pub(super) fn lower_number(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let comparison = Comparison::of(form)?;
    let kind = form.kind()?;
    let target = form.kind()?;
    let (yes, size) = match (target, kind) {
        ("u32" | "s32" | "f16x2", "f16x2") | ("u32" | "s32" | "bf16x2", "bf16x2") => (0, B32),
        (_, "f16x2" | "bf16x2") => return Err(form.unknown()),
        ("u32" | "s32", _) => (0xffff_ffff, B32),
        ("f32", _) if !matches!(kind, "f16" | "bf16") => (0x3f80_0000, B32),
        ("u16" | "s16", "f16" | "bf16") => (0xffff, B16),
        ("f16", _) if kind != "bf16" => (0x3c00, B16),
        ("bf16", _) if kind != "f16" => (0x3f80, B16),
        _ => return Err(form.unknown()),
    };
    let mut inst = comparison.inst(form, kind, operands, cx)?;
    inst.d = cx.scratch_predicate();
    let low = inst.d;
    let mut choice = Inst::lanes(select::<u32>);
    if kind.ends_with("x2") {
        inst.e = cx.scratch_predicate();
        choice = Inst::lanes(select_halves);
        choice.a = inst.e << 1;
        choice.immediate = match target {
            "f16x2" => 0x3c00,
            "bf16x2" => 0x3f80,
            _ => 0xffff,
        };
    } else {
        choice.a = cx.constant(yes, false);
        choice.b = cx.constant(0, false);
    }
    cx.push(inst);
    choice.c = low << 1;
    choice.d = cx.target(&operands[0], size)?;
    cx.push(choice);
    Ok(())
}

/// `selp`.
pub(super) fn lower_select(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let run: Option<Lanes> = match kind {
        "b16" | "u16" | "s16" | "b32" | "u32" | "s32" | "f32" => Some(select::<u32>),
        "b64" | "u64" | "s64" | "f64" => Some(select::<u64>),
        _ => None,
    };
    let mut inst = Inst::lanes(form.found(run)?);
    form.count(operands, 4)?;
    let size = register(kind)?;
    inst.a = cx.source(&operands[1], size)?;
    inst.b = cx.source(&operands[2], size)?;
    inst.c = predicate(cx, &operands[3])?;
    inst.d = cx.target(&operands[0], size)?;
    cx.push(inst);
    Ok(())
}

/// `slct`: by the sign of a third operand; NaN is not at least 0.
pub(super) fn lower_by_sign(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let by = form.kind()?;
    let kind = form.kind()?;
    let bits = register(kind)?.bits;
    let flushes = form.flag("ftz");
    let run = match (by, bits, flushes) {
        ("s32", 16, false) => Some(op3!(|a: u16, b: u16, c: i32| if c >= 0 { a } else { b })),
        ("s32", 32, false) => Some(op3!(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b })),
        ("s32", 64, false) => Some(op3!(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b })),
        ("f32", 16, false) => Some(op3!(|a: u16, b: u16, c: f32| if c >= 0.0 { a } else { b })),
        ("f32", 32, false) => Some(op3!(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b })),
        ("f32", 64, false) => Some(op3!(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b })),
        ("f32", 16, true) => {
            Some(op3!(|a: u16, b: u16, c: f32| if flush(c) >= 0.0 { a } else { b }))
        }
        ("f32", 32, true) => {
            Some(op3!(|a: u32, b: u32, c: f32| if flush(c) >= 0.0 { a } else { b }))
        }
        ("f32", 64, true) => {
            Some(op3!(|a: u64, b: u64, c: f32| if flush(c) >= 0.0 { a } else { b }))
        }
        _ => None,
    };
    let run = form.found(run.filter(|_| !matches!(kind, "f16" | "bf16" | "f16x2" | "bf16x2")))?;
    let size = register(kind)?;
    form.push(cx, run, operands, size, &[size, size, register(by)?])
}

/// `testp`.
pub(super) fn lower_class(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let class = form.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    macro_rules! classes {
        ($($name:literal $test:ident $expected:literal),*) => {
            match (class, kind) {
                $(
                    (Some($name), "f32") => {
                        let run: Lanes =
                            |r, i, mask| test(r, i, mask, |a: f32, _| a.$test() == $expected);
                        Some(run)
                    }
                    (Some($name), "f64") => {
                        let run: Lanes =
                            |r, i, mask| test(r, i, mask, |a: f64, _| a.$test() == $expected);
                        Some(run)
                    }
                )*
                _ => None,
            }
        };
    }
    let run = classes!(
        "finite" is_finite true, "infinite" is_infinite true, "number" is_nan false,
        "notanumber" is_nan true, "normal" is_normal true, "subnormal" is_subnormal true
    );
    let mut inst = Inst::lanes(form.found(run)?);
    form.count(operands, 2)?;
    inst.a = cx.source(&operands[1], register(kind)?)?;
    inst.b = inst.a;
    inst.e = NOWHERE;
    inst.d = cx.predicate_target(&operands[0])?;
    cx.push(inst);
    Ok(())
}

/// What the modifiers of `setp` and `set` say before the types.
struct Comparison {
    comparison: &'static str,
    /// What the result is combined with another predicate by.
    combined: Option<&'static str>,
    flushes: bool,
}

impl Comparison {
    fn of(form: &mut Form<'_>) -> Result<Self, String> {
        let comparison = form.first_of(&COMPARISONS).ok_or_else(|| form.unknown())?;
        let combined = form.first_of(&["and", "or", "xor"]);
        Ok(Self { comparison, combined, flushes: form.flag("ftz") })
    }

    /// The instruction but for its destinations.
    fn inst(
        &self,
        form: &Form<'_>,
        kind: &str,
        operands: &[Operand],
        cx: &mut Lower<'_>,
    ) -> Result<Inst, String> {
        let run = form.found(compare(self.comparison, kind, self.flushes))?;
        form.count(operands, if self.combined.is_some() { 4 } else { 3 })?;
        let size: Type = register(kind)?;
        let mut inst = Inst::lanes(run);
        inst.a = cx.source(&operands[1], size)?;
        inst.b = cx.source(&operands[2], size)?;
        inst.e = NOWHERE;
        inst.immediate = match self.combined {
            None => 0,
            Some("and") => 1,
            Some("or") => 2,
            Some(_) => 3,
        };
        if self.combined.is_some() {
            inst.c = predicate(cx, &operands[3])?;
        }
        Ok(inst)
    }
}

fn compare(comparison: &str, kind: &str, flushes: bool) -> Option<Lanes> {
    macro_rules! tests {
        ($T:ty, $test:ident, $of:expr, [$($name:literal $f:expr),*]) => {
            match comparison {
                $($name => {
                    let run: Lanes = |r, i, mask| {
                        $test(r, i, mask, |a: $T, b: $T| $f($of(a), $of(b)))
                    };
                    Some(run)
                })*
                _ => None,
            }
        };
    }
    macro_rules! floats {
        ($T:ty, $test:ident, $of:expr) => {
            tests!(
                $T,
                $test,
                $of,
                [
                    "eq" | a,
                    b | a == b,
                    "ne" | a,
                    b | (a < b) | (a > b),
                    "lt" | a,
                    b | a < b,
                    "le" | a,
                    b | a <= b,
                    "gt" | a,
                    b | a > b,
                    "ge" | a,
                    b | a >= b,
                    "equ" | a,
                    b | (a == b) | unordered(a, b),
                    "neu" | a,
                    b | a != b,
                    "ltu" | a,
                    b | (a < b) | unordered(a, b),
                    "leu" | a,
                    b | (a <= b) | unordered(a, b),
                    "gtu" | a,
                    b | (a > b) | unordered(a, b),
                    "geu" | a,
                    b | (a >= b) | unordered(a, b),
                    "num" | a,
                    b | !unordered(a, b),
                    "nan" | a,
                    b | unordered(a, b)
                ]
            )
        };
    }
    match (kind, flushes) {
        ("b16" | "b32" | "b64", false) => {
            if !matches!(comparison, "eq" | "ne") {
                return None;
            }
            match kind {
                "b16" => compare(comparison, "u16", false),
                "b32" => compare(comparison, "u32", false),
                _ => compare(comparison, "u64", false),
            }
        }
        ("u16" | "u32" | "u64", false) => typed!(kind, ["u16" u16, "u32" u32, "u64" u64], T => {
            tests!(T, test, |x: T| x, [
                "eq" |a, b| a == b, "ne" |a, b| a != b, "lt" |a, b| a < b, "le" |a, b| a <= b,
                "gt" |a, b| a > b, "ge" |a, b| a >= b, "lo" |a, b| a < b, "ls" |a, b| a <= b,
                "hi" |a, b| a > b, "hs" |a, b| a >= b
            ])
        })
        .flatten(),
        ("s16" | "s32" | "s64", false) => typed!(kind, ["s16" i16, "s32" i32, "s64" i64], T => {
            tests!(T, test, |x: T| x, [
                "eq" |a, b| a == b, "ne" |a, b| a != b, "lt" |a, b| a < b, "le" |a, b| a <= b,
                "gt" |a, b| a > b, "ge" |a, b| a >= b
            ])
        })
        .flatten(),
        ("f32", false) => floats!(f32, test, |x: f32| x),
        ("f32", true) => floats!(f32, test, flush),
        ("f64", false) => floats!(f64, test, |x: f64| x),
        ("f16", false) => floats!(F16, test, |x: F16| x.wide()),
        ("f16", true) => floats!(F16, test, |x: F16| x.flushed().wide()),
        ("bf16", false) => floats!(BF16, test, |x: BF16| x.wide()),
        ("f16x2", false) => floats!(F16, test_pair, |x: F16| x.wide()),
        ("f16x2", true) => floats!(F16, test_pair, |x: F16| x.flushed().wide()),
        ("bf16x2", false) => floats!(BF16, test_pair, |x: BF16| x.wide()),
        _ => None,
    }
}

#[inline(always)]
fn unordered<T: PartialOrd>(a: T, b: T) -> bool {
    a.partial_cmp(&b).is_none()
}

#[inline(always)]
fn test<A: Lane>(r: &mut Registers, i: &Inst, mask: u32, f: impl Fn(A, A) -> bool) {
    let truth = test2(r, i, mask, f);
    let (p, q) = combine(r, i, truth, !truth);
    r.set_predicate(i.d, mask, p);
    if i.e != NOWHERE {
        r.set_predicate(i.e, mask, q);
    }
}

/// Of packed values: the first predicate is of the lower halves, the second of the upper.
#[inline(always)]
fn test_pair<A: Lane<Raw = u32>>(r: &mut Registers, i: &Inst, mask: u32, f: impl Fn(A, A) -> bool) {
    let low = test2(r, i, mask, |a: u32, b: u32| f(A::of(a & 0xffff), A::of(b & 0xffff)));
    let high = test2(r, i, mask, |a: u32, b: u32| f(A::of(a >> 16), A::of(b >> 16)));
    let (p, q) = combine(r, i, low, high);
    r.set_predicate(i.d, mask, p);
    r.set_predicate(i.e, mask, q);
}

#[inline(always)]
fn combine(r: &Registers, i: &Inst, p: u32, q: u32) -> (u32, u32) {
    match i.immediate {
        0 => (p, q),
        1 => (p & r.predicate(i.c), q & r.predicate(i.c)),
        2 => (p | r.predicate(i.c), q | r.predicate(i.c)),
        _ => (p ^ r.predicate(i.c), q ^ r.predicate(i.c)),
    }
}

fn select<T: Raw>(r: &mut Registers, i: &Inst, mask: u32) {
    let choice = r.predicate(i.c);
    let count = count(mask);
    let (a, b) = (&T::all(r, i.a)[..count], &T::all(r, i.b)[..count]);
    let mut d = [T::default(); 32];
    for (((d, &a), &b), bit) in d[..count].iter_mut().zip(a).zip(b).zip(&LANES[..count]) {
        *d = T::choose(choice & bit != 0, a, b);
    }
    T::set(r, i.d, mask, &d);
}

/// A number in each half that a predicate holds for.
fn select_halves(r: &mut Registers, i: &Inst, mask: u32) {
    let (low, high) = (r.predicate(i.c), r.predicate(i.a));
    let number = i.immediate as u32;
    let d = std::array::from_fn(|lane| {
        ((low >> lane & 1) * number) | ((high >> lane & 1) * (number << 16))
    });
    r.set_words(i.d, mask, &d);
}
