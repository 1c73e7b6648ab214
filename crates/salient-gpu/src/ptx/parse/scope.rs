//! What names stand for, within braces and around them.

use std::collections::HashMap;

use super::super::ast::Name;
use super::super::names::canonical;

/// What a name is declared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// A register, by number.
    Register(u32),
    /// A variable, with the bytes from one element of it to the next.
    Variable {
        name: Name,
        stride: u64,
    },
    Function,
    /// The index of an instruction.
    Label(u32),
    /// The index of a table.
    Table(u32),
}

/// What braces in a body hold together.
#[derive(Debug, Default)]
pub(super) struct Scope<'a> {
    symbols: HashMap<&'a str, Symbol>,
    ranges: Vec<Range<'a>>,
    /// Labels that are branched to; they may be declared later, here or further out.
    pub(super) references: Vec<Reference<'a>>,
    /// The line of the opening brace.
    pub(super) line: u32,
}

/// `.reg .b32 %r<10>;`
#[derive(Debug, Clone, Copy)]
struct Range<'a> {
    prefix: &'a str,
    first: u32,
    count: u32,
}

/// The use of a label.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference<'a> {
    pub(super) label: &'a str,
    pub(super) line: u32,
    pub(super) site: Site,
}

/// Where the index of a label's instruction belongs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Site {
    /// An operand of an instruction.
    Operand { instruction: usize, operand: usize },
    /// An element of a table.
    Table { table: usize, element: usize },
}

impl<'a> Scope<'a> {
    pub(super) fn new(line: u32) -> Self {
        Self { line, ..Self::default() }
    }

    pub(super) fn find(&self, name: &str) -> Option<Symbol> {
        let of_range = self.ranges.iter().find_map(|range| range.find(name));
        of_range.map(Symbol::Register).or_else(|| self.symbols.get(name).copied())
    }

    /// Whether the name was free.
    pub(super) fn declare(&mut self, name: &'a str, symbol: Symbol) -> bool {
        let free = self.find(name).is_none();
        if free {
            self.symbols.insert(name, symbol);
        }
        free
    }

    /// Declares registers `prefix0` and so on. One of the names if it was not free.
    pub(super) fn declare_range(
        &mut self,
        prefix: &'a str,
        first: u32,
        count: u32,
    ) -> Result<(), String> {
        let new = Range { prefix, first, count };
        if let Some(name) = self.symbols.keys().find(|name| new.find(name).is_some()) {
            return Err((*name).to_owned());
        }
        // One of the ranges that share names holds the other's first.
        for range in &self.ranges {
            for (one, other) in [(&new, range), (range, &new)] {
                let name = format!("{}0", other.prefix);
                if other.count > 0 && one.find(&name).is_some() {
                    return Err(name);
                }
            }
        }
        self.ranges.push(new);
        Ok(())
    }
}

impl Range<'_> {
    fn find(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(self.prefix)?;
        let number = digits.parse::<u32>().ok().filter(|_| canonical(digits))?;
        (number < self.count).then_some(self.first + number)
    }
}
