//! Declarations of variables, and what they begin as (PTX ISA: section 5.4).

use super::super::ast::{Kind, Name, Space, Type, Variable};
use super::super::lex::Token;
use super::super::names;
use super::constant::Value;
use super::scope::Symbol;
use super::{Linkage, Parsed, Parser};

/// How many dimensions an array may have.
const DIMENSIONS: usize = 16;

/// What stands before the names in a declaration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declaration {
    pub(super) space: Space,
    pub(super) kind: Type,
    align: Option<u64>,
    /// 2 for `.v2`.
    lanes: u64,
}

/// A name that is declared, with its array's dimensions.
#[derive(Debug)]
pub(super) struct Declared<'a> {
    pub(super) name: &'a str,
    pub(super) line: u32,
    pub(super) variable: Variable,
    pub(super) stride: u64,
    /// Vectors are one dimension more. The first is `None` if it is written `[]`.
    dimensions: Vec<Option<u64>>,
}

impl Declared<'_> {
    /// Whether the length is left open.
    pub(super) fn incomplete(&self) -> bool {
        self.dimensions.first().is_some_and(Option::is_none)
    }
}

impl<'a> Parser<'a> {
    /// `.global`, `.const` and `.shared` at module scope.
    pub(super) fn module_variables(&mut self, linkage: Linkage) -> Parsed<()> {
        let space = match self.token {
            Token::Dotted("global") => Space::Global,
            Token::Dotted("const") => Space::Constant,
            _ => Space::Shared,
        };
        if linkage == Linkage::Common && space != Space::Global {
            return self.error("`.common` can only stand before `.global` variables");
        }
        self.advance();
        let declaration = self.declaration(space)?;
        loop {
            let mut declared = self.declared(declaration)?;
            declared.variable.external = linkage == Linkage::External;
            self.initialise(&mut declared)?;
            self.declare_variable(declared)?;
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    /// `.align 8 .v2 .b32`, what stands between the state space and the names.
    pub(super) fn declaration(&mut self, space: Space) -> Parsed<Declaration> {
        let mut align = None;
        let mut lanes = None;
        loop {
            let Token::Dotted(name) = self.token else { return self.unexpected("a type") };
            match name {
                "align" if align.is_none() => align = Some(self.align()?),
                "attribute" => self.attribute()?,
                "v2" if lanes.is_none() => lanes = Some(2),
                "v4" if lanes.is_none() => lanes = Some(4),
                "texref" | "samplerref" | "surfref" => {
                    return self.error(format!("opaque type `.{name}` is not supported"));
                }
                _ => {
                    let kind = self.kind()?;
                    let lanes = lanes.unwrap_or(1);
                    if kind.kind == Kind::Predicate {
                        return self.error_behind("only registers can be of type `.pred`");
                    }
                    if lanes * u64::from(kind.bits) > 128 {
                        return self.error_behind("a vector of more than 128 bits");
                    }
                    return Ok(Declaration { space, kind, align, lanes });
                }
            }
            if matches!(name, "v2" | "v4") {
                self.advance();
            }
        }
    }

    /// A fundamental type.
    pub(super) fn kind(&mut self) -> Parsed<Type> {
        let Token::Dotted(name) = self.token else { return self.unexpected("a type") };
        let Some(kind) = names::type_named(name) else {
            return self.error(format!("`.{name}` is not a type that is supported here"));
        };
        self.advance();
        Ok(kind)
    }

    /// `.align 16`
    pub(super) fn align(&mut self) -> Parsed<u64> {
        self.advance();
        let align = self.unsigned("an alignment")?;
        if !align.is_power_of_two() {
            return self.error_behind(format!("alignment {align} is not a power of two"));
        }
        Ok(align.into())
    }

    /// `.attribute(.managed)` and `.attribute(.unified(1, 2))`: where memory lies matters to no
    /// program (PTX ISA: .attribute).
    pub(super) fn attribute(&mut self) -> Parsed<()> {
        self.advance();
        self.expect(b'(')?;
        loop {
            match self.token {
                Token::Dotted("managed") => self.advance(),
                Token::Dotted("unified") => {
                    self.advance();
                    if self.eat(b'(') {
                        self.integer("an identifier")?;
                        self.expect(b',')?;
                        self.integer("an identifier")?;
                        self.expect(b')')?;
                    }
                }
                Token::Dotted(name) => {
                    return self.error(format!("attribute `.{name}` is not supported"));
                }
                _ => return self.unexpected("an attribute"),
            }
            if !self.eat(b',') {
                return self.expect(b')');
            }
        }
    }

    /// A name with its dimensions.
    pub(super) fn declared(&mut self, declaration: Declaration) -> Parsed<Declared<'a>> {
        let line = self.line();
        let name = self.word("a name")?;
        let Declaration { space, kind, align, lanes } = declaration;
        let mut dimensions = Vec::new();
        while self.eat(b'[') {
            if dimensions.is_empty() && self.eat(b']') {
                dimensions.push(None);
                continue;
            }
            let length = self.integer("a length")?;
            if length.value() < 1 {
                return self.error_behind("an array without elements");
            }
            self.expect(b']')?;
            dimensions.push(Some(length.bits));
            if dimensions.len() == DIMENSIONS {
                return self.error_behind("an array of too many dimensions");
            }
        }
        let stride = lanes * u64::from(kind.bits / 8);
        let lengths = dimensions.iter().map(|length| length.unwrap_or(0));
        let size = lengths.clone().try_fold(stride, u64::checked_mul);
        let elements = lengths.skip(1).try_fold(stride, u64::checked_mul);
        let (Some(size), Some(_)) = (size, elements) else {
            return self.error_behind(format!("`{name}` does not fit an address space"));
        };
        if lanes > 1 {
            dimensions.push(Some(lanes));
        }
        let variable = Variable {
            name: name.to_owned(),
            space,
            kind,
            align: align.unwrap_or(stride),
            size,
            external: false,
            initial: Vec::new(),
            pointers: Vec::new(),
        };
        Ok(Declared { name, line, variable, stride, dimensions })
    }

    /// `= {1, 2}`, if it is there.
    pub(super) fn initialise(&mut self, declared: &mut Declared<'a>) -> Parsed<()> {
        if self.token != Token::Sign(b'=') {
            if declared.incomplete() && !declared.variable.external {
                let name = declared.name;
                return self.error_at(declared.line, format!("`{name}` has no length"));
            }
            return Ok(());
        }
        let Declared { name, variable, .. } = declared;
        if !matches!(variable.space, Space::Global | Space::Constant) || variable.external {
            return self.error(format!("`{name}` cannot begin as anything here"));
        }
        if matches!(variable.kind.kind, Kind::Packed | Kind::BFloat)
            || (variable.kind.kind, variable.kind.bits) == (Kind::Float, 16)
            || variable.kind.bits == 128
        {
            return self.error(format!("a variable of the type of `{name}` cannot be initialised"));
        }
        self.advance();
        let count = self.elements(variable, &declared.dimensions, 0)?;
        if declared.incomplete() {
            let row = Self::row(&declared.variable, &declared.dimensions[1..]);
            declared.variable.size = count * row;
            if count == 0 {
                let message = format!("`{}` has no length", declared.name);
                return self.error_at(declared.line, message);
            }
        }
        Ok(())
    }

    fn declare_variable(&mut self, declared: Declared<'a>) -> Parsed<()> {
        let Declared { name, line, variable, stride, .. } = declared;
        if let "_" | "WARP_SZ" = name {
            return self.error_at(line, format!("`{name}` cannot be the name of a variable"));
        }
        match self.symbols.get(name) {
            None => {
                self.add_variable(name, variable, stride);
                Ok(())
            }
            // A variable may be declared before it is defined.
            Some(Symbol::Variable { name: Name::Module(index), .. }) => {
                let known = &mut self.module.variables[*index as usize];
                let alike = (known.space, known.kind) == (variable.space, variable.kind)
                    && (known.size == variable.size || known.size == 0 || variable.size == 0);
                if !alike || !(known.external || variable.external) {
                    return self.error_at(line, format!("`{name}` is declared twice"));
                }
                if known.external {
                    *known = variable;
                }
                Ok(())
            }
            Some(_) => self.error_at(line, format!("`{name}` is declared twice")),
        }
    }

    fn add_variable(&mut self, name: &'a str, variable: Variable, stride: u64) {
        let symbol = Symbol::Variable { name: self.store_variable(variable), stride };
        self.symbols.insert(name, symbol);
    }

    /// Puts a variable into the module without declaring its name there.
    pub(super) fn store_variable(&mut self, variable: Variable) -> Name {
        self.module.variables.push(variable);
        Name::Module((self.module.variables.len() - 1) as u32)
    }

    /// The bytes of an array's element whose own dimensions are `dimensions`.
    fn row(variable: &Variable, dimensions: &[Option<u64>]) -> u64 {
        let element = u64::from(variable.kind.bits / 8);
        dimensions.iter().map(|length| length.unwrap_or(1)).product::<u64>() * element
    }

    /// Elements from `offset` of the variable, in braces if there are dimensions: how many there
    /// are. The outermost may be short and is zero behind then; others may not, so `offset` is
    /// never beyond what is written.
    fn elements(
        &mut self,
        variable: &mut Variable,
        dimensions: &[Option<u64>],
        offset: u64,
    ) -> Parsed<u64> {
        let Some((length, inner)) = dimensions.split_first() else {
            self.element(variable, offset)?;
            return Ok(1);
        };
        self.expect(b'{')?;
        if self.eat(b'}') {
            return Ok(0);
        }
        let row = Self::row(variable, inner);
        let mut count = 0;
        loop {
            if length.is_some_and(|length| count == length) {
                return self.error(format!("more elements than `{}` has", variable.name));
            }
            let inside = self.elements(variable, inner, offset + row * count)?;
            if inner.first().is_some_and(|&length| length != Some(inside)) {
                return self.error_behind("a row of fewer elements than it has is not supported");
            }
            count += 1;
            if !self.eat(b',') {
                self.expect(b'}')?;
                return Ok(count);
            }
        }
    }

    fn element(&mut self, variable: &mut Variable, offset: u64) -> Parsed<()> {
        let bytes = u64::from(variable.kind.bits / 8);
        let place = offset as usize..(offset + bytes) as usize;
        if variable.initial.len() < place.end {
            variable.initial.resize(place.end, 0);
        }
        if let Token::Word(word) = self.token
            && word != "WARP_SZ"
        {
            return self.address(variable, word, place.start);
        }
        if let (Token::Number(_), Token::Sign(b'(')) = (self.token, self.ahead()) {
            return self.error("masks of addresses in initialisers are not supported");
        }
        let bits = match (variable.kind.kind, variable.kind.bits, self.constant()?) {
            (Kind::Float, 32, Value::Decimal(number)) => u64::from((number as f32).to_bits()),
            (Kind::Float, 64, Value::Decimal(number)) => number.to_bits(),
            (Kind::Float | Kind::Bits, 32, Value::Single(bits)) => bits.into(),
            (Kind::Float | Kind::Bits, 64, Value::Double(bits)) => bits,
            (Kind::Float, 32, Value::Double(bits)) => {
                u64::from((f64::from_bits(bits) as f32).to_bits())
            }
            (Kind::Bits | Kind::Unsigned | Kind::Signed, _, Value::Integer(integer)) => {
                integer.bits
            }
            _ => return self.error_behind("a constant that is not of the variable's type"),
        };
        variable.initial[place].copy_from_slice(&bits.to_le_bytes()[..bytes as usize]);
        Ok(())
    }

    /// `name`, `name + offset` and `generic(name) + offset`.
    fn address(&mut self, variable: &mut Variable, word: &'a str, place: usize) -> Parsed<()> {
        let integral = matches!(variable.kind.kind, Kind::Bits | Kind::Unsigned | Kind::Signed);
        if !integral || variable.kind.bits != 64 {
            return self.error("only integers of 64 bits can begin as an address");
        }
        let generic = word == "generic" && self.ahead() == Token::Sign(b'(');
        let mut word = word;
        self.advance();
        if generic {
            self.advance();
            word = self.word("the name of a variable")?;
            self.expect(b')')?;
        }
        let name = match self.symbols.get(word) {
            Some(Symbol::Variable { name: Name::Module(index), .. }) => {
                self.module.variables[*index as usize].name.clone()
            }
            Some(Symbol::Function) if !generic => word.to_owned(),
            _ if word == variable.name => word.to_owned(),
            _ => return self.error_behind(format!("`{word}` is not declared as a variable")),
        };
        let offset = if self.eat(b'+') { self.integer("an offset")?.bits as i64 } else { 0 };
        variable.pointers.push((place, name, offset, generic));
        Ok(())
    }
}
