//! PTX ISA: section 5.4.

use super::super::ast::{Kind, Space, Type, Variable};
use super::{B32, module};

fn variable(declaration: &str) -> Variable {
    let mut variables = module(declaration).variables;
    assert_eq!(variables.len(), 1, "{declaration}");
    variables.remove(0)
}

#[test]
fn sizes_and_alignments() {
    for (declaration, size, align) in [
        (".global .b8 x;", 1, 1),
        (".global .f64 x;", 8, 8),
        (".visible .global .align 16 .u32 x[3];", 12, 16),
        (".weak .const .align 2 .s16 x[2][3][4];", 48, 2),
        (".common .global .v4 .f32 x;", 16, 16),
        (".global .align 4 .v2 .u16 x[3];", 12, 4),
        (".shared .b128 x[2];", 32, 16),
        (".extern .shared .align 1024 .b8 x[];", 0, 1024),
        (".extern .const .u32 x[][4];", 0, 4),
        (".global .attribute(.managed) .u32 x;", 4, 4),
        (".global .attribute(.unified(19, 95), .managed) .align 8 .u32 x;", 4, 8),
        (".global .b32 x[WARP_SZ * 2];", 256, 4),
        (".global .u32 x[][2] = {{1, 2}, {3, 4}, {5, 6}};", 24, 4),
    ] {
        let variable = variable(declaration);
        assert_eq!((variable.size, variable.align), (size, align), "{declaration}");
        assert_eq!(variable.external, declaration.starts_with(".extern"), "{declaration}");
    }
    let module = module(".const .align 8 .b32 a, b[2]; .shared .s64 c;");
    let found = module.variables.iter().map(|one| (&one.name[..], one.space, one.kind, one.size));
    let s64 = Type { kind: Kind::Signed, bits: 64 };
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            ("a", Space::Constant, B32, 4),
            ("b", Space::Constant, B32, 8),
            ("c", Space::Shared, s64, 8)
        ]
    );
}

#[test]
fn initial_bytes() {
    for (declaration, bytes) in [
        (".global .u32 x = 0x01020304;", &[4, 3, 2, 1][..]),
        (".global .s16 x = -2;", &[0xfe, 0xff]),
        (".global .u8 x = 300;", &[44]),
        (".global .u8 x[4] = {1, 2};", &[1, 2]),
        (".global .u8 x[4] = {};", &[]),
        (".global .u8 x[] = {72, 105, 0};", &[72, 105, 0]),
        (".global .u8 x[2][2] = {{1, 2}, {3, 2 + 2}};", &[1, 2, 3, 4]),
        (".global .v2 .u8 x[2] = {{1, 2}, {3, 4}};", &[1, 2, 3, 4]),
        (".const .f32 x[2] = {1.5, 0f3F800000};", &[0, 0, 0xc0, 0x3f, 0, 0, 0x80, 0x3f]),
        (".const .f32 x = 0dC000000000000000;", &[0, 0, 0, 0xc0]),
        (".const .f64 x = -2.0;", &[0, 0, 0, 0, 0, 0, 0, 0xc0]),
        (".const .b64 x = 0d3FF0000000000000;", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]),
        (".const .b32 x = 0f3F800000;", &[0, 0, 0x80, 0x3f]),
    ] {
        let variable = variable(declaration);
        assert_eq!(variable.initial, bytes, "{declaration}");
        assert!(variable.pointers.is_empty(), "{declaration}");
    }
}

#[test]
fn initial_addresses() {
    let module = module(
        ".global .u32 a;
.func f;
.global .u64 x[6] = {a, 7, a + 4, generic(a), generic(a) + -8, f};
.global .u64 itself = itself;",
    );
    let pointer = |at, name: &str, offset, generic| (at, name.to_owned(), offset, generic);
    assert_eq!(
        module.variables[1].pointers,
        [
            pointer(0, "a", 0, false),
            pointer(16, "a", 4, false),
            pointer(24, "a", 0, true),
            pointer(32, "a", -8, true),
            pointer(40, "f", 0, false),
        ]
    );
    let mut bytes = [0; 48];
    bytes[8] = 7;
    assert_eq!(module.variables[1].initial, bytes);
    assert_eq!(module.variables[2].pointers, [pointer(0, "itself", 0, false)]);
}

#[test]
fn a_definition_takes_the_place_of_a_declaration() {
    let defined = variable(".extern .global .u32 x[]; .visible .global .u32 x[2] = {1, 2};");
    assert_eq!((defined.external, defined.size, defined.initial.len()), (false, 8, 8));
    let defined = variable(".visible .global .u32 x = 1; .extern .global .u32 x;");
    assert_eq!((defined.external, defined.initial.len()), (false, 4));
}
