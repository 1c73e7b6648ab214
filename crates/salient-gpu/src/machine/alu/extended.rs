//! Arithmetic with a carry (PTX ISA: Extended-Precision Integer Arithmetic Instructions).

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::Lower;
use crate::machine::registers::Registers;
use crate::ptx::ast::Operand;

use super::form::{Form, register};
use super::lanes::{Lane, Raw};

/// The constant that the row of the condition code register is kept under. No operand of 32 bits
/// has it, and the row begins with its lower half, no carry.
const CARRY: u64 = 1 << 32;

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`. The row of the carry is `Inst::e`.
pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let wide = match kind {
        "u32" | "s32" => false,
        "u64" | "s64" => true,
        _ => return Err(form.unknown()),
    };
    let upper = match form.one_of(&["lo", "hi"]) {
        Some(half) if form.name.starts_with("mad") => half == "hi",
        None if !form.name.starts_with("mad") => false,
        _ => return Err(form.unknown()),
    };
    let leaves = form.flag("cc");
    let run = match (form.name, leaves) {
        ("add" | "sub" | "mad", false) => None,
        ("add", _) => Some(pick(wide, add::<u32, false>, add::<u64, false>)),
        ("addc", _) => Some(pick(wide, add::<u32, true>, add::<u64, true>)),
        ("sub", _) => Some(pick(wide, sub::<u32, false>, sub::<u64, false>)),
        ("subc", _) => Some(pick(wide, sub::<u32, true>, sub::<u64, true>)),
        ("mad", _) => Some(product(kind, upper, false)),
        ("madc", _) => Some(product(kind, upper, true)),
        _ => None,
    };
    let run = form.found(run)?;
    let size = register(kind)?;
    let count = if form.name.starts_with("mad") { 3 } else { 2 };
    form.push(cx, run, operands, size, &[size; 3][..count])?;
    let carry = cx.constant(CARRY, false);
    let unread = cx.scratch(1);
    let inst = cx.insts.last_mut().expect("pushed just now");
    inst.e = carry;
    // Without .cc the carry stays what it was.
    inst.immediate = i64::from(if leaves { carry } else { unread });
    Ok(())
}

fn pick(wide: bool, narrow: Lanes, long: Lanes) -> Lanes {
    if wide { long } else { narrow }
}

fn product(kind: &str, upper: bool, takes: bool) -> Lanes {
    match (kind, upper, takes) {
        ("u64" | "s64", false, false) => mad::<u64, false, false>,
        ("u64" | "s64", false, true) => mad::<u64, false, true>,
        ("u64", true, false) => mad::<u64, true, false>,
        ("u64", true, true) => mad::<u64, true, true>,
        ("s64", true, false) => mad::<i64, true, false>,
        ("s64", true, true) => mad::<i64, true, true>,
        (_, false, false) => mad::<u32, false, false>,
        (_, false, true) => mad::<u32, false, true>,
        ("s32", true, false) => mad::<i32, true, false>,
        ("s32", true, true) => mad::<i32, true, true>,
        (_, true, false) => mad::<u32, true, false>,
        (_, true, true) => mad::<u32, true, true>,
    }
}

/// An integer with the sums, differences and products that these instructions need.
trait Carrying: Lane {
    /// A sum with one carry in, and the carry out.
    fn sum(self, other: Self, carry: bool) -> (Self, bool);
    fn difference(self, other: Self, borrow: bool) -> (Self, bool);
    fn product(self, other: Self, upper: bool) -> Self;
}

macro_rules! carrying {
    ($($type:ty, $unsigned:ty, $wide:ty;)*) => {$(
        impl Carrying for $type {
            #[inline(always)]
            fn sum(self, other: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = (self as $unsigned).overflowing_add(other as $unsigned);
                let (sum, second) = sum.overflowing_add(carry as $unsigned);
                (sum as Self, first | second)
            }

            #[inline(always)]
            fn difference(self, other: Self, borrow: bool) -> (Self, bool) {
                let (rest, first) = (self as $unsigned).overflowing_sub(other as $unsigned);
                let (rest, second) = rest.overflowing_sub(borrow as $unsigned);
                (rest as Self, first | second)
            }

            #[inline(always)]
            fn product(self, other: Self, upper: bool) -> Self {
                let product = self as $wide * other as $wide;
                (if upper { product >> Self::BITS } else { product }) as Self
            }
        }
    )*};
}

carrying! {
    u32, u32, u64;
    i32, u32, i64;
    u64, u64, u128;
    i64, u64, i128;
}

fn add<T: Carrying, const TAKES: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    each::<T, TAKES>(r, i, mask, |a, b, _, carry| a.sum(b, carry));
}

fn sub<T: Carrying, const TAKES: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    each::<T, TAKES>(r, i, mask, |a, b, _, borrow| a.difference(b, borrow));
}

fn mad<T: Carrying, const UPPER: bool, const TAKES: bool>(r: &mut Registers, i: &Inst, mask: u32) {
    each::<T, TAKES>(r, i, mask, |a, b, c, carry| a.product(b, UPPER).sum(c, carry));
}

#[inline(always)]
fn each<T: Lane, const TAKES: bool>(
    r: &mut Registers,
    i: &Inst,
    mask: u32,
    f: impl Fn(T, T, T, bool) -> (T, bool),
) {
    let (a, b, c) = (T::Raw::all(r, i.a), T::Raw::all(r, i.b), T::Raw::all(r, i.c));
    let carries = r.words(i.e);
    let mut d = [T::Raw::default(); 32];
    let mut out = [0; 32];
    for lane in 0..32 {
        let carry = TAKES && carries[lane] != 0;
        let (value, carry) = f(T::of(a[lane]), T::of(b[lane]), T::of(c[lane]), carry);
        d[lane] = value.raw();
        out[lane] = u32::from(carry);
    }
    T::Raw::set(r, i.d, mask, &d);
    r.set_words(i.immediate as u32, mask, &out);
}
