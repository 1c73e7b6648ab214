//! PTX text, and what it says.

pub mod ast;
mod lex;
mod names;
mod parse;
#[cfg(test)]
mod tests;

/// Why a text is not a module that is understood here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line of the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub message: String,
}

/// Parses a whole module. Nothing in it is skipped but comments, `.pragma` strings and DWARF
/// sections; what is not understood is an error.
pub fn parse(text: &str) -> Result<ast::Module, ParseError> {
    parse::module(text)
}
