//! From what a module says to what is executed: operands become rows, names become addresses.

use std::collections::HashMap;

use crate::ptx::ast::{Function, Instruction, Kind, Module, Name, Opcode, Operand, Space, Type};

use crate::tensor::mma::Mma;
use crate::tensor::warpgroup::Wgmma;

use super::inst::Inst;

/// What lowering one function has brought so far.
pub(crate) struct Lower<'a> {
    pub(crate) module: &'a Module,
    pub(crate) function: &'a Function,
    /// The first row, or the predicate's index, of each register of the function.
    registers: Vec<u32>,
    rows: u32,
    predicates: u32,
    always: u32,
    constants: HashMap<(u64, bool), u32>,
    specials: HashMap<String, u32>,
    /// Where variables lie: the address that naming one gives.
    addresses: &'a dyn Fn(&Name) -> Option<u64>,
    /// Where the names of a function that was called lie; none in a kernel's own body.
    callee: Option<Callee>,
    pub(crate) insts: Vec<Inst>,
    /// Instructions that jump, and the label: an instruction of the function being lowered.
    pub(crate) jumps: Vec<(usize, u32)>,
    /// Distinct products, which instructions name by index.
    pub(crate) mmas: Vec<Mma>,
    pub(crate) wgmmas: Vec<Wgmma>,
}

/// A function that is lowered in place of a call.
pub(crate) struct Callee {
    pub(crate) variables: Vec<u64>,
    pub(crate) params: Vec<u64>,
    pub(crate) returns: Vec<u64>,
}

/// Where lowering was when it entered a function.
pub(crate) struct Left<'a> {
    function: &'a Function,
    registers: Vec<u32>,
    callee: Option<Callee>,
}

/// Rows that are not registers, to be filled when a warp begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filled {
    pub(crate) rows: u32,
    pub(crate) predicates: u32,
    /// The predicate that holds in all lanes.
    pub(crate) always: u32,
    /// Row, value, and whether it is a 64-bit one.
    pub(crate) constants: Vec<(u32, u64, bool)>,
    /// Name without `%`, row.
    pub(crate) specials: Vec<(String, u32)>,
}

impl<'a> Lower<'a> {
    pub(crate) fn new(
        module: &'a Module,
        function: &'a Function,
        addresses: &'a dyn Fn(&Name) -> Option<u64>,
    ) -> Self {
        let (mut rows, mut predicates) = (0, 0);
        let registers = function
            .registers
            .iter()
            .map(|(_, kind)| {
                let (next, size) = match kind.bits {
                    1 => (&mut predicates, 1),
                    128 => (&mut rows, 4),
                    64 => (&mut rows, 2),
                    _ => (&mut rows, 1),
                };
                let at = *next;
                *next += size;
                at
            })
            .collect();
        Self {
            module,
            function,
            registers,
            rows,
            predicates: predicates + 1,
            always: predicates,
            constants: HashMap::new(),
            specials: HashMap::new(),
            addresses,
            callee: None,
            insts: Vec::new(),
            jumps: Vec::new(),
            mmas: Vec::new(),
            wgmmas: Vec::new(),
        }
    }

    /// Goes on in a function that is called, with registers of its own. Gives what `leave` takes to
    /// come back.
    pub(crate) fn enter(&mut self, function: &'a Function, callee: Callee) -> Left<'a> {
        let registers = function
            .registers
            .iter()
            .map(|(_, kind)| match kind.bits {
                1 => self.scratch_predicate(),
                128 => self.scratch(4),
                64 => self.scratch(2),
                _ => self.scratch(1),
            })
            .collect();
        Left {
            function: std::mem::replace(&mut self.function, function),
            registers: std::mem::replace(&mut self.registers, registers),
            callee: self.callee.replace(callee),
        }
    }

    pub(crate) fn leave(&mut self, left: Left<'a>) {
        self.function = left.function;
        self.registers = left.registers;
        self.callee = left.callee;
    }

    /// What is left to do when a warp begins.
    pub(crate) fn filled(&self) -> Filled {
        let mut filled = Filled {
            rows: self.rows,
            predicates: self.predicates,
            always: self.always,
            constants: self.constants.iter().map(|(&(v, wide), &row)| (row, v, wide)).collect(),
            specials: self.specials.iter().map(|(name, &row)| (name.clone(), row)).collect(),
        };
        filled.constants.sort_unstable();
        filled.specials.sort_unstable();
        filled
    }

    pub(crate) fn opcode(&self, instruction: &Instruction) -> &'a Opcode {
        &self.module.opcodes[instruction.opcode as usize]
    }

    pub(crate) fn register_type(&self, register: u32) -> Type {
        self.function.registers[register as usize].1
    }

    /// The first row of a register that is no predicate.
    pub(crate) fn row_of(&self, register: u32) -> u32 {
        self.registers[register as usize]
    }

    /// The row of an operand that is read as `kind`: a register of that very size, a number, or a
    /// special register. A register of `Bits` holds anything of its size; kinds are not compared
    /// (PTX ISA: operand type checking is of sizes and classes; ptxas has done it).
    pub(crate) fn source(&mut self, operand: &Operand, kind: Type) -> Result<u32, String> {
        if let Operand::Register(register) = operand {
            let actual = self.register_type(*register);
            let same = actual.bits == kind.bits || kind.bits == 8 && actual.bits == 16;
            if !same || actual.kind == Kind::Predicate {
                return Err(self.mismatch(*register, kind));
            }
        }
        self.source_at_least(operand, kind)
    }

    /// The same, where a wider register is taken too, as ld, st, cvt and the like do: its low bits
    /// count.
    pub(crate) fn source_at_least(&mut self, operand: &Operand, kind: Type) -> Result<u32, String> {
        let wide = kind.bits == 64;
        match operand {
            Operand::Register(register) => {
                let actual = self.register_type(*register);
                if actual.bits < kind.bits || actual.kind == Kind::Predicate {
                    return Err(self.mismatch(*register, kind));
                }
                Ok(self.row_of(*register))
            }
            Operand::Special(name) => self.special(name, kind),
            Operand::Variable(name, offset) => {
                let address = self.address(name)?.wrapping_add_signed(*offset);
                Ok(self.constant(address, wide))
            }
            _ => Ok(self.constant(number(operand, kind)?, wide)),
        }
    }

    fn mismatch(&self, register: u32, kind: Type) -> String {
        let (name, actual) = &self.function.registers[register as usize];
        format!("{name} has {} bits, not {}", actual.bits, kind.bits)
    }

    /// The row that an operand is written to.
    pub(crate) fn target(&mut self, operand: &Operand, kind: Type) -> Result<u32, String> {
        if let Operand::Register(register) = operand {
            let actual = self.register_type(*register);
            let same = actual.bits == kind.bits || kind.bits == 8 && actual.bits == 16;
            if !same || actual.kind == Kind::Predicate {
                return Err(self.mismatch(*register, kind));
            }
        }
        self.target_at_least(operand, kind)
    }

    /// The same, where a wider register is taken too. Writing it whole is the instruction's.
    pub(crate) fn target_at_least(&mut self, operand: &Operand, kind: Type) -> Result<u32, String> {
        match operand {
            Operand::Register(register) => {
                let actual = self.register_type(*register);
                if actual.bits < kind.bits || actual.kind == Kind::Predicate {
                    return Err(self.mismatch(*register, kind));
                }
                Ok(self.row_of(*register))
            }
            Operand::Sink => Ok(self.scratch(4)),
            _ => Err("the destination is no register".to_owned()),
        }
    }

    /// A predicate that is read, as `Registers::predicate` takes it.
    pub(crate) fn predicate(&mut self, operand: &Operand) -> Result<u32, String> {
        match *operand {
            Operand::Register(register) | Operand::Not(register)
                if self.register_type(register).kind == Kind::Predicate =>
            {
                let negated = matches!(operand, Operand::Not(_));
                Ok(self.row_of(register) << 1 | u32::from(negated))
            }
            // True and false.
            Operand::Integer(value @ (0 | 1)) => {
                let always = self.always();
                Ok(always << 1 | u32::from(value == 0))
            }
            _ => Err("an operand is no predicate".to_owned()),
        }
    }

    /// A predicate that is written, by its index.
    pub(crate) fn predicate_target(&mut self, operand: &Operand) -> Result<u32, String> {
        match *operand {
            Operand::Register(register) if self.register_type(register).kind == Kind::Predicate => {
                Ok(self.row_of(register))
            }
            Operand::Sink => Ok(self.scratch_predicate()),
            _ => Err("the destination is no predicate".to_owned()),
        }
    }

    /// Whether this is the body of a function that is called.
    pub(crate) fn is_called(&self) -> bool {
        self.callee.is_some()
    }

    /// The index of a predicate that holds in all lanes, which the machine sets.
    pub(crate) fn always(&self) -> u32 {
        self.always
    }

    /// Rows for values between two instructions, or for those that nobody reads.
    pub(crate) fn scratch(&mut self, rows: u32) -> u32 {
        let at = self.rows;
        self.rows += rows;
        at
    }

    pub(crate) fn scratch_predicate(&mut self) -> u32 {
        let at = self.predicates;
        self.predicates += 1;
        at
    }

    /// The row of a value that is the same in all lanes.
    pub(crate) fn constant(&mut self, value: u64, wide: bool) -> u32 {
        let rows = &mut self.rows;
        *self.constants.entry((value, wide)).or_insert_with(|| {
            let at = *rows;
            *rows += if wide { 2 } else { 1 };
            at
        })
    }

    /// The row of a special register that stays what it is while a warp runs. Those that do not
    /// (`clock`, `globaltimer` and the like) have an instruction of their own.
    fn special(&mut self, name: &str, kind: Type) -> Result<u32, String> {
        let bits = if super::special::is_wide(name) { 64 } else { 32 };
        if kind.bits > bits {
            return Err(format!("%{name} has {bits} bits, not {}", kind.bits));
        }
        if let Some(&row) = self.specials.get(name) {
            return Ok(row);
        }
        if !super::special::is_constant(name) {
            return Err(format!("%{name} can only be moved to a register"));
        }
        let row = self.scratch(bits / 32);
        self.specials.insert(name.to_owned(), row);
        Ok(row)
    }

    /// The address that the name of a variable stands for, in the variable's own space.
    pub(crate) fn address(&self, name: &Name) -> Result<u64, String> {
        let callee = self.callee.as_ref();
        let found = match (name, callee) {
            (Name::Body(i), Some(callee)) => callee.variables.get(*i as usize).copied(),
            (Name::Param(i), Some(callee)) => callee.params.get(*i as usize).copied(),
            (Name::Return(i), Some(callee)) => callee.returns.get(*i as usize).copied(),
            _ => (self.addresses)(name),
        };
        found.ok_or_else(|| "a variable has no address here".to_owned())
    }

    /// The space that a variable lies in: parameters of calls lie in the thread's local memory, a
    /// kernel's in its own space.
    pub(crate) fn space(&self, name: &Name) -> Space {
        match *name {
            Name::Module(i) => self.module.variables[i as usize].space,
            Name::Body(i) => match self.function.variables[i as usize].space {
                Space::Param => Space::Local,
                space => space,
            },
            Name::Param(_) if self.callee.is_none() => Space::Param,
            Name::Param(_) | Name::Return(_) => Space::Local,
        }
    }

    pub(crate) fn mma(&mut self, mma: Mma) -> u32 {
        place_of(&mut self.mmas, mma)
    }

    pub(crate) fn wgmma(&mut self, wgmma: Wgmma) -> u32 {
        place_of(&mut self.wgmmas, wgmma)
    }

    pub(crate) fn push(&mut self, inst: Inst) {
        self.insts.push(inst);
    }
}

fn place_of<T: PartialEq>(all: &mut Vec<T>, one: T) -> u32 {
    let place = all.iter().position(|other| *other == one).unwrap_or(all.len());
    if place == all.len() {
        all.push(one);
    }
    place as u32
}

/// The bits of a number as a value of `kind` (PTX ISA: section 4.5, Constants).
fn number(operand: &Operand, kind: Type) -> Result<u64, String> {
    let float = matches!(kind.kind, Kind::Float);
    match *operand {
        Operand::Integer(value) if !float || kind.bits == 16 => {
            let bits = kind.bits.min(64);
            let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
            Ok(value as u64 & mask)
        }
        Operand::Integer(value) if kind.bits == 32 => Ok(u64::from((value as f32).to_bits())),
        Operand::Integer(value) => Ok((value as f64).to_bits()),
        Operand::Single(bits) if kind.bits == 32 => Ok(u64::from(bits)),
        Operand::Single(bits) if float && kind.bits == 64 => {
            Ok(f64::from(f32::from_bits(bits)).to_bits())
        }
        Operand::Double(bits) if kind.bits == 64 => Ok(bits),
        Operand::Double(bits) if float && kind.bits == 32 => {
            Ok(u64::from((f64::from_bits(bits) as f32).to_bits()))
        }
        Operand::Decimal(value) if kind.bits == 64 => Ok(value.to_bits()),
        Operand::Decimal(value) if kind.bits == 32 => Ok(u64::from((value as f32).to_bits())),
        _ => Err(format!("{operand:?} is no operand of {} bits", kind.bits)),
    }
}

/// `u32`, `s64`, `bf16x2`, ... as a modifier writes it.
pub(crate) fn type_of(modifier: &str) -> Option<Type> {
    let (kind, bits) = match modifier {
        "b8" => (Kind::Bits, 8),
        "b16" => (Kind::Bits, 16),
        "b32" => (Kind::Bits, 32),
        "b64" => (Kind::Bits, 64),
        "b128" => (Kind::Bits, 128),
        "u8" => (Kind::Unsigned, 8),
        "u16" => (Kind::Unsigned, 16),
        "u32" => (Kind::Unsigned, 32),
        "u64" => (Kind::Unsigned, 64),
        "s8" => (Kind::Signed, 8),
        "s16" => (Kind::Signed, 16),
        "s32" => (Kind::Signed, 32),
        "s64" => (Kind::Signed, 64),
        "f16" => (Kind::Float, 16),
        "f32" => (Kind::Float, 32),
        "f64" => (Kind::Float, 64),
        "bf16" => (Kind::BFloat, 16),
        "f16x2" | "bf16x2" => (Kind::Packed, 32),
        "pred" => (Kind::Predicate, 1),
        _ => return None,
    };
    Some(Type { kind, bits })
}
