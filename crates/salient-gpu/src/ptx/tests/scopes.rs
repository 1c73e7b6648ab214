//! Braces, labels and lines of a body.

use super::super::ast::{Name, Operand, Source, Table};
use super::{R, function, instructions, kernel, module, operands, parsed};

#[test]
fn names_are_those_of_the_innermost_braces() {
    use Operand::Register;
    let module = parsed(&kernel(
        "{
.reg .b32 %r1, x<2>;
.shared .b32 tile;
mov.b32 %r1, x1;
mov.b32 %r2, tile;
{ .reg .b64 x1; mov.b64 x1, x0; }
}
{ .reg .b32 x0; mov.b32 %r1, x0; }
mov.b32 %r1, tile;",
    ));
    let kernel = function(&module, "kernel");
    let first = kernel.registers.len() as u32 - 5;
    let names: Vec<&str> = kernel.registers.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names[first as usize..], ["%r1", "x0", "x1", "x1", "x0"]);
    let found: Vec<_> = kernel.instructions.iter().map(|one| one.operands.clone()).collect();
    assert_eq!(
        found,
        [
            [Register(first), Register(first + 2)],
            [Register(R + 2), Operand::Variable(Name::Body(1), 0)],
            [Register(first + 3), Register(first + 1)],
            [Register(R + 1), Register(first + 4)],
            [Register(R + 1), Operand::Variable(Name::Body(0), 0)],
        ]
    );
    let bits: Vec<u32> = kernel.registers.iter().map(|(_, kind)| kind.bits).collect();
    assert_eq!(bits[first as usize..], [32, 32, 32, 64, 32]);
    assert_eq!(kernel.variables.iter().map(|one| one.size).collect::<Vec<_>>(), [64, 4]);
}

#[test]
fn a_declared_register_comes_before_a_special_one() {
    let declared = operands(".reg .b32 %laneid; mov.b32 %r1, %laneid;");
    assert!(matches!(declared[..], [Operand::Register(_), Operand::Register(_)]));
}

#[test]
fn labels_are_those_of_the_innermost_braces_around_the_branch() {
    let targets: Vec<_> = instructions(
        "again: first: ret;
{ bra again; again: ret; bra again; { bra.uni again; bra end; } }
{ again : bra again; }
bra again;
end:",
    )
    .into_iter()
    .flat_map(|instruction| instruction.operands)
    .collect();
    let expected = [2, 2, 2, 8, 6, 0].map(Operand::Label);
    assert_eq!(targets, expected);
}

#[test]
fn branch_targets_are_instructions() {
    let module = parsed(&kernel(
        "targets: .branchtargets one, two,
end;
@%p1 brx.idx %r1, targets;
one: ret;
{ targets: .branchtargets inside; inside: brx.idx.uni %r1, targets; }
two: ret;
end:",
    ));
    let kernel = function(&module, "kernel");
    assert_eq!(kernel.tables, [Table::Branches(vec![1, 3, 4]), Table::Branches(vec![2])]);
    let branch = |index: usize| kernel.instructions[index].operands[1].clone();
    assert_eq!((branch(0), branch(2)), (Operand::Table(0), Operand::Table(1)));
}

#[test]
fn lines_of_source_are_chained() {
    let module = parsed(&kernel(
        "ret;
.loc 1 10 3
ret;
.loc 2 20 5, function_name $L__info_string0, inlined_at 1 10 3
ret;
.loc 3 30 7, function_name $L__info_string1+4, inlined_at 2 20 5
ret;
.loc 1 10 4
ret;
.loc 3 0 7, function_name $L__info_string0, inlined_at 1 10 4
ret;
.loc 1 0 4
ret;",
    ));
    let kernel = function(&module, "kernel");
    let source = |file, line, inlined_at| Source { file, line, inlined_at };
    assert_eq!(
        kernel.sources,
        [source(1, 10, None), source(2, 20, Some(0)), source(3, 30, Some(1))]
    );
    let used: Vec<_> = kernel.instructions.iter().map(|one| one.source).collect();
    assert_eq!(used, [None, Some(0), Some(1), Some(2), Some(0), Some(0), None]);
}

#[test]
fn static_variables_of_a_body_are_of_the_module() {
    let module = module(
        ".global .b32 a;
.entry f() { .global .b32 a; { .const .b32 b[2] = {1, 2}; mov.b64 %rd, b; } mov.b64 %rd, a; }"
            .replace("f() {", "f() { .reg .b64 %rd;")
            .as_str(),
    );
    let names: Vec<&str> = module.variables.iter().map(|variable| &variable.name[..]).collect();
    assert_eq!(names, ["a", "f.a", "f.b"]);
    let used: Vec<_> =
        module.functions[0].instructions.iter().map(|one| &one.operands[1]).collect();
    let expected = [2, 1].map(|index| Operand::Variable(Name::Module(index), 0));
    assert_eq!(used, expected.iter().collect::<Vec<_>>());
}
