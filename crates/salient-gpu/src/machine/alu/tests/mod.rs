//! Instructions, run as the machine runs them, against what the manual says in other words.

#![allow(clippy::needless_range_loop, reason = "a lane is looked up in several registers")]

mod arithmetic;
mod bits;
mod choices;
mod conversions;
mod exact;
mod floats;
mod halves;
mod moving;
mod refused;

use crate::machine::inst::{Run, UNGUARDED};
use crate::machine::lower::Lower;
use crate::machine::registers::{FULL, Registers, Row};
use crate::ptx::ast::{Function, Kind, Module, Opcode, Operand, Type};

/// One instruction with its registers.
pub(super) struct Bench {
    function: Function,
    operands: Vec<Operand>,
}

impl Bench {
    /// Registers of these types are `Operand::Register(0)` and on.
    pub(super) fn new(types: &[&str]) -> Self {
        let registers = types
            .iter()
            .map(|name| {
                let kind = if *name == "pred" { Kind::Predicate } else { Kind::Bits };
                let bits = match *name {
                    "pred" => 1,
                    _ => name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap(),
                };
                (format!("%{name}"), Type { kind, bits })
            })
            .collect();
        let operands = (0..types.len() as u32).map(Operand::Register).collect();
        Self { function: Function { registers, ..Function::default() }, operands }
    }

    /// With operands other than the registers in order.
    pub(super) fn with(mut self, operands: Vec<Operand>) -> Self {
        self.operands = operands;
        self
    }

    /// Runs an instruction for the lanes of a mask, on the values of each register, which it
    /// changes.
    pub(super) fn run(&self, op: &str, mask: u32, values: &mut [[u128; 32]]) -> Result<(), String> {
        self.all(&[(op, self.operands.clone())], mask, values)
    }

    /// The same of several instructions.
    pub(super) fn all(
        &self,
        program: &[(&str, Vec<Operand>)],
        mask: u32,
        values: &mut [[u128; 32]],
    ) -> Result<(), String> {
        let module = Module::default();
        let addresses = |_: &_| Some(0x1234);
        let mut cx = Lower::new(&module, &self.function, &addresses);
        for (op, operands) in program {
            let mut words = op.split('.').map(str::to_owned);
            let opcode = Opcode { name: words.next().unwrap(), modifiers: words.collect() };
            if !super::lower(&opcode, operands, &mut cx)? {
                return Err(format!("{op} is not known"));
            }
        }
        let mut registers = self.load(&cx, values);
        for inst in &cx.insts {
            assert_eq!(inst.guard, UNGUARDED);
            let Run::Lanes(run) = inst.run else { panic!("it touches more than registers") };
            run(&mut registers, inst, mask);
        }
        for (number, value) in values.iter_mut().enumerate() {
            let bits = self.function.registers[number].1.bits;
            let row = cx.row_of(number as u32);
            for (lane, value) in value.iter_mut().enumerate() {
                *value = match bits {
                    1 => u128::from(registers.predicates[row as usize] >> lane & 1),
                    128 => (0..4).fold(0, |value, word| {
                        value | u128::from(word_of(&registers, row, lane * 4 + word)) << (32 * word)
                    }),
                    64 => u128::from(registers.longs(row)[lane]),
                    _ => u128::from(registers.words(row)[lane]),
                };
                let fits = bits == 128 || *value >> bits == 0;
                assert!(fits, "{program:?} leaves {value:#x} in {bits} bits");
            }
        }
        Ok(())
    }

    fn load(&self, cx: &Lower<'_>, values: &[[u128; 32]]) -> Registers {
        let filled = cx.filled();
        let mut registers = Registers {
            rows: vec![Row([0xdead_beef; 32]); filled.rows as usize],
            predicates: vec![0; filled.predicates as usize],
        };
        registers.predicates[cx.always() as usize] = FULL;
        for &(row, value, wide) in &filled.constants {
            if wide {
                registers.set_longs(row, FULL, &[value; 32]);
            } else {
                registers.set_words(row, FULL, &[value as u32; 32]);
            }
        }
        for (name, row) in &filled.specials {
            assert_eq!(name, "laneid");
            registers.set_words(*row, FULL, &std::array::from_fn(|lane| lane as u32));
        }
        for (number, value) in values.iter().enumerate() {
            let row = cx.row_of(number as u32);
            match self.function.registers[number].1.bits {
                1 => {
                    let bits = (0..32).fold(0, |bits, lane| bits | (value[lane] as u32) << lane);
                    registers.predicates[row as usize] = bits;
                }
                128 => {
                    for at in 0..128 {
                        let word = (value[at / 4] >> (32 * (at % 4))) as u32;
                        registers.rows[row as usize + at / 32].0[at % 32] = word;
                    }
                }
                64 => registers.set_longs(row, FULL, &value.map(|value| value as u64)),
                bits => {
                    let mask = u32::MAX >> (32 - bits);
                    registers.set_words(row, FULL, &value.map(|value| value as u32 & mask));
                }
            }
        }
        registers
    }
}

fn word_of(registers: &Registers, row: u32, at: usize) -> u32 {
    registers.rows[row as usize + at / 32].0[at % 32]
}

/// Runs an instruction whose first operand is its destination on tuples of source values, and
/// compares. Registers are of the types named, destination first.
pub(super) fn check(
    op: &str,
    types: &[&str],
    tuples: &[Vec<u64>],
    expected: impl Fn(&[u64]) -> u64,
) {
    let bench = Bench::new(types);
    for (number, tuples) in tuples.chunks(32).enumerate() {
        let mut values = vec![[0u128; 32]; types.len()];
        values[0] = [0x55; 32];
        if types[0] == "pred" {
            values[0] = [1; 32];
        }
        for (lane, tuple) in tuples.iter().enumerate() {
            assert_eq!(tuple.len(), types.len() - 1);
            for (register, &value) in tuple.iter().enumerate() {
                values[register + 1][lane] = value.into();
            }
        }
        let before = values[0][0];
        // Not all lanes at a time, now and then.
        let mask = if number % 2 == 0 { FULL } else { 0x9ad3_5c0f };
        bench.run(op, mask, &mut values).unwrap();
        for (lane, tuple) in tuples.iter().enumerate() {
            let (now, on) = (values[0][lane], mask >> lane & 1 != 0);
            let expected = if on { u128::from(expected(tuple)) } else { before };
            assert_eq!(
                now, expected,
                "{op} of {tuple:x?} in lane {lane} is {now:#x}, not {expected:#x}"
            );
        }
    }
}

/// What an instruction makes of tuples.
pub(super) fn results(op: &str, types: &[&str], tuples: &[Vec<u64>]) -> Vec<u64> {
    let bench = Bench::new(types);
    let mut results = Vec::new();
    for tuples in tuples.chunks(32) {
        let mut values = vec![[0u128; 32]; types.len()];
        for (lane, tuple) in tuples.iter().enumerate() {
            for (register, &value) in tuple.iter().enumerate() {
                values[register + 1][lane] = value.into();
            }
        }
        bench.run(op, FULL, &mut values).unwrap();
        results.extend(values[0][..tuples.len()].iter().map(|&value| value as u64));
    }
    results
}

/// Every choice of one value from each of some sets.
pub(super) fn product(sets: &[&[u64]]) -> Vec<Vec<u64>> {
    sets.iter().fold(vec![Vec::new()], |tuples, set| {
        let longer = |tuple: &Vec<u64>| {
            set.iter().map(|&value| [&tuple[..], &[value]].concat()).collect::<Vec<_>>()
        };
        tuples.iter().flat_map(longer).collect()
    })
}

/// Numbers that look random (SplitMix64).
pub(super) struct Draw(pub(super) u64);

impl Draw {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Integers of this many bits: the ends of both signs and what is near them, powers of two, and
/// others.
pub(super) fn integers(bits: u32) -> Vec<u64> {
    let mask = u64::MAX >> (64 - bits);
    let mut draw = Draw(bits.into());
    let mut values = vec![0, 1, 2, 3, 7, 10, 100, !0, !1, !6, !99];
    for power in [bits / 2 - 1, bits / 2, bits - 2, bits - 1] {
        values.extend([(1u64 << power) - 1, 1 << power, (1 << power) + 1]);
    }
    values.extend((0..8).map(|_| draw.next()));
    values.extend((0..4).map(|_| draw.next() >> (draw.next() % u64::from(bits))));
    values.iter().map(|value| value & mask).collect()
}
