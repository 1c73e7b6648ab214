//! What is not understood, and the line that is named.

use super::{BODY, HEAD, ParseError, kernel, parse, text};

/// `line` counts from the line of `text` behind `before` others.
#[track_caller]
fn refused(text: &str, before: u32, line: u32, message: &str) {
    match parse(text) {
        Ok(_) => panic!("parsed: {text}"),
        Err(error) => {
            assert!(error.message.contains(message), "{error}\n{text}");
            assert_eq!(error.line, before + line, "{error}\n{text}");
        }
    }
}

#[test]
fn an_error_shows_its_line() {
    let error = ParseError { line: 12, message: "what is wrong".to_owned() };
    assert_eq!(error.to_string(), "line 12: what is wrong");
}

#[test]
fn headers() {
    for (text, line, message) in [
        ("", 1, "expected `.version`, found the end"),
        ("\n.target sm_90", 2, "expected `.version`, found `.target`"),
        ("\n.version nine", 2, "expected a version, found `nine`"),
        (".version 9", 1, "`9` is not a version"),
        (".version 9.4\n.target sm_90", 1, "PTX 9.4 is not supported: 9.3 is the newest"),
        (".version 10.0", 1, "PTX 10.0 is not supported"),
        (".version 9.0\n.entry", 2, "expected `.target`"),
        (".version 9.0\n.target compute_90\n", 2, "`compute_90` is not a target"),
        (".version 9.0\n.target sm_80a\n", 2, "`sm_80a` is not a target"),
        (".version 9.0\n.target sm_90,\nfast", 3, "target option `fast` is not supported"),
        (".version 9.0\n.target sm_90\n\n.entry", 4, "`.address_size 64` is missing"),
        (".version 9.0\n.target sm_90\n.address_size 32\n", 3, "`.address_size 32` is not"),
    ] {
        refused(text, 0, line, message);
    }
}

#[test]
fn declarations() {
    for (declarations, line, message) in [
        ("\nadd.s32 %r1, %r2, %r3;", 2, "expected a directive, found `add`"),
        ("\n.alias f, g;", 2, "directive `.alias` is not supported here"),
        (".section .text { }", 1, "section `.text` is not supported"),
        (".section .debug_str {\n.b8 1", 3, "expected the end of the section"),
        (".file 1 \"a\"\n.file 1 \"b\"", 2, "file 1 is `a` too"),
        (".file 1 \"a\n\"", 1, "a string without an end"),
        ("/* \n", 1, "a comment without an end"),
        ("#define X", 1, "a line for a preprocessor"),
        (".global .b32 ü;", 1, "a character that PTX does not have"),
        (".pragma \"other\";", 1, "pragma \"other\" is not supported"),
        (".local .b32 a;", 1, "`.local` cannot be declared at module scope"),
        (".reg .b32 a;", 1, "`.reg` cannot be declared at module scope"),
        (".extern .file 1 \"a\"", 1, "expected a function or a variable"),
        (".visible .extern .global .b32 a;", 1, "expected a function or a variable"),
        (".common .shared .b32 a;", 1, "`.common` can only stand before `.global`"),
        (".global .b32 a;\n.global .b32 a;", 2, "`a` is declared twice"),
        (".global .b32 a;\n.func a;", 2, "`a` is declared twice"),
        (".extern .global .b32 a;\n.global .b64 a;", 2, "`a` is declared twice"),
        (".global .b32 a", 2, "expected `;`, found the end"),
        (".global a;", 1, "expected a type, found `a`"),
        (".global .texref a;", 1, "opaque type `.texref` is not supported"),
        (".global .x32 a;", 1, "`.x32` is not a type"),
        (".global .pred a;", 1, "only registers can be of type `.pred`"),
        (".global .v4 .b64 a;", 1, "a vector of more than 128 bits"),
        (".global .attribute(.other) .b64 a;", 1, "attribute `.other` is not supported"),
        (".global .align 3 .b64 a;", 1, "alignment 3 is not a power of two"),
        (".global .b32\na[0];", 2, "an array without elements"),
        (".global .b32 a[];", 1, "`a` has no length"),
        (".global .b32 a[2][];", 1, "expected a constant, found `]`"),
        (".global .b64 a[1 << 61];", 1, "`a` does not fit an address space"),
        (".global .b32 _;", 1, "`_` cannot be the name of a variable"),
    ] {
        refused(&text(declarations), HEAD, line, message);
    }
}

#[test]
fn initialisers() {
    for (declarations, line, message) in [
        (".shared .b32 a = 1;", 1, "`a` cannot begin as anything here"),
        (".extern .global .b32 a = 1;", 1, "`a` cannot begin as anything here"),
        (".global .f16 a = 1.0;", 1, "the type of `a` cannot be initialised"),
        (".global .b32 a[2] =\n{1, 2,\n3};", 3, "more elements than `a` has"),
        (".global .b32 a[2][2] = {{1}, {2, 3}};", 1, "a row of fewer elements"),
        (".global .b32 a[2] = {1, };", 1, "expected a constant, found `}`"),
        (".global .b32 a[2] = 1;", 1, "expected `{`, found `1`"),
        (".global .b32 a = {1};", 1, "expected a constant, found `{`"),
        (".global .b32 a[] = {};", 1, "`a` has no length"),
        (".global .u32 a = 1.5;", 1, "not of the variable's type"),
        (".global .f32 a = 1;", 1, "not of the variable's type"),
        (".global .u32 a = 0f3F800000;", 1, "not of the variable's type"),
        (".global .u64 a =\nb;", 2, "`b` is not declared as a variable"),
        (".global .u32 a; .global .u32 b = a;", 1, "only integers of 64 bits"),
        (".global .u32 a; .global .b8 b[8] = {0xff(a)};", 1, "masks of addresses"),
        (".func f; .global .u64 a = generic(f);", 1, "`f` is not declared as a variable"),
        (".global .b8 a[2][1 << 60] = {{1}, {1}};", 1, "a row of fewer elements"),
    ] {
        refused(&text(declarations), HEAD, line, message);
    }
}

#[test]
fn heads_of_functions() {
    for (declarations, line, message) in [
        (".entry ;", 1, "expected the name of an entry, found `;`"),
        (".common .entry f;", 1, "`.common` cannot stand before `.entry`"),
        (".common .func f;", 1, "`.common` cannot stand before `.func`"),
        (".entry f(\n.reg .b32 a);", 2, "parameters of an entry are in `.param` space"),
        (".entry f(.param .b32 a, );", 1, "expected `.param`, found `)`"),
        (".entry f(.param .b32 a\n.param .b32 b);", 2, "expected `,` or `)`"),
        (".func f(.param .b8 a[],\n.param .b32 b);", 1, "`a` has no length"),
        (".func f(.reg .b32 a[2]);", 1, "register `a` is an array"),
        (".entry f()\n.maxntid 0 { }", 2, "0 is not allowed here"),
        (".entry f() .maxntid 1\n.maxntid 2 { }", 2, "`.maxntid` stands here twice"),
        (".entry f() .maxntid 1\n.reqntid 2 { }", 2, "both `.maxntid` and `.reqntid`"),
        (".entry f() .blocksareclusters { }", 1, "stands without `.reqntid`"),
        (".entry f() .noreturn { }", 1, "`.noreturn` is not supported here"),
        (".func f() .maxntid 1 { }", 1, "`.maxntid` is not supported here"),
        (".entry f() .other 1 { }", 1, "`.other` is not supported here"),
        (".entry f()\nret;", 2, "expected `;`, found `ret`"),
        (".extern .func f() { }", 1, "`.extern` function `f` has a body"),
        (".func f() { }\n.func f() { }", 2, "`f` is defined twice"),
        (".func f();\n.entry f() { }", 2, "`f` is declared otherwise before"),
        (".func f(.param .b32 a);\n.func f(.param .b64 a) { }", 2, "declared otherwise before"),
        (".func f(.param .b32 a);\n.func f(.reg .b32 a) { }", 2, "declared otherwise before"),
        (".func f(.param .b32 a,\n.param .b32 a) { }", 2, "`a` is declared twice"),
        (".func f(.param .b32 a) {\n.reg .b32 a; }", 2, "`a` is declared twice"),
        (".entry f() {\n\nret;", 4, "expected the `}` of line 1, found the end"),
        (".entry f() {\n{\nret;", 4, "expected the `}` of line 2, found the end"),
        (".entry f() { } }", 1, "expected a directive, found `}`"),
    ] {
        let message = &message.replace("line 1", "line 4").replace("line 2", "line 5");
        refused(&text(declarations), HEAD, line, message);
    }
}

#[test]
fn statements() {
    for (statements, line, message) in [
        ("\nfoo.u32 %r1;", 2, "`foo` is not an instruction of PTX"),
        ("mov..u32 %r1, 1;", 1, "`mov..u32` is not an opcode"),
        ("ld.shared:cta.u32 %r1, [%r2];", 1, "`ld.shared:cta.u32` is not an opcode"),
        ("mov.u32 %r1, 1", 2, "expected `,` or `;`, found `}`"),
        ("mov.u32 %r1 %r2;", 1, "expected `,` or `;`, found `%r2`"),
        ("mov.u32 %r1,;", 1, "expected an operand, found `;`"),
        (";", 1, "expected a statement, found `;`"),
        ("@%p1\n;", 2, "expected an instruction, found `;`"),
        ("@%p1 { ret; }", 1, "expected an instruction, found `{`"),
        ("@%r1 ret;", 1, "`%r1` is not a predicate"),
        ("@%q1 ret;", 1, "`%q1` is not declared"),
        ("@tile ret;", 1, "`tile` is not a predicate"),
        (".version 9.0", 1, "directive `.version` is not supported here"),
        (".branchtargets a;", 1, "`.branchtargets` stands without a label"),
        (".reg .v2 .b32 v;", 1, "`.v2` registers are not supported"),
        (".reg .b32 a,\na;", 2, "`a` is declared twice"),
        (".reg .b32 %r3;", 1, "`%r3` is declared twice"),
        (".reg .b32 q3; .reg .b32 q<4>;", 1, "`q3` is declared twice"),
        (".reg .b32 q<11>, q1<1>;", 1, "`q10` is declared twice"),
        (".reg .b32 q1<1>, q<11>;", 1, "`q10` is declared twice"),
        (".reg .b32 q<2000000>;", 1, "a function of more than 1048576 registers"),
        (".reg .b32 _;", 1, "expected the name of a register"),
        (".reg .b32 tile;", 1, "`tile` is declared twice"),
        ("\n.local .b32 a[];", 2, "`a` has no length"),
        (".local .b32 a = 1;", 1, "`a` cannot begin as anything here"),
        ("ret\n}", 2, "expected an operand, found `}`"),
        ("a: a: ret;", 1, "`a` is declared twice"),
        ("%r1: ret;", 1, "`%r1` is declared twice"),
        ("_: ret;", 1, "`_` cannot be declared"),
        ("bra\nnowhere;", 2, "label `nowhere` is not declared"),
        ("bra inner; { inner: ret; }", 1, "label `inner` is not declared"),
        ("t: .branchtargets a,\nb; a: ret;", 2, "label `b` is not declared"),
        ("bra %r1;", 1, "`%r1` is not a label"),
        ("bra 5;", 1, "expected a label, found `5`"),
        ("brx.idx %r1, t; t: .branchtargets a; a: ret;", 1, "`t` is not declared"),
        ("t: .calltargets tile;", 1, "`tile` is not declared as a function"),
        ("t: .callprototype name ();", 1, "expected `_`, found `name`"),
        ("call later, ();", 1, "`later` is not declared"),
        (".loc 1 2", 2, "expected a column, found `}`"),
        (".loc 1 2 3, inlined_at 1 2 3", 1, "expected `function_name`"),
        (".loc 1 2 3, function_name a, inlined_at\n4 5 6", 2, "no `.loc 4 5 6` stands before"),
    ] {
        refused(&kernel(statements), BODY, line, message);
    }
}

#[test]
fn operands() {
    for (operand, message) in [
        ("x", "`x` is not declared"),
        ("%r8", "`%r8` is no special register, and is not declared"),
        ("%r01", "`%r01` is no special register"),
        ("%tid.q", "`%tid` has no `.q`"),
        ("%laneid.x", "`%laneid` has no `.x`"),
        ("%envreg32", "`%envreg32` is no special register"),
        ("%pm8", "`%pm8` is no special register"),
        ("%r2.x", "`%r2.x`: parts of it are not supported"),
        ("%r2.b0", "`%r2.b0`: parts of it are not supported"),
        ("here", "label `here` is not an operand here"),
        ("!%r2", "`%r2` is not a predicate"),
        ("-%r2", "expected a constant, found `%r2`"),
        ("{%r2, }", "expected an operand, found `}`"),
        ("{%r2", "expected `,` or `}`, found `;`"),
        ("{{%r2}}", "expected an operand, found `{`"),
        ("[%rd1", "expected `]`, found `;`"),
        ("[%rd1-4]", "expected `]`, found `-`"),
        ("[%rd1+%r2]", "expected a constant, found `%r2`"),
        ("[%rd1].unified", "expected `,` or `;`, found `.unified`"),
        ("[kernel]", "`kernel` is not an address"),
        ("[1.5]", "expected an address, found a floating point constant"),
        ("[]", "expected a constant, found `]`"),
        ("numbers + 1.5", "expected an offset, found a floating point constant"),
        ("numbers[%r1]", "expected a constant, found `%r1`"),
        ("\"text\"", "expected an operand, found \"text\""),
        ("%r2|5", "expected a register, found `5`"),
        ("089", "`089` is not a number"),
        ("0x", "`0x` is not a number"),
        ("0b12", "`0b12` is not a number"),
        ("12ab", "`12ab` is not a number"),
        ("1.5.5", "expected `,` or `;`, found `.5`"),
        ("1e", "`1e` is not a number"),
        ("99999999999999999999", "does not fit 64 bits"),
        ("0f3F80000", "`0f3F80000` is not 0f and eight"),
        ("0d3FF", "`0d3FF` is not 0d and 16"),
        ("-0f3F800000", "types do not match"),
        ("0f3F800000 + 1.0", "types do not match"),
        ("1.5 * 2", "types do not match"),
        ("1.5 % 2.0", "types do not match"),
        ("(.u64)1.5", "types do not match"),
        ("1.5 ? 1 : 2", "types do not match"),
        ("1 ? 1 : 2.5", "types do not match"),
        ("1 / 0", "a constant is divided by zero"),
        ("1 % (1 - 1)", "a constant is divided by zero"),
        ("(1 + 2", "expected `)`, found `;`"),
        ("1 ? 2", "expected `:`, found `;`"),
    ] {
        let statements = format!("here:\n\nmov.b32 %r1, {operand};\nret;");
        refused(&kernel(&statements), BODY, 3, message);
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("(", ")"), ("-", ""), ("1 ? ", " : 1"), ("1 ? 1 : ", ""), ("!", "")] {
        let nested = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let statements = format!("mov.b32 %r1, {nested};");
        refused(&kernel(&statements), BODY, 1, "a constant expression is nested too deeply");
    }
    let declaration = format!(".global .b8 a{} = {};", "[1]".repeat(100), "{".repeat(100));
    refused(&text(&declaration), HEAD, 1, "an array of too many dimensions");
    // Braces of a body hold no expression, and may be as deep as one likes.
    let deep = format!("{}{}", "{".repeat(10_000), "}".repeat(10_000));
    assert!(parse(&kernel(&deep)).is_ok());
}
