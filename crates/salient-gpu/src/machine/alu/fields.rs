//! Counts, searches and fields of bits (PTX ISA: Integer Arithmetic Instructions).

use crate::machine::inst::Lanes;
use crate::machine::lower::Lower;
use crate::ptx::ast::Operand;

use super::form::{B32, Form, register};
use super::lanes::{op1, op2, op3, op4};

/// `popc`, `clz`, `bfind`, `brev`, `bfe`, `bfi`,
/// `bmsk`, `szext`, `fns`.
pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = form.name;
    let kind = form.kind()?;
    let size = register(kind)?;
    let (run, target, sources) = match name {
        "popc" | "clz" | "brev" => {
            let run = match (name, kind) {
                ("popc", "b32") => Some(op1!(|a: u32| a.count_ones())),
                ("popc", "b64") => Some(op1!(|a: u64| a.count_ones())),
                ("clz", "b32") => Some(op1!(|a: u32| a.leading_zeros())),
                ("clz", "b64") => Some(op1!(|a: u64| a.leading_zeros())),
                ("brev", "b32") => Some(op1!(|a: u32| a.reverse_bits())),
                ("brev", "b64") => Some(op1!(|a: u64| a.reverse_bits())),
                _ => None,
            };
            (run, if name == "brev" { size } else { B32 }, vec![size])
        }
        "bfind" => (highest(form.flag("shiftamt"), kind), B32, vec![size]),
        "bfe" => (extract(kind), size, vec![size, B32, B32]),
        "bfi" => {
            let run = match kind {
                "b32" => Some(op4!(|a: u32, b: u32, c: u32, d: u32| {
                    let field = field(c, d, 32) as u32;
                    b & !field | a.checked_shl(c & 0xff).unwrap_or(0) & field
                })),
                "b64" => Some(op4!(|a: u64, b: u64, c: u32, d: u32| {
                    let field = field(c, d, 64);
                    b & !field | a.checked_shl(c & 0xff).unwrap_or(0) & field
                })),
                _ => None,
            };
            (run, size, vec![size, size, B32, B32])
        }
        "bmsk" => {
            let run = match (form.one_of(&["clamp", "wrap"]), kind) {
                (Some("clamp"), "b32") => {
                    Some(op2!(
                        |a: u32, b: u32| field(if a > 31 { 32 } else { a }, b.min(32), 32) as u32
                    ))
                }
                (Some("wrap"), "b32") => {
                    Some(op2!(|a: u32, b: u32| field(a & 31, b & 31, 32) as u32))
                }
                _ => None,
            };
            (run, B32, vec![B32, B32])
        }
        "szext" => {
            let run = match (form.one_of(&["clamp", "wrap"]), kind) {
                (Some("clamp"), "u32") => Some(op2!(|a: u32, b: u32| low_zeros(a, b.min(32)))),
                (Some("clamp"), "s32") => Some(op2!(|a: u32, b: u32| low_signs(a, b.min(32)))),
                (Some("wrap"), "u32") => Some(op2!(|a: u32, b: u32| low_zeros(a, b & 31))),
                (Some("wrap"), "s32") => Some(op2!(|a: u32, b: u32| low_signs(a, b & 31))),
                _ => None,
            };
            (run, B32, vec![B32, B32])
        }
        "fns" => {
            let run = (kind == "b32").then_some(op3!(nth_set));
            (run, B32, vec![B32; 3])
        }
        _ => (None, B32, vec![]),
    };
    let run = form.found(run)?;
    form.push(cx, run, operands, target, &sources)
}

/// `bfind`: the highest bit that is not the sign; with `.shiftamt` how far it is from the top. All
/// ones if there is none.
fn highest(shift: bool, kind: &str) -> Option<Lanes> {
    #[inline(always)]
    fn find<const SHIFT: bool>(zeros: u32, bits: u32) -> u32 {
        if zeros == bits {
            u32::MAX
        } else if SHIFT {
            zeros
        } else {
            bits - 1 - zeros
        }
    }
    Some(match (kind, shift) {
        ("u32", false) => op1!(|a: u32| find::<false>(a.leading_zeros(), 32)),
        ("u32", true) => op1!(|a: u32| find::<true>(a.leading_zeros(), 32)),
        ("u64", false) => op1!(|a: u64| find::<false>(a.leading_zeros(), 64)),
        ("u64", true) => op1!(|a: u64| find::<true>(a.leading_zeros(), 64)),
        ("s32", false) => op1!(|a: i32| find::<false>((a ^ a >> 31).leading_zeros(), 32)),
        ("s32", true) => op1!(|a: i32| find::<true>((a ^ a >> 31).leading_zeros(), 32)),
        ("s64", false) => op1!(|a: i64| find::<false>((a ^ a >> 63).leading_zeros(), 64)),
        ("s64", true) => op1!(|a: i64| find::<true>((a ^ a >> 63).leading_zeros(), 64)),
        _ => return None,
    })
}

/// The bits of a field, as far as they lie in a word of this many bits. Position and length are
/// bytes.
#[inline(always)]
fn field(position: u32, length: u32, bits: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let word = u64::MAX >> (64 - bits);
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    if position >= bits { 0 } else { ones << position & word }
}

fn extract(kind: &str) -> Option<Lanes> {
    /// `a` is extended to 64 bits as its type has it, so what lies above is what `bfe` fills with.
    #[inline(always)]
    fn zeros(a: u64, position: u32, length: u32) -> u64 {
        let (position, length) = (position & 0xff, length & 0xff);
        let low = if position >= 64 { 0 } else { a >> position };
        if length >= 64 { low } else { low & ((1 << length) - 1) }
    }
    #[inline(always)]
    fn signs(a: i64, position: u32, length: u32) -> i64 {
        let (position, length) = (position & 0xff, length & 0xff);
        let low = a >> position.min(63);
        if length == 0 {
            0
        } else if length >= 64 {
            low
        } else {
            low << (64 - length) >> (64 - length)
        }
    }
    Some(match kind {
        "u32" => op3!(|a: u32, b: u32, c: u32| zeros(u64::from(a), b, c) as u32),
        "u64" => op3!(zeros),
        "s32" => op3!(|a: i32, b: u32, c: u32| signs(i64::from(a), b, c) as i32),
        "s64" => op3!(signs),
        _ => return None,
    })
}

#[inline(always)]
fn low_zeros(a: u32, bits: u32) -> u32 {
    (u64::from(a) & ((1 << bits) - 1)) as u32
}

#[inline(always)]
fn low_signs(a: u32, bits: u32) -> u32 {
    if bits == 0 { 0 } else { ((a << (32 - bits)) as i32 >> (32 - bits)) as u32 }
}

/// `fns`: the bit that is `offset`th of those set, up or down from `base`; 0 asks for `base`
/// itself.
#[inline(always)]
fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let step = if offset < 0 { -1 } else { 1 };
    let mut left = offset.unsigned_abs().saturating_sub(1);
    let mut at = i64::from(base);
    while (0..32).contains(&at) {
        if mask >> at & 1 != 0 {
            if left == 0 {
                return at as u32;
            }
            left -= 1;
        }
        if offset == 0 {
            break;
        }
        at += step;
    }
    u32::MAX
}
