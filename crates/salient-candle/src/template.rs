//! Chat templates, as transformers renders them: Jinja with blocks trimmed, the variables that are
//! always there, and its own `tojson`.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};
use serde::Serialize;
use serde_json::ser::Formatter;

use crate::error::Result;
use crate::tokenizer::Message;

/// The prompt that a template makes of a conversation.
pub(crate) fn render(
    template: &str,
    messages: &[Message],
    bos_token: &str,
    eos_token: &str,
) -> Result<String> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", tojson);
    let messages: Vec<Value> = messages.iter().map(Message::to_value).collect();
    Ok(environment.render_str(
        &without_generation(template),
        context! {
            messages,
            bos_token,
            eos_token,
            add_generation_prompt => true,
            tools => (),
            documents => (),
        },
    )?)
}

/// `{% generation %}` marks what a model says, for training; its body is text like any other.
fn without_generation(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (block, end) = (&rest[start + 2..start + len], start + len + 2);
        // Signs of white space stay.
        let word = block.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&rest[start..end].replacen(word, "if true", 1)),
            "endgeneration" => out.push_str(&rest[start..end].replacen(word, "endif", 1)),
            _ => out.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Python's `json.dumps`, as transformers calls it: nothing is escaped for HTML, and keys are in
/// their own order.
fn tojson(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let failed = |error: &dyn std::fmt::Display| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"))
    };
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [item, key] = match separators.as_deref() {
        None if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        None => [", ".to_owned(), ": ".to_owned()],
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(failed(&"separators are two")),
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let python = Python { indent, item, key, ascii, depth: 0, empty: true };
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, python);
    let written = if sorted {
        // Its maps are sorted.
        serde_json::to_value(&value).and_then(|value| value.serialize(&mut writer))
    } else {
        value.serialize(&mut writer)
    };
    written.map_err(|error| failed(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    Ok(Value::from_safe_string(text))
}

/// How Python writes JSON.
struct Python {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    depth: usize,
    /// Nothing was written yet in the innermost list or map.
    empty: bool,
}

impl Python {
    fn line<W: ?Sized + io::Write>(&self, out: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(out, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + io::Write>(&mut self, out: &mut W, with: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        out.write_all(with)
    }

    fn end<W: ?Sized + io::Write>(&mut self, out: &mut W, with: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(out)?;
        }
        self.empty = false;
        out.write_all(with)
    }

    fn next<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if !self.ascii || text.is_ascii() {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                write!(out, "{c}")?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> String {
        render(template, &[Message::user("Hi <b> & é")], "<s>", "</s>").unwrap()
    }

    /// Expected texts are those of Jinja2 3.1 with trim_blocks and lstrip_blocks.
    #[test]
    fn blocks_take_their_line_with_them() {
        let template = "{% for m in messages %}\n    {% if m.role == 'user' %}\n\
                        U: {{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n";
        assert_eq!(rendered(template), "U: Hi <b> & é\nend");
        assert_eq!(rendered("a\n  {{ bos_token }}\nb"), "a\n  <s>\nb");
        assert_eq!(rendered("{%- if true %}\nx{% endif -%}\n y"), "xy");
    }

    #[test]
    fn what_is_always_there_is_none() {
        assert_eq!(
            rendered("{% if tools is not none %}T{% endif %}{{ documents is none }}"),
            "True"
        );
        assert_eq!(
            rendered("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}"),
            "<s></s>True"
        );
    }

    #[test]
    fn generation_blocks_pass_their_body_through() {
        let template = "a {%- generation %}\n b {%- endgeneration %} c";
        assert_eq!(rendered(template), "a b c");
        let untouched = "{{ 'generation' }}{% set generation = 1 %}{{ generation }}";
        assert_eq!(rendered(untouched), "generation1");
    }

    /// Expected texts are those of Python's json.dumps.
    #[test]
    fn json_is_pythons() {
        let template = |options: &str| {
            let value = "{'z': [1, 2.5, true, none], 'a': '<é \"q\">', 'e': []}";
            format!("{{{{ {value} | tojson{options} }}}}")
        };
        assert_eq!(
            rendered(&template("")),
            r#"{"z": [1, 2.5, true, null], "a": "<é \"q\">", "e": []}"#
        );
        assert_eq!(
            rendered(&template("(ensure_ascii=true, sort_keys=true, separators=(',', ':'))")),
            r#"{"a":"<\u00e9 \"q\">","e":[],"z":[1,2.5,true,null]}"#
        );
        assert_eq!(
            rendered("{{ {'a': [1, {}], 'b': {'c': 2}} | tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": {\n    \"c\": 2\n  }\n}"
        );
    }
}
