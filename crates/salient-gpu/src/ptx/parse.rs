//! From text to [`Module`].

mod body;
mod constant;
mod functions;
mod operands;
mod scope;
mod variables;

use std::collections::HashMap;

use super::ParseError;
use super::ast::{Module, Opcode, Target};
use super::lex::{Lexer, Token};
use super::names;
use scope::Symbol;

/// Parses a whole module.
pub(super) fn module(text: &str) -> Result<Module, ParseError> {
    let mut parser = Parser::new(text);
    parser.module()?;
    Ok(parser.module)
}

type Parsed<T> = Result<T, ParseError>;

/// What stands between the tokens and what is made of them: the next token, and what is declared at
/// module scope.
struct Parser<'a> {
    lexer: Lexer<'a>,
    token: Token<'a>,
    /// The line of the token before.
    behind: u32,
    module: Module,
    symbols: HashMap<&'a str, Symbol>,
    /// Places in [`Module::functions`], and which of what they take and return are registers.
    functions: HashMap<&'a str, (usize, Vec<bool>)>,
    /// Places in [`Module::opcodes`].
    opcodes: HashMap<&'a str, u32>,
}

/// `.visible` and its like (PTX ISA: section 11, linking directives).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linkage {
    Internal,
    Visible,
    Weak,
    Common,
    External,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut lexer = Lexer::new(text);
        let token = lexer.token();
        Self {
            lexer,
            token,
            behind: 1,
            module: Module::default(),
            symbols: HashMap::new(),
            functions: HashMap::new(),
            opcodes: HashMap::new(),
        }
    }

    fn module(&mut self) -> Parsed<()> {
        self.header()?;
        while self.token != Token::End {
            self.item()?;
        }
        Ok(())
    }

    /// `.version`, `.target` and `.address_size`, which stand first, in this order.
    fn header(&mut self) -> Parsed<()> {
        self.directive("version")?;
        let Token::Number(written) = self.token else { return self.unexpected("a version") };
        let (major, minor) = written.split_once('.').unwrap_or((written, ""));
        let version = match (major.parse::<u32>(), minor.parse::<u32>()) {
            (Ok(major), Ok(minor)) => (major, minor),
            _ => return self.error(format!("`{written}` is not a version")),
        };
        if version > names::NEWEST {
            let (major, minor) = names::NEWEST;
            return self.error(format!(
                "PTX {written} is not supported: {major}.{minor} is the newest version that is"
            ));
        }
        self.module.version = version;
        self.advance();
        self.directive("target")?;
        self.module.target = self.target()?;
        if self.token != Token::Dotted("address_size") {
            return self.error("`.address_size 64` is missing: addresses have 32 bits without it");
        }
        self.advance();
        match self.unsigned("a number of bits")? {
            64 => Ok(()),
            other => self.error_behind(format!("`.address_size {other}` is not supported: 64 is")),
        }
    }

    fn target(&mut self) -> Parsed<Target> {
        let name = self.word("a target")?;
        let Some(target) = names::target_named(name) else {
            return self.error_behind(format!("`{name}` is not a target that is known"));
        };
        while self.eat(b',') {
            match self.word("an option of the target")? {
                "debug" | "texmode_unified" | "texmode_independent" => {}
                other => {
                    return self.error_behind(format!("target option `{other}` is not supported"));
                }
            }
        }
        Ok(target)
    }

    /// A directive at module scope.
    fn item(&mut self) -> Parsed<()> {
        let linkage = self.linkage()?;
        let Token::Dotted(name) = self.token else { return self.unexpected("a directive") };
        match name {
            "entry" => self.entry(linkage),
            "func" => self.func(linkage),
            "global" | "const" | "shared" => self.module_variables(linkage),
            _ if linkage != Linkage::Internal => {
                self.unexpected("a function or a variable of the module")
            }
            "file" => self.file(),
            "section" => self.section(),
            "pragma" => self.pragma(),
            "local" | "reg" | "param" => {
                self.error(format!("`.{name}` cannot be declared at module scope"))
            }
            _ => self.error(format!("directive `.{name}` is not supported here")),
        }
    }

    fn linkage(&mut self) -> Parsed<Linkage> {
        let linkage = match self.token {
            Token::Dotted("visible") => Linkage::Visible,
            Token::Dotted("weak") => Linkage::Weak,
            Token::Dotted("common") => Linkage::Common,
            Token::Dotted("extern") => Linkage::External,
            _ => return Ok(Linkage::Internal),
        };
        self.advance();
        Ok(linkage)
    }

    /// `.file 1 "name"`, perhaps with a time and a size (PTX ISA: .file).
    fn file(&mut self) -> Parsed<()> {
        self.advance();
        let number = self.unsigned("the number of a file")?;
        let Token::Text(name) = self.token else { return self.unexpected("the name of a file") };
        self.advance();
        if self.eat(b',') {
            self.unsigned("a time")?;
            self.expect(b',')?;
            self.unsigned("a size")?;
        }
        match self.module.files.insert(number, name.to_owned()) {
            Some(other) if other != name => {
                self.error_behind(format!("file {number} is `{other}` too"))
            }
            _ => Ok(()),
        }
    }

    /// Skips DWARF, which says nothing about what a module does (PTX ISA: .section).
    fn section(&mut self) -> Parsed<()> {
        self.advance();
        match self.token {
            Token::Dotted(name) if name.starts_with("debug_") => self.advance(),
            Token::Dotted(name) => {
                return self.error(format!("section `.{name}` is not supported"));
            }
            _ => return self.unexpected("the name of a section"),
        }
        self.expect(b'{')?;
        while !self.eat(b'}') {
            match self.token {
                Token::End | Token::Bad(_) | Token::Sign(b'{') => {
                    return self.unexpected("the end of the section");
                }
                _ => self.advance(),
            }
        }
        Ok(())
    }

    /// `.pragma "nounroll";`: a hint to a compiler (PTX ISA: .pragma).
    fn pragma(&mut self) -> Parsed<()> {
        self.advance();
        loop {
            let Token::Text(text) = self.token else { return self.unexpected("a string") };
            if !names::is_pragma(text) {
                return self.error(format!("pragma \"{text}\" is not supported"));
            }
            self.advance();
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    /// The index of the opcode that begins with `word`, the current token, which is left.
    fn opcode(&mut self, word: &'a str) -> Parsed<u32> {
        let line = self.line();
        let written = if matches!(self.lexer.follower(), b'.' | b':') {
            self.lexer.opcode(word)
        } else {
            word
        };
        self.advance();
        if let Token::Dotted(_) = self.token {
            // White space before a modifier, which is legal.
            let mut spaced = written.to_owned();
            while let Token::Dotted(modifier) = self.token {
                spaced.push('.');
                spaced.push_str(modifier);
                self.advance();
            }
            return self.intern(&spaced, line);
        }
        if let Some(&known) = self.opcodes.get(written) {
            return Ok(known);
        }
        let index = self.intern(written, line)?;
        self.opcodes.insert(written, index);
        Ok(index)
    }

    fn intern(&mut self, written: &str, line: u32) -> Parsed<u32> {
        let mut parts = written.split('.');
        let name = parts.next().unwrap_or_default();
        if !names::is_instruction(name) {
            return self.error_at(line, format!("`{name}` is not an instruction of PTX"));
        }
        let modifiers: Vec<String> = parts.map(str::to_owned).collect();
        let whole = |m: &String| m.split("::").all(|part| !part.is_empty() && !part.contains(':'));
        if !modifiers.iter().all(whole) {
            return self.error_at(line, format!("`{written}` is not an opcode"));
        }
        let opcode = Opcode { name: name.to_owned(), modifiers };
        let opcodes = &mut self.module.opcodes;
        let index = opcodes.iter().position(|known| *known == opcode).unwrap_or_else(|| {
            opcodes.push(opcode);
            opcodes.len() - 1
        });
        Ok(index as u32)
    }

    fn line(&self) -> u32 {
        self.lexer.line()
    }

    fn advance(&mut self) {
        self.behind = self.lexer.line();
        self.token = self.lexer.token();
    }

    /// The token behind the current one.
    fn ahead(&self) -> Token<'a> {
        let mut copy = self.lexer;
        copy.token()
    }

    fn eat(&mut self, sign: u8) -> bool {
        let found = self.token == Token::Sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: u8) -> Parsed<()> {
        if self.eat(sign) { Ok(()) } else { self.unexpected(&format!("`{}`", sign as char)) }
    }

    fn directive(&mut self, name: &str) -> Parsed<()> {
        if self.token != Token::Dotted(name) {
            return self.unexpected(&format!("`.{name}`"));
        }
        self.advance();
        Ok(())
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        let Token::Word(word) = self.token else { return self.unexpected(what) };
        self.advance();
        Ok(word)
    }

    /// A name to declare: not `_`, which stands for none, and not the name of a constant.
    fn new_name(&mut self, what: &str) -> Parsed<&'a str> {
        match self.token {
            Token::Word("_" | "WARP_SZ") => self.unexpected(what),
            _ => self.word(what),
        }
    }

    /// A number of 32 bits without a sign.
    fn unsigned(&mut self, what: &str) -> Parsed<u32> {
        let Token::Number(written) = self.token else { return self.unexpected(what) };
        let number = self.integer_literal(written)?;
        let Ok(number) = u32::try_from(number.bits) else {
            return self.error(format!("{written} is too large for {what}"));
        };
        self.advance();
        Ok(number)
    }

    fn unexpected<T>(&self, what: &str) -> Parsed<T> {
        let found = match self.token {
            Token::Word(text) | Token::Number(text) => format!("`{text}`"),
            Token::Dotted(text) => format!("`.{text}`"),
            Token::Text(text) => format!("\"{text}\""),
            Token::Sign(sign) => format!("`{}`", sign as char),
            Token::Doubled(sign) => format!("`{0}{0}`", sign as char),
            Token::OrEqual(sign) => format!("`{}=`", sign as char),
            Token::Bad(what) => what.to_owned(),
            Token::End => "the end of the text".to_owned(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.error_at(self.line(), message)
    }

    /// An error of the token before the current one.
    fn error_behind<T>(&self, message: impl Into<String>) -> Parsed<T> {
        self.error_at(self.behind, message)
    }

    fn error_at<T>(&self, line: u32, message: impl Into<String>) -> Parsed<T> {
        Err(ParseError { line, message: message.into() })
    }
}
