//! Small matrices in a warp's registers (PTX ISA: section 9.7.14, Warp Level Matrix
//! Multiply-Accumulate Instructions: ldmatrix, stmatrix, movmatrix, mma).

use crate::config::Sums;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};
use crate::tensor::Lanes;
use crate::tensor::arithmetic::{Accumulator, Arithmetic};
use crate::tensor::fragment::{load_matrices, store_matrices, transpose_matrix};
use crate::tensor::mma::Mma;
use crate::tensor::numbers::Element;

use super::addressing::{WIDE_ADDRESS, address};
use super::inst::{Inst, Machine, More, Stop};
use super::locate::{At, NOWHERE, Pointers, find};
use super::lower::Lower;
use super::observe::{Access, AccessKind, Ordering};
use super::space::{SHARED_WINDOW, Where};
use super::turn::{Step, Turn};
use super::world::World;

const B32: Type = Type { kind: Kind::Bits, bits: 32 };
const F64: Type = Type { kind: Kind::Float, bits: 64 };
const TRANSPOSED: u32 = 2;
const GENERIC: u32 = 4;

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    match (&opcode.name[..], &modifiers[..]) {
        ("ldmatrix" | "stmatrix", ["sync", "aligned", "m8n8", count, rest @ ..]) => {
            move_matrices(&opcode.name, count, rest, operands, cx)?;
        }
        ("movmatrix", ["sync", "aligned", "m8n8", "trans", "b16"]) => {
            let [target, source] = operands else {
                return Err("movmatrix takes two operands".to_owned());
            };
            let mut inst = Inst::machine(|turn, inst, lanes| {
                if lanes != turn.warp().alive {
                    return Ok(Step::Converge);
                }
                let transposed = transpose_matrix(turn.regs().words(inst.a));
                turn.regs().set_words(inst.d, lanes, &transposed);
                Ok(Step::Next)
            });
            inst.d = cx.target(target, B32)?;
            inst.a = cx.source(source, B32)?;
            cx.push(inst);
        }
        ("mma", ["sync", "aligned", shape, "row", "col", rest @ ..]) => {
            multiply(shape, rest, operands, cx)?;
        }
        ("ldmatrix" | "stmatrix" | "movmatrix" | "mma", _) => {
            return Err(format!("there is no {}.{}", opcode.name, modifiers.join(".")));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The parts of a vector operand, or an operand by itself.
pub(crate) fn parts(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        operand => std::slice::from_ref(operand),
    }
}

fn move_matrices(
    name: &str,
    count: &str,
    modifiers: &[&str],
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let count = match count {
        "x1" => 1,
        "x2" => 2,
        "x4" => 4,
        _ => return Err(format!("{name} has no .{count}")),
    };
    let (transposed, rest) = match modifiers {
        ["trans", rest @ ..] => (TRANSPOSED, rest),
        rest => (0, rest),
    };
    let generic = match rest {
        ["b16"] => GENERIC,
        ["shared" | "shared::cta", "b16"] => 0,
        _ => return Err(format!("{name} has no .{}", rest.join("."))),
    };
    let load = name == "ldmatrix";
    let (registers, at) = match operands {
        [registers, at] if load => (registers, at),
        [at, registers] => (registers, at),
        _ => return Err(format!("{name} takes two operands")),
    };
    let registers = parts(registers);
    if registers.len() != count {
        return Err(format!("{name}.x{count} takes {count} registers"));
    }
    let mut inst = Inst::machine(if load { load_rows } else { store_rows });
    let mut more = More::default();
    for register in registers {
        more.targets.push(if load { cx.target(register, B32)? } else { cx.source(register, B32)? });
    }
    let (row, offset, wide, _) = address(at, cx)?;
    (inst.a, inst.immediate) = (row, offset);
    inst.e = wide | transposed | generic;
    inst.more = Some(Box::new(more));
    cx.push(inst);
    Ok(())
}

/// Lane l gives the address of row l % 8 of matrix l / 8.
fn row_pointers(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
    kind: AccessKind,
) -> Result<(Pointers, usize), Stop> {
    let rows = 8 * inst.more.as_ref().expect("lowered with registers").targets.len();
    let mut at = At { row: inst.a, offset: inst.immediate, wide: inst.e & WIDE_ADDRESS != 0 };
    if inst.e & GENERIC != 0 {
        at.offset = at.offset.wrapping_sub_unsigned(SHARED_WINDOW);
    }
    let asked = if rows == 32 { lanes } else { lanes & ((1 << rows) - 1) };
    let access = Access { kind, bytes: 16, place: inst.place, order: Ordering::NONE };
    let mut pointers = NOWHERE;
    if asked != 0 {
        find(turn, Where::Shared, at, asked, access, &mut pointers)?;
    }
    Ok((pointers, rows))
}

fn load_rows(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    let (pointers, rows) = row_pointers(turn, inst, lanes, AccessKind::Read)?;
    let mut data = [[0; 16]; 32];
    for (lane, (row, pointer)) in data[..rows].iter_mut().zip(pointers).enumerate() {
        // A lane that has exited gives no address.
        if lanes >> lane & 1 != 0 {
            // SAFETY: `find` has found the 16 bytes.
            *row = unsafe { (pointer as *const [u8; 16]).read_unaligned() };
        }
    }
    let registers = load_matrices(&data[..rows], inst.e & TRANSPOSED != 0);
    let targets = &inst.more.as_ref().expect("lowered with registers").targets;
    for (&target, values) in targets.iter().zip(&registers) {
        turn.regs().set_words(target, lanes, values);
    }
    Ok(Step::Next)
}

fn store_rows(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    let (pointers, count) = row_pointers(turn, inst, lanes, AccessKind::Write)?;
    let sources = &inst.more.as_ref().expect("lowered with registers").targets;
    let registers: Vec<Lanes> = sources.iter().map(|&row| *turn.regs().words(row)).collect();
    let rows = store_matrices(&registers, inst.e & TRANSPOSED != 0);
    for (lane, (row, pointer)) in rows[..count].iter().zip(pointers).enumerate() {
        if lanes >> lane & 1 != 0 {
            // SAFETY: `find` has found the 16 bytes.
            unsafe { (pointer as *mut [u8; 16]).write_unaligned(*row) };
        }
    }
    Ok(Step::Next)
}

/// `f16`, `bf16`, ... of a matrix operand.
pub(crate) fn element(name: &str) -> Option<Element> {
    Some(match name {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "f64" => Element::F64,
        _ => return None,
    })
}

/// The accumulators' type.
pub(crate) fn accumulator(name: &str, saturates: bool) -> Option<Accumulator> {
    Some(match name {
        "f16" if !saturates => Accumulator::F16,
        "f32" if !saturates => Accumulator::F32,
        "f64" if !saturates => Accumulator::F64,
        "s32" => Accumulator::S32 { saturate: saturates },
        _ => return None,
    })
}

fn multiply(
    shape: &str,
    modifiers: &[&str],
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let (saturates, types) = match modifiers {
        ["satfinite", types @ ..] => (true, types),
        types => (false, types),
    };
    let [d_type, a_type, b_type, c_type] = types else {
        return Err("mma names four types".to_owned());
    };
    let unknown = || format!("mma has no {shape} of {}", types.join(", "));
    if d_type != c_type {
        return Err(unknown());
    }
    let (left, right) = element(a_type).zip(element(b_type)).ok_or_else(unknown)?;
    let sums = accumulator(d_type, saturates).ok_or_else(unknown)?;
    let mma = Mma::new(shape_of(shape).ok_or_else(unknown)?, left, right, sums)
        .map_err(|error| error.to_string())?;
    let [d, a, b, c] = operands else { return Err("mma takes four operands".to_owned()) };
    let double = left == Element::F64;
    let (kind, words) = if double { (F64, 2) } else { (B32, 1) };
    let mut more = More::default();
    let mut rows = |operand: &Operand, count: usize, cx: &mut Lower<'_>| -> Result<(), String> {
        if parts(operand).len() * words != count {
            return Err(format!("mma.{shape} takes {} registers here", count / words));
        }
        for part in parts(operand) {
            let row = cx.source(part, kind)?;
            more.sources.extend((0..words as u32).map(|word| row + word));
        }
        Ok(())
    };
    let (in_a, in_b, in_c) = mma.registers();
    rows(a, in_a, cx)?;
    rows(b, in_b, cx)?;
    rows(c, in_c, cx)?;
    if parts(d).len() * words != in_c {
        return Err(format!("mma.{shape} has {} results", in_c / words));
    }
    for part in parts(d) {
        let row = cx.target(part, kind)?;
        more.targets.extend((0..words as u32).map(|word| row + word));
    }
    let mut inst = Inst::machine(if double { run_doubles } else { run as Machine });
    inst.e = cx.mma(mma);
    inst.more = Some(Box::new(more));
    cx.push(inst);
    Ok(())
}

fn shape_of(text: &str) -> Option<(usize, usize, usize)> {
    let rest = text.strip_prefix('m')?;
    let (m, rest) = rest.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

fn run(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    let arithmetic = turn.world.arithmetic();
    let mma = turn.world.launched.kernel.mmas[inst.e as usize];
    let more = inst.more.as_ref().expect("lowered with registers");
    let (in_a, in_b, in_c) = mma.registers();
    let mut sources = [[0; 32]; 12];
    let regs = turn.regs();
    for (to, &row) in sources.iter_mut().zip(&more.sources) {
        *to = *regs.words(row);
    }
    let (a, rest) = sources.split_at(in_a);
    let (b, rest) = rest.split_at(in_b);
    let mut d = [[0; 32]; 4];
    mma.execute(arithmetic, a, b, &rest[..in_c], &mut d[..in_c]);
    for (&row, values) in more.targets.iter().zip(&d) {
        regs.set_words(row, lanes, values);
    }
    Ok(Step::Next)
}

/// A double's words lie lane by lane in two rows.
fn run_doubles(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    let arithmetic = turn.world.arithmetic();
    let mma = turn.world.launched.kernel.mmas[inst.e as usize];
    let more = inst.more.as_ref().expect("lowered with registers");
    let (in_a, in_b, in_c) = mma.registers();
    let regs = turn.regs();
    let mut sources: Vec<Lanes> = Vec::new();
    for pair in more.sources.chunks_exact(2) {
        let longs = regs.longs(pair[0]);
        sources.push(longs.map(|long| long as u32));
        sources.push(longs.map(|long| (long >> 32) as u32));
    }
    let (a, rest) = sources.split_at(in_a);
    let (b, c) = rest.split_at(in_b);
    let mut d = vec![[0; 32]; in_c];
    mma.execute(arithmetic, a, b, c, &mut d);
    for (pair, words) in more.targets.chunks_exact(2).zip(d.chunks_exact(2)) {
        let longs = std::array::from_fn(|i| u64::from(words[0][i]) | u64::from(words[1][i]) << 32);
        regs.set_longs(pair[0], lanes, &longs);
    }
    Ok(Step::Next)
}

impl World<'_> {
    /// How the device's tensor cores add up.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        match (self.launched.config.sums, self.launched.config.architecture) {
            (Sums::Exact, _) => Arithmetic::Exact,
            (Sums::Device, ..90) => Arithmetic::Sm80,
            (Sums::Device, 90..100) => Arithmetic::Sm90,
            (Sums::Device, _) => Arithmetic::Sm100,
        }
    }
}
