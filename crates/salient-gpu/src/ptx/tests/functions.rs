//! Entries, functions and calls.

use super::super::ast::{Name, Operand, Prototype, Space, Table};
use super::{function, module};

#[test]
fn parameters() {
    let module = module(
        ".entry none { ret; }
.visible .entry some(
  .param .align 64 .b8 structure[640],
  .param .u64 .ptr .global .align 16 pointer,
  .param .u64 .ptr other,
  .param .v4 .f32 four
)
{ ret; }
.extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 arguments);
.func (.reg .u32 sum) add(.reg .u32 a, .param .align 8 .b8 rest[]) {
  .reg .u32 b;
  ld.param.u32 b, [rest+4];
  add.u32 sum, a, b;
  ret;
}",
    );
    assert!(function(&module, "none").params.is_empty());
    let some = function(&module, "some");
    let laid: Vec<_> = some.params.iter().map(|one| (&one.name[..], one.size, one.align)).collect();
    assert_eq!(
        laid,
        [("structure", 640, 64), ("pointer", 8, 8), ("other", 8, 8), ("four", 16, 16)]
    );
    assert!(some.entry && some.defined && some.params.iter().all(|p| p.space == Space::Param));
    let vprintf = function(&module, "vprintf");
    assert!(!vprintf.entry && !vprintf.defined);
    assert_eq!((vprintf.params.len(), vprintf.returns.len()), (2, 1));
    let add = function(&module, "add");
    assert_eq!(add.register_params, [(Name::Param(0), 0), (Name::Return(0), 1)]);
    let names: Vec<&str> = add.registers.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ["a", "sum", "b"]);
    assert_eq!(add.params[1].size, 0);
    let rest = Operand::Variable(Name::Param(1), 0);
    assert_eq!(add.instructions[0].operands[1], Operand::Address(Box::new(rest), 4));
    let registers = [1, 0, 2].map(Operand::Register);
    assert_eq!(add.instructions[1].operands, registers);
}

#[test]
fn directives_before_a_body() {
    let module = module(
        ".entry a() .maxntid 384, 1, 2 .minnctapersm 3 .maxnreg 64 { }
.entry b() .reqntid 32 .blocksareclusters .reqnctapercluster 2, 4 .pragma \"nounroll\"; { }
.entry c() .explicitcluster .maxclusterrank 8 { }
.entry d() .explicitcluster .reqnctapercluster 2 { }
.func e() .noreturn { trap; }",
    );
    let a = function(&module, "a");
    assert_eq!(a.threads, Some(([384, 1, 2], false)));
    assert_eq!((a.min_blocks, a.max_registers), (Some(3), Some(64)));
    assert_eq!((a.cluster, a.max_cluster, a.blocks_are_clusters), (None, None, false));
    let b = function(&module, "b");
    assert_eq!((b.threads, b.cluster), (Some(([32, 1, 1], true)), Some([2, 4, 1])));
    assert!(b.blocks_are_clusters && !b.noreturn);
    let c = function(&module, "c");
    assert_eq!((c.cluster, c.max_cluster), (Some([0; 3]), Some(8)));
    assert_eq!(function(&module, "d").cluster, Some([2, 1, 1]));
    assert!(function(&module, "e").noreturn);
}

#[test]
fn a_definition_takes_the_place_of_a_declaration() {
    let module = module(
        ".func (.param .b32 r) f(.param .b64 _);
.func g() { ret; }
.visible .func (.param .b32 result) f(.param .b64 x) { ret; }
.func g();",
    );
    let names: Vec<_> = module.functions.iter().map(|f| (&f.name[..], f.defined)).collect();
    assert_eq!(names, [("f", true), ("g", true)]);
    assert_eq!(module.functions[0].params[0].name, "x");
}

#[test]
fn calls() {
    use Operand::{Function, Integer, List, Register, Sink, Table as Listed, Variable};
    let module = module(
        ".func none() { ret; }
.func (.reg .b32 r) some(.reg .b32 a, .reg .b32 b) { ret; }
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.entry kernel() {
  .reg .b32 %r<2>; .reg .b64 %rd;
  call none;
  call.uni none, ();
  call (%r0), some, (%r1, 5);
  call (_), some, (%r0, %r1);
  { .param .b64 a; .param .b64 b; .param .b32 r; call.uni (r), vprintf, (a, b); }
  targets: .calltargets none, some;
  call (%r0), %rd, (%r1, %r0), targets;
  prototype : .callprototype (.param .b32 _) _ (.param .align 8 .b8 _[16], .param .b64 _);
  bare: .callprototype ()_() .noreturn;
  call %rd, bare;
}",
    );
    let kernel = function(&module, "kernel");
    let function = |name: &str| Function(name.to_owned());
    let found: Vec<_> = kernel.instructions.iter().map(|one| one.operands.clone()).collect();
    let body = |index| Variable(Name::Body(index), 0);
    assert_eq!(
        found,
        [
            vec![function("none")],
            vec![function("none"), List(vec![])],
            vec![List(vec![Register(0)]), function("some"), List(vec![Register(1), Integer(5)])],
            vec![List(vec![Sink]), function("some"), List(vec![Register(0), Register(1)])],
            vec![List(vec![body(2)]), function("vprintf"), List(vec![body(0), body(1)])],
            vec![
                List(vec![Register(0)]),
                Register(2),
                List(vec![Register(1), Register(0)]),
                Listed(0)
            ],
            vec![Register(2), Listed(2)],
        ]
    );
    let [Table::Calls(names), Table::Prototype(prototype), Table::Prototype(bare)] =
        &kernel.tables[..]
    else {
        panic!("{:?}", kernel.tables)
    };
    assert_eq!(names, &["none", "some"]);
    let sizes = |variables: &[super::super::ast::Variable]| -> Vec<(u64, u64)> {
        variables.iter().map(|one| (one.size, one.align)).collect()
    };
    assert_eq!(sizes(&prototype.params), [(16, 8), (8, 8)]);
    assert_eq!(sizes(&prototype.returns), [(4, 4)]);
    assert_eq!(*bare, Prototype { noreturn: true, ..Prototype::default() });
}
