//! Instructions that approximate (`.approx`, `.full`): the nearest number, or one that is off by as
//! much as the manual allows (PTX ISA: Floating Point Instructions; Half Precision Floating Point
//! Instructions).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::config::Approximate;
use crate::machine::inst::{Inst, Lanes};
use crate::machine::registers::Registers;

use super::half::each1;
use super::lanes::{map1, map2, op1};
use super::number::*;

static WORST: AtomicBool = AtomicBool::new(false);

/// Says for the whole process what approximate instructions return.
pub(crate) fn set_approximate(approximate: Approximate) {
    WORST.store(approximate == Approximate::Worst, Ordering::Relaxed);
}

pub(super) fn handler(name: &str, how: &str, kind: &str, flushes: bool) -> Option<Lanes> {
    macro_rules! functions {
        ($($name:literal $f:ident),*) => {
            match (name, how, kind, flushes) {
                $(
                    ($name, "approx", "f32", false) => Some(unary::<$f, false> as Lanes),
                    ($name, "approx", "f32", true) => Some(unary::<$f, true> as Lanes),
                )*
                ("tanh", "approx", "f32", false) => Some(unary::<Tanh, false>),
                ("div", "approx", "f32", false) => Some(quotient::<false, false>),
                ("div", "approx", "f32", true) => Some(quotient::<false, true>),
                ("div", "full", "f32", false) => Some(quotient::<true, false>),
                ("div", "full", "f32", true) => Some(quotient::<true, true>),
                ("ex2", "approx", "f16", false) => Some(half::<Ex2, F16, false, false>),
                ("ex2", "approx", "f16x2", false) => Some(half::<Ex2, F16, true, false>),
                ("ex2", "approx", "bf16", true) => Some(half::<Ex2, BF16, false, true>),
                ("ex2", "approx", "bf16x2", true) => Some(half::<Ex2, BF16, true, true>),
                ("tanh", "approx", "f16", false) => Some(half::<Tanh, F16, false, false>),
                ("tanh", "approx", "f16x2", false) => Some(half::<Tanh, F16, true, false>),
                ("tanh", "approx", "bf16", false) => Some(half::<Tanh, BF16, false, false>),
                ("tanh", "approx", "bf16x2", false) => Some(half::<Tanh, BF16, true, false>),
                ("rsqrt", "approx", "f64", false) => {
                    Some(op1!(|a: f64| canonical64(1.0 / a.sqrt())))
                }
                ("rcp", "approx", "f64", true) => Some(op1!(|a| gross(a, |a| 1.0 / a))),
                ("rsqrt", "approx", "f64", true) => {
                    Some(op1!(|a| gross(a, |a| 1.0 / a.sqrt())))
                }
                _ => None,
            }
        };
    }
    functions!(
        "rcp" Rcp, "sqrt" Sqrt, "rsqrt" Rsqrt, "sin" Sin, "cos" Cos, "lg2" Lg2, "ex2" Ex2
    )
}

/// A function that an instruction approximates.
trait Function {
    fn exact(x: f64) -> f64;

    /// The nearest f32.
    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        Self::exact(f64::from(x)) as f32
    }

    /// By how much the result may be off that should be `exact`.
    fn error(x: f64, exact: f64) -> f64;

    /// The same of 16 bits: of f16 or else bf16.
    fn error_of_half(_exact: f64, _f16: bool) -> f64 {
        unreachable!("only of those that have such a form")
    }
}

struct Rcp;
impl Function for Rcp {
    fn exact(x: f64) -> f64 {
        1.0 / x
    }

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        1.0 / x
    }

    fn error(_: f64, exact: f64) -> f64 {
        ulp(exact)
    }
}

struct Sqrt;
impl Function for Sqrt {
    fn exact(x: f64) -> f64 {
        x.sqrt()
    }

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        x.sqrt()
    }

    fn error(_: f64, exact: f64) -> f64 {
        exact.abs() * (-23f64).exp2()
    }
}

struct Rsqrt;
impl Function for Rsqrt {
    #[inline(always)]
    fn exact(x: f64) -> f64 {
        1.0 / x.sqrt()
    }

    fn error(_: f64, exact: f64) -> f64 {
        exact.abs() * (-22.9f64).exp2()
    }
}

struct Sin;
impl Function for Sin {
    fn exact(x: f64) -> f64 {
        x.sin()
    }

    fn error(x: f64, _: f64) -> f64 {
        error_of_angle(x)
    }
}

struct Cos;
impl Function for Cos {
    fn exact(x: f64) -> f64 {
        x.cos()
    }

    fn error(x: f64, _: f64) -> f64 {
        error_of_angle(x)
    }
}

/// The manual says nothing of angles above 100 pi.
fn error_of_angle(x: f64) -> f64 {
    if x.abs() <= std::f64::consts::TAU { (-20.5f64).exp2() } else { (-14.7f64).exp2() }
}

struct Lg2;
impl Function for Lg2 {
    fn exact(x: f64) -> f64 {
        x.log2()
    }

    fn error(x: f64, exact: f64) -> f64 {
        let scale = if x > 0.5 && x < 2.0 { 1.0 } else { exact.abs() };
        scale * (-22f64).exp2()
    }
}

struct Ex2;
impl Function for Ex2 {
    fn exact(x: f64) -> f64 {
        x.exp2()
    }

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        exp2(x) as f32
    }

    fn error(_: f64, exact: f64) -> f64 {
        2.0 * ulp(exact)
    }

    fn error_of_half(exact: f64, f16: bool) -> f64 {
        exact * if f16 { -9.9f64 } else { -7.0 }.exp2()
    }
}

struct Tanh;
impl Function for Tanh {
    fn exact(x: f64) -> f64 {
        x.tanh()
    }

    fn error(_: f64, exact: f64) -> f64 {
        exact.abs() * (-11f64).exp2()
    }

    fn error_of_half(exact: f64, f16: bool) -> f64 {
        if f16 { (-10.987f64).exp2() } else { exact.abs() * (-8f64).exp2() }
    }
}

/// The power of two to within the last bits of an f64, in operations that vector units have.
#[inline(always)]
fn exp2(x: f32) -> f64 {
    const TERMS: usize = 14;
    /// The Taylor series at 0; the argument is a half at most.
    const SERIES: [f64; TERMS] = {
        let mut series = [1.0; TERMS];
        let mut k = 1;
        while k < TERMS {
            series[k] = series[k - 1] * std::f64::consts::LN_2 / k as f64;
            k += 1;
        }
        series
    };
    /// Added to a number, it leaves the nearest integer in the lowest bits.
    const SHIFT: f64 = (3u64 << 51) as f64;
    let x = f64::from(x);
    let x = if x < -200.0 { -200.0 } else { x };
    let x = if x > 200.0 { 200.0 } else { x };
    let shifted = x + SHIFT;
    let rest = x - (shifted - SHIFT);
    let sum = SERIES[..TERMS - 1]
        .iter()
        .rev()
        .fold(SERIES[TERMS - 1], |sum, &term| sum.mul_add(rest, term));
    sum * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52))
}

/// The distance of the f32 around a number.
fn ulp(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    f64::from(exponent.max(-126) - 23).exp2()
}

/// A number that is off by an error, as far as rounding allows. 0, infinity and NaN stay.
#[inline(always)]
fn disturb<T>(
    exact: f64,
    error: f64,
    bits: u32,
    below: impl Fn(f64) -> T,
    above: impl Fn(f64) -> T,
) -> T {
    let hash = (bits ^ bits >> 15).wrapping_mul(0x9e37_79b9);
    if hash >> 31 != 0 { below(exact + error) } else { above(exact - error) }
}

fn unary<F: Function, const FTZ: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    if WORST.load(Ordering::Relaxed) {
        map1(r, i, mask, |a| single::<F, FTZ>(a, true));
    } else {
        map1(r, i, mask, |a| single::<F, FTZ>(a, false));
    }
}

#[inline(always)]
fn single<F: Function, const FTZ: bool>(a: f32, worst: bool) -> f32 {
    let a = flush_if::<FTZ>(a);
    let d = if worst {
        let exact = F::exact(f64::from(a));
        // What is said of 0 holds exactly.
        disturb32(exact, F::error(f64::from(a), exact), a == 0.0, a.to_bits())
    } else {
        F::nearest(a)
    };
    canonical(flush_if::<FTZ>(d))
}

fn disturb32(exact: f64, error: f64, settled: bool, bits: u32) -> f32 {
    let nearest = exact as f32;
    if settled || nearest == 0.0 || !nearest.is_finite() {
        return nearest;
    }
    disturb(exact, error, bits, narrow::<RM>, narrow::<RP>)
}

fn half<F: Function, T: Half, const PAIR: bool, const FTZ: bool>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
) {
    let worst = WORST.load(Ordering::Relaxed);
    each1::<T, PAIR>(r, i, mask, |a| of_half::<F, T, FTZ>(a, worst));
}

#[inline(always)]
fn of_half<F: Function, T: Half, const FTZ: bool>(a: T, worst: bool) -> T {
    let flushed_if = |x: T| if FTZ { x.flushed() } else { x };
    let a = flushed_if(a);
    let x = f64::from(a.wide());
    let exact = F::exact(x);
    let nearest = T::of_f64::<RN>(exact);
    let special = x == 0.0 || nearest.wide() == 0.0 || !nearest.wide().is_finite();
    if special || !worst {
        return flushed_if(nearest);
    }
    let error = F::error_of_half(exact, T::EXPONENT == F16::EXPONENT);
    flushed_if(disturb(exact, error, a.bits().into(), T::of_f64::<RM>, T::of_f64::<RP>))
}

fn quotient<const FULL: bool, const FTZ: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    let worst = WORST.load(Ordering::Relaxed);
    map2(r, i, mask, |a, b| divide::<FULL, FTZ>(a, b, worst));
}

/// `div.approx` and `div.full`. The former multiplies by a reciprocal, which is 0 above 2^126.
#[inline(always)]
fn divide<const FULL: bool, const FTZ: bool>(a: f32, b: f32, worst: bool) -> f32 {
    let (a, b) = (flush_if::<FTZ>(a), flush_if::<FTZ>(b));
    let vast = !FULL && b.abs() > f32::from_bits((127 + 126) << 23) && b.is_finite();
    let d = if vast {
        a * 0f32.copysign(b)
    } else if worst {
        let exact = f64::from(a) / f64::from(b);
        let bits = a.to_bits() ^ b.to_bits().rotate_left(16);
        disturb32(exact, 2.0 * ulp(exact), false, bits)
    } else {
        a / b
    };
    canonical(flush_if::<FTZ>(d))
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: of the upper word, into the upper word.
#[inline(always)]
fn gross(a: f64, f: impl Fn(f64) -> f64) -> f64 {
    const UPPER: u64 = 0xffff_ffff_0000_0000;
    let flush = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { x };
    let exact = canonical64(f(flush(f64::from_bits(a.to_bits() & UPPER))));
    flush(f64::from_bits((exact.to_bits() + 0x7fff_ffff) & UPPER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that results are off by what is allowed and no more, mostly by all of it, in both
    /// directions.
    fn assert_off(name: &str, results: impl Iterator<Item = (f64, f64, f64)>) {
        let (mut above, mut below, mut far, mut count) = (0, 0, 0, 0);
        for (exact, result, error) in results {
            let off = result - exact;
            assert!(off.abs() <= error, "{name}: {result:e} for {exact:e}, allowed {error:e}");
            above += u32::from(off > 0.0);
            below += u32::from(off < 0.0);
            far += u32::from(off.abs() > error / 4.0);
            count += 1;
        }
        assert!(above > count / 4 && below > count / 4, "{name}: {above}, {below} of {count}");
        assert!(far > count / 2, "{name}: {far} of {count}");
    }

    fn worst_of<F: Function>(name: &str, least: f32, most: f32, error: impl Fn(f64, f64) -> f64) {
        let inputs = (0..4000).map(|at| least + (most - least) * (at as f32 + 0.3) / 4000.0);
        assert_off(
            name,
            inputs.map(|x| {
                let exact = F::exact(x.into());
                (exact, single::<F, false>(x, true).into(), error(x.into(), exact))
            }),
        );
    }

    /// The figures of the manual, once more.
    #[test]
    fn the_worst_is_what_the_manual_allows() {
        let last = |x: f64| (x.abs().log2().floor() - 23.0).exp2();
        worst_of::<Rcp>("rcp", 0.1, 50.0, |_, y| last(y));
        worst_of::<Sqrt>("sqrt", 0.1, 50.0, |_, y| y / 8_388_608.0);
        worst_of::<Rsqrt>("rsqrt", 0.1, 50.0, |_, y| y * 2f64.powf(-22.9));
        worst_of::<Sin>("sin", -6.2, 6.2, |_, _| 2f64.powf(-20.5));
        worst_of::<Cos>("cos", -314.0, 314.0, |x, _| {
            2f64.powf(if x.abs() < 2.0 * std::f64::consts::PI { -20.5 } else { -14.7 })
        });
        worst_of::<Lg2>("lg2", 0.51, 1.99, |_, _| 2f64.powi(-22));
        worst_of::<Lg2>("lg2", 2.5, 900.0, |_, y| y * 2f64.powi(-22));
        worst_of::<Ex2>("ex2", -30.0, 30.0, |_, y| 2.0 * last(y));
        worst_of::<Tanh>("tanh", 0.01, 5.0, |_, y| y * 2f64.powi(-11));
        let quotients = (1..4000).map(|at| {
            let (a, b) = (1.0 + at as f32 / 4000.0, 0.3 + at as f32 * 0.01);
            let exact = f64::from(a) / f64::from(b);
            (exact, divide::<true, false>(a, b, true).into(), 2.0 * last(exact))
        });
        assert_off("div", quotients);
        let halves = (0x2000..0x4400).map(F16);
        assert_off(
            "ex2 of f16",
            halves.map(|a| {
                let exact = f64::from(a.wide()).exp2();
                let result = of_half::<Ex2, F16, false>(a, true).wide();
                (exact, result.into(), exact * 2f64.powf(-9.9))
            }),
        );
    }

    #[test]
    fn what_is_exact_stays() {
        for worst in [false, true] {
            assert_eq!(single::<Rcp, false>(0.0, worst), f32::INFINITY);
            assert_eq!(single::<Rcp, false>(f32::NEG_INFINITY, worst).to_bits(), 1 << 31);
            assert_eq!(single::<Sqrt, false>(-0.0, worst).to_bits(), 1 << 31);
            assert_eq!(single::<Rsqrt, false>(f32::INFINITY, worst).to_bits(), 0);
            assert_eq!(single::<Sin, false>(-0.0, worst).to_bits(), 1 << 31);
            assert_eq!(single::<Cos, false>(0.0, worst), 1.0);
            assert_eq!(single::<Lg2, false>(0.0, worst), f32::NEG_INFINITY);
            assert_eq!(single::<Lg2, true>(f32::from_bits(1), worst), f32::NEG_INFINITY);
            assert_eq!(single::<Ex2, true>(f32::from_bits(1), worst), 1.0);
            assert_eq!(single::<Ex2, false>(f32::NEG_INFINITY, worst).to_bits(), 0);
            assert_eq!(single::<Ex2, false>(128.0, worst), f32::INFINITY);
            assert_eq!(single::<Ex2, true>(-127.0, worst).to_bits(), 0);
            assert_eq!(single::<Tanh, false>(0.0, worst).to_bits(), 0);
            assert_eq!(single::<Sin, false>(f32::INFINITY, worst).to_bits(), 0x7fff_ffff);
            assert_eq!(divide::<false, false>(1.0, 2e38, worst).to_bits(), 0);
            assert!(divide::<false, false>(f32::INFINITY, 2e38, worst).is_nan());
            assert_eq!(divide::<true, false>(-1.0, 0.0, worst), f32::NEG_INFINITY);
        }
    }
}
