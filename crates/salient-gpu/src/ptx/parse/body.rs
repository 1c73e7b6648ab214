//! Bodies of functions: scopes, declarations, labels and lines.

use std::collections::HashMap;

use super::super::ast::{
    Function, Guard, Instruction, Kind, Name, Operand, Source, Space, Table, Type,
};
use super::super::lex::Token;
use super::functions::{Parameter, Signature};
use super::scope::{Reference, Scope, Site, Symbol};
use super::variables::Declared;
use super::{Parsed, Parser};

/// How many registers a function may declare.
const REGISTERS: usize = 1 << 20;

/// Parses a body from its opening brace, and adds what it says to `function`.
pub(super) fn parse<'a>(
    parser: &mut Parser<'a>,
    name: &'a str,
    function: Function,
    signature: Signature<'a>,
) -> Parsed<Function> {
    let mut body = Body {
        scopes: vec![Scope::new(parser.line())],
        parser,
        name,
        function,
        source: None,
        sources: HashMap::new(),
        places: HashMap::new(),
    };
    body.declare_parameters(signature.params, Name::Param)?;
    body.declare_parameters(signature.returns, Name::Return)?;
    body.parser.advance();
    while !body.scopes.is_empty() {
        body.statement()?;
    }
    Ok(body.function)
}

/// The body that is being parsed.
pub(super) struct Body<'p, 'a> {
    pub(super) parser: &'p mut Parser<'a>,
    name: &'a str,
    pub(super) function: Function,
    /// From the outermost to the innermost.
    pub(super) scopes: Vec<Scope<'a>>,
    source: Option<u32>,
    sources: HashMap<Source, u32>,
    /// The source that each file, line and column stood for last.
    places: HashMap<[u32; 3], Option<u32>>,
}

impl<'a> Body<'_, 'a> {
    /// What a name stands for here.
    pub(super) fn find(&self, name: &str) -> Option<Symbol> {
        let inner = self.scopes.iter().rev().find_map(|scope| scope.find(name));
        inner.or_else(|| self.parser.symbols.get(name).copied())
    }

    fn statement(&mut self) -> Parsed<()> {
        match self.parser.token {
            Token::Word(word) => {
                let label = self.parser.lexer.follower() != b'.'
                    && self.parser.ahead() == Token::Sign(b':');
                if label { self.label(word) } else { self.instruction(word, None) }
            }
            Token::Sign(b'@') => self.guarded(),
            Token::Dotted(name) => self.directive(name),
            Token::Sign(b'{') => {
                self.scopes.push(Scope::new(self.parser.line()));
                self.parser.advance();
                Ok(())
            }
            Token::Sign(b'}') => {
                self.close()?;
                self.parser.advance();
                Ok(())
            }
            Token::End => {
                let line = self.scopes.last().map_or(0, |scope| scope.line);
                self.parser.unexpected(&format!("the `}}` of line {line}"))
            }
            _ => self.parser.unexpected("a statement"),
        }
    }

    fn directive(&mut self, name: &str) -> Parsed<()> {
        match name {
            "loc" => self.location(),
            "reg" => self.registers(),
            "shared" => self.variables(Space::Shared),
            "local" => self.variables(Space::Local),
            "param" => self.variables(Space::Param),
            "global" => self.variables(Space::Global),
            "const" => self.variables(Space::Constant),
            "pragma" => self.parser.pragma(),
            "branchtargets" | "calltargets" | "callprototype" => {
                self.parser.error(format!("`.{name}` stands without a label"))
            }
            _ => self.parser.error(format!("directive `.{name}` is not supported here")),
        }
    }

    /// `@p` or `@!p` and an instruction (PTX ISA: section 9.3).
    fn guarded(&mut self) -> Parsed<()> {
        self.parser.advance();
        let negated = self.parser.eat(b'!');
        let register = self.predicate()?;
        let Token::Word(word) = self.parser.token else {
            return self.parser.unexpected("an instruction");
        };
        self.instruction(word, Some(Guard { register, negated }))
    }

    /// The number of a register that is a predicate.
    pub(super) fn predicate(&mut self) -> Parsed<u32> {
        let Token::Word(word) = self.parser.token else {
            return self.parser.unexpected("a predicate");
        };
        match self.find(word) {
            Some(Symbol::Register(register))
                if self.function.registers[register as usize].1.kind == Kind::Predicate =>
            {
                self.parser.advance();
                Ok(register)
            }
            Some(_) => self.parser.error(format!("`{word}` is not a predicate")),
            None => self.parser.error(format!("`{word}` is not declared")),
        }
    }

    fn instruction(&mut self, word: &'a str, guard: Option<Guard>) -> Parsed<()> {
        let line = self.parser.line();
        let opcode = self.parser.opcode(word)?;
        let operands = self.operands(word)?;
        let source = self.source;
        self.function.instructions.push(Instruction { opcode, guard, operands, line, source });
        Ok(())
    }

    /// Notes that an operand of the instruction being parsed is the place of a label.
    pub(super) fn branch(&mut self, label: &'a str, operand: usize) -> Operand {
        let instruction = self.function.instructions.len();
        self.refer(label, Site::Operand { instruction, operand });
        Operand::Label(0)
    }

    fn refer(&mut self, label: &'a str, site: Site) {
        let line = self.parser.line();
        if let Some(scope) = self.scopes.last_mut() {
            scope.references.push(Reference { label, line, site });
        }
    }

    fn label(&mut self, name: &'a str) -> Parsed<()> {
        let line = self.parser.line();
        self.parser.advance();
        self.parser.advance();
        match self.parser.token {
            Token::Dotted("branchtargets") => self.branch_targets(name, line),
            Token::Dotted("calltargets") => self.call_targets(name, line),
            Token::Dotted("callprototype") => {
                self.parser.advance();
                let prototype = self.parser.prototype()?;
                self.table(name, line, Table::Prototype(prototype))
            }
            _ => {
                let index = self.function.instructions.len() as u32;
                self.declare(name, line, Symbol::Label(index))
            }
        }
    }

    /// `targets: .branchtargets L0, L1;`
    fn branch_targets(&mut self, name: &'a str, line: u32) -> Parsed<()> {
        self.parser.advance();
        let table = self.function.tables.len();
        let mut count = 0;
        loop {
            let Token::Word(label) = self.parser.token else {
                return self.parser.unexpected("a label");
            };
            self.refer(label, Site::Table { table, element: count });
            count += 1;
            self.parser.advance();
            if !self.parser.eat(b',') {
                break;
            }
        }
        self.parser.expect(b';')?;
        self.table(name, line, Table::Branches(vec![0; count]))
    }

    /// `targets: .calltargets f, g;`
    fn call_targets(&mut self, name: &'a str, line: u32) -> Parsed<()> {
        self.parser.advance();
        let mut functions = Vec::new();
        loop {
            let function = self.parser.word("the name of a function")?;
            if self.parser.symbols.get(function) != Some(&Symbol::Function) {
                let message = format!("`{function}` is not declared as a function");
                return self.parser.error_behind(message);
            }
            functions.push(function.to_owned());
            if !self.parser.eat(b',') {
                break;
            }
        }
        self.parser.expect(b';')?;
        self.table(name, line, Table::Calls(functions))
    }

    fn table(&mut self, name: &'a str, line: u32, table: Table) -> Parsed<()> {
        let index = self.function.tables.len() as u32;
        self.function.tables.push(table);
        self.declare(name, line, Symbol::Table(index))
    }

    fn declare(&mut self, name: &'a str, line: u32, symbol: Symbol) -> Parsed<()> {
        if let "_" | "WARP_SZ" = name {
            return self.parser.error_at(line, format!("`{name}` cannot be declared"));
        }
        let free = self.scopes.last_mut().is_some_and(|scope| scope.declare(name, symbol));
        if free {
            Ok(())
        } else {
            self.parser.error_at(line, format!("`{name}` is declared twice"))
        }
    }

    /// Leaves a scope. Labels that it does not have are those of the scope around it.
    fn close(&mut self) -> Parsed<()> {
        let Some(scope) = self.scopes.pop() else { return Ok(()) };
        for reference in &scope.references {
            let Reference { label, line, site } = *reference;
            match (scope.find(label), self.scopes.last_mut()) {
                (Some(Symbol::Label(index)), _) => self.resolve(site, index),
                (Some(_), _) => {
                    return self.parser.error_at(line, format!("`{label}` is not a label"));
                }
                (None, Some(outer)) => outer.references.push(*reference),
                (None, None) => {
                    let message = format!("label `{label}` is not declared");
                    return self.parser.error_at(line, message);
                }
            }
        }
        Ok(())
    }

    fn resolve(&mut self, site: Site, index: u32) {
        match site {
            Site::Operand { instruction, operand } => {
                self.function.instructions[instruction].operands[operand] = Operand::Label(index);
            }
            Site::Table { table, element } => {
                if let Table::Branches(targets) = &mut self.function.tables[table] {
                    targets[element] = index;
                }
            }
        }
    }

    /// `.reg .b32 %r<10>, x;`
    fn registers(&mut self) -> Parsed<()> {
        self.parser.advance();
        if let Token::Dotted(name @ ("v2" | "v4")) = self.parser.token {
            return self.parser.error(format!("`.{name}` registers are not supported"));
        }
        let kind = self.parser.kind()?;
        loop {
            let line = self.parser.line();
            let name = self.parser.new_name("the name of a register")?;
            if self.parser.eat(b'<') {
                let count = self.parser.unsigned("a number of registers")?;
                self.parser.expect(b'>')?;
                self.register_range(name, line, kind, count)?;
            } else {
                self.register(name, line, kind)?;
            }
            if !self.parser.eat(b',') {
                return self.parser.expect(b';');
            }
        }
    }

    fn register(&mut self, name: &'a str, line: u32, kind: Type) -> Parsed<u32> {
        let number = self.reserve(line, 1)?;
        self.declare(name, line, Symbol::Register(number))?;
        self.function.registers.push((name.to_owned(), kind));
        Ok(number)
    }

    fn register_range(&mut self, name: &'a str, line: u32, kind: Type, count: u32) -> Parsed<()> {
        let first = self.reserve(line, count)?;
        let scope = self.scopes.last_mut();
        if let Some(Err(taken)) = scope.map(|scope| scope.declare_range(name, first, count)) {
            return self.parser.error_at(line, format!("`{taken}` is declared twice"));
        }
        let names = (0..count).map(|number| (format!("{name}{number}"), kind));
        self.function.registers.extend(names);
        Ok(())
    }

    /// The number of the next register, if there is room for `count` of them.
    fn reserve(&self, line: u32, count: u32) -> Parsed<u32> {
        let first = self.function.registers.len();
        if first + count as usize > REGISTERS {
            let message = format!("a function of more than {REGISTERS} registers");
            return self.parser.error_at(line, message);
        }
        Ok(first as u32)
    }

    /// `.shared .align 4 .b8 a[16], b;` and its like in other spaces.
    fn variables(&mut self, space: Space) -> Parsed<()> {
        self.parser.advance();
        let declaration = self.parser.declaration(space)?;
        loop {
            let mut declared = self.parser.declared(declaration)?;
            self.parser.initialise(&mut declared)?;
            let Declared { name, line, mut variable, stride, .. } = declared;
            let place = if matches!(space, Space::Global | Space::Constant) {
                variable.name = format!("{}.{name}", self.name);
                self.parser.store_variable(variable)
            } else {
                self.function.variables.push(variable);
                Name::Body((self.function.variables.len() - 1) as u32)
            };
            self.declare(name, line, Symbol::Variable { name: place, stride })?;
            if !self.parser.eat(b',') {
                return self.parser.expect(b';');
            }
        }
    }

    fn declare_parameters(
        &mut self,
        parameters: Vec<Parameter<'a>>,
        place: fn(u32) -> Name,
    ) -> Parsed<()> {
        for (index, Parameter { declared, register }) in parameters.into_iter().enumerate() {
            let name = place(index as u32);
            if declared.name == "_" {
                continue;
            }
            if register {
                let kind = declared.variable.kind;
                let number = self.register(declared.name, declared.line, kind)?;
                self.function.register_params.push((name, number));
            } else {
                let symbol = Symbol::Variable { name, stride: declared.stride };
                self.declare(declared.name, declared.line, symbol)?;
            }
        }
        Ok(())
    }

    /// `.loc 1 2 3, function_name name + offset, inlined_at 4 5 6` (PTX ISA: .loc).
    fn location(&mut self) -> Parsed<()> {
        self.parser.advance();
        let place = self.place()?;
        let mut inlined_at = None;
        if self.parser.eat(b',') {
            self.keyword("function_name")?;
            self.parser.word("the label of a function's name")?;
            if self.parser.eat(b'+') {
                self.parser.integer("an offset")?;
            }
            self.parser.expect(b',')?;
            self.keyword("inlined_at")?;
            let outer = self.place()?;
            // The outer place's own `.loc` says where that is inlined in turn.
            inlined_at = match self.places.get(&outer) {
                Some(known) => *known,
                None => {
                    let [file, line, column] = outer;
                    let message = format!("no `.loc {file} {line} {column}` stands before this");
                    return self.parser.error_behind(message);
                }
            };
        }
        self.source = self.source_of(place, inlined_at);
        self.places.insert(place, self.source);
        Ok(())
    }

    fn keyword(&mut self, name: &str) -> Parsed<()> {
        if self.parser.token != Token::Word(name) {
            return self.parser.unexpected(&format!("`{name}`"));
        }
        self.parser.advance();
        Ok(())
    }

    /// The file, line and column of a `.loc`.
    fn place(&mut self) -> Parsed<[u32; 3]> {
        Ok([
            self.parser.unsigned("the number of a file")?,
            self.parser.unsigned("a line")?,
            self.parser.unsigned("a column")?,
        ])
    }

    /// The index of a source. Compilers write line 0 for what they added; then it is the place
    /// that this is inlined at.
    fn source_of(&mut self, [file, line, _]: [u32; 3], inlined_at: Option<u32>) -> Option<u32> {
        if line == 0 {
            return inlined_at;
        }
        let source = Source { file, line, inlined_at };
        let known = self.sources.get(&source).copied();
        Some(known.unwrap_or_else(|| {
            let index = self.function.sources.len() as u32;
            self.function.sources.push(source.clone());
            self.sources.insert(source, index);
            index
        }))
    }
}
