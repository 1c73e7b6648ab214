//! Products of a warpgroup (PTX ISA: section 9.7.15, Asynchronous Warpgroup Level Matrix
//! Multiply-Accumulate Instructions: wgmma).
//!
//! From its issue until it is waited for, a product's accumulators are poison in the registers:
//! their values are kept aside. What anybody else writes there is a fault.

use std::collections::{HashMap, VecDeque};

use crate::config::Completion;
use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};
use crate::race::Ticket;
use crate::tensor::Lanes;
use crate::tensor::arithmetic::Accumulator;
use crate::tensor::descriptor::{Descriptor, Major};
use crate::tensor::warpgroup::Wgmma;

use super::inst::{Inst, More, Stop};
use super::lower::Lower;
use super::matrix::{accumulator, element, parts};
use super::memory::POISON;
use super::registers::Row;
use super::turn::{Step, Turn, stop};

const B32: Type = Type { kind: Kind::Bits, bits: 32 };
const B64: Type = Type { kind: Kind::Bits, bits: 64 };
const POISONED: Lanes = [(POISON as u32) << 16 | POISON as u32; 32];

const A_IN_REGISTERS: u32 = 1;
const NEGATED_A: u32 = 2;
const NEGATED_B: u32 = 4;
const A_ALONG_MN: u32 = 8;
const B_ALONG_MN: u32 = 16;

/// A warp's share of its warpgroup's products.
#[derive(Default)]
pub(crate) struct Products {
    /// Those that were issued and not waited for, the oldest first.
    pending: Vec<Product>,
    /// Groups that were closed.
    closed: u64,
    /// Products issued since the warp began.
    pub(crate) issued: u64,
    /// What accumulators in flight hold, by row.
    aside: HashMap<u32, Lanes>,
    /// All rows as they were at the last wgmma.fence.
    fenced: Option<Vec<Row>>,
    /// Of the first warp of a warpgroup: what some of its warps have issued and others not yet, the
    /// oldest first; and how many all have.
    ahead: VecDeque<Issued>,
    together: u64,
}

/// What all warps of a warpgroup must issue alike.
#[derive(PartialEq, Eq)]
struct Issued {
    place: u32,
    a: Option<u64>,
    b: u64,
    accumulate: bool,
}

struct Product {
    group: u64,
    wgmma: Wgmma,
    flags: u32,
    rows: Vec<u32>,
    a_rows: Vec<u32>,
    a: [Lanes; 4],
    a_descriptor: Option<Descriptor>,
    b_descriptor: Descriptor,
    accumulate: bool,
    done: bool,
    ticket: Option<Ticket>,
}

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    if opcode.name != "wgmma" {
        return Ok(false);
    }
    if (cx.module.target.architecture, cx.module.target.suffix) != (90, Some('a')) {
        return Err("wgmma is for sm_90a".to_owned());
    }
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    let inst = match (&modifiers[..], operands) {
        (["fence", "sync", "aligned"], []) => Inst::machine(fence),
        (["commit_group", "sync", "aligned"], []) => Inst::machine(commit),
        (["wait_group", "sync", "aligned"], [Operand::Integer(pending @ 0..=7)]) => {
            let mut inst = Inst::machine(wait);
            inst.e = *pending as u32;
            inst
        }
        (["mma_async", "sync", "aligned", shape, types @ ..], operands) => {
            multiply(shape, types, operands, cx)?
        }
        _ => return Err(format!("there is no wgmma.{}", modifiers.join("."))),
    };
    cx.push(inst);
    Ok(true)
}

fn multiply(
    shape: &str,
    types: &[&str],
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let unknown = || format!("wgmma.mma_async has no {shape} of {}", types.join(", "));
    let (saturates, types) = match types {
        ["satfinite", types @ ..] => (true, types),
        types => (false, types),
    };
    let [d_type, a_type, b_type] = types else { return Err(unknown()) };
    let shape = shape.strip_prefix("m64n").and_then(|rest| rest.split_once('k'));
    let (n, k) = shape.and_then(|(n, k)| n.parse().ok().zip(k.parse().ok())).ok_or_else(unknown)?;
    let (left, right) = element(a_type).zip(element(b_type)).ok_or_else(unknown)?;
    let sums = accumulator(d_type, saturates).ok_or_else(unknown)?;
    let wgmma = Wgmma::new((n, k), left, right, sums).map_err(|error| error.to_string())?;
    let [d, a, b, scale_d, rest @ ..] = operands else {
        return Err("wgmma.mma_async takes more operands".to_owned());
    };
    let in_registers = matches!(a, Operand::Vector(_));
    let integers = matches!(sums, Accumulator::S32 { .. });
    let wanted = match (integers, left.bytes(), in_registers) {
        (true, ..) => 0,
        (_, 2, true) => 3,
        (_, 2, false) => 4,
        _ => 2,
    };
    if rest.len() != wanted {
        return Err(format!("wgmma.mma_async takes {} operands here", 4 + wanted));
    }
    let mut numbers = Vec::new();
    for operand in rest {
        match operand {
            Operand::Integer(number) => numbers.push(*number as i64),
            _ => return Err("the last operands of wgmma.mma_async are numbers".to_owned()),
        }
    }
    let scales = numbers.iter().take(2).all(|scale| matches!(scale, 1 | -1));
    let majors = numbers.iter().skip(2).all(|major| matches!(major, 0 | 1));
    if !scales || !majors {
        return Err("wgmma.mma_async scales by 1 or -1 and transposes by 0 or 1".to_owned());
    }
    let flag = |i: usize, value: i64, flag: u32| match numbers.get(i) {
        Some(&number) if number == value => flag,
        _ => 0,
    };
    let mut inst = Inst::machine(issue);
    inst.e = flag(0, -1, NEGATED_A) | flag(1, -1, NEGATED_B);
    inst.e |= match in_registers {
        true => A_IN_REGISTERS | flag(2, 1, B_ALONG_MN),
        false => flag(2, 1, A_ALONG_MN) | flag(3, 1, B_ALONG_MN),
    };
    let mut more = More::default();
    if parts(d).len() != wgmma.accumulators() {
        return Err(format!("wgmma.mma_async has {} accumulators", wgmma.accumulators()));
    }
    for part in parts(d) {
        more.targets.push(cx.target(part, B32)?);
    }
    if in_registers {
        if parts(a).len() != 4 {
            return Err("wgmma.mma_async takes 4 registers of a".to_owned());
        }
        for part in parts(a) {
            more.sources.push(cx.source(part, B32)?);
        }
    } else {
        inst.a = cx.source(a, B64)?;
    }
    inst.b = cx.source(b, B64)?;
    inst.c = cx.predicate(scale_d)?;
    inst.d = cx.wgmma(wgmma);
    inst.more = Some(Box::new(more));
    Ok(inst)
}

/// All of the warp, at a place where warpgroups may stand.
fn together(turn: &mut Turn<'_, '_>, lanes: u32) -> Result<Option<Step>, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Some(Step::Converge));
    }
    let warps = turn.world.launched.warps() as usize;
    if lanes != u32::MAX || turn.warp / 4 * 4 + 4 > warps {
        return stop(FaultKind::Misuse, "wgmma by a warpgroup that is not whole");
    }
    Ok(None)
}

fn fence(turn: &mut Turn<'_, '_>, _: &Inst, lanes: u32) -> Result<Step, Stop> {
    if let Some(step) = together(turn, lanes)? {
        return Ok(step);
    }
    let warp = turn.warp();
    warp.products.fenced = Some(warp.regs.rows.clone());
    Ok(Step::Next)
}

fn commit(turn: &mut Turn<'_, '_>, _: &Inst, lanes: u32) -> Result<Step, Stop> {
    if let Some(step) = together(turn, lanes)? {
        return Ok(step);
    }
    turn.warp().products.closed += 1;
    Ok(Step::Next)
}

fn issue(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if let Some(step) = together(turn, lanes)? {
        return Ok(step);
    }
    let more = inst.more.as_ref().expect("lowered with registers");
    let wgmma = turn.world.launched.kernel.wgmmas[inst.d as usize];
    let decode = |turn: &mut Turn<'_, '_>, row: u32| -> Result<Descriptor, Stop> {
        let descriptors = turn.regs().longs(row);
        if descriptors.iter().any(|&other| other != descriptors[0]) {
            return stop(FaultKind::Misuse, "a matrix descriptor differs between lanes");
        }
        Descriptor::decode(descriptors[0])
            .or_else(|error| stop(FaultKind::Misuse, error.to_string()))
    };
    let a_descriptor = match inst.e & A_IN_REGISTERS != 0 {
        true => None,
        false => Some(decode(turn, inst.a)?),
    };
    let b_descriptor = decode(turn, inst.b)?;
    let accumulate = match turn.regs().predicate(inst.c) {
        0 => false,
        u32::MAX => true,
        _ => return stop(FaultKind::Misuse, "scale-d differs between lanes"),
    };
    let mut ranges = Vec::new();
    if let Some(descriptor) = &a_descriptor {
        ranges.extend(wgmma.left_ranges(descriptor, major(inst.e & A_ALONG_MN)));
    }
    ranges.extend(wgmma.right_ranges(&b_descriptor, major(inst.e & B_ALONG_MN)));
    let raw = |row: u32| turn.world.blocks[turn.block].warps[turn.warp].regs.longs(row)[0];
    let a = a_descriptor.is_some().then(|| raw(inst.a));
    let issued = Issued { place: inst.place, a, b: raw(inst.b), accumulate };
    agree(turn, issued)?;
    let ticket = turn.observe_product(&ranges, inst.place)?;
    turn.world.count_product();
    let warp = turn.warp();
    let touched = more.targets.iter().chain(&more.sources);
    let Some(fenced) = &warp.products.fenced else {
        return stop(FaultKind::Misuse, "wgmma.mma_async before any wgmma.fence");
    };
    for &row in touched {
        let in_flight = warp.products.aside.contains_key(&row);
        let kept = warp.products.pending.iter().any(|product| product.a_rows.contains(&row));
        if !in_flight && !kept && warp.regs.rows[row as usize] != fenced[row as usize] {
            return stop(
                FaultKind::Misuse,
                "a register of wgmma.mma_async was written after the last wgmma.fence",
            );
        }
    }
    let mut a = [[0; 32]; 4];
    for (to, &row) in a.iter_mut().zip(&more.sources) {
        *to = *warp.regs.words(row);
    }
    for &row in &more.targets {
        if !warp.products.aside.contains_key(&row) {
            warp.products.aside.insert(row, *warp.regs.words(row));
            warp.regs.set_words(row, u32::MAX, &POISONED);
        }
    }
    let group = warp.products.closed;
    warp.products.issued += 1;
    warp.products.pending.push(Product {
        group,
        wgmma,
        flags: inst.e,
        rows: more.targets.clone(),
        a_rows: more.sources.clone(),
        a,
        a_descriptor,
        b_descriptor,
        accumulate,
        done: false,
        ticket,
    });
    let now = match turn.world.launched.config.completion {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => turn.world.random.once_in(2),
    };
    if now {
        run_all(turn, usize::MAX)?;
    }
    Ok(Step::Next)
}

/// The warps of a warpgroup issue the same products in the same order (PTX ISA: wgmma.mma_async:
/// ".aligned requires that all threads in the warpgroup must execute the same instruction", and
/// descriptors are the same for all its warps).
fn agree(turn: &mut Turn<'_, '_>, issued: Issued) -> Result<(), Stop> {
    let number = turn.warp().products.issued;
    let first = turn.warp / 4 * 4;
    let warps = &mut turn.block().warps[first..first + 4];
    let all = warps.iter().map(|warp| warp.products.issued).min().expect("4 warps");
    let group = &mut warps[0].products;
    while group.together < all {
        group.ahead.pop_front();
        group.together += 1;
    }
    match group.ahead.get((number - group.together) as usize) {
        None => group.ahead.push_back(issued),
        Some(other) if *other == issued => {}
        Some(_) => {
            let message = "warps of a warpgroup issue different wgmma.mma_async";
            return stop(FaultKind::Misuse, message);
        }
    }
    Ok(())
}

fn major(along_mn: u32) -> Major {
    if along_mn != 0 { Major::Mn } else { Major::K }
}

/// Runs the first `count` products that were issued, in order.
fn run_all(turn: &mut Turn<'_, '_>, count: usize) -> Result<(), Stop> {
    let arithmetic = turn.world.arithmetic();
    let number = turn.warp % 4;
    let block = &mut turn.world.blocks[turn.block];
    let warp = &mut block.warps[turn.warp];
    let products = &mut warp.products;
    for product in products.pending.iter_mut().take(count).filter(|product| !product.done) {
        let wrong = |error: crate::tensor::warpgroup::WarpgroupError| Stop {
            kind: FaultKind::IllegalAddress,
            message: error.to_string(),
            lanes: 0,
        };
        let negate_a = product.flags & NEGATED_A != 0;
        let left = match &product.a_descriptor {
            None => product.wgmma.left_from_registers(&product.a, negate_a),
            Some(descriptor) => product
                .wgmma
                .left_from_shared(
                    &block.shared,
                    descriptor,
                    major(product.flags & A_ALONG_MN),
                    number,
                    negate_a,
                )
                .map_err(wrong)?,
        };
        let right = product
            .wgmma
            .right_from_shared(
                &block.shared,
                &product.b_descriptor,
                major(product.flags & B_ALONG_MN),
                product.flags & NEGATED_B != 0,
            )
            .map_err(wrong)?;
        let mut d: Vec<Lanes> = product.rows.iter().map(|row| products.aside[row]).collect();
        product.wgmma.multiply(arithmetic, &left, &right, product.accumulate, &mut d);
        for (row, values) in product.rows.iter().zip(d) {
            products.aside.insert(*row, values);
        }
        product.done = true;
    }
    Ok(())
}

/// Lets all but the latest groups through: their accumulators are registers again.
fn wait(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if let Some(step) = together(turn, lanes)? {
        return Ok(step);
    }
    let products = &turn.warp().products;
    let limit = products.closed.saturating_sub(u64::from(inst.e));
    let count = products.pending.iter().take_while(|product| product.group < limit).count();
    run_all(turn, count)?;
    let warp = turn.warp();
    let done: Vec<Product> = warp.products.pending.drain(..count).collect();
    for product in &done {
        for (&row, before) in product.a_rows.iter().zip(&product.a) {
            let in_flight = warp.products.aside.contains_key(&row);
            if !in_flight && warp.regs.words(row) != before {
                return stop(
                    FaultKind::Misuse,
                    "a register of a was written while wgmma.mma_async was under way",
                );
            }
        }
        for &row in &product.rows {
            if warp.products.pending.iter().any(|other| other.rows.contains(&row)) {
                continue;
            }
            let Some(values) = warp.products.aside.remove(&row) else { continue };
            if *warp.regs.words(row) != POISONED {
                return stop(
                    FaultKind::Misuse,
                    "an accumulator was written while wgmma.mma_async was under way",
                );
            }
            warp.regs.set_words(row, u32::MAX, &values);
            // More products may add to it without a fence (PTX ISA: wgmma.fence).
            if let Some(fenced) = &mut warp.products.fenced {
                fenced[row as usize].0 = values;
            }
        }
    }
    if let Some(last) = done.last().and_then(|product| product.ticket) {
        turn.observe_product_wait(lanes, last);
    }
    Ok(Step::Next)
}
