//! What a PTX module says, with scopes, labels and names resolved, and nothing interpreted.

use std::collections::HashMap;

/// A parsed module (PTX ISA: section 5 and 11).
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`.
    pub target: Target,
    /// Names of source files, by the number that `.file` gives them.
    pub files: HashMap<u32, String>,
    /// Variables at module scope.
    pub variables: Vec<Variable>,
    /// Entries and functions, in order; declarations without a body too, unless a definition
    /// follows.
    pub functions: Vec<Function>,
    /// Every distinct opcode with its modifiers; instructions name them by index.
    pub opcodes: Vec<Opcode>,
}

/// `.target sm_90a`: architecture 90, suffix `a`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// 80 for `sm_80`.
    pub architecture: u32,
    /// `a` or `f`.
    pub suffix: Option<char>,
}

/// An opcode with its modifiers, as written: `ld.global.u32` is `ld` and `["global", "u32"]`. Names
/// with `::` stay whole (`shared::cta`, `mbarrier::complete_tx::bytes`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opcode {
    /// What stands before the first dot.
    pub name: String,
    /// What stands behind it.
    pub modifiers: Vec<String>,
}

/// A fundamental type (PTX ISA: section 5.2.1). `.b128` is `Bits` of 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type {
    /// What the bits are.
    pub kind: Kind,
    /// 8, 16, 32, 64 or 128; 1 for a predicate.
    pub bits: u32,
}

/// What a type's bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `.b8` to `.b128`
    Bits,
    /// `.u8` to `.u64`
    Unsigned,
    /// `.s8` to `.s64`
    Signed,
    /// `.f16` to `.f64`
    Float,
    /// `.bf16` (bits 16)
    BFloat,
    /// `.f16x2`, `.bf16x2` (bits 32)
    Packed,
    /// `.pred`
    Predicate,
}

/// A state space (PTX ISA: section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.const`
    Constant,
    /// `.global`
    Global,
    /// `.local`
    Local,
    /// `.param`
    Param,
    /// `.shared`
    Shared,
}

/// A variable, a kernel's parameter, or a function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name, as written. A `.global` or `.const` variable of a body is among those of the
    /// module as `function.name`.
    pub name: String,
    /// Where it lies.
    pub space: Space,
    /// Of one element.
    pub kind: Type,
    /// In bytes: `.align`, else the element's own.
    pub align: u64,
    /// In bytes; 0 for an `extern` array without a length.
    pub size: u64,
    /// Whether `.extern` stands before it.
    pub external: bool,
    /// What it begins as, if it is said; shorter than `size` means zeros behind.
    pub initial: Vec<u8>,
    /// Addresses of variables and functions in `initial`, of eight bytes each: offset there, name,
    /// offset from what is named, and whether it is a generic address (`generic(name)`).
    pub pointers: Vec<(usize, String, i64, bool)>,
}

/// An `.entry` or a `.func`.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// Its name, as written.
    pub name: String,
    /// Whether it is a kernel.
    pub entry: bool,
    /// What it takes, in `.param` space or as registers (then of `Space::Param` too, and among
    /// `register_params`).
    pub params: Vec<Variable>,
    /// What a `.func` returns.
    pub returns: Vec<Variable>,
    /// Parameters and returned values in `.reg` space, with their registers.
    pub register_params: Vec<(Name, u32)>,
    /// `.noreturn`.
    pub noreturn: bool,
    /// Whether there is a body.
    pub defined: bool,
    /// `.maxntid`, or `.reqntid` with `true`.
    pub threads: Option<([u32; 3], bool)>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`.
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`, or `.explicitcluster` alone as `[0; 3]`.
    pub cluster: Option<[u32; 3]>,
    /// `.maxclusterrank`.
    pub max_cluster: Option<u32>,
    /// `.blocksareclusters`: the grid of a launch counts clusters.
    pub blocks_are_clusters: bool,
    /// Name and type of every register of every scope, by number.
    pub registers: Vec<(String, Type)>,
    /// `.shared`, `.local` and `.param` variables of the body, of every scope. Operands name them
    /// by index; those of an inner scope may share a name with others.
    pub variables: Vec<Variable>,
    /// The body.
    pub instructions: Vec<Instruction>,
    /// Positions in source, as `.loc` gives them; instructions name them by index.
    pub sources: Vec<Source>,
    /// What is behind the labels of `.branchtargets`, `.calltargets` and `.callprototype`; operands
    /// name them by index.
    pub tables: Vec<Table>,
}

/// What an indirect branch or call may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// `.branchtargets`: indices of instructions, as in [`Operand::Label`].
    Branches(Vec<u32>),
    /// `.calltargets`: names of functions.
    Calls(Vec<String>),
    /// `.callprototype`.
    Prototype(Prototype),
}

/// What a function called through a register takes and returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prototype {
    /// What it takes; names may be `_`.
    pub params: Vec<Variable>,
    /// What it returns.
    pub returns: Vec<Variable>,
    /// `.noreturn`.
    pub noreturn: bool,
}

/// A place in a source file, with the place that it was inlined at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The number of the file.
    pub file: u32,
    /// From 1.
    pub line: u32,
    /// An index of [`Function::sources`], lower than this one's.
    pub inlined_at: Option<u32>,
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// An index of [`Module::opcodes`].
    pub opcode: u32,
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// In the order written, destinations first. `d|p` is [`Operand::Pair`].
    pub operands: Vec<Operand>,
    /// The line of the PTX, from 1.
    pub line: u32,
    /// An index of [`Function::sources`]; none before the first `.loc`.
    pub source: Option<u32>,
}

/// What an instruction is guarded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// The register's number.
    pub register: u32,
    /// `@!p`
    pub negated: bool,
}

/// An operand (PTX ISA: section 6).
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register of [`Function::registers`].
    Register(u32),
    /// `!p`
    Not(u32),
    /// A special register with its component, as written without `%`: `tid.x`, `laneid`. `tid`
    /// alone is the vector of four.
    Special(String),
    /// An integer from -2^63 to 2^64 - 1.
    Integer(i128),
    /// A floating point literal without its type: `1.5`.
    Decimal(f64),
    /// `0f3F800000`
    Single(u32),
    /// `0d3FF0000000000000`
    Double(u64),
    /// The address of a variable: `a`, `a + offset`, `a[index]`.
    Variable(Name, i64),
    /// `[a + offset]`; around a register, a variable or an integer.
    Address(Box<Self>, i64),
    /// `[a, {b, c}]` and `[a, {b, c}, {d}]` of tensor copies: what stands between the brackets. An
    /// offset other than 0 of the first makes it an [`Operand::Address`].
    Tensor(Vec<Self>),
    /// `{a, b}`
    Vector(Vec<Self>),
    /// `a|b`
    Pair(Box<Self>, Box<Self>),
    /// The index of the instruction that a label stands before (`instructions.len()` at the end).
    Label(u32),
    /// `(a, b)` of a call.
    List(Vec<Self>),
    /// The name of a function.
    Function(String),
    /// An index of [`Function::tables`].
    Table(u32),
    /// `_`
    Sink,
}

/// Which variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// Of [`Module::variables`].
    Module(u32),
    /// Of [`Function::variables`].
    Body(u32),
    /// Of [`Function::params`].
    Param(u32),
    /// Of [`Function::returns`].
    Return(u32),
}
