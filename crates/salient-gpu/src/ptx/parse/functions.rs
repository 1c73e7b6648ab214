//! Heads of entries and functions (PTX ISA: section 11, kernel entry point and function
//! directives, and performance tuning directives).

use super::super::ast::{Function, Prototype, Space, Variable};
use super::super::lex::Token;
use super::body;
use super::scope::Symbol;
use super::variables::Declared;
use super::{Linkage, Parsed, Parser};

/// A parameter or a returned value.
#[derive(Debug)]
pub(super) struct Parameter<'a> {
    pub(super) declared: Declared<'a>,
    /// Whether it is a register.
    pub(super) register: bool,
}

/// What a function takes and returns.
#[derive(Debug, Default)]
pub(super) struct Signature<'a> {
    pub(super) params: Vec<Parameter<'a>>,
    pub(super) returns: Vec<Parameter<'a>>,
}

impl<'a> Parser<'a> {
    pub(super) fn entry(&mut self, linkage: Linkage) -> Parsed<()> {
        if linkage == Linkage::Common {
            return self.error("`.common` cannot stand before `.entry`");
        }
        self.advance();
        self.attributes()?;
        let line = self.line();
        let name = self.new_name("the name of an entry")?;
        let mut signature = Signature::default();
        if self.token == Token::Sign(b'(') {
            signature.params = self.parameters()?;
        }
        if let Some(parameter) = signature.params.iter().find(|parameter| parameter.register) {
            let line = parameter.declared.line;
            return self.error_at(line, "parameters of an entry are in `.param` space");
        }
        let mut function = Function { name: name.to_owned(), entry: true, ..Function::default() };
        self.tuning(&mut function)?;
        self.finish(linkage, name, line, function, signature)
    }

    pub(super) fn func(&mut self, linkage: Linkage) -> Parsed<()> {
        if linkage == Linkage::Common {
            return self.error("`.common` cannot stand before `.func`");
        }
        self.advance();
        self.attributes()?;
        let mut signature = Signature::default();
        if self.token == Token::Sign(b'(') {
            signature.returns = self.parameters()?;
        }
        let line = self.line();
        let name = self.new_name("the name of a function")?;
        if self.token == Token::Sign(b'(') {
            signature.params = self.parameters()?;
        }
        let mut function = Function { name: name.to_owned(), ..Function::default() };
        self.tuning(&mut function)?;
        self.finish(linkage, name, line, function, signature)
    }

    /// `.callprototype (.param .b32 _) _ (.param .b64 _);` from its first parenthesis.
    pub(super) fn prototype(&mut self) -> Parsed<Prototype> {
        let mut prototype = Prototype::default();
        if self.token == Token::Sign(b'(') {
            prototype.returns = variables(self.parameters()?);
        }
        if self.token != Token::Word("_") {
            return self.unexpected("`_`");
        }
        self.advance();
        if self.token == Token::Sign(b'(') {
            prototype.params = variables(self.parameters()?);
        }
        if self.token == Token::Dotted("noreturn") {
            self.advance();
            prototype.noreturn = true;
        }
        self.expect(b';')?;
        Ok(prototype)
    }

    fn attributes(&mut self) -> Parsed<()> {
        while self.token == Token::Dotted("attribute") {
            self.attribute()?;
        }
        Ok(())
    }

    /// Parameters in parentheses.
    fn parameters(&mut self) -> Parsed<Vec<Parameter<'a>>> {
        self.expect(b'(')?;
        let mut parameters = Vec::new();
        if self.eat(b')') {
            return Ok(parameters);
        }
        loop {
            parameters.push(self.parameter()?);
            if self.eat(b')') {
                return Ok(parameters);
            }
            if let Some(last) = parameters.last().filter(|last| last.declared.incomplete()) {
                let message = format!("`{}` has no length", last.declared.name);
                return self.error_at(last.declared.line, message);
            }
            if !self.eat(b',') {
                return self.unexpected("`,` or `)`");
            }
        }
    }

    fn parameter(&mut self) -> Parsed<Parameter<'a>> {
        let register = match self.token {
            Token::Dotted("param") => false,
            Token::Dotted("reg") => true,
            _ => return self.unexpected("`.param`"),
        };
        self.advance();
        let declaration = self.declaration(Space::Param)?;
        self.pointee()?;
        let declared = self.declared(declaration)?;
        if register && declared.variable.size != u64::from(declaration.kind.bits / 8) {
            let message = format!("register `{}` is an array or a vector", declared.name);
            return self.error_at(declared.line, message);
        }
        Ok(Parameter { declared, register })
    }

    /// `.ptr .global .align 16`: a promise about what a parameter points to (PTX ISA: kernel
    /// function parameter attribute .ptr).
    fn pointee(&mut self) -> Parsed<()> {
        if self.token != Token::Dotted("ptr") {
            return Ok(());
        }
        self.advance();
        if let Token::Dotted("const" | "global" | "local" | "shared") = self.token {
            self.advance();
        }
        if let Token::Dotted("align") = self.token {
            self.align()?;
        }
        Ok(())
    }

    /// Directives between a function's parameters and its body.
    fn tuning(&mut self, function: &mut Function) -> Parsed<()> {
        let mut given: Vec<&str> = Vec::new();
        while let Token::Dotted(name) = self.token {
            if name == "pragma" {
                self.pragma()?;
                continue;
            }
            if function.entry == (name == "noreturn") {
                return self.error(format!("directive `.{name}` is not supported here"));
            }
            if given.contains(&name) {
                return self.error(format!("directive `.{name}` stands here twice"));
            }
            given.push(name);
            match name {
                "maxntid" | "reqntid" if function.threads.is_some() => {
                    return self.error("both `.maxntid` and `.reqntid` stand here");
                }
                "maxntid" | "reqntid" => {
                    self.advance();
                    function.threads = Some((self.extents()?, name == "reqntid"));
                }
                "minnctapersm" => function.min_blocks = Some(self.tuned()?),
                "maxnreg" => function.max_registers = Some(self.tuned()?),
                "maxclusterrank" => function.max_cluster = Some(self.tuned()?),
                "reqnctapercluster" => {
                    self.advance();
                    function.cluster = Some(self.extents()?);
                }
                "explicitcluster" => {
                    self.advance();
                    function.cluster = function.cluster.or(Some([0; 3]));
                }
                "blocksareclusters" => {
                    self.advance();
                    function.blocks_are_clusters = true;
                }
                "noreturn" => {
                    self.advance();
                    function.noreturn = true;
                }
                _ => return self.error(format!("directive `.{name}` is not supported here")),
            }
        }
        // PTX ISA: .blocksareclusters.
        let clustered = given.contains(&"reqntid") && given.contains(&"reqnctapercluster");
        if function.blocks_are_clusters && !clustered {
            return self.error_behind(
                "`.blocksareclusters` stands without `.reqntid` and `.reqnctapercluster`",
            );
        }
        Ok(())
    }

    /// The number behind a directive.
    fn tuned(&mut self) -> Parsed<u32> {
        self.advance();
        self.positive()
    }

    /// One to three numbers; those that are missing are 1.
    fn extents(&mut self) -> Parsed<[u32; 3]> {
        let mut extents = [self.positive()?, 1, 1];
        for extent in &mut extents[1..] {
            if !self.eat(b',') {
                break;
            }
            *extent = self.positive()?;
        }
        Ok(extents)
    }

    fn positive(&mut self) -> Parsed<u32> {
        match self.unsigned("a number")? {
            0 => self.error_behind("0 is not allowed here"),
            number => Ok(number),
        }
    }

    /// Declares a function, and parses its body if there is one.
    fn finish(
        &mut self,
        linkage: Linkage,
        name: &'a str,
        line: u32,
        mut function: Function,
        signature: Signature<'a>,
    ) -> Parsed<()> {
        function.defined = self.token == Token::Sign(b'{');
        if function.defined && linkage == Linkage::External {
            return self.error_at(line, format!("`.extern` function `{name}` has a body"));
        }
        let parameters = signature.params.iter().chain(&signature.returns);
        let registers = parameters.map(|parameter| parameter.register).collect();
        function.params = signature.params.iter().map(|p| p.declared.variable.clone()).collect();
        function.returns = signature.returns.iter().map(|p| p.declared.variable.clone()).collect();
        let index = self.declare_function(name, line, &function, registers)?;
        if !function.defined {
            return self.expect(b';');
        }
        self.module.functions[index] = body::parse(self, name, function, signature)?;
        Ok(())
    }

    /// The index of a function in the module. One that is declared before must be the same.
    fn declare_function(
        &mut self,
        name: &'a str,
        line: u32,
        function: &Function,
        registers: Vec<bool>,
    ) -> Parsed<usize> {
        match self.symbols.get(name) {
            None => {
                self.symbols.insert(name, Symbol::Function);
                let index = self.module.functions.len();
                self.functions.insert(name, (index, registers));
                self.module.functions.push(function.clone());
                Ok(index)
            }
            Some(Symbol::Function) => {
                let (index, known_registers) = &self.functions[name];
                let known = &mut self.module.functions[*index];
                let alike = known.entry == function.entry
                    && *known_registers == registers
                    && layouts(&known.params).eq(layouts(&function.params))
                    && layouts(&known.returns).eq(layouts(&function.returns));
                if !alike {
                    return self.error_at(line, format!("`{name}` is declared otherwise before"));
                }
                if known.defined && function.defined {
                    return self.error_at(line, format!("`{name}` is defined twice"));
                }
                known.defined |= function.defined;
                Ok(*index)
            }
            Some(_) => self.error_at(line, format!("`{name}` is declared twice")),
        }
    }
}

/// What callers rely on.
fn layouts(variables: &[Variable]) -> impl Iterator<Item = (u32, u64, u64)> {
    variables.iter().map(|variable| (variable.kind.bits, variable.size, variable.align))
}

fn variables(parameters: Vec<Parameter<'_>>) -> Vec<Variable> {
    parameters.into_iter().map(|parameter| parameter.declared.variable).collect()
}
