//! Texts, and what they are parsed into.

mod constants;
mod errors;
mod functions;
mod operands;
mod random;
mod scopes;
mod variables;

use super::ast::{Function, Instruction, Kind, Module, Opcode, Operand, Type};
use super::{ParseError, parse};

/// The lines of [`text`] before `declarations`.
const HEAD: u32 = 3;
/// The lines of [`kernel`] before `statements`.
const BODY: u32 = HEAD + 7;

/// A module of `declarations`.
fn text(declarations: &str) -> String {
    format!(".version 9.0\n.target sm_90a\n.address_size 64\n{declarations}\n")
}

/// A kernel of `statements`, with a few registers and variables.
fn kernel(statements: &str) -> String {
    text(&format!(
        ".global .align 8 .b32 numbers[16];
.visible .entry kernel(.param .u64 pointer, .param .b32 count) {{
\t.reg .pred %p<4>;
\t.reg .b32 %r<8>;
\t.reg .b64 %rd<8>;
\t.reg .f32 %f<8>;
\t.shared .align 16 .b8 tile[64];
{statements}
}}"
    ))
}

fn module(declarations: &str) -> Module {
    parsed(&text(declarations))
}

fn parsed(text: &str) -> Module {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The instructions of `statements` in [`kernel`].
fn instructions(statements: &str) -> Vec<Instruction> {
    parsed(&kernel(statements)).functions.remove(0).instructions
}

/// The operands of the only instruction of `statements`.
fn operands(statements: &str) -> Vec<Operand> {
    let [instruction] = &instructions(statements)[..] else { panic!("one instruction") };
    instruction.operands.clone()
}

fn function<'a>(module: &'a Module, name: &str) -> &'a Function {
    module.functions.iter().find(|function| function.name == name).expect("the function")
}

/// What registers `%r0`, `%rd0` and `%f0` of [`kernel`] are numbered from.
const R: u32 = 4;
const RD: u32 = 12;
const F: u32 = 20;

const B32: Type = Type { kind: Kind::Bits, bits: 32 };

#[test]
fn a_header_is_a_module() {
    let module = parsed(".version 8.7\n.target sm_100f, debug\n.address_size 64");
    assert_eq!(module.version, (8, 7));
    assert_eq!((module.target.architecture, module.target.suffix), (100, Some('f')));
    assert!(module.functions.is_empty() && module.variables.is_empty());
    let module = parsed(".version 7.0 .target sm_80, texmode_independent .address_size 64");
    assert_eq!((module.target.architecture, module.target.suffix), (80, None));
}

#[test]
fn comments_and_debugging_sections_are_skipped() {
    let module = module(
        "/* several
lines */ .global .b32 a; // to the end \" of the line
.file 1 \"dir/name.cu\"
.file 2 \"C:\\other\\\", 1700000000, 12
.pragma \"nounroll\";
.section .debug_str {
$L__info_string0:
.b8 95,90,0
.b32 .debug_abbrev+4
.b64 $L__tmp0
}
.global .b32 b;",
    );
    assert_eq!(module.variables.len(), 2);
    assert_eq!(module.files[&1], "dir/name.cu");
    assert_eq!(module.files[&2], "C:\\other\\");
}

#[test]
fn opcodes_are_split_at_dots_and_shared() {
    let module = parsed(&kernel(
        "add.s32 %r1, %r2, %r3;
add .s32 %r1, %r2, %r3;
cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r1, %r2, %r3}], [%r2];
ret;
add.s32 %r4, %r5, 1;",
    ));
    let opcode = |name: &str, modifiers: &[&str]| Opcode {
        name: name.to_owned(),
        modifiers: modifiers.iter().map(|&modifier| modifier.to_owned()).collect(),
    };
    assert_eq!(
        module.opcodes,
        [
            opcode("add", &["s32"]),
            opcode(
                "cp",
                &[
                    "async",
                    "bulk",
                    "tensor",
                    "3d",
                    "shared::cluster",
                    "global",
                    "mbarrier::complete_tx::bytes"
                ]
            ),
            opcode("ret", &[]),
        ]
    );
    let used = module.functions[0].instructions.iter().map(|one| one.opcode);
    assert_eq!(used.collect::<Vec<_>>(), [0, 0, 1, 2, 0]);
}

#[test]
fn instructions_know_their_lines() {
    let lines = |statements| -> Vec<u32> {
        instructions(statements).iter().map(|instruction| instruction.line - BODY).collect()
    };
    assert_eq!(lines("ret;\n\n/* \n */ @%p1\n\tmov.b32\n%r1,\n%r2; ret;\nret;"), [1, 5, 7, 8]);
}
