//! Words, numbers and signs of PTX text (PTX ISA: section 4).

/// What the text is made of. Tokens never span lines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// An identifier, with its `%` or `$` if it has one.
    Word(&'a str),
    /// A directive, type or modifier, without its dot: `reg`, `u32`, `shared::cta`.
    Dotted(&'a str),
    /// As written; [`super::parse`] finds its value.
    Number(&'a str),
    /// What stands between quotes, where a backslash is nothing special.
    Text(&'a str),
    /// A sign of one character.
    Sign(u8),
    /// `<<`, `>>`, `&&`, `||` and `==`, by their character.
    Doubled(u8),
    /// `<=`, `>=` and `!=`, by their first character.
    OrEqual(u8),
    /// Something that cannot stand in PTX, in words.
    Bad(&'static str),
    End,
}

/// Reads tokens off a text. Copies of it read ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, position: 0, line: 1 }
    }

    /// The line of the token read last.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The character right behind the token read last, 0 at the end.
    pub(super) fn follower(&self) -> u8 {
        self.at(0)
    }

    pub(super) fn token(&mut self) -> Token<'a> {
        if let Err(what) = self.skip_blanks() {
            return Token::Bad(what);
        }
        let start = self.position;
        let byte = self.at(0);
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'$' => {
                self.skip_word();
                Token::Word(&self.text[start..self.position])
            }
            b'%' | b'.' if !follows(self.at(1)) => self.sign(byte),
            b'%' => {
                self.position += 1;
                self.skip_word();
                Token::Word(&self.text[start..self.position])
            }
            b'.' => {
                self.skip_dotted();
                Token::Dotted(&self.text[start + 1..self.position])
            }
            b'0'..=b'9' => self.number(),
            b'"' => self.quoted(),
            0 if start == self.text.len() => Token::End,
            b'<' | b'>' | b'&' | b'|' | b'=' if self.at(1) == byte => {
                self.position += 2;
                Token::Doubled(byte)
            }
            b'<' | b'>' | b'!' if self.at(1) == b'=' => {
                self.position += 2;
                Token::OrEqual(byte)
            }
            b'<' | b'>' | b'&' | b'|' | b'=' | b'!' | b'@' | b'{' | b'}' | b'[' | b']' | b'('
            | b')' | b',' | b';' | b':' | b'+' | b'-' | b'*' | b'/' | b'^' | b'~' | b'?' => {
                self.sign(byte)
            }
            b'#' => Token::Bad("a line for a preprocessor"),
            _ => Token::Bad("a character that PTX does not have"),
        }
    }

    /// Goes on behind `word`, the token read last, to the end of the opcode that it begins.
    pub(super) fn opcode(&mut self, word: &'a str) -> &'a str {
        let start = self.position - word.len();
        while follows(self.at(0)) || matches!(self.at(0), b'.' | b':') {
            self.position += 1;
        }
        &self.text[start..self.position]
    }

    /// Reads a [`Token::Dotted`], the token read last, as the decimal that it is in `.5e-3`.
    pub(super) fn decimal(&mut self, dotted: &'a str) -> Token<'a> {
        self.position -= dotted.len() + 1;
        self.number()
    }

    fn at(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.position + ahead).copied().unwrap_or(0)
    }

    fn sign(&mut self, byte: u8) -> Token<'a> {
        self.position += 1;
        Token::Sign(byte)
    }

    /// Skips white space and comments.
    fn skip_blanks(&mut self) -> Result<(), &'static str> {
        loop {
            match self.at(0) {
                b'\n' => {
                    self.line += 1;
                    self.position += 1;
                }
                b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c' => self.position += 1,
                b'/' if self.at(1) == b'/' => {
                    let rest = &self.text.as_bytes()[self.position..];
                    self.position += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                b'/' if self.at(1) == b'*' => {
                    let rest = &self.text[self.position + 2..];
                    let length = rest.find("*/").ok_or("a comment without an end")?;
                    self.line += rest[..length].bytes().filter(|&b| b == b'\n').count() as u32;
                    self.position += length + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_word(&mut self) {
        while follows(self.at(0)) {
            self.position += 1;
        }
    }

    fn skip_dotted(&mut self) {
        self.position += 1;
        self.skip_word();
        while self.at(0) == b':' && self.at(1) == b':' && follows(self.at(2)) {
            self.position += 2;
            self.skip_word();
        }
    }

    fn number(&mut self) -> Token<'a> {
        let start = self.position;
        let prefixed = self.at(0) == b'0'
            && matches!(self.at(1), b'x' | b'X' | b'b' | b'B' | b'f' | b'F' | b'd' | b'D');
        self.skip_word();
        if !prefixed {
            if self.at(0) == b'.' {
                self.position += 1;
                self.skip_word();
            }
            let exponent = matches!(self.text.as_bytes()[self.position - 1], b'e' | b'E');
            if exponent && matches!(self.at(0), b'+' | b'-') {
                self.position += 1;
                self.skip_word();
            }
        }
        Token::Number(&self.text[start..self.position])
    }

    fn quoted(&mut self) -> Token<'a> {
        let start = self.position + 1;
        let rest = &self.text[start..];
        let Some(length) = rest.find(['"', '\n']).filter(|&at| rest.as_bytes()[at] == b'"') else {
            return Token::Bad("a string without an end");
        };
        self.position = start + length + 1;
        Token::Text(&rest[..length])
    }
}

/// Whether a character may stand within an identifier.
fn follows(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}
