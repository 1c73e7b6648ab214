//! Operands of instructions (PTX ISA: section 6).

use super::super::ast::Operand;
use super::super::lex::Token;
use super::super::names;
use super::Parsed;
use super::body::Body;
use super::constant::Value;
use super::scope::Symbol;

/// Instructions whose operand `a[1]` is what lies there, not its address.
const MEMORY: [&str; 6] = ["ld", "ldu", "st", "atom", "red", "prefetch"];

impl<'a> Body<'_, 'a> {
    /// The operands of an instruction, up to its semicolon.
    pub(super) fn operands(&mut self, instruction: &str) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        if self.parser.eat(b';') {
            return Ok(operands);
        }
        let memory = MEMORY.contains(&instruction);
        loop {
            let operand = match (instruction, self.parser.token) {
                ("bra", Token::Word(label)) => {
                    let operand = self.branch(label, operands.len());
                    self.parser.advance();
                    operand
                }
                ("bra", _) => return self.parser.unexpected("a label"),
                ("call", Token::Sign(b'(')) => self.arguments()?,
                _ => self.operand(memory)?,
            };
            operands.push(operand);
            if self.parser.eat(b';') {
                return Ok(operands);
            }
            if !self.parser.eat(b',') {
                return self.parser.unexpected("`,` or `;`");
            }
        }
    }

    fn operand(&mut self, memory: bool) -> Parsed<Operand> {
        let operand = match self.parser.token {
            Token::Sign(b'[') => self.address()?,
            Token::Sign(b'{') => self.vector()?,
            _ => self.simple(memory)?,
        };
        if !self.parser.eat(b'|') {
            return Ok(operand);
        }
        let Token::Word(word) = self.parser.token else {
            return self.parser.unexpected("a register");
        };
        let second = self.named(word)?;
        Ok(Operand::Pair(Box::new(operand), Box::new(second)))
    }

    /// A name or a constant.
    fn simple(&mut self, memory: bool) -> Parsed<Operand> {
        match self.parser.token {
            Token::Word(word) if word != "WARP_SZ" => {
                let operand = self.named(word)?;
                self.displaced(word, operand, memory)
            }
            Token::Sign(b'!') => {
                if let Token::Word(word) = self.parser.ahead()
                    && word != "WARP_SZ"
                {
                    self.parser.advance();
                    return self.predicate().map(Operand::Not);
                }
                self.value()
            }
            _ if self.parser.at_constant() => self.value(),
            _ => self.parser.unexpected("an operand"),
        }
    }

    fn value(&mut self) -> Parsed<Operand> {
        Ok(match self.parser.constant()? {
            Value::Integer(integer) => Operand::Integer(integer.value()),
            Value::Decimal(number) => Operand::Decimal(number),
            Value::Single(bits) => Operand::Single(bits),
            Value::Double(bits) => Operand::Double(bits),
        })
    }

    /// What `word`, the current token, names.
    fn named(&mut self, word: &'a str) -> Parsed<Operand> {
        if word == "_" {
            self.parser.advance();
            return Ok(Operand::Sink);
        }
        let operand = match self.find(word) {
            Some(Symbol::Register(number)) => Operand::Register(number),
            Some(Symbol::Variable { name, .. }) => Operand::Variable(name, 0),
            Some(Symbol::Function) => Operand::Function(word.to_owned()),
            Some(Symbol::Table(index)) => Operand::Table(index),
            Some(Symbol::Label(_)) => {
                return self.parser.error(format!("label `{word}` is not an operand here"));
            }
            None => return self.special(word),
        };
        self.parser.advance();
        if let Token::Dotted(part) = self.parser.token {
            return self.parser.error(format!("`{word}.{part}`: parts of it are not supported"));
        }
        Ok(operand)
    }

    /// A special register (PTX ISA: section 10).
    fn special(&mut self, word: &'a str) -> Parsed<Operand> {
        let Some(name) = word.strip_prefix('%') else {
            return self.parser.error(format!("`{word}` is not declared"));
        };
        if !names::is_special(name) {
            let message = format!("`{word}` is no special register, and is not declared");
            return self.parser.error(message);
        }
        self.parser.advance();
        match self.parser.token {
            Token::Dotted(part @ ("x" | "y" | "z" | "w")) if names::is_special_vector(name) => {
                self.parser.advance();
                Ok(Operand::Special(format!("{name}.{part}")))
            }
            Token::Dotted(part) => self.parser.error(format!("`{word}` has no `.{part}`")),
            _ => Ok(Operand::Special(name.to_owned())),
        }
    }

    /// What is behind the name of a variable: `a + 8` and `a[2]`.
    fn displaced(&mut self, word: &str, operand: Operand, memory: bool) -> Parsed<Operand> {
        let Operand::Variable(name, _) = operand else { return Ok(operand) };
        if self.parser.eat(b'+') {
            let offset = self.parser.integer("an offset")?.bits as i64;
            return Ok(Operand::Variable(name, offset));
        }
        if !self.parser.eat(b'[') {
            return Ok(operand);
        }
        let index = self.parser.integer("an index")?.bits;
        self.parser.expect(b']')?;
        let stride = match self.find(word) {
            Some(Symbol::Variable { stride, .. }) => stride,
            _ => 1,
        };
        let offset = index.wrapping_mul(stride) as i64;
        Ok(if memory {
            Operand::Address(Box::new(Operand::Variable(name, 0)), offset)
        } else {
            Operand::Variable(name, offset)
        })
    }

    /// `[a + 8]`, `[a, {b, c}]`
    fn address(&mut self) -> Parsed<Operand> {
        self.parser.advance();
        let base = match self.parser.token {
            Token::Word(word) if word != "WARP_SZ" => {
                let base = self.named(word)?;
                if !matches!(base, Operand::Register(_) | Operand::Variable(..)) {
                    return self.parser.error_behind(format!("`{word}` is not an address"));
                }
                base
            }
            _ => Operand::Integer(self.parser.integer("an address")?.value()),
        };
        let mut offset = 0;
        if !matches!(base, Operand::Integer(_)) && self.parser.eat(b'+') {
            offset = self.parser.integer("an offset")?.bits as i64;
        }
        if self.parser.eat(b']') {
            return Ok(Operand::Address(Box::new(base), offset));
        }
        let base = if offset == 0 { base } else { Operand::Address(Box::new(base), offset) };
        let mut parts = vec![base];
        while self.parser.eat(b',') {
            parts.push(match self.parser.token {
                Token::Sign(b'{') => self.vector()?,
                _ => self.simple(false)?,
            });
        }
        if !self.parser.eat(b']') {
            return self.parser.unexpected("`]`");
        }
        Ok(Operand::Tensor(parts))
    }

    /// `{a, b}`
    fn vector(&mut self) -> Parsed<Operand> {
        self.parser.advance();
        self.sequence(b'}').map(Operand::Vector)
    }

    /// `(a, b)` of a call.
    fn arguments(&mut self) -> Parsed<Operand> {
        self.parser.advance();
        if self.parser.eat(b')') {
            return Ok(Operand::List(Vec::new()));
        }
        self.sequence(b')').map(Operand::List)
    }

    fn sequence(&mut self, end: u8) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        loop {
            operands.push(self.simple(false)?);
            if self.parser.eat(end) {
                return Ok(operands);
            }
            if !self.parser.eat(b',') {
                return self.parser.unexpected(&format!("`,` or `{}`", end as char));
            }
        }
    }
}
