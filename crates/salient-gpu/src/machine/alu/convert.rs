//! `cvt` (PTX ISA: cvt; Operand Size Exceeding Instruction-Type Size). A conversion is done in
//! stages, each an instruction of its own; most have one.

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::Lower;
use crate::ptx::ast::Operand;

use super::form::{B32, Form, register};
use super::lanes::{op1, op2, op3};
use super::narrow as small;
use super::number::*;
use super::whole::{integer_of, real_of, round_to_integer, saturated, truncated};

/// What is done to a value, and how many bits it leaves.
pub(super) struct Stage {
    pub(super) run: Lanes,
    pub(super) bits: u32,
}

/// What the modifiers say besides types.
#[derive(Default)]
pub(super) struct Manner {
    /// Of floating point.
    pub(super) rounding: Option<u8>,
    /// To integers.
    pub(super) integer: Option<u8>,
    pub(super) away: bool,
    pub(super) flushes: bool,
    pub(super) saturates: bool,
    pub(super) finite: bool,
    pub(super) relu: bool,
}

impl Manner {
    fn of(form: &mut Form<'_>) -> Self {
        let at = |form: &mut Form<'_>, names: &[&'static str]| {
            let name = form.one_of(names)?;
            names.iter().position(|&other| other == name).map(|at| at as u8)
        };
        Self {
            rounding: at(form, &["rn", "rz", "rm", "rp"]),
            integer: at(form, &["rni", "rzi", "rmi", "rpi"]),
            away: form.flag("rna"),
            flushes: form.flag("ftz"),
            saturates: form.flag("sat"),
            finite: form.flag("satfinite"),
            relu: form.flag("relu"),
        }
    }

    /// Whether nothing is said but what may be.
    pub(super) fn only(&self, allowed: &[&str]) -> bool {
        let said = [
            ("rounding", self.rounding.is_some()),
            ("integer", self.integer.is_some()),
            ("rna", self.away),
            ("ftz", self.flushes),
            ("sat", self.saturates),
            ("satfinite", self.finite),
            ("relu", self.relu),
        ];
        said.iter().all(|(name, there)| !there || allowed.contains(name))
    }
}

pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    if form.first_of(&["pack"]).is_some() {
        return lower_pack(form, operands, cx);
    }
    let source = form.kind()?;
    let target = form.kind()?;
    let manner = Manner::of(form);
    if matches!(source, "f32") && target.ends_with("x2") {
        let stages = form.found(small::of_two(target, &manner))?;
        form.count(operands, 3)?;
        let from = register(source)?;
        let (a, b) = (cx.source(&operands[1], from)?, cx.source(&operands[2], from)?);
        return emit(stages, a, Some(b), target, &operands[0], cx);
    }
    let stages = form.found(stages(target, source, &manner))?;
    form.count(operands, 2)?;
    let mut row = cx.source_at_least(&operands[1], register(source)?)?;
    if let Operand::Register(number) = operands[1]
        && cx.register_type(number).bits == 64
        && register(source)?.bits < 64
    {
        let mut inst = Inst::lanes(op1!(|a: u64| a as u32));
        inst.a = row;
        inst.d = cx.scratch(1);
        row = inst.d;
        cx.push(inst);
    }
    emit(stages, row, None, target, &operands[0], cx)
}

/// Pushes stages, and one more if the destination is wider than the type: an integer is extended by
/// its sign, anything else by zeros.
fn emit(
    mut stages: Vec<Stage>,
    source: u32,
    second: Option<u32>,
    target: &str,
    operand: &Operand,
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let size = register(target)?;
    let to = cx.target_at_least(operand, size)?;
    if let Operand::Register(number) = *operand {
        let actual = cx.register_type(number).bits;
        let run = match (target, actual) {
            (_, bits) if bits == size.bits => None,
            ("s8", 16) => Some(op1!(|a: i8| i16::from(a))),
            ("s8", 32) => Some(op1!(|a: i8| i32::from(a))),
            ("s8", 64) => Some(op1!(|a: i8| i64::from(a))),
            ("s16", 32) => Some(op1!(|a: i16| i32::from(a))),
            ("s16", 64) => Some(op1!(|a: i16| i64::from(a))),
            ("s32", 64) => Some(op1!(|a: i32| i64::from(a))),
            (_, 64) => Some(op1!(|a: u32| u64::from(a))),
            // What is narrower lies in its row with zeros above.
            _ => None,
        };
        stages.extend(run.map(|run| Stage { run, bits: actual }));
    }
    let mut row = source;
    let last = stages.len() - 1;
    for (at, stage) in stages.into_iter().enumerate() {
        let mut inst = Inst::lanes(stage.run);
        inst.a = row;
        if let (0, Some(second)) = (at, second) {
            inst.b = second;
        }
        inst.d = if at == last { to } else { cx.scratch(stage.bits.div_ceil(32)) };
        row = inst.d;
        cx.push(inst);
    }
    Ok(())
}

fn is_float(kind: &str) -> bool {
    matches!(kind, "f16" | "bf16" | "f32" | "f64")
}

fn stages(target: &str, source: &str, manner: &Manner) -> Option<Vec<Stage>> {
    if target.ends_with("x2") || source.ends_with("x2") || target == "tf32" {
        return small::of_one(target, source, manner);
    }
    let bits = register(target).ok()?.bits;
    let mut stages = Vec::new();
    let mut stage = |run: Lanes, bits| stages.push(Stage { run, bits });
    match (is_float(target), is_float(source)) {
        (false, false) => {
            if !manner.only(&["sat"]) || manner.saturates && holds_all(target, source) {
                return None;
            }
            let run = if manner.saturates { saturated } else { truncated }(target, source)?;
            stage(run, bits);
        }
        (false, true) => {
            // What does not fit is clamped with .sat and without it.
            if !manner.only(&["integer", "sat", "ftz"])
                || manner.flushes && source != "f32"
                || source == "bf16" && (manner.saturates || bits == 8)
            {
                return None;
            }
            if manner.flushes {
                stage(op1!(flush), 32);
            }
            stage(integer_of(target, source, manner.integer?)?, bits);
        }
        (true, false) => {
            if !manner.only(&["rounding", "sat", "ftz"])
                || manner.flushes && target != "f32"
                || target == "bf16" && (manner.saturates || matches!(source, "u8" | "s8"))
            {
                return None;
            }
            stage(real_of(target, source, manner.rounding?)?, bits);
            if manner.saturates {
                stage(saturation(target)?, bits);
            }
        }
        (true, true) => {
            let to_half = bits == 16 && source == "f32";
            if manner.away
                || (manner.relu || manner.finite) && !to_half
                || manner.saturates && (target == "bf16" || source == "bf16")
                || manner.flushes && target != "f32" && source != "f32"
            {
                return None;
            }
            if manner.flushes && source == "f32" {
                stage(op1!(flush), 32);
            }
            let run = real(target, source, manner)?;
            // Saturation alone leaves no NaN to be made canonical.
            if target != source || manner.integer.is_some() || !manner.saturates {
                stage(run, bits);
            }
            if manner.flushes && target == "f32" && source != "f32" {
                stage(op1!(flush), 32);
            }
            if manner.saturates {
                stage(saturation(target)?, bits);
            }
            if manner.finite {
                stage(small::finite(target)?, bits);
            }
            if manner.relu {
                stage(small::relu_of(target)?, bits);
            }
        }
    }
    Some(stages)
}

/// Whether an integer type has all values of another: there is nothing to be clamped.
fn holds_all(target: &str, source: &str) -> bool {
    let [(signed, bits), (from_signed, from_bits)] =
        [target, source].map(|kind| (kind.starts_with('s'), register(kind).map_or(0, |t| t.bits)));
    if signed == from_signed { bits >= from_bits } else { signed && bits > from_bits }
}

fn saturation(kind: &str) -> Option<Lanes> {
    Some(match kind {
        "f16" => op1!(|x: F16| F16::of_f32::<RN>(saturate(x.wide()))),
        "f32" => op1!(saturate),
        "f64" => op1!(|x: f64| {
            let x = if x > 0.0 { x } else { 0.0 };
            if x < 1.0 { x } else { 1.0 }
        }),
        _ => return None,
    })
}

/// Between floating point formats. A rounding is said if and only if it can matter.
fn real(target: &str, source: &str, manner: &Manner) -> Option<Lanes> {
    if target == source {
        if manner.rounding.is_some() {
            return None;
        }
        return match manner.integer {
            Some(rounding) => round_to_integer(target, rounding),
            None => Some(match target {
                "f32" => op1!(canonical),
                "f64" => op1!(canonical64),
                "f16" => op1!(|a: F16| F16::of_f32::<RN>(a.wide())),
                _ => op1!(|a: BF16| BF16::of_f32::<RN>(a.wide())),
            }),
        };
    }
    if manner.integer.is_some() {
        return None;
    }
    macro_rules! rounded {
        ([$($at:literal $r:ident),*]) => {
            match (target, source, manner.rounding?) {
                $(
                    ("f32", "f64", $at) => op1!(|a: f64| canonical(narrow::<$r>(a))),
                    ("f16", "f32", $at) => op1!(|a: f32| F16::of_f32::<$r>(a)),
                    ("bf16", "f32", $at) => op1!(|a: f32| BF16::of_f32::<$r>(a)),
                    ("f16", "f64", $at) => op1!(|a: f64| F16::of_f64::<$r>(a)),
                    ("bf16", "f64", $at) => op1!(|a: f64| BF16::of_f64::<$r>(a)),
                    ("f16", "bf16", $at) => op1!(|a: BF16| F16::of_f32::<$r>(a.wide())),
                    ("bf16", "f16", $at) => op1!(|a: F16| BF16::of_f32::<$r>(a.wide())),
                )*
                _ => return None,
            }
        };
    }
    Some(match (target, source) {
        ("f32", "f16") if manner.rounding.is_none() => op1!(|a: F16| a.wide()),
        // Assemblers take a rounding here too.
        ("f32", "bf16") => op1!(|a: BF16| a.wide()),
        ("f64", "bf16") => op1!(|a: BF16| canonical64(f64::from(a.wide()))),
        ("f64", "f16") if manner.rounding.is_none() => {
            op1!(|a: F16| canonical64(f64::from(a.wide())))
        }
        ("f64", "f32") if manner.rounding.is_none() => {
            op1!(|a: f32| canonical64(f64::from(a)))
        }
        _ => rounded!([0 RN, 1 RZ, 2 RM, 3 RP]),
    })
}

/// `cvt.pack.sat`: two numbers clamped, `a` above `b`; of less than 16 bits, above them what `c`
/// holds at the bottom.
fn lower_pack(form: &mut Form<'_>, operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    #[inline(always)]
    fn pair<const BITS: u32, const SIGNED: bool>(a: i32, b: i32, c: u32) -> u32 {
        let most = if SIGNED { (1 << (BITS - 1)) - 1 } else { (1 << BITS) - 1 };
        let least = if SIGNED { -1 - most } else { 0 };
        let field = |x: i32| x.clamp(least, most) as u32 & ((1 << BITS) - 1);
        (u64::from(c) << (2 * BITS)) as u32 | field(a) << BITS | field(b)
    }
    if !form.flag("sat") {
        return Err(form.unknown());
    }
    let mut source = form.kind()?;
    let below = source == "b32";
    if below {
        source = form.kind()?;
    }
    let run = match (form.kind()?, below) {
        ("u16", false) => Some(op2!(|a, b| pair::<16, false>(a, b, 0))),
        ("s16", false) => Some(op2!(|a, b| pair::<16, true>(a, b, 0))),
        ("u8", true) => Some(op3!(pair::<8, false>)),
        ("s8", true) => Some(op3!(pair::<8, true>)),
        ("u4", true) => Some(op3!(pair::<4, false>)),
        ("s4", true) => Some(op3!(pair::<4, true>)),
        ("u2", true) => Some(op3!(pair::<2, false>)),
        ("s2", true) => Some(op3!(pair::<2, true>)),
        _ => None,
    };
    let run = form.found(run.filter(|_| source == "s32"))?;
    form.push(cx, run, operands, B32, &[B32; 3][..if below { 3 } else { 2 }])
}
